//! What an S3 store is told: the configuration first, the daemon's environment where that says nothing.

use super::credentials::{Credentials, CredentialsSource};
use crate::config::bucket::{Bucket, Endpoint, check_scheme};
use crate::config::paths::Surroundings;
use crate::secret::SecretValue;
use std::time::Duration;

/// Where a cloud's machine tells of itself, unless AWS_EC2_METADATA_SERVICE_ENDPOINT says otherwise.
const METADATA: &str = "http://169.254.169.254";

/// One bucket, how it is reached, and how long it is waited for.
#[derive(Debug, Clone)]
pub struct S3Settings {
    pub bucket: String,
    /// Empty, or with a slash at its end.
    pub prefix: String,
    pub region: String,
    /// Without a slash at its end, without the bucket.
    pub endpoint: String,
    pub path_style: bool,
    pub credentials: CredentialsSource,
    pub patience: Patience,
}

/// How long a server is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Until there is a connection.
    pub connect: Duration,
    /// While no byte goes in either direction.
    pub stall: Duration,
    /// From the first failure of a request to its last repetition.
    pub retry: Duration,
    /// The same for a look at whether the store is there, for which somebody waits.
    pub probe: Duration,
}

impl Default for Patience {
    /// Chosen, not measured: a server that starts again is there within a minute, and who asks for the state of a store waits
    /// some seconds.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            stall: Duration::from_secs(30),
            retry: Duration::from_secs(60),
            probe: Duration::from_secs(5),
        }
    }
}

/// A variable of the environment that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable} {reason}")]
pub struct S3SettingsError {
    variable: &'static str,
    reason: String,
}

impl S3Settings {
    /// Completes a checked configuration by what the environment says.
    pub fn resolve(remote: &Bucket, around: &Surroundings) -> Result<S3Settings, S3SettingsError> {
        let region = remote
            .region
            .clone()
            .or_else(|| around.text("AWS_REGION"))
            .or_else(|| around.text("AWS_DEFAULT_REGION"))
            .unwrap_or_else(|| "us-east-1".to_owned());
        let endpoint = match &remote.endpoint {
            Some(endpoint) => Some(endpoint.clone()),
            None => endpoint_of(around, remote.allow_http)?,
        };
        let path_style = remote.path_style.unwrap_or(endpoint.is_some());
        let endpoint = match endpoint {
            Some(endpoint) => endpoint.trim_end_matches('/').to_owned(),
            None => format!("https://s3.{region}.amazonaws.com"),
        };
        let prefix = match remote.prefix.trim_end_matches('/') {
            "" => String::new(),
            prefix => format!("{prefix}/"),
        };
        Ok(S3Settings {
            bucket: remote.bucket.clone(),
            prefix,
            region,
            endpoint,
            path_style,
            credentials: credentials_of(remote, around)?,
            patience: Patience::default(),
        })
    }

    /// The address of the bucket, as the library wants it.
    pub(super) fn bucket_url(&self) -> String {
        let (scheme, host) = self.endpoint.split_once("://").unwrap_or(("https", &self.endpoint));
        match self.path_style {
            true => self.endpoint.clone(),
            false => format!("{scheme}://{}.{host}", self.bucket),
        }
    }
}

fn endpoint_of(around: &Surroundings, allow_http: bool) -> Result<Option<String>, S3SettingsError> {
    for variable in ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"] {
        if let Some(text) = around.text(variable) {
            let fail = |reason| S3SettingsError { variable, reason };
            let endpoint = Endpoint::parse(&text).map_err(fail)?;
            check_scheme(&endpoint, allow_http).map_err(fail)?;
            return Ok(Some(text));
        }
    }
    Ok(None)
}

/// The configuration's source, else keys in the environment, else the file of Amazon's tools.
fn credentials_of(
    remote: &Bucket,
    around: &Surroundings,
) -> Result<CredentialsSource, S3SettingsError> {
    if remote.instance_metadata {
        let endpoint =
            around.text("AWS_EC2_METADATA_SERVICE_ENDPOINT").unwrap_or_else(|| METADATA.to_owned());
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        return Ok(CredentialsSource::InstanceMetadata { endpoint });
    }
    let usual = || {
        around
            .path("AWS_SHARED_CREDENTIALS_FILE")
            .or_else(|| Some(around.path("HOME")?.join(".aws/credentials")))
    };
    let chosen = remote.profile.clone();
    let profile = || {
        chosen
            .clone()
            .or_else(|| around.text("AWS_PROFILE"))
            .unwrap_or_else(|| "default".to_owned())
    };
    if let Some(path) = &remote.credentials_file {
        return Ok(CredentialsSource::File { path: path.clone(), profile: profile() });
    }
    if remote.profile.is_none()
        && let Some(credentials) = keys_of(around)?
    {
        return Ok(CredentialsSource::Environment(credentials));
    }
    match usual() {
        // A profile that was asked for is missed loudly; the usual file may not be there.
        Some(path)
            if remote.profile.is_some()
                || around.text("AWS_PROFILE").is_some()
                || path.exists() =>
        {
            Ok(CredentialsSource::File { path, profile: profile() })
        }
        Some(_) | None => Ok(CredentialsSource::Nowhere),
    }
}

fn keys_of(around: &Surroundings) -> Result<Option<Credentials>, S3SettingsError> {
    let value = |variable| match around.text(variable) {
        Some(text) => SecretValue::new(text.into_bytes()).map(Some).map_err(|error| {
            S3SettingsError { variable, reason: format!("cannot be used: {error}") }
        }),
        None => Ok(None),
    };
    let keys = (value("AWS_ACCESS_KEY_ID")?, value("AWS_SECRET_ACCESS_KEY")?);
    let session_token = value("AWS_SESSION_TOKEN")?;
    let half = |variable, other: &str| {
        let reason = format!("is set and {other} is not: set both, or neither");
        Err(S3SettingsError { variable, reason })
    };
    match keys {
        (Some(access_key), Some(secret_key)) => {
            Ok(Some(Credentials { access_key, secret_key, session_token }))
        }
        (Some(_), None) => half("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
        (None, Some(_)) => half("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"),
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    const KEYS: [(&str, &str); 2] =
        [("AWS_ACCESS_KEY_ID", "AKENV"), ("AWS_SECRET_ACCESS_KEY", "secretsecret")];

    fn remote() -> Bucket {
        Bucket {
            bucket: "artifacts".to_owned(),
            prefix: String::new(),
            region: None,
            endpoint: None,
            path_style: None,
            allow_http: false,
            credentials_file: None,
            profile: None,
            instance_metadata: false,
        }
    }

    fn resolve(remote: &Bucket, variables: &[(&str, &str)]) -> S3Settings {
        S3Settings::resolve(remote, &Surroundings::fake(0, variables)).expect("resolves")
    }

    #[test]
    fn what_is_configured_outranks_the_environment() {
        let variables = [
            ("AWS_REGION", "eu-west-1"),
            ("AWS_DEFAULT_REGION", "eu-west-2"),
            ("AWS_ENDPOINT_URL", "https://one.example.org"),
            ("AWS_ENDPOINT_URL_S3", "https://two.example.org/"),
        ];
        let found = resolve(&remote(), &variables);
        assert_eq!(
            (found.region.as_str(), found.endpoint.as_str()),
            ("eu-west-1", "https://two.example.org")
        );
        assert!(found.path_style, "a server of one's own seldom has a name for each bucket");
        let configured = Bucket {
            region: Some("eu-central-1".to_owned()),
            endpoint: Some("https://three.example.org".to_owned()),
            path_style: Some(false),
            prefix: "team/a".to_owned(),
            ..remote()
        };
        let found = resolve(&configured, &variables);
        assert_eq!(found.region, "eu-central-1");
        assert_eq!(found.bucket_url(), "https://artifacts.three.example.org");
        assert_eq!(found.prefix, "team/a/");
    }

    #[test]
    fn without_an_endpoint_it_is_amazons_for_the_region() {
        let found = resolve(&remote(), &[]);
        assert_eq!(found.bucket_url(), "https://artifacts.s3.us-east-1.amazonaws.com");
        assert!(!found.path_style);
    }

    #[test]
    fn an_endpoint_without_encryption_needs_permission_wherever_it_is_from() {
        let around = Surroundings::fake(0, &[("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")]);
        let error = S3Settings::resolve(&remote(), &around).expect_err("refused").to_string();
        assert!(error.starts_with("AWS_ENDPOINT_URL ") && error.contains("allow_http"), "{error}");
        let allowed = Bucket { allow_http: true, ..remote() };
        assert!(S3Settings::resolve(&allowed, &around).is_ok());
    }

    #[test]
    fn credentials_are_looked_for_in_order() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let home = directory.path().to_str().expect("text");
        let file = |found: S3Settings| match found.credentials {
            CredentialsSource::File { path, profile } => (path, profile),
            other => panic!("{other:?}"),
        };
        let nowhere = resolve(&remote(), &[("HOME", home)]).credentials;
        assert!(matches!(nowhere, CredentialsSource::Nowhere), "{nowhere:?}");
        let keys = resolve(&remote(), &KEYS).credentials;
        assert!(matches!(keys, CredentialsSource::Environment(_)), "{keys:?}");
        assert!(!format!("{keys:?}").contains("secretsecret"));
        let configured = Bucket { credentials_file: Some("/etc/s3".into()), ..remote() };
        let both = [KEYS[0], KEYS[1], ("AWS_PROFILE", "p")];
        assert_eq!(file(resolve(&configured, &both)), (PathBuf::from("/etc/s3"), "p".to_owned()));
        let profile = Bucket { profile: Some("backup".to_owned()), ..remote() };
        let usual = directory.path().join(".aws/credentials");
        let variables = [KEYS[0], KEYS[1], ("HOME", home)];
        assert_eq!(file(resolve(&profile, &variables)), (usual.clone(), "backup".to_owned()));
        std::fs::create_dir(directory.path().join(".aws")).expect("directory");
        std::fs::write(&usual, "[default]\n").expect("write");
        assert_eq!(file(resolve(&remote(), &[("HOME", home)])), (usual, "default".to_owned()));
        let machine = Bucket { instance_metadata: true, ..remote() };
        let found = resolve(&machine, &KEYS).credentials;
        assert!(matches!(found, CredentialsSource::InstanceMetadata { .. }), "{found:?}");
    }

    #[test]
    fn half_a_pair_of_keys_is_refused() {
        let around = Surroundings::fake(0, &KEYS[..1]);
        let error = S3Settings::resolve(&remote(), &around).expect_err("refused").to_string();
        assert!(error.contains("AWS_SECRET_ACCESS_KEY is not"), "{error}");
    }
}
