//! Light and heavy clients.

use super::Recorder;
use super::backend::BULK_MESSAGE;
use crate::lab::{Lab, PORT, PROXY_V4, PROXY_V6};
use crate::traffic::{Meter, tcp};
use anyhow::{Context as _, Result, anyhow, bail};
use futures_util::{SinkExt as _, StreamExt as _};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Bytes, Message};

/// A connection to the proxy from one of the client namespace's addresses.
pub(crate) fn connect(
    lab: &Lab,
    source: IpAddr,
    congestion: &str,
) -> Result<(std::net::TcpStream, String)> {
    let proxy = if source.is_ipv4() { PROXY_V4 } else { PROXY_V6 };
    let to = SocketAddr::new(proxy, PORT);
    let stream = tcp::connect(&lab.client, source, to, congestion, Duration::from_secs(5))?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    Ok((stream, format!("ws://{to}")))
}

pub(crate) async fn open(
    stream: std::net::TcpStream,
    url: String,
) -> Result<WebSocketStream<TcpStream>> {
    let stream = TcpStream::from_std(stream)?;
    let (socket, _) = tokio_tungstenite::client_async(url, stream)
        .await
        .context("no WebSocket")?;
    Ok(socket)
}

/// A client that says a little, often, and measures how long the echo takes.
#[derive(Debug)]
pub struct Light {
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<Result<()>>,
}

impl Light {
    /// Sends a short text every `every` and records the echo's latency.
    ///
    /// # Errors
    /// When the proxy cannot be reached.
    pub fn start(
        runtime: &tokio::runtime::Handle,
        lab: &Lab,
        source: IpAddr,
        every: Duration,
        recorder: Arc<Recorder>,
    ) -> Result<Self> {
        let (stream, url) = connect(lab, source, "cubic")?;
        let (stop, stopped) = watch::channel(false);
        // Apart from each other, so that they don't all send at once.
        let IpAddr::V4(address) = source else {
            bail!("light clients are IPv4")
        };
        let offset = every * u32::from(address.octets()[3] % 20) / 20;
        let task = runtime.spawn(async move {
            let socket = open(stream, format!("{url}/chat")).await?;
            chat(socket, every, offset, &recorder, stopped).await
        });
        Ok(Self { stop, task })
    }

    /// Closes the connection.
    ///
    /// # Errors
    /// When it broke before.
    pub async fn stop(self) -> Result<()> {
        // It may have ended by itself; then the task says why.
        let _ = self.stop.send(true);
        self.task.await?
    }
}

async fn chat(
    mut socket: WebSocketStream<TcpStream>,
    every: Duration,
    offset: Duration,
    recorder: &Recorder,
    mut stopped: watch::Receiver<bool>,
) -> Result<()> {
    let mut ticks = interval_at(tokio::time::Instant::now() + offset, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stopped.changed() => break,
        }
        let phase = recorder.phase();
        let sent = Instant::now();
        socket
            .send(Message::text("How is the weather where you are?"))
            .await?;
        loop {
            match socket.next().await {
                Some(Ok(Message::Text(_))) => break,
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
                None => bail!("the server closed a light client's connection"),
            }
        }
        recorder.record(phase, sent.elapsed());
    }
    socket.close(None).await?;
    // Reads the peer's close, so that it is done when this returns.
    while let Some(Ok(_)) = socket.next().await {}
    Ok(())
}

/// A client that moves 64 KiB messages as fast as it can, on its own thread.
#[derive(Debug)]
pub struct Heavy {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<Result<()>>>,
    meter: Arc<Meter>,
}

impl Heavy {
    /// Uploads until it is stopped.
    ///
    /// # Errors
    /// When the proxy cannot be reached.
    pub fn upload(lab: &Lab, source: IpAddr, congestion: &str) -> Result<Self> {
        Self::start(lab, source, congestion, true)
    }

    /// Downloads until it is stopped.
    ///
    /// # Errors
    /// When the proxy cannot be reached.
    pub fn download(lab: &Lab, source: IpAddr) -> Result<Self> {
        Self::start(lab, source, "cubic", false)
    }

    fn start(lab: &Lab, source: IpAddr, congestion: &str, upload: bool) -> Result<Self> {
        let (stream, url) = connect(lab, source, congestion)?;
        // Ending it throws away what it has queued: seconds, at a low limit.
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        let (stop, mut stopped) = watch::channel(false);
        let meter = Arc::new(Meter::default());
        let counts = meter.clone();
        let thread = thread::Builder::new().name("heavy".into()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                let work = async {
                    let path = if upload { "upload" } else { "download" };
                    let socket = open(stream, format!("{url}/{path}")).await?;
                    bulk(socket, upload, &counts).await
                };
                tokio::select! {
                    result = work => result,
                    _ = stopped.changed() => Ok(()),
                }
            })
        })?;
        Ok(Self {
            stop,
            thread: Some(thread),
            meter,
        })
    }

    /// Payload handed to the kernel, or received from it.
    #[must_use]
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Resets the connection.
    ///
    /// # Errors
    /// When it broke before.
    pub fn stop(mut self) -> Result<()> {
        let _ = self.stop.send(true);
        match self.thread.take().map(JoinHandle::join) {
            Some(Err(_)) => Err(anyhow!("panic in the heavy client")),
            Some(Ok(result)) => result,
            None => Ok(()),
        }
    }
}

async fn bulk(mut socket: WebSocketStream<TcpStream>, upload: bool, meter: &Meter) -> Result<()> {
    if upload {
        let message = Bytes::from(vec![0x55; BULK_MESSAGE]);
        loop {
            socket.send(Message::Binary(message.clone())).await?;
            meter.add(BULK_MESSAGE);
        }
    }
    while let Some(message) = socket.next().await {
        meter.add(message?.len());
    }
    bail!("the server closed the heavy client's connection")
}
