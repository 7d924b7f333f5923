//! What a person is told when a store cannot be used: what was to be done, where, why not, and what to do. Never a secret.

use crate::proxy::{Fate, Proxy, refusal};
use crate::servers::{ACCESS, S3s, SECRET, credentials, impatient, moto, settings, store};
use crate::{bytes, digest, file};
use belljar::storage::blob::s3::{CredentialsSource, S3Settings, S3Store};
use belljar::storage::remote::{RemoteError, RemoteFailure, RemoteStore};
use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Every way to use the store fails in the same way; answers the sentence of the last.
fn refused(store: &S3Store, kind: RemoteFailure) -> String {
    let content = bytes(1, 100);
    let digest = digest(&content);
    let outcomes = [
        store.check().map(drop),
        store.get(&digest, None, &mut io::sink()).map(drop),
        store.size(&digest).map(drop),
        store.list(0, &mut |_| {}),
        store.delete(&digest),
        store.put(&digest, &file(&content), 100),
    ];
    let mut last = String::new();
    for outcome in outcomes {
        let error = outcome.expect_err("it cannot be used");
        let RemoteError::Store { kind: found, .. } = &error else { panic!("{error}") };
        assert_eq!(*found, kind, "{error}");
        let debug = format!("{error:?} {store:?}");
        assert!(!debug.contains(SECRET) && !error.to_string().contains(SECRET), "{debug}");
        last = error.to_string();
        assert!(
            last.starts_with("cannot ") && last.contains(" in s3://artifacts/team/a/: "),
            "{last}"
        );
        assert!(last.contains("127.0.0.1") || last.contains("region"), "{last}");
    }
    last
}

fn with(credentials_: CredentialsSource, server: &S3s) -> S3Store {
    store(S3Settings { credentials: credentials_, ..server.settings() })
}

#[test]
fn an_unknown_access_key_and_a_wrong_secret_are_told_apart() {
    let server = S3s::start();
    let unknown = CredentialsSource::Environment(credentials("AKIANOBODY0000000000", SECRET));
    let text = refused(&with(unknown, &server), RemoteFailure::Credentials);
    assert!(text.contains("environment"), "{text}");
    let wrong = CredentialsSource::Environment(credentials(ACCESS, "not-this-one"));
    let text = refused(&with(wrong, &server), RemoteFailure::Credentials);
    assert!(text.contains("the secret key") && text.contains("does not belong"), "{text}");
}

#[test]
fn moto_refuses_wrong_credentials_and_a_missing_bucket_is_named() {
    let (server, keys) = moto();
    let ours = |credentials, bucket: &str| {
        store(S3Settings {
            credentials: CredentialsSource::Environment(credentials),
            bucket: bucket.to_owned(),
            ..settings(server.endpoint.clone())
        })
    };
    let text = refused(
        &ours(credentials("AKIANOBODY0000000000", SECRET), "artifacts"),
        RemoteFailure::Credentials,
    );
    assert!(text.contains("does not know the access key"), "{text}");
    let wrong = belljar::storage::blob::s3::Credentials {
        secret_key: credentials("x", SECRET).secret_key,
        ..keys.clone()
    };
    let text = refused(&ours(wrong, "artifacts"), RemoteFailure::Credentials);
    assert!(text.contains("does not belong to the access key"), "{text}");
    let store = ours(keys, "nobody-made-it");
    let content = bytes(1, 100);
    for outcome in [
        store.check().map(drop),
        store.get(&digest(&content), None, &mut io::sink()).map(drop),
        store.size(&digest(&content)).map(drop),
        store.delete(&digest(&content)),
        store.put(&digest(&content), &file(&content), 100),
    ] {
        let error = outcome.expect_err("there is no such bucket");
        assert!(!error.is_transient() && !error.needs_credentials(), "{error}");
        let text = error.to_string();
        assert!(text.contains("no bucket nobody-made-it"), "{text}");
        assert!(text.contains("storage.remote.bucket"), "{text}");
    }
}

#[test]
fn credentials_that_are_lacking_can_be_given_while_the_store_is_in_use() {
    let server = S3s::start();
    let store = with(CredentialsSource::Nowhere, &server);
    let error = store.check().expect_err("there are none");
    assert!(error.needs_credentials() && !error.is_transient(), "{error}");
    assert!(error.to_string().contains("AWS_ACCESS_KEY_ID"), "{error}");
    store.give_credentials(Some(&credentials(ACCESS, SECRET))).expect("text");
    store.check().expect("they are right");
    store.give_credentials(Some(&credentials(ACCESS, "wrong"))).expect("text");
    let error = store.check().expect_err("they are wrong");
    assert!(
        error.needs_credentials() && error.to_string().contains("given at run time"),
        "{error}"
    );
}

#[test]
fn the_right_region_is_told_when_the_server_tells_it() {
    let server = S3s::start();
    // As Amazon answers: with a header alone to HEAD, and a bucket that moved, or with a document.
    let moved = Proxy::new(server.address, |_, _| {
        Fate::Answer("HTTP/1.1 301 Moved Permanently\r\nx-amz-bucket-region: eu-central-1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned())
    });
    let text = refused(&store(settings(moved.url())), RemoteFailure::Configuration);
    assert!(text.contains("is in region eu-central-1 and not in us-east-1"), "{text}");
    assert!(text.contains("`storage.remote.region: eu-central-1`"), "{text}");
    let malformed = Proxy::new(server.address, |seen, _| match seen.method.as_str() {
        "HEAD" => Fate::Answer("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n".to_owned()),
        _ => {
            refusal("400 Bad Request", "AuthorizationHeaderMalformed", "<Region>us-west-2</Region>")
        }
    });
    let text = refused(&store(settings(malformed.url())), RemoteFailure::Configuration);
    assert!(text.contains("`storage.remote.region: us-west-2`"), "{text}");
}

#[test]
fn what_the_key_may_not_do_is_named_and_an_expired_token_is() {
    let server = S3s::start();
    let denied = Proxy::new(server.address, |_, _| refusal("403 Forbidden", "AccessDenied", ""));
    let store_of = |proxy: &Proxy| store(settings(proxy.url()));
    let content = bytes(1, 100);
    let put = |store: &S3Store| store.put(&digest(&content), &file(&content), 100);
    let error = put(&store_of(&denied)).expect_err("denied");
    assert!(!error.is_transient() && !error.needs_credentials(), "{error}");
    assert!(error.to_string().contains("s3:PutObject"), "{error}");
    let expired = Proxy::new(server.address, |_, _| refusal("400 Bad Request", "ExpiredToken", ""));
    let error = put(&store_of(&expired)).expect_err("expired");
    assert!(error.needs_credentials() && error.to_string().contains("expired"), "{error}");
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let free = TcpListener::bind("127.0.0.1:0").expect("bind");
    let url = format!("http://{}", free.local_addr().expect("address"));
    drop(free);
    let begun = Instant::now();
    let error = store(impatient(url.clone())).check().expect_err("nobody listens");
    assert!(error.is_transient(), "{error}");
    let text = error.to_string();
    assert!(text.contains(&url) && text.contains("refused"), "{text}");
    assert!(begun.elapsed() < Duration::from_secs(15), "who asks for the state waits for it");
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_refused_at_once() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let openssl = |arguments: &[&str]| {
        let mut command = Command::new("openssl");
        command.args(arguments).current_dir(directory.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        command
    };
    let made = openssl(&[
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        "k",
        "-out",
        "c",
        "-days",
        "2",
        "-subj",
        "/CN=127.0.0.1",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
    ])
    .status()
    .expect("openssl, which is in the Debian package openssl");
    assert!(made.success());
    let free = TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("address");
    let address = free.to_string();
    let mut server = openssl(&["s_server", "-accept", &address, "-key", "k", "-cert", "c", "-www"])
        .spawn()
        .expect("openssl");
    let mut said = BufReader::new(server.stdout.take().expect("a pipe"));
    let mut line = String::new();
    while !line.contains("ACCEPT") {
        line.clear();
        assert_ne!(said.read_line(&mut line).expect("readable"), 0, "openssl does not serve");
    }
    let error = store(settings(format!("https://{address}"))).check();
    server.kill().expect("kill");
    server.wait().expect("wait");
    let error = error.expect_err("its certificate is its own");
    assert!(!error.is_transient(), "{error}");
    let text = error.to_string();
    assert!(text.contains("SSL_CERT_FILE") && text.contains("certificate"), "{text}");
}

/// The three questions of IMDSv2, and the answer to what it was not asked.
#[test]
fn a_machines_role_gives_credentials_and_without_one_they_are_lacking() {
    let server = S3s::start();
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let endpoint = format!("http://{}", listener.local_addr().expect("address"));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("accept");
            let mut reader = BufReader::new(stream.try_clone().expect("clone"));
            let (mut first, mut token) = (String::new(), false);
            reader.read_line(&mut first).expect("request");
            let mut line = String::new();
            while reader.read_line(&mut line).expect("head") > 2 {
                token |=
                    line.to_ascii_lowercase().starts_with("x-aws-ec2-metadata-token: the-token");
                line.clear();
            }
            let body = match first.split(' ').nth(1).expect("a target") {
                "/latest/api/token" if first.starts_with("PUT") => "the-token".to_owned(),
                "/latest/meta-data/iam/security-credentials/" if token => "role".to_owned(),
                "/latest/meta-data/iam/security-credentials/role" if token => format!(
                    r#"{{"AccessKeyId":"{ACCESS}","SecretAccessKey":"{SECRET}","Token":"t","Expiration":"2099-01-01T00:00:00Z"}}"#
                ),
                _ => String::new(),
            };
            let status = if body.is_empty() { "404 Not Found" } else { "200 OK" };
            write!(
                stream,
                "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
            .expect("answer");
        }
    });
    with(CredentialsSource::InstanceMetadata { endpoint: endpoint.clone() }, &server)
        .check()
        .expect("the role's credentials are right");
    let endpoint = format!("{endpoint}/nothing");
    let error = with(CredentialsSource::InstanceMetadata { endpoint }, &server)
        .check()
        .expect_err("there is no role");
    assert!(error.needs_credentials() && error.to_string().contains("role"), "{error}");
}
