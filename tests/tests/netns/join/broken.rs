//! Whatever the sockets do, limits hold, and `status` says what is wrong.

use super::bed::{Bed, both_families, ensure_joined, wait};
use super::fake::{FAULTS, Fake, Fault};
use crate::tools::{Bulk, SECOND, ensure_held};
use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use shaper_tests::haproxy::Installed;
use shaper_tests::lab::{LabSpec, PORT, SOURCE_PORT, client_v4};
use shaper_tests::traffic::tcp::{Role, Server};
use std::path::Path;
use std::thread::sleep;

const LIMIT: &str = "[default]\nupload = { rate = \"8mbit\" }\n";

/// An upload past HAProxy, to a sink on the other watched port.
fn upload(bed: &Bed) -> Result<(Server, Bulk)> {
    let sink = Server::start(&bed.lab.proxy, SOURCE_PORT, Role::Sink, "cubic")?;
    let bulk = Bulk::upload_to(&bed.lab, &sink, client_v4(24), SOURCE_PORT, "cubic")?;
    // The burst.
    sleep(SECOND);
    Ok((sink, bulk))
}

pub fn sockets(haproxy: &Installed) -> Result<()> {
    let bed = Bed::start_in(LabSpec::default(), haproxy, |_| ())?;
    let fakes = FAULTS
        .into_iter()
        .map(|fault| Fake::start(bed.lab.directory(), fault))
        .collect::<Result<Vec<_>>>()?;
    let mut paths: Vec<&Path> = fakes.iter().map(|fake| fake.path.as_path()).collect();
    paths.push(bed.haproxy.socket());
    let shaper = bed.shaper(&paths, LIMIT)?;
    let (_sink, bulk) = upload(&bed)?;
    let open = bed.open(&both_families(10, 1), PORT)?;
    let joined = || ensure_joined(&shaper, open.iter().map(|one| (one, bed.haproxy.pid())));
    joined()?;
    ensure_held("among broken sockets", bulk.rate_over(4 * SECOND), 8e6)?;
    joined()?;
    let mut unnamed = Vec::new();
    wait("a word on every socket", 10 * SECOND, || {
        let status = shaper.status()?;
        unnamed = Vec::new();
        for fake in &fakes {
            let row = status
                .haproxy
                .iter()
                .find(|row| Path::new(&row.path) == fake.path);
            // A lie in the right form may well be believed.
            let named = row.is_some_and(|row| row.error.is_some() || fake.fault == Fault::Lying);
            if !named {
                unnamed.push((fake.fault, row.cloned()));
            }
        }
        Ok(unnamed.is_empty())
    })
    .map_err(|error| error.context(format!("{unnamed:?}")))?;
    let status = shaper.status()?;
    for row in &status.haproxy {
        println!("{}: {:?}", row.path, row.error);
    }
    let real = status
        .haproxy
        .iter()
        .find(|row| Path::new(&row.path) == bed.haproxy.socket());
    ensure!(real.is_some_and(|row| row.error.is_none()), "{real:?}");
    let servers = shaper.servers()?.servers;
    ensure!(
        servers
            .iter()
            .all(|row| row.server != "liar" || row.connections == 0),
        "{servers:?}"
    );
    Ok(())
}

/// A HAProxy that stands still, and goes on.
pub fn stopped(haproxy: &Installed) -> Result<()> {
    let bed = Bed::start_in(LabSpec::default(), haproxy, |_| ())?;
    let shaper = bed.shaper(&[bed.haproxy.socket()], LIMIT)?;
    let (_sink, bulk) = upload(&bed)?;
    let open = bed.open(&both_families(10, 1), PORT)?;
    let joined = || ensure_joined(&shaper, open.iter().map(|one| (one, bed.haproxy.pid())));
    joined()?;
    bed.haproxy.signal(Signal::SIGSTOP)?;
    ensure_held("beside a stopped HAProxy", bulk.rate_over(4 * SECOND), 8e6)?;
    wait("the mark on what is stale", 10 * SECOND, || {
        let flows = shaper.flows()?.flows;
        let mine = flows.iter().filter(|flow| flow.local_port == PORT);
        let stale = mine.filter_map(|flow| flow.haproxy.as_ref());
        let error = shaper
            .status()?
            .haproxy
            .iter()
            .all(|row| row.error.is_some());
        // The right server all the same: it has not moved.
        Ok(error && stale.filter(|join| join.stale).count() == open.len())
    })?;
    println!("{:?}", shaper.status()?.haproxy);
    bed.haproxy.signal(Signal::SIGCONT)?;
    wait("the end of the mark", 15 * SECOND, || {
        let flows = shaper.flows()?.flows;
        let joins = flows.iter().filter_map(|flow| flow.haproxy.as_ref());
        let error = shaper
            .status()?
            .haproxy
            .iter()
            .any(|row| row.error.is_some());
        Ok(!error && joins.filter(|join| !join.stale).count() == open.len())
    })?;
    joined().map(drop)
}
