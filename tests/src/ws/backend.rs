//! The servers behind the proxy.

use crate::haproxy::BACKEND_PORT;
use crate::netns::Namespace;
use crate::traffic::Meter;
use anyhow::Result;
use futures_util::{SinkExt as _, StreamExt as _};
use std::collections::HashMap;
use std::net::{IpAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::{Bytes, Message};

/// Bytes of a message in bulk, each way.
pub const BULK_MESSAGE: usize = 64 << 10;

type Meters = Arc<Mutex<HashMap<IpAddr, Arc<Meter>>>>;

/// A WebSocket server: text is echoed, binary is swallowed and counted by
/// client; on `/download` it sends as fast as it can.
#[derive(Debug)]
pub struct Backend {
    uploads: Meters,
    task: tokio::task::JoinHandle<()>,
}

impl Backend {
    /// Listens in a namespace on [`BACKEND_PORT`].
    ///
    /// # Errors
    /// When the port is taken.
    pub fn start(runtime: &Handle, namespace: &Namespace) -> Result<Self> {
        let listener = namespace.enter(|| {
            let listener = TcpListener::bind(("0.0.0.0", BACKEND_PORT))?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        })?;
        let uploads = Meters::default();
        let meters = uploads.clone();
        let _inside = runtime.enter();
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let task = runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A client that goes away ends its own task only.
                tokio::spawn(serve(stream, meters.clone()));
            }
        });
        Ok(Self { uploads, task })
    }

    /// Payload received in binary messages from a client, as HAProxy names it;
    /// `None` when none came.
    #[must_use]
    pub fn uploads(&self, client: IpAddr) -> Option<Arc<Meter>> {
        let meters = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        meters.get(&client).cloned()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(stream: TcpStream, meters: Meters) -> Result<()> {
    stream.set_nodelay(true)?;
    let (mut path, mut client) = (String::new(), None);
    #[expect(
        clippy::result_large_err,
        reason = "the signature is the library's callback"
    )]
    let callback = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
        path = request.uri().path().to_owned();
        client = request
            .headers()
            .get("x-forwarded-for")
            .and_then(|value| value.to_str().ok()?.parse::<IpAddr>().ok())
            .map(|address| address.to_canonical());
        Ok(response)
    };
    let mut socket = tokio_tungstenite::accept_hdr_async(stream, callback).await?;
    if path == "/download" {
        let message = Bytes::from(vec![0x55; BULK_MESSAGE]);
        loop {
            socket.send(Message::Binary(message.clone())).await?;
        }
    }
    let mut meter: Option<Arc<Meter>> = None;
    while let Some(message) = socket.next().await {
        match message? {
            text @ Message::Text(_) => socket.send(text).await?,
            Message::Binary(bytes) => {
                if meter.is_none()
                    && let Some(client) = client
                {
                    let mut meters = meters.lock().unwrap_or_else(PoisonError::into_inner);
                    meter = Some(meters.entry(client).or_default().clone());
                }
                if let Some(meter) = &meter {
                    meter.add(bytes.len());
                }
            }
            _ => {}
        }
    }
    Ok(())
}
