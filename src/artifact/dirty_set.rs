//! What has been written and is not registered yet: the journal's records, applied.
//!
//! The same code follows the records while they are written and when a dead instance's journal is read, so that both
//! always agree. It does no I/O and knows no clock: the time is handed in. When something is due is decided in
//! `schedule`.

use super::older::Older;
use super::record::{EntryRecord, FileRef, Place, Record, RunInfo, WorkspaceRecord, WriterRecord};
use super::schedule::{Lane, Pending, Schedule, Stuck};
use super::writers::Writers;
use crate::model::id::{RunId, WorkspaceId};
use crate::storage::Process;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

/// About what one followed file takes in a rewritten journal, with a path of ordinary length.
const ENTRY_BYTES: u64 = 160;

/// A file between its first open for writing and its registration.
#[derive(Debug)]
pub(super) struct Entry {
    pub place: Place,
    pub older: Older,
    /// The name was removed or given to another file; the file system may know another one.
    pub nameless: bool,
    /// The run that wrote last; the bytes are its.
    pub run: Option<RunId>,
    /// The process that opened it last for writing.
    pub writer: Option<Arc<WriterRecord>>,
    pub dirtied_at: i64,
    /// A close or a rename said that there is something to register.
    pub changed: bool,
    pub open: bool,
    /// When a descriptor of it was closed last, while it is open all the same: the kernel may be about to say more.
    pub closing: Option<Instant>,
    /// Its workspace went away while it was open: whether it changed is not known.
    pub uncertain: bool,
    pub closes: u64,
    /// Counts what happened to the file, so that a copy in progress can tell that it was overtaken.
    pub generation: u64,
    /// The first close that no registration stands for yet.
    pub pending: Option<Pending>,
    /// The same, for the copy in progress.
    pub taken: Option<Pending>,
    pub copying: bool,
    pub lane: Lane,
    pub due: Option<Instant>,
    pub tries: u32,
    pub stuck: Option<Stuck>,
}

impl Entry {
    fn new(place: Place, run: Option<RunId>, dirtied_at: i64) -> Self {
        Self {
            place,
            older: Older::default(),
            nameless: false,
            run,
            writer: None,
            dirtied_at,
            changed: false,
            open: false,
            closing: None,
            uncertain: false,
            closes: 0,
            generation: 0,
            pending: None,
            taken: None,
            copying: false,
            lane: Lane::Small,
            due: None,
            tries: 0,
            stuck: None,
        }
    }

    /// Something happened: what was copied before, or failed before, says nothing any more.
    pub(super) fn overtaken(&mut self) {
        self.generation += 1;
        self.tries = 0;
        self.stuck = None;
        self.lane = Lane::Small;
    }
}

#[derive(Debug)]
struct Run {
    info: Arc<RunInfo>,
    ended: bool,
}

#[derive(Debug, Default)]
pub(super) struct DirtySet {
    pub(super) workspaces: HashMap<u32, Arc<WorkspaceRecord>>,
    runs: HashMap<RunId, Run>,
    writers: Writers,
    /// Workspaces that are to be scanned, and since when changes count (microseconds since 1970).
    scans: BTreeMap<u32, i64>,
    pub(super) files: HashMap<FileRef, Entry>,
    /// Which followed file has a name; nameless files are not here.
    pub(super) names: BTreeMap<(u32, Place), FileRef>,
    pub(super) schedule: Schedule,
    /// About what older names took in the journal when it was rewritten last.
    older_bytes: u64,
}

impl DirtySet {
    pub fn new(schedule: Schedule) -> Self {
        Self { schedule, ..Self::default() }
    }

    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// About how long a journal is that says what is known and nothing else.
    pub fn journal_bytes(&self) -> u64 {
        let files = self.files.len() as u64 * ENTRY_BYTES;
        files + self.older_bytes + self.writers.journal_bytes()
    }

    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.scans.is_empty()
    }

    pub fn follows(&self, file: FileRef) -> bool {
        self.files.contains_key(&file)
    }

    /// Whether a file of this workspace is followed. Looks at all of them until one is found.
    pub fn follows_any_of(&self, workspace: u32) -> bool {
        self.files.keys().any(|file| file.workspace == workspace)
    }

    pub fn workspace(&self, number: u32) -> Option<&Arc<WorkspaceRecord>> {
        self.workspaces.get(&number)
    }

    pub fn workspaces_called(&self, owner_uid: u32, id: &WorkspaceId) -> Vec<u32> {
        let same = |w: &&Arc<WorkspaceRecord>| w.owner_uid == owner_uid && w.id == *id;
        self.workspaces.values().filter(same).map(|workspace| workspace.number).collect()
    }

    pub fn run(&self, id: RunId) -> Option<&Arc<RunInfo>> {
        self.runs.get(&id).map(|run| &run.info)
    }

    /// Does what the record says.
    pub fn apply(&mut self, record: &Record, now: Instant) {
        match record {
            Record::Workspace(workspace) => {
                self.workspaces.insert(workspace.number, Arc::new(workspace.clone()));
            }
            Record::Run(run) => {
                let run = Run { info: Arc::new(run.clone()), ended: false };
                self.runs.insert(run.info.id, run);
            }
            Record::Dirtied { file, at, run, dirtied_at } => {
                let new = || Entry::new(at.clone(), *run, *dirtied_at);
                let entry = self.files.entry(*file).or_insert_with(new);
                entry.overtaken();
                entry.open = true;
                entry.run = *run;
                entry.writer = None;
                if entry.older.contains(at) {
                    // Opened by a name that it had all the time: the order of its names stays.
                    self.reschedule(*file, now);
                } else {
                    self.give_name(*file, at, now);
                }
            }
            Record::Closed { file, changed } => {
                let sequence = self.schedule.next_sequence();
                let Some(entry) = self.files.get_mut(file) else { return };
                entry.open = false;
                entry.closing = None;
                if *changed {
                    entry.overtaken();
                    entry.changed = true;
                    entry.closes += 1;
                }
                if entry.changed {
                    entry.pending.get_or_insert(Pending { since: now, sequence });
                }
                self.reschedule(*file, now);
            }
            Record::Named { file, to, run, open, named_at } => {
                let sequence = self.schedule.next_sequence();
                let new = || Entry::new(to.clone(), *run, *named_at);
                let entry = self.files.entry(*file).or_insert_with(new);
                entry.overtaken();
                entry.changed = true;
                entry.open = *open;
                entry.run = entry.run.or(*run);
                if !*open {
                    entry.pending.get_or_insert(Pending { since: now, sequence });
                }
                self.give_name(*file, to, now);
            }
            Record::Moved { workspace, from, to } => self.move_names(*workspace, from, to, now),
            Record::Settled { file } => self.forget(*file),
            Record::Entry(record) => {
                let sequence = self.schedule.next_sequence();
                let mut entry = Entry::new(record.at.clone(), record.run, record.dirtied_at);
                entry.changed = record.changed;
                entry.nameless = record.nameless;
                entry.open = record.open;
                entry.closes = record.closes;
                if record.changed {
                    entry.pending = Some(Pending { since: now, sequence });
                }
                self.files.insert(record.file, entry);
                if record.nameless {
                    self.reschedule(record.file, now);
                } else {
                    self.give_name(record.file, &record.at, now);
                }
            }
            Record::Writer(writer) => self.writers.insert(writer.clone()),
            Record::WrittenBy { file, writer } => {
                if let Some(entry) = self.files.get_mut(file) {
                    entry.writer = self.writers.get(*writer);
                }
            }
            Record::ScanWanted { workspace, since } => {
                self.scans.insert(*workspace, *since);
            }
            Record::Scanned { workspace } => {
                self.scans.remove(workspace);
            }
            Record::NamedBefore { file, at } => {
                if let Some(entry) = self.files.get_mut(file) {
                    entry.older.push(at.clone());
                }
            }
        }
    }

    pub fn scans(&self) -> &BTreeMap<u32, i64> {
        &self.scans
    }

    /// The records with which a file gets its writer: who that is, unless the journal says so already, and that it is.
    pub fn written_by(&mut self, file: FileRef, process: &Process) -> Vec<Record> {
        let (number, new) = self.writers.number_of(process);
        let new = new.map(Record::Writer);
        new.into_iter().chain([Record::WrittenBy { file, writer: number }]).collect()
    }

    /// Gives the writers of another journal numbers of this one.
    pub fn next_writer(&mut self) -> u32 {
        self.writers.next()
    }

    /// A descriptor of the file was closed; whether it was the last is told next.
    pub fn closing(&mut self, file: FileRef, now: Instant) {
        if let Some(entry) = self.files.get_mut(&file) {
            entry.closing = Some(now);
        }
    }

    /// The workspace is gone, and with it every writable handle.
    pub fn orphan(&mut self, workspace: u32, now: Instant) {
        let of_workspace = |file: &FileRef| file.workspace == workspace;
        let files: Vec<_> = self.files.keys().copied().filter(of_workspace).collect();
        for file in files {
            let sequence = self.schedule.next_sequence();
            let Some(entry) = self.files.get_mut(&file) else { continue };
            if entry.open {
                entry.overtaken();
                entry.open = false;
                entry.uncertain = true;
                entry.pending.get_or_insert(Pending { since: now, sequence });
            }
            self.reschedule(file, now);
        }
        self.forget_unused();
    }

    /// Runs that write no more; they are remembered for as long as a file of theirs is followed.
    pub fn end_runs(&mut self, runs: impl IntoIterator<Item = RunId>) {
        for id in runs {
            if let Some(run) = self.runs.get_mut(&id) {
                run.ended = true;
            }
        }
        self.forget_unused();
    }

    /// No longer follows the file.
    pub fn forget(&mut self, file: FileRef) {
        if let Some(entry) = self.files.remove(&file) {
            if let Some(due) = entry.due {
                self.schedule.cancel(file, due);
            }
            let name = (file.workspace, entry.place);
            if self.names.get(&name) == Some(&file) {
                self.names.remove(&name);
            }
        }
    }

    /// Records that say all that is known, in an order in which they can be applied. `attached` tells which workspaces
    /// are needed although no file of theirs is followed.
    pub fn records(&mut self, attached: impl Fn(u32) -> bool) -> Vec<Record> {
        let used: std::collections::HashSet<u32> =
            self.files.keys().map(|file| file.workspace).collect();
        let scans = &self.scans;
        self.workspaces.retain(|number, _| {
            used.contains(number) || attached(*number) || scans.contains_key(number)
        });
        self.forget_unused();
        self.writers.forget_unused();
        let workspaces = self.workspaces.values().map(|w| Record::Workspace((**w).clone()));
        let runs = self.runs.values().map(|run| Record::Run((*run.info).clone()));
        let files = self.files.iter().map(|(file, entry)| {
            Record::Entry(EntryRecord {
                file: *file,
                at: entry.place.clone(),
                nameless: entry.nameless,
                run: entry.run,
                dirtied_at: entry.dirtied_at,
                changed: entry.changed,
                open: entry.open || entry.uncertain,
                closes: entry.closes,
            })
        });
        let older = self.files.iter().flat_map(|(file, entry)| {
            let each = entry.older.as_slice().iter();
            each.map(|at| Record::NamedBefore { file: *file, at: at.clone() })
        });
        let count: usize = self.files.values().map(|entry| entry.older.as_slice().len()).sum();
        self.older_bytes = count as u64 * ENTRY_BYTES;
        let writers = self.writers.all().map(|writer| Record::Writer((**writer).clone()));
        let written = self.files.iter().filter_map(|(file, entry)| {
            let writer = entry.writer.as_ref()?.number;
            Some(Record::WrittenBy { file: *file, writer })
        });
        let scans = self
            .scans
            .iter()
            .map(|(workspace, since)| Record::ScanWanted { workspace: *workspace, since: *since });
        let known = workspaces.chain(runs).chain(writers).chain(files);
        known.chain(older).chain(written).chain(scans).collect()
    }

    /// Forgets runs that ended and wrote nothing that is still followed.
    fn forget_unused(&mut self) {
        let used: std::collections::HashSet<RunId> =
            self.files.values().filter_map(|entry| entry.run).collect();
        self.runs.retain(|id, run| !run.ended || used.contains(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::record::MountRecord;
    use crate::artifact::schedule::{DrainScope, Job, Need, Postponed};
    use crate::model::path::VirtualPath;
    use crate::vfs::observer::FileKey;
    use std::time::Duration;
    use uuid::Uuid;

    const DEBOUNCE: Duration = Duration::from_millis(100);
    const DEBOUNCE_MAX: Duration = Duration::from_millis(500);

    struct World {
        set: DirtySet,
        now: Instant,
        records: Vec<Record>,
    }

    fn file(key: u64) -> FileRef {
        FileRef { workspace: 1, file: FileKey(key) }
    }

    fn place(path: &str) -> Place {
        Place { mount: 0, path: VirtualPath::parse(path).expect("path") }
    }

    impl World {
        fn new() -> Self {
            let schedule = Schedule::new(DEBOUNCE, DEBOUNCE_MAX);
            let mut world =
                Self { set: DirtySet::new(schedule), now: Instant::now(), records: Vec::new() };
            world.apply(Record::Workspace(WorkspaceRecord {
                number: 1,
                id: "w".parse().expect("id"),
                owner_uid: 1000,
                boot: Uuid::nil(),
                mounts: vec![MountRecord {
                    name: "out".parse().expect("name"),
                    host_path: "/host".into(),
                    host_dev: 1,
                    host_ino: 1,
                    artifacts: true,
                }],
            }));
            world
        }

        fn apply(&mut self, record: Record) {
            self.set.apply(&record, self.now);
            self.records.push(record);
        }

        fn open(&mut self, key: u64, path: &str) {
            self.apply(Record::Dirtied {
                file: file(key),
                at: place(path),
                run: None,
                dirtied_at: 7,
            });
        }

        fn close(&mut self, key: u64, changed: bool) {
            self.apply(Record::Closed { file: file(key), changed });
        }

        fn name(&mut self, key: u64, path: &str) {
            let (file, to) = (file(key), place(path));
            self.apply(Record::Named { file, to, run: None, open: false, named_at: 7 });
        }

        fn after(&mut self, time: Duration) -> Vec<Job> {
            self.now += time;
            self.set.take_due(Lane::Small, 100, self.now)
        }

        /// Paths that would be recovered if the daemon died here.
        fn recoverable(&self) -> Vec<(String, bool)> {
            let mut left = DirtySet::default();
            for record in &self.records {
                left.apply(record, self.now);
            }
            let mut paths: Vec<_> = left
                .records(|_| false)
                .into_iter()
                .filter_map(|record| match record {
                    Record::Entry(entry) if !entry.nameless => {
                        Some((entry.at.path.as_path().display().to_string(), entry.changed))
                    }
                    _ => None,
                })
                .collect();
            paths.sort();
            paths
        }
    }

    #[test]
    fn a_closed_file_is_due_when_it_was_quiet_and_not_while_it_is_open() {
        let mut world = World::new();
        world.open(1, "a");
        assert!(world.after(DEBOUNCE * 9).is_empty(), "open");
        world.close(1, true);
        assert!(world.after(DEBOUNCE / 2).is_empty(), "not quiet yet");
        world.open(1, "a");
        assert!(world.after(DEBOUNCE).is_empty(), "open again");
        world.close(1, true);
        let jobs = world.after(DEBOUNCE);
        assert_eq!((jobs.len(), jobs[0].closes, jobs[0].need), (1, 2, Need::Register));
        assert!(world.set.finish(&jobs[0], world.now));
        assert!(world.set.is_empty());
    }

    #[test]
    fn a_file_that_never_gets_quiet_is_due_after_the_longest_wait() {
        let mut world = World::new();
        let mut waited = Duration::ZERO;
        loop {
            world.open(1, "a");
            world.close(1, true);
            if !world.after(DEBOUNCE / 2).is_empty() {
                break;
            }
            waited += DEBOUNCE / 2;
            assert!(waited <= DEBOUNCE_MAX + DEBOUNCE, "never due");
        }
        assert!(waited >= DEBOUNCE_MAX - DEBOUNCE);
    }

    #[test]
    fn an_open_that_changed_nothing_needs_nothing_and_is_settled_at_once() {
        let mut world = World::new();
        world.open(1, "a");
        world.close(1, false);
        let jobs = world.after(Duration::ZERO);
        assert_eq!((jobs.len(), jobs[0].need), (1, Need::Nothing));
    }

    #[test]
    fn a_rename_into_place_leaves_only_the_final_name() {
        let mut world = World::new();
        world.open(1, "out.csv");
        world.close(1, true);
        world.open(2, ".out.csv.x");
        world.close(2, true);
        world.name(2, "out.csv");
        assert_eq!(world.recoverable(), [("out.csv".to_owned(), true)]);
        let jobs = world.after(DEBOUNCE);
        let nameless: Vec<_> = jobs.iter().map(|job| (job.file.file.0, job.nameless)).collect();
        assert_eq!(nameless, [(1, true), (2, false)]);
    }

    #[test]
    fn files_move_with_their_directory() {
        let mut world = World::new();
        for (key, path) in [(1, "d/a"), (2, "d/e/b"), (3, "d-other"), (4, "da/x")] {
            world.open(key, path);
            world.close(key, true);
        }
        world.apply(Record::Moved { workspace: 1, from: place("d"), to: place("z") });
        let names: Vec<_> = world.recoverable().into_iter().map(|(path, _)| path).collect();
        assert_eq!(names, ["d-other", "da/x", "z/a", "z/e/b"]);
    }

    #[test]
    fn a_copy_that_was_overtaken_settles_nothing() {
        let mut world = World::new();
        world.open(1, "a");
        world.close(1, true);
        let job = world.after(DEBOUNCE).remove(0);
        world.open(1, "a");
        assert!(!world.set.is_current(&job));
        assert!(!world.set.finish(&job, world.now));
        assert!(world.after(DEBOUNCE * 9).is_empty(), "open");
        world.close(1, true);
        let again = world.after(DEBOUNCE).remove(0);
        assert_eq!(again.closes, 1, "the first close was registered");
        assert!(world.set.finish(&again, world.now));
    }

    #[test]
    fn what_failed_comes_up_again_and_ever_later() {
        let mut world = World::new();
        world.open(1, "a");
        world.close(1, true);
        let mut pause = Duration::ZERO;
        for _ in 0..20 {
            let mut waited = DEBOUNCE;
            let mut jobs = world.after(DEBOUNCE);
            while jobs.is_empty() {
                waited += DEBOUNCE;
                jobs = world.after(DEBOUNCE);
                assert!(waited < Duration::from_secs(6));
            }
            assert!(waited + DEBOUNCE >= pause);
            pause = waited;
            let why = Postponed::Failed { reason: "disk full".into(), hopeless: false };
            world.set.postpone(&jobs[0], why, world.now);
        }
        let drain = world.set.begin_drain(DrainScope::All, world.now);
        assert!(world.set.has_to_wait(&drain));
        let drained = world.set.drained(&drain);
        assert_eq!(drained.incomplete, [("/workspace/out/a".to_owned(), "disk full".to_owned())]);
        assert_eq!(world.after(Duration::ZERO).len(), 1, "somebody waits: at once");
    }

    #[test]
    fn a_sync_waits_for_closes_before_it_and_not_for_later_ones() {
        let mut world = World::new();
        world.open(1, "before");
        world.close(1, true);
        world.open(2, "open");
        let drain = world.set.begin_drain(DrainScope::Owner(1000), world.now);
        let other = world.set.begin_drain(DrainScope::Owner(1001), world.now);
        world.open(3, "after");
        world.close(3, true);
        assert!(world.set.has_to_wait(&drain));
        assert!(!world.set.has_to_wait(&other));
        let jobs = world.after(Duration::ZERO);
        assert_eq!(jobs.len(), 2, "all is due at once while somebody waits");
        for job in jobs.iter().filter(|job| job.file == file(1)) {
            world.set.finish(job, world.now);
        }
        assert!(!world.set.has_to_wait(&drain));
        assert!(world.set.drained(&drain).complete);
    }

    #[test]
    fn what_was_open_when_its_workspace_went_away_is_uncertain() {
        let mut world = World::new();
        world.open(1, "a");
        world.set.orphan(1, world.now);
        let jobs = world.after(DEBOUNCE);
        assert_eq!(jobs[0].need, Need::RegisterIfTouchedSince(7));
    }

    /// A file with two names that lost one is still written through the other.
    #[test]
    fn a_nameless_file_keeps_through_a_rewrite_that_it_changed() {
        let mut world = World::new();
        world.open(1, "a");
        world.close(1, true);
        world.open(2, "a");
        world.records = world.set.records(|_| true);
        world.open(1, "b");
        assert_eq!(world.recoverable(), [("a".to_owned(), false), ("b".to_owned(), true)]);
    }

    /// Whatever happens, a journal that was rewritten at that moment recovers the same files as the original one.
    #[test]
    fn rewriting_the_journal_at_any_moment_loses_nothing() {
        use proptest::prelude::*;
        let step = (0..6u8, 1..4u64, 0..4usize, any::<bool>());
        proptest!(|(steps in proptest::collection::vec(step, 0..40), cut in 0..40usize)| {
            const PATHS: [&str; 4] = ["a", "d/a", "d/b", "e/a"];
            let mut plain = World::new();
            let mut rewritten = World::new();
            for (index, (what, key, path, flag)) in steps.into_iter().enumerate() {
                for world in [&mut plain, &mut rewritten] {
                    let follows = world.set.follows(file(key));
                    match what {
                        0 | 1 => world.open(key, PATHS[path]),
                        2 | 3 if follows => world.close(key, flag),
                        4 => world.name(key, PATHS[path]),
                        5 => world.apply(Record::Moved { workspace: 1, from: place("d"), to: place("e") }),
                        _ => {}
                    }
                }
                if index == cut {
                    rewritten.records = rewritten.set.records(|_| true);
                }
            }
            prop_assert_eq!(plain.recoverable(), rewritten.recoverable());
        });
    }

    #[test]
    fn older_names_are_kept_in_order_and_survive_a_rewrite() {
        let mut world = World::new();
        let named = |to: &str| Record::Named {
            file: file(1),
            to: place(to),
            run: None,
            open: false,
            named_at: 0,
        };
        world.apply(Record::Dirtied { file: file(1), at: place("a"), run: None, dirtied_at: 0 });
        world.apply(Record::Closed { file: file(1), changed: true });
        for name in ["b", "c", "d"] {
            world.apply(named(name));
        }
        // Renamed from b, and opened once more by its oldest name.
        world.set.renamed_from(file(1), &place("b"));
        world.apply(Record::Dirtied { file: file(1), at: place("a"), run: None, dirtied_at: 0 });
        let names = |set: &DirtySet| {
            let entry = &set.files[&file(1)];
            let older = entry.older.as_slice().iter();
            older.chain([&entry.place]).cloned().collect::<Vec<_>>()
        };
        assert_eq!(names(&world.set), ["a", "c", "d"].map(place));
        let mut again = DirtySet::default();
        for record in world.set.records(|_| true) {
            again.apply(&record, world.now);
        }
        assert_eq!(names(&again), ["a", "c", "d"].map(place));
        // Without the last name it has the others.
        again.removed(1, &place("d"), world.now);
        assert_eq!(names(&again), ["a", "c"].map(place));
        for name in ["c", "a"] {
            assert!(!again.files[&file(1)].nameless);
            again.removed(1, &place(name), world.now);
        }
        assert!(again.files[&file(1)].nameless);
    }
}
