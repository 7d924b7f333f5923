//! A way to an S3 server that can go wrong: each request is looked at before it is passed on.
//!
//! One thread for each connection, one request for each. Nothing signed is changed: the client signs for this address, and the
//! server takes the address from the request.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// The first line of a request, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub method: String,
    /// Path and query.
    pub target: String,
}

impl Seen {
    pub fn is(&self, method: &str, part: &str) -> bool {
        self.method == method && self.target.contains(part)
    }
}

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    Pass,
    /// This answer, from here: status line, headers and body.
    Answer(String),
    /// The answer's body ends after so many bytes, and the connection with it.
    CutAnswer(usize),
    /// One bit of the answer's body, at this byte, is another.
    FlipAnswer(usize),
    /// The answer comes in pieces of so many bytes, with a pause before each.
    Trickle(usize, Duration),
    /// The connection is reset after so many bytes of the request's body.
    Reset(usize),
    /// One bit of the request's body, at this byte, is another.
    FlipRequest(usize),
    /// Nothing is read and nothing answered.
    Silence,
}

/// An answer as S3 gives refusals.
pub fn refusal(status: &str, code: &str, more: &str) -> Fate {
    let body = format!(
        "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>by the test</Message>{more}</Error>"
    );
    Fate::Answer(format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    ))
}

type Judge = dyn FnMut(&Seen, usize) -> Fate + Send;

/// What the threads of a proxy share. Locking: each lock is held for a look or a change.
struct Shared {
    upstream: SocketAddr,
    /// Asked with each request and how many there were before it.
    judge: Mutex<Box<Judge>>,
    seen: Mutex<Vec<Seen>>,
    over: AtomicBool,
}

pub struct Proxy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

impl Proxy {
    pub fn new(
        upstream: SocketAddr,
        judge: impl FnMut(&Seen, usize) -> Fate + Send + 'static,
    ) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        let shared = Arc::new(Shared {
            upstream,
            judge: Mutex::new(Box::new(judge)),
            seen: Mutex::default(),
            over: AtomicBool::new(false),
        });
        let ours = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                if ours.over.load(Ordering::SeqCst) {
                    return;
                }
                let (ours, client) = (ours.clone(), client.expect("accept"));
                // A connection that breaks is what the test wants, or shows on the client's side.
                thread::spawn(move || serve(&ours, client));
            }
        });
        Proxy { address, shared }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many requests of this method had this in path or query.
    pub fn count(&self, method: &str, part: &str) -> usize {
        self.seen().iter().filter(|seen| seen.is(method, part)).count()
    }
}

fn serve(shared: &Shared, client: TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut head = Vec::new();
    let mut length = 0;
    loop {
        let mut line = Vec::new();
        if reader.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        if line == b"\r\n" {
            break;
        }
        let text = String::from_utf8_lossy(&line).to_ascii_lowercase();
        if let Some(value) = text.strip_prefix("content-length:") {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
        assert!(!text.starts_with("transfer-encoding:"), "a body without a length: {text}");
        head.push(String::from_utf8_lossy(&line).into_owned());
    }
    let mut words = head[0].split(' ');
    let mut word = || words.next().unwrap_or_default().to_owned();
    let seen = Seen { method: word(), target: word() };
    let fate = {
        let mut all = shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(seen.clone());
        let before = all.len() - 1;
        drop(all);
        shared.judge.lock().unwrap_or_else(PoisonError::into_inner)(&seen, before)
    };
    match &fate {
        Fate::Silence => {
            while !shared.over.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(50));
            }
            return Ok(());
        }
        Fate::Reset(bytes) => {
            io::copy(&mut reader.take(length.min(*bytes as u64)), &mut io::sink())?;
            // What is unread when a socket is closed makes Linux send a reset (tcp_close in net/ipv4/tcp.c).
            return Ok(());
        }
        Fate::Answer(answer) => {
            io::copy(&mut reader.take(length), &mut io::sink())?;
            return (&client).write_all(answer.as_bytes());
        }
        _ => {}
    }
    let mut server = TcpStream::connect(shared.upstream)?;
    for line in &head {
        if !line.to_ascii_lowercase().starts_with("connection:") {
            server.write_all(line.as_bytes())?;
        }
    }
    server.write_all(b"Connection: close\r\n\r\n")?;
    let mut body = reader.take(length);
    match fate {
        Fate::FlipRequest(at) => {
            let mut bytes = Vec::new();
            body.read_to_end(&mut bytes)?;
            bytes[at] ^= 1;
            server.write_all(&bytes)?;
        }
        _ => {
            io::copy(&mut body, &mut server)?;
        }
    }
    answer(&fate, BufReader::new(server), &client)
}

fn answer(fate: &Fate, mut server: impl BufRead, mut client: &TcpStream) -> io::Result<()> {
    loop {
        let mut line = Vec::new();
        server.read_until(b'\n', &mut line)?;
        client.write_all(&line)?;
        if line == b"\r\n" || line.is_empty() {
            break;
        }
    }
    match fate {
        Fate::CutAnswer(bytes) => {
            io::copy(&mut server.take(*bytes as u64), &mut client)?;
        }
        Fate::FlipAnswer(at) => {
            let mut body = Vec::new();
            server.read_to_end(&mut body)?;
            if let Some(byte) = body.get_mut(*at) {
                *byte ^= 1;
            }
            client.write_all(&body)?;
        }
        Fate::Trickle(bytes, pause) => {
            let mut piece = vec![0; *bytes];
            loop {
                let count = server.read(&mut piece)?;
                if count == 0 {
                    break;
                }
                thread::sleep(*pause);
                client.write_all(&piece[..count])?;
            }
        }
        _ => {
            io::copy(&mut server, &mut client)?;
        }
    }
    Ok(())
}
