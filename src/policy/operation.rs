//! Every operation on a file that the kernel can ask for.

/// An operation on a file of a mount point; the names are those of the FUSE requests (linux/fuse.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    Lookup,
    Getattr,
    Readlink,
    Readdir,
    Statfs,
    OpenRead,
    OpenWrite,
    Getxattr,
    Listxattr,
    Lseek,
    Create,
    Mknod,
    Mkdir,
    Symlink,
    Link,
    Rename,
    Unlink,
    Rmdir,
    Setattr,
    Setxattr,
    Removexattr,
    Fallocate,
    CopyFileRange,
}

impl Operation {
    /// Every operation, for tests that must leave none out.
    pub const ALL: [Operation; 23] = [
        Operation::Lookup,
        Operation::Getattr,
        Operation::Readlink,
        Operation::Readdir,
        Operation::Statfs,
        Operation::OpenRead,
        Operation::OpenWrite,
        Operation::Getxattr,
        Operation::Listxattr,
        Operation::Lseek,
        Operation::Create,
        Operation::Mknod,
        Operation::Mkdir,
        Operation::Symlink,
        Operation::Link,
        Operation::Rename,
        Operation::Unlink,
        Operation::Rmdir,
        Operation::Setattr,
        Operation::Setxattr,
        Operation::Removexattr,
        Operation::Fallocate,
        Operation::CopyFileRange,
    ];

    /// Whether it changes a file, a directory or their attributes.
    pub fn mutates(self) -> bool {
        match self {
            Operation::Lookup
            | Operation::Getattr
            | Operation::Readlink
            | Operation::Readdir
            | Operation::Statfs
            | Operation::OpenRead
            | Operation::Getxattr
            | Operation::Listxattr
            | Operation::Lseek => false,
            Operation::OpenWrite
            | Operation::Create
            | Operation::Mknod
            | Operation::Mkdir
            | Operation::Symlink
            | Operation::Link
            | Operation::Rename
            | Operation::Unlink
            | Operation::Rmdir
            | Operation::Setattr
            | Operation::Setxattr
            | Operation::Removexattr
            | Operation::Fallocate
            | Operation::CopyFileRange => true,
        }
    }
}
