//! Small messages there and back on a connection, against an echo.

use anyhow::{Result, ensure};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

/// Bytes of a message.
const MESSAGE: usize = 100;

/// Sends `count` messages, a pause after each answer. Returns how long each took,
/// shortest first.
///
/// # Errors
/// When the connection breaks, or an answer takes ten seconds.
pub fn round_trips(mut stream: &TcpStream, count: usize, pause: Duration) -> Result<Vec<Duration>> {
    ensure!(count > 0, "no messages");
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let started = Instant::now();
        stream.write_all(&[0x5a; MESSAGE])?;
        stream.read_exact(&mut [0; MESSAGE])?;
        times.push(started.elapsed());
        thread::sleep(pause);
    }
    times.sort_unstable();
    Ok(times)
}

/// Of sorted times, the one that so many percent are not above.
#[must_use]
pub fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let index = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(index).copied().unwrap_or_default()
}
