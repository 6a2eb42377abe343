//! Sockets that are none of HAProxy's, or none to rely on.

use anyhow::Result;
use std::io::{BufRead as _, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle, sleep};
use std::time::Duration;

/// What is wrong with one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// There is no such file.
    Missing,
    /// Nobody listens any more.
    Dead,
    /// Accepts, and says nothing.
    Silent,
    /// A byte now and then, without end.
    Slow,
    /// Random bytes, without end.
    Garbage,
    /// Answers in HAProxy's form what cannot be.
    Lying,
}

pub const FAULTS: [Fault; 6] = [
    Fault::Missing,
    Fault::Dead,
    Fault::Silent,
    Fault::Slow,
    Fault::Garbage,
    Fault::Lying,
];

/// A listening socket with a fault; dropping it ends it.
#[derive(Debug)]
pub struct Fake {
    pub fault: Fault,
    pub path: PathBuf,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Fake {
    pub fn start(directory: &Path, fault: Fault) -> Result<Self> {
        let path = directory.join(format!("{fault:?}.sock"));
        let ended = Arc::new(AtomicBool::new(false));
        let mut thread = None;
        if fault != Fault::Missing {
            let listener = UnixListener::bind(&path)?;
            if fault != Fault::Dead {
                let ended = ended.clone();
                thread = Some(thread::spawn(move || {
                    for stream in listener.incoming().flatten() {
                        if ended.load(Relaxed) {
                            return;
                        }
                        let ended = ended.clone();
                        // The other side ends it when it has had enough.
                        thread::spawn(move || serve(fault, stream, &ended));
                    }
                }));
            }
        }
        Ok(Self {
            fault,
            path,
            ended,
            thread,
        })
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.ended.store(true, Relaxed);
        let woken = UnixStream::connect(&self.path);
        if let Some(thread) = self.thread.take()
            && woken.is_ok()
        {
            let _ = thread.join();
        }
    }
}

fn serve(fault: Fault, mut stream: UnixStream, ended: &AtomicBool) -> Option<()> {
    let mut number = 0x9e37_79b9_7f4a_7c15_u64;
    if fault == Fault::Lying {
        let mut question = String::new();
        BufReader::new(&stream).read_line(&mut question).ok()?;
        return lie(&question, &mut stream).ok();
    }
    while !ended.load(Relaxed) {
        match fault {
            Fault::Slow => {
                stream.write_all(b"0").ok()?;
                sleep(Duration::from_millis(200));
            }
            Fault::Garbage => {
                let mut bytes = Vec::with_capacity(1 << 16);
                while bytes.len() < 1 << 16 {
                    // xorshift64
                    number ^= number << 13;
                    number ^= number >> 7;
                    number ^= number << 17;
                    bytes.extend(number.to_ne_bytes());
                }
                stream.write_all(&bytes).ok()?;
            }
            _ => sleep(Duration::from_millis(100)),
        }
    }
    Some(())
}

/// Answers as a master CLI does, with workers that cannot be. Their streams are
/// of nobody, from impossible addresses, with missing fields, twice, and in a
/// line of 4 MB.
fn lie(question: &str, stream: &mut impl Write) -> std::io::Result<()> {
    if question.contains("show proc") {
        return stream.write_all(
            b"admin\n\n#<PID> <type> <reloads> <uptime> <version>\n1 master 0 0d00h00m00s 3.0-lie\n\
              # workers\n-1 worker 0\n0 worker 0\n4294967296 worker 0\n77 worker 0\n77 worker 0\n\n",
        );
    }
    for n in 0..2_000 {
        writeln!(
            stream,
            "0x{n:x}: proto=tcpv4 src=203.0.113.{}:{} fe=liar be=liar srv=liar ts=00 age=0s",
            n % 300,
            n * 50
        )?;
    }
    for line in [
        "0xffffffffffffffffffff: proto=tcpv4 src=192.0.2.1:1 fe=liar be=liar srv=liar",
        "0x1: proto=tcpv6 src=::::1 fe=liar be=liar srv=liar",
        "0x1: src= fe= be= srv=",
        ": proto=tcpv4",
        "0x2: proto=tcpv4 src=unix:1 fe=liar be=<NONE> srv=<none>",
    ] {
        writeln!(stream, "{line}")?;
    }
    stream.write_all(b"0x3: \xff\xfe\n0x4: ")?;
    stream.write_all(&vec![b'a'; 4 << 20])?;
    stream.write_all(b"\n\n")
}
