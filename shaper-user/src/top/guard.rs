//! The terminal, taken and given back. Whatever ends the dashboard (a key, an
//! error, a signal, a panic), the terminal is as it was before.

use crossterm::{cursor, execute, terminal};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::panic;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Switches raw mode. Injected, since tests have no terminal.
pub type Raw = fn(bool) -> io::Result<()>;

/// The terminal's own raw mode.
pub fn raw_mode(on: bool) -> io::Result<()> {
    if on {
        terminal::enable_raw_mode()
    } else {
        terminal::disable_raw_mode()
    }
}

/// The terminal, past the lock of `stdout`: the thread that panics may hold it.
#[derive(Clone)]
pub struct Shared(Arc<File>);

impl Shared {
    /// Another way to what `out` writes to.
    pub fn new(out: &impl AsFd) -> io::Result<Self> {
        let own = out.as_fd().try_clone_to_owned()?;
        Ok(Self(Arc::new(File::from(own))))
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.0).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Holds the terminal in raw mode on its alternate screen; dropped, it is given
/// back.
pub struct Guard<W: Write> {
    out: W,
    raw: Raw,
    taken: Arc<AtomicBool>,
}

impl<W: Write> Guard<W> {
    /// Takes the terminal.
    pub fn take(mut out: W, raw: Raw) -> io::Result<Self> {
        raw(true)?;
        // From here on a failure must give it back, too.
        let taken = Arc::new(AtomicBool::new(true));
        let entered = execute!(out, terminal::EnterAlternateScreen, cursor::Hide);
        let guard = Self { out, raw, taken };
        entered.map(|()| guard)
    }

    /// Makes a panic give the terminal back first, so that its message can be
    /// read. The hook before this one still runs, after it.
    pub fn hook<V: Write>(&self, out: impl Fn() -> V + Send + Sync + 'static) {
        let (raw, taken) = (self.raw, Arc::clone(&self.taken));
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            give_back(&mut out(), raw, &taken);
            before(info);
        }));
    }
}

impl<W: Write> Drop for Guard<W> {
    fn drop(&mut self) {
        give_back(&mut self.out, self.raw, &self.taken);
    }
}

/// Once only. Errors are let go: the terminal may be closed, and nothing better
/// can be done.
fn give_back(out: &mut impl Write, raw: Raw, taken: &AtomicBool) {
    if taken.swap(false, Ordering::SeqCst) {
        let _ = execute!(out, terminal::LeaveAlternateScreen, cursor::Show);
        let _ = raw(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::sync::Mutex;

    const ENTER: &str = "\x1b[?1049h";
    const LEAVE: &str = "\x1b[?1049l\x1b[?25h";

    thread_local! {
        static RAW: Cell<bool> = const { Cell::new(false) };
    }

    fn fake_raw(on: bool) -> io::Result<()> {
        RAW.set(on);
        Ok(())
    }

    #[derive(Clone, Default)]
    struct Screen(Arc<Mutex<Vec<u8>>>);

    impl Screen {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Screen {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn dropped_it_gives_the_terminal_back_once() {
        let screen = Screen::default();
        let guard = Guard::take(screen.clone(), fake_raw).unwrap();
        assert!(RAW.get());
        assert!(screen.text().starts_with(ENTER));
        assert!(!screen.text().contains(LEAVE));
        drop(guard);
        assert!(!RAW.get());
        assert_eq!(screen.text().matches(LEAVE).count(), 1);
    }

    #[test]
    fn a_panic_gives_it_back_before_its_message() {
        let screen = Screen::default();
        let said = Arc::new(Mutex::new(String::new()));
        let old = panic::take_hook();
        let (seen, heard) = (screen.clone(), Arc::clone(&said));
        let thread = std::thread::current().id();
        panic::set_hook(Box::new(move |info| {
            if std::thread::current().id() == thread {
                *heard.lock().unwrap() = format!("{}|{info}", seen.text());
            }
        }));
        let out = screen.clone();
        let result = panic::catch_unwind(move || {
            let guard = Guard::take(out.clone(), fake_raw).unwrap();
            guard.hook(move || out.clone());
            panic!("boom");
        });
        panic::set_hook(old);
        assert!(result.is_err());
        assert!(!RAW.get());
        let said = said.lock().unwrap().clone();
        let (screen_then, message) = said.split_once('|').unwrap();
        assert!(screen_then.ends_with(LEAVE), "{screen_then:?}");
        assert!(message.contains("boom"));
        assert_eq!(screen.text().matches(LEAVE).count(), 1);
    }

    #[test]
    fn a_terminal_that_fails_half_way_is_given_back() {
        struct Broken;
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::Error::other("closed"))
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        assert!(Guard::take(Broken, fake_raw).is_err());
        assert!(!RAW.get());
    }
}
