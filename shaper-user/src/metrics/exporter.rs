//! The HTTP listener. Whoever asks costs little: there are few connections at once,
//! each has one request and little time, and what they ask for is made at most
//! twice a second.

use super::expose::{Format, expose};
use super::snapshot::Snapshot;
use crate::listening::{Listens, Trouble, follow, take};
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
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

/// Connections at once; one more is closed.
const CONNECTIONS: usize = 16;
/// For a request to come, and for all of a connection.
const HEADER_TIME: Duration = Duration::from_secs(5);
const TIME: Duration = Duration::from_secs(20);
/// Bytes of a request.
const REQUEST_MAX: usize = 16 * 1024;
/// What was made so long ago is made anew.
const FRESH: Duration = Duration::from_millis(500);

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
    trouble: Trouble,
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
            trouble: Trouble::default(),
            counts: Arc::default(),
            last: Arc::default(),
        }
    }

    /// Why it does not listen although it should.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.trouble.told()
    }

    /// Scrapes answered, and connections refused.
    #[must_use]
    pub fn scrapes(&self) -> [u64; 2] {
        [&self.counts.answered, &self.counts.refused].map(|count| count.load(Relaxed))
    }

    /// Listens where the policy says, until the daemon ends. Follows its changes.
    pub async fn run(self, source: Arc<impl Source>) {
        let (listen, trouble) = (self.listen.clone(), self.trouble.clone());
        let address = |metrics: &Option<Metrics>| metrics.as_ref().map(|metrics| metrics.listen);
        let server = Server {
            exporter: self,
            source,
        };
        follow(listen, address, &trouble, &server).await;
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
}

/// With whom to ask.
struct Server<S> {
    exporter: Exporter,
    source: Arc<S>,
}

impl<S: Source> Listens for Server<S> {
    fn at(&self, address: SocketAddr) -> String {
        format!("metrics are at http://{address}/metrics")
    }

    fn over(&self, address: SocketAddr) -> String {
        format!("over: metrics could not listen on {address}")
    }

    fn failed(&self, address: SocketAddr, error: &io::Error) -> String {
        let remedy = match error.kind() {
            _ if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
                "the unit's sandbox allows no Internet sockets; add packaging/metrics.conf to it"
            }
            io::ErrorKind::PermissionDenied => "choose a port above 1023",
            io::ErrorKind::AddrNotAvailable => "choose an address that this host has",
            _ => "free the port (`ss -ltnp` says who has it), or choose another",
        };
        format!(
            "metrics cannot be read: cannot listen on {address}, which is `listen` of [metrics] in the \
             policy: {error}; {remedy}, then `shaper reload`"
        )
    }

    async fn serve(&self, listener: TcpListener) {
        let refused = || {
            self.exporter.counts.refused.fetch_add(1, Relaxed);
        };
        take(listener, CONNECTIONS, "metrics", refused, |stream| {
            let (exporter, source) = (self.exporter.clone(), Arc::clone(&self.source));
            async move { exporter.connection(stream, source).await }
        })
        .await;
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
