//! The entries of a directory, on their way into an answer of limited size.

use super::convert;
use crate::vfs::Vfs;
use crate::vfs::error::Error;
use std::ffi::OsStr;

/// One entry on its way into an answer.
pub struct Entry<'a> {
    pub node: u64,
    /// Where the listing goes on after this entry.
    pub offset: u64,
    pub kind: fuser::FileType,
    pub name: &'a OsStr,
}

/// Gives the entries after `offset` to `add` until it says that the answer is full.
pub fn list(
    vfs: &Vfs,
    node: u64,
    handle: u64,
    offset: u64,
    mut add: impl FnMut(Entry<'_>) -> bool,
) -> Result<(), Error> {
    let Some(provided) = vfs.provided_listing(node)? else {
        let entries = vfs.readdir(handle, offset as i64)?;
        for entry in &entries {
            let full = add(Entry {
                node: entry.ino,
                offset: entry.offset as u64,
                kind: convert::kind_of_entry(entry.kind),
                name: &entry.name,
            });
            if full {
                break;
            }
        }
        return Ok(());
    };
    let dots = [".", ".."].map(|name| (node, 0o040_000, OsStr::new(name)));
    let rest = provided
        .iter()
        .map(|entry| (entry.attributes.node, entry.attributes.mode, entry.name.as_os_str()));
    let entries = dots.into_iter().chain(rest).enumerate();
    for (position, (node, mode, name)) in
        entries.skip(usize::try_from(offset).unwrap_or(usize::MAX))
    {
        let kind = convert::kind_of_mode(mode);
        if add(Entry { node, offset: position as u64 + 1, kind, name }) {
            break;
        }
    }
    Ok(())
}
