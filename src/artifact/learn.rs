//! What a version says of its content: the examination, the user's rules and the policy on secrets, together.
//!
//! The same for files that were captured and for those that somebody sent.

use super::detect::{Detected, detect};
use super::examine::Examined;
use super::secrets::search;
use super::service::Service;
use crate::config::rules::Rule;
use crate::model::artifact::ArtifactType;
use crate::secret::find::Finder;
use crate::storage::{Metadata, SecretSearch};
use std::ffi::OsStr;

#[derive(Debug)]
pub(super) struct Learned {
    pub artifact_type: ArtifactType,
    pub suspected: Option<ArtifactType>,
    pub mime: Option<String>,
    pub metadata: Metadata,
    pub secrets: SecretSearch,
}

/// `finder` is nothing where the secrets are not known.
pub(super) fn learn(
    service: &Service,
    name: &OsStr,
    rule: Option<&Rule>,
    examined: Examined,
    finder: Option<&Finder>,
) -> Learned {
    let Detected { mut artifact_type, mut suspected, mime } = detect(name, &examined.head);
    let mut metadata = examined.metadata;
    if let Some(rule) = rule {
        if let Some(name) = &rule.artifact_type {
            // The user knows better than name and bytes.
            (artifact_type, suspected) = (ArtifactType::new(name.as_str()), None);
        }
        metadata.extend(rule.metadata.clone());
    }
    Learned {
        artifact_type,
        suspected,
        mime: mime.map(str::to_owned),
        metadata,
        secrets: search(finder, examined.found, service.settings.secrets),
    }
}
