//! What the daemon itself takes, as every exporter names it.

use std::fs;

/// Of `/proc/self`; what cannot be read is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    /// Seconds of user and system time.
    pub cpu_seconds: Option<f64>,
    /// Bytes of memory that are there.
    pub resident_bytes: Option<u64>,
    /// Descriptors that are open.
    pub open_fds: Option<u64>,
    /// How many may be.
    pub max_fds: Option<u64>,
}

/// Ticks a second in `/proc/<pid>/stat`, the same on every Linux (`USER_HZ`).
const TICKS: f64 = 100.0;

impl Process {
    /// Of this process, now.
    #[must_use]
    pub fn now() -> Self {
        let read = |file: &str| fs::read_to_string(format!("/proc/self/{file}")).ok();
        Self {
            cpu_seconds: read("stat").and_then(|stat| cpu(&stat)),
            resident_bytes: read("status").and_then(|status| resident(&status)),
            open_fds: fs::read_dir("/proc/self/fd")
                .ok()
                // One of them is the directory itself.
                .map(|fds| (fds.count() as u64).saturating_sub(1)),
            max_fds: read("limits").and_then(|limits| descriptors(&limits)),
        }
    }
}

/// The name of the program, in brackets, may have blanks and brackets itself.
fn cpu(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS)
}

fn resident(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

fn descriptors(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_all_of_it() {
        let now = Process::now();
        assert!(now.cpu_seconds.is_some(), "{now:?}");
        assert!(now.resident_bytes > Some(100_000), "{now:?}");
        assert!(
            now.open_fds > Some(2) && now.open_fds <= now.max_fds,
            "{now:?}"
        );
    }

    #[test]
    fn odd_names_and_texts_are_read_as_far_as_they_go() {
        let stat = "7 (a) b) (c) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0";
        assert_eq!(cpu(stat), Some(3.0));
        assert_eq!(cpu(""), None);
        assert_eq!(resident("VmRSS:\t  12 kB\n"), Some(12 * 1024));
        assert_eq!(descriptors("Max open files 1024 4096 files"), Some(1024));
        assert_eq!(descriptors("Max open files unlimited"), None);
    }
}
