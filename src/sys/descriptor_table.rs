//! A thread with a descriptor table of its own (unshare(2), CLONE_FILES).
//!
//! Descriptors are numbers in a table, and the threads of a process share one unless told otherwise. In a thread with its own, a
//! number of the others names something else or nothing: whatever owns a descriptor must stay on the side where it was
//! made. Between the two sides, descriptors go through a socket (`scm_rights`), as between processes.

use nix::fcntl::{FcntlArg, fcntl};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, SigmaskHow};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::mpsc::sync_channel;

/// Starts a thread in whose table there are standard input, output and error, and `kept`, and nothing else. `body` gets
/// that copy of `kept`; what it captures must own no descriptor.
///
/// The thread takes no signals: the kernel gives one of the process to any thread that does not block it, and the handlers here tell of
/// signals by descriptors (a self-pipe), whose numbers mean nothing in this table.
///
/// Returns when the tables are apart and this side's `kept` is closed. ENOMEM or EMFILE as of unshare(2).
pub fn spawn_alone(
    name: &str,
    kept: OwnedFd,
    body: impl FnOnce(OwnedFd) + Send + 'static,
) -> io::Result<()> {
    let number = kept.as_raw_fd();
    let (apart, is_apart) = sync_channel(1);
    // A thread begins with the mask of the one that starts it.
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let started =
        std::thread::Builder::new().name(name.to_owned()).spawn(move || match separate(number) {
            Ok(own) => {
                let _ = apart.send(Ok(()));
                body(own);
            }
            Err(error) => drop(apart.send(Err(error))),
        });
    before.thread_set_mask()?;
    started?;
    // Until then the number must stay in the shared table.
    let result = is_apart.recv();
    drop(kept);
    result.unwrap_or_else(|_| Err(io::Error::other("the thread ended before it began")))
}

fn separate(kept: RawFd) -> io::Result<OwnedFd> {
    unshare(CloneFlags::CLONE_FILES)?;
    // SAFETY: the table is this thread's own since the line before, so that its copy of the number, which the caller of
    // `spawn_alone` keeps valid until now, is owned by nobody here.
    let own = unsafe { OwnedFd::from_raw_fd(kept) };
    close_between(libc::STDERR_FILENO + 1, kept - 1)?;
    close_between(kept + 1, RawFd::MAX)?;
    Ok(own)
}

/// Gives the descriptors from the `skipped`th on the numbers from `first` on, in their order, open over execve(2). The skipped ones come
/// last in what is returned, with numbers above these and close-on-exec, as no other has.
///
/// For a thread with a table of its own, in which nothing else is open from `first` on: EBUSY where something is.
pub fn number(first: RawFd, descriptors: Vec<OwnedFd>, skipped: usize) -> io::Result<Vec<OwnedFd>> {
    let above = first + i32::try_from(descriptors.len()).map_err(io::Error::other)?;
    let mut raised = descriptors
        .into_iter()
        .map(|given| duplicate(&given, FcntlArg::F_DUPFD_CLOEXEC(above)))
        .collect::<io::Result<Vec<_>>>()?;
    let passed = raised.split_off(skipped.min(raised.len()));
    let mut numbered = Vec::with_capacity(passed.len() + raised.len());
    for (number, raised) in (first..).zip(passed) {
        let copy = duplicate(&raised, FcntlArg::F_DUPFD(number))?;
        if copy.as_raw_fd() != number {
            return Err(nix::errno::Errno::EBUSY.into());
        }
        numbered.push(copy);
    }
    numbered.append(&mut raised);
    Ok(numbered)
}

fn duplicate(descriptor: &OwnedFd, how: FcntlArg<'_>) -> io::Result<OwnedFd> {
    let number = fcntl(descriptor, how)?;
    // SAFETY: both commands that this is called with give a fresh descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// close_range(2), both ends included.
fn close_between(first: RawFd, last: RawFd) -> io::Result<()> {
    if first > last {
        return Ok(());
    }
    // SAFETY: the call takes numbers only. Nothing on this thread owns a descriptor in the range: its table is a copy whose
    // owners all live on the other side, and the one that is owned here is left out by the caller.
    let result = unsafe { libc::close_range(first as libc::c_uint, last as libc::c_uint, 0) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::sync::mpsc::channel;

    fn open_numbers() -> Vec<String> {
        // Of the thread that asks; the directory itself is among them.
        let own = std::fs::read_dir("/proc/thread-self/fd").expect("proc");
        own.map(|entry| entry.expect("entry").file_name().into_string().expect("number")).collect()
    }

    #[test]
    fn a_thread_alone_has_only_what_it_was_given() {
        let (mut reader, writer) = std::io::pipe().expect("pipe");
        let (tell, told) = channel();
        spawn_alone("alone", writer.into(), move |own| {
            let number = own.as_raw_fd();
            tell.send((number, open_numbers())).expect("told");
            std::fs::File::from(own).write_all(b"through").expect("write");
        })
        .expect("starts");
        let (number, numbers) = told.recv().expect("told");
        let extra: Vec<_> = numbers
            .iter()
            .filter(|n| !["0", "1", "2", number.to_string().as_str()].contains(&n.as_str()))
            .collect();
        assert_eq!(extra.len(), 1, "{numbers:?}");
        let mut text = String::new();
        // Ends, as this side has no writer any more.
        reader.read_to_string(&mut text).expect("read");
        assert_eq!(text, "through");
    }

    #[test]
    fn a_thread_alone_takes_no_signal_and_the_others_take_them_as_before() {
        use nix::sys::signal::Signal;
        let blocked = || SigSet::thread_get_mask().expect("mask").contains(Signal::SIGTERM);
        assert!(!blocked());
        let (kept, _other) = std::io::pipe().expect("pipe");
        let (say, hear) = sync_channel(1);
        spawn_alone("alone", kept.into(), move |_| {
            let _ = say.send(blocked());
        })
        .expect("starts");
        assert!(hear.recv().expect("it ran"));
        assert!(!blocked());
    }
}
