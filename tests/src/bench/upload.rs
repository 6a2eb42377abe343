//! WebSockets that upload, at different paces.

use crate::lab::Lab;
use crate::traffic::tcp::set_max_pacing_rate;
use crate::ws::client::{connect, open};
use anyhow::{Result, bail};
use futures_util::SinkExt as _;
use std::net::{IpAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use tokio_tungstenite::tungstenite::{Bytes, Message};

/// How often a sender that paces itself sends a message.
const TICK: Duration = Duration::from_millis(100);

/// How fast a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Messages of so many bytes, as fast as the socket takes them.
    Greedy(usize),
    /// The same, with the socket's own pacing (`SO_MAX_PACING_RATE`), in
    /// bytes per second of payload.
    Socket {
        /// Bytes of a message.
        message: usize,
        /// Bytes per second.
        rate: u32,
    },
    /// A message every 100 ms, together so many bytes per second.
    Messages {
        /// Bytes per second.
        rate: u32,
    },
    /// Opens the connection and says nothing.
    Silent,
}

/// Segments with data that a sender sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Segments {
    /// All of them.
    pub sent: u64,
    /// Those that were sent again.
    pub again: u64,
}

impl Segments {
    /// Retransmitted segments, in percent of all.
    #[must_use]
    pub fn percent_again(self) -> f64 {
        self.again as f64 * 100.0 / self.sent.max(1) as f64
    }
}

impl std::ops::AddAssign for Segments {
    fn add_assign(&mut self, other: Self) {
        self.sent += other.sent;
        self.again += other.again;
    }
}

/// A client that uploads. Dropping it resets the connection.
#[derive(Debug)]
pub struct Upload {
    stream: TcpStream,
    task: JoinHandle<Result<()>>,
}

impl Upload {
    /// Connects and starts.
    ///
    /// # Errors
    /// When the proxy cannot be reached.
    pub fn start(
        runtime: &Handle,
        lab: &Lab,
        source: IpAddr,
        congestion: &str,
        pace: Pace,
    ) -> Result<Self> {
        let (stream, url) = connect(lab, source, congestion)?;
        // Ending it throws away what it has queued: seconds, at a low limit.
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        if let Pace::Socket { rate, .. } = pace {
            set_max_pacing_rate(&stream, rate)?;
        }
        let copy = stream.try_clone()?;
        let task = runtime.spawn(async move {
            let mut socket = open(stream, format!("{url}/upload")).await?;
            let mut ticks = None;
            let length = match pace {
                Pace::Greedy(length) => length,
                Pace::Socket { message, .. } => message,
                Pace::Messages { rate } => {
                    let mut every = interval(TICK);
                    every.set_missed_tick_behavior(MissedTickBehavior::Burst);
                    ticks = Some(every);
                    rate as usize / 10
                }
                Pace::Silent => return std::future::pending().await,
            };
            let message = Bytes::from(vec![0x55; length]);
            loop {
                if let Some(ticks) = &mut ticks {
                    ticks.tick().await;
                }
                socket.send(Message::Binary(message.clone())).await?;
            }
        });
        Ok(Self { stream: copy, task })
    }

    /// What it has sent so far.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn segments(&self) -> Result<Segments> {
        // SAFETY: tcp_info is plain data, for which zero is valid.
        let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
        let mut length = size_of::<libc::tcp_info>() as u32;
        // SAFETY: the kernel writes at most `length` bytes to the struct.
        let result = unsafe {
            libc::getsockopt(
                self.stream.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                (&raw mut info).cast(),
                &raw mut length,
            )
        };
        nix::errno::Errno::result(result)?;
        Ok(Segments {
            sent: info.tcpi_data_segs_out.into(),
            again: info.tcpi_total_retrans.into(),
        })
    }

    /// Ends it.
    ///
    /// # Errors
    /// When the connection had broken before.
    pub async fn stop(mut self) -> Result<()> {
        if self.task.is_finished() {
            (&mut self.task).await??;
            bail!("an upload ended by itself");
        }
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.task.abort();
    }
}
