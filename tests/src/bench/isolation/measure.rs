//! One case, once.

use super::{Args, Limiter, Measured, link};
use crate::bench::upload::{Pace, Upload};
use crate::haproxy::{Haproxy, Installed, Spec};
use crate::lab::{Lab, LabSpec, client_v4};
use crate::relay::PathSpec;
use crate::ws::backend::BULK_MESSAGE;
use crate::ws::client::Light;
use crate::ws::{Backend, Recorder};
use anyhow::{Context as _, Result};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

const CHAT_EVERY: Duration = Duration::from_millis(100);
/// Until slow start, and the burst that a limit lets through, are over: the
/// longest is that of nft, which has a second in its bucket.
const SETTLE: Duration = Duration::from_secs(3);

/// Measures one case for its share of the time; latencies go to the
/// recorder's phase of that index.
pub(super) fn case(
    args: &Args,
    haproxy: &Installed,
    heavy: Option<&(Limiter, String)>,
    recorder: &Arc<Recorder>,
    index: usize,
) -> Result<Measured> {
    let lab = Lab::new(LabSpec {
        path: Some(PathSpec {
            one_way: Duration::try_from_secs_f64(args.rtt / 2e3).context("--rtt")?,
            ..PathSpec::default()
        }),
        clients: args.light + 1,
        backends: 1,
        ..LabSpec::default()
    })?;
    let server = link::behind_router(&lab, args.backend.bps())?;
    // Three runtimes, so that clients and backend don't wait for each other's
    // work more than different machines would.
    let (clients, uploader, servers) = (runtime(1)?, runtime(1)?, runtime(1)?);
    let backend = Backend::start(servers.handle(), &server)?;
    let source = client_v4(args.light);
    let limit = args.limit.bps();
    let mut spec = Spec {
        program: haproxy.program.clone(),
        ..Spec::default()
    };
    if let Some((limiter, _)) = heavy {
        limiter.configure(&mut spec, source, limit);
    }
    let _haproxy = Haproxy::start_with(&lab, &spec)?;
    let _limit = match heavy {
        Some((limiter, _)) => limiter.start(&lab, source, limit)?,
        None => None,
    };
    let light = (0..args.light)
        .map(|n| {
            let recorder = recorder.clone();
            Light::start(clients.handle(), &lab, client_v4(n), CHAT_EVERY, recorder)
        })
        .collect::<Result<Vec<_>>>()?;
    let upload = heavy
        .map(|(_, cc)| {
            Upload::start(
                uploader.handle(),
                &lab,
                source,
                cc,
                Pace::Greedy(BULK_MESSAGE),
            )
        })
        .transpose()?;
    sleep(SETTLE);
    let received = || backend.uploads(source).map_or(0, |meter| meter.total());
    let time = Duration::from_secs(args.seconds) / args.rounds;
    let (from, before) = (Instant::now(), received());
    recorder.record_into(Some(index));
    sleep(time);
    recorder.record_into(None);
    let mut measured = Measured {
        bytes: received() - before,
        time: from.elapsed(),
        lost: lab.relay()?.lost(),
        ..Measured::default()
    };
    if let Some(upload) = upload {
        measured.segments = upload.segments()?;
        uploader.block_on(upload.stop())?;
    }
    clients.block_on(async {
        for client in light {
            client.stop().await?;
        }
        anyhow::Ok(())
    })?;
    Ok(measured)
}

fn runtime(threads: usize) -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .map_err(Into::into)
}
