//! What the journal says, one record at a time, and its bytes.
//!
//! A record is framed as `length: u32, crc32: u32, payload`, all little-endian, the checksum being over the payload.
//! The payload is a tag and its fields in order; see `docs/decisions/0002-journal-and-recovery.md`. Bytes and not JSON,
//! because a record is written before the kernel is answered and names are not text.

use crate::model::id::{MountName, RunId, WorkspaceId};
use crate::model::path::VirtualPath;
use crate::storage::Process;
use crate::vfs::observer::FileKey;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use uuid::Uuid;

/// First bytes of a journal; the last one is the version of the format.
pub const MAGIC: &[u8; 8] = b"BLJRNL\0\x01";

/// Longest payload that is believed: a workspace with as many mount points as fit; a rename has two paths of PATH_MAX.
pub const PAYLOAD_BYTES_MAX: usize = 1024 * 1024;

/// A file that is followed: the workspace by its number in this journal, and the file in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileRef {
    pub workspace: u32,
    pub file: FileKey,
}

/// A name: the mount point by its position in the workspace, and the path below it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    pub mount: u16,
    pub path: VirtualPath,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkspaceRecord {
    pub number: u32,
    pub id: WorkspaceId,
    pub owner_uid: u32,
    /// Which boot of the machine the device numbers are from.
    pub boot: Uuid,
    pub mounts: Vec<MountRecord>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountRecord {
    pub name: MountName,
    pub host_path: PathBuf,
    pub host_dev: u64,
    pub host_ino: u64,
    pub artifacts: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunInfo {
    pub id: RunId,
    pub graph_id: Option<String>,
    pub node_id: Option<String>,
}

/// A process that wrote, by its number in this journal. Numbers are never given twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriterRecord {
    pub number: u32,
    pub process: Process,
}

/// The whole of what is known of a file, as it is written when the journal is rewritten or taken over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryRecord {
    pub file: FileRef,
    pub at: Place,
    /// The file has that name no more; it may get, or have, another.
    pub nameless: bool,
    pub run: Option<RunId>,
    /// Microseconds since 1970 UTC.
    pub dirtied_at: i64,
    /// Whether a close or a rename said that there is something to register; if not, the file was only opened.
    pub changed: bool,
    pub open: bool,
    pub closes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    Workspace(WorkspaceRecord),
    Run(RunInfo),
    Dirtied {
        file: FileRef,
        at: Place,
        run: Option<RunId>,
        dirtied_at: i64,
    },
    Closed {
        file: FileRef,
        changed: bool,
    },
    Named {
        file: FileRef,
        to: Place,
        run: Option<RunId>,
        open: bool,
        named_at: i64,
    },
    Moved {
        workspace: u32,
        from: Place,
        to: Place,
    },
    Settled {
        file: FileRef,
    },
    Entry(EntryRecord),
    Writer(WriterRecord),
    /// The process with this number opened the file last for writing.
    WrittenBy {
        file: FileRef,
        writer: u32,
    },
    /// The workspace's directories are to be looked through for what changed since that time and nobody noted.
    ScanWanted {
        workspace: u32,
        since: i64,
    },
    Scanned {
        workspace: u32,
    },
    /// The file got that name before the one that its entry says; only in a rewritten journal.
    NamedBefore {
        file: FileRef,
        at: Place,
    },
}

/// Appends the framed record.
pub fn encode(record: &Record, out: &mut Vec<u8>) {
    let frame = out.len();
    out.extend_from_slice(&[0; 8]);
    let mut put = Put(out);
    match record {
        Record::Workspace(workspace) => {
            put.byte(1);
            put.u32(workspace.number);
            put.bytes(workspace.id.as_str().as_bytes());
            put.u32(workspace.owner_uid);
            put.uuid(workspace.boot);
            put.u32(workspace.mounts.len() as u32);
            for mount in &workspace.mounts {
                put.bytes(mount.name.as_str().as_bytes());
                put.bytes(mount.host_path.as_os_str().as_bytes());
                put.u64(mount.host_dev);
                put.u64(mount.host_ino);
                put.byte(u8::from(mount.artifacts));
            }
        }
        Record::Run(run) => {
            put.byte(2);
            put.uuid(run.id.as_uuid());
            put.text(run.graph_id.as_deref());
            put.text(run.node_id.as_deref());
        }
        Record::Dirtied { file, at, run, dirtied_at } => {
            put.byte(3);
            put.file(*file);
            put.place(at);
            put.run(*run);
            put.u64(dirtied_at.cast_unsigned());
        }
        Record::Closed { file, changed } => {
            put.byte(4);
            put.file(*file);
            put.byte(u8::from(*changed));
        }
        Record::Named { file, to, run, open, named_at } => {
            put.byte(5);
            put.file(*file);
            put.place(to);
            put.run(*run);
            put.byte(u8::from(*open));
            put.u64(named_at.cast_unsigned());
        }
        Record::Moved { workspace, from, to } => {
            put.byte(6);
            put.u32(*workspace);
            put.place(from);
            put.place(to);
        }
        Record::Settled { file } => {
            put.byte(7);
            put.file(*file);
        }
        Record::Entry(entry) => {
            put.byte(8);
            put.file(entry.file);
            put.place(&entry.at);
            put.byte(u8::from(entry.nameless));
            put.run(entry.run);
            put.u64(entry.dirtied_at.cast_unsigned());
            put.byte(u8::from(entry.changed));
            put.byte(u8::from(entry.open));
            put.u64(entry.closes);
        }
        Record::Writer(writer) => {
            put.byte(9);
            put.u32(writer.number);
            put.u32(writer.process.pid);
            put.u32(writer.process.uid);
            put.byte(u8::from(writer.process.command.is_some()));
            if let Some(command) = &writer.process.command {
                put.bytes(command);
            }
        }
        Record::WrittenBy { file, writer } => {
            put.byte(10);
            put.file(*file);
            put.u32(*writer);
        }
        Record::ScanWanted { workspace, since } => {
            put.byte(11);
            put.u32(*workspace);
            put.u64(since.cast_unsigned());
        }
        Record::Scanned { workspace } => {
            put.byte(12);
            put.u32(*workspace);
        }
        Record::NamedBefore { file, at } => {
            put.byte(13);
            put.file(*file);
            put.place(at);
        }
    }
    let payload = &out[frame + 8..];
    let (length, checksum) = (payload.len() as u32, crc32fast::hash(payload));
    out[frame..frame + 4].copy_from_slice(&length.to_le_bytes());
    out[frame + 4..frame + 8].copy_from_slice(&checksum.to_le_bytes());
}

struct Put<'a>(&'a mut Vec<u8>);

impl Put<'_> {
    fn byte(&mut self, value: u8) {
        self.0.push(value);
    }
    fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    fn uuid(&mut self, value: Uuid) {
        self.0.extend_from_slice(value.as_bytes());
    }
    fn bytes(&mut self, value: &[u8]) {
        self.u32(value.len() as u32);
        self.0.extend_from_slice(value);
    }
    fn text(&mut self, value: Option<&str>) {
        self.byte(u8::from(value.is_some()));
        if let Some(text) = value {
            self.bytes(text.as_bytes());
        }
    }
    fn run(&mut self, value: Option<RunId>) {
        self.byte(u8::from(value.is_some()));
        if let Some(run) = value {
            self.uuid(run.as_uuid());
        }
    }
    fn file(&mut self, value: FileRef) {
        self.u32(value.workspace);
        self.u64(value.file.0);
    }
    fn place(&mut self, value: &Place) {
        self.u32(u32::from(value.mount));
        self.bytes(value.path.as_bytes());
    }
}

/// Records of a journal, and how many bytes could not be understood.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Decoded {
    pub records: Vec<Record>,
    /// Bytes in the middle that are no record: the disk or another program damaged the file.
    pub damaged_bytes: usize,
    /// Bytes at the end that are no whole record: the writer died while it wrote.
    pub torn_bytes: usize,
}

/// Reads the records after [`MAGIC`]. Damage costs the damaged records and no others: the next frame whose checksum is
/// right is looked for byte by byte.
pub fn decode(mut bytes: &[u8]) -> Decoded {
    let mut decoded = Decoded::default();
    let mut skipped = 0;
    while !bytes.is_empty() {
        if let Some((record, length)) = decode_one(bytes) {
            decoded.records.push(record);
            decoded.damaged_bytes += std::mem::take(&mut skipped);
            bytes = &bytes[length..];
        } else {
            skipped += 1;
            bytes = &bytes[1..];
        }
    }
    decoded.torn_bytes = skipped;
    decoded
}

fn decode_one(bytes: &[u8]) -> Option<(Record, usize)> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (checksum, rest) = rest.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length) as usize;
    if length == 0 || length > PAYLOAD_BYTES_MAX {
        return None;
    }
    let payload = rest.get(..length)?;
    // The tag is looked at first, so that the search through damage computes few checksums.
    if !(1..=13).contains(&payload[0]) || crc32fast::hash(payload) != u32::from_le_bytes(*checksum)
    {
        return None;
    }
    let mut get = Get(payload);
    let record = get.record()?;
    get.0.is_empty().then_some((record, 8 + length))
}

struct Get<'a>(&'a [u8]);

impl<'a> Get<'a> {
    fn record(&mut self) -> Option<Record> {
        Some(match self.byte()? {
            1 => {
                let number = self.u32()?;
                let id = std::str::from_utf8(self.bytes()?).ok()?.parse().ok()?;
                let owner_uid = self.u32()?;
                let boot = self.uuid()?;
                let count = self.u32()?;
                let mounts = (0..count).map(|_| self.mount()).collect::<Option<_>>()?;
                Record::Workspace(WorkspaceRecord { number, id, owner_uid, boot, mounts })
            }
            2 => Record::Run(RunInfo {
                id: self.run_id()?,
                graph_id: self.text()?,
                node_id: self.text()?,
            }),
            3 => Record::Dirtied {
                file: self.file()?,
                at: self.place()?,
                run: self.run()?,
                dirtied_at: self.u64()?.cast_signed(),
            },
            4 => Record::Closed { file: self.file()?, changed: self.flag()? },
            5 => Record::Named {
                file: self.file()?,
                to: self.place()?,
                run: self.run()?,
                open: self.flag()?,
                named_at: self.u64()?.cast_signed(),
            },
            6 => Record::Moved { workspace: self.u32()?, from: self.place()?, to: self.place()? },
            7 => Record::Settled { file: self.file()? },
            8 => Record::Entry(EntryRecord {
                file: self.file()?,
                at: self.place()?,
                nameless: self.flag()?,
                run: self.run()?,
                dirtied_at: self.u64()?.cast_signed(),
                changed: self.flag()?,
                open: self.flag()?,
                closes: self.u64()?,
            }),
            9 => Record::Writer(WriterRecord {
                number: self.u32()?,
                process: Process {
                    pid: self.u32()?,
                    uid: self.u32()?,
                    command: if self.flag()? { Some(self.bytes()?.to_owned()) } else { None },
                },
            }),
            10 => Record::WrittenBy { file: self.file()?, writer: self.u32()? },
            11 => Record::ScanWanted { workspace: self.u32()?, since: self.u64()?.cast_signed() },
            12 => Record::Scanned { workspace: self.u32()? },
            13 => Record::NamedBefore { file: self.file()?, at: self.place()? },
            _ => return None,
        })
    }

    fn mount(&mut self) -> Option<MountRecord> {
        Some(MountRecord {
            name: std::str::from_utf8(self.bytes()?).ok()?.parse().ok()?,
            host_path: PathBuf::from(OsStr::from_bytes(self.bytes()?)),
            host_dev: self.u64()?,
            host_ino: self.u64()?,
            artifacts: self.flag()?,
        })
    }

    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }
    fn flag(&mut self) -> Option<bool> {
        match self.byte()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }
    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }
    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
    fn uuid(&mut self) -> Option<Uuid> {
        self.array().map(Uuid::from_bytes)
    }
    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()? as usize;
        let (first, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(first)
    }
    fn text(&mut self) -> Option<Option<String>> {
        if !self.flag()? {
            return Some(None);
        }
        String::from_utf8(self.bytes()?.to_owned()).ok().map(Some)
    }
    fn run_id(&mut self) -> Option<RunId> {
        self.uuid()?.to_string().parse().ok()
    }
    fn run(&mut self) -> Option<Option<RunId>> {
        if self.flag()? { self.run_id().map(Some) } else { Some(None) }
    }
    fn file(&mut self) -> Option<FileRef> {
        Some(FileRef { workspace: self.u32()?, file: FileKey(self.u64()?) })
    }
    fn place(&mut self) -> Option<Place> {
        let mount = u16::try_from(self.u32()?).ok()?;
        let path = VirtualPath::parse(OsStr::from_bytes(self.bytes()?)).ok()?;
        Some(Place { mount, path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Record> {
        let file = FileRef { workspace: 3, file: FileKey(u64::MAX) };
        let place = |path: &[u8]| Place {
            mount: 2,
            path: VirtualPath::parse(OsStr::from_bytes(path)).expect("path"),
        };
        let run = Some(RunId::generate());
        vec![
            Record::Workspace(WorkspaceRecord {
                number: 3,
                id: "w".parse().expect("id"),
                owner_uid: 7,
                boot: Uuid::now_v7(),
                mounts: vec![MountRecord {
                    name: "out".parse().expect("name"),
                    host_path: PathBuf::from(OsStr::from_bytes(b"/a/\xff\n")),
                    host_dev: 1,
                    host_ino: 2,
                    artifacts: true,
                }],
            }),
            Record::Run(RunInfo {
                id: RunId::generate(),
                graph_id: Some("g".into()),
                node_id: None,
            }),
            Record::Dirtied { file, at: place(b"a/\xffb\n"), run, dirtied_at: -1 },
            Record::Closed { file, changed: true },
            Record::Named { file, to: place(b"c"), run: None, open: false, named_at: 5 },
            Record::Moved { workspace: 3, from: place(b"d"), to: place(b"e") },
            Record::Settled { file },
            Record::Entry(EntryRecord {
                file,
                at: place(b"f"),
                nameless: true,
                run,
                dirtied_at: 5,
                changed: true,
                open: false,
                closes: 9,
            }),
            Record::Writer(WriterRecord {
                number: 5,
                process: Process { pid: 1, uid: 2, command: Some(b"cp\0a\0\xff".to_vec()) },
            }),
            Record::Writer(WriterRecord {
                number: u32::MAX,
                process: Process { pid: 1, uid: 2, command: None },
            }),
            Record::WrittenBy { file, writer: 5 },
            Record::ScanWanted { workspace: 3, since: -7 },
            Record::Scanned { workspace: 3 },
            Record::NamedBefore { file, at: place(b"g") },
        ]
    }

    fn encoded(records: &[Record]) -> (Vec<u8>, Vec<usize>) {
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for record in records {
            encode(record, &mut bytes);
            ends.push(bytes.len());
        }
        (bytes, ends)
    }

    #[test]
    fn every_record_reads_back() {
        let records = samples();
        let decoded = decode(&encoded(&records).0);
        assert_eq!(decoded, Decoded { records, damaged_bytes: 0, torn_bytes: 0 });
    }

    #[test]
    fn a_tail_torn_at_any_byte_costs_only_the_last_record() {
        let records = samples();
        let (bytes, ends) = encoded(&records);
        for length in 0..bytes.len() {
            let whole = ends.iter().take_while(|&&end| end <= length).count();
            let decoded = decode(&bytes[..length]);
            assert_eq!(decoded.records, records[..whole], "cut at {length}");
            assert_eq!(decoded.damaged_bytes, 0, "cut at {length}");
        }
    }

    #[test]
    fn damage_in_the_middle_costs_only_the_damaged_record() {
        let records = samples();
        let (bytes, ends) = encoded(&records);
        for position in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[position] ^= 0x5a;
            let hit = ends.iter().take_while(|&&end| end <= position).count();
            let mut expected = records.clone();
            expected.remove(hit);
            assert_eq!(decode(&damaged).records, expected, "damage at {position}");
        }
    }

    #[test]
    fn any_bytes_are_survived() {
        proptest::proptest!(|(bytes: Vec<u8>)| {
            decode(&bytes);
        });
    }
}
