//! WebSockets that know their server: each server says its name in the first
//! message, so where a WebSocket went is known from its other end and not from
//! HAProxy. By hand, because thousands of them must fit in one process.

use super::named::{END, read_head};
use crate::lab::{Lab, PROXY_V4, PROXY_V6};
use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use socket2::{Domain, SockAddr, Socket, Type};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::Runtime;
use tokio::time::timeout;

/// Handshakes at once.
const AT_ONCE: usize = 64;
const HANDSHAKE: Duration = Duration::from_secs(20);
/// Any 16 bytes will do (RFC 6455, section 4.1).
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// An open WebSocket. Dropping it resets the connection, so its port is free
/// at once.
#[derive(Debug)]
pub struct Pinned {
    stream: TcpStream,
    /// The client's end.
    pub client: SocketAddr,
    /// The proxy's port.
    pub port: u16,
    /// What its server calls itself.
    pub server: String,
}

impl Pinned {
    /// Opens one from each of these ends of the client namespace, at most 64 at
    /// once, and returns them in the same order. Port 0: any.
    ///
    /// # Errors
    /// When an end is taken, or one cannot be opened.
    pub fn open_all(
        runtime: &Runtime,
        lab: &Lab,
        clients: &[SocketAddr],
        port: u16,
    ) -> Result<Vec<Self>> {
        let sockets = Self::sockets(runtime, lab, clients)?;
        runtime.block_on(
            stream::iter(sockets)
                .map(|socket| Self::open(socket, port))
                .buffered(AT_ONCE)
                .try_collect(),
        )
    }

    /// Sockets bound to these ends, for [`Pinned::open`].
    ///
    /// # Errors
    /// When an end is taken.
    pub fn sockets(runtime: &Runtime, lab: &Lab, clients: &[SocketAddr]) -> Result<Vec<TcpSocket>> {
        let _inside = runtime.enter();
        let sockets = lab.client.enter(|| {
            clients
                .iter()
                .map(|client| {
                    let socket = Socket::new(Domain::for_address(*client), Type::STREAM, None)?;
                    socket.set_reuse_address(true)?;
                    socket.set_linger(Some(Duration::ZERO))?;
                    socket.set_nonblocking(true)?;
                    socket
                        .bind(&SockAddr::from(*client))
                        .with_context(|| format!("cannot bind {client}"))?;
                    Ok(socket)
                })
                .collect::<Result<Vec<_>>>()
        })?;
        Ok(sockets
            .into_iter()
            .map(|socket| TcpSocket::from_std_stream(socket.into()))
            .collect())
    }

    /// Opens one through the proxy's port.
    ///
    /// # Errors
    /// When it is not open, and its server's name there, within 20 seconds.
    pub async fn open(socket: TcpSocket, port: u16) -> Result<Self> {
        let client = socket.local_addr()?;
        timeout(HANDSHAKE, handshake(socket, port))
            .await
            .unwrap_or_else(|_| Err(anyhow::anyhow!("nothing within {HANDSHAKE:?}")))
            .with_context(|| format!("the WebSocket of {client}"))
    }

    /// Sends a binary message of so many bytes.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn send(&mut self, length: usize) -> Result<()> {
        // A masking key of zeros leaves the payload as it is.
        let mut frame = vec![0x82, 0x80 | 127];
        frame.extend((length as u64).to_be_bytes());
        frame.resize(frame.len() + 4 + length, 0);
        self.stream.write_all(&frame).await.map_err(Into::into)
    }

    /// Whether the other side has not ended it.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let mut byte = [0];
        match self.stream.try_read(&mut byte) {
            Ok(0) => false,
            Ok(_) => true,
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        }
    }

    /// Waits until the other side ends it.
    pub async fn closed(&mut self) {
        let mut bytes = [0; 64];
        while matches!(self.stream.read(&mut bytes).await, Ok(count) if count > 0) {}
    }
}

async fn handshake(socket: TcpSocket, port: u16) -> Result<Pinned> {
    let proxy = if socket.local_addr()?.is_ipv4() {
        PROXY_V4
    } else {
        PROXY_V6
    };
    let mut stream = socket.connect((proxy, port).into()).await?;
    stream.set_nodelay(true)?;
    let client = stream.local_addr()?;
    let request = format!(
        "GET /pinned HTTP/1.1\r\nHost: lab\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}{END}"
    );
    stream.write_all(request.as_bytes()).await?;
    let (head, mut rest) = read_head(&mut stream).await?;
    ensure!(head.starts_with("HTTP/1.1 101 "), "no WebSocket: {head}");
    // The name: one unmasked text frame of at most 125 bytes.
    while rest.len() < 2 || rest.len() < 2 + usize::from(rest[1]) {
        ensure!(stream.read_buf(&mut rest).await? > 0, "no name came");
    }
    ensure!(rest[0] == 0x81, "something else than a text came: {rest:?}");
    Ok(Pinned {
        stream,
        client: SocketAddr::new(client.ip(), client.port()),
        port,
        server: String::from_utf8(rest.split_off(2))?,
    })
}
