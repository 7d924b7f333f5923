//! The companion socket: descriptors come in, a token goes out, and the connection is the leash of what they serve.
//!
//! A token is good for one request of the same user and expires when nobody names it. After the request took it, the
//! connection stays open for as long as the client wants a run to live; that the kernel closes it when the client dies
//! is what ends the run.
//!
//! Locking: the table's lock is held for look-ups only, never across an await.

use super::error::ApiError;
use super::gate::Gate;
use crate::sys::unix_socket::{self, Watched};
use crate::sys::{release, scm_rights};
use crate::wire::daemon::{CompanionAnswer, DESCRIPTORS_MAX};
use crate::wire::workspace::DescriptorToken;
use nix::sys::socket::{getsockopt, sockopt};
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// A client sends its one message at once. Chosen, not measured.
const MESSAGE_PATIENCE: Duration = Duration::from_secs(10);

/// Tells whether the client is still there.
#[derive(Debug)]
pub struct Leash {
    /// Its sender is dropped when the client hangs up.
    hung_up: watch::Receiver<()>,
    /// Dropping it tells the connection that nobody listens any more; it is closed then, which tells the client that what it
    /// served has ended.
    _held: oneshot::Sender<()>,
}

impl Leash {
    /// Waits until the client hangs up or dies.
    pub async fn broken(&mut self) {
        // Nothing is ever sent: an error says that the sender is gone.
        while self.hung_up.changed().await.is_ok() {}
    }
}

/// Descriptors that a request may take by position, each once.
#[derive(Debug)]
pub struct DescriptorSet {
    slots: Slots,
    pub leash: Leash,
}

impl DescriptorSet {
    pub fn take(&mut self, position: u32, what: impl fmt::Display) -> Result<OwnedFd, ApiError> {
        let count = self.slots.0.len();
        let slot = usize::try_from(position).ok().and_then(|index| self.slots.0.get_mut(index));
        match slot {
            Some(slot) => slot.take().ok_or_else(|| {
                ApiError::invalid(format!(
                    "descriptor {position} of {what} is used twice: send one for each"
                ))
            }),
            None => Err(ApiError::invalid(format!(
                "{what} names descriptor {position}, but only {count} were sent"
            ))),
        }
    }
}

#[derive(Debug)]
struct Slots(Vec<Option<OwnedFd>>);

impl Drop for Slots {
    /// What nobody took is closed where it can hold up nobody: it may lie on a file system that does not answer.
    fn drop(&mut self) {
        let left = std::mem::take(&mut self.0);
        if left.iter().any(Option::is_some) {
            release::elsewhere(left);
        }
    }
}

struct Waiting {
    uid: u32,
    set: DescriptorSet,
}

/// The descriptor sets that no request has named yet.
#[derive(Clone)]
pub struct Tokens {
    waiting: Arc<Mutex<HashMap<DescriptorToken, Waiting>>>,
    per_user_max: usize,
    lifetime: Duration,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens")
    }
}

impl Tokens {
    pub fn new(per_user_max: usize, lifetime: Duration) -> Self {
        Self { waiting: Arc::default(), per_user_max, lifetime }
    }

    /// Hands the set over to the one request that names it. Whose token it was not learns nothing more than that.
    pub fn claim(&self, uid: u32, token: &DescriptorToken) -> Result<DescriptorSet, ApiError> {
        let mut waiting = self.waiting();
        if waiting.get(token).is_some_and(|found| found.uid == uid)
            && let Some(found) = waiting.remove(token)
        {
            return Ok(found.set);
        }
        Err(ApiError::invalid(
            "the descriptor token is not known: it is good for one request, of the user who got it, while its connection is open; send the descriptors again",
        ))
    }

    fn offer(&self, uid: u32, set: DescriptorSet) -> Result<DescriptorToken, String> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|error| format!("no random numbers: {error}"))?;
        let token = DescriptorToken(random.iter().map(|byte| format!("{byte:02x}")).collect());
        let mut waiting = self.waiting();
        if waiting.values().filter(|other| other.uid == uid).count() >= self.per_user_max {
            return Err(format!(
                "{} sets of descriptors of uid {uid} wait already: name them in requests, or raise `api.waiting_tokens_per_user_max`",
                self.per_user_max
            ));
        }
        waiting.insert(token.clone(), Waiting { uid, set });
        Ok(token)
    }

    /// Closes a set that no request has named; false when one has.
    fn withdraw(&self, token: &DescriptorToken) -> bool {
        // Bound first, so that the descriptors are closed after the lock was given back.
        let withdrawn = self.waiting().remove(token);
        withdrawn.is_some()
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<DescriptorToken, Waiting>> {
        self.waiting.lock().expect("no code panics while it holds the table")
    }

    /// Serves the companion socket until the task is dropped.
    pub async fn serve(self, listener: OwnedFd, gate: Gate) -> io::Result<()> {
        let listener = Watched::new(listener)?;
        loop {
            match listener.when_readable(unix_socket::accept).await {
                Ok(connection) => {
                    tokio::spawn(self.clone().attend(connection, gate.clone()));
                }
                Err(error) => {
                    tracing::error!(%error, "accept a companion connection");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }

    async fn attend(self, connection: OwnedFd, gate: Gate) {
        let Ok(peer) = getsockopt(&connection, sockopt::PeerCredentials) else { return };
        let Some(_pass) = gate.enter(peer.uid()).filter(|pass| !pass.crowded) else {
            let reason = "too many connections of this user at a time: end some runs, or raise `api.connections_per_user_max`";
            let _ = answer(&connection, &CompanionAnswer::Refused(reason.to_owned()));
            return;
        };
        let Ok(connection) = Watched::new(connection) else { return };
        if let Err(error) = self.exchange(&connection, peer.uid()).await {
            tracing::debug!(%error, uid = peer.uid(), "companion connection");
        }
    }

    /// One message in, one answer out, then the leash.
    async fn exchange(&self, connection: &Watched, uid: u32) -> io::Result<()> {
        let message = tokio::time::timeout(MESSAGE_PATIENCE, next(connection)).await??;
        let count = message.descriptors.len();
        let refusal = if message.truncated {
            Some("the daemon may not open more files: raise its limit (LimitNOFILE=)".to_owned())
        } else if count > DESCRIPTORS_MAX {
            Some(format!(
                "{count} descriptors are too many: at most {DESCRIPTORS_MAX} in one request"
            ))
        } else if count == 0 {
            Some("the message carries no descriptors".to_owned())
        } else {
            None
        };
        if let Some(reason) = refusal {
            return answer(connection, &CompanionAnswer::Refused(reason));
        }
        let (hung_up_sender, hung_up) = watch::channel(());
        let (held_sender, mut held) = oneshot::channel();
        let slots = Slots(message.descriptors.into_iter().map(Some).collect());
        let set = DescriptorSet { slots, leash: Leash { hung_up, _held: held_sender } };
        let token = match self.offer(uid, set) {
            Ok(token) => token,
            Err(reason) => return answer(connection, &CompanionAnswer::Refused(reason)),
        };
        let sent = answer(connection, &CompanionAnswer::Token(token.clone()));
        if sent.is_ok() {
            self.guard(connection, &mut held, &token).await;
        }
        self.withdraw(&token);
        drop(hung_up_sender);
        // A client that waits for our end of the connection to be closed learns by it that all is done.
        if !held.is_terminated() {
            let _ = held.await;
        }
        sent
    }

    /// Returns when the client hung up, nobody wants to know any more, or nobody named the token in time.
    async fn guard(
        &self,
        connection: &Watched,
        mut held: &mut oneshot::Receiver<()>,
        token: &DescriptorToken,
    ) {
        tokio::select! {
            _ = next(connection) => return,
            _ = &mut held => return,
            () = tokio::time::sleep(self.lifetime) => {
                if self.withdraw(token) {
                    return;
                }
            }
        }
        tokio::select! {
            _ = next(connection) => {}
            _ = held => {}
        }
    }
}

/// Waits for a message, or for the end of the connection, which is an empty one.
async fn next(connection: &Watched) -> io::Result<scm_rights::Message> {
    connection.when_readable(|socket| scm_rights::receive(socket, &mut [0; 16])).await
}

fn answer(connection: impl AsFd, answer: &CompanionAnswer) -> io::Result<()> {
    let text = serde_json::to_vec(answer)?;
    // One small message into an empty buffer never blocks.
    scm_rights::send(connection, &text, &[])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Client;
    use nix::unistd::geteuid;
    use std::fs::File;
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;

    struct Room {
        _directory: tempfile::TempDir,
        _api: UnixListener,
        socket: PathBuf,
        tokens: Tokens,
    }

    /// A companion socket as the daemon has it, and the client's view of it.
    fn room(per_user_max: usize, lifetime: Duration) -> Room {
        let directory = tempfile::tempdir().expect("temporary directory");
        let socket = directory.path().join("b.sock");
        let api = UnixListener::bind(&socket).expect("bind");
        let companion = directory.path().join("b.sock.fds");
        let listener = unix_socket::listen_seqpacket(&companion).expect("listens");
        let tokens = Tokens::new(per_user_max, lifetime);
        tokio::spawn(tokens.clone().serve(listener, Gate::new(100)));
        Room { _directory: directory, _api: api, socket, tokens }
    }

    async fn send(
        room: &Room,
        count: usize,
    ) -> Result<(DescriptorToken, crate::client::Leash), crate::client::ClientError> {
        let client = Client::at(&room.socket);
        tokio::task::spawn_blocking(move || {
            let null = File::open("/dev/null").expect("open");
            client.send_descriptors(&vec![null.as_fd(); count])
        })
        .await
        .expect("no panic")
    }

    fn uid() -> u32 {
        geteuid().as_raw()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn descriptors_are_taken_once_and_only_by_their_user() {
        let room = room(4, Duration::from_secs(60));
        let (token, _leash) = send(&room, 2).await.expect("accepted");
        assert!(room.tokens.claim(uid() + 1, &token).is_err());
        let mut set = room.tokens.claim(uid(), &token).expect("ours");
        assert!(room.tokens.claim(uid(), &token).is_err());
        set.take(1, "mount a").expect("the second");
        let twice = set.take(1, "mount b").expect_err("used twice").detail;
        assert!(twice.contains("mount b") && twice.contains("twice"), "{twice}");
        let beyond = set.take(2, "mount c").expect_err("not sent").detail;
        assert!(beyond.contains("only 2 were sent"), "{beyond}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_leash_breaks_when_the_client_hangs_up_and_not_before() {
        let room = room(4, Duration::from_millis(50));
        let (token, leash) = send(&room, 1).await.expect("accepted");
        let set = room.tokens.claim(uid(), &token).expect("ours");
        let mut leash_of_set = set.leash;
        let mut broken = tokio::spawn(async move { leash_of_set.broken().await });
        // Longer than the lifetime of a token that nobody names.
        let early = tokio::time::timeout(Duration::from_millis(200), &mut broken).await;
        assert!(early.is_err(), "broke while the client held it");
        drop(leash);
        tokio::time::timeout(Duration::from_secs(5), broken).await.expect("in time").expect("ran");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_token_that_nobody_names_expires() {
        let room = room(4, Duration::from_millis(50));
        let (token, _leash) = send(&room, 1).await.expect("accepted");
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(room.tokens.claim(uid(), &token).is_err());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn waiting_sets_are_bounded_and_a_closed_connection_makes_room() {
        let room = room(1, Duration::from_secs(60));
        let first = send(&room, 1).await.expect("accepted");
        let error = send(&room, 1).await.expect_err("no room").to_string();
        assert!(error.contains("waiting_tokens_per_user_max"), "{error}");
        drop(first);
        for _ in 0..100 {
            if send(&room, 1).await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the first set still waits");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_message_without_descriptors_is_refused() {
        let room = room(4, Duration::from_secs(60));
        let error = send(&room, 0).await.expect_err("nothing sent").to_string();
        assert!(error.contains("no descriptors"), "{error}");
    }
}
