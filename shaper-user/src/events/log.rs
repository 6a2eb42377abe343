//! An event as a line of the log: the sentence short, everything else in fields
//! that are named as in the JSON.

use super::{Event, text};
use crate::render::units;

impl Event {
    /// Writes the line. Those of changes are written by the audit log.
    pub(super) fn log(&self) {
        let event = self.name();
        match self {
            Self::Limited {
                client,
                rule,
                direction,
                limit_bps,
                observed,
            } => {
                let direction = direction.to_string();
                let limit = limit_bps.map(units::rate);
                let what = text::limited(*observed);
                tracing::info!(
                    client, rule, direction, limit, limit_bps, observed, event, "{what}"
                );
            }
            Self::Released {
                client,
                rule,
                direction,
                limited_ms,
                observed,
            } => {
                let direction = direction.to_string();
                let after = units::duration(*limited_ms);
                let what = text::released(*observed);
                tracing::info!(
                    client, rule, direction, after, limited_ms, observed, event, "{what}"
                );
            }
            Self::Blocked { client, rule } => tracing::info!(client, rule, event, "blocked"),
            Self::ConnectionRate { client, rule } => {
                tracing::info!(
                    client,
                    rule,
                    event,
                    "dropped a SYN above the connection rate"
                );
            }
            Self::MaxConnections { client, rule } => {
                tracing::info!(client, rule, event, "dropped a SYN: too many connections");
            }
            Self::TableFull {
                client,
                rule,
                tables,
            } => {
                let tables = tables.join(",");
                tracing::warn!(
                    client,
                    rule,
                    tables,
                    event,
                    "a table is full: held with its client, or with all others without room"
                );
            }
            Self::LeftOut(left) => tracing::warn!(
                limited = left.limited,
                released = left.released,
                blocked = left.blocked,
                connection_rate = left.connection_rate,
                max_connections = left.max_connections,
                table_full = left.table_full,
                kernel = left.kernel,
                over_ms = left.over_ms,
                event,
                "more events of clients than are told one by one"
            ),
            Self::QuotaReached {
                client,
                rule,
                percent,
                used_bytes,
                quota_bytes,
                resets,
                then,
            } => {
                let resets = resets.map(|at| at.to_string());
                let then = then.as_deref();
                tracing::warn!(
                    client,
                    rule,
                    percent,
                    used_bytes,
                    quota_bytes,
                    resets,
                    then,
                    event,
                    "quota reached"
                );
            }
            Self::InterfaceGone { interface } => {
                tracing::warn!(interface, event, "the interface is gone");
            }
            Self::InterfaceBack {
                interface,
                ingress,
                egress,
                xdp,
            } => {
                let (ingress, egress) = (ingress.as_deref(), egress.as_deref());
                let xdp = xdp.as_deref();
                tracing::info!(
                    interface,
                    ingress,
                    egress,
                    xdp,
                    event,
                    "the interface is attached"
                );
            }
            Self::HaproxyLost { socket, error } => {
                tracing::warn!(socket, error, event, "HAProxy does not answer");
            }
            Self::HaproxyBack { socket, version } => {
                let version = version.as_deref();
                tracing::info!(socket, version, event, "HAProxy answers");
            }
            Self::DaemonStarted {
                version,
                pid,
                mode,
                policy,
            } => {
                let policy = policy.as_deref();
                tracing::info!(version, pid, mode, policy, event, "started");
            }
            Self::DaemonStopping { signal, on_exit } => {
                tracing::info!(signal, on_exit, event, "stopping on {signal}");
            }
            _ if self.is_warning() => tracing::warn!(event, "{}", text::sentence(self)),
            _ => tracing::info!(event, "{}", text::sentence(self)),
        }
    }
}
