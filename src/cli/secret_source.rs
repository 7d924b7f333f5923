//! Where a secret comes from: `NAME=@FILE`, `NAME=-`, `NAME`, `NAME=VALUE`.
//!
//! Values are bytes and stay exactly as they were. They live in memory that is zeroed, go into the body of one request,
//! and never into a message, a log or an argument. A text that is not understood is not repeated, for it may be a value.

use crate::model::id::SecretName;
use crate::wire::workspace::SecretRequest;
use anyhow::{Context, anyhow, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use zeroize::{Zeroize, Zeroizing};

/// As the daemon has it: see `api::secrets`.
const BYTES_MAX: usize = 1 << 20;

/// Where the value is.
#[derive(Clone, PartialEq, Eq)]
pub enum SecretSource {
    File(PathBuf),
    Stdin,
    /// The caller's variable of this name.
    Variable(String),
    /// Given on the command line, where `ps` shows it.
    Literal(Zeroizing<Vec<u8>>),
}

impl std::fmt::Debug for SecretSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Stdin => f.write_str("Stdin"),
            Self::Variable(name) => f.debug_tuple("Variable").field(name).finish(),
            Self::Literal(_) => f.write_str("Literal([redacted])"),
        }
    }
}

impl SecretSource {
    /// Parses one `--secret` argument.
    pub fn parse(text: &OsStr) -> anyhow::Result<(SecretName, SecretSource)> {
        let bytes = text.as_bytes();
        let (name, value) = match bytes.iter().position(|&byte| byte == b'=') {
            Some(split) => (&bytes[..split], Some(&bytes[split + 1..])),
            None => (bytes, None),
        };
        let name = std::str::from_utf8(name)
            .map_err(|_| anyhow!("a secret's name is not text: use letters, digits and _"))?
            .parse::<SecretName>()?;
        let source = match value {
            None => SecretSource::Variable(name.to_string()),
            Some(b"-") => SecretSource::Stdin,
            Some([b'@']) => {
                bail!("secret {name}: there is no file after the @: write {name}=@FILE")
            }
            Some([b'@', path @ ..]) => SecretSource::File(PathBuf::from(OsStr::from_bytes(path))),
            Some(value) => {
                if let Some(rest) = name_with_equals_sign(value) {
                    bail!(
                        "secret name \"{name}={rest}\" is not allowed: a name has letters, digits and _, and no `=`; write NAME=@FILE"
                    );
                }
                SecretSource::Literal(Zeroizing::new(value.to_vec()))
            }
        };
        Ok((name, source))
    }

    fn read(&self, name: &SecretName) -> anyhow::Result<Zeroizing<Vec<u8>>> {
        match self {
            Self::File(path) => File::open(path)
                .and_then(|file| {
                    let size = file.metadata().map_or(0, |found| found.len());
                    read_zeroed(file, usize::try_from(size).unwrap_or(0))
                })
                .with_context(|| {
                    format!(
                        "secret {name}: the file {} cannot be read; correct the path after the @",
                        path.display()
                    )
                }),
            Self::Stdin => read_zeroed(io::stdin().lock(), 0)
                .with_context(|| format!("secret {name}: read standard input")),
            Self::Variable(variable) => match std::env::var_os(variable) {
                Some(value) => Ok(Zeroizing::new(value.into_vec())),
                None => bail!(
                    "secret {name}: the variable {variable} is not set: set it, or write {name}=@FILE"
                ),
            },
            Self::Literal(value) => Ok(value.clone()),
        }
    }

    /// Reads the value and wraps it for the wire.
    pub fn request(&self, name: &SecretName, sensitive: bool) -> anyhow::Result<SecretRequest> {
        let value = self.read(name)?;
        if value.len() > BYTES_MAX {
            bail!("secret {name} is larger than 1 MiB: put it into a file of a read-only mount");
        }
        Ok(SecretRequest { value: STANDARD.encode(&*value), sensitive })
    }
}

/// `B=@file` or `B=-`: the rest of an argument whose author meant `A=B` to be the name. A value that happens to look like
/// this has to come from a file.
fn name_with_equals_sign(value: &[u8]) -> Option<&str> {
    let split = value.iter().position(|&byte| byte == b'=')?;
    let (rest, after) = (&value[..split], &value[split + 1..]);
    let is_name = !rest.is_empty() && rest.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_');
    let is_source = after == b"-" || (after.len() > 1 && after[0] == b'@');
    if is_name && is_source { std::str::from_utf8(rest).ok() } else { None }
}

/// Reads everything, up to one byte more than is allowed, into memory that is zeroed, growth included.
fn read_zeroed(mut from: impl Read, expected: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    // One byte more, so that the end of a file of the expected size is seen without growing.
    let mut bytes = Zeroizing::new(vec![0; expected.min(BYTES_MAX) + 1]);
    let mut length = 0;
    loop {
        if length == bytes.len() {
            if length > BYTES_MAX {
                break;
            }
            let room = (2 * length).clamp(4096, BYTES_MAX + 1);
            let mut larger = Zeroizing::new(vec![0; room]);
            larger[..length].copy_from_slice(&bytes);
            bytes = larger;
        }
        match from.read(&mut bytes[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes[length..].zeroize();
    bytes.truncate(length);
    Ok(bytes)
}

/// Secrets by name; a name given twice and a second reader of standard input are refused.
#[derive(Debug, Default)]
pub struct SecretSources(BTreeMap<SecretName, SecretSource>);

impl SecretSources {
    pub fn add(&mut self, name: SecretName, source: SecretSource) -> anyhow::Result<()> {
        if source == SecretSource::Stdin
            && let Some((other, _)) =
                self.0.iter().find(|(_, other)| **other == SecretSource::Stdin)
        {
            bail!("secrets {other} and {name} both want standard input: give one of them a file");
        }
        if self.0.contains_key(&name) {
            bail!("secret {name} is given twice: keep one");
        }
        self.0.insert(name, source);
        Ok(())
    }

    pub fn take_stdin(&self) -> bool {
        self.0.values().any(|source| *source == SecretSource::Stdin)
    }

    pub fn requests(&self) -> anyhow::Result<BTreeMap<SecretName, SecretRequest>> {
        let mut requests = BTreeMap::new();
        for (name, source) in &self.0 {
            requests.insert(name.clone(), source.request(name, true)?);
        }
        Ok(requests)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> anyhow::Result<(SecretName, SecretSource)> {
        SecretSource::parse(OsStr::new(text))
    }

    #[test]
    fn each_source_is_recognised() {
        let source = |text| parse(text).expect("legal").1;
        assert_eq!(source("A=@/x"), SecretSource::File("/x".into()));
        assert_eq!(source("A=-"), SecretSource::Stdin);
        assert_eq!(source("A"), SecretSource::Variable("A".to_owned()));
        assert_eq!(source("A=b=c"), SecretSource::Literal(Zeroizing::new(b"b=c".to_vec())));
        assert_eq!(source("A="), SecretSource::Literal(Zeroizing::default()));
    }

    #[test]
    fn a_name_with_an_equals_sign_or_other_signs_is_refused() {
        for text in ["A=B=@/x", "A=B=-"] {
            let error = parse(text).expect_err("refused").to_string();
            assert!(error.contains("\"A=B\" is not allowed"), "{error}");
        }
        for text in ["A-B=@/x", "=@/x", "1A=@/x", ""] {
            let error = parse(text).expect_err("refused").to_string();
            assert!(error.contains("letters, digits and _"), "{text}: {error}");
        }
    }

    #[test]
    fn a_files_bytes_are_kept_exactly_and_a_value_is_never_shown() {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        let bytes: Vec<u8> = (0..=255u8).cycle().take(10_000).chain([0, b'\n', 0xff]).collect();
        std::fs::write(file.path(), &bytes).expect("write");
        let name: SecretName = "A".parse().expect("legal");
        let source = SecretSource::File(file.path().to_owned());
        let request = source.request(&name, true).expect("reads");
        assert_eq!(STANDARD.decode(&request.value).expect("base64"), bytes);
        let (_, literal) = parse("A=hunter2").expect("legal");
        assert!(!format!("{literal:?}{request:?}").contains("hunter2"));
    }

    #[test]
    fn a_source_without_a_length_is_read_whole_up_to_the_bound() {
        let bytes: Vec<u8> = (0..=255u8).cycle().take(100_000).collect();
        assert_eq!(*read_zeroed(&bytes[..], 0).expect("reads"), bytes);
        let name: SecretName = "A".parse().expect("legal");
        let error = SecretSource::File("/dev/zero".into()).request(&name, true);
        assert!(error.expect_err("endless").to_string().contains("1 MiB"));
    }

    #[test]
    fn a_missing_file_or_variable_is_named() {
        let name: SecretName = "A".parse().expect("legal");
        let request = |source: SecretSource| {
            format!("{:#}", source.request(&name, true).expect_err("missing"))
        };
        let error = request(SecretSource::File("/nonexistent/key".into()));
        assert!(error.contains("secret A") && error.contains("/nonexistent/key"), "{error}");
        let error = request(SecretSource::Variable("BELLJAR_TEST_NOT_SET".to_owned()));
        assert!(error.contains("BELLJAR_TEST_NOT_SET is not set"), "{error}");
    }

    #[test]
    fn standard_input_serves_one_secret() {
        let mut sources = SecretSources::default();
        let name = |text: &str| text.parse::<SecretName>().expect("legal");
        sources.add(name("A"), SecretSource::Stdin).expect("the first");
        assert!(sources.take_stdin());
        let error =
            sources.add(name("B"), SecretSource::Stdin).expect_err("the second").to_string();
        assert!(error.contains("A and B"), "{error}");
        let error = sources.add(name("A"), SecretSource::Variable("A".into())).expect_err("twice");
        assert!(error.to_string().contains("given twice"), "{error}");
    }
}
