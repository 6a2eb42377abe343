//! A WebSocket server that says its name in the first message, for
//! [`super::Pinned`]; what comes is counted and swallowed.

use crate::haproxy::Spec;
use crate::lab::Lab;
use crate::netns::Namespace;
use crate::traffic::Meter;
use anyhow::{Context, Result, ensure};
use socket2::{Domain, SockAddr, Socket, Type};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// The end of a request's or an answer's head.
pub(super) const END: &str = "\r\n\r\n";
const HEAD_MAX: usize = 8 << 10;
const BACKLOG: i32 = 4096;

/// The server.
#[derive(Debug)]
pub struct Named {
    /// HAProxy's backend and server, `be_ws/srv1`.
    pub name: String,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    greeting: Vec<u8>,
    meter: Meter,
    open: AtomicU64,
}

impl Named {
    /// One for every server that a HAProxy is told of.
    ///
    /// # Errors
    /// When a port is taken.
    pub fn start_all(runtime: &Handle, lab: &Lab, spec: &Spec) -> Result<Vec<Self>> {
        spec.places(lab)
            .into_iter()
            .map(|place| {
                let namespace = lab.backends.get(place.namespace).context("no backend")?;
                let name = format!("{}/{}", place.backend, place.server);
                Self::start(runtime, namespace, place.port, name)
            })
            .collect()
    }

    fn start(runtime: &Handle, namespace: &Namespace, port: u16, name: String) -> Result<Self> {
        let listener = namespace.enter(|| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
            socket.bind(&SockAddr::from(address))?;
            socket.listen(BACKLOG)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        })?;
        ensure!(name.len() < 126, "too long for a short frame: {name}");
        // Not masked, as all that a server sends; 0x81: a whole text.
        let mut greeting = vec![0x81, name.len() as u8];
        greeting.extend(name.as_bytes());
        let shared = Arc::new(Shared {
            greeting,
            meter: Meter::default(),
            open: AtomicU64::new(0),
        });
        let _inside = runtime.enter();
        let listener = TcpListener::from_std(listener.into())?;
        let served = shared.clone();
        let task = runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = served.clone();
                tokio::spawn(async move {
                    shared.open.fetch_add(1, Relaxed);
                    // A client that goes away ends its own task only.
                    let _ = serve(stream, &shared).await;
                    shared.open.fetch_sub(1, Relaxed);
                });
            }
        });
        Ok(Self { name, shared, task })
    }

    /// What came, from the first frame on.
    #[must_use]
    pub fn meter(&self) -> &Meter {
        &self.shared.meter
    }

    /// Connections that are open now.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.shared.open.load(Relaxed)
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        self.task.abort();
        // The port is free when the task is gone.
        let deadline = Instant::now() + Duration::from_secs(1);
        while !self.task.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

async fn serve(mut stream: TcpStream, shared: &Shared) -> Result<()> {
    stream.set_nodelay(true)?;
    let (head, rest) = read_head(&mut stream).await?;
    shared.meter.add(rest.len());
    let key = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"))
        .context("no key")?
        .1;
    let mut answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}{END}",
        derive_accept_key(key.trim().as_bytes())
    )
    .into_bytes();
    answer.extend(&shared.greeting);
    stream.write_all(&answer).await?;
    drop((head, rest, answer));
    while {
        stream.readable().await?;
        swallow(&stream, &shared.meter)?
    } {}
    Ok(())
}

/// Reads what is there; false at the end. The buffer is on the stack: an idle
/// connection has none.
fn swallow(stream: &TcpStream, meter: &Meter) -> io::Result<bool> {
    let mut buffer = [0; 64 << 10];
    match stream.try_read(&mut buffer) {
        Ok(0) => Ok(false),
        Ok(count) => {
            meter.add(count);
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(error) => Err(error),
    }
}

/// Reads to the end of a head; with what came behind it.
pub(super) async fn read_head(stream: &mut TcpStream) -> Result<(String, Vec<u8>)> {
    let mut read = Vec::with_capacity(512);
    loop {
        if let Some(at) = read.windows(END.len()).position(|w| w == END.as_bytes()) {
            let rest = read.split_off(at + END.len());
            return Ok((String::from_utf8(read)?, rest));
        }
        ensure!(read.len() < HEAD_MAX, "no end of the head");
        ensure!(stream.read_buf(&mut read).await? > 0, "closed too early");
    }
}
