//! Why a request to an S3 server failed: what the server said, or how the way to it broke, as a sentence with a fix.
//!
//! The crate object_store keeps its own error types to itself, so ours travel through it as the source of an `HttpError`
//! and are found again in the chain of sources.

use crate::storage::remote::{RemoteError, RemoteFailure};
use std::error::Error;
use std::fmt;

/// Longest text of a server that is shown.
const TEXT_BYTES_MAX: usize = 300;

/// An answer that is a refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub status: u16,
    /// As `NoSuchBucket`; empty where the answer had no body, as the one to HEAD.
    pub code: String,
    message: String,
    /// Where the bucket is, by the server's word.
    region: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {}", self.status)?;
        match (self.code.as_str(), self.message.as_str()) {
            ("", _) => Ok(()),
            (code, "") => write!(f, " {code}"),
            (code, message) => write!(f, " {code}: {message}"),
        }
    }
}

impl Error for Refusal {}

impl Refusal {
    /// Of the body nothing but code, message and region is taken: others of its fields have the access key.
    pub fn read(status: u16, region: Option<&str>, body: &str) -> Refusal {
        Refusal {
            status,
            code: element(body, "Code").unwrap_or_default(),
            message: element(body, "Message").unwrap_or_default(),
            region: region.map(str::to_owned).or_else(|| element(body, "Region")),
        }
    }

    /// The refusal that an answer of success is all the same.
    pub fn in_success(body: &str) -> Option<Refusal> {
        body.contains("<Error>").then(|| Refusal::read(200, None, body))
    }

    /// The answer was yes, and what it tells of the content is not true.
    pub fn of_checksum(sent: &str, kept: &str) -> Refusal {
        let message =
            format!("the checksum that was sent is {sent}, the one of what arrived {kept}");
        Refusal { status: 200, code: "BadDigest".to_owned(), message, region: None }
    }

    /// Whether the same request, sent again in a moment, may be answered otherwise.
    pub fn may_pass(&self) -> bool {
        match self.code.as_str() {
            // Bytes were damaged on the way.
            "BadDigest" | "XAmzContentSHA256Mismatch" | "IncompleteBody" => true,
            "InternalError"
            | "SlowDown"
            | "ServiceUnavailable"
            | "RequestTimeout"
            | "OperationAborted"
            | "ConditionalRequestConflict" => true,
            "NotImplemented" => false,
            _ => matches!(self.status, 408 | 429 | 500 | 502..=599),
        }
    }

    pub fn is_missing_key(&self) -> bool {
        self.status == 404 && (self.code.is_empty() || self.code == "NoSuchKey")
    }

    /// The store has it already, by the answer to a put that must not overwrite.
    pub fn is_taken(&self) -> bool {
        self.status == 412 || (self.status == 409 && self.code == "ConditionalRequestConflict")
    }

    fn explain(&self, place: &Place<'_>) -> (RemoteFailure, String) {
        use RemoteFailure::{Configuration, Credentials, Transient};
        let Place { endpoint, bucket, region, credentials } = place;
        let said = shown(&self.to_string());
        let unknown_key = self.code == "AccessDenied"
            // What garage says, which has one code for all of these.
            && ["No such key", "Invalid signature"].iter().any(|text| self.message.contains(text));
        match self.code.as_str() {
            "InvalidAccessKeyId" | "InvalidClientTokenId" => (
                Credentials,
                format!(
                    "{endpoint} does not know the access key from {credentials}: correct it, or give other credentials"
                ),
            ),
            "SignatureDoesNotMatch" => (
                Credentials,
                format!(
                    "{endpoint} does not accept the signature: the secret key from {credentials} does not belong to the access key, correct it"
                ),
            ),
            "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired" => (
                Credentials,
                format!(
                    "the session token from {credentials} has expired or is wrong: get a fresh one"
                ),
            ),
            "RequestTimeTooSkewed" => (
                Configuration,
                format!(
                    "the clocks of this machine and of {endpoint} differ too much: set this one's"
                ),
            ),
            "NoSuchBucket" => (
                Configuration,
                format!(
                    "{endpoint} has no bucket {bucket}: make it, or correct `storage.remote.bucket`"
                ),
            ),
            _ if unknown_key => (
                Credentials,
                format!(
                    "{endpoint} does not accept the credentials from {credentials} ({said}): correct them"
                ),
            ),
            "PermanentRedirect"
            | "TemporaryRedirect"
            | "AuthorizationHeaderMalformed"
            | "IllegalLocationConstraintException"
            | "InvalidRegion" => (Configuration, self.explain_region(place)),
            "" if matches!(self.status, 301 | 307 | 308) => {
                (Configuration, self.explain_region(place))
            }
            "AccessDenied" => (
                Configuration,
                format!(
                    "{endpoint} knows the credentials from {credentials} and does not allow this ({said}): allow s3:PutObject, s3:GetObject, s3:DeleteObject, s3:ListBucket and s3:AbortMultipartUpload on bucket {bucket}"
                ),
            ),
            _ if self.status == 401 || (self.status == 403 && self.region.is_none()) => (
                Credentials,
                format!(
                    "{endpoint} does not accept the credentials from {credentials} ({said}): correct them, and what they may do with bucket {bucket}"
                ),
            ),
            _ if self.region.as_ref().is_some_and(|other| other != region) => {
                (Configuration, self.explain_region(place))
            }
            _ if self.may_pass() => (
                Transient,
                format!(
                    "{endpoint} has trouble of its own or is overloaded ({said}); it is tried again later"
                ),
            ),
            _ => (Configuration, format!("{endpoint} does not do this ({said})")),
        }
    }

    fn explain_region(&self, place: &Place<'_>) -> String {
        let Place { endpoint, bucket, region, .. } = place;
        match &self.region {
            Some(other) => format!(
                "bucket {bucket} is in region {other} and not in {region}: set `storage.remote.region: {}`",
                shown(other)
            ),
            None => format!(
                "{endpoint} does not serve bucket {bucket} in region {region} ({}): correct `storage.remote.region`",
                shown(&self.to_string())
            ),
        }
    }
}

/// How the way to the server broke.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Broken {
    #[error("no connection: {0}")]
    Connect(String),
    #[error("no encrypted connection: {0}")]
    Tls(String),
    #[error("no byte went in either direction for {} s", .0.as_secs_f32())]
    Stalled(std::time::Duration),
    #[error("the connection broke: {0}")]
    Interrupted(String),
}

impl Broken {
    /// Whether the server cannot have heard anything.
    pub fn is_before_any_request(&self) -> bool {
        match self {
            Broken::Connect(_) | Broken::Tls(_) => true,
            Broken::Stalled(_) | Broken::Interrupted(_) => false,
        }
    }

    fn explain(&self, place: &Place<'_>) -> (RemoteFailure, String) {
        let endpoint = place.endpoint;
        match self {
            Broken::Connect(why) => (
                RemoteFailure::Transient,
                format!(
                    "{endpoint} cannot be reached ({}); it is tried again later, if the address is right",
                    shown(why)
                ),
            ),
            Broken::Tls(why) => (
                RemoteFailure::Configuration,
                format!(
                    "the encryption of {endpoint} is not accepted ({}): if its certificate is from an authority of your own, name that in SSL_CERT_FILE of the daemon",
                    shown(why)
                ),
            ),
            Broken::Stalled(time) => (
                RemoteFailure::Transient,
                format!(
                    "{endpoint} neither took nor sent a byte for {} s; it is tried again later",
                    time.as_secs_f32()
                ),
            ),
            Broken::Interrupted(why) => (
                RemoteFailure::Transient,
                format!(
                    "the connection to {endpoint} broke ({}); it is tried again later",
                    shown(why)
                ),
            ),
        }
    }
}

/// There is nothing to sign a request with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct NoCredentials(pub String);

/// With what a request was made, for the sentence.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub endpoint: &'a str,
    pub bucket: &'a str,
    pub region: &'a str,
    /// Where the credentials are from.
    pub credentials: &'a str,
}

/// The failure that is meant, wherever it is in the chain of sources.
pub(super) fn found<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// What failed, for people.
pub(super) fn explain(
    doing: &'static str,
    store: &str,
    place: &Place<'_>,
    error: &object_store::Error,
) -> RemoteError {
    let (kind, reason) = if let Some(NoCredentials(reason)) = found(error) {
        (RemoteFailure::Credentials, reason.clone())
    } else if let Some(refusal) = found::<Refusal>(error) {
        refusal.explain(place)
    } else if let Some(broken) = found::<Broken>(error) {
        broken.explain(place)
    } else {
        // An answer that is not as the protocol says; its text is the library's, which names no credentials.
        let text = shown(&error.to_string());
        (
            RemoteFailure::Transient,
            format!("{} gave an answer that is none ({text})", place.endpoint),
        )
    };
    RemoteError::Store { doing, store: store.to_owned(), reason, kind }
}

/// The text of the first element of this name in a document, which servers write without attributes.
fn element(document: &str, name: &str) -> Option<String> {
    let (_, rest) = document.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    let plain = text
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&apos;", "'")
        .replace("&amp;", "&");
    Some(plain)
}

/// One line of a length that a terminal and a log can take, whatever a server sent.
fn shown(text: &str) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let clean = clean.trim();
    match clean.char_indices().find(|(at, _)| *at >= TEXT_BYTES_MAX) {
        Some((at, _)) => format!("{}…", &clean[..at]),
        None => clean.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place<'static> = Place {
        endpoint: "https://s3.example.org",
        bucket: "artifacts",
        region: "eu-central-1",
        credentials: "the environment",
    };

    fn told(status: u16, region: Option<&str>, body: &str) -> RemoteError {
        let source = Box::new(Refusal::read(status, region, body));
        let error = object_store::Error::Generic { store: "S3", source };
        explain("put a content", "s3://artifacts/", &PLACE, &error)
    }

    fn body(code: &str) -> String {
        format!("<Error><Code>{code}</Code><Message>m &amp; n</Message></Error>")
    }

    #[test]
    fn what_has_to_change_is_told_by_kind_and_in_words() {
        use RemoteFailure::{Configuration, Credentials, Transient};
        for (status, code, kind, words) in [
            (403, "InvalidAccessKeyId", Credentials, "does not know the access key"),
            (403, "SignatureDoesNotMatch", Credentials, "does not belong to the access key"),
            (400, "ExpiredToken", Credentials, "get a fresh one"),
            (403, "AccessDenied", Configuration, "s3:PutObject"),
            (403, "RequestTimeTooSkewed", Configuration, "clocks"),
            (404, "NoSuchBucket", Configuration, "no bucket artifacts"),
            (301, "PermanentRedirect", Configuration, "storage.remote.region"),
            (503, "SlowDown", Transient, "overloaded"),
            (429, "Whatever", Transient, "tried again"),
            (501, "NotImplemented", Configuration, "does not do this"),
            (400, "BadDigest", Transient, "BadDigest: m & n"),
        ] {
            let error = told(status, None, &body(code));
            let RemoteError::Store { kind: found, .. } = &error else { panic!("{error:?}") };
            let text = error.to_string();
            assert_eq!(*found, kind, "{text}");
            assert!(
                text.contains(words) && text.contains("put a content in s3://artifacts/"),
                "{text}"
            );
        }
    }

    #[test]
    fn the_right_region_is_named_when_the_server_does() {
        let text = told(301, Some("us-west-2"), "").to_string();
        assert!(text.contains("region us-west-2 and not in eu-central-1"), "{text}");
        let malformed =
            "<Error><Code>AuthorizationHeaderMalformed</Code><Region>garage</Region></Error>";
        let text = told(400, None, malformed).to_string();
        assert!(text.contains("`storage.remote.region: garage`"), "{text}");
    }

    #[test]
    fn nothing_of_an_answer_is_shown_but_code_and_message_and_not_without_end() {
        let secret = "<StringToSign>AKIAIOSFODNN7</StringToSign>";
        let text = told(
            418,
            None,
            &format!("<Code>Odd</Code><Message>a\x1b[2J\n{}</Message>{secret}", "x".repeat(9_000)),
        );
        let text = text.to_string();
        assert!(!text.contains("AKIA") && !text.contains('\x1b') && text.len() < 600, "{text}");
    }

    #[test]
    fn the_way_to_the_server_is_told_apart_from_the_server() {
        for (broken, transient, words) in [
            (Broken::Connect("refused".into()), true, "cannot be reached (refused)"),
            (Broken::Tls("unknown issuer".into()), false, "SSL_CERT_FILE"),
            (Broken::Stalled(std::time::Duration::from_secs(30)), true, "for 30 s"),
        ] {
            let error = object_store::Error::Generic { store: "S3", source: Box::new(broken) };
            let error = explain("get a content", "s3://artifacts/", &PLACE, &error);
            assert_eq!(error.is_transient(), transient, "{error}");
            assert!(error.to_string().contains(words), "{error}");
        }
    }
}
