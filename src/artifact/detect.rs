//! Of which type is a file? Decided from its name and its first bytes.
//!
//! In this order: bytes that leave no doubt (a PNG is an image whatever it is called), the name's extension, bytes that
//! give a hint (text that looks like HTML, JSON or a log). What none of them knows is a `file`. Where name and bytes
//! speak for two types, the one that loses is noted as suspected.

use crate::model::artifact::ArtifactType;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// How much of a file's beginning is looked at.
pub const HEAD_BYTES: usize = 8 * 1024;

const IMAGE: &[&str] = &[
    "png", "jpg", "jpeg", "gif", "webp", "bmp", "tif", "tiff", "svg", "svgz", "ico", "heic",
    "avif", "eps", "jxl",
];
const REPORT: &[&str] = &[
    "pdf", "html", "htm", "xhtml", "md", "markdown", "rst", "adoc", "docx", "doc", "odt", "rtf",
    "pptx", "ppt", "odp", "ipynb", "tex", "ps", "epub",
];
const DATA: &[&str] = &[
    "csv", "tsv", "json", "jsonl", "ndjson", "geojson", "parquet", "arrow", "feather", "orc",
    "avro", "xml", "yaml", "yml", "toml", "xlsx", "xls", "ods", "sqlite", "sqlite3", "db",
    "duckdb", "npy", "npz", "h5", "hdf5", "nc", "mat", "sql", "rds", "dta", "sav", "tfrecord",
    "msgpack", "cbor",
];
const MODEL: &[&str] = &[
    "pt",
    "pth",
    "ckpt",
    "safetensors",
    "onnx",
    "tflite",
    "keras",
    "joblib",
    "pkl",
    "pickle",
    "gguf",
    "ggml",
    "mlmodel",
    "pmml",
    "caffemodel",
    "model",
];
const LOG: &[&str] = &["log"];

/// Endings that say how a file is packed; what it is, the ending before tells.
const PACKED: &[&str] = &["gz", "xz", "zst", "bz2", "lz4"];

/// Endings of text, or of formats that look like another: a hint says nothing against them. An HTML page called `x.png`
/// is suspicious, JSON called `x.ipynb` and dates in `x.csv` are not.
const OF_TEXT: &[&str] = &[
    "svg", "eps", "html", "htm", "xhtml", "md", "markdown", "rst", "adoc", "rtf", "ipynb", "tex",
    "ps", "csv", "tsv", "json", "jsonl", "ndjson", "geojson", "xml", "yaml", "yml", "toml", "sql",
    "pmml", "mlmodel", "model", "log",
];

/// Endings of containers for anything: what is in one is no mismatch.
const CONTAINERS: &[&str] = &["h5", "hdf5", "db", "sqlite", "sqlite3", "model", "ckpt", "keras"];

/// What is known of a file's kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detected {
    pub artifact_type: ArtifactType,
    /// The type that the other one of name and bytes speaks for.
    pub suspected: Option<ArtifactType>,
    pub mime: Option<&'static str>,
}

/// The type of a file with this name whose content starts with `head` (at most [`HEAD_BYTES`] of it).
pub fn detect(name: &OsStr, head: &[u8]) -> Detected {
    let (certain, named) = (certain(head), by_name(name));
    let ending = ending(name).unwrap_or_default();
    let is_one_of = |list: &[&str]| list.iter().any(|known| known.as_bytes() == ending);
    let hinted = || hinted(head);
    let (found, other) = match (certain, named) {
        (Some(certain), named) => (certain, named.filter(|_| !is_one_of(CONTAINERS))),
        (None, Some(named)) => (named, if is_one_of(OF_TEXT) { None } else { hinted() }),
        (None, None) => (hinted().unwrap_or(ArtifactType::FILE), None),
    };
    Detected {
        artifact_type: ArtifactType::new(found),
        suspected: other.filter(|other| *other != found).map(ArtifactType::new),
        mime: mime(&ending, head),
    }
}

/// Text kinds that no signature tells apart (IANA media types; `text/x-log` is nobody's and is `text/plain`).
const TEXT_KINDS: &[(&str, &str)] = &[
    ("csv", "text/csv"),
    ("tsv", "text/tab-separated-values"),
    ("html", "text/html"),
    ("htm", "text/html"),
    ("xhtml", "application/xhtml+xml"),
    ("md", "text/markdown"),
    ("markdown", "text/markdown"),
    ("rtf", "application/rtf"),
    ("tex", "application/x-tex"),
    ("json", "application/json"),
    ("geojson", "application/geo+json"),
    ("ipynb", "application/x-ipynb+json"),
    ("jsonl", "application/jsonl"),
    ("ndjson", "application/x-ndjson"),
    ("xml", "application/xml"),
    ("svg", "image/svg+xml"),
    ("yaml", "application/yaml"),
    ("yml", "application/yaml"),
    ("toml", "application/toml"),
    ("sql", "application/sql"),
    ("css", "text/css"),
    ("js", "text/javascript"),
    ("ps", "application/postscript"),
    ("eps", "application/postscript"),
];

/// By signature; for text by name. What neither knows has none: a wrong one is worse.
fn mime(ending: &[u8], head: &[u8]) -> Option<&'static str> {
    if head.starts_with(b"PAR1") {
        return Some("application/vnd.apache.parquet");
    }
    let by_ending = || {
        let known = TEXT_KINDS.iter().find(|(known, _)| known.as_bytes() == ending);
        known.map_or("text/plain", |(_, mime)| *mime)
    };
    let by_bytes = infer::get(head).map(|kind| kind.mime_type());
    match by_bytes {
        Some(mime) if !mime.starts_with("text/") => Some(mime),
        by_bytes if is_text(head) => match by_ending() {
            "text/plain" => by_bytes.or(Some("text/plain")),
            known => Some(known),
        },
        by_bytes => by_bytes,
    }
}

/// Whether these bytes, the beginning of a file, are text in UTF-8. The last character may be cut.
pub(super) fn is_text(head: &[u8]) -> bool {
    let cut = match std::str::from_utf8(head) {
        Ok(_) => 0,
        Err(error) if error.error_len().is_none() => head.len() - error.valid_up_to(),
        Err(_) => return false,
    };
    !head.is_empty() && cut < head.len() && memchr::memchr(0, head).is_none()
}

/// Signatures that nothing else has.
fn certain(head: &[u8]) -> Option<&'static str> {
    if head.starts_with(b"GGUF") || is_safetensors(head) {
        return Some(ArtifactType::MODEL);
    }
    if head.starts_with(b"PAR1")
        || head.starts_with(b"ARROW1\0\0")
        || head.starts_with(b"SQLite format 3\0")
    {
        return Some(ArtifactType::DATA);
    }
    if head.starts_with(b"\x89HDF\r\n\x1a\n") {
        // Keras writes its models as HDF5 with this attribute at the root.
        let keras = contains(head, b"keras_version") || contains(head, b"model_weights");
        return Some(if keras { ArtifactType::MODEL } else { ArtifactType::DATA });
    }
    let kind = infer::get(head)?;
    match (kind.matcher_type(), kind.mime_type()) {
        (infer::MatcherType::Image, _) => Some(ArtifactType::IMAGE),
        (_, "application/pdf") => Some(ArtifactType::REPORT),
        _ => None,
    }
}

/// A safetensors file starts with the length of a JSON object and the object (huggingface.co/docs/safetensors).
fn is_safetensors(head: &[u8]) -> bool {
    let Some((length, rest)) = head.split_first_chunk::<8>() else { return false };
    // The format allows headers of 100 MB at most.
    u64::from_le_bytes(*length) <= 100_000_000
        && rest.starts_with(b"{\"")
        && contains(rest, b"data_offsets")
}

/// The last ending of a name, in lower case, that says what the file is and not how it is packed.
pub(super) fn ending(name: &OsStr) -> Option<Vec<u8>> {
    let lower = name.as_bytes().to_ascii_lowercase();
    let mut endings = lower.rsplit(|&byte| byte == b'.');
    let mut ending = endings.next()?;
    let packed = |ending: &[u8]| PACKED.iter().any(|packed| packed.as_bytes() == ending);
    // `app.log.1` and `app.log.2.gz` are what logrotate(8) leaves.
    while packed(ending) || (!ending.is_empty() && ending.iter().all(u8::is_ascii_digit)) {
        ending = endings.next()?;
    }
    // A name without a dot is no ending.
    endings.next()?;
    Some(ending.to_vec())
}

fn by_name(name: &OsStr) -> Option<&'static str> {
    let ending = ending(name)?;
    let known: [(&[&str], &str); 5] = [
        (IMAGE, ArtifactType::IMAGE),
        (REPORT, ArtifactType::REPORT),
        (DATA, ArtifactType::DATA),
        (MODEL, ArtifactType::MODEL),
        (LOG, ArtifactType::LOG),
    ];
    known
        .into_iter()
        .find(|(list, _)| list.iter().any(|known| known.as_bytes() == ending))
        .map(|(_, found)| found)
}

/// What text looks like.
fn hinted(head: &[u8]) -> Option<&'static str> {
    let text = head.utf8_chunks().next()?.valid().trim_start_matches('\u{feff}').trim_start();
    // A cut or a stray byte near the end is fine; a file that is not text at all is not.
    if text.is_empty() || text.len() * 2 < head.len() || text.contains('\0') {
        return None;
    }
    let start = text.get(..256).unwrap_or(text).to_ascii_lowercase();
    if start.starts_with("<!doctype html") || start.starts_with("<html") {
        return Some(ArtifactType::REPORT);
    }
    if start.starts_with("<svg") || (start.starts_with("<?xml") && start.contains("<svg")) {
        return Some(ArtifactType::IMAGE);
    }
    if start.starts_with("<?xml") || start.starts_with("{\"") || is_json(head, text) {
        return Some(ArtifactType::DATA);
    }
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).take(10).collect();
    let logged = lines.iter().filter(|line| is_log_line(line)).count();
    // Two lines at least, and more than half: a letter that mentions an error is no log.
    (logged >= 2 && logged * 2 > lines.len()).then_some(ArtifactType::LOG)
}

/// A short file is parsed; of a long one only the beginning is at hand, which proves nothing.
fn is_json(head: &[u8], text: &str) -> bool {
    head.len() < HEAD_BYTES
        && text.starts_with(['{', '['])
        && serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

/// Starts with a date, or names a level near its beginning.
fn is_log_line(line: &str) -> bool {
    const LEVELS: &[&str] =
        &["TRACE", "DEBUG", "INFO", "WARN", "WARNING", "ERROR", "FATAL", "CRITICAL"];
    let line = line.trim_start_matches('[');
    let bytes = line.as_bytes();
    let digit = |index: usize| bytes.get(index).is_some_and(u8::is_ascii_digit);
    let dated = (0..4).all(digit)
        && bytes.get(4) == bytes.get(7)
        && matches!(bytes.get(4), Some(b'-' | b'/'))
        && digit(5)
        && digit(8);
    dated
        || line.split(|c: char| !c.is_ascii_alphabetic()).take(6).any(|word| LEVELS.contains(&word))
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &[u8], head: &[u8], expected: &str) {
        let found = detect(OsStr::from_bytes(name), head);
        assert_eq!(found.artifact_type.as_str(), expected, "{}", name.escape_ascii());
    }

    #[test]
    fn the_extension_tells_when_the_bytes_do_not() {
        check(b"t.csv", b"a,b\n1,2\n", "data");
        check(b"T.CSV", b"", "data");
        check(b"report.html", b"hello", "report");
        check(b"chart.svg", b"<svg xmlns=", "image");
        check(b"weights.pt", b"PK\x03\x04", "model");
        check(b"book.xlsx", b"PK\x03\x04", "data");
        check(b"run.log", b"hello", "log");
        check(b"run.log.3.gz", b"\x1f\x8b\x08", "log");
        check(b"t.csv.zst", b"\x28\xb5\x2f\xfd", "data");
        check(b"\xff\xfe.json", b"{}", "data");
        check(b"notes.txt", b"hello", "file");
        check(b"archive.zip", b"PK\x03\x04", "file");
        check(b"csv", b"", "file");
        check(b"1.2.3", b"", "file");
    }

    #[test]
    fn bytes_without_doubt_win_over_the_name() {
        check(b"x.csv", b"\x89PNG\r\n\x1a\n", "image");
        check(b"x", b"%PDF-1.7\n", "report");
        check(b"x.bin", b"GGUF\x03\0\0\0", "model");
        check(b"x.bin", b"PAR1", "data");
        check(b"m.h5", b"\x89HDF\r\n\x1a\n...keras_version", "model");
        check(b"m.h5", b"\x89HDF\r\n\x1a\n", "data");
        let mut tensors = 60u64.to_le_bytes().to_vec();
        tensors.extend(br#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#);
        check(b"x.bin", &tensors, "model");
    }

    #[test]
    fn text_without_a_telling_name_is_looked_at() {
        check(b"index", b"\n<!DOCTYPE html><p>", "report");
        check(b"out", b"{\"a\": 1}", "data");
        check(b"out", b"[1, 2, 3]", "data");
        check(b"out", b"2026-01-02 10:00:00 start\n2026-01-02 10:00:01 end\n", "log");
        check(b"out", b"[INFO] one\n[ERROR] two\n", "log");
        check(b"out", b"Dear reader,\nan ERROR occurred.\n", "file");
        check(b"out", b"", "file");
        check(b"out", b"\0\x01\x02\x03{\"", "file");
    }

    #[test]
    fn where_name_and_bytes_disagree_the_loser_is_suspected() {
        let check = |name: &str, head: &[u8], expected: (&str, Option<&str>)| {
            let found = detect(OsStr::new(name), head);
            let suspected = found.suspected.as_ref().map(ArtifactType::as_str);
            assert_eq!((found.artifact_type.as_str(), suspected), expected, "{name}");
        };
        check("x.csv", b"\x89PNG\r\n\x1a\n", ("image", Some("data")));
        check("x.png", b"<!DOCTYPE html><p>502", ("image", Some("report")));
        check("weights.pt", b"{\"error\": 1}", ("model", Some("data")));
        for (name, head) in [
            ("x.png", &b"\x89PNG\r\n\x1a\n"[..]),
            ("n.ipynb", b"{\"cells\": []}"),
            ("t.csv", b"2026-01-02,1\n2026-01-03,2\n"),
            ("m.h5", b"\x89HDF\r\n\x1a\n...keras_version"),
            ("x.log", b"{\"level\": 1}"),
            ("notes.txt", b"hello"),
            ("x", b"%PDF-1.7\n"),
        ] {
            assert_eq!(detect(OsStr::new(name), head).suspected, None, "{name}");
        }
    }

    #[test]
    fn the_mime_type_is_of_the_bytes_and_for_text_of_the_name() {
        for (name, head, expected) in [
            ("x", &b"\x89PNG\r\n\x1a\n"[..], Some("image/png")),
            ("x.csv", b"\x89PNG\r\n\x1a\n", Some("image/png")),
            ("x.csv", b"a,b\n", Some("text/csv")),
            ("x.json", b"{}", Some("application/json")),
            ("run.log", b"hello", Some("text/plain")),
            ("page", b"<!DOCTYPE html><p>", Some("text/html")),
            ("x.parquet", b"PAR1", Some("application/vnd.apache.parquet")),
            ("x.bin", b"\0\x01\x02", None),
            ("empty.csv", b"", None),
        ] {
            assert_eq!(detect(OsStr::new(name), head).mime, expected, "{name}");
        }
    }

    #[test]
    fn any_bytes_are_answered() {
        proptest::proptest!(|(name: Vec<u8>, head: Vec<u8>)| {
            detect(OsStr::from_bytes(&name), &head);
        });
    }
}
