//! The secrets of a file's workspace: what finding them means for a version, and keeping them out of its row.

use crate::config::SecretPolicy;
use crate::model::artifact::SecretScan;
use crate::secret::find::{Finder, Found};
use crate::secret::mask::mask_bytes;
use crate::storage::{SecretFinding, SecretSearch};
use std::sync::Arc;

/// Gives the secrets of a workspace as they are at this moment. The workspace implements it; it may be asked after the
/// workspace has gone, until its last file is registered.
pub trait SecretSource: Send + Sync {
    /// What is looked for in contents.
    fn finder(&self) -> Arc<Finder>;

    /// What is masked in texts: the same values, whole.
    fn masker(&self) -> Arc<Finder>;
}

/// What the search came to. No finder: the secrets are not known.
pub(super) fn search(
    finder: Option<&Finder>,
    found: Vec<Found>,
    policy: SecretPolicy,
) -> SecretSearch {
    let outcome = match finder {
        None => SecretScan::Unavailable,
        Some(finder) if finder.is_empty() => SecretScan::NothingToFind,
        Some(_) => SecretScan::Done,
    };
    let quarantined = !found.is_empty()
        && match policy {
            SecretPolicy::Warn => false,
            // Of the same bytes a content may be kept from before the secret was known; it is closed.
            SecretPolicy::Quarantine | SecretPolicy::Block => true,
        };
    let finding = |Found { secret, encoding, position }| SecretFinding {
        secret,
        encoding: encoding.as_str().to_owned(),
        position,
    };
    SecretSearch { outcome, found: found.into_iter().map(finding).collect(), quarantined }
}

/// A command line may hold a secret: it is noted and shown masked.
pub(super) fn mask_command(masker: &Finder, command: Option<Vec<u8>>) -> Option<Vec<u8>> {
    command.map(|command| mask_bytes(masker, &command))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::SecretValue;
    use crate::secret::encoding::Extent;

    #[test]
    fn a_command_line_is_stored_without_secrets() {
        let value = SecretValue::new(b"hunter22".to_vec()).expect("small");
        let masker = Finder::new([("KEY".parse().expect("legal"), &value)], Extent::Whole);
        let shown = mask_command(&masker, Some(b"curl\0-u\0me:hunter22\0x".to_vec()));
        assert_eq!(shown.as_deref(), Some(&b"curl\0-u\0me:***\0x"[..]));
    }
}
