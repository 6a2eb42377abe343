//! The dashboard while the phases go on: in the foreground, or drawn to a file.

use super::Options;
use crate::process;
use crate::shaper::Shaper;
use anyhow::Result;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::process::Child;
use std::time::{Duration, Instant};

/// The other tabs that are drawn, into files beside the first one.
const BESIDE: [&str; 2] = ["servers", "history"];

/// `shaper top`, once for each picture, or nothing where the report is all that is
/// wanted.
pub struct Top(Vec<Child>);

impl Top {
    pub fn start(options: &Options, shaper: &Shaper) -> Result<Self> {
        // What has started already ends with it.
        let mut top = Self(Vec::new());
        let Some(file) = &options.svg else {
            if !options.plain {
                top.0.push(process::spawn(shaper.shaper(&["top"]))?);
            }
            return Ok(top);
        };
        let file = std::path::absolute(file)?;
        let stem = file.file_stem().unwrap_or_default().to_string_lossy();
        let beside = BESIDE.map(|tab| (tab, file.with_file_name(format!("{stem}-{tab}.svg"))));
        for (tab, file) in [("clients", file.clone())].into_iter().chain(beside) {
            let mut command = shaper.shaper(&["top", "--tab", tab, "--svg"]);
            command.arg(file);
            top.0.push(process::spawn(command)?);
        }
        Ok(top)
    }

    /// Lets time pass. Whoever leaves the dashboard still gets the report.
    pub fn watch(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            let before = self.0.len();
            self.0
                .retain_mut(|child| matches!(child.try_wait(), Ok(None)));
            if self.0.len() < before {
                println!("The dashboard has ended; the report follows. Ctrl-C ends the demo.");
            }
            std::thread::sleep(left.min(Duration::from_millis(100)));
        }
    }

    /// Ends it; it gives the terminal back.
    pub fn finish(&mut self) -> Result<()> {
        for mut child in self.0.drain(..) {
            kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM)?;
            child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Top {
    fn drop(&mut self) {
        // Nothing is left to do for a terminal that is gone.
        let _ = self.finish();
    }
}
