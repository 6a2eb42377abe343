//! Bulk TCP with a named congestion control.

use super::Meter;
use crate::netns::Namespace;
use anyhow::{Context, Result, bail};
use socket2::{Domain, SockAddr, Socket, Type};
use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const CHUNK: usize = 128 << 10;

/// Has the kernel send at most so many bytes a second.
///
/// # Errors
/// When the kernel refuses.
pub fn pace(stream: &TcpStream, bytes_per_sec: u64) -> Result<()> {
    // SAFETY: the value is read as an integer of the length given.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MAX_PACING_RATE,
            (&raw const bytes_per_sec).cast(),
            size_of::<u64>() as u32,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error()).context("SO_MAX_PACING_RATE");
    }
    Ok(())
}

/// Connects from an address inside a namespace. The peer may also be
/// unreachable on purpose: `timeout` bounds the handshake.
///
/// # Errors
/// When the handshake does not complete.
pub fn connect(
    namespace: &Namespace,
    source: IpAddr,
    to: SocketAddr,
    congestion: &str,
    timeout: Duration,
) -> Result<TcpStream> {
    let socket = namespace.enter(|| {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.set_tcp_congestion(congestion.as_bytes())?;
        socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))?;
        Ok(socket)
    })?;
    socket
        .connect_timeout(&SockAddr::from(to), timeout)
        .with_context(|| format!("{source} to {to}"))?;
    Ok(socket.into())
}

/// A listening socket, IPv4 and IPv6; what it accepts has its congestion
/// control.
///
/// # Errors
/// When the port is taken or the congestion control unknown.
pub fn listen(namespace: &Namespace, port: u16, congestion: &str) -> Result<Socket> {
    namespace.enter(|| {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
        socket.set_only_v6(false)?;
        socket.set_reuse_address(true)?;
        socket.set_tcp_congestion(congestion.as_bytes())?;
        socket.bind(&SockAddr::from(SocketAddr::from(([0; 16], port))))?;
        socket.listen(256)?;
        Ok(socket)
    })
}

/// `TCP_INFO` of a connection (tcp(7)): times in microseconds, counts of
/// segments as they cross the wire.
///
/// # Errors
/// When the kernel does not say.
pub fn info(stream: &TcpStream) -> Result<libc::tcp_info> {
    // SAFETY: tcp_info is plain data, for which zero is valid.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::tcp_info>() as u32;
    // SAFETY: the kernel writes at most `length` bytes to the struct.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    nix::errno::Errno::result(result)?;
    Ok(info)
}

/// The largest rate that the socket may be paced at, in bytes per second
/// (`SO_MAX_PACING_RATE`); [`u64::MAX`]: any.
///
/// # Errors
/// When the kernel does not say.
pub fn max_pacing_rate(stream: &TcpStream) -> Result<u64> {
    let mut rate = 0_u64;
    let mut length = size_of::<u64>() as u32;
    // SAFETY: the kernel writes at most `length` bytes to the integer.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MAX_PACING_RATE,
            (&raw mut rate).cast(),
            &raw mut length,
        )
    };
    nix::errno::Errno::result(result)?;
    Ok(rate)
}

/// Paces the socket, in bytes per second (`SO_MAX_PACING_RATE`).
///
/// # Errors
/// When the kernel refuses.
pub fn set_max_pacing_rate(stream: &TcpStream, rate: u32) -> Result<()> {
    // SAFETY: the kernel reads the four bytes of `rate`.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MAX_PACING_RATE,
            (&raw const rate).cast(),
            size_of::<u32>() as u32,
        )
    };
    nix::errno::Errno::result(result)?;
    Ok(())
}

/// One side of a bulk transfer, on a thread of its own.
#[derive(Debug)]
pub struct Transfer {
    stream: TcpStream,
    meter: Arc<Meter>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Transfer {
    /// Writes `total` bytes, or without end, then closes its side.
    ///
    /// # Errors
    /// When the stream cannot be used twice.
    pub fn send(stream: TcpStream, total: Option<u64>) -> Result<Self> {
        Self::start(stream, move |mut stream, meter| {
            let chunk = vec![0x55; CHUNK];
            let mut left = total.unwrap_or(u64::MAX);
            while left > 0 {
                let most = chunk.len().min(usize::try_from(left).unwrap_or(CHUNK));
                let written = stream.write(chunk.get(..most).unwrap_or_default())?;
                meter.add(written);
                left -= written as u64;
            }
            stream.shutdown(Shutdown::Write)
        })
    }

    /// Reads to the end.
    ///
    /// # Errors
    /// When the stream cannot be used twice.
    pub fn receive(stream: TcpStream) -> Result<Self> {
        Self::start(stream, |mut stream, meter| {
            let mut chunk = vec![0; CHUNK];
            loop {
                match stream.read(&mut chunk)? {
                    0 => {
                        // Closes this side too; the peer may be gone already.
                        let _ = stream.shutdown(Shutdown::Write);
                        return Ok(());
                    }
                    count => meter.add(count),
                }
            }
        })
    }

    /// Sends back what comes, to the end.
    ///
    /// # Errors
    /// When the stream cannot be used twice.
    pub fn echo(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        Self::start(stream, |mut stream, meter| {
            let mut chunk = vec![0; CHUNK];
            loop {
                let count = stream.read(&mut chunk)?;
                if count == 0 {
                    return Ok(());
                }
                meter.add(count);
                stream.write_all(chunk.get(..count).unwrap_or_default())?;
            }
        })
    }

    fn start(
        stream: TcpStream,
        work: impl FnOnce(TcpStream, &Meter) -> io::Result<()> + Send + 'static,
    ) -> Result<Self> {
        let meter = Arc::new(Meter::default());
        let (copy, counts) = (stream.try_clone()?, meter.clone());
        let thread = thread::spawn(move || work(copy, &counts));
        Ok(Self {
            stream,
            meter,
            thread: Some(thread),
        })
    }

    /// The connection.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// What this side wrote or read.
    #[must_use]
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Segments that this side sent again.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn retransmits(&self) -> Result<u32> {
        Ok(self.info()?.tcpi_total_retrans)
    }

    /// `TCP_INFO` of this side.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn info(&self) -> Result<libc::tcp_info> {
        info(&self.stream)
    }

    /// Whether it still goes on.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|t| !t.is_finished())
    }

    /// Waits for the end of a transfer that has one.
    ///
    /// # Errors
    /// When the time is over first, or the connection broke.
    pub fn finish(&mut self, timeout: Duration) -> Result<u64> {
        let deadline = Instant::now() + timeout;
        while self.is_running() {
            if Instant::now() > deadline {
                bail!("{} bytes after {timeout:?}", self.meter.total());
            }
            thread::sleep(Duration::from_millis(5));
        }
        if let Some(thread) = self.thread.take() {
            match thread.join() {
                Ok(result) => result?,
                Err(_) => bail!("panic in a transfer"),
            }
        }
        Ok(self.meter.total())
    }

    /// Breaks it off.
    pub fn stop(&mut self) {
        // It may be closed already.
        let _ = self.stream.shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What a server does with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Reads to the end.
    Sink,
    /// Writes so many bytes, or without end.
    Source(Option<u64>),
    /// Sends back what comes.
    Echo,
}

type Accepted = Arc<Mutex<HashMap<SocketAddr, Transfer>>>;

/// A TCP server in a namespace, IPv4 and IPv6.
#[derive(Debug)]
pub struct Server {
    listener: Arc<Socket>,
    accepted: Accepted,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens on a port.
    ///
    /// # Errors
    /// When the port is taken or the congestion control unknown.
    pub fn start(namespace: &Namespace, port: u16, role: Role, congestion: &str) -> Result<Self> {
        let listener = Arc::new(listen(namespace, port, congestion)?);
        let accepted = Accepted::default();
        let (socket, transfers) = (listener.clone(), accepted.clone());
        let thread = thread::spawn(move || {
            while let Ok((stream, peer)) = socket.accept() {
                let Some(peer) = peer.as_socket() else {
                    continue;
                };
                let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                let transfer = match role {
                    Role::Sink => Transfer::receive(stream.into()),
                    Role::Source(total) => Transfer::send(stream.into(), total),
                    Role::Echo => Transfer::echo(stream.into()),
                };
                if let Ok(transfer) = transfer {
                    transfers
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .insert(peer, transfer);
                }
            }
        });
        Ok(Self {
            listener,
            accepted,
            thread: Some(thread),
        })
    }

    /// The server's side of a client's connection, by the client's own end.
    ///
    /// # Errors
    /// When it was not accepted within five seconds.
    pub fn accepted(&self, client: &TcpStream) -> Result<Arc<Meter>> {
        self.side(client, |transfer| Ok(transfer.meter.clone()))
    }

    /// `TCP_INFO` of the server's side of a client's connection.
    ///
    /// # Errors
    /// As [`Server::accepted`], or when the kernel does not say.
    pub fn info(&self, client: &TcpStream) -> Result<libc::tcp_info> {
        self.side(client, Transfer::info)
    }

    /// [`max_pacing_rate`] of the server's side of a client's connection.
    ///
    /// # Errors
    /// As [`Server::accepted`], or when the kernel does not say.
    pub fn max_pacing_rate(&self, client: &TcpStream) -> Result<u64> {
        self.side(client, |transfer| max_pacing_rate(&transfer.stream))
    }

    fn side<T>(&self, client: &TcpStream, ask: impl Fn(&Transfer) -> Result<T>) -> Result<T> {
        let local = client.local_addr()?;
        let local = SocketAddr::new(local.ip(), local.port());
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            if let Some(transfer) = self
                .accepted
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get(&local)
            {
                return ask(transfer);
            }
            if Instant::now() > deadline {
                bail!("the connection of {local} was not accepted");
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Wakes the accepting thread.
        let _ = self.listener.shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
