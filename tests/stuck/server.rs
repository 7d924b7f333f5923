//! The process that serves a file system which gets into trouble on request: a plain directory, shown through FUSE.
//!
//! A process of its own, as nobody may touch a mount that he serves himself, and a test that starts processes does so
//! before it knows it: what it has open below the mount is closed by them, too. It takes orders from its standard input,
//! answers each with a line, and ends with that input, however the test ends.

use belljar::fuse::adapter::WorkspaceFilesystem;
use belljar::fuse::session::{Mounted, Purpose};
use belljar::model::access::Access;
use belljar::model::id::SecretName;
use belljar::model::mount::{CachePolicy, SetId};
use belljar::policy::mount_table::{MountPoint, MountTable};
use belljar::secret::SecretValue;
use belljar::vfs::control::{ControlSource, ControlTree, Secrets};
use belljar::vfs::descriptors::DescriptorBudget;
use belljar::vfs::observer::{FileKey, Location, Tracking, WriteObserver, Writer};
use belljar::vfs::{Attribution, Parts, Vfs};
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, INodeNo, LockOwner, OpenFlags,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow,
    WriteFlags,
};
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::SystemTime;

/// What the file system does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    None,
    /// It takes requests and does not answer.
    Silence,
    /// Everything fails with EIO.
    Broken,
    /// Writing fails with ENOSPC.
    Full,
    /// Changing anything fails with EROFS.
    ReadOnly,
}

impl Trouble {
    const ALL: [Self; 5] = [Self::None, Self::Silence, Self::Broken, Self::Full, Self::ReadOnly];

    /// How an order names it.
    pub fn word(self) -> String {
        format!("{self:?}")
    }
}

/// Which troubles a request has a part in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Look,
    /// Needs room.
    Grow,
    Change,
}

#[derive(Debug)]
struct State {
    trouble: Mutex<Trouble>,
    changed: Condvar,
}

impl State {
    /// Waits out a silence; then the error to answer with, if there is one.
    fn admit(&self, kind: Kind) -> Option<Errno> {
        let mut trouble = self.trouble.lock().unwrap();
        while *trouble == Trouble::Silence {
            trouble = self.changed.wait(trouble).unwrap();
        }
        match (*trouble, kind) {
            (Trouble::Broken, _) => Some(Errno::EIO),
            (Trouble::Full, Kind::Grow) => Some(Errno::ENOSPC),
            (Trouble::ReadOnly, Kind::Grow | Kind::Change) => Some(Errno::EROFS),
            _ => None,
        }
    }
}

struct Deaf;

impl WriteObserver for Deaf {
    fn dirtied(&self, _: FileKey, _: &Location, _: Writer) -> io::Result<Tracking> {
        Ok(Tracking::Ignored)
    }
    fn closed(&self, _: FileKey, _: bool) {}
    fn named(
        &self,
        _: FileKey,
        _: Option<&Location>,
        _: &Location,
        _: Writer,
        _: bool,
    ) -> Tracking {
        Tracking::Ignored
    }
    fn directory_moved(&self, _: &Location, _: &Location, _: Writer) {}
    fn removed(&self, _: &Location) {}
}

struct Nothing;

impl Attribution for Nothing {
    fn run_of(&self, _: u32) -> Option<belljar::model::id::RunId> {
        None
    }
}

impl ControlSource for Nothing {
    fn environment(&self) -> Vec<u8> {
        Vec::new()
    }
    fn manifest(&self) -> Vec<u8> {
        Vec::new()
    }
    fn secret_names(&self) -> Vec<SecretName> {
        Vec::new()
    }
    fn secret(&self, _: &SecretName) -> Option<SecretValue> {
        None
    }
}

struct Server {
    inner: WorkspaceFilesystem,
    state: Arc<State>,
}

macro_rules! admitted {
    ($($kind:ident $name:ident($($argument:ident: $type:ty),*) -> $reply:ty;)*) => {
        $(
            #[allow(clippy::too_many_arguments)]
            fn $name(&self, request: &Request, $($argument: $type,)* reply: $reply) {
                match self.state.admit(Kind::$kind) {
                    None => self.inner.$name(request, $($argument,)* reply),
                    Some(errno) => reply.error(errno),
                }
            }
        )*
    };
}

impl Filesystem for Server {
    fn forget(&self, request: &Request, node: INodeNo, count: u64) {
        self.inner.forget(request, node, count);
    }

    admitted! {
        Look lookup(parent: INodeNo, name: &OsStr) -> ReplyEntry;
        Look getattr(node: INodeNo, handle: Option<FileHandle>) -> ReplyAttr;
        Change setattr(node: INodeNo, mode: Option<u32>, uid: Option<u32>, gid: Option<u32>, size: Option<u64>, atime: Option<TimeOrNow>, mtime: Option<TimeOrNow>, ctime: Option<SystemTime>, handle: Option<FileHandle>, crtime: Option<SystemTime>, chgtime: Option<SystemTime>, bkuptime: Option<SystemTime>, flags: Option<BsdFileFlags>) -> ReplyAttr;
        Look readlink(node: INodeNo) -> ReplyData;
        Grow mknod(parent: INodeNo, name: &OsStr, mode: u32, umask: u32, rdev: u32) -> ReplyEntry;
        Grow mkdir(parent: INodeNo, name: &OsStr, mode: u32, umask: u32) -> ReplyEntry;
        Change unlink(parent: INodeNo, name: &OsStr) -> ReplyEmpty;
        Change rmdir(parent: INodeNo, name: &OsStr) -> ReplyEmpty;
        Grow symlink(parent: INodeNo, name: &OsStr, target: &Path) -> ReplyEntry;
        Change rename(parent: INodeNo, name: &OsStr, new_parent: INodeNo, new_name: &OsStr, flags: RenameFlags) -> ReplyEmpty;
        Grow link(node: INodeNo, parent: INodeNo, name: &OsStr) -> ReplyEntry;
        Look open(node: INodeNo, flags: OpenFlags) -> ReplyOpen;
        Grow create(parent: INodeNo, name: &OsStr, mode: u32, umask: u32, flags: i32) -> ReplyCreate;
        Look read(node: INodeNo, handle: FileHandle, offset: u64, size: u32, flags: OpenFlags, owner: Option<LockOwner>) -> ReplyData;
        Grow write(node: INodeNo, handle: FileHandle, offset: u64, data: &[u8], write: WriteFlags, flags: OpenFlags, owner: Option<LockOwner>) -> ReplyWrite;
        Look flush(node: INodeNo, handle: FileHandle, owner: LockOwner) -> ReplyEmpty;
        Look release(node: INodeNo, handle: FileHandle, flags: OpenFlags, owner: Option<LockOwner>, flush: bool) -> ReplyEmpty;
        Look fsync(node: INodeNo, handle: FileHandle, data_only: bool) -> ReplyEmpty;
        Look opendir(node: INodeNo, flags: OpenFlags) -> ReplyOpen;
        Look readdir(node: INodeNo, handle: FileHandle, offset: u64) -> ReplyDirectory;
        Look readdirplus(node: INodeNo, handle: FileHandle, offset: u64) -> ReplyDirectoryPlus;
        Look releasedir(node: INodeNo, handle: FileHandle, flags: OpenFlags) -> ReplyEmpty;
        Look fsyncdir(node: INodeNo, handle: FileHandle, data_only: bool) -> ReplyEmpty;
        Look statfs(node: INodeNo) -> ReplyStatfs;
        Change setxattr(node: INodeNo, name: &OsStr, value: &[u8], flags: i32, position: u32) -> ReplyEmpty;
        Look getxattr(node: INodeNo, name: &OsStr, size: u32) -> ReplyXattr;
        Look listxattr(node: INodeNo, size: u32) -> ReplyXattr;
        Change removexattr(node: INodeNo, name: &OsStr) -> ReplyEmpty;
        Grow fallocate(node: INodeNo, handle: FileHandle, offset: u64, length: u64, mode: i32) -> ReplyEmpty;
        Look lseek(node: INodeNo, handle: FileHandle, offset: i64, whence: i32) -> ReplyLseek;
        Grow copy_file_range(from: INodeNo, from_handle: FileHandle, from_offset: u64, to: INodeNo, to_handle: FileHandle, to_offset: u64, length: u64, flags: CopyFileRangeFlags) -> ReplyWrite;
    }
}

/// Shows `plain` at `at` until the standard input ends.
pub fn serve(plain: &Path, at: &Path) {
    let mounts = MountTable::new(vec![MountPoint {
        name: "files".parse().unwrap(),
        access: Access::ReadWrite,
        host_path: plain.to_owned(),
        artifacts: false,
        cache: CachePolicy::None,
        suid: SetId::Refuse,
    }]);
    let vfs = Vfs::new(Parts {
        mounts: mounts.unwrap(),
        directories: vec![std::fs::File::open(plain).unwrap().into()],
        control: ControlTree::new(Arc::new(Nothing), Secrets::Hidden),
        observer: Arc::new(Deaf),
        attribution: Arc::new(Nothing),
        owner: None,
        descriptors: DescriptorBudget::new(1000),
    });
    let state = Arc::new(State { trouble: Mutex::new(Trouble::None), changed: Condvar::new() });
    let inner = WorkspaceFilesystem::new(Arc::new(vfs.unwrap()), false);
    let server = Server { inner, state: state.clone() };
    let mut session = Mounted::new(Purpose::Workspace { stack_depth: 0 })
        .expect("mount FUSE: these tests need /dev/fuse and the privilege to mount")
        .serve(server, 8, "troubled")
        .unwrap();
    session.attach(at).unwrap();
    println!("mounted");
    let set = |trouble| {
        *state.trouble.lock().unwrap() = trouble;
        state.changed.notify_all();
    };
    for order in io::stdin().lines() {
        let order = order.unwrap();
        let trouble = Trouble::ALL.into_iter().find(|trouble| trouble.word() == order);
        set(trouble.unwrap_or_else(|| panic!("an order that is none: {order}")));
        println!("{order}");
    }
    // Whoever waits gets his answer before the end.
    set(Trouble::None);
    session.end();
}
