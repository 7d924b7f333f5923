//! The requests that are tried, and how they are generated.

use proptest::prelude::*;
use proptest::sample::select;

/// Which of the nodes, handles or names that there are at the moment; taken modulo their number.
pub type Pick = u8;

/// A directory that the kernel knows, and a name in it.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub directory: Pick,
    pub name: &'static [u8],
}

/// What is changed by one SETATTR.
#[derive(Debug, Clone, Copy)]
pub struct Change {
    pub mode: Option<u32>,
    pub owner: Option<(u32, u32)>,
    pub modified: Option<i64>,
    pub size: Option<u64>,
    /// Asked through an open file where the node has one.
    pub through_handle: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {
    Directory,
    Fifo,
    Socket,
    Device,
    Regular,
    Link,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
    Both,
    Append,
}

#[derive(Debug, Clone)]
pub enum Op {
    Lookup(Place),
    Forget {
        node: Pick,
        all: bool,
    },
    Getattr {
        node: Pick,
        through_handle: bool,
    },
    Setattr {
        node: Pick,
        change: Change,
    },
    Make {
        place: Place,
        node: Node,
        mode: u32,
        umask: u32,
    },
    Readlink {
        node: Pick,
    },
    Link {
        node: Pick,
        to: Place,
    },
    Unlink(Place),
    Rmdir(Place),
    Rename {
        from: Place,
        to: Place,
        flags: u32,
    },
    Create {
        place: Place,
        access: Access,
        exclusive: bool,
        mode: u32,
        umask: u32,
    },
    Open {
        node: Pick,
        access: Access,
    },
    Read {
        handle: Pick,
        offset: u64,
        size: u32,
    },
    Write {
        handle: Pick,
        offset: u64,
        size: usize,
        byte: u8,
        from_page_cache: bool,
    },
    Release {
        handle: Pick,
    },
    Opendir {
        node: Pick,
    },
    List {
        handle: Pick,
    },
    Fallocate {
        handle: Pick,
        mode: i32,
        offset: u64,
        length: u64,
    },
    Seek {
        handle: Pick,
        offset: i64,
        hole: bool,
    },
    Copy {
        from: Pick,
        from_offset: u64,
        to: Pick,
        to_offset: u64,
        length: u64,
    },
    Setxattr {
        node: Pick,
        name: &'static str,
        value: Vec<u8>,
        flags: i32,
    },
    Getxattr {
        node: Pick,
        name: &'static str,
    },
    Removexattr {
        node: Pick,
        name: &'static str,
    },
    Statfs {
        node: Pick,
    },
    Fsync {
        handle: Pick,
    },
    /// The observer is done with a file.
    Settle {
        file: Pick,
    },
    /// The observer reads a file.
    Source {
        file: Pick,
    },
    /// What somebody does in the host's directory, past the workspace.
    HostWrite(Place),
    HostRemove(Place),
    HostRename {
        from: Place,
        to: Place,
    },
}

const LONG: &[u8] = &[b'n'; 255];
const TOO_LONG: &[u8] = &[b'n'; 256];

fn place() -> impl Strategy<Value = Place> {
    let name = prop_oneof![
        30 => select(vec![b"a".as_slice(), b"b", b"c"]),
        2 => Just(LONG),
        2 => Just(b"\xff\n".as_slice()),
        1 => select(vec![b".".as_slice(), b"..", b"", TOO_LONG]),
    ];
    (any::<Pick>(), name).prop_map(|(directory, name)| Place { directory, name })
}

/// The owner may always use what it makes: permissions are the differential test's matter.
fn mode() -> impl Strategy<Value = u32> {
    select(vec![0o700, 0o755, 0o744, 0o777, 0o1755, 0o4755])
}

fn umask() -> impl Strategy<Value = u32> {
    select(vec![0, 0o022, 0o077])
}

fn access() -> impl Strategy<Value = Access> {
    select(vec![Access::Read, Access::Write, Access::Both, Access::Both, Access::Append])
}

fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0..30u64, 1 => select(vec![4095, 4096, 5000])]
}

fn length() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0..30u64, 1 => select(vec![4096, 9000])]
}

fn change() -> impl Strategy<Value = Change> {
    let maybe = |weight| prop::option::weighted(weight, Just(()));
    let owner = select(vec![(0, 0), (12345, 12345), (77, 78)]);
    let flags = (maybe(0.4), maybe(0.2), maybe(0.3), maybe(0.5));
    (flags, mode(), owner, 1000..900_000_000i64, offset(), any::<bool>()).prop_map(
        |((has_mode, has_owner, has_time, has_size), mode, owner, time, size, through_handle)| {
            Change {
                mode: has_mode.map(|()| mode),
                owner: has_owner.map(|()| owner),
                modified: has_time.map(|()| time),
                size: has_size.map(|()| size),
                through_handle,
            }
        },
    )
}

fn names() -> impl Strategy<Value = Op> {
    let node = select(vec![
        Node::Directory,
        Node::Directory,
        Node::Directory,
        Node::Fifo,
        Node::Socket,
        Node::Device,
        Node::Regular,
        Node::Link,
    ]);
    let flags = select(vec![0, 0, 0, 0, 1, 2, 2, 3, 4]);
    prop_oneof![
        8 => place().prop_map(Op::Lookup),
        4 => (place(), node, mode(), umask())
            .prop_map(|(place, node, mode, umask)| Op::Make { place, node, mode, umask }),
        3 => (any::<Pick>(), place()).prop_map(|(node, to)| Op::Link { node, to }),
        3 => place().prop_map(Op::Unlink),
        2 => place().prop_map(Op::Rmdir),
        5 => (place(), place(), flags).prop_map(|(from, to, flags)| Op::Rename { from, to, flags }),
        5 => (place(), access(), any::<bool>(), mode(), umask()).prop_map(
            |(place, access, exclusive, mode, umask)| Op::Create { place, access, exclusive, mode, umask }
        ),
        1 => place().prop_map(Op::HostWrite),
        1 => place().prop_map(Op::HostRemove),
        1 => (place(), place()).prop_map(|(from, to)| Op::HostRename { from, to }),
    ]
}

fn nodes() -> impl Strategy<Value = Op> {
    let name = || select(vec!["user.a", "user.b", "security.capability", "trusted.a"]);
    let value = select(vec![vec![], b"value".to_vec(), vec![7; 100]]);
    prop_oneof![
        3 => (any::<Pick>(), any::<bool>()).prop_map(|(node, all)| Op::Forget { node, all }),
        5 => (any::<Pick>(), any::<bool>())
            .prop_map(|(node, through_handle)| Op::Getattr { node, through_handle }),
        4 => (any::<Pick>(), change()).prop_map(|(node, change)| Op::Setattr { node, change }),
        1 => any::<Pick>().prop_map(|node| Op::Readlink { node }),
        5 => (any::<Pick>(), access()).prop_map(|(node, access)| Op::Open { node, access }),
        1 => any::<Pick>().prop_map(|node| Op::Opendir { node }),
        1 => (any::<Pick>(), name(), value, 0..3i32)
            .prop_map(|(node, name, value, flags)| Op::Setxattr { node, name, value, flags }),
        1 => (any::<Pick>(), name()).prop_map(|(node, name)| Op::Getxattr { node, name }),
        1 => (any::<Pick>(), name()).prop_map(|(node, name)| Op::Removexattr { node, name }),
        1 => any::<Pick>().prop_map(|node| Op::Statfs { node }),
        1 => any::<Pick>().prop_map(|file| Op::Settle { file }),
        2 => any::<Pick>().prop_map(|file| Op::Source { file }),
    ]
}

fn handles() -> impl Strategy<Value = Op> {
    let mode = select(vec![0, 1, 3]);
    prop_oneof![
        40 => (any::<Pick>(), offset(), 0..9000u32)
            .prop_map(|(handle, offset, size)| Op::Read { handle, offset, size }),
        40 => (any::<Pick>(), offset(), 1..40usize, any::<u8>(), any::<bool>()).prop_map(
            |(handle, offset, size, byte, from_page_cache)| Op::Write {
                handle, offset, size, byte, from_page_cache
            }
        ),
        50 => any::<Pick>().prop_map(|handle| Op::Release { handle }),
        30 => any::<Pick>().prop_map(|handle| Op::List { handle }),
        10 => (any::<Pick>(), mode, offset(), length()).prop_map(
            |(handle, mode, offset, length)| Op::Fallocate { handle, mode, offset, length }
        ),
        10 => (any::<Pick>(), 0..6000i64, any::<bool>())
            .prop_map(|(handle, offset, hole)| Op::Seek { handle, offset, hole }),
        10 => (any::<Pick>(), offset(), any::<Pick>(), offset(), length()).prop_map(
            |(from, from_offset, to, to_offset, length)| Op::Copy {
                from, from_offset, to, to_offset, length
            }
        ),
        1 => any::<Pick>().prop_map(|handle| Op::Fsync { handle }),
    ]
}

pub fn operations(most: usize) -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec(prop_oneof![5 => names(), 4 => nodes(), 4 => handles()], 1..most)
}
