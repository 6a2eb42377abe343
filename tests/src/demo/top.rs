//! The dashboard while the phases go on: in the foreground, or drawn to a file.

use super::Options;
use crate::process;
use crate::shaper::Shaper;
use anyhow::Result;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::process::Child;
use std::time::{Duration, Instant};

/// `shaper top`, or nothing where the report is all that is wanted.
pub struct Top(Option<Child>);

impl Top {
    pub fn start(options: &Options, shaper: &Shaper) -> Result<Self> {
        let command = match &options.svg {
            Some(file) => {
                let mut command = shaper.shaper(&["top", "--svg"]);
                command.arg(std::path::absolute(file)?);
                command
            }
            None if options.plain => return Ok(Self(None)),
            None => shaper.shaper(&["top"]),
        };
        Ok(Self(Some(process::spawn(command)?)))
    }

    /// Lets time pass. Whoever leaves the dashboard still gets the report.
    pub fn watch(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            if let Some(child) = &mut self.0
                && !matches!(child.try_wait(), Ok(None))
            {
                self.0 = None;
                println!("The dashboard has ended; the report follows. Ctrl-C ends the demo.");
            }
            std::thread::sleep(left.min(Duration::from_millis(100)));
        }
    }

    /// Ends it; it gives the terminal back.
    pub fn finish(&mut self) -> Result<()> {
        if let Some(mut child) = self.0.take() {
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
