//! What a workspace holds besides files: its secrets and its environment, in memory only.

use crate::artifact::SecretSource;
use crate::model::id::{SecretName, VariableName};
use crate::secret::SecretValue;
use crate::secret::encoding::Extent;
use crate::secret::find::Finder;
use crate::vfs::control::ControlSource;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

/// Most secrets, and most variables, of one workspace. Chosen, not measured: far above any use seen.
pub const ENTRIES_MAX: usize = 1024;

/// Values that a workspace had and has no more, for as long as it exists: a run may have read them and write them still.
/// Of more than these the oldest is not looked for any longer.
const FORMER_MAX: usize = 256;

/// Longest value of a variable, in bytes: the kernel's bound for one string of an environment (execve(2), MAX_ARG_STRLEN).
pub const VARIABLE_VALUE_BYTES_MAX: usize = 128 * 1024;

/// A secret and whether its value is masked.
#[derive(Debug, Clone)]
pub struct Secret {
    pub value: SecretValue,
    pub sensitive: bool,
}

/// Secrets and environment. The lock is never held across I/O.
#[derive(Debug, Default)]
pub struct Contents {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    secrets: BTreeMap<SecretName, Secret>,
    env: BTreeMap<VariableName, String>,
    manifest: Vec<u8>,
    /// Sensitive values that were replaced or removed, the latest last.
    former: VecDeque<(SecretName, SecretValue)>,
    /// Made when they are asked for, and again after a change.
    finder: Option<Arc<Finder>>,
    masker: Option<Arc<Finder>>,
}

impl State {
    fn retire(&mut self, name: &SecretName, secret: Option<Secret>) {
        (self.finder, self.masker) = (None, None);
        if let Some(secret) = secret.filter(|secret| secret.sensitive) {
            self.former.push_back((name.clone(), secret.value));
            if self.former.len() > FORMER_MAX {
                self.former.pop_front();
            }
        }
    }

    fn compile(&self, extent: Extent) -> Arc<Finder> {
        let sensitive = self.secrets.iter().filter(|(_, secret)| secret.sensitive);
        let present = sensitive.map(|(name, secret)| (name.clone(), &secret.value));
        let former = self.former.iter().map(|(name, value)| (name.clone(), value));
        Arc::new(Finder::new(present.chain(former), extent))
    }
}

impl SecretSource for Contents {
    fn finder(&self) -> Arc<Finder> {
        let mut state = self.state();
        let finder = state.finder.take().unwrap_or_else(|| state.compile(Extent::Piece));
        Arc::clone(state.finder.insert(finder))
    }

    fn masker(&self) -> Arc<Finder> {
        let mut state = self.state();
        let masker = state.masker.take().unwrap_or_else(|| state.compile(Extent::Whole));
        Arc::clone(state.masker.insert(masker))
    }
}

impl Contents {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under this lock")
    }

    /// False when there is no room for another.
    #[must_use]
    pub fn set_secret(&self, name: SecretName, secret: Secret) -> bool {
        let mut state = self.state();
        if state.secrets.len() >= ENTRIES_MAX && !state.secrets.contains_key(&name) {
            return false;
        }
        let former = state.secrets.insert(name.clone(), secret);
        state.retire(&name, former);
        true
    }

    /// False when there was none of that name.
    #[must_use]
    pub fn remove_secret(&self, name: &SecretName) -> bool {
        let mut state = self.state();
        let removed = state.secrets.remove(name);
        let known = removed.is_some();
        state.retire(name, removed);
        known
    }

    pub fn secret_entry(&self, name: &SecretName) -> Option<Secret> {
        self.state().secrets.get(name).cloned()
    }

    /// Names, whether sensitive, and sizes in bytes.
    pub fn secrets(&self) -> Vec<(SecretName, bool, usize)> {
        let state = self.state();
        let each = state.secrets.iter();
        each.map(|(name, secret)| (name.clone(), secret.sensitive, secret.value.len())).collect()
    }

    /// False when there is no room for another.
    #[must_use]
    pub fn set_env(&self, name: VariableName, value: String) -> bool {
        let mut state = self.state();
        if state.env.len() >= ENTRIES_MAX && !state.env.contains_key(&name) {
            return false;
        }
        state.env.insert(name, value);
        true
    }

    /// False when there was none of that name.
    #[must_use]
    pub fn remove_env(&self, name: &VariableName) -> bool {
        self.state().env.remove(name).is_some()
    }

    pub fn env(&self) -> BTreeMap<VariableName, String> {
        self.state().env.clone()
    }

    /// Replaces the fixed part of `workspace.json`.
    pub fn set_manifest(&self, manifest: Vec<u8>) {
        self.state().manifest = manifest;
    }
}

impl ControlSource for Contents {
    fn environment(&self) -> Vec<u8> {
        let mut lines = Vec::new();
        for (name, value) in &self.state().env {
            lines.extend_from_slice(name.as_str().as_bytes());
            lines.push(b'=');
            lines.extend_from_slice(value.as_bytes());
            lines.push(b'\n');
        }
        lines
    }

    fn manifest(&self) -> Vec<u8> {
        let state = self.state();
        let mut object: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&state.manifest).unwrap_or_default();
        let secrets = state.secrets.keys().map(|name| name.as_str().into()).collect();
        object.insert("secrets".to_owned(), serde_json::Value::Array(secrets));
        let env = state.env.keys().map(|name| name.as_str().into()).collect();
        object.insert("env".to_owned(), serde_json::Value::Array(env));
        let mut text = serde_json::to_vec_pretty(&object).unwrap_or_default();
        text.push(b'\n');
        text
    }

    fn secret_names(&self) -> Vec<SecretName> {
        self.state().secrets.keys().cloned().collect()
    }

    fn secret(&self, name: &SecretName) -> Option<SecretValue> {
        self.state().secrets.get(name).map(|secret| secret.value.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_and_was_a_secret_is_looked_for_and_what_need_not_be_hidden_is_not() {
        let contents = Contents::default();
        let set = |name: &str, value: &str, sensitive| {
            let value = SecretValue::new(value.as_bytes().to_vec()).expect("small");
            assert!(contents.set_secret(name.parse().expect("legal"), Secret { value, sensitive }));
        };
        let found = |text: &str| {
            let finder = contents.finder();
            let mut scan = finder.scan();
            scan.update(text.as_bytes());
            scan.finish().into_iter().map(|found| found.secret.to_string()).collect::<Vec<_>>()
        };
        set("A", "first-value-1", true);
        assert_eq!(found("first-value-1"), ["A"]);
        set("A", "other-value-2", true);
        set("B", "public-value-3", false);
        assert_eq!(found("first-value-1 public-value-3"), ["A"]);
        assert!(contents.remove_secret(&"A".parse().expect("legal")));
        assert_eq!(found("other-value-2"), ["A"]);
        let masked = crate::secret::mask::mask_text(&contents.masker(), "x other-value-2 y");
        assert_eq!(masked, "x *** y");
    }

    #[test]
    fn the_manifest_names_secrets_and_variables_and_shows_no_value() {
        let contents = Contents::default();
        contents.set_manifest(br#"{"id":"w"}"#.to_vec());
        let value = SecretValue::new(b"hunter2".to_vec()).expect("small");
        let secret = Secret { value, sensitive: true };
        assert!(contents.set_secret("KEY".parse().expect("legal"), secret));
        assert!(contents.set_env("MODE".parse().expect("legal"), "production".to_owned()));
        let text = String::from_utf8(contents.manifest()).expect("JSON is UTF-8");
        assert!(text.contains("KEY") && text.contains("MODE") && text.contains("\"id\""), "{text}");
        assert!(!text.contains("hunter2") && !text.contains("production"), "{text}");
        assert_eq!(contents.environment(), b"MODE=production\n");
    }
}
