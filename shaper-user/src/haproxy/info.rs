//! `show info` and `show proc`: which processes there are.

/// Workers that one master is asked for.
pub const WORKERS_MAX: usize = 512;

/// What of `show info` is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info<'a> {
    /// As in `3.0.11-1+deb13u4`.
    pub version: &'a str,
    /// The worker that answers.
    pub pid: u32,
}

/// Reads `show info`; `None` where version or process is missing.
#[must_use]
pub fn info(answer: &str) -> Option<Info<'_>> {
    let field = |name: &str| {
        let mut lines = answer.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    };
    Some(Info {
        version: field("Version")?.trim(),
        pid: field("Pid")?.trim().parse().ok()?,
    })
}

/// What of `show proc` is used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Processes<'a> {
    /// Of the master.
    pub version: Option<&'a str>,
    /// Those that take connections, then those that only end theirs; the first
    /// [`WORKERS_MAX`] of them.
    pub workers: Vec<u32>,
}

/// Reads `show proc` of a master CLI. There are no `# old workers` before the
/// first reload.
#[must_use]
pub fn processes(answer: &str) -> Processes<'_> {
    let mut processes = Processes::default();
    for line in answer.lines().filter(|line| !line.starts_with('#')) {
        let mut columns = line.split_ascii_whitespace();
        let Some(pid) = columns.next().and_then(|pid| pid.parse().ok()) else {
            continue;
        };
        match columns.next() {
            Some("master") => processes.version = columns.next_back(),
            Some("worker") if processes.workers.len() < WORKERS_MAX => processes.workers.push(pid),
            _ => {}
        }
    }
    processes
}

#[cfg(test)]
mod tests;
