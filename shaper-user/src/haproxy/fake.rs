//! A HAProxy that is none: a Unix socket that answers as a test says.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// What a question gets.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Text(String),
    Bytes(Vec<u8>),
    /// The text, so much later.
    Late(String, Duration),
    /// Reads and stays silent.
    Never,
    /// Writes until the other side has enough.
    Endless,
}

/// A question, and when it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub command: String,
    pub at: Instant,
}

#[derive(Default)]
struct Log {
    asked: Vec<Asked>,
    open: usize,
    most: usize,
}

/// What is answered whatever the test said at the start.
#[derive(Clone, Default)]
struct Fixed {
    all: Option<String>,
    silent: Option<String>,
}

/// Listens until it is dropped.
pub(crate) struct Server {
    path: PathBuf,
    log: Arc<Mutex<Log>>,
    fixed: Arc<Mutex<Fixed>>,
    task: JoinHandle<()>,
    _dir: Option<tempfile::TempDir>,
}

impl Server {
    /// At a path of its own.
    pub fn start(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut server = Self::at(&dir.path().join("haproxy.sock"), answer);
        server._dir = Some(dir);
        server
    }

    /// At `path`, in the place of what was there.
    pub fn at(path: &Path, answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).unwrap();
        let (log, fixed) = (Arc::default(), Arc::default());
        let task = tokio::spawn(accept(
            listener,
            Arc::new(answer),
            Arc::clone(&log),
            Arc::clone(&fixed),
        ));
        Self {
            path: path.to_owned(),
            log,
            fixed,
            task,
            _dir: None,
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Answers everything so from now on.
    pub fn answer(&self, text: &str) {
        self.fixed.lock().unwrap().all = Some(text.to_owned());
    }

    /// Answers that command no more.
    pub fn silence(&self, command: &str) {
        self.fixed.lock().unwrap().silent = Some(command.to_owned());
    }

    /// Answers as told at the start again.
    pub fn answer_as_before(&self) {
        *self.fixed.lock().unwrap() = Fixed::default();
    }

    /// What was asked up to now.
    pub fn asked(&self) -> Vec<Asked> {
        lock(&self.log).asked.clone()
    }

    pub fn commands(&self) -> Vec<String> {
        self.asked()
            .into_iter()
            .map(|asked| asked.command)
            .collect()
    }

    /// The most connections that were open at once.
    pub fn most_at_once(&self) -> usize {
        lock(&self.log).most
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(log: &Mutex<Log>) -> std::sync::MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(
    listener: UnixListener,
    answer: Arc<dyn Fn(&str) -> Answer + Send + Sync>,
    log: Arc<Mutex<Log>>,
    fixed: Arc<Mutex<Fixed>>,
) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            return;
        };
        {
            let mut log = lock(&log);
            log.open += 1;
            log.most = log.most.max(log.open);
        }
        let (answer, log, fixed) = (Arc::clone(&answer), Arc::clone(&log), Arc::clone(&fixed));
        tokio::spawn(async move {
            let _ = serve(stream, &*answer, &log, &fixed).await;
            lock(&log).open -= 1;
        });
    }
}

async fn serve(
    mut stream: UnixStream,
    answer: &(dyn Fn(&str) -> Answer + Send + Sync),
    log: &Mutex<Log>,
    fixed: &Mutex<Fixed>,
) -> std::io::Result<()> {
    let mut command = String::new();
    stream.read_to_string(&mut command).await?;
    let command = command.trim_end_matches('\n');
    lock(log).asked.push(Asked {
        command: command.to_owned(),
        at: Instant::now(),
    });
    let fixed = fixed.lock().unwrap().clone();
    let answer = match fixed {
        Fixed {
            all: Some(text), ..
        } => Answer::Text(text),
        Fixed { silent, .. } if silent.as_deref() == Some(command) => Answer::Never,
        Fixed { .. } => answer(command),
    };
    match answer {
        Answer::Text(text) => stream.write_all(text.as_bytes()).await,
        Answer::Bytes(bytes) => stream.write_all(&bytes).await,
        Answer::Late(text, after) => {
            sleep(after).await;
            stream.write_all(text.as_bytes()).await
        }
        Answer::Never => {
            sleep(Duration::from_secs(3600)).await;
            Ok(())
        }
        Answer::Endless => loop {
            stream.write_all(&[b'a'; 4096]).await?;
        },
    }
}
