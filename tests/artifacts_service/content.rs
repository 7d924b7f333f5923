//! What a version says of its content: kind, metadata, the user's rules, and secrets that stand in it.

use super::world::*;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use belljar::artifact::declare::{Patience, Registration};
use belljar::artifact::{Artifacts, Error, SecretSource, Settings, Voice};
use belljar::config::SecretPolicy;
use belljar::config::rules::Rule;
use belljar::model::artifact::{Author, SecretScan};
use belljar::secret::SecretValue;
use belljar::secret::encoding::Extent;
use belljar::secret::find::Finder;
use belljar::wire::artifact::Artifact;
use belljar::wire::life::EventQuery;
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::tempdir;

const SECRET: &[u8] = b"tok-51HqLyjWDarjtT1zdp7dc";

/// A workspace with these secrets.
struct Secrets(Arc<Finder>, Arc<Finder>);

fn secrets(named: &[(&str, &[u8])]) -> Arc<Secrets> {
    let values: Vec<_> = named
        .iter()
        .map(|(name, value)| {
            let value = SecretValue::new(value.to_vec()).expect("small");
            (name.parse::<belljar::model::id::SecretName>().expect("legal"), value)
        })
        .collect();
    let finder = |extent| {
        let each = values.iter().map(|(name, value)| (name.clone(), value));
        Arc::new(Finder::new(each, extent))
    };
    Arc::new(Secrets(finder(Extent::Piece), finder(Extent::Whole)))
}

impl SecretSource for Secrets {
    fn finder(&self) -> Arc<Finder> {
        Arc::clone(&self.0)
    }

    fn masker(&self) -> Arc<Finder> {
        Arc::clone(&self.1)
    }
}

fn open_with(state: &Path, change: impl FnOnce(&mut Settings)) -> Artifacts {
    let mut settings = settings(state);
    change(&mut settings);
    Artifacts::open(settings).expect("open")
}

fn found(artifact: &Artifact) -> Vec<(String, String, u64)> {
    let each = artifact.secrets_found.iter();
    each.map(|f| (f.name.to_string(), f.encoding.clone(), f.position)).collect()
}

#[test]
fn a_version_says_what_its_content_is() {
    let (state, output) = (tempdir().expect("state"), tempdir().expect("output"));
    let artifacts = open(state.path());
    let workspace = Workspace::attach(&artifacts, "w", output.path());
    workspace.write("a-table.csv", b"x,y\n1,2\n3,4\n");
    workspace.write("b-page.png", b"<!DOCTYPE html><p>502");
    workspace.write("c-pixel.csv", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x02\0\0\0\x03");
    workspace.write("d-empty", b"");
    assert!(drain(&artifacts).complete);
    let all = versions(&artifacts);
    let kind = |artifact: &Artifact| {
        let suspected = artifact.suspected_type.as_ref().map(ToString::to_string);
        (artifact.artifact_type.to_string(), suspected, artifact.mime.clone())
    };
    let kinds: Vec<_> = all.iter().map(kind).collect();
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(kinds[0], ("data".into(), None, text("text/csv")));
    assert_eq!(kinds[1], ("image".into(), text("report"), text("text/html")));
    assert_eq!(kinds[2], ("image".into(), text("data"), text("image/png")));
    assert_eq!(kinds[3], ("file".into(), None, None));
    let metadata = |index: usize| serde_json::Value::from(all[index].metadata.clone());
    let table = json!({"columns": 2, "column_names": ["x", "y"], "rows": 2, "lines": 3});
    assert_eq!(metadata(0), table);
    assert_eq!(metadata(2), json!({"width": 2, "height": 3}));
    assert_eq!(metadata(3), json!({}));
    shutdown(artifacts);
}

#[test]
fn the_users_rules_outrank_what_is_detected() {
    let (state, output) = (tempdir().expect("state"), tempdir().expect("output"));
    let rule = |text: serde_json::Value| serde_json::from_value::<Rule>(text).expect("legal");
    let artifacts = open_with(state.path(), |settings| {
        settings.rules = vec![
            rule(
                json!({"match": "weights.csv", "type": "model", "metadata": {"rows": "mine", "team": 1}}),
            ),
            rule(json!({"match": ["logs/**", "*.bak"], "ignore": true})),
            rule(json!({"match": "kept.tmp", "ignore": false})),
            rule(json!({"match": "*.csv", "mount": "another", "ignore": true})),
        ];
    });
    let workspace = Workspace::attach(&artifacts, "w", output.path());
    for path in ["weights.csv", "logs/today/x", "x.bak", "kept.tmp", "other.tmp"] {
        workspace.write(path, b"a,b\n1,2\n");
    }
    assert!(drain(&artifacts).complete);
    let expected = ["/workspace/output/kept.tmp@1", "/workspace/output/weights.csv@1"];
    assert_eq!(paths(&artifacts), expected);
    let weights = &versions(&artifacts)[1];
    assert_eq!(weights.artifact_type.as_str(), "model");
    assert_eq!((&weights.metadata["rows"], &weights.metadata["team"]), (&json!("mine"), &json!(1)));
    assert_eq!(weights.metadata["columns"], 2);
    shutdown(artifacts);
}

#[test]
fn a_secret_in_a_file_is_named_by_every_policy_and_its_value_is_nowhere() {
    let encoded = STANDARD.encode(SECRET);
    for policy in [SecretPolicy::Warn, SecretPolicy::Quarantine, SecretPolicy::Block] {
        let (state, output) = (tempdir().expect("state"), tempdir().expect("output"));
        let artifacts = open_with(state.path(), |settings| settings.secrets = policy);
        let workspace = Workspace::attach(&artifacts, "w", output.path());
        workspace.set_secrets(secrets(&[("TOKEN", SECRET), ("OTHER", b"never-written")]));
        workspace.write("clean.txt", b"nothing to see");
        workspace.write("config.env", format!("TOKEN={encoded}\n").as_bytes());
        assert!(drain(&artifacts).complete);
        let all = versions(&artifacts);
        assert_eq!((found(&all[0]), all[0].secret_scan), (vec![], Some(SecretScan::Done)));
        let leak = &all[1];
        assert_eq!(found(leak), [("TOKEN".to_owned(), "base64".to_owned(), 6)]);
        assert_eq!(
            leak.quarantined,
            policy == SecretPolicy::Quarantine || policy == SecretPolicy::Block
        );
        assert_eq!(leak.content_kept, policy != SecretPolicy::Block);
        let reference = leak.id.to_string();
        // The owner in these tests is root, who asks as nobody in particular.
        match (policy, artifacts.content(None, &reference)) {
            (SecretPolicy::Warn | SecretPolicy::Quarantine, Ok(_)) => {}
            (SecretPolicy::Block, Err(Error::ContentBlocked { .. })) => {}
            (policy, answer) => panic!("{policy:?}: {answer:?}"),
        }
        shutdown(artifacts);
        let kept = files_with(state.path(), encoded.as_bytes());
        assert_eq!(kept, usize::from(policy != SecretPolicy::Block), "{policy:?}");
        assert_eq!(files_with(state.path(), SECRET), 0);
    }
}

/// How many files below `directory` hold these bytes.
fn files_with(directory: &Path, needle: &[u8]) -> usize {
    let mut count = 0;
    for entry in std::fs::read_dir(directory).expect("list").map(|entry| entry.expect("entry")) {
        let path = entry.path();
        if path.is_dir() {
            count += files_with(&path, needle);
        } else {
            let bytes = std::fs::read(&path).expect("read");
            count += usize::from(bytes.windows(needle.len()).any(|window| window == needle));
        }
    }
    count
}

#[test]
fn what_is_written_before_a_workspace_ends_is_searched_after_it_has_ended() {
    let (state, output) = (tempdir().expect("state"), tempdir().expect("output"));
    let artifacts = open_with(state.path(), |settings| {
        settings.debounce = Duration::from_millis(400);
    });
    let workspace = Workspace::attach(&artifacts, "w", output.path());
    let source = secrets(&[("TOKEN", SECRET)]);
    let held = Arc::downgrade(&source);
    workspace.set_secrets(source);
    workspace.write("late", SECRET);
    let id = workspace.id.clone();
    artifacts.detach(&id, UID);
    assert!(held.upgrade().is_some(), "a file of it is still followed");
    assert!(drain(&artifacts).complete);
    assert_eq!(found(&versions(&artifacts)[0]).len(), 1);
    // Its last file is registered: nobody needs its secrets any longer.
    wait_until(|| held.upgrade().is_none());
    shutdown(artifacts);
}

#[test]
fn without_the_secrets_a_version_says_that_they_were_not_known() {
    let (state, output) = (tempdir().expect("state"), tempdir().expect("output"));
    let artifacts = open(state.path());
    let workspace = Workspace::attach(&artifacts, "w", output.path());
    workspace.write("a", SECRET);
    assert!(drain(&artifacts).complete);
    workspace.set_secrets(secrets(&[]));
    workspace.write("b", b"x");
    assert!(drain(&artifacts).complete);
    let scans: Vec<_> = versions(&artifacts).iter().map(|artifact| artifact.secret_scan).collect();
    assert_eq!(scans, [Some(SecretScan::Unavailable), Some(SecretScan::NothingToFind)]);
    shutdown(artifacts);
}

#[test]
fn a_secret_that_becomes_known_later_closes_what_was_kept_before() {
    let (state, output) = (tempdir().expect("state"), tempdir().expect("output"));
    let artifacts = open_with(state.path(), |settings| settings.secrets = SecretPolicy::Block);
    let workspace = Workspace::attach(&artifacts, "w", output.path());
    workspace.set_secrets(secrets(&[]));
    workspace.write("a", SECRET);
    assert!(drain(&artifacts).complete);
    assert!(!versions(&artifacts)[0].quarantined);
    workspace.set_secrets(secrets(&[("TOKEN", SECRET)]));
    workspace.write("a", SECRET);
    assert!(drain(&artifacts).complete);
    let all = versions(&artifacts);
    assert_eq!((all.len(), all[0].quarantined, found(&all[0]).len()), (1, true, 1));
    shutdown(artifacts);
}

/// Registers a file of the host by an open descriptor.
fn send(artifacts: &Artifacts, path: &Path, workspace: Option<&str>) -> Artifact {
    let bytes = path.to_str().expect("text");
    let item = json!({ "path": bytes, "workspace": workspace });
    let registration = Registration {
        path: path.to_owned(),
        file: Some(std::fs::File::open(path).expect("open")),
        item: serde_json::from_value(item).expect("legal"),
    };
    let voice = Voice { owner: Some(UID), author: Author::User(UID), scope: None };
    let registered = artifacts.register(UID, &voice, None, vec![registration], Patience(soon()));
    registered.expect("register").remove(0).expect("registered")
}

#[test]
fn what_is_sent_is_examined_like_what_is_captured() {
    for policy in [SecretPolicy::Warn, SecretPolicy::Quarantine, SecretPolicy::Block] {
        let (state, output) = (tempdir().expect("state"), tempdir().expect("output"));
        let elsewhere = tempdir().expect("a directory outside of every mount point");
        let rule = json!({"match": "weights.csv", "type": "model", "metadata": {"team": 1}});
        let in_mount = json!({"match": "*.csv", "mount": "output", "type": "report"});
        let artifacts = open_with(state.path(), |settings| {
            settings.secrets = policy;
            settings.rules =
                [rule, in_mount].map(|r| serde_json::from_value(r).expect("legal")).into();
        });
        let workspace = Workspace::attach(&artifacts, "w", output.path());
        workspace.set_secrets(secrets(&[("TOKEN", SECRET)]));
        let file = |name: &str, bytes: &[u8]| {
            let path = elsewhere.path().join(name);
            std::fs::write(&path, bytes).expect("write");
            path
        };
        let table = send(&artifacts, &file("table.csv", b"x,y\n1,2\n"), None);
        assert_eq!(
            (table.artifact_type.as_str(), table.mime.as_deref()),
            ("data", Some("text/csv"))
        );
        assert_eq!((&table.metadata["rows"], &table.metadata["columns"]), (&json!(1), &json!(2)));
        assert_eq!(table.secret_scan, Some(SecretScan::Unavailable));
        let page = send(&artifacts, &file("page.png", b"<!DOCTYPE html><p>502"), None);
        assert_eq!(page.suspected_type.map(|t| t.to_string()).as_deref(), Some("report"));
        let weights = send(&artifacts, &file("weights.csv", b"x,y\n1,2\n"), None);
        let said = (weights.artifact_type.as_str(), &weights.metadata["team"]);
        assert_eq!(said, ("model", &json!(1)));
        // The workspace that is named is the one whose secrets are looked for.
        let leak = send(&artifacts, &file("leak.txt", SECRET), Some("w"));
        assert_eq!(found(&leak), [("TOKEN".to_owned(), "raw".to_owned(), 0)]);
        let closed = policy != SecretPolicy::Warn;
        assert_eq!((leak.quarantined, leak.content_kept), (closed, policy != SecretPolicy::Block));
        // What lies below a mount point is searched for that workspace's without being told to.
        let inside = output.path().join("inside.txt");
        std::fs::write(&inside, SECRET).expect("write");
        assert_eq!(found(&send(&artifacts, &inside, None)).len(), 1);
        let kept = files_with(state.path(), SECRET);
        assert_eq!(kept, usize::from(policy != SecretPolicy::Block), "{policy:?}");
        let events = artifacts.events(None, None, &EventQuery::default()).expect("events");
        let told = events.events.iter().filter(|event| event.kind == "quarantined").count();
        assert_eq!(told, if closed { 2 } else { 0 });
        shutdown(artifacts);
    }
}
