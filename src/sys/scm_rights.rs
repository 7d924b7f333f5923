//! Descriptors sent over a Unix socket (unix(7), SCM_RIGHTS).

use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Most descriptors that the kernel puts into one message (SCM_MAX_FD).
const KERNEL_MAX: usize = 253;

/// Control buffer for as many, in words: a 16-byte header and 4 bytes each, rounded up.
const CONTROL_WORDS: usize = 2 + KERNEL_MAX.div_ceil(2);

/// One message as it arrived.
#[derive(Debug)]
pub struct Message {
    /// Bytes of the payload that were stored; 0 with no descriptors means that the peer hung up.
    pub length: usize,
    pub descriptors: Vec<OwnedFd>,
    /// The kernel dropped descriptors, for example because this process may open no more files.
    pub truncated: bool,
}

/// Sends `payload` and `descriptors` in one message.
pub fn send(socket: impl AsFd, payload: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    let payload = [IoSlice::new(payload)];
    let fd = socket.as_fd().as_raw_fd();
    // MSG_NOSIGNAL: a peer that hung up is an error to report, not a SIGPIPE.
    sendmsg::<UnixAddr>(fd, &payload, control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// Receives one message; every descriptor in it is owned from here on, and close-on-exec.
///
/// Written against libc: nix refuses to look into a truncated message, and the descriptors that did arrive with it would
/// stay open for ever. A client could use that to exhaust the daemon's table.
pub fn receive(socket: impl AsFd, payload: &mut [u8]) -> io::Result<Message> {
    // u64 keeps the buffer aligned for `cmsghdr`; a header and KERNEL_MAX descriptors fit.
    let mut control = [0u64; CONTROL_WORDS];
    let mut slice = libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() };
    // SAFETY: msghdr is plain data, for which all zeroes is a valid value.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut slice;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control) as _;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: every pointer in `header` is to a live buffer of the length beside it, borrowed for this call.
    let length = unsafe { libc::recvmsg(fd, &raw mut header, libc::MSG_CMSG_CLOEXEC) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    let mut descriptors = Vec::new();
    // SAFETY: recvmsg(2) filled `header`, and the control buffer that it points to is alive and aligned.
    let mut part = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    while !part.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR answer null or a whole header inside the control buffer.
        let (level, kind, bytes) =
            unsafe { ((*part).cmsg_level, (*part).cmsg_type, (*part).cmsg_len as usize) };
        if level == libc::SOL_SOCKET && kind == libc::SCM_RIGHTS {
            // SAFETY: CMSG_LEN only computes.
            let head = unsafe { libc::CMSG_LEN(0) } as usize;
            for position in 0..bytes.saturating_sub(head) / size_of::<RawFd>() {
                // SAFETY: the kernel wrote `bytes` bytes at `part`, so this descriptor lies inside; it has just been
                // installed for this call and nothing else in the process knows it.
                descriptors.push(unsafe {
                    let data = libc::CMSG_DATA(part).cast::<RawFd>();
                    OwnedFd::from_raw_fd(data.add(position).read_unaligned())
                });
            }
        }
        // SAFETY: as for CMSG_FIRSTHDR; `part` is a header of this message.
        part = unsafe { libc::CMSG_NXTHDR(&raw const header, part) };
    }
    let truncated = header.msg_flags & libc::MSG_CTRUNC != 0;
    Ok(Message { length, descriptors, truncated })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use std::fs::File;
    use std::io::{Read, Write};

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .expect("socketpair")
    }

    #[test]
    fn descriptors_arrive_in_order_and_are_the_same_files() {
        let (here, there) = pair();
        let (mut reader, writer) = io::pipe().expect("pipe");
        let null = File::open("/dev/null").expect("open");
        send(&here, b"x", &[null.as_fd(), writer.as_fd()]).expect("send");
        drop(writer);
        let mut payload = [0; 4];
        let mut message = receive(&there, &mut payload).expect("receive");
        assert_eq!((message.length, message.descriptors.len(), message.truncated), (1, 2, false));
        let sent = message.descriptors.pop().expect("two");
        File::from(sent).write_all(b"through").expect("write");
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("every writer is closed");
        assert_eq!(text, "through");
    }

    #[test]
    fn as_many_descriptors_as_the_kernel_allows_arrive() {
        let (here, there) = pair();
        let null = File::open("/dev/null").expect("open");
        send(&here, b"x", &vec![null.as_fd(); KERNEL_MAX]).expect("send");
        let message = receive(&there, &mut [0; 4]).expect("receive");
        assert_eq!((message.descriptors.len(), message.truncated), (KERNEL_MAX, false));
    }

    #[test]
    fn a_peer_that_hung_up_is_an_empty_message() {
        let (here, there) = pair();
        drop(here);
        let message = receive(&there, &mut [0; 4]).expect("receive");
        assert_eq!((message.length, message.descriptors.len()), (0, 0));
    }
}
