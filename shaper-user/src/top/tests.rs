//! The loop, with keys, a daemon and a terminal that are made up.

use super::fake::{Fake, World};
use super::*;
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use futures_util::stream;
use std::sync::{Arc, Mutex};

fn app() -> App {
    App::new(
        Size::new(80, 24),
        fake::start(),
        TimeZone::UTC,
        Tab::default(),
    )
}

fn fake() -> Fake {
    Fake(Arc::new(Mutex::new(World::lab())))
}

fn terminal() -> Terminal<TestBackend> {
    Terminal::new(TestBackend::new(80, 24)).unwrap()
}

/// A clock that goes with the runtime's, which tests move on.
fn clock() -> impl Fn() -> Timestamp {
    let started = tokio::time::Instant::now();
    move || fake::start() + started.elapsed()
}

fn press(c: char) -> std::io::Result<Msg> {
    Ok(Msg::Key(KeyEvent::new(
        KeyCode::Char(c),
        KeyModifiers::NONE,
    )))
}

fn screen(terminal: &Terminal<TestBackend>) -> String {
    draw::text(terminal.backend().buffer())
}

#[tokio::test(start_paused = true)]
async fn keys_ticks_and_answers_reach_the_screen() {
    let mut terminal = terminal();
    // Time is paused: it moves on only while everything waits.
    let keys = stream::unfold(0, |n| async move {
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        (n < 2).then(|| (press(['2', 'q'][n]), n + 1))
    });
    let (source, theme) = (fake(), Theme::new(false));
    serve(
        app(),
        source.clone(),
        Box::pin(keys),
        &mut terminal,
        theme,
        clock(),
    )
    .await
    .unwrap();
    let text = screen(&terminal);
    assert!(
        text.contains("[2 Flows]") && text.contains("203.0.113.7:40112"),
        "{text}"
    );
    // At 0, 1, 2, 3, 4 s, and at once when the tab was opened.
    assert!(source.0.lock().unwrap().second >= 5);
}

#[tokio::test(start_paused = true)]
async fn a_lost_daemon_comes_back_to_the_screen() {
    let mut terminal = terminal();
    let source = fake();
    source.0.lock().unwrap().up = false;
    let (world, tried) = (source.clone(), Arc::new(Mutex::new(0)));
    let tries = Arc::clone(&tried);
    // After twenty seconds it is back; ten seconds later the operator leaves.
    let keys = stream::unfold(0, move |n| {
        let (world, tries) = (world.clone(), Arc::clone(&tries));
        async move {
            tokio::time::sleep(Duration::from_secs(if n == 0 { 20 } else { 10 })).await;
            if n == 0 {
                *tries.lock().unwrap() = world.0.lock().unwrap().second;
                world.0.lock().unwrap().up = true;
            }
            Some((press(['x', 'q'][n]), n + 1))
        }
    });
    serve(
        app(),
        source,
        Box::pin(keys),
        &mut terminal,
        Theme::new(false),
        clock(),
    )
    .await
    .unwrap();
    // It was tried at 0, 1, 3, 6, 11 and 16 s, not twenty times.
    assert_eq!(*tried.lock().unwrap(), 6);
    let text = screen(&terminal);
    assert!(
        text.contains("203.0.113.7") && !text.contains("GONE"),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_closed_terminal_ends_the_loop_and_a_broken_one_says_so() {
    let theme = Theme::new(false);
    let none = stream::iter(Vec::<std::io::Result<Msg>>::new());
    serve(app(), fake(), none, &mut terminal(), theme, clock())
        .await
        .unwrap();
    let broken = stream::iter([Err(std::io::Error::other("hung up"))]);
    let error = serve(app(), fake(), broken, &mut terminal(), theme, clock())
        .await
        .unwrap_err();
    assert!(format!("{error:#}").contains("reading the terminal: hung up"));
}

#[tokio::test(start_paused = true)]
async fn a_source_that_panics_ends_the_loop() {
    struct Broken;
    impl Source for Broken {
        async fn fetch(&mut self, _: &Wanted) -> Result<source::Frame, SourceError> {
            panic!("broken");
        }
        async fn act(
            &mut self,
            _: crate::protocol::Command,
        ) -> Result<crate::protocol::Done, SourceError> {
            panic!("broken");
        }
    }
    let keys = Box::pin(stream::pending());
    let ended = serve(
        app(),
        Broken,
        keys,
        &mut terminal(),
        Theme::new(false),
        clock(),
    )
    .await;
    assert!(
        ended
            .unwrap_err()
            .to_string()
            .contains("the connection to the daemon failed")
    );
}

#[tokio::test(start_paused = true)]
async fn a_picture_is_drawn_of_every_sample() {
    let source = fake();
    let mut pictures = Vec::new();
    film(source.clone(), Size::new(120, 32), Tab::default(), |svg| {
        pictures.push(svg);
        Ok(if pictures.len() == 3 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        })
    })
    .await
    .unwrap();
    let svg = &pictures[2];
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    assert!(svg.contains("203.0.113.7") && svg.contains("held 6m12s"));
    assert_eq!(source.0.lock().unwrap().second, 3);
}

#[tokio::test]
async fn a_picture_without_a_daemon_is_an_error_that_names_the_socket() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, file) = (dir.path().join("none"), dir.path().join("top.svg"));
    let error = picture(&socket, &file, Tab::default()).await.unwrap_err();
    assert!(format!("{error:#}").contains(&socket.display().to_string()));
    assert!(!file.exists());
}
