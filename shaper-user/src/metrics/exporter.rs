//! The HTTP listener. Whoever asks costs little: there are few connections at once,
//! each has one request and little time, and what they ask for is made at most
//! twice a second.

use super::expose::{Format, expose};
use super::snapshot::Snapshot;
use crate::policy::Metrics;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

/// Connections at once; one more is closed.
const CONNECTIONS: usize = 16;
/// For a request to come, and for all of a connection.
const HEADER_TIME: Duration = Duration::from_secs(5);
const TIME: Duration = Duration::from_secs(20);
/// Bytes of a request.
const REQUEST_MAX: usize = 16 * 1024;
/// What was made so long ago is made anew.
const FRESH: Duration = Duration::from_millis(500);
/// An address that could not be listened on is tried again.
const AGAIN: Duration = Duration::from_secs(10);

const INDEX: &str = "shaper: metrics are at /metrics\n";

/// Whoever knows the numbers.
pub trait Source: Send + Sync + 'static {
    /// Everything, now; `None` when the daemon is stopping.
    fn snapshot(&self) -> impl Future<Output = Option<Snapshot>> + Send;
}

/// The listener. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Exporter {
    listen: watch::Receiver<Option<Metrics>>,
    trouble: Arc<Mutex<Option<String>>>,
    counts: Arc<Counts>,
    last: Arc<tokio::sync::Mutex<Option<Made>>>,
}

/// When it was made.
type Made = (Instant, Arc<Snapshot>);

#[derive(Debug, Default)]
struct Counts {
    answered: AtomicU64,
    refused: AtomicU64,
}

impl Exporter {
    /// That listens where `listen` says.
    #[must_use]
    pub fn new(listen: watch::Receiver<Option<Metrics>>) -> Self {
        Self {
            listen,
            trouble: Arc::default(),
            counts: Arc::default(),
            last: Arc::default(),
        }
    }

    /// Why it does not listen although it should.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.lock().clone()
    }

    /// Scrapes answered, and connections refused.
    #[must_use]
    pub fn scrapes(&self) -> [u64; 2] {
        [&self.counts.answered, &self.counts.refused].map(|count| count.load(Relaxed))
    }

    /// Listens where the policy says, until the daemon ends. Follows its changes.
    pub async fn run(self, source: Arc<impl Source>) {
        let mut listen = self.listen.clone();
        loop {
            let wanted = listen.borrow_and_update().map(|metrics| metrics.listen);
            let changed = match wanted {
                None => {
                    self.lock().take();
                    listen.changed().await
                }
                Some(address) => match TcpListener::bind(address).await {
                    Ok(listener) => {
                        if self.lock().take().is_some() {
                            tracing::info!("over: metrics could not listen on {address}");
                        }
                        tracing::info!("metrics are at http://{address}/metrics");
                        tokio::select! {
                            changed = moved(&mut listen, address) => changed,
                            () = self.serve(listener, &source) => Ok(()),
                        }
                    }
                    Err(error) => {
                        self.failed(address, &error);
                        tokio::select! {
                            changed = listen.changed() => changed,
                            () = sleep(AGAIN) => Ok(()),
                        }
                    }
                },
            };
            if changed.is_err() {
                return;
            }
        }
    }

    /// Answers for ever.
    async fn serve(&self, listener: TcpListener, source: &Arc<impl Source>) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                // Out of file descriptors, or the peer is gone already.
                Err(error) => {
                    tracing::debug!("metrics: {error}");
                    sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
                self.counts.refused.fetch_add(1, Relaxed);
                continue;
            };
            let (exporter, source) = (self.clone(), Arc::clone(source));
            tokio::spawn(async move {
                let _slot = slot;
                exporter.connection(stream, source).await;
            });
        }
    }

    async fn connection(&self, stream: TcpStream, source: Arc<impl Source>) {
        let service = service_fn(|request: Request<Incoming>| {
            let source = Arc::clone(&source);
            async move { Ok::<_, Infallible>(self.answer(&request, source.as_ref()).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIME)
            .keep_alive(false)
            .max_buf_size(REQUEST_MAX)
            .serve_connection(TokioIo::new(stream), service);
        match timeout(TIME, connection).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!("metrics: {error}"),
            Err(_) => tracing::debug!("metrics: a connection took longer than {TIME:?}"),
        }
    }

    async fn answer(
        &self,
        request: &Request<Incoming>,
        source: &impl Source,
    ) -> Response<Full<Bytes>> {
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            let allowed = HeaderValue::from_static("GET, HEAD");
            answer.headers_mut().insert(ALLOW, allowed);
            return answer;
        }
        match request.uri().path() {
            "/metrics" => {}
            "/" => return plain(StatusCode::OK, INDEX),
            _ => return plain(StatusCode::NOT_FOUND, INDEX),
        }
        let Some(snapshot) = self.latest(source).await else {
            return plain(StatusCode::SERVICE_UNAVAILABLE, "the daemon is stopping\n");
        };
        let accept = request.headers().get_all(ACCEPT).iter();
        let accept: Vec<_> = accept.filter_map(|value| value.to_str().ok()).collect();
        let format = Format::accepted(&accept.join(","));
        let Ok(text) = expose(&snapshot, format) else {
            return plain(StatusCode::INTERNAL_SERVER_ERROR, "cannot be written\n");
        };
        self.counts.answered.fetch_add(1, Relaxed);
        with_type(StatusCode::OK, text, format.content_type())
    }

    /// What was made last, unless it is old. Whoever comes meanwhile waits.
    async fn latest(&self, source: &impl Source) -> Option<Arc<Snapshot>> {
        let mut last = self.last.lock().await;
        if let Some((at, snapshot)) = &*last
            && at.elapsed() < FRESH
        {
            return Some(Arc::clone(snapshot));
        }
        let snapshot = Arc::new(source.snapshot().await?);
        *last = Some((Instant::now(), Arc::clone(&snapshot)));
        Some(snapshot)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, address: SocketAddr, error: &io::Error) {
        let remedy = match error.kind() {
            _ if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
                "the unit's sandbox allows no Internet sockets; add packaging/metrics.conf to it"
            }
            io::ErrorKind::PermissionDenied => "choose a port above 1023",
            io::ErrorKind::AddrNotAvailable => "choose an address that this host has",
            _ => "free the port (`ss -ltnp` says who has it), or choose another",
        };
        let trouble = format!(
            "metrics cannot be read: cannot listen on {address}, which is `listen` of [metrics] in the \
             policy: {error}; {remedy}, then `shaper reload`"
        );
        let mut before = self.lock();
        if before.as_ref() != Some(&trouble) {
            tracing::warn!("{trouble}");
        }
        *before = Some(trouble);
    }
}

/// Waits until another address is wanted.
async fn moved(
    listen: &mut watch::Receiver<Option<Metrics>>,
    address: SocketAddr,
) -> Result<(), watch::error::RecvError> {
    loop {
        listen.changed().await?;
        let wanted = listen.borrow_and_update().map(|metrics| metrics.listen);
        if wanted != Some(address) {
            return Ok(());
        }
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    with_type(status, text.to_owned(), "text/plain; charset=utf-8")
}

fn with_type(status: StatusCode, text: String, kind: &'static str) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from(text)));
    *answer.status_mut() = status;
    let kind = HeaderValue::from_static(kind);
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}
