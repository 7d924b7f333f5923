//! Which process asks, read from `/proc` while it waits for its answer.
//!
//! A process that waits cannot end, run another program or give its number away, so that what is read belongs to the
//! request. Nothing is remembered between requests: the number and the start time of a process stay when it executes
//! another program (execve(2)), its arguments do not; a shell that opens the file of a redirection and then becomes the
//! command would be taken for the command. Reading costs 4 µs, telling a thread from its process 3 µs (measured).

use crate::sys::process::pidfd_open;
use nix::unistd::Pid;
use std::fs::File;
use std::io::Read;

/// Most of a command line that is kept. A page: arguments beyond it seldom tell commands apart.
pub const COMMAND_BYTES_MAX: usize = 4096;

/// The process that a thread belongs to. FUSE sends the number of the thread (fs/fuse/dev.c, `fuse_get_req`).
pub fn process_of(thread: u32) -> u32 {
    // Opening succeeds for a process's first thread alone, whose number is the process's (pidfd_open(2)).
    if i32::try_from(thread).is_ok_and(|number| pidfd_open(Pid::from_raw(number)).is_ok()) {
        return thread;
    }
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    let group = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    group.and_then(|number| number.trim().parse().ok()).unwrap_or(thread)
}

/// The arguments that a process shows, separated by NUL; nothing where they cannot be read or there are none. A process can
/// overwrite what it shows (prctl(2), PR_SET_MM_ARG_START; writing to its own arguments), but not what others show.
pub fn command_of(pid: u32) -> Option<Vec<u8>> {
    let mut command = Vec::with_capacity(256);
    let file = File::open(format!("/proc/{pid}/cmdline")).ok()?;
    file.take(COMMAND_BYTES_MAX as u64).read_to_end(&mut command).ok()?;
    if command.len() < COMMAND_BYTES_MAX && command.last() == Some(&0) {
        command.pop();
    }
    (!command.is_empty()).then_some(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_told_from_its_process() {
        let own = std::process::id();
        assert_eq!(process_of(own), own);
        std::thread::spawn(move || {
            let thread = nix::unistd::gettid().as_raw().cast_unsigned();
            assert_ne!(thread, own);
            assert_eq!(process_of(thread), own);
        })
        .join()
        .expect("no panic");
    }

    /// A process that was just started may still be on its way through execve(2) and show nothing; one that waits for an
    /// answer to an open never is.
    fn shown(pid: u32) -> Option<Vec<u8>> {
        let looks = std::iter::repeat_with(|| {
            std::thread::sleep(std::time::Duration::from_millis(5));
            command_of(pid)
        });
        looks.take(1_000).flatten().next()
    }

    #[test]
    fn a_command_is_read_whole_or_cut_and_a_process_without_one_has_none() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep");
        let read = shown(child.id());
        child.kill().expect("kill");
        child.wait().expect("wait");
        assert_eq!(read.as_deref(), Some(b"sleep\x0060".as_slice()));
        assert_eq!(command_of(child.id()), None, "it is gone");

        // It waits for a line that does not come.
        let long = "x".repeat(3 * COMMAND_BYTES_MAX);
        let mut child = std::process::Command::new("sh")
            .args(["-c", "read line", "sh", &long])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("sh");
        let read = shown(child.id()).expect("readable");
        child.kill().expect("kill");
        child.wait().expect("wait");
        assert_eq!(read.len(), COMMAND_BYTES_MAX);
        assert!(read.starts_with(b"sh\0-c\0read line\0sh\0xxx"));
    }
}
