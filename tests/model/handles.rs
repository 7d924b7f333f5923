//! Requests that open files and directories, and those through an open one.

use crate::kernel::{Kernel, Open};
use crate::operations::{Access, Pick};
use crate::reference::Inode;
use crate::steps::{flags, picked};
use belljar::vfs::io::WriteFrom;
use nix::errno::Errno;

/// Writes at an offset as a file system does.
fn put(data: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if data.len() < offset + bytes.len() {
        data.resize(offset + bytes.len(), 0);
    }
    data[offset..offset + bytes.len()].copy_from_slice(bytes);
}

impl Kernel {
    pub fn open(&mut self, node: Pick, access: Access) {
        let Some(node) = self.file(node) else { return };
        let key = self.key(node);
        let result = self.vfs.open(&self.caller, node, flags(access));
        if self.is_stale(&result, &[key]) {
            return;
        }
        let refused = Self::is_read_only(node) && access != Access::Read;
        let expected = if refused { Err(Errno::EROFS) } else { Ok(()) };
        if let Some((handle, ())) = self.agree(result, expected) {
            self.opened(handle, node, access, false);
        }
    }

    pub fn opened(&mut self, handle: u64, node: u64, access: Access, created: bool) {
        let (reads, writes) = match access {
            Access::Read => (true, false),
            Access::Write | Access::Append => (false, true),
            Access::Both => (true, true),
        };
        let open = Open {
            handle,
            node,
            key: self.key(node),
            is_directory: false,
            reads,
            writes,
            appends: access == Access::Append,
            writer: writes || created,
        };
        self.opens.push(open);
        if open.writer {
            let expected = self.begin_writing(node);
            self.heard_after(&expected);
        }
    }

    pub fn release(&mut self, open: Open) {
        if open.is_directory {
            self.vfs.releasedir(open.handle);
            return;
        }
        self.vfs.release(open.handle);
        let stale = self.vfs.read(open.handle, 0, 1);
        assert_eq!(stale.expect_err("the handle is gone").to_errno(), Errno::ESTALE);
        if open.writer {
            let expected = self.end_writing(open.node);
            self.heard_after(&expected);
        }
    }

    pub fn read(&mut self, handle: Pick, offset: u64, size: u32) {
        let Some(open) = self.open_file(handle, |open| open.reads) else { return };
        let told = self.vfs.read(open.handle, offset, size).unwrap();
        let data = self.reference.inodes[open.key].data();
        let start = (offset as usize).min(data.len());
        let end = (start + size as usize).min(data.len());
        assert!(told == data[start..end], "read {told:?} of {data:?}");
    }

    pub fn write(&mut self, handle: Pick, offset: u64, bytes: &[u8], from: WriteFrom) {
        let Some(open) = self.open_file(handle, |open| open.writes) else { return };
        let written = self.vfs.write(open.handle, offset, bytes, from).unwrap();
        assert_eq!(written as usize, bytes.len());
        let data = self.reference.inodes[open.key].data();
        let appends = open.appends && from == WriteFrom::Caller;
        let offset = if appends { data.len() } else { offset as usize };
        put(data, offset, bytes);
        self.change(open.key);
    }

    pub fn opendir(&mut self, node: Pick) {
        let Some(node) = picked(&self.nodes(Inode::is_directory), node) else { return };
        let key = self.key(node);
        let result = self.vfs.opendir(&self.caller, node);
        if self.is_stale(&result, &[key]) {
            return;
        }
        self.opens.push(Open {
            handle: result.unwrap(),
            node,
            key,
            is_directory: true,
            reads: false,
            writes: false,
            appends: false,
            writer: false,
        });
    }

    pub fn list(&mut self, handle: Pick) {
        let directories: Vec<Open> =
            self.opens.iter().filter(|open| open.is_directory).copied().collect();
        let Some(open) = picked(&directories, handle) else { return };
        if self.inode(open.key).names == 0 {
            let error = self.vfs.readdir(open.handle, 0).expect_err("removed");
            assert_eq!(error.to_errno(), Errno::ENOENT);
            return;
        }
        let from = |mut offset| {
            let mut listed = Vec::new();
            loop {
                let entries = self.vfs.readdir(open.handle, offset).unwrap();
                let Some(last) = entries.last() else { return listed };
                offset = last.offset;
                listed.extend(entries);
            }
        };
        let listed = from(0);
        let middle = usize::from(handle) % listed.len();
        assert_eq!(from(listed[middle].offset), listed[middle + 1..], "from the middle on");
        let mut left = self.reference.entries(open.key).clone();
        left.extend([(".".into(), open.key), ("..".into(), open.key)]);
        for entry in listed {
            let key = left.remove(&entry.name);
            let key = key.unwrap_or_else(|| panic!("{entry:?} is not there, or was told twice"));
            if entry.name == "." || entry.name == ".." {
                continue;
            }
            assert_eq!(u32::from(entry.kind) << 12, self.inode(key).format(), "{entry:?}");
            // A node that has its number from the overflow range is listed under the host's.
            let known =
                self.known.iter().find(|(node, known)| known.key == key && **node >> 63 == 0);
            assert!(known.is_none_or(|(node, _)| *node == entry.ino), "{entry:?} is {known:?}");
        }
        assert!(left.is_empty(), "{left:?} were not told");
    }

    pub fn fallocate(&mut self, handle: Pick, mode: i32, offset: u64, length: u64) {
        const KEEP_SIZE: i32 = 1;
        const PUNCH_HOLE: i32 = 2;
        let Some(open) = self.open_file(handle, |open| open.writes) else { return };
        let result = self.vfs.fallocate(open.handle, mode, offset, length);
        let expected = if length == 0 { Err(Errno::EINVAL) } else { Ok(()) };
        if self.agree(result, expected).is_none() {
            return;
        }
        let data = self.reference.inodes[open.key].data();
        let end = (offset + length) as usize;
        if mode & KEEP_SIZE == 0 && data.len() < end {
            data.resize(end, 0);
        }
        if mode & PUNCH_HOLE != 0 {
            let start = (offset as usize).min(data.len());
            let end = end.min(data.len());
            data[start..end].fill(0);
        }
        self.change(open.key);
    }

    pub fn seek(&mut self, handle: Pick, offset: i64, hole: bool) {
        const SEEK_DATA: i32 = 3;
        const SEEK_HOLE: i32 = 4;
        let Some(open) = self.open_file(handle, |_| true) else { return };
        let whence = if hole { SEEK_HOLE } else { SEEK_DATA };
        let result = self.vfs.seek(open.handle, offset, whence).map_err(|error| error.to_errno());
        let data = self.reference.inodes[open.key].data();
        let from = offset as usize;
        match result {
            Ok(to) if hole => assert!(from <= to as usize && to as usize <= data.len(), "{to}"),
            Ok(to) => assert!(data[from..to as usize].iter().all(|byte| *byte == 0), "{to}"),
            Err(errno) => {
                assert_eq!(errno, Errno::ENXIO);
                let rest = data.get(from..).unwrap_or_default();
                assert!(rest.is_empty() || (!hole && rest.iter().all(|byte| *byte == 0)));
            }
        }
    }

    pub fn copy(
        &mut self,
        (from, from_offset): (Pick, u64),
        (to, to_offset): (Pick, u64),
        length: u64,
    ) {
        let Some(from) = self.open_file(from, |open| open.reads) else { return };
        let Some(to) = self.open_file(to, |open| open.writes && !open.appends) else { return };
        let result =
            self.vfs.copy_file_range((from.handle, from_offset), (to.handle, to_offset), length);
        let source = self.reference.inodes[from.key].data();
        let start = (from_offset as usize).min(source.len());
        let bytes = source[start..(start + length as usize).min(source.len())].to_vec();
        let count = bytes.len() as u64;
        let overlaps = from.key == to.key
            && to_offset + count > from_offset
            && to_offset < from_offset + count;
        let expected = if overlaps { Err(Errno::EINVAL) } else { Ok(()) };
        let Some((copied, ())) = self.agree(result, expected) else { return };
        assert_eq!(u64::from(copied), count);
        if bytes.is_empty() {
            // Nothing was copied, and the file system may not have noticed.
            self.touch(to.key);
        } else {
            put(self.reference.inodes[to.key].data(), to_offset as usize, &bytes);
            self.change(to.key);
        }
    }
}
