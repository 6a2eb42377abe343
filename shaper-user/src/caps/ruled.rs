//! The place rule of each client at each server, and what it lets the client have
//! there.

use super::divide::{bps, floor, wants};
use super::fill::share_out;
use super::{DIRECTIONS, ServerNow, net};
use crate::policy::{PlaceRule, Policy};
use shaper_common::key::ClientKey;
use std::collections::HashMap;

/// A client at a server under its place rule.
#[derive(Clone, Copy)]
pub(super) struct Ruled<'a> {
    pub rule: Option<&'a PlaceRule>,
    /// What it may have there by that rule, by direction; infinite: anything.
    pub most: [f64; 2],
}

/// For every client of every server. A rule limits all connections of a client that
/// it is for together, so where those are at several servers each has a part of it.
pub(super) fn ruled<'a>(policy: &'a Policy, servers: &[ServerNow]) -> Vec<Vec<Ruled<'a>>> {
    let mut together: HashMap<(&str, ClientKey), Vec<(usize, usize)>> = HashMap::new();
    let mut ruled = Vec::with_capacity(servers.len());
    for (s, server) in servers.iter().enumerate() {
        let mut clients = Vec::with_capacity(server.clients.len());
        for (c, client) in server.clients.iter().enumerate() {
            let (backend, name) = (&*server.name.0, &*server.name.1);
            let rule = policy
                .place_rule(backend, name, net(&client.client))
                .filter(|_| !client.exempt);
            if let Some(rule) = rule {
                let same = together.entry((&rule.name, client.client)).or_default();
                same.push((s, c));
            }
            let most = DIRECTIONS.map(|d| bps(rule.and_then(|rule| rule.client[d])));
            clients.push(Ruled { rule, most });
        }
        ruled.push(clients);
    }
    for places in together.into_values().filter(|places| places.len() > 1) {
        let clients = places.iter().map(|(s, c)| &servers[*s].clients[*c]);
        let (first_server, first_client) = places[0];
        let Ruled { rule, most } = ruled[first_server][first_client];
        for d in DIRECTIONS.into_iter().filter(|d| most[*d].is_finite()) {
            let each = clients.clone().map(|client| wants(client, rule, d));
            let each: Vec<Vec<f64>> = each.collect();
            let wanted: Vec<f64> = each.iter().map(|wants| wants.iter().sum()).collect();
            let flows = each.iter().map(Vec::len).sum();
            let parts = share_out(most[d], &wanted, &vec![f64::INFINITY; wanted.len()]);
            let floor = floor(most[d], flows);
            for (((s, c), part), wants) in places.iter().zip(parts).zip(&each) {
                ruled[*s][*c].most[d] = part.max(floor * wants.len() as f64);
            }
        }
    }
    ruled
}
