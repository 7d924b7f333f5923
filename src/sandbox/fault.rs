//! A layer that a test takes out of a sandbox, to see what only that layer holds, and that its proof notices.
//!
//! Only builds with debug assertions look at the variable; in others no layer can be taken out.

use super::layer::LayerName;
use serde::{Deserialize, Serialize};

/// `LAYER`: its step is left out. `LAYER:unnoticed`: its proof as well, so that the run starts without it. Several with commas.
const VARIABLE: &str = "BELLJAR_TEST_WITHOUT_LAYER";

/// What is taken out of one sandbox; nothing unless a test says so.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Faults(Vec<Fault>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Fault {
    layer: LayerName,
    /// Whether the proof is left out too.
    unnoticed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{VARIABLE}: there is no layer {0:?}")]
pub struct UnknownLayer(String);

impl Faults {
    /// What this process' environment asks for.
    pub fn from_environment() -> Result<Self, UnknownLayer> {
        match std::env::var(VARIABLE) {
            Ok(text) if cfg!(debug_assertions) => Self::parse(&text),
            _ => Ok(Self::default()),
        }
    }

    fn parse(text: &str) -> Result<Self, UnknownLayer> {
        text.split(',')
            .map(|one| {
                let (name, unnoticed) = match one.strip_suffix(":unnoticed") {
                    Some(name) => (name, true),
                    None => (one, false),
                };
                let layer = LayerName::named(name).ok_or_else(|| UnknownLayer(one.to_owned()))?;
                Ok(Fault { layer, unnoticed })
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Whether a layer is built.
    pub fn builds(&self, layer: LayerName) -> bool {
        self.0.iter().all(|fault| fault.layer != layer)
    }

    /// Whether a layer must be proven before the command starts.
    pub fn proves(&self, layer: LayerName) -> bool {
        self.0.iter().all(|fault| fault.layer != layer || !fault.unnoticed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_built_and_proven_unless_it_is_named() {
        let none = Faults::default();
        assert!(none.builds(LayerName::Seccomp) && none.proves(LayerName::Seccomp));
        let some = Faults::parse("seccomp,landlock:unnoticed").expect("known");
        assert!(!some.builds(LayerName::Seccomp) && some.proves(LayerName::Seccomp));
        assert!(!some.builds(LayerName::Landlock) && !some.proves(LayerName::Landlock));
        assert!(some.builds(LayerName::Devices) && some.proves(LayerName::Devices));
        assert!(Faults::parse("secomp").is_err() && Faults::parse("").is_err());
    }
}
