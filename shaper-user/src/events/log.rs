//! An event as a line of the log: the sentence, and its fields as in the JSON.

use super::{Event, text};

impl Event {
    /// Writes the line. Those of changes are written by the audit log.
    pub(super) fn log(&self) {
        let event = self.name();
        let said = text::sentence(self);
        macro_rules! line {
            ($level:ident, $($field:tt)*) => {
                tracing::$level!($($field)*, event, "{said}")
            };
        }
        match self {
            Self::Limited {
                client,
                rule,
                direction,
                limit_bps,
                observed,
            } => {
                let direction = direction.to_string();
                line!(info, client, rule, direction, limit_bps, observed);
            }
            Self::Released {
                client,
                rule,
                direction,
                limited_ms,
                observed,
            } => {
                let direction = direction.to_string();
                line!(info, client, rule, direction, limited_ms, observed);
            }
            Self::Blocked { client, rule }
            | Self::ConnectionRate { client, rule }
            | Self::MaxConnections { client, rule } => line!(info, client, rule),
            Self::TableFull {
                client,
                rule,
                tables,
            } => {
                let tables = tables.join(",");
                line!(warn, client, rule, tables);
            }
            Self::LeftOut(left) => line!(
                warn,
                limited = left.limited,
                released = left.released,
                blocked = left.blocked,
                connection_rate = left.connection_rate,
                max_connections = left.max_connections,
                table_full = left.table_full,
                kernel = left.kernel,
                over_ms = left.over_ms
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
                line!(
                    warn,
                    client,
                    rule,
                    percent,
                    used_bytes,
                    quota_bytes,
                    resets,
                    then
                );
            }
            Self::InterfaceGone { interface } => line!(warn, interface),
            Self::InterfaceBack {
                interface,
                ingress,
                egress,
                xdp,
            } => {
                let (ingress, egress) = (ingress.as_deref(), egress.as_deref());
                let xdp = xdp.as_deref();
                line!(info, interface, ingress, egress, xdp);
            }
            Self::HaproxyLost { socket, error } => line!(warn, socket, error),
            Self::HaproxyBack { socket, version } => {
                let version = version.as_deref();
                line!(info, socket, version);
            }
            Self::DaemonStarted {
                version,
                pid,
                mode,
                policy,
            } => {
                let policy = policy.as_deref();
                line!(info, version, pid, mode, policy);
            }
            Self::DaemonStopping { signal, on_exit } => line!(info, signal, on_exit),
            _ if self.is_warning() => tracing::warn!(event, "{said}"),
            _ => tracing::info!(event, "{said}"),
        }
    }
}
