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

/// What was found out, printed as it comes.
#[derive(Debug, Default)]
pub struct Report {
    failed: bool,
}

impl Report {
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

/// Everything, on this kernel. Whether all checks held.
#[must_use]
pub fn run() -> bool {
    let mut report = Report::default();
    if let Ok(name) = nix::sys::utsname::uname() {
        report.fact("kernel", name.release().display());
    }
    if programs::load(&mut report) {
        packets::run(&mut report);
        limits::run(&mut report);
    } else {
        report.check("the_refusal_is_clear", programs::refusal);
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
    }
}
