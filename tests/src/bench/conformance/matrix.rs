//! The cells: which limiter, at which rate, over which path.

use clap::ValueEnum;
use serde::{Serialize, Serializer};
use shaper_user::policy::{Rate, RateLimit};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Bytes of payload in a full packet: IPv4, TCP with timestamps.
pub const PAYLOAD: u64 = 1448;
/// Bytes of a full packet from the IP header on.
pub const PACKET: u64 = 1500;

/// What holds the rate, on the proxy's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limiter {
    /// The daemon
    Ours,
    /// `limit rate over` of nftables
    Nft,
    /// xt_hashlimit
    Hashlimit,
    /// Redirection to an ifb with TBF; upload only
    IfbTbf,
    /// TBF at the interface's egress; download only
    Tbf,
    /// Nothing: what the path can do
    None,
}

impl Limiter {
    /// Whether it can hold that direction.
    pub fn covers(self, direction: Direction) -> bool {
        match self {
            Self::IfbTbf => direction == Direction::Upload,
            Self::Tbf => direction == Direction::Download,
            _ => true,
        }
    }

    /// Whether it only drops what is too much, and queues nothing.
    pub fn is_policer(self) -> bool {
        matches!(self, Self::Nft | Self::Hashlimit)
    }
}

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Client to proxy
    Upload,
    /// Proxy to client
    Download,
}

/// The sender's congestion control.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Congestion {
    /// The kernel's usual default
    Cubic,
    /// Paced by a model of the path
    Bbr,
}

/// What such an option is called on the command line.
macro_rules! display_as_option {
    ($($name:ty),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let value = self.to_possible_value();
                f.pad(value.as_ref().map_or("", |value| value.get_name()))
            }
        }
    )*};
}
display_as_option!(Limiter, Direction, Congestion);

/// A round trip; in text and JSON a number of milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RoundTrip(pub Duration);

impl RoundTrip {
    /// Milliseconds.
    pub fn ms(self) -> f64 {
        self.0.as_secs_f64() * 1e3
    }
}

impl FromStr for RoundTrip {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ms: f64 = text.parse().map_err(|_| "not a number of ms".to_owned())?;
        if (0.0..=2_000.0).contains(&ms) {
            Ok(Self(Duration::from_secs_f64(ms / 1e3)))
        } else {
            Err("not from 0 to 2000 ms".to_owned())
        }
    }
}

impl fmt::Display for RoundTrip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.ms().to_string())
    }
}

impl Serialize for RoundTrip {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.ms())
    }
}

fn bits<S: Serializer>(rate: &Rate, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(rate.bps())
}

/// What is the same for every limiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Conditions {
    /// Which way.
    pub direction: Direction,
    /// The client's limit, IP-level.
    #[serde(rename = "rate_bps", serialize_with = "bits")]
    pub rate: Rate,
    /// The path's.
    #[serde(rename = "rtt_ms")]
    pub rtt: RoundTrip,
    /// The sender's.
    #[serde(rename = "cc")]
    pub congestion: Congestion,
    /// Greedy connections of the one client.
    pub flows: u16,
    /// What the burst takes at the rate, where it is not the policy's default.
    #[serde(skip)]
    pub burst_time: Option<Duration>,
}

impl Conditions {
    /// Bytes per second, from the IP header on.
    pub fn bytes_per_second(&self) -> f64 {
        self.rate.bps() as f64 / 8.0
    }

    /// Bytes of a round trip at the rate.
    pub fn window(&self) -> f64 {
        self.bytes_per_second() * self.rtt.0.as_secs_f64()
    }

    /// The policy's burst, in bytes: by default 100 ms of the rate, at least 64 KiB.
    pub fn burst(&self) -> u64 {
        match self.burst_time {
            Some(time) => (self.bytes_per_second() * time.as_secs_f64()) as u64,
            None => RateLimit::of(self.rate).burst,
        }
    }

    /// Waited from the first byte on, so that slow start and the initial burst
    /// are outside of what is measured.
    pub fn warm_up(&self) -> Duration {
        Duration::from_secs(2) + 10 * self.rtt.0
    }

    /// Whether a window can hold the rate: from 2 to 200 ms, where a round
    /// trip at the rate takes four segments and more.
    pub fn is_fine(&self) -> bool {
        let range = Duration::from_millis(2)..=Duration::from_millis(200);
        range.contains(&self.rtt.0) && self.window() >= 4.0 * PACKET as f64
    }

    /// Measured time: at least `least`, or twice that where delivery may come
    /// in steps; 600 segments; and 100 times what a sender may be ahead, so that
    /// a bucket that was full when the warm-up ended weighs 1 % at most.
    pub fn measured(&self, least: Duration) -> Duration {
        let least = if self.is_fine() { least } else { 2 * least };
        let rate = self.bytes_per_second();
        let segments = 600.0 * PACKET as f64 / rate;
        let ahead = self.burst() as f64 / rate + self.rtt.0.as_secs_f64() / 2.0;
        least.max(Duration::from_secs_f64(segments.max(100.0 * ahead)))
    }

    /// How many such cells may run at a time where `jobs` of 50 mbit may: those up to
    /// 10 mbit need little of the machine.
    pub fn side_by_side(&self, jobs: usize) -> usize {
        if self.is_heavy() {
            1
        } else if self.rate.bps() <= 10_000_000 {
            3 * jobs
        } else {
            jobs
        }
    }

    /// Whether it needs the whole machine for itself.
    pub fn is_heavy(&self) -> bool {
        self.rate.bps() > 100_000_000
    }
}

impl fmt::Display for Conditions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            direction,
            rate,
            rtt,
            congestion,
            flows,
            burst_time: _,
        } = self;
        write!(f, "{direction} {rate} {rtt} ms {congestion} ×{flows}")
    }
}

/// One measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Cell {
    /// Who holds the rate.
    pub limiter: Limiter,
    /// Under which conditions.
    #[serde(flatten)]
    pub conditions: Conditions,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:9} {}", self.limiter, self.conditions)
    }
}

/// Every combination that makes sense, in the order of the tables.
pub fn cells(
    limiters: &[Limiter],
    directions: &[Direction],
    rates: &[Rate],
    rtts: &[RoundTrip],
    congestions: &[Congestion],
    flows: &[u16],
) -> Vec<Cell> {
    let mut cells = Vec::new();
    for &limiter in limiters {
        for &direction in directions.iter().filter(|d| limiter.covers(**d)) {
            for &rate in rates {
                for &rtt in rtts {
                    for &congestion in congestions {
                        for &flows in flows {
                            cells.push(Cell {
                                limiter,
                                conditions: Conditions {
                                    direction,
                                    rate,
                                    rtt,
                                    congestion,
                                    flows,
                                    burst_time: None,
                                },
                            });
                        }
                    }
                }
            }
        }
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_incumbent_runs_only_where_it_can() {
        let limiters = [Limiter::Nft, Limiter::IfbTbf, Limiter::Tbf];
        let both = [Direction::Upload, Direction::Download];
        let cells = cells(
            &limiters,
            &both,
            &["8mbit".parse().unwrap()],
            &["20".parse().unwrap()],
            &[Congestion::Bbr],
            &[1, 8],
        );
        let names: Vec<String> = cells.iter().map(ToString::to_string).collect();
        assert_eq!(
            names,
            [
                "nft       upload 8mbit 20 ms bbr ×1",
                "nft       upload 8mbit 20 ms bbr ×8",
                "nft       download 8mbit 20 ms bbr ×1",
                "nft       download 8mbit 20 ms bbr ×8",
                "ifb-tbf   upload 8mbit 20 ms bbr ×1",
                "ifb-tbf   upload 8mbit 20 ms bbr ×8",
                "tbf       download 8mbit 20 ms bbr ×1",
                "tbf       download 8mbit 20 ms bbr ×8",
            ]
        );
    }

    #[test]
    fn low_rates_and_short_round_trips_are_measured_for_longer() {
        let mut conditions = Conditions {
            direction: Direction::Upload,
            rate: "1mbit".parse().unwrap(),
            rtt: "200".parse().unwrap(),
            congestion: Congestion::Cubic,
            flows: 1,
            burst_time: None,
        };
        let least = Duration::from_secs(5);
        // 100 × 64 KiB at 125 kB/s, and 100 times 100 ms.
        assert_eq!(conditions.measured(least).as_millis(), 62_428);
        assert_eq!(conditions.warm_up(), Duration::from_secs(4));
        assert_eq!(conditions.side_by_side(4), 12);
        conditions.rate = "50mbit".parse().unwrap();
        assert_eq!(conditions.measured(least), 4 * least);
        assert_eq!(conditions.side_by_side(4), 4);
        conditions.rtt = "20".parse().unwrap();
        assert_eq!(conditions.measured(2 * least).as_secs(), 11);
        conditions.burst_time = Some(Duration::from_millis(500));
        assert_eq!(conditions.burst(), 3_125_000);
        assert_eq!(conditions.measured(least).as_secs(), 51);
        conditions.burst_time = None;
        conditions.rate = "500mbit".parse().unwrap();
        assert!(conditions.is_heavy());
        conditions.rtt = "0.2".parse().unwrap();
        assert_eq!(conditions.measured(2 * least), 4 * least);
        for wrong in ["-1", "fast", "2001", "NaN"] {
            assert!(wrong.parse::<RoundTrip>().is_err(), "{wrong}");
        }
    }
}
