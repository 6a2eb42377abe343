//! What runs inside a virtual machine, on a kernel that is not the build
//! machine's: `cargo xtask vm-test` boots it and reads what this prints.
//!
//! Checks hold on every kernel. What a kernel does is printed as a fact; which
//! facts it should be, `xtask` knows.

mod limits;
mod packets;
mod programs;

use anyhow::Result;
use std::fmt::Display;

/// In front of each line for the host: the console carries kernel messages too.
pub const MARK: &str = "vm-test:";

/// How much is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// Everything.
    #[default]
    Whole,
    /// Every program, and the rest as far as it is quick.
    Short,
}

/// What was found out, printed as it comes.
#[derive(Debug, Default)]
pub struct Report {
    form: Form,
    failed: bool,
}

impl Report {
    /// A check of the whole form only. The short one says that it is left out.
    pub fn check_at_length(&mut self, name: &str, check: impl FnOnce() -> Result<()>) -> bool {
        match self.form {
            Form::Whole => self.check(name, check),
            Form::Short => {
                Self::left_out(name);
                false
            }
        }
    }

    /// Prints that a check was not made.
    fn left_out(name: &str) {
        println!("{MARK} left-out {name}");
    }

    /// Runs one check and prints how it went.
    pub fn check(&mut self, name: &str, check: impl FnOnce() -> Result<()>) -> bool {
        self.get(name, check).is_some()
    }

    /// A check that makes something.
    pub fn get<T>(&mut self, name: &str, check: impl FnOnce() -> Result<T>) -> Option<T> {
        let made = check();
        match &made {
            Ok(_) => println!("{MARK} ok {name}"),
            Err(error) => {
                self.failed = true;
                println!("{MARK} FAILED {name}: {}", one_line(&format!("{error:#}")));
            }
        }
        made.ok()
    }

    /// Prints a fact.
    pub fn fact(&self, key: &str, value: impl Display) {
        println!("{MARK} fact {key}: {}", one_line(&value.to_string()));
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The checks, on this kernel. Whether all that were made held.
#[must_use]
pub fn run(form: Form) -> bool {
    let mut report = Report {
        form,
        failed: false,
    };
    if let Ok(name) = nix::sys::utsname::uname() {
        report.fact("kernel", name.release().display());
    }
    if programs::load(&mut report) {
        packets::run(&mut report);
        limits::run(&mut report);
    } else {
        programs::refusal(&mut report);
    }
    report.check("the_kernel_has_no_complaint", complaints);
    // The host takes a run without this line for one that broke off.
    println!("{MARK} end");
    !report.failed
}

/// Warnings and faults of the kernel, which it remembers as taints
/// (Documentation/admin-guide/tainted-kernels.rst).
fn complaints() -> Result<()> {
    const DIED: u64 = 1 << 7;
    const WARNED: u64 = 1 << 9;
    let taints: u64 = std::fs::read_to_string("/proc/sys/kernel/tainted")?
        .trim()
        .parse()?;
    anyhow::ensure!(
        taints & (DIED | WARNED) == 0,
        "the kernel warned or faulted, see its messages (taints {taints})"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_one_line_a_check() {
        assert_eq!(one_line("a\n  b\tc\n"), "a b c");
        let mut report = Report::default();
        assert!(report.check("held", || Ok(())));
        assert!(!report.failed);
        assert!(!report.check("broke", || anyhow::bail!("two\nlines")));
        assert!(report.check("held again", || Ok(())));
        assert!(report.failed, "a failure is not forgotten");
        assert!(report.check_at_length("at length", || Ok(())));
        report.form = Form::Short;
        assert!(!report.check_at_length("at length", || unreachable!("left out")));
    }
}
