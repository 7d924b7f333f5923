//! Asking a host file system that may never answer.
//!
//! A call on a network or FUSE file system whose server hangs cannot be ended, not even by SIGKILL once the server has the
//! request. It is made on a thread of its own, which is left behind when the answer takes too long; it ends by itself
//! when the file system answers or goes away.

use super::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

/// How long a directory may take to answer. Chosen, not measured: an automounter or a disk that wakes up takes seconds.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Most questions that wait for an answer at one time, those that were given up included.
const ASKING_MAX: usize = 64;

static ASKING: AtomicUsize = AtomicUsize::new(0);

/// Counts a question as long as its thread lives.
struct Asking;

impl Asking {
    fn begin() -> Option<Self> {
        let asking = Self;
        (ASKING.fetch_add(1, Ordering::Relaxed) < ASKING_MAX).then_some(asking)
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        ASKING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The answer, or an error that says that `what` does not answer.
pub fn within<T: Send + 'static>(
    what: &str,
    ask: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    let unavailable = |message| Error::Unavailable { message };
    let Some(asking) = Asking::begin() else {
        return Err(unavailable(format!(
            "{what}: not looked at, because {ASKING_MAX} other host directories do not answer; find the file systems that hang, and start the daemon anew when they are gone"
        )));
    };
    let (answer, answered) = mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name("look".to_owned()).spawn(move || {
        let _asking = asking;
        // Nobody may be there any more to take it.
        let _ = answer.send(ask());
    });
    if let Err(source) = thread {
        return Err(Error::Io { doing: format!("start a thread to look at {what}"), source });
    }
    answered.recv_timeout(ANSWER_MAX).map_err(|_| {
        unavailable(format!(
            "{what}: its file system did not answer within {} s; see whether its server runs and try again",
            ANSWER_MAX.as_secs()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_given_and_its_thread_ends() {
        for number in 0..200 {
            assert_eq!(within("nothing", move || number).expect("answers"), number);
        }
    }
}
