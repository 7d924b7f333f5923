//! Settings: YAML text to a checked [`Config`]; every default and every bound is here.
//!
//! File < environment < flag. `config/belljard.yaml` documents each key; a test holds it to the defaults below.

pub mod bucket;
pub mod catalog;
pub mod cleanup;
pub mod paths;
pub mod rules;
pub mod storage;
pub mod units;
pub mod yaml;

use crate::model::artifact::ScanPolicy;
use crate::telemetry::{LogFormat, check_filter};
use paths::Surroundings;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Everything that can be set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `None`: by user, see [`paths`].
    pub state_dir: Option<PathBuf>,
    pub runtime_dir: Option<PathBuf>,
    pub socket: Option<PathBuf>,
    pub log: Log,
    pub api: Api,
    pub workspaces: Workspaces,
    pub runs: Runs,
    pub artifacts: Artifacts,
    pub storage: storage::Storage,
    pub catalog: catalog::Catalog,
    /// From SIGTERM to the moment at which what is not finished is left to the next start.
    #[serde(with = "units::duration")]
    pub shutdown_timeout: Duration,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    pub format: LogFormat,
    pub filter: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Api {
    #[serde(with = "units::size")]
    pub body_size_max: u64,
    pub connections_per_user_max: usize,
    /// Descriptor sets sent and not yet named by a request.
    pub waiting_tokens_per_user_max: usize,
    #[serde(with = "units::duration")]
    pub token_lifetime: Duration,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Workspaces {
    pub per_user_max: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Runs {
    pub per_user_max: usize,
    #[serde(with = "units::duration")]
    pub drain_timeout: Duration,
    #[serde(with = "units::size")]
    pub tmp_size: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Artifacts {
    #[serde(with = "units::duration")]
    pub debounce: Duration,
    #[serde(with = "units::duration")]
    pub debounce_max: Duration,
    #[serde(with = "units::size")]
    pub content_size_max: u64,
    #[serde(with = "units::duration")]
    pub undo_window: Duration,
    /// Clean-up policies for every user by themselves.
    pub cleanup: Vec<cleanup::CleanupPolicy>,
    pub scan: ScanPolicy,
    /// The first that matches a file decides.
    pub rules: Vec<rules::Rule>,
    pub secrets: SecretPolicy,
    #[serde(with = "units::size")]
    pub input_size_max: u64,
    pub inputs_max: u64,
}

/// What happens to a content in which a secret of its workspace stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SecretPolicy {
    /// The row says so.
    #[default]
    Warn,
    /// Its owner alone may read it, and it goes to no other store.
    Quarantine,
    /// It is not kept; its digest is.
    Block,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state_dir: None,
            runtime_dir: None,
            socket: None,
            log: Log::default(),
            api: Api::default(),
            workspaces: Workspaces::default(),
            runs: Runs::default(),
            artifacts: Artifacts::default(),
            storage: storage::Storage::default(),
            catalog: catalog::Catalog::default(),
            shutdown_timeout: Duration::from_secs(30),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info".to_owned() }
    }
}

impl Default for Api {
    fn default() -> Self {
        Self {
            body_size_max: 8 << 20,
            connections_per_user_max: 256,
            waiting_tokens_per_user_max: 128,
            token_lifetime: Duration::from_secs(60),
        }
    }
}

impl Default for Workspaces {
    fn default() -> Self {
        Self { per_user_max: 1_024 }
    }
}

impl Default for Runs {
    fn default() -> Self {
        Self { per_user_max: 128, drain_timeout: Duration::from_secs(60), tmp_size: 1 << 30 }
    }
}

impl Default for Artifacts {
    fn default() -> Self {
        Self {
            debounce: Duration::from_millis(150),
            debounce_max: Duration::from_secs(5),
            content_size_max: 1 << 30,
            undo_window: Duration::from_secs(7 * 24 * 3_600),
            cleanup: Vec::new(),
            scan: ScanPolicy::OnUnclean,
            rules: Vec::new(),
            secrets: SecretPolicy::Warn,
            input_size_max: 256 << 20,
            inputs_max: 10_000,
        }
    }
}

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(transparent)]
    Yaml(#[from] yaml::YamlError),
    #[error("{origin}: `{key}` is {given}, which is out of bounds: use {least} to {most}")]
    OutOfBounds { origin: String, key: &'static str, given: String, least: String, most: String },
    #[error("{origin}: `{key}` is {}, which is a relative path: write it from the root, starting with /", path.display())]
    RelativePath { origin: String, key: &'static str, path: PathBuf },
    #[error("{origin}: `log.filter`: {source}")]
    Filter {
        origin: String,
        #[source]
        source: crate::telemetry::LogError,
    },
    #[error("{origin}: {message}")]
    Inconsistent { origin: String, message: String },
    #[error("configuration file {} does not exist: create it, or leave out {named_by}", path.display())]
    Missing { path: PathBuf, named_by: &'static str },
}

/// What a command line says about settings; it outranks file and environment.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    pub config: Option<PathBuf>,
    pub state_dir: Option<PathBuf>,
    pub runtime_dir: Option<PathBuf>,
    pub socket: Option<PathBuf>,
    pub log_filter: Option<String>,
    pub log_format: Option<LogFormat>,
}

impl Config {
    /// Reads the file, then lets the environment and the command line have their say.
    ///
    /// A file that was named must exist; the usual one may be missing.
    pub fn load(flags: &Overrides, around: &Surroundings) -> Result<Config, ConfigError> {
        let (path, named_by) = match (&flags.config, around.path("BELLJAR_CONFIG")) {
            (Some(path), _) => (path.clone(), Some("--config")),
            (None, Some(path)) => (path, Some("BELLJAR_CONFIG")),
            (None, None) => (paths::usual_config_file(around), None),
        };
        let mut config = match (path.try_exists(), named_by) {
            (Ok(false), None) => Config::default(),
            (Ok(false), Some(named_by)) => return Err(ConfigError::Missing { path, named_by }),
            (Ok(true) | Err(_), _) => Config::read(&path)?,
        };
        let choose = |flag: &Option<PathBuf>, variable: &str, file: Option<PathBuf>| {
            flag.clone().or_else(|| around.path(variable)).or(file)
        };
        config.state_dir = choose(&flags.state_dir, "BELLJAR_STATE_DIR", config.state_dir);
        config.runtime_dir = choose(&flags.runtime_dir, "BELLJAR_RUNTIME_DIR", config.runtime_dir);
        config.socket = choose(&flags.socket, "BELLJAR_SOCKET", config.socket);
        if let Some(filter) = flags.log_filter.clone().or_else(|| around.text("BELLJAR_LOG")) {
            config.log.filter = filter;
        }
        if let Some(format) = flags.log_format {
            config.log.format = format;
        }
        config.check("flags and environment")?;
        Ok(config)
    }

    /// Reads and checks one file alone.
    pub fn read(path: &Path) -> Result<Config, ConfigError> {
        let config: Config = yaml::read(path)?;
        config.check(&path.display().to_string())?;
        Ok(config)
    }

    fn check(&self, origin: &str) -> Result<(), ConfigError> {
        let remote_path = self.storage.remote.as_ref().and_then(|remote| match remote {
            storage::Remote::Directory { path } => Some(path.clone()),
            storage::Remote::S3(_) => None,
        });
        let paths = [
            ("state_dir", &self.state_dir),
            ("runtime_dir", &self.runtime_dir),
            ("socket", &self.socket),
            ("storage.remote.path", &remote_path),
        ];
        for (key, path) in paths {
            if let Some(path) = path.as_ref().filter(|path| !path.is_absolute()) {
                let (origin, path) = (origin.to_owned(), path.clone());
                return Err(ConfigError::RelativePath { origin, key, path });
            }
        }
        check_filter(&self.log.filter)
            .map_err(|source| ConfigError::Filter { origin: origin.to_owned(), source })?;
        let within = |key, given: u128, least: u128, most: u128, show: fn(u128) -> String| {
            if (least..=most).contains(&given) {
                return Ok(());
            }
            let origin = origin.to_owned();
            let (given, least, most) = (show(given), show(least), show(most));
            Err(ConfigError::OutOfBounds { origin, key, given, least, most })
        };
        let number: fn(u128) -> String = |n| n.to_string();
        let size: fn(u128) -> String = |n| units::format_size(u64::try_from(n).unwrap_or(u64::MAX));
        let time: fn(u128) -> String =
            |n| units::format_duration(Duration::from_millis(u64::try_from(n).unwrap_or(u64::MAX)));
        const MIB: u128 = 1 << 20;
        const MINUTE: u128 = 60_000;
        let api = &self.api;
        within("api.body_size_max", api.body_size_max.into(), 64 << 10, 256 * MIB, size)?;
        let connections = api.connections_per_user_max as u128;
        within("api.connections_per_user_max", connections, 4, 4_096, number)?;
        let tokens = api.waiting_tokens_per_user_max as u128;
        within("api.waiting_tokens_per_user_max", tokens, 1, 1_024, number)?;
        within("api.token_lifetime", api.token_lifetime.as_millis(), 1_000, 10 * MINUTE, time)?;
        let workspaces = self.workspaces.per_user_max as u128;
        within("workspaces.per_user_max", workspaces, 1, 65_536, number)?;
        within("runs.per_user_max", self.runs.per_user_max as u128, 1, 1_024, number)?;
        let drain = self.runs.drain_timeout.as_millis();
        within("runs.drain_timeout", drain, 0, 24 * 60 * MINUTE, time)?;
        within("runs.tmp_size", self.runs.tmp_size.into(), MIB, 1 << 40, size)?;
        let artifacts = &self.artifacts;
        within("artifacts.debounce", artifacts.debounce.as_millis(), 0, MINUTE, time)?;
        within("artifacts.debounce_max", artifacts.debounce_max.as_millis(), 0, 10 * MINUTE, time)?;
        let content = artifacts.content_size_max.into();
        within("artifacts.content_size_max", content, 0, 1 << 50, size)?;
        let undo = artifacts.undo_window.as_millis();
        within("artifacts.undo_window", undo, 0, 3_660 * 24 * 60 * MINUTE, time)?;
        let policies = artifacts.cleanup.len() as u128;
        within("artifacts.cleanup", policies, 0, cleanup::POLICIES_MAX as u128, number)?;
        if let Some(name) = cleanup::repeated(&artifacts.cleanup) {
            let message = format!("`artifacts.cleanup` has two policies called {name}");
            return Err(ConfigError::Inconsistent { origin: origin.to_owned(), message });
        }
        let rules = artifacts.rules.len() as u128;
        within("artifacts.rules", rules, 0, rules::RULES_MAX as u128, number)?;
        let input = artifacts.input_size_max.into();
        within("artifacts.input_size_max", input, 0, 1 << 50, size)?;
        within("artifacts.inputs_max", artifacts.inputs_max.into(), 0, 1_000_000, number)?;
        if let Some(Err(message)) = self.storage.remote.as_ref().map(storage::Remote::check) {
            return Err(ConfigError::Inconsistent { origin: origin.to_owned(), message });
        }
        if let storage::KeepLocal::For(kept) = self.storage.keep_local {
            if self.storage.remote.is_none() {
                let message = "`storage.keep_local` is a time, and there is no `storage.remote` that would keep what goes: name one, or use `all`";
                let (origin, message) = (origin.to_owned(), message.to_owned());
                return Err(ConfigError::Inconsistent { origin, message });
            }
            let most = 3_660 * 24 * 60 * MINUTE;
            within("storage.keep_local", kept.as_millis(), 0, most, time)?;
        }
        within("catalog.pool_size", self.catalog.pool_size as u128, 2, 256, number)?;
        let patience = self.catalog.connect_timeout.as_millis();
        within("catalog.connect_timeout", patience, 100, 10 * MINUTE, time)?;
        if let Err(message) = self.catalog.check() {
            return Err(ConfigError::Inconsistent { origin: origin.to_owned(), message });
        }
        within("shutdown_timeout", self.shutdown_timeout.as_millis(), 1_000, 60 * MINUTE, time)?;
        if artifacts.debounce > artifacts.debounce_max {
            let message =
                "`artifacts.debounce` is longer than `artifacts.debounce_max`: make it shorter";
            return Err(ConfigError::Inconsistent {
                origin: origin.to_owned(),
                message: message.to_owned(),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn documented() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("config/belljard.yaml")
    }

    #[test]
    fn the_documented_file_names_every_key_with_its_default() {
        assert_eq!(Config::read(&documented()).expect("legal"), Config::default());
        let text = std::fs::read_to_string(documented()).expect("readable");
        let written: serde_yaml::Value = serde_yaml::from_str(&text).expect("YAML");
        let all = serde_yaml::to_value(Config::default()).expect("serialises");
        assert_same_keys("", &written, &all);
    }

    fn assert_same_keys(at: &str, written: &serde_yaml::Value, all: &serde_yaml::Value) {
        let (Some(written), Some(all)) = (written.as_mapping(), all.as_mapping()) else { return };
        for (key, value) in all {
            let name = key.as_str().expect("keys are text");
            let found = written.get(key).unwrap_or_else(|| panic!("{at}{name} is not documented"));
            assert_same_keys(&format!("{at}{name}."), found, value);
        }
    }

    fn refusal(text: &str) -> String {
        let config = yaml::parse::<Config>(Path::new("b.yaml"), text);
        match config {
            Ok(config) => config.check("b.yaml").expect_err("must be refused").to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_value_out_of_bounds_is_named_with_its_bounds() {
        let error = refusal("artifacts: { debounce: 2h, debounce_max: 2h }");
        assert_eq!(
            error,
            "b.yaml: `artifacts.debounce` is 2h, which is out of bounds: use 0s to 1m"
        );
        assert!(refusal("api: { body_size_max: 1 }").contains("64KiB to 256MiB"));
        assert!(refusal("artifacts: { debounce: 10s }").contains("debounce_max"));
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_named_with_its_line() {
        let error = refusal("artifacts:\n  debounce: soon\n");
        assert!(
            error.contains("b.yaml:2:") && error.contains("\"soon\" is not a duration"),
            "{error}"
        );
        assert!(refusal("log: { filter: 'a=b=c' }").contains("log.filter"));
        assert!(refusal("state_dir: var/lib").contains("relative path"));
        let error = refusal("storage: { remote: { kind: directory, path: mnt } }");
        assert!(error.contains("storage.remote.path") && error.contains("relative"), "{error}");
        let error = refusal("storage: { keep_local: 30d }");
        assert!(error.contains("no `storage.remote`"), "{error}");
        let error = refusal("storage: { keep_local: some }");
        assert!(error.contains("or `all`"), "{error}");
        assert!(refusal("storage: { remote: { kind: tape } }").contains("directory"));
    }

    #[test]
    fn file_yields_to_environment_and_environment_to_flag() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let file = directory.path().join("c.yaml");
        std::fs::write(&file, "state_dir: /file\nruntime_dir: /file\nsocket: /file\n")
            .expect("write");
        let around = Surroundings::fake(
            1000,
            &[("BELLJAR_STATE_DIR", "/environment"), ("BELLJAR_RUNTIME_DIR", "/environment")],
        );
        let flags = Overrides {
            config: Some(file),
            state_dir: Some("/flag".into()),
            ..Overrides::default()
        };
        let config = Config::load(&flags, &around).expect("legal");
        assert_eq!(config.state_dir, Some("/flag".into()));
        assert_eq!(config.runtime_dir, Some("/environment".into()));
        assert_eq!(config.socket, Some("/file".into()));
    }

    #[test]
    fn a_named_file_that_is_missing_is_an_error_and_the_usual_one_is_not() {
        let around = Surroundings::fake(1000, &[("HOME", "/nonexistent")]);
        assert!(Config::load(&Overrides::default(), &around).is_ok());
        let flags =
            Overrides { config: Some("/nonexistent/x.yaml".into()), ..Overrides::default() };
        let error = Config::load(&flags, &around).expect_err("missing").to_string();
        assert!(error.contains("/nonexistent/x.yaml") && error.contains("--config"), "{error}");
    }
}
