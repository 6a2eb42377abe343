//! `[metrics]`: where they are read, and of how many clients.

use super::super::Metrics;
use super::super::mistake::Mistakes;
use super::super::section::{Int, Section};
use std::net::SocketAddr;

const LISTEN: &str = "an address and a port, such as \"127.0.0.1:9750\"";
/// More clients would be more series than a Prometheus likes of one target.
const CLIENTS_MAX: u32 = 1000;

pub(super) fn metrics(root: &mut Section<'_, '_>, mistakes: &mut Mistakes) -> Option<Metrics> {
    let mut section = root.table("metrics", "[metrics]", "the table [metrics]", mistakes)?;
    let mut metrics = Metrics::default();
    if let Some((text, span)) = section.get::<String>("listen", mistakes) {
        match text.parse::<SocketAddr>() {
            Ok(address) if address.port() != 0 => metrics.listen = address,
            _ => {
                let message = format!(
                    "`listen` = \"{}\" is no address with a port; allowed: {LISTEN}",
                    text.escape_debug()
                );
                mistakes.push(span, message);
            }
        }
    }
    if let Some((Int(clients), _)) = section.get::<Int<0, CLIENTS_MAX>>("top_clients", mistakes) {
        metrics.top_clients = clients;
    }
    section.finish(mistakes);
    Some(metrics)
}
