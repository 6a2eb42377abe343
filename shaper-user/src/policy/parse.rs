//! The policy file to a [`Policy`], with all its mistakes at once.

mod haproxy;
mod history;
mod metrics;
mod place;
mod quota;
mod rules;
mod server_limit;

use super::client::Prefixes;
use super::interface;
use super::mistake::{Lines, LoadError, Mistakes, PolicyErrors};
use super::section::{At, Int, Section};
use super::tables::{CLIENTS_MAX, FLOWS_MAX, TABLE_MIN};
use super::units::Size;
use super::{ConnectionRate, Haproxy, History, Limits, Mode, OnExit, Policy, Rate, RateLimit, Xdp};
use jiff::tz::TimeZone;
use serde::de::DeserializeOwned;
use shaper_common::names::{MAX_CLIENTS, MAX_FLOWS, MAX_INTERFACES};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use toml::de::DeTable;

/// The ports of a policy that names none: HTTP and HTTPS.
const DEFAULT_PORTS: [u16; 2] = [80, 443];
const DEFAULT_IPV4_PREFIX: u8 = 32;
const DEFAULT_IPV6_PREFIX: u8 = 64;

/// The interface of the default route, where it is named at all.
const AUTO: &str = "auto";

const PORTS: &str = "port numbers from 1 to 65535, such as [80, 443]";
const INTERFACES: &str = "names of interfaces or patterns, such as [\"eth0\"] or [\"eth*\"]; \
                          leave the key out for the default route's";
const RATE: &str = "a table, such as { rate = \"8mbit\" }";
const LIMIT: &str = "a table, such as { rate = \"8mbit\", burst = \"1MB\" }";

impl Policy {
    /// Reads a policy. `name` is what the mistakes call the file.
    ///
    /// Absent keys: `interfaces` is the default route's (an empty list), `ports`
    /// 80 and 443, `mode` enforce, `xdp` auto, `on_exit` keep, a client is an
    /// IPv4 address or an IPv6 /64, and nothing is limited.
    ///
    /// # Errors
    /// Every mistake of the text; those of TOML itself alone, because what
    /// follows one cannot be trusted.
    pub fn parse(name: &str, text: &str) -> Result<Self, PolicyErrors> {
        let mut mistakes = Mistakes::default();
        let lines = Lines::new(text);
        let (root, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            let mut spans = BTreeMap::new();
            for error in errors {
                let span = error.span().unwrap_or(text.len()..text.len());
                let message = format!("not valid TOML: {}", error.message());
                // Recovery finds more on the same line: the first says it.
                let first = spans
                    .entry(lines.line(span.start))
                    .or_insert_with(|| (span.clone(), message.clone()));
                if span.start < first.0.start {
                    *first = (span, message);
                }
            }
            for (span, message) in spans.into_values() {
                mistakes.push(span, message);
            }
            return Err(mistakes.locate(name, text));
        }
        let span = root.span();
        let root = Section::new("the policy", root.get_ref(), span);
        let policy = policy(root, &lines, &mut mistakes);
        if mistakes.is_empty() {
            Ok(policy)
        } else {
            Err(mistakes.locate(name, text))
        }
    }

    /// Reads a policy file.
    ///
    /// # Errors
    /// When it cannot be read, or has mistakes.
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        let bytes = std::fs::read(path).map_err(|source| LoadError::Read {
            path: path.to_owned(),
            source,
        })?;
        let name = path.display().to_string();
        match std::str::from_utf8(&bytes) {
            Ok(text) => Ok(Self::parse(&name, text)?),
            Err(error) => {
                let text = String::from_utf8_lossy(&bytes);
                let at = error.valid_up_to();
                let mut mistakes = Mistakes::default();
                mistakes.push(at..at, "not text; allowed: TOML in UTF-8");
                Err(mistakes.locate(&name, &text).into())
            }
        }
    }

    /// The policy of a daemon without a file: it counts on ports 80 and 443 of
    /// the default route's interface, and limits nothing.
    #[must_use]
    pub fn observe_only() -> Self {
        Self {
            interfaces: Vec::new(),
            ports: DEFAULT_PORTS.to_vec(),
            mode: Mode::Observe,
            xdp: Xdp::default(),
            on_exit: OnExit::default(),
            max_flows: MAX_FLOWS,
            max_clients: MAX_CLIENTS,
            ipv4_prefix: DEFAULT_IPV4_PREFIX,
            ipv6_prefix: DEFAULT_IPV6_PREFIX,
            time_zone: TimeZone::UTC,
            default: Limits::default(),
            rules: Vec::new(),
            places: Vec::new(),
            server_limits: Vec::new(),
            control_uids: Vec::new(),
            control_group: None,
            haproxy: Haproxy::default(),
            metrics: None,
            history: History::default(),
        }
    }

    /// The client prefixes.
    #[must_use]
    pub const fn prefixes(&self) -> Prefixes {
        Prefixes {
            ipv4: self.ipv4_prefix,
            ipv6: self.ipv6_prefix,
        }
    }
}

/// Reads the whole file. What is wrong is noted and stands at its default.
fn policy(mut root: Section<'_, '_>, lines: &Lines<'_>, mistakes: &mut Mistakes) -> Policy {
    let interfaces = interfaces(&mut root, lines, mistakes);
    let ports = ports(&mut root, lines, mistakes);
    let mode = or_default(root.get("mode", mistakes));
    let xdp = or_default(root.get("xdp", mistakes));
    let on_exit = or_default(root.get("on_exit", mistakes));
    let max_flows = size::<TABLE_MIN, FLOWS_MAX>(&mut root, "max_flows", MAX_FLOWS, mistakes);
    let max_clients =
        size::<TABLE_MIN, CLIENTS_MAX>(&mut root, "max_clients", MAX_CLIENTS, mistakes);
    let prefixes = client(&mut root, mistakes);
    let time_zone = quota::time_zone(&mut root, mistakes);
    let mut named = Vec::new();
    let default = root
        .table("default", "[default]", "the table [default]", mistakes)
        .map(|mut section| {
            let mut limits = limits(&mut section, mistakes);
            limits.quota = quota::quota(&mut section, None, &mut named, mistakes);
            section.finish(mistakes);
            limits
        })
        .unwrap_or_default();
    let (rules, places) = rules::rules(&mut root, prefixes, lines, &mut named, mistakes);
    quota::check(named, &rules, &places, mistakes);
    let server_limits = server_limit::server_limits(&mut root, lines, mistakes);
    let (control_uids, control_group) = control(&mut root, mistakes);
    let haproxy = haproxy::haproxy(&mut root, mistakes);
    let metrics = metrics::metrics(&mut root, mistakes);
    let history = history::history(&mut root, mistakes);
    root.finish(mistakes);
    Policy {
        interfaces,
        ports,
        mode,
        xdp,
        on_exit,
        max_flows,
        max_clients,
        ipv4_prefix: prefixes.ipv4,
        ipv6_prefix: prefixes.ipv6,
        time_zone,
        default,
        rules,
        places,
        server_limits,
        control_uids,
        control_group,
        haproxy,
        metrics,
        history,
    }
}

/// The size of a table.
fn size<const MIN: u32, const MAX: u32>(
    root: &mut Section<'_, '_>,
    key: &'static str,
    default: u32,
    mistakes: &mut Mistakes,
) -> u32 {
    root.get::<Int<MIN, MAX>>(key, mistakes)
        .map_or(default, |(Int(size), _)| size)
}

fn or_default<T: Default>(value: Option<At<T>>) -> T {
    value.map(|(value, _)| value).unwrap_or_default()
}

/// A list that is not empty, has no value twice, and whose values `check`
/// finds nothing wrong with.
fn list<T: DeserializeOwned, V: Clone + Eq + std::hash::Hash + std::fmt::Display>(
    section: &mut Section<'_, '_>,
    (key, allowed): (&'static str, &str),
    lines: &Lines<'_>,
    mistakes: &mut Mistakes,
    check: impl Fn(T) -> Result<V, String>,
) -> Option<Vec<V>> {
    let (values, span) = section.list::<T>(key, allowed, mistakes)?;
    if section.is_empty_array(key) {
        mistakes.push(span, format!("`{key}` is empty; allowed: {allowed}"));
        return None;
    }
    let mut seen = HashMap::new();
    let mut list = Vec::with_capacity(values.len());
    for (value, span) in values {
        match check(value) {
            Err(message) => mistakes.push(span, message),
            Ok(value) => {
                let line = lines.line(span.start);
                if let Some(first) = seen.insert(value.clone(), line) {
                    mistakes.push(
                        span,
                        format!(
                            "{value} is in `{key}` twice (first in line {first}); allowed: once"
                        ),
                    );
                }
                list.push(value);
            }
        }
    }
    Some(list)
}

fn ports(root: &mut Section<'_, '_>, lines: &Lines<'_>, mistakes: &mut Mistakes) -> Vec<u16> {
    list(
        root,
        ("ports", PORTS),
        lines,
        mistakes,
        |port: Int<1, 65_535>| u16::try_from(port.0).map_err(|error| error.to_string()),
    )
    .unwrap_or_else(|| DEFAULT_PORTS.to_vec())
}

fn interfaces(
    root: &mut Section<'_, '_>,
    lines: &Lines<'_>,
    mistakes: &mut Mistakes,
) -> Vec<String> {
    let span = root.key("interfaces");
    let names = list(
        root,
        ("interfaces", INTERFACES),
        lines,
        mistakes,
        interface::check,
    )
    .unwrap_or_default();
    if let Some(span) = span.filter(|_| names.len() > MAX_INTERFACES as usize) {
        mistakes.push(
            span,
            format!(
                "{} interfaces; allowed: at most {MAX_INTERFACES}",
                names.len()
            ),
        );
    }
    if names == [AUTO] { Vec::new() } else { names }
}

fn client(root: &mut Section<'_, '_>, mistakes: &mut Mistakes) -> Prefixes {
    let mut prefixes = Prefixes {
        ipv4: DEFAULT_IPV4_PREFIX,
        ipv6: DEFAULT_IPV6_PREFIX,
    };
    let Some(mut section) = root.table("client", "[client]", "the table [client]", mistakes) else {
        return prefixes;
    };
    // A wrong length counts as the longest, so that it does not make the rules
    // look wrong too.
    if section.key("ipv6_prefix").is_some() {
        prefixes.ipv6 = 128;
    }
    if let Some((Int(len), _)) = section.get::<Int<1, 32>>("ipv4_prefix", mistakes) {
        prefixes.ipv4 = u8::try_from(len).unwrap_or(32);
    }
    if let Some((Int(len), _)) = section.get::<Int<1, 128>>("ipv6_prefix", mistakes) {
        prefixes.ipv6 = u8::try_from(len).unwrap_or(128);
    }
    section.finish(mistakes);
    prefixes
}

/// The keys that `[default]` and a rule share.
const LIMIT_KEYS: [&str; 6] = [
    "upload",
    "download",
    "flow_upload",
    "flow_download",
    "max_connections",
    "connection_rate",
];

fn limits(section: &mut Section<'_, '_>, mistakes: &mut Mistakes) -> Limits {
    let [upload, download, flow_upload, flow_download, max, rate] = LIMIT_KEYS;
    Limits {
        upload: limit(section, upload, mistakes),
        download: limit(section, download, mistakes),
        flow_upload: limit(section, flow_upload, mistakes),
        flow_download: limit(section, flow_download, mistakes),
        max_connections: section
            .get::<Int<1, { u32::MAX }>>(max, mistakes)
            .map(|(Int(max), _)| max),
        connection_rate: section
            .get::<ConnectionRate>(rate, mistakes)
            .map(|(rate, _)| rate),
        quota: None,
    }
}

fn limit(
    section: &mut Section<'_, '_>,
    key: &'static str,
    mistakes: &mut Mistakes,
) -> Option<RateLimit> {
    let mut table = section.table(key, &format!("`{key}`"), LIMIT, mistakes)?;
    let rate = table.get::<Rate>("rate", mistakes);
    let burst = table.get::<Size>("burst", mistakes);
    if table.key("rate").is_none() {
        mistakes.push(
            table.span(),
            format!("`{key}` has no `rate`; allowed: {LIMIT}"),
        );
    }
    table.finish(mistakes);
    if let Some((burst, span)) = &burst
        && !(RateLimit::MIN_BURST..=RateLimit::MAX_BURST).contains(&burst.0)
    {
        mistakes.push(
            span.clone(),
            format!(
                "a burst of {burst} is out of range; allowed: {} to {}",
                Size(RateLimit::MIN_BURST),
                Size(RateLimit::MAX_BURST)
            ),
        );
    }
    let (rate, _) = rate?;
    Some(RateLimit {
        rate,
        burst: burst.map_or_else(|| rate.default_burst(), |(burst, _)| burst.0),
    })
}

/// A limit by place: the daemon chooses the burst.
fn rate_only(
    section: &mut Section<'_, '_>,
    key: &'static str,
    mistakes: &mut Mistakes,
) -> Option<Rate> {
    let mut table = section.table(key, &format!("`{key}`"), RATE, mistakes)?;
    let rate = table.get::<Rate>("rate", mistakes);
    if table.key("rate").is_none() {
        mistakes.push(
            table.span(),
            format!("`{key}` has no `rate`; allowed: {RATE}"),
        );
    }
    if let Some(span) = table.key("burst") {
        let _ = table.get::<Size>("burst", mistakes);
        mistakes.push(
            span,
            format!("`burst` in a limit by place, which always has the default; allowed: {RATE}"),
        );
    }
    table.finish(mistakes);
    rate.map(|(rate, _)| rate)
}

fn control(root: &mut Section<'_, '_>, mistakes: &mut Mistakes) -> (Vec<u32>, Option<String>) {
    let Some(mut section) = root.table("control", "[control]", "the table [control]", mistakes)
    else {
        return (Vec::new(), None);
    };
    let uids = section
        .list::<Int<0, { u32::MAX }>>("uids", "user ids, such as [1000]", mistakes)
        .map(|(uids, _)| uids.into_iter().map(|(Int(uid), _)| uid).collect())
        .unwrap_or_default();
    let group = section
        .get::<String>("group", mistakes)
        .and_then(|(group, span)| {
            let odd = |c: char| c.is_whitespace() || c.is_control() || c == ':';
            if group.is_empty() || group.contains(odd) {
                mistakes.push(
                    span,
                    format!(
                        "`{}` is not the name of a group; allowed: a name as in /etc/group",
                        group.escape_debug()
                    ),
                );
                return None;
            }
            Some(group)
        });
    section.finish(mistakes);
    (uids, group)
}
