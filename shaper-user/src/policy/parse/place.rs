//! A `[[rule]]` that names `backends` or `servers`: a place rule.

use super::rules::{self, Taken};
use super::{LIMIT_KEYS, limit, rate_only};
use crate::haproxy::drain::server_name;
use crate::haproxy::weights::ServerName;
use crate::policy::client::Prefixes;
use crate::policy::mistake::{Lines, Mistakes};
use crate::policy::place::{PlaceRule, by_direction};
use crate::policy::section::{Int, Section};
use crate::policy::{ConnectionRate, client};
use std::collections::HashMap;
use std::ops::Range;

/// Each is looked at for every client of every server, every second.
pub(super) const PLACES_MAX: usize = 256;
/// Likewise.
const CLIENTS_MAX: usize = 1024;
/// HAProxy's own names are far shorter.
const NAME_MAX: usize = 256;

const BACKENDS: &str = "names of HAProxy's backends, such as [\"be_ws\"]";
const SERVERS: &str = "backends and servers of HAProxy, such as [\"be_ws/srv3\"]";

/// What has no meaning for a place.
const FOREIGN: [(&str, &str); 7] = [
    (
        "exempt",
        "it limits on top of all else, so it can free nobody",
    ),
    (
        "block",
        "which server a connection goes to is known only when it is open",
    ),
    (
        "group_upload",
        "all clients of a server together are bounded by [[server_limit]]",
    ),
    (
        "group_download",
        "all clients of a server together are bounded by [[server_limit]]",
    ),
    (
        "max_connections",
        "HAProxy's own `maxconn` of a server does that",
    ),
    (
        "connection_rate",
        "which server a connection goes to is known only when it is open",
    ),
    ("quota", "a client has one, wherever HAProxy sends it"),
];

/// Whether a `[[rule]]` is one.
pub(super) fn is_place(section: &Section<'_, '_>) -> bool {
    section.key("backends").is_some() || section.key("servers").is_some()
}

pub(super) fn place(
    mut section: Section<'_, '_>,
    prefixes: Prefixes,
    taken: &mut Taken,
    lines: &Lines<'_>,
    mistakes: &mut Mistakes,
) -> PlaceRule {
    let name = rules::name(&mut section, taken, lines, mistakes);
    let clients = clients(&mut section, prefixes, lines, mistakes);
    let backends = names(
        &mut section,
        ("backends", BACKENDS),
        lines,
        mistakes,
        |text| {
            server_name(&format!("{text}/s")).ok()?;
            Some(text.to_owned())
        },
    );
    let servers = names(&mut section, ("servers", SERVERS), lines, mistakes, server);
    for (key, why) in FOREIGN {
        if let Some(span) = section.key(key) {
            mistakes.push(
                span,
                format!(
                    "`{key}` in a rule with `backends` or `servers`: {why}; allowed: upload, \
                     download, flow_upload, flow_download"
                ),
            );
        }
    }
    // They are known, and what is wrong with them is said.
    let _ = section.get::<bool>("exempt", mistakes);
    let _ = section.get::<bool>("block", mistakes);
    let _ = section.get::<Int<1, { u32::MAX }>>("max_connections", mistakes);
    let _ = section.get::<ConnectionRate>("connection_rate", mistakes);
    let _ = limit(&mut section, "group_upload", mistakes);
    let _ = limit(&mut section, "group_download", mistakes);
    let [upload, download, flow_upload, flow_download, ..] = LIMIT_KEYS;
    let mut rate = |key| rate_only(&mut section, key, mistakes);
    let client = by_direction(rate(upload), rate(download));
    let flow = by_direction(rate(flow_upload), rate(flow_download));
    section.knows(&["quota"]);
    section.finish(mistakes);
    PlaceRule {
        name,
        clients,
        backends,
        servers,
        client,
        flow,
    }
}

/// Notes once where there are more than are looked at in time.
pub(super) fn bound(
    places: &[PlaceRule],
    rule: &PlaceRule,
    span: Range<usize>,
    mistakes: &mut Mistakes,
) {
    if places.len() == PLACES_MAX {
        mistakes.push(
            span.clone(),
            format!("more rules with `backends` or `servers` than allowed: at most {PLACES_MAX}"),
        );
    }
    let before: usize = places.iter().map(|rule| rule.clients.len()).sum();
    if before <= CLIENTS_MAX && before + rule.clients.len() > CLIENTS_MAX {
        mistakes.push(
            span,
            format!(
                "more clients in all rules with `backends` or `servers` than allowed: at most \
                 {CLIENTS_MAX}"
            ),
        );
    }
}

/// Reads `backend/server`.
pub(super) fn server(text: &str) -> Option<ServerName> {
    server_name(text).ok()
}

/// The clients it is for. Other rules may have them too.
fn clients(
    section: &mut Section<'_, '_>,
    prefixes: Prefixes,
    lines: &Lines<'_>,
    mistakes: &mut Mistakes,
) -> Vec<ipnet::IpNet> {
    super::list(
        section,
        ("clients", rules::CLIENTS),
        lines,
        mistakes,
        |text: String| client::parse(&text, prefixes).map_err(|error| error.to_string()),
    )
    .unwrap_or_default()
}

fn names<T>(
    section: &mut Section<'_, '_>,
    (key, allowed): (&'static str, &str),
    lines: &Lines<'_>,
    mistakes: &mut Mistakes,
    read: impl Fn(&str) -> Option<T>,
) -> Vec<T> {
    let Some((texts, span)) = section.list::<String>(key, allowed, mistakes) else {
        return Vec::new();
    };
    if section.is_empty_array(key) {
        mistakes.push(span, format!("`{key}` is empty; allowed: {allowed}"));
    }
    let mut seen = HashMap::new();
    let mut names = Vec::with_capacity(texts.len());
    for (text, span) in texts {
        let line = lines.line(span.start);
        match read(&text).filter(|_| text.len() <= NAME_MAX) {
            None => mistakes.push(
                span,
                format!(
                    "`{}` is no name here; allowed: {allowed}",
                    text.escape_debug()
                ),
            ),
            Some(name) => match seen.insert(text.clone(), line) {
                Some(first) => mistakes.push(
                    span,
                    format!("{text} is in `{key}` twice (first in line {first}); allowed: once"),
                ),
                None => names.push(name),
            },
        }
    }
    names
}
