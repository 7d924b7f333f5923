//! A bucket that contents are kept in, as a person writes it into the configuration.
//!
//! This module knows what can be wrong with what was written; what the environment adds is the store's business.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Longest prefix of names in a bucket, in bytes: a key has at most 1,024, of which we use 70. Chosen, not measured.
const PREFIX_BYTES_MAX: usize = 512;

/// A bucket on a server that speaks Amazon's S3 protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bucket {
    pub bucket: String,
    /// Every name in the bucket begins with it.
    #[serde(default)]
    pub prefix: String,
    /// `None`: what AWS_REGION or AWS_DEFAULT_REGION says, else us-east-1.
    #[serde(default)]
    pub region: Option<String>,
    /// `None`: what AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL says, else Amazon's.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// Whether the bucket stands in the path and not in the host's name; `None`: only where there is an endpoint.
    #[serde(default)]
    pub path_style: Option<bool>,
    #[serde(default)]
    pub allow_http: bool,
    #[serde(default)]
    pub credentials_file: Option<PathBuf>,
    #[serde(default)]
    pub profile: Option<String>,
    /// Whether a cloud's machine is asked for the credentials of its role.
    #[serde(default)]
    pub instance_metadata: bool,
}

/// What an endpoint is, besides its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub secure: bool,
    /// With the port, if one was given.
    pub host: String,
}

impl Endpoint {
    /// Reads `https://host[:port]`; an error never repeats what may be a password.
    pub fn parse(text: &str) -> Result<Endpoint, String> {
        let expected = "write it as https://host or https://host:port";
        let (secure, rest) = match text.split_once("://") {
            Some(("https", rest)) => (true, rest),
            Some(("http", rest)) => (false, rest),
            Some(_) | None => return Err(format!("is no address of a server: {expected}")),
        };
        let host = rest.strip_suffix('/').unwrap_or(rest);
        if host.contains('@') {
            return Err(format!(
                "has a user or a password in it, which would be seen in logs: {expected}"
            ));
        }
        let legal = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
        if host.is_empty() || !host.chars().all(legal) {
            return Err(format!("has more in it than a host: {expected}"));
        }
        Ok(Endpoint { secure, host: host.to_owned() })
    }
}

impl Endpoint {
    /// Whether what goes there never leaves the machine.
    pub fn is_loopback(&self) -> bool {
        let host = match self.host.rfind(']') {
            Some(bracket) => &self.host[..=bracket],
            None => self.host.split(':').next().unwrap_or_default(),
        };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

impl Bucket {
    /// Whether all of it can be used, or which key cannot and why.
    pub fn check(&self) -> Result<(), String> {
        let key = |name: &str, what: String| format!("`storage.remote.{name}` {what}");
        check_bucket(&self.bucket).map_err(|what| key("bucket", what))?;
        check_prefix(&self.prefix).map_err(|what| key("prefix", what))?;
        if let Some(region) = &self.region
            && (region.is_empty()
                || region.contains(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_'))
        {
            return Err(key(
                "region",
                format!("is {region:?}: a region has letters, digits and dashes, as eu-central-1"),
            ));
        }
        if let Some(text) = &self.endpoint {
            let endpoint = Endpoint::parse(text).map_err(|what| key("endpoint", what))?;
            check_scheme(&endpoint, self.allow_http).map_err(|what| key("endpoint", what))?;
        }
        if let Some(path) = self.credentials_file.as_ref().filter(|path| !path.is_absolute()) {
            let what =
                format!("is {}, which is a relative path: write it from the root", path.display());
            return Err(key("credentials_file", what));
        }
        if let Some(profile) = &self.profile
            && (profile.is_empty() || profile.contains(['[', ']', '\n', '\r']))
        {
            return Err(key("profile", "is not the name of a profile".to_owned()));
        }
        if self.instance_metadata && (self.credentials_file.is_some() || self.profile.is_some()) {
            let what = "stands beside a credentials file or a profile: keep one of them";
            return Err(key("instance_metadata", what.to_owned()));
        }
        Ok(())
    }
}

/// Refuses what would send contents over a network unencrypted, unless that is wanted.
pub fn check_scheme(endpoint: &Endpoint, allow_http: bool) -> Result<(), String> {
    if endpoint.secure || allow_http {
        return Ok(());
    }
    Err("is without encryption: use https, or set `storage.remote.allow_http: true` for a server on this machine or in a \
         network that you trust"
        .to_owned())
}

/// The rules of Amazon for names of buckets, which go into a host's name.
fn check_bucket(bucket: &str) -> Result<(), String> {
    let inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    let end = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = bucket.as_bytes();
    if (3..=63).contains(&bytes.len())
        && bytes.iter().all(|b| inside(*b))
        && end(bytes.first())
        && end(bytes.last())
        && !bucket.contains("..")
    {
        return Ok(());
    }
    Err(format!(
        "is {bucket:?}: a bucket's name has 3 to 63 small letters, digits, dashes and dots, and begins and ends with a letter \
         or digit"
    ))
}

/// Only what every server takes as it is: some sign or list other characters wrongly.
fn check_prefix(prefix: &str) -> Result<(), String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    let whole = prefix.strip_suffix('/').unwrap_or(prefix);
    let parts = |part: &str| !part.is_empty() && part != "." && part != "..";
    if prefix.is_empty()
        || (prefix.len() <= PREFIX_BYTES_MAX
            && prefix.chars().all(legal)
            && whole.split('/').all(parts))
    {
        return Ok(());
    }
    Err(format!(
        "is {prefix:?}: use names of letters, digits, dashes, underscores and dots with a slash between them, as team/belljar, \
         without one in front, and at most {PREFIX_BYTES_MAX} bytes"
    ))
}

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use std::path::Path;

    fn outcome(rest: &str) -> Result<(), String> {
        let text = format!("storage:\n  remote: {{ kind: s3, {rest} }}\n");
        let config: Config =
            crate::config::yaml::parse(Path::new("b.yaml"), &text).map_err(|e| e.to_string())?;
        config.storage.remote.expect("there is one").check()
    }

    fn refusal(rest: &str) -> String {
        outcome(rest).expect_err(rest)
    }

    #[test]
    fn what_is_usual_is_accepted() {
        for rest in [
            "bucket: artifacts",
            "bucket: my.bucket-1, prefix: team/a, region: eu-central-1",
            "bucket: abc, prefix: team/, endpoint: 'https://s3.example.org:9000/', path_style: false",
            "bucket: abc, endpoint: 'http://127.0.0.1:9000', allow_http: true, profile: backup",
            "bucket: abc, endpoint: 'https://[::1]:9000', credentials_file: /etc/belljar/s3",
            "bucket: abc, instance_metadata: true",
        ] {
            assert_eq!(outcome(rest), Ok(()), "{rest}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_its_key_and_the_fix() {
        for (rest, key, fix) in [
            ("bucket: A_b", "bucket", "small letters"),
            ("bucket: ab", "bucket", "3 to 63"),
            ("bucket: -abc", "bucket", "begins and ends"),
            ("bucket: abc, prefix: /a", "prefix", "without one in front"),
            ("bucket: abc, prefix: a//b", "prefix", "slash between"),
            ("bucket: abc, prefix: 'a/../b'", "prefix", "slash between"),
            ("bucket: abc, prefix: 'ä'", "prefix", "letters, digits"),
            ("bucket: abc, region: 'eu central'", "region", "eu-central-1"),
            ("bucket: abc, endpoint: s3.example.org", "endpoint", "https://host"),
            ("bucket: abc, endpoint: 'http://s3.example.org'", "endpoint", "allow_http: true"),
            ("bucket: abc, endpoint: 'https://s3.example.org/abc'", "endpoint", "more in it"),
            ("bucket: abc, credentials_file: s3.ini", "credentials_file", "from the root"),
            ("bucket: abc, profile: '[a]'", "profile", "name of a profile"),
            ("bucket: abc, profile: a, instance_metadata: true", "instance_metadata", "keep one"),
        ] {
            let error = refusal(rest);
            assert!(error.starts_with(&format!("`storage.remote.{key}` ")), "{error}");
            assert!(error.contains(fix), "{error}");
        }
    }

    #[test]
    fn a_password_in_an_address_is_refused_and_not_repeated() {
        let error = refusal("bucket: abc, endpoint: 'https://user:hunter22@s3.example.org'");
        assert!(error.contains("password") && !error.contains("hunter22"), "{error}");
    }

    #[test]
    fn an_unknown_key_or_kind_is_named_with_the_nearest() {
        let error = refusal("bucket: abc, regoin: x");
        assert!(error.contains("`regoin`") && error.contains("`region`?"), "{error}");
        let text = "storage: { remote: { kind: s4, bucket: abc } }";
        let error = crate::config::yaml::parse::<Config>(Path::new("b.yaml"), text)
            .expect_err("there is no such kind")
            .to_string();
        assert!(error.contains("unknown value `s4`") && error.contains("s3"), "{error}");
        assert!(refusal("region: x").contains("bucket"), "a bucket is needed");
    }
}
