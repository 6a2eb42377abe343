//! An event as a sentence, for people.

use super::{By, Change, Direction, Event, LeftOut, Part};
use crate::render::units;
use std::fmt::{self, Display};

impl Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Upload => "upload",
            Self::Download => "download",
        })
    }
}

/// What happened, with all that a person asks for. Without control characters,
/// whoever wrote what is in it.
#[must_use]
pub fn sentence(event: &Event) -> String {
    let text = said(event);
    if text.contains(char::is_control) {
        let odd = |c: char| if c.is_control() { ' ' } else { c };
        let plain: String = text.chars().map(odd).collect();
        return plain.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    text
}

fn said(event: &Event) -> String {
    match event {
        Event::DaemonStarted {
            version,
            pid,
            mode,
            policy,
        } => {
            let policy = policy.as_deref().unwrap_or("no policy file");
            format!("daemon {version} started, process {pid}: {mode}, {policy}")
        }
        Event::DaemonStopping { signal, on_exit } => {
            let limits = match on_exit.as_str() {
                "detach" => "nothing is limited any more",
                _ => "limits hold on",
            };
            format!("daemon stopping on {signal}; {limits}")
        }
        Event::Limited {
            client,
            rule,
            direction,
            limit_bps,
            observed,
        } => {
            let what = match observed {
                true => "over its limit, not held: observing",
                false => "limited",
            };
            let to = limit_bps.map_or_else(String::new, |bps| format!(" {}", units::rate(bps)));
            format!("{client} {what}: {direction}{to}, rule {rule}")
        }
        Event::Released {
            client,
            rule,
            direction,
            limited_ms,
            observed,
        } => {
            let what = match observed {
                true => "within its limit again",
                false => "released",
            };
            let after = units::duration(*limited_ms);
            format!("{client} {what} after {after}: {direction}, rule {rule}")
        }
        Event::Blocked { client, rule } => {
            format!("{client} is blocked and still sends: rule {rule}")
        }
        Event::ConnectionRate { client, rule } => {
            format!("{client} opens connections too fast: rule {rule}")
        }
        Event::MaxConnections { client, rule } => {
            format!("{client} has as many connections as it may: rule {rule}")
        }
        Event::TableFull {
            client,
            rule,
            tables,
        } => {
            let tables = match &tables[..] {
                [] => "a table is".to_owned(),
                tables => format!("table of {} is", tables.join(" and ")),
            };
            format!("{client}: the kernel's {tables} full, rule {rule}")
        }
        Event::LeftOut(left) => left_out(left),
        Event::QuotaReached {
            client,
            rule,
            percent,
            used_bytes,
            quota_bytes,
            then,
            ..
        } => {
            let (used, quota) = (units::bytes(*used_bytes), units::bytes(*quota_bytes));
            let then = match then.as_deref().filter(|_| *percent >= 100) {
                Some(then) => format!(", then {then}"),
                None => String::new(),
            };
            format!("{client} used {percent} % of its quota: {used} of {quota}, rule {rule}{then}")
        }
        Event::InterfaceGone { interface } => format!("interface {interface} is gone"),
        Event::InterfaceBack {
            interface,
            ingress,
            egress,
            xdp,
        } => {
            let hook = |name: &str, hook: &Option<String>| {
                hook.as_ref().map(|hook| format!("{name} {hook}"))
            };
            let hooks = [
                hook("ingress", ingress),
                hook("egress", egress),
                hook("XDP", xdp),
            ];
            let hooks: Vec<_> = hooks.into_iter().flatten().collect();
            format!("interface {interface} is attached: {}", hooks.join(", "))
        }
        Event::HaproxyLost { socket, error } if error.contains(socket) => {
            format!("HAProxy does not answer: {error}")
        }
        Event::HaproxyLost { socket, error } => {
            format!("HAProxy does not answer on {socket}: {error}")
        }
        Event::HaproxyBack { socket, version } => {
            let version = version.as_deref().unwrap_or_default();
            format!("HAProxy {version} answers on {socket}").replace("  ", " ")
        }
        Event::PolicyChanged {
            by, changes, more, ..
        } => policy(by, changes, *more),
        Event::LimitSet(change)
        | Event::LimitCleared(change)
        | Event::BlockSet(change)
        | Event::BlockCleared(change)
        | Event::SessionKilled(change)
        | Event::DrainStarted(change)
        | Event::DrainStopped(change) => done(change),
        Event::ChangeRefused {
            by,
            action,
            outcome,
            message,
        } => format!("{action} {outcome}{}: {message}", who(by)),
        Event::Unknown => "an event of a later version".to_owned(),
    }
}

fn done(change: &Change) -> String {
    format!("{}{}", change.message, who(&change.by))
}

fn policy(by: &By, changes: &[Part], more: u64) -> String {
    if changes.is_empty() {
        return format!("policy read again, nothing is different{}", who(by));
    }
    let mut parts: Vec<_> = changes.iter().map(|part| part.part.clone()).collect();
    if more > 0 {
        parts.push(format!("{more} more"));
    }
    format!("policy changed{}: {}", who(by), parts.join(", "))
}

/// ` (by root, process 7)`
fn who(by: &By) -> String {
    match (&by.user, by.uid, by.pid) {
        (None, None, _) if by.by == "expiry" => String::new(),
        (None, None, _) => format!(" (by {})", by.by),
        (user, uid, pid) => {
            let user = match (user, uid) {
                (Some(user), _) => user.clone(),
                (None, uid) => format!("user {}", uid.unwrap_or_default()),
            };
            let pid = pid.map_or_else(String::new, |pid| format!(", process {pid}"));
            format!(" (by {user}{pid})")
        }
    }
}

fn left_out(left: &LeftOut) -> String {
    let kinds = [
        ("limited", left.limited),
        ("released", left.released),
        ("blocked", left.blocked),
        ("connection_rate", left.connection_rate),
        ("max_connections", left.max_connections),
        ("table_full", left.table_full),
        ("in the kernel", left.kernel),
    ];
    let kinds: Vec<_> = kinds
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| format!("{count} {name}"))
        .collect();
    let over = units::duration(left.over_ms);
    format!("left out in {over}: {}", kinds.join(", "))
}
