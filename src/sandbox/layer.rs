//! The layers of a sandbox, by the names that receipts and `--allow-unenforced` use.

use serde::{Deserialize, Serialize};

/// One way in which a command is held. In the order in which a receipt lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LayerName {
    Namespaces,
    RootFilesystem,
    ReadOnlyMounts,
    Devices,
    Network,
    Credentials,
    Capabilities,
    NoNewPrivileges,
    Landlock,
    Seccomp,
    Descriptors,
    CoreDumps,
    Session,
}

impl LayerName {
    pub const ALL: [LayerName; 13] = [
        LayerName::Namespaces,
        LayerName::RootFilesystem,
        LayerName::ReadOnlyMounts,
        LayerName::Devices,
        LayerName::Network,
        LayerName::Credentials,
        LayerName::Capabilities,
        LayerName::NoNewPrivileges,
        LayerName::Landlock,
        LayerName::Seccomp,
        LayerName::Descriptors,
        LayerName::CoreDumps,
        LayerName::Session,
    ];

    /// Those that some kernels do not have and a user may go without. The others are what a sandbox is made of.
    pub const OPTIONAL: [LayerName; 2] = [LayerName::Landlock, LayerName::Seccomp];

    pub fn as_str(self) -> &'static str {
        match self {
            LayerName::Namespaces => "namespaces",
            LayerName::RootFilesystem => "root-filesystem",
            LayerName::ReadOnlyMounts => "read-only-mounts",
            LayerName::Devices => "devices",
            LayerName::Network => "network",
            LayerName::Credentials => "credentials",
            LayerName::Capabilities => "capabilities",
            LayerName::NoNewPrivileges => "no-new-privileges",
            LayerName::Landlock => "landlock",
            LayerName::Seccomp => "seccomp",
            LayerName::Descriptors => "descriptors",
            LayerName::CoreDumps => "core-dumps",
            LayerName::Session => "session",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|layer| layer.as_str() == name)
    }
}

/// What the first process found out about a layer when it tried what the layer forbids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub layer: LayerName,
    pub state: State,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    InForce(Proof),
    /// It is not there, and the user accepted that.
    Missing {
        why: String,
    },
}

/// How a layer is known to be in force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// What was tried or read, and what the kernel answered.
    pub text: String,
    /// Version of the kernel's interface, where it has versions.
    pub abi: Option<u32>,
    /// What this kernel's version of the layer leaves open; empty when nothing.
    pub open: String,
}

impl Proof {
    pub fn of(text: impl Into<String>) -> Self {
        Self { text: text.into(), abi: None, open: String::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_called_in_plans_what_it_is_called_in_receipts() {
        for layer in LayerName::ALL {
            let json = serde_json::to_value(layer).expect("serialises");
            assert_eq!(json, layer.as_str());
            assert_eq!(LayerName::named(layer.as_str()), Some(layer));
        }
        assert_eq!(LayerName::named("secomp"), None);
    }
}
