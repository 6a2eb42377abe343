//! Senders that do not cooperate meet the hard limit.

use crate::Test;
use crate::backpressure::{POLICY, UP};
use crate::tools::{SECOND, Servers, open};
use anyhow::{Context, Result, ensure};
use shaper_tests::lab::{Lab, LabSpec, PORT, client_v4};
use shaper_tests::shaper::Shaper;
use shaper_tests::traffic::rude::{self, Rudeness};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

pub const TESTS: &[Test] = &[
    ("a_sender_that_ignores_the_window_is_held", || {
        rude(Rudeness::Forward)
    }),
    ("a_sender_that_repeats_itself_is_held", || {
        rude(Rudeness::Repeat(0))
    }),
    (
        "a_sender_that_repeats_itself_is_held_when_adopted",
        rude_adopted,
    ),
];

/// What an uncooperative sender may get: the rate, the burst (64 KiB is above a
/// tenth of a second of the rate here), and a twentieth for the measurement.
fn most(rate: f64, time: Duration, burst: f64) -> u64 {
    ((rate * time.as_secs_f64() / 8.0 + burst) * 1.05) as u64
}

const RUDE_FOR: Duration = Duration::from_secs(4);
const RUDE_RATE: u64 = 60_000_000;
const BURST: f64 = 100_000.0;

/// Bytes that reached the proxy's IP layer, behind the TC hook: the kernel's own
/// count, in which shaper has no part.
fn received(lab: &Lab) -> Result<u64> {
    let text = lab
        .proxy
        .enter(|| std::fs::read_to_string("/proc/thread-self/net/netstat").map_err(Into::into))?;
    let mut lines = text.lines().filter(|line| line.starts_with("IpExt:"));
    let (names, values) = (lines.next(), lines.next());
    names
        .zip(values)
        .and_then(|(names, values)| {
            let at = names.split(' ').position(|name| name == "InOctets")?;
            values.split(' ').nth(at)?.parse().ok()
        })
        .context("/proc/net/netstat has no InOctets")
}

fn rude(rudeness: Rudeness) -> Result<()> {
    let lab = Lab::new(LabSpec::default())?;
    let _shaper = Shaper::start(&lab, POLICY, &[])?;
    let _servers = Servers::start(&lab, None)?;
    let stream = open(&lab, client_v4(0), PORT, 5 * SECOND)?;
    sleep(SECOND);
    // A client that sends what the window has room for is trusted with a second
    // more of its rate; see the hard limit's tolerance.
    let trust = match rudeness {
        Rudeness::Forward => 0.0,
        Rudeness::Repeat(_) => UP / 8.0,
    };
    ensure_rude_is_held(&lab, &stream, rudeness, BURST + trust)
}

fn ensure_rude_is_held(
    lab: &Lab,
    stream: &TcpStream,
    rudeness: Rudeness,
    burst: f64,
) -> Result<()> {
    let before = received(lab)?;
    let started = Instant::now();
    let sent = rude::send(&lab.client, stream, rudeness, RUDE_RATE, RUDE_FOR)?;
    sleep(Duration::from_millis(100));
    let time = started.elapsed();
    let passed = received(lab)? - before;
    let most = most(UP, time, burst);
    ensure!(sent > 4 * most, "it sent only {sent} bytes");
    ensure!(
        passed <= most,
        "{rudeness:?}: {passed} of {sent} bytes passed in {time:?}, {most} at most"
    );
    ensure!(
        passed > most / 4,
        "{rudeness:?}: only {passed} of {sent} bytes passed"
    );
    Ok(())
}

/// What was offered before there was a limit may come; not again and again.
fn rude_adopted() -> Result<()> {
    let lab = Lab::new(LabSpec::default())?;
    let _servers = Servers::start(&lab, None)?;
    let streams = (0..2)
        .map(|n| open(&lab, client_v4(n), PORT, 5 * SECOND))
        .collect::<Result<Vec<_>>>()?;
    sleep(SECOND);
    let _shaper = Shaper::start(&lab, POLICY, &[])?;
    // The window of before: it has hardly grown on an idle connection. Its end
    // is beyond what the limit would have offered.
    let window = 64 << 10;
    for (stream, ahead) in streams.iter().zip([0, window - 8_000]) {
        let burst = BURST + f64::from(window) + UP / 8.0;
        ensure_rude_is_held(&lab, stream, Rudeness::Repeat(ahead), burst)?;
    }
    Ok(())
}
