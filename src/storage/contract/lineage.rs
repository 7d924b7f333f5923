//! What every catalog must do with the inputs of runs.

use super::*;
use crate::storage::lineage::InputPlace;

fn input(run: RunId, number: u64, path: &str, content: Option<&str>) -> Input {
    Input {
        run,
        number,
        owner_uid: 1000,
        place: Some(InputPlace {
            mount: "output".parse().expect("name"),
            path: VirtualPath::parse(path).expect("path"),
            host_path: [b"/host/\xff", path.as_bytes()].concat(),
        }),
        size: Some(3),
        modified_at: Some(Timestamp::from_microsecond(-7).expect("time")),
        digest: content
            .map(|content| Digest::from_bytes(*blake3::hash(content.as_bytes()).as_bytes())),
        reason: content.is_none().then(|| "it changed".to_owned()),
        opened_at: Timestamp::from_microsecond(Timestamp::now().as_microsecond()).expect("now"),
    }
}

fn made(path: &str, content: &str, run: RunId, before: u64, until: u64) -> NewVersion {
    let inputs = Some(InputBounds { before, until });
    NewVersion { inputs, ..new_version(path, content, Some(run)) }
}

fn latest(catalog: &dyn Catalog, path: &str) -> VersionKey {
    let rows = catalog.list(None, &every()).expect("list").rows;
    let path = VirtualPath::parse(path).expect("path");
    let row = rows.iter().find(|row| row.place.as_ref().is_some_and(|(_, at)| *at == path));
    row.map(|row| (row.id, row.number)).expect("it is there")
}

#[test]
fn a_version_was_made_from_its_runs_inputs_up_to_its_close() {
    over_each_catalog(|catalog| {
        let run = RunId::generate();
        let rest = Input { place: None, size: None, modified_at: None, ..input(run, 4, "x", None) };
        let inputs = [
            input(run, 1, "a", Some("one")),
            input(run, 2, "b", None),
            input(run, 3, "late", Some("x")),
            rest,
        ];
        catalog.note_inputs(&inputs).expect("note");
        catalog.note_inputs(&[input(run, 1, "other", Some("y"))]).expect("note again");
        catalog.register(&[made("c", "out", run, 1, 2)]).expect("register");
        let found = catalog.made_from(latest(catalog, "c"), 10).expect("made from");
        assert_eq!(found.bounds, Some(InputBounds { before: 1, until: 2 }));
        let alone: Vec<_> = found.inputs.into_iter().map(|(input, _)| input).collect();
        assert_eq!(alone, inputs[..2], "in order, as they were noted first");

        let again = RunId::generate();
        catalog.register(&[made("c", "out", again, 0, 0)]).expect("the same bytes");
        catalog.register(&[made("c", "out", run, 0, 4)]).expect("the same bytes");
        let found = catalog.made_from(latest(catalog, "c"), 3).expect("made from");
        assert_eq!(found.bounds, Some(InputBounds { before: 1, until: 4 }), "all that it can be");
        assert_eq!(found.also_by, [again]);
        assert_eq!(found.inputs.len(), 3, "no more than asked for");
        let all = catalog.made_from(latest(catalog, "c"), 10).expect("made from").inputs;
        assert_eq!(all[3].0, inputs[3]);
    });
}

#[test]
fn where_nothing_was_seen_nothing_is_said() {
    over_each_catalog(|catalog| {
        catalog.register(&[new_version("a", "x", Some(RunId::generate()))]).expect("register");
        catalog.register(&[new_version("b", "x", None)]).expect("register");
        for path in ["a", "b"] {
            let found = catalog.made_from(latest(catalog, path), 10).expect("made from");
            assert!(found.bounds.is_none() && found.inputs.is_empty(), "{path}: {found:?}");
        }
        let none = (ArtifactId::generate(), 1);
        assert!(catalog.made_from(none, 10).expect("made from").inputs.is_empty());
        assert!(catalog.used_by(none, 10).expect("used by").is_empty());
    });
}

#[test]
fn an_input_is_the_version_of_its_owner_path_and_bytes_that_was_there() {
    over_each_catalog(|catalog| {
        let (run, other) = (RunId::generate(), 1001);
        let ago = |seconds| Timestamp::now() - jiff::SignedDuration::from_secs(seconds);
        // Long before: nearer in time is not what counts.
        let first = NewVersion { captured_at: ago(100), ..new_version("a", "one", None) };
        catalog.register(&[first]).expect("register");
        let theirs = NewVersion { owner_uid: other, ..new_version("a", "one", None) };
        catalog.register(&[theirs]).expect("register");
        let opened = input(run, 1, "a", Some("one"));
        catalog.register(&[new_version("a", "two", None)]).expect("register");
        // The same bytes once more, after the file was read.
        let third = NewVersion { captured_at: ago(-9), ..new_version("a", "one", None) };
        catalog.register(&[third]).expect("register");
        let inputs =
            [opened, input(run, 2, "a", Some("else")), input(run, 3, "elsewhere", Some("one"))];
        catalog.note_inputs(&inputs).expect("note");
        catalog.register(&[made("c", "out", run, 2, 3)]).expect("register");
        let found = catalog.made_from(latest(catalog, "c"), 10).expect("made from");
        let versions: Vec<_> = found.inputs.iter().map(|(_, version)| *version).collect();
        let (_, number) = versions[0].expect("recognised");
        assert_eq!(number, 1, "not the one that came later");
        assert_eq!(versions[1..], [None, None]);

        let id = versions[0].expect("recognised").0;
        let row = catalog.find(Some(1000), id, Which::Number(1)).expect("find");
        assert!(row.is_some(), "of the same owner");
        let uses = catalog.used_by((id, 1), 10).expect("used by");
        assert_eq!(uses.len(), 1);
        assert_eq!((uses[0].run, uses[0].while_open), (run, false));
        assert_eq!((uses[0].version.id, uses[0].version.number), latest(catalog, "c"));
        assert!(catalog.used_by((id, 3), 10).expect("used by").is_empty());
    });
}

#[test]
fn a_use_while_the_file_was_open_is_told_apart_and_a_later_one_is_none() {
    over_each_catalog(|catalog| {
        let run = RunId::generate();
        catalog.register(&[new_version("a", "one", None)]).expect("register");
        catalog.note_inputs(&[input(run, 2, "a", Some("one"))]).expect("note");
        let batch = [
            made("early", "1", run, 0, 1),
            made("meanwhile", "2", run, 1, 2),
            made("after", "3", run, 2, 2),
        ];
        catalog.register(&batch).expect("register");
        let mut uses: Vec<_> = catalog
            .used_by(latest(catalog, "a"), 10)
            .expect("used by")
            .into_iter()
            .map(|one| ((one.version.id, one.version.number), one.while_open))
            .collect();
        uses.sort_by_key(|(_, while_open)| *while_open);
        let expected = [(latest(catalog, "after"), false), (latest(catalog, "meanwhile"), true)];
        assert_eq!(uses, expected);
        assert_eq!(catalog.used_by(latest(catalog, "a"), 1).expect("used by").len(), 1);
    });
}
