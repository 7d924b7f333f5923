//! A workspace without a kernel: a real directory, a real state directory, and a file system in between that reports
//! writes as the real one does.

use belljar::artifact::{
    Artifacts, AttachedMount, AttachedWorkspace, Attachment, DrainScope, Drained, RunRecord,
    SecretSource, Settings,
};
use belljar::model::id::{RunId, WorkspaceId};
use belljar::model::path::VirtualPath;
use belljar::vfs::attributes::Time;
use belljar::vfs::observer::{
    FileKey, FileSource, Location, Opening, ReadStamp, Tracking, WriteObserver, Writer,
};
use belljar::wire::artifact::{Artifact, ArtifactQuery};
use belljar::wire::lineage::{LineageQuery, Made};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use uuid::Uuid;

pub const UID: u32 = 0;

/// The file system's side: names of files, and how many it was asked to pin.
pub struct Files {
    root: PathBuf,
    names: Mutex<HashMap<FileKey, Option<PathBuf>>>,
    pub pins: AtomicI64,
    /// The owner may read nothing.
    pub closed: AtomicBool,
}

impl FileSource for Files {
    fn locations(&self, file: FileKey) -> Vec<Location> {
        let names = self.names.lock().expect("names");
        names.get(&file).into_iter().flatten().map(location).collect()
    }

    fn open(&self, file: FileKey) -> io::Result<File> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let names = self.names.lock().expect("names");
        match names.get(&file) {
            Some(Some(path)) => File::open(self.root.join(path)),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn settled(&self, _file: FileKey) {
        self.pins.fetch_sub(1, Ordering::SeqCst);
    }
}

pub fn location(path: impl AsRef<Path>) -> Location {
    Location {
        mount: "output".parse().expect("name"),
        path: VirtualPath::parse(path).expect("path"),
    }
}

pub struct Workspace {
    pub id: WorkspaceId,
    pub root: PathBuf,
    pub files: Arc<Files>,
    pub run: Option<RunId>,
    attachment: Attachment,
    observer: Arc<dyn WriteObserver>,
    keys: Mutex<HashMap<PathBuf, FileKey>>,
    next: AtomicU64,
}

impl Workspace {
    pub fn attach(artifacts: &Artifacts, id: &str, root: &Path) -> Self {
        let metadata = fs::metadata(root).expect("the mount's directory");
        let id: WorkspaceId = id.parse().expect("id");
        let attachment = artifacts
            .attach(AttachedWorkspace {
                id: id.clone(),
                owner_uid: UID,
                mounts: vec![AttachedMount {
                    name: "output".parse().expect("name"),
                    host_path: root.to_owned(),
                    host_dev: metadata.dev(),
                    host_ino: metadata.ino(),
                    artifacts: true,
                }],
            })
            .expect("attach");
        let files = Arc::new(Files {
            root: root.to_owned(),
            names: Mutex::default(),
            pins: AtomicI64::new(0),
            closed: AtomicBool::new(false),
        });
        attachment.set_source(files.clone());
        let observer = attachment.observer();
        let root = root.to_owned();
        Self {
            id,
            root,
            files,
            run: None,
            attachment,
            observer,
            keys: Mutex::default(),
            next: AtomicU64::new(1),
        }
    }

    pub fn begin_run(&mut self, artifacts: &Artifacts) -> RunId {
        let id = RunId::generate();
        artifacts.begin_run(RunRecord {
            id,
            graph_id: Some("graph".into()),
            node_id: Some("node".into()),
        });
        self.run = Some(id);
        id
    }

    pub fn set_secrets(&self, secrets: Arc<dyn SecretSource>) {
        self.attachment.set_secrets(secrets);
    }

    fn writer(&self) -> Writer {
        Writer { run: self.run, pid: 1, uid: UID, command: Some(b"writer\0-v".to_vec()) }
    }

    fn count(&self, tracking: Tracking) {
        if tracking == Tracking::Began {
            self.files.pins.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// The file with this name, known to the file system or new to it.
    pub fn key(&self, path: impl AsRef<Path>) -> FileKey {
        let mut keys = self.keys.lock().expect("keys");
        *keys.entry(path.as_ref().to_owned()).or_insert_with(|| {
            let key = FileKey(self.next.fetch_add(1, Ordering::SeqCst));
            let name = Some(path.as_ref().to_owned());
            self.files.names.lock().expect("names").insert(key, name);
            key
        })
    }

    /// A file that is created exists before it is told of, as with the real file system.
    pub fn open(&self, path: impl AsRef<Path>) -> io::Result<FileKey> {
        let at = self.root.join(&path);
        fs::create_dir_all(at.parent().expect("parent")).expect("mkdir");
        if at.symlink_metadata().is_err() {
            File::options().append(true).create(true).open(at).expect("create");
        }
        let key = self.key(&path);
        self.count(self.observer.dirtied(key, &location(path), self.writer())?);
        Ok(key)
    }

    pub fn close(&self, key: FileKey, changed: bool) {
        self.observer.closed(key, changed);
    }

    pub fn write(&self, path: impl AsRef<Path>, bytes: &[u8]) {
        let key = self.open(&path).expect("open");
        fs::write(self.root.join(path), bytes).expect("write");
        self.close(key, true);
    }

    /// The run opens the file for reading.
    pub fn read(&self, path: impl AsRef<Path>) {
        struct Here<'a>(&'a Path, &'a AtomicI64);
        impl Opening for Here<'_> {
            fn location(&self) -> Option<Location> {
                Some(location(self.0))
            }
            fn pin(&self) {
                self.1.fetch_add(1, Ordering::SeqCst);
            }
        }
        let path = path.as_ref();
        let metadata = fs::metadata(self.root.join(path)).expect("the file");
        let stamp = ReadStamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            modified: Time { seconds: metadata.mtime(), nanoseconds: metadata.mtime_nsec() },
            changed: Time { seconds: metadata.ctime(), nanoseconds: metadata.ctime_nsec() },
        };
        let run = self.run.expect("a run");
        let opening = Here(path, &self.files.pins);
        self.observer.read_opened(self.key(path), Some(stamp), run, &opening);
    }

    pub fn rename(&self, from: &str, to: &str) {
        let key = self.key(from);
        fs::rename(self.root.join(from), self.root.join(to)).expect("rename");
        {
            let mut keys = self.keys.lock().expect("keys");
            let mut names = self.files.names.lock().expect("names");
            keys.remove(Path::new(from));
            if let Some(replaced) = keys.insert(to.into(), key) {
                names.insert(replaced, None);
            }
            names.insert(key, Some(to.into()));
        }
        let from = location(from);
        self.count(self.observer.named(key, Some(&from), &location(to), self.writer(), false));
    }

    pub fn remove(&self, path: &str) {
        let key = self.key(path);
        fs::remove_file(self.root.join(path)).expect("remove");
        self.keys.lock().expect("keys").remove(Path::new(path));
        self.files.names.lock().expect("names").insert(key, None);
        self.observer.removed(&location(path));
    }

    pub fn pins(&self) -> i64 {
        self.files.pins.load(Ordering::SeqCst)
    }

    /// As when the daemon dies: nothing of it may keep the service alive.
    pub fn forget(self) {
        drop(self.attachment);
    }
}

pub fn settings(state: &Path) -> Settings {
    Settings {
        debounce: Duration::from_millis(20),
        ..Settings::new(state.to_owned(), Uuid::now_v7())
    }
}

pub fn open(state: &Path) -> Artifacts {
    Artifacts::open(settings(state)).expect("open")
}

pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

pub fn wait_until(what: impl Fn() -> bool) {
    let deadline = soon();
    while !what() {
        assert!(Instant::now() < deadline, "it never came true");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn drain(artifacts: &Artifacts) -> Drained {
    artifacts.drain(DrainScope::All, soon())
}

pub fn shutdown(artifacts: Artifacts) {
    let drained = artifacts.shutdown(soon());
    assert!(drained.complete, "{drained:?}");
}

/// Every READY version, by path and number.
pub fn versions(artifacts: &Artifacts) -> Vec<Artifact> {
    let mut query =
        ArtifactQuery { all_versions: true, limit: Some(1000), ..ArtifactQuery::default() };
    let mut all = Vec::new();
    loop {
        let page = artifacts.list(None, &query).expect("list");
        all.extend(page.artifacts);
        match page.next {
            Some(next) => query.cursor = Some(next),
            None => break,
        }
    }
    all.sort_by(|a, b| (&a.path, a.version).cmp(&(&b.path, b.version)));
    all
}

pub fn paths(artifacts: &Artifacts) -> Vec<String> {
    versions(artifacts).into_iter().map(|a| format!("{}@{}", a.path, a.version)).collect()
}

pub fn content(artifacts: &Artifacts, reference: &str) -> Vec<u8> {
    let (_, mut file) = artifacts.content(None, reference).expect("content");
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).expect("read");
    bytes
}

/// What the latest version of a file was made from.
pub fn made_from(artifacts: &Artifacts, path: &str) -> Made {
    let path = format!("/workspace/output/{path}");
    let found = versions(artifacts).into_iter().rfind(|artifact| artifact.path == path);
    let reference = found.unwrap_or_else(|| panic!("{path} is there")).id.to_string();
    let lineage = artifacts.lineage(None, &reference, &LineageQuery::default()).expect("lineage");
    lineage.versions[0].made_from.clone().expect("the root is looked into")
}
