//! NGINX in HAProxy's place: counting and limiting do not ask who listens.

use crate::tools::{SECOND, ensure_held};
use crate::{NotRun, Test};
use anyhow::{Context, Result, ensure};
use shaper_tests::lab::{Lab, LabSpec, client_v4, client_v6};
use shaper_tests::nginx::{Nginx, installed};
use shaper_tests::shaper::Shaper;
use shaper_tests::ws::Backend;
use shaper_tests::ws::client::Heavy;
use std::thread::sleep;
use std::time::{Duration, Instant};

pub const TESTS: &[Test] = &[("nginx_in_haproxys_place", websockets)];

const POLICY: &str = "[default]\n\
    upload = { rate = \"8mbit\" }\n\
    download = { rate = \"16mbit\" }\n\
    [haproxy]\nsockets = []\n";
/// From the payload of a full segment to its IP packet, both families.
const V4: f64 = 1500.0 / 1448.0;
const V6: f64 = 1500.0 / 1428.0;
const TIME: Duration = Duration::from_secs(5);

fn websockets() -> Result<()> {
    let program = installed().ok_or(NotRun("nginx is not installed: `cargo xtask setup`"))?;
    let lab = Lab::new(LabSpec {
        backends: 2,
        ..LabSpec::default()
    })?;
    let runtime = tokio::runtime::Runtime::new()?;
    let backends = lab
        .backends
        .iter()
        .map(|namespace| Backend::start(runtime.handle(), namespace))
        .collect::<Result<Vec<_>>>()?;
    let _nginx = Nginx::start(&program, &lab)?;
    let shaper = Shaper::start(&lab, POLICY, &[])?;
    let up = Heavy::upload(&lab, client_v4(0), "cubic")?;
    let down = Heavy::download(&lab, client_v6(1))?;
    // The bursts, and what lies in NGINX's buffers.
    sleep(3 * SECOND);
    let before = shaper.client(client_v4(0))?.upload.traffic.bytes;
    let from = Instant::now();
    sleep(TIME);
    let to = Instant::now();
    let counted = shaper.client(client_v4(0))?.upload.traffic.bytes - before;
    // What the server got is what came through NGINX.
    let arrived = backends
        .iter()
        .find_map(|backend| backend.uploads(client_v4(0)))
        .context("no upload came through NGINX")?;
    ensure_held("upload", arrived.rate_bps(from, to) * V4, 8e6)?;
    ensure_held("download", down.meter().rate_bps(from, to) * V6, 16e6)?;
    let share = counted as f64 * 8.0 / (8e6 * TIME.as_secs_f64());
    // The samples are up to a second apart from the moments.
    ensure!((0.75..1.3).contains(&share), "counted {counted} bytes");
    let row = shaper.client(client_v4(0))?;
    ensure!(row.connections == 1, "{row:?}");
    ensure!(row.upload.limited_ms > 0, "{row:?}");
    ensure!(row.upload.traffic.dropped_packets == 0, "{row:?}");
    up.stop()?;
    down.stop()?;
    let gone = shaper.wait_for("the close", || {
        let row = shaper.client(client_v4(0))?;
        Ok((row.connections == 0).then_some(()))
    });
    gone.context("a closed WebSocket is still counted")
}
