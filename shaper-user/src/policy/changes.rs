//! What is different between two policies, for the audit log.

use super::client::display;
use super::units::Size;
use super::{
    Compiled, History, Limits, NamedClass, PlaceRule, Policy, Quota, Rate, RateLimit, Rule,
    ServerLimit,
};
use crate::addr::prefix_to_kernel;
use ipnet::IpNet;
use shaper_common::class::{CLASS_BLOCK, CLASS_EXEMPT};
use shaper_common::flow::{DOWNLOAD, UPLOAD};
use std::collections::BTreeMap;
use std::fmt::{self, Display};

/// Where nothing is.
pub const NONE: &str = "none";
/// Clients of a rule that are named; the others are counted.
const CLIENTS_SHOWN: usize = 4;

/// One part of a policy that is another now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// `default`, `rule NAME`, `server_limit be/srv`, or a key of the file.
    pub what: String,
    /// As it was; [`NONE`] where it is new.
    pub before: String,
    /// As it is; [`NONE`] where it is gone.
    pub after: String,
}

/// Every part that differs, ordered by its name.
#[must_use]
pub fn changes(before: &Policy, after: &Policy) -> Vec<Change> {
    let (mut old, mut new) = (parts(before), parts(after));
    let mut names: Vec<String> = old.keys().chain(new.keys()).cloned().collect();
    names.sort();
    names.dedup();
    names
        .into_iter()
        .filter_map(|what| {
            let (old, new) = (old.remove(&what), new.remove(&what));
            let same = old.as_ref().map(|(_, exact)| exact) == new.as_ref().map(|(_, exact)| exact);
            let text = |part: Option<(String, String)>| {
                part.map_or_else(|| NONE.to_owned(), |(text, _)| text)
            };
            (!same).then(|| Change {
                what,
                before: text(old),
                after: text(new),
            })
        })
        .collect()
}

/// The parts by name: as a person reads them, and with everything in them.
fn parts(policy: &Policy) -> BTreeMap<String, (String, String)> {
    let mut parts = BTreeMap::new();
    let mut add = |what: String, text: String, exact: &dyn fmt::Debug| {
        parts.insert(what, (text, format!("{exact:?}")));
    };
    let Policy {
        interfaces,
        ports,
        mode,
        xdp,
        on_exit,
        max_flows,
        max_clients,
        ipv4_prefix,
        ipv6_prefix,
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
        ..
    } = policy;
    add("interfaces".to_owned(), list(interfaces), interfaces);
    add("ports".to_owned(), list(ports), ports);
    add("mode".to_owned(), mode.to_string(), mode);
    add("xdp".to_owned(), xdp.to_string(), xdp);
    add("on_exit".to_owned(), on_exit.to_string(), on_exit);
    add("max_flows".to_owned(), max_flows.to_string(), max_flows);
    add(
        "max_clients".to_owned(),
        max_clients.to_string(),
        max_clients,
    );
    let prefixes = (ipv4_prefix, ipv6_prefix);
    add(
        "client".to_owned(),
        format!("IPv4 /{ipv4_prefix}, IPv6 /{ipv6_prefix}"),
        &prefixes,
    );
    let zone = time_zone.iana_name().unwrap_or(NONE);
    add("time_zone".to_owned(), zone.to_owned(), &zone);
    add("control.uids".to_owned(), list(control_uids), control_uids);
    let group = control_group.as_deref().unwrap_or(NONE);
    add("control.group".to_owned(), group.to_owned(), control_group);
    let actions = list(&haproxy.actions);
    add("haproxy.actions".to_owned(), actions, &haproxy.actions);
    let listen = metrics.map_or_else(
        || NONE.to_owned(),
        |metrics| format!("{}, {} clients", metrics.listen, metrics.top_clients),
    );
    add("metrics".to_owned(), listen, metrics);
    add("history".to_owned(), of_history(history), history);
    add("default".to_owned(), limits(default), default);
    for rule in rules {
        // With what it takes from `[default]`: that is what holds.
        let holds = policy.effective(rule);
        let exact = (&holds, rule.group, &rule.clients, rule.exempt, rule.block);
        add(format!("rule {}", rule.name), of_rule(rule, &holds), &exact);
    }
    for place in places {
        add(format!("rule {}", place.name), of_place(place), place);
    }
    for limit in server_limits {
        let (backend, server) = &limit.server;
        let what = format!("server_limit {backend}/{server}");
        add(what, of_server(limit), limit);
    }
    parts
}

fn of_history(history: &History) -> String {
    if !history.enabled {
        return NONE.to_owned();
    }
    let (max, flow) = (Size(history.max_size), Size(history.flow_min));
    let path = history.path.as_ref();
    let path = path.map_or_else(String::new, |path| format!(" in {}", path.display()));
    format!("{} hours, {max}, flows from {flow}{path}", history.hours)
}

fn of_rule(rule: &Rule, holds: &Limits) -> String {
    let what = if rule.block {
        "blocked".to_owned()
    } else if rule.exempt {
        "exempt".to_owned()
    } else {
        let group = [
            ("group_upload", rule.group.upload),
            ("group_download", rule.group.download),
        ];
        let mut what: Vec<_> = group
            .iter()
            .filter_map(|(name, limit)| Some(rate(name, (*limit)?)))
            .collect();
        let own = limits(holds);
        if what.is_empty() || own != NONE {
            what.insert(0, own);
        }
        together(what)
    };
    format!("{what} for {}", clients(&rule.clients))
}

fn of_place(place: &PlaceRule) -> String {
    let servers = place.servers.iter().map(|(b, s)| format!("{b}/{s}"));
    let at: Vec<_> = place.backends.iter().cloned().chain(servers).collect();
    let mut what = directions("", place.client);
    what.extend(directions("flow_", place.flow));
    let mut text = format!("{} at {}", together(what), at.join(", "));
    if !place.clients.is_empty() {
        text.push_str(" for ");
        text.push_str(&clients(&place.clients));
    }
    text
}

fn of_server(limit: &ServerLimit) -> String {
    let mut what = directions("", limit.cap);
    if let Some(share) = limit.share {
        what.push(format!("share {} above {}", share.part(), share.above));
    }
    together(what)
}

fn directions(prefix: &str, rates: [Option<Rate>; 2]) -> Vec<String> {
    [(UPLOAD, "upload"), (DOWNLOAD, "download")]
        .iter()
        .filter_map(|(index, name)| {
            let rate = rates.get(*index as usize).copied().flatten()?;
            Some(format!("{prefix}{name} {rate}"))
        })
        .collect()
}

fn limits(limits: &Limits) -> String {
    let rates = [
        ("upload", limits.upload),
        ("download", limits.download),
        ("flow_upload", limits.flow_upload),
        ("flow_download", limits.flow_download),
    ];
    let mut what: Vec<_> = rates
        .iter()
        .filter_map(|(name, limit)| Some(rate(name, (*limit)?)))
        .collect();
    if let Some(most) = limits.max_connections {
        what.push(format!("max_connections {most}"));
    }
    if let Some(rate) = limits.connection_rate {
        what.push(format!("connection_rate {rate}"));
    }
    if let Some(quota) = &limits.quota {
        let Quota {
            bytes,
            per,
            counts,
            then,
        } = &**quota;
        what.push(format!(
            "quota {} per {per} of {counts}, then {then}",
            Size(*bytes)
        ));
    }
    together(what)
}

fn rate(name: &str, limit: RateLimit) -> String {
    format!("{name} {}/{}", limit.rate, Size(limit.burst))
}

fn together(what: Vec<String>) -> String {
    if what.is_empty() {
        NONE.to_owned()
    } else {
        what.join(", ")
    }
}

fn clients(nets: &[IpNet]) -> String {
    let mut names: Vec<_> = nets
        .iter()
        .take(CLIENTS_SHOWN)
        .map(|n| display(*n))
        .collect();
    if nets.len() > CLIENTS_SHOWN {
        names.push(format!("{} more", nets.len() - CLIENTS_SHOWN));
    }
    names.join(", ")
}

fn list(values: &[impl Display]) -> String {
    together(values.iter().map(ToString::to_string).collect())
}

impl Compiled {
    /// What the clients of a prefix are held to, in words: by the rule of just
    /// this prefix, or the nearest that holds it.
    #[must_use]
    pub fn held(&self, net: IpNet) -> String {
        self.nearest(net).map_or_else(|| NONE.to_owned(), words)
    }

    fn nearest(&self, net: IpNet) -> Option<&NamedClass> {
        let (addr, bits) = prefix_to_kernel(net);
        let holding = self.rules.iter().filter(|(network, length, _)| {
            let shared =
                (super::lookup::number(network) ^ super::lookup::number(&addr)).leading_zeros();
            *length <= bits && shared >= *length
        });
        let class = holding.max_by_key(|(_, length, _)| *length);
        self.classes
            .get(class.map_or(0, |(_, _, class)| *class as usize))
    }
}

fn words(class: &NamedClass) -> String {
    if class.class.flags & CLASS_BLOCK != 0 {
        return "blocked".to_owned();
    }
    if class.class.flags & CLASS_EXEMPT != 0 {
        return "exempt".to_owned();
    }
    limits(&Limits {
        upload: class.upload,
        download: class.download,
        ..Limits::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = r#"
ports = [443]
[default]
upload = { rate = "8mbit" }
[[rule]]
name = "partners"
clients = ["203.0.113.0/24"]
download = { rate = "50mbit" }
[[rule]]
name = "old"
clients = ["192.0.2.0/24"]
block = true
"#;

    fn parse(text: &str) -> Policy {
        Policy::parse("p", text).unwrap()
    }

    fn lines(before: &str, after: &str) -> Vec<String> {
        changes(&parse(before), &parse(after))
            .iter()
            .map(|c| format!("{}: {} -> {}", c.what, c.before, c.after))
            .collect()
    }

    #[test]
    fn only_what_differs_is_named() {
        assert_eq!(lines(BEFORE, BEFORE), [""; 0]);
        let after = BEFORE
            .replace("[443]", "[443, 8443]")
            .replace("\"old\"", "\"new\"")
            .replace("block = true", "exempt = true");
        assert_eq!(
            lines(BEFORE, &after),
            [
                "ports: 443 -> 443, 8443",
                "rule new: none -> exempt for 192.0.2.0/24",
                "rule old: blocked for 192.0.2.0/24 -> none",
            ]
        );
    }

    #[test]
    fn a_rule_changes_with_the_default_it_takes_from() {
        let after = BEFORE.replace("\"8mbit\"", "\"4mbit\"");
        assert_eq!(
            lines(BEFORE, &after),
            [
                "default: upload 8mbit/100kB -> upload 4mbit/64KiB",
                "rule partners: upload 8mbit/100kB, download 50mbit/625kB for 203.0.113.0/24 -> \
                 upload 4mbit/64KiB, download 50mbit/625kB for 203.0.113.0/24",
            ]
        );
    }

    #[test]
    fn limits_by_place_and_of_servers_are_parts_too() {
        let after = format!(
            "{BEFORE}\n[[rule]]\nname = \"chat\"\nbackends = [\"be_chat\"]\nflow_upload = {{ rate = \"1mbit\" }}\n\
             [[server_limit]]\nserver = \"be_chat/s1\"\nupload = {{ rate = \"9mbit\" }}\nshare = 0.25\nabove = \"1mbit\"\n"
        );
        assert_eq!(
            lines(BEFORE, &after),
            [
                "rule chat: none -> flow_upload 1mbit at be_chat",
                "server_limit be_chat/s1: none -> upload 9mbit, share 0.25 above 1mbit",
            ]
        );
    }

    #[test]
    fn a_client_beyond_those_shown_counts() {
        let with = |clients: &str| {
            format!("[[rule]]\nname = \"r\"\nblock = true\nclients = [{clients}]\n")
        };
        let six = |last: u8| {
            let all: Vec<_> = (1..6)
                .chain([last])
                .map(|n| format!("\"192.0.2.{n}\""))
                .collect();
            with(&all.join(", "))
        };
        let lines = lines(&six(6), &six(7));
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains("192.0.2.4, 2 more -> "), "{lines:?}");
    }

    #[test]
    fn the_nearest_rule_says_what_a_prefix_is_held_to() {
        let compiled = parse(BEFORE).compile(&[]).unwrap();
        for (net, held) in [
            ("192.0.2.7/32", "blocked"),
            (
                "203.0.113.0/24",
                "upload 8mbit/100kB, download 50mbit/625kB",
            ),
            // The rule is for a part of it only.
            ("203.0.0.0/16", "upload 8mbit/100kB"),
            ("2001:db8::/64", "upload 8mbit/100kB"),
        ] {
            assert_eq!(compiled.held(net.parse().unwrap()), held, "{net}");
        }
    }
}
