//! Reads a YAML file that a person wrote: every refusal names file, line, column, key and the fix.

use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Largest YAML file that is read. Chosen, not measured: a manifest with 128 mount points is below 20 KiB.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A YAML file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum YamlError {
    #[error("read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is larger than 1 MiB, which no file of this kind needs", path.display())]
    TooLarge { path: PathBuf },
    #[error("{place}: {message}")]
    Content { place: String, message: String },
}

/// Reads and parses `path`; a file with nothing in it but comments is the default.
pub fn read<T: DeserializeOwned + Default>(path: &Path) -> Result<T, YamlError> {
    let fail = |source| YamlError::Read { path: path.to_owned(), source };
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text))
        .map_err(fail)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(YamlError::TooLarge { path: path.to_owned() });
    }
    parse(path, &text)
}

/// Parses `text`, which came from `path`.
pub fn parse<T: DeserializeOwned + Default>(path: &Path, text: &str) -> Result<T, YamlError> {
    match serde_yaml::from_str::<Option<T>>(text) {
        Ok(value) => Ok(value.unwrap_or_default()),
        Err(error) => {
            let place = match error.location() {
                Some(at) => format!("{}:{}:{}", path.display(), at.line(), at.column()),
                None => path.display().to_string(),
            };
            Err(YamlError::Content { place, message: explain(&error.to_string()) })
        }
    }
}

/// Turns serde's words into a sentence for people. serde's texts are fixed by its documented `de::Error` methods; a
/// text that is not recognised is shown as it is.
pub fn explain(message: &str) -> String {
    let message = match message.rfind(" at line ") {
        Some(end) => &message[..end],
        None => message,
    };
    // The path of the key that serde_yaml puts in front, such as `api: `.
    for (marker, what) in
        [("unknown field `", "unknown key"), ("unknown variant `", "unknown value")]
    {
        let Some(start) = message.find(marker) else { continue };
        let parent = message[..start].trim_end_matches(": ");
        let Some((given, rest)) = message[start + marker.len()..].split_once('`') else { continue };
        let known: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
        let mut text = format!("{what} `{given}`");
        if !parent.is_empty() {
            text.push_str(&format!(" in `{parent}`"));
        }
        if let Some(near) = nearest(given, known.iter().copied()) {
            text.push_str(&format!("; did you mean `{near}`?"));
        }
        if !known.is_empty() {
            text.push_str(&format!(" (known here: {})", known.join(", ")));
        }
        return text;
    }
    match message.split_once("duplicate field `") {
        Some((_, rest)) => {
            format!("key `{}` stands here twice; keep one", rest.trim_end_matches('`'))
        }
        None => message.to_owned(),
    }
}

/// The known word that is most like `given`, if one is like it at all.
pub fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|word| (strsim::jaro_winkler(given, word), word))
        // Below 0.75 suggestions look random; chosen by trying typing mistakes on our own keys.
        .filter(|(likeness, _)| *likeness >= 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, word)| word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Sample {
        state_dir: String,
        inner: Inner,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Inner {
        filter: String,
        format: crate::telemetry::LogFormat,
    }

    fn refusal(text: &str) -> String {
        parse::<Sample>(Path::new("a.yaml"), text).expect_err("must be refused").to_string()
    }

    #[test]
    fn an_unknown_key_is_named_with_its_place_and_the_nearest_known_one() {
        let error = refusal("state_dir: /x\nstat_dir: /y\n");
        assert!(error.starts_with("a.yaml:2:1: unknown key `stat_dir`"), "{error}");
        assert!(error.contains("did you mean `state_dir`?"), "{error}");
        let error = refusal("inner:\n  filtre: x\n");
        assert!(error.contains("a.yaml:2:3") && error.contains("`filter`?"), "{error}");
    }

    #[test]
    fn an_unknown_value_lists_the_known_ones() {
        let error = refusal("inner: { format: jsn }\n");
        assert!(error.contains("unknown value `jsn`") && error.contains("`json`?"), "{error}");
    }

    #[test]
    fn a_key_given_twice_is_refused() {
        let error = refusal("state_dir: a\nstate_dir: b\n");
        assert!(error.contains("state_dir") && error.contains("twice"), "{error}");
    }

    #[test]
    fn a_file_of_comments_is_the_default() {
        for text in ["", "# nothing\n", "---\n"] {
            assert_eq!(parse::<Sample>(Path::new("a"), text).expect("legal"), Sample::default());
        }
    }

    #[test]
    fn broken_yaml_is_refused_with_its_line() {
        let error = refusal("state_dir: [\n");
        assert!(error.starts_with("a.yaml:"), "{error}");
        assert!(nearest("xyz", ["state_dir"]).is_none());
    }
}
