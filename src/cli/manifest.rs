//! The workspace manifest: YAML to the same values that the options give.

use super::directory::{MountSpec, check_names};
use super::secret_source::SecretSource;
use crate::config::units::parse_size;
use crate::config::yaml;
use crate::model::access::Access;
use crate::model::id::{MountName, SecretName, VariableName, WorkspaceId};
use crate::model::mount::{CachePolicy, SetId};
use crate::wire::run::{Limits, Network};
use anyhow::bail;
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

/// What a manifest says.
#[derive(Debug, Default)]
pub struct Manifest {
    pub id: Option<WorkspaceId>,
    pub mounts: Vec<MountSpec>,
    pub secrets: Vec<(SecretName, SecretSource)>,
    pub env: BTreeMap<VariableName, String>,
    pub limits: Limits,
    pub network: Option<Network>,
    pub rootfs: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Document {
    id: Option<WorkspaceId>,
    mounts: Vec<MountEntry>,
    #[serde(deserialize_with = "once_each")]
    secrets: BTreeMap<SecretName, SecretEntry>,
    #[serde(deserialize_with = "once_each")]
    env: BTreeMap<VariableName, Text>,
    limits: LimitEntries,
    network: Option<Network>,
    rootfs: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MountEntry {
    name: MountName,
    path: PathBuf,
    #[serde(default)]
    mode: Mode,
    #[serde(default = "yes")]
    artifacts: bool,
    #[serde(default)]
    cache: CachePolicy,
    #[serde(default)]
    suid: SetId,
    #[serde(default)]
    create: bool,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Default)]
struct Mode(Access);

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map(Mode).map_err(D::Error::custom)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SecretEntry {
    #[serde(default)]
    file: Option<PathBuf>,
    #[serde(default)]
    env: Option<VariableName>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LimitEntries {
    memory: Option<Scalar>,
    cpus: Option<f64>,
    pids: Option<u32>,
}

/// A size may be written with or without a unit.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a size such as 2GiB")]
enum Scalar {
    Number(u64),
    Text(String),
}

/// Text that YAML could have taken for a number or a truth value: `1.10` would come back as 1.1, `no` as false.
#[derive(Debug)]
struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Quoted;
        impl Visitor<'_> for Quoted {
            type Value = Text;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text; put the value in quotes")
            }
            fn visit_str<E>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.to_owned()))
            }
        }
        from.deserialize_any(Quoted)
    }
}

/// A map in which no key stands twice; YAML parsers let the last one win.
fn once_each<'de, D, K, V>(from: D) -> Result<BTreeMap<K, V>, D::Error>
where
    D: Deserializer<'de>,
    K: Deserialize<'de> + Ord + fmt::Display,
    V: Deserialize<'de>,
{
    struct Once<K, V>(PhantomData<(K, V)>);
    impl<'de, K, V> Visitor<'de> for Once<K, V>
    where
        K: Deserialize<'de> + Ord + fmt::Display,
        V: Deserialize<'de>,
    {
        type Value = BTreeMap<K, V>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("names and what belongs to them")
        }
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(BTreeMap::new())
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut all = BTreeMap::new();
            while let Some(key) = map.next_key::<K>()? {
                if all.contains_key(&key) {
                    return Err(A::Error::custom(format!("{key} stands here twice; keep one")));
                }
                let value = map.next_value()?;
                all.insert(key, value);
            }
            Ok(all)
        }
    }
    from.deserialize_any(Once(PhantomData))
}

impl Manifest {
    pub fn read(path: &Path) -> anyhow::Result<Manifest> {
        Self::check(path, yaml::read(path)?)
    }

    fn check(path: &Path, document: Document) -> anyhow::Result<Manifest> {
        let shown = path.display();
        let absolute = |what: String, path: &Path| {
            if path.is_absolute() {
                return Ok(());
            }
            bail!(
                "{shown}: {what}: path {path:?} is relative, and a manifest means the same wherever it is read: write it from the root, starting with /"
            )
        };
        let mut mounts = Vec::with_capacity(document.mounts.len());
        for entry in document.mounts {
            absolute(format!("mount {}", entry.name), &entry.path)?;
            mounts.push(MountSpec {
                name: entry.name,
                path: entry.path,
                access: entry.mode.0,
                artifacts: entry.artifacts,
                cache: entry.cache,
                suid: entry.suid,
                create: entry.create,
            });
        }
        check_names(&mounts).map_err(|error| anyhow::anyhow!("{shown}: {error}"))?;
        let mut secrets = Vec::with_capacity(document.secrets.len());
        for (name, entry) in document.secrets {
            let source = match (entry.file, entry.env) {
                (Some(file), None) => {
                    absolute(format!("secret {name}"), &file)?;
                    SecretSource::File(file)
                }
                (None, Some(variable)) => SecretSource::Variable(variable.to_string()),
                (None, None) | (Some(_), Some(_)) => bail!(
                    "{shown}: secret {name}: say where the value is, once: {{ file: /PATH }} or {{ env: VARIABLE }}"
                ),
            };
            secrets.push((name, source));
        }
        let memory_bytes = match document.limits.memory {
            None => None,
            Some(Scalar::Number(bytes)) => Some(bytes),
            Some(Scalar::Text(text)) => Some(
                parse_size(&text)
                    .map_err(|error| anyhow::anyhow!("{shown}: limits.memory: {error}"))?,
            ),
        };
        if let Some(path) = &document.rootfs {
            absolute("rootfs".to_owned(), path)?;
        }
        Ok(Manifest {
            id: document.id,
            rootfs: document.rootfs,
            mounts,
            secrets,
            env: document.env.into_iter().map(|(name, value)| (name, value.0)).collect(),
            limits: Limits { memory_bytes, cpus: document.limits.cpus, pids: document.limits.pids },
            network: document.network,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> anyhow::Result<Manifest> {
        let path = Path::new("m.yaml");
        Manifest::check(path, yaml::parse(path, text)?)
    }

    fn refusal(text: &str) -> String {
        format!("{:#}", parse(text).expect_err("must be refused"))
    }

    #[test]
    fn the_example_in_the_tree_is_legal() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/workspace.example.yaml");
        let manifest = Manifest::read(&path).expect("legal");
        assert_eq!(manifest.mounts.len(), 3);
        assert_eq!(manifest.mounts[0].access, Access::ReadOnly);
        assert!(!manifest.mounts[2].artifacts && manifest.mounts[2].create);
        assert_eq!(manifest.secrets.len(), 2);
        assert_eq!(manifest.network, Some(Network::None));
    }

    #[test]
    fn limits_are_read_with_their_units() {
        let limits = parse("limits: { memory: 2GiB, cpus: 1.5, pids: 256 }").expect("legal").limits;
        assert_eq!(limits.memory_bytes, Some(2 << 30));
        assert_eq!((limits.cpus, limits.pids), (Some(1.5), Some(256)));
        assert!(refusal("limits: { memory: lots }").contains("\"lots\" is not a size"));
    }

    #[test]
    fn a_relative_path_is_refused_with_the_reason() {
        let error = refusal("mounts: [{ name: a, path: data/in }]");
        assert!(error.contains("m.yaml") && error.contains("mount a"), "{error}");
        assert!(
            error.contains("\"data/in\" is relative") && error.contains("starting with /"),
            "{error}"
        );
        assert!(refusal("secrets: { K: { file: key } }").contains("secret K"));
    }

    #[test]
    fn names_are_refused_when_illegal_or_used_twice() {
        let error = refusal("mounts:\n- { name: a, path: /x }\n- { name: a, path: /y }\n");
        assert!(error.contains("mount name a is used twice"), "{error}");
        let error = refusal("mounts: [{ name: a/b, path: /x }]");
        assert!(
            error.contains("mount name \"a/b\" is not allowed") && error.contains("m.yaml:1"),
            "{error}"
        );
        let error = refusal("secrets: { 'A=B': { file: /x } }");
        assert!(error.contains("secret name \"A=B\" is not allowed"), "{error}");
        let error = refusal("env: { A: x, A: y }");
        assert!(error.contains("A stands here twice"), "{error}");
        assert!(refusal("id: ../x").contains("workspace id"));
    }

    #[test]
    fn an_unknown_mode_or_key_is_refused_with_the_known_ones() {
        let error = refusal("mounts: [{ name: a, path: /x, mode: write }]");
        assert!(error.contains("unknown mode \"write\"") && error.contains("`rw`"), "{error}");
        let mounts = parse("mounts: [{ name: a, path: /x, cache: none, suid: allow }]");
        let mounts = mounts.expect("legal").mounts;
        assert_eq!((mounts[0].cache, mounts[0].suid), (CachePolicy::None, SetId::Allow));
        let error = refusal("mount: []");
        assert!(
            error.contains("m.yaml:1:1: unknown key `mount`") && error.contains("`mounts`?"),
            "{error}"
        );
        let error = refusal("mounts: [{ name: a, path: /x, artefacts: false }]");
        assert!(error.contains("`artefacts`") && error.contains("`artifacts`?"), "{error}");
        let error = refusal("mounts: [{ name: a, path: /x, cache: shred }]");
        assert!(error.contains("`shred`") && error.contains("`shared`?"), "{error}");
        assert!(refusal("mounts: [{ name: a, path: /x, suid: yes }]").contains("suid"));
        assert!(refusal("network: hots").contains("`host`?"));
    }

    #[test]
    fn a_value_that_yaml_takes_for_a_number_must_be_quoted() {
        let error = refusal("env: { PORT: 8080 }");
        assert!(error.contains("quotes"), "{error}");
        assert_eq!(parse("env: { PORT: '8080' }").expect("legal").env.len(), 1);
    }

    #[test]
    fn a_secret_says_where_it_is_exactly_once() {
        for text in ["secrets: { K: {} }", "secrets: { K: { file: /x, env: Y } }"] {
            assert!(refusal(text).contains("secret K: say where the value is"), "{text}");
        }
    }
}
