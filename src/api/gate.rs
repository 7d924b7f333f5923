//! Connections of the API socket: who is at the other end, and how many one user may have.

use crate::workspace::Actor;
use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};

/// Counts the connections of each user.
#[derive(Debug, Clone)]
pub struct Gate {
    /// By uid. Held for a look-up only.
    counts: Arc<Mutex<HashMap<u32, usize>>>,
    per_user_max: usize,
}

/// One connection inside; dropping it lets the next one in.
#[derive(Debug)]
pub struct Pass {
    gate: Gate,
    uid: u32,
    /// Above the bound: to be told so, and nothing else.
    pub crowded: bool,
}

impl Gate {
    pub fn new(per_user_max: usize) -> Self {
        Self { counts: Arc::default(), per_user_max }
    }

    /// Lets up to `per_user_max` in, as many again only to be told why not, and nobody beyond.
    pub fn enter(&self, uid: u32) -> Option<Pass> {
        let mut counts = self.counts();
        let count = counts.entry(uid).or_default();
        if *count >= 2 * self.per_user_max {
            return None;
        }
        *count += 1;
        Some(Pass { gate: self.clone(), uid, crowded: *count > self.per_user_max })
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<u32, usize>> {
        self.counts.lock().expect("no code panics while it counts")
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut counts = self.gate.counts();
        if let Some(count) = counts.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.uid);
            }
        }
    }
}

/// The process that connected, as the kernel says (unix(7), SO_PEERCRED).
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    pub actor: Actor,
    pub crowded: bool,
}

/// The API's listener.
#[derive(Debug)]
pub struct PeerListener {
    pub listener: UnixListener,
    pub gate: Gate,
}

impl Listener for PeerListener {
    type Io = GatedStream;
    type Addr = Peer;

    async fn accept(&mut self) -> (GatedStream, Peer) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => match admit(&self.gate, stream) {
                    Ok(admitted) => return admitted,
                    Err(reason) => tracing::debug!(reason, "connection refused"),
                },
                Err(error) => {
                    // Without a pause, a full descriptor table would keep this loop spinning.
                    tracing::error!(%error, "accept a connection");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Peer> {
        let actor = Actor {
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            pid: nix::unistd::getpid().as_raw(),
        };
        Ok(Peer { actor, crowded: false })
    }
}

fn admit(gate: &Gate, stream: UnixStream) -> Result<(GatedStream, Peer), &'static str> {
    let credentials = stream.peer_cred().map_err(|_| "no credentials")?;
    let actor = Actor {
        uid: credentials.uid(),
        gid: credentials.gid(),
        pid: credentials.pid().unwrap_or(0),
    };
    let pass = gate.enter(actor.uid).ok_or("too many connections of this user")?;
    let peer = Peer { actor, crowded: pass.crowded };
    Ok((GatedStream { stream, _pass: pass }, peer))
}

impl Connected<IncomingStream<'_, PeerListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, PeerListener>) -> Self {
        *stream.remote_addr()
    }
}

/// A connection that gives its place back when it is closed.
#[derive(Debug)]
pub struct GatedStream {
    stream: UnixStream,
    _pass: Pass,
}

impl AsyncRead for GatedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for GatedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_cannot_take_the_places_of_another() {
        let gate = Gate::new(2);
        let first: Vec<Pass> = (0..4).filter_map(|_| gate.enter(1)).collect();
        assert_eq!(
            first.iter().map(|pass| pass.crowded).collect::<Vec<_>>(),
            [false, false, true, true]
        );
        assert!(gate.enter(1).is_none());
        assert!(!gate.enter(2).expect("another user").crowded);
        drop(first);
        assert!(!gate.enter(1).expect("room again").crowded);
    }
}
