//! Whole messages, each with at most one descriptor, over a `SOCK_SEQPACKET` pair (unix(7)).

use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Longest message. Far above any that is sent, below what a socket buffer takes.
pub const MESSAGE_BYTES_MAX: usize = 32 * 1024;

/// Two connected ends, close-on-exec.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// Sends one message; EPIPE, never SIGPIPE, when the other end is gone.
pub fn send(
    socket: impl AsFd,
    message: &[u8],
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let descriptors: Vec<RawFd> = descriptor.iter().map(|fd| fd.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let control = if descriptors.is_empty() { &rights[..0] } else { &rights[..] };
    loop {
        let sent = sendmsg::<()>(
            socket.as_fd().as_raw_fd(),
            &[IoSlice::new(message)],
            control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        );
        match sent {
            Ok(_) => return Ok(()),
            Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Receives one message; an empty one means that the other end is gone.
pub fn receive(socket: impl AsFd) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let mut message = vec![0; MESSAGE_BYTES_MAX];
    let mut space = nix::cmsg_space!(RawFd);
    let (length, descriptor) = loop {
        let mut parts = [IoSliceMut::new(&mut message)];
        let received = recvmsg::<()>(
            socket.as_fd().as_raw_fd(),
            &mut parts,
            Some(&mut space),
            MsgFlags::MSG_CMSG_CLOEXEC,
        );
        let received = match received {
            Ok(received) => received,
            Err(nix::errno::Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        };
        let mut descriptor = None;
        for control in received.cmsgs()? {
            if let ControlMessageOwned::ScmRights(numbers) = control {
                for number in numbers {
                    // SAFETY: the kernel has just installed this descriptor for this message; nobody else knows it.
                    descriptor = Some(unsafe { OwnedFd::from_raw_fd(number) });
                }
            }
        }
        break (received.bytes, descriptor);
    };
    message.truncate(length);
    Ok((message, descriptor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_message_arrives_whole_with_its_descriptor_and_an_empty_one_means_gone() {
        let (near, far) = pair().expect("pair");
        let (mut reader, writer) = std::io::pipe().expect("pipe");
        send(&near, b"one", None).expect("send");
        send(&near, b"two", Some(writer.as_fd())).expect("send");
        drop(writer);
        drop(near);
        assert_eq!(receive(&far).expect("receive").0, b"one");
        let (message, descriptor) = receive(&far).expect("receive");
        assert_eq!(message, b"two");
        std::io::Write::write_all(
            &mut std::fs::File::from(descriptor.expect("has one")),
            b"through",
        )
        .expect("write");
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("read");
        assert_eq!(text, "through");
        assert!(receive(&far).expect("receive").0.is_empty());
        assert_eq!(send(&far, b"x", None).expect_err("gone").raw_os_error(), Some(libc::EPIPE));
    }
}
