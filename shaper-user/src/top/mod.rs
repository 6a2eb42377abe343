//! The dashboard, `shaper top`.
//!
//! | module | what it is |
//! | --- | --- |
//! | `source` | where the numbers come from: the control socket |
//! | `state` | what the dashboard knows, and how it changes |
//! | `events` | the terminal's events as messages to the state |
//! | `draw` | the state as cells |
//! | `guard` | the terminal, taken and given back |
//! | `svg` | the cells as a picture |

mod draw;
mod events;
mod guard;
mod source;
mod state;
mod svg;
mod units;

use anyhow::{Context, bail};
use crossterm::event::EventStream;
use draw::theme::Theme;
use futures_util::StreamExt;
use guard::Guard;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use ratatui::Terminal;
use ratatui::backend::{Backend, CrosstermBackend, TestBackend};
use ratatui::layout::Size;
use source::{Socket, Source, SourceError, Wanted};
pub use state::Tab;
use state::{Action, App, Msg};
use std::io::{IsTerminal, stdin, stdout};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

/// How long [`picture`] waits for its frames.
const PICTURE_PATIENCE: Duration = Duration::from_secs(30);

/// Shows the dashboard of the daemon at `socket`, first `tab`, until it is left or
/// the process is told to end. A daemon that is not there, or goes, is waited for.
///
/// # Errors
/// Without a terminal, or when the terminal fails.
pub async fn run(socket: &Path, tab: Tab) -> anyhow::Result<()> {
    if !stdin().is_terminal() || !stdout().is_terminal() {
        bail!("`shaper top` needs a terminal; `shaper clients` prints one snapshot without");
    }
    let mut ends = Ends::new()?;
    let guard = Guard::take(stdout(), guard::raw_mode).context("taking the terminal")?;
    let out = guard::Shared::new(&stdout())?;
    guard.hook(move || out.clone());
    let mut terminal = Terminal::new(CrosstermBackend::new(stdout()))?;
    let size = terminal.size()?;
    let theme = Theme::of(
        std::env::var("NO_COLOR").ok().as_deref(),
        std::env::var("TERM").ok().as_deref(),
    );
    let app = App::new(size, Timestamp::now(), TimeZone::system(), tab);
    let keys = EventStream::new().filter_map(|event| async {
        match event {
            Ok(event) => events::message(&event).map(Ok),
            Err(error) => Some(Err(error)),
        }
    });
    let keys = Box::pin(keys);
    tokio::select! {
        left = serve(app, Socket::new(socket), keys, &mut terminal, theme, Timestamp::now) => left,
        () = ends.wait() => Ok(()),
    }
}

/// The signals that end a process.
struct Ends([tokio::signal::unix::Signal; 3]);

impl Ends {
    fn new() -> std::io::Result<Self> {
        Ok(Self([
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
            signal(SignalKind::hangup())?,
        ]))
    }

    async fn wait(&mut self) {
        let [term, int, hup] = &mut self.0;
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
            _ = hup.recv() => {}
        }
    }
}

/// The loop: messages in, actions out, a picture after each.
async fn serve<B, S, K>(
    mut app: App,
    source: S,
    mut keys: K,
    terminal: &mut Terminal<B>,
    theme: Theme,
    clock: impl Fn() -> Timestamp,
) -> anyhow::Result<()>
where
    B: Backend<Error: Send + Sync + 'static>,
    S: Source + 'static,
    K: futures_util::Stream<Item = std::io::Result<Msg>> + Unpin,
{
    // The source works beside the loop, so that a slow daemon stalls no key.
    // At most one fetch and one change are under way; the channels never fill.
    let (ask, asked) = mpsc::channel(8);
    let (tell, mut told) = mpsc::channel(8);
    let worker = Worker(tokio::spawn(work(source, asked, tell)));
    let mut ticks = interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        let msg = tokio::select! {
            key = keys.next() => match key {
                Some(key) => key.context("reading the terminal")?,
                // The terminal was closed.
                None => return Ok(()),
            },
            answer = told.recv() => answer.context("the connection to the daemon failed")?,
            _ = ticks.tick() => Msg::Tick(clock()),
        };
        match app.update(msg) {
            Some(Action::Quit) => break,
            Some(action) => ask
                .send(action)
                .await
                .context("the connection to the daemon failed")?,
            None => {}
        }
        terminal.draw(|frame| draw::draw(frame, &app, theme))?;
    }
    drop(worker);
    Ok(())
}

/// Ends its task with the loop, whichever way that ends.
struct Worker(tokio::task::JoinHandle<()>);

impl Drop for Worker {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Answers actions one after the other, as the one connection needs.
async fn work(mut source: impl Source, mut asked: mpsc::Receiver<Action>, tell: mpsc::Sender<Msg>) {
    while let Some(action) = asked.recv().await {
        let msg = match action {
            Action::Fetch(wanted) => {
                let result = source.fetch(&wanted).await.map(Box::new);
                Msg::Fetched(wanted, result)
            }
            Action::Act(command) => Msg::Acted(source.act(command).await),
            Action::Quit => return,
        };
        if tell.send(msg).await.is_err() {
            return;
        }
    }
}

/// Writes what a tab of the dashboard shows to `file`, as an SVG of 120 × 32 cells, at
/// every sample until the process is ended.
///
/// # Errors
/// When the daemon does not answer or the file can't be written.
pub async fn picture(socket: &Path, file: &Path, tab: Tab) -> anyhow::Result<()> {
    film(Socket::new(socket), Size::new(120, 32), tab, |svg| {
        std::fs::write(file, svg).with_context(|| format!("writing {}", file.display()))?;
        Ok(ControlFlow::Continue(()))
    })
    .await
    .with_context(|| format!("drawing the daemon at {}", socket.display()))
}

/// Draws each sample of a source and hands the picture on, until told to stop.
async fn film(
    mut source: impl Source,
    size: Size,
    tab: Tab,
    mut each: impl FnMut(String) -> anyhow::Result<ControlFlow<()>>,
) -> anyhow::Result<()> {
    let mut app = App::new(size, Timestamp::now(), TimeZone::UTC, tab);
    let mut ticks = interval(Duration::from_millis(500));
    let (mut last, mut heard) = (None, tokio::time::Instant::now());
    loop {
        ticks.tick().await;
        let Some(Action::Fetch(wanted)) = app.update(Msg::Tick(Timestamp::now())) else {
            bail!("the dashboard asks for nothing");
        };
        let frame = fetch(&mut source, &wanted).await?;
        let at = frame.status.at;
        app.update(Msg::Fetched(wanted, Ok(Box::new(frame))));
        if last.replace(at) == Some(at) {
            if heard.elapsed() > PICTURE_PATIENCE {
                bail!("the daemon takes no samples");
            }
            continue;
        }
        heard = tokio::time::Instant::now();
        let mut terminal = Terminal::new(TestBackend::new(size.width, size.height))?;
        terminal.draw(|frame| draw::draw(frame, &app, Theme::new(true)))?;
        if each(svg::svg(terminal.backend().buffer()))?.is_break() {
            return Ok(());
        }
    }
}

async fn fetch(source: &mut impl Source, wanted: &Wanted) -> Result<source::Frame, SourceError> {
    source.fetch(wanted).await
}

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
