//! The system calls that are compared, and how they are generated.

use nix::fcntl::{FallocateFlags, OFlag};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde::Serialize;

/// A path or target. Shown as text when a case fails.
#[derive(Clone, Serialize)]
#[serde(transparent)]
pub struct Bytes(Vec<u8>);

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = &self.0[..self.0.len().min(40)];
        write!(f, "\"{}\"", shown.escape_ascii())?;
        if shown.len() < self.0.len() { write!(f, "({})", self.0.len()) } else { Ok(()) }
    }
}

/// A path, relative to the working directory or to what is open in a slot.
#[derive(Debug, Clone, Serialize)]
pub struct Place {
    at: Option<u8>,
    path: Bytes,
}

/// Seconds with the nanoseconds of utimensat(2), which also say "now" and "as it was".
#[derive(Debug, Clone, Serialize)]
pub struct Time {
    seconds: i64,
    nanoseconds: i64,
}

#[derive(Debug, Clone, Serialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Op {
    Open { place: Place, flags: i32, mode: u32, slot: u8 },
    Mkdir { place: Place, mode: u32 },
    Mknod { place: Place, mode: u32 },
    Unlink { place: Place },
    Rmdir { place: Place },
    Rename { place: Place, to: Place, flags: u32 },
    Link { place: Place, to: Place, flags: i32 },
    Symlink { place: Place, target: Bytes },
    Readlink { place: Place },
    Stat { place: Place, follow: bool },
    Truncate { place: Place, size: i64 },
    Chmod { place: Place, mode: u32 },
    Chown { place: Place, uid: i64, gid: i64, follow: bool },
    Utimens { place: Place, atime: Time, mtime: Time, follow: bool },
    Access { place: Place, mode: i32 },
    Chdir { place: Place },
    Statfs { place: Place },
    Setxattr { place: Place, name: &'static str, value: Bytes, flags: i32, follow: bool },
    Getxattr { place: Place, name: &'static str, follow: bool },
    Listxattr { place: Place, follow: bool },
    Removexattr { place: Place, name: &'static str, follow: bool },
    Close { slot: u8 },
    Umask { mask: u32 },
    Fchdir { slot: u8 },
    Fstat { slot: u8 },
    Pread { slot: u8, offset: i64, length: u32 },
    Read { slot: u8, length: u32 },
    Pwrite { slot: u8, offset: i64, length: u32, byte: u8 },
    Write { slot: u8, length: u32, byte: u8 },
    Lseek { slot: u8, offset: i64, whence: i32 },
    Ftruncate { slot: u8, size: i64 },
    Fsync { slot: u8, data_only: bool },
    Fchmod { slot: u8, mode: u32 },
    Fchown { slot: u8, uid: i64, gid: i64 },
    Futimens { slot: u8, atime: Time, mtime: Time },
    Fallocate { slot: u8, mode: i32, offset: i64, length: i64 },
    CopyFileRange { slot: u8, to: u8, offset: i64, to_offset: i64, length: u32 },
    Map { slot: u8, offset: u32, byte: u8 },
    Flock { slot: u8, how: i32 },
    Setlk { slot: u8, kind: i16, start: i64, length: i64 },
    Getlk { slot: u8, kind: i16, start: i64, length: i64 },
    Fsetxattr { slot: u8, name: &'static str, value: Bytes, flags: i32 },
    LinkOpen { slot: u8, to: Place },
    Reopen { slot: u8, flags: i32 },
    Entries { slot: u8 },
}

#[derive(Debug, Clone)]
pub struct Step {
    /// Which of the users.
    pub who: usize,
    pub op: Op,
}

const O_PATH: i32 = OFlag::O_PATH.bits();

fn path() -> impl Strategy<Value = Bytes> {
    let plain = [
        "a", "b", "d", "e", "s", "t", "g", "l", "d/a", "d/b", "d/e", "d/s", "s/a", "s/b", "t/a",
        "t/b", "t/e", "g/a", "g/e", "d/e/a", "e/a", "e/b", "g/e/a",
    ];
    let odd = [
        ".", "..", "../a", "../d/a", "d/..", "d/../a", "e/../b", "a/", "d/", "e/", "e/.", "a/b",
        "l/a", "", "d//a", "./a", "s/..",
    ];
    prop_oneof![
        12 => select(plain.to_vec()).prop_map(|path| Bytes(path.into())),
        3 => select(odd.to_vec()).prop_map(|path| Bytes(path.into())),
        1 => select(vec![
            vec![b'n'; 255],
            vec![b'n'; 256],
            [b"d/".as_slice(), &[b'n'; 255]].concat(),
            b"\xff\xfe".to_vec(),
            b"d/\xe9\n".to_vec(),
            [b"d/".repeat(2047).as_slice(), b"a"].concat(),
            b"./".repeat(2048),
        ]).prop_map(Bytes),
    ]
}

fn place() -> impl Strategy<Value = Place> {
    (prop_oneof![5 => Just(None), 1 => (0..3u8).prop_map(Some)], path())
        .prop_map(|(at, path)| Place { at, path })
}

fn mode() -> impl Strategy<Value = u32> {
    prop_oneof![
        4 => select(vec![0o644, 0o600, 0o755, 0o777, 0o666, 0o000, 0o400, 0o222, 0o700, 0o070, 0o660]),
        2 => select(vec![0o1777, 0o2775, 0o2777, 0o4755, 0o2755, 0o6777, 0o2644, 0o1644]),
        1 => 0..0o7777u32,
    ]
}

fn flags() -> impl Strategy<Value = i32> {
    let access = select(vec![OFlag::O_RDONLY, OFlag::O_WRONLY, OFlag::O_RDWR, OFlag::O_RDWR]);
    let more = select(vec![
        OFlag::empty(),
        OFlag::empty(),
        OFlag::empty(),
        OFlag::O_CREAT,
        OFlag::O_CREAT,
        OFlag::O_CREAT,
        OFlag::O_CREAT | OFlag::O_EXCL,
        OFlag::O_CREAT | OFlag::O_TRUNC,
        OFlag::O_CREAT | OFlag::O_APPEND,
        OFlag::O_CREAT | OFlag::O_NOFOLLOW,
        OFlag::O_CREAT | OFlag::O_DIRECTORY,
        OFlag::O_TRUNC,
        OFlag::O_APPEND,
        OFlag::O_APPEND | OFlag::O_TRUNC,
        OFlag::O_NOFOLLOW,
        OFlag::O_DIRECTORY,
        OFlag::O_EXCL,
        OFlag::O_NOATIME,
        OFlag::O_SYNC,
        OFlag::O_DSYNC,
        OFlag::O_PATH,
        OFlag::O_PATH | OFlag::O_NOFOLLOW,
        OFlag::O_PATH | OFlag::O_DIRECTORY,
    ]);
    prop_oneof![
        8 => (access, more).prop_map(|(access, more)| (access | more).bits()),
        2 => Just((OFlag::O_RDONLY | OFlag::O_DIRECTORY).bits()),
    ]
}

fn time() -> impl Strategy<Value = Time> {
    const UTIME_NOW: i64 = (1 << 30) - 1;
    const UTIME_OMIT: i64 = (1 << 30) - 2;
    prop_oneof![
        4 => (1000..900_000_000i64, 0..1_000_000_000i64),
        1 => Just((-5, 7)),
        1 => Just((0, UTIME_NOW)),
        1 => Just((0, UTIME_OMIT)),
        1 => Just((5, 1_000_000_000)),
    ]
    .prop_map(|(seconds, nanoseconds)| Time { seconds, nanoseconds })
}

fn id() -> impl Strategy<Value = i64> {
    select(vec![-1, 0, 12345, 12346, 500, 77])
}

fn slot() -> impl Strategy<Value = u8> {
    0..3u8
}

fn offset() -> impl Strategy<Value = i64> {
    prop_oneof![
        6 => 0..20i64,
        3 => select(vec![4095, 4096, 4097, 8192, 65536, 70000, 131_071]),
        1 => select(vec![-1, i64::MAX, 1 << 44]),
    ]
}

/// Where the kernel would look at the largest offset by itself, of which FUSE tells it nothing.
fn near() -> impl Strategy<Value = i64> {
    prop_oneof![9 => 0..20i64, 2 => Just(70000), 1 => Just(-1)]
}

fn size() -> impl Strategy<Value = i64> {
    prop_oneof![
        6 => 0..20i64,
        3 => select(vec![4095, 4096, 4097, 8192, 70000]),
        1 => select(vec![-1, i64::MAX]),
    ]
}

fn length() -> impl Strategy<Value = u32> {
    prop_oneof![6 => 0..20u32, 2 => select(vec![4096, 5000, 70000, 140_000])]
}

/// An access control list as the kernel reads it (linux/posix_acl_xattr.h).
fn list(entries: &[(u16, u16, u32)]) -> Bytes {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    Bytes(bytes)
}

fn lists() -> Vec<Bytes> {
    const NONE: u32 = u32::MAX;
    const OWNER: u16 = 1;
    const USER: u16 = 2;
    const OWNING_GROUP: u16 = 4;
    const GROUP: u16 = 8;
    const MASK: u16 = 16;
    const OTHER: u16 = 32;
    vec![
        list(&[(OWNER, 6, NONE), (OWNING_GROUP, 4, NONE), (OTHER, 0, NONE)]),
        list(&[
            (OWNER, 7, NONE),
            (USER, 7, 12345),
            (OWNING_GROUP, 0, NONE),
            (MASK, 7, NONE),
            (OTHER, 0, NONE),
        ]),
        list(&[
            (OWNER, 7, NONE),
            (USER, 0, 12345),
            (OWNING_GROUP, 7, NONE),
            (GROUP, 7, 12345),
            (MASK, 5, NONE),
            (OTHER, 7, NONE),
        ]),
        // No mask beside a named user: not valid.
        list(&[(OWNER, 7, NONE), (USER, 7, 1), (OWNING_GROUP, 7, NONE), (OTHER, 7, NONE)]),
        list(&[]),
        Bytes(vec![1, 2, 3]),
    ]
}

fn attribute() -> impl Strategy<Value = (&'static str, Bytes)> {
    const LISTS: [&str; 2] = ["system.posix_acl_access", "system.posix_acl_default"];
    // Others are no part of a workspace: what programs may give powers with, or hide from their users.
    const OTHERS: [&str; 4] = ["user.a", "user.b", "user.c", "user."];
    let values = vec![Bytes(vec![]), Bytes(b"value".to_vec()), Bytes(vec![7; 300])];
    prop_oneof![
        (select(LISTS.to_vec()), select(lists())),
        (select(OTHERS.to_vec()), select(values)),
    ]
}

fn names() -> impl Strategy<Value = Op> {
    let targets = ["a", "b", "d", "e", ".", "..", "l", "d/a", "../a", "s", "nothing", ""];
    let target = prop_oneof![
        9 => select(targets.to_vec()).prop_map(|target| Bytes(target.into())),
        1 => select(vec![Bytes(vec![b't'; 4095]), Bytes(vec![b't'; 4096]), Bytes(b"\xff".to_vec())]),
    ];
    // S_IFIFO, S_IFSOCK, S_IFREG, S_IFCHR, S_IFBLK, S_IFDIR and what is none.
    let kind = select(vec![0o010_000, 0o140_000, 0o100_000, 0, 0o020_000, 0o060_000, 0o040_000]);
    let at_flags = select(vec![0, 0, 0x400, 0x1000]);
    prop_oneof![
        8 => (place(), flags(), mode(), slot())
            .prop_map(|(place, flags, mode, slot)| Op::Open { place, flags, mode, slot }),
        4 => (place(), mode()).prop_map(|(place, mode)| Op::Mkdir { place, mode }),
        2 => (place(), kind, mode())
            .prop_map(|(place, kind, mode)| Op::Mknod { place, mode: kind | mode }),
        3 => place().prop_map(|place| Op::Unlink { place }),
        2 => place().prop_map(|place| Op::Rmdir { place }),
        6 => (place(), place(), select(vec![0, 0, 0, 1, 2, 2, 3, 8]))
            .prop_map(|(place, to, flags)| Op::Rename { place, to, flags }),
        3 => (place(), place(), at_flags)
            .prop_map(|(place, to, flags)| Op::Link { place, to, flags }),
        3 => (place(), target).prop_map(|(place, target)| Op::Symlink { place, target }),
        1 => place().prop_map(|place| Op::Readlink { place }),
        2 => place().prop_map(|place| Op::Chdir { place }),
    ]
}

fn attributes() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (place(), any::<bool>()).prop_map(|(place, follow)| Op::Stat { place, follow }),
        2 => (place(), size()).prop_map(|(place, size)| Op::Truncate { place, size }),
        3 => (place(), mode()).prop_map(|(place, mode)| Op::Chmod { place, mode }),
        3 => (place(), id(), id(), any::<bool>())
            .prop_map(|(place, uid, gid, follow)| Op::Chown { place, uid, gid, follow }),
        2 => (place(), time(), time(), any::<bool>())
            .prop_map(|(place, atime, mtime, follow)| Op::Utimens { place, atime, mtime, follow }),
        2 => (place(), 0..8i32).prop_map(|(place, mode)| Op::Access { place, mode }),
        1 => place().prop_map(|place| Op::Statfs { place }),
        4 => (place(), attribute(), select(vec![0, 0, 1, 2]), any::<bool>()).prop_map(
            |(place, (name, value), flags, follow)| {
                Op::Setxattr { place, name, value, flags, follow }
            }
        ),
        1 => (place(), attribute(), any::<bool>())
            .prop_map(|(place, (name, _), follow)| Op::Getxattr { place, name, follow }),
        1 => (place(), any::<bool>())
            .prop_map(|(place, follow)| Op::Listxattr { place, follow }),
        1 => (place(), attribute(), any::<bool>())
            .prop_map(|(place, (name, _), follow)| Op::Removexattr { place, name, follow }),
        1 => select(vec![0, 0o022, 0o077, 0o777]).prop_map(|mask| Op::Umask { mask }),
    ]
}

fn open_files() -> impl Strategy<Value = Op> {
    let keep_size = FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE;
    // FUSE has no way to say that a range is taken out or put in: the kernel answers EOPNOTSUPP by itself.
    let fallocate = select(
        [
            FallocateFlags::empty(),
            keep_size,
            punch | keep_size,
            punch,
            FallocateFlags::FALLOC_FL_ZERO_RANGE,
            FallocateFlags::FALLOC_FL_ZERO_RANGE | keep_size,
        ]
        .map(|flags| flags.bits())
        .to_vec(),
    );
    // F_RDLCK, F_WRLCK, F_UNLCK.
    let kind = || select(vec![0i16, 1, 1, 2]);
    let reopened = flags()
        .prop_map(|flags| flags & !(O_PATH | OFlag::O_NOFOLLOW.bits() | OFlag::O_CREAT.bits()));
    prop_oneof![
        2 => slot().prop_map(|slot| Op::Close { slot }),
        1 => slot().prop_map(|slot| Op::Fchdir { slot }),
        2 => slot().prop_map(|slot| Op::Fstat { slot }),
        3 => (slot(), offset(), length())
            .prop_map(|(slot, offset, length)| Op::Pread { slot, offset, length }),
        2 => (slot(), length()).prop_map(|(slot, length)| Op::Read { slot, length }),
        3 => (slot(), offset(), length(), any::<u8>()).prop_map(|(slot, offset, length, byte)| {
            Op::Pwrite { slot, offset, length, byte }
        }),
        4 => (slot(), length(), any::<u8>())
            .prop_map(|(slot, length, byte)| Op::Write { slot, length, byte }),
        2 => (slot(), near(), 0..6i32)
            .prop_map(|(slot, offset, whence)| Op::Lseek { slot, offset, whence }),
        2 => (slot(), size()).prop_map(|(slot, size)| Op::Ftruncate { slot, size }),
        1 => (slot(), any::<bool>()).prop_map(|(slot, data_only)| Op::Fsync { slot, data_only }),
        1 => (slot(), mode()).prop_map(|(slot, mode)| Op::Fchmod { slot, mode }),
        1 => (slot(), id(), id()).prop_map(|(slot, uid, gid)| Op::Fchown { slot, uid, gid }),
        1 => (slot(), time(), time())
            .prop_map(|(slot, atime, mtime)| Op::Futimens { slot, atime, mtime }),
        2 => (slot(), fallocate, offset(), size()).prop_map(|(slot, mode, offset, length)| {
            Op::Fallocate { slot, mode, offset, length }
        }),
        2 => (slot(), slot(), offset(), near(), length()).prop_map(
            |(slot, to, offset, to_offset, length)| {
                // Nothing to copy never reaches the server, which alone would know a wrong offset.
                Op::CopyFileRange { slot, to, offset, to_offset, length: length.max(1) }
            }
        ),
        2 => (slot(), 0..20u32, any::<u8>())
            .prop_map(|(slot, offset, byte)| Op::Map { slot, offset, byte }),
        2 => (slot(), select(vec![1, 2, 2, 8])).prop_map(|(slot, how)| Op::Flock { slot, how }),
        2 => (slot(), kind(), 0..20i64, 0..9i64)
            .prop_map(|(slot, kind, start, length)| Op::Setlk { slot, kind, start, length }),
        1 => (slot(), kind(), 0..20i64, 0..9i64)
            .prop_map(|(slot, kind, start, length)| Op::Getlk { slot, kind, start, length }),
        1 => (slot(), attribute(), select(vec![0, 1, 2])).prop_map(|(slot, (name, value), flags)| {
            Op::Fsetxattr { slot, name, value, flags }
        }),
        1 => (slot(), place()).prop_map(|(slot, to)| Op::LinkOpen { slot, to }),
        1 => (slot(), reopened).prop_map(|(slot, flags)| Op::Reopen { slot, flags }),
        2 => slot().prop_map(|slot| Op::Entries { slot }),
    ]
}

/// What everybody has open when a case begins, so that steps meet open files from the first on.
pub fn openings() -> Vec<Step> {
    let open = |who, slot, path: &str, flags: OFlag| {
        let place = Place { at: None, path: Bytes(path.into()) };
        Step { who, op: Op::Open { place, flags: flags.bits(), mode: 0, slot } }
    };
    vec![
        open(0, 0, "d", OFlag::O_DIRECTORY),
        open(0, 1, "a", OFlag::O_RDWR),
        open(1, 0, "t", OFlag::O_DIRECTORY),
        open(1, 1, "a", OFlag::O_RDWR),
        open(2, 0, "g", OFlag::O_DIRECTORY),
        open(2, 1, "t/b", OFlag::O_RDWR),
    ]
}

pub fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    let op = prop_oneof![4 => names(), 2 => attributes(), 4 => open_files()];
    vec((0..3usize, op).prop_map(|(who, op)| Step { who, op }), 1..most)
}
