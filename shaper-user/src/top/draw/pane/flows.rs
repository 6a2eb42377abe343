//! The flows of the client in the pane.

use super::whole;
use crate::model::Flow;
use crate::top::draw::cells::{fit, place};
use crate::top::draw::put;
use crate::top::draw::theme::Theme;
use crate::top::state::Pane;
use crate::top::units;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

/// Cells for frontend, server, session and worker below which they are left out.
const SERVER_LEAST: usize = 34;

/// As many as there is room for, the heaviest first.
pub fn flows(buf: &mut Buffer, area: Rect, pane: &Pane, theme: Theme) {
    if area.height < 2 {
        return;
    }
    let room = usize::from(area.height - 1);
    // The last line says what is not shown.
    let hidden = pane.matched > room as u64;
    let rows = if hidden { room - 1 } else { room };
    let mut lines = area.rows();
    let mut heading = format!(
        "{:>9} {:<24} {:>11} {:>11} {:>7} {:>6} {:>6}",
        "FLOW", "", "UP", "DOWN", "DROPPED", "AGE", "IDLE"
    );
    // Beside the numbers, where that is room enough.
    let beside = usize::from(area.width).saturating_sub(heading.len() + 1);
    let beside = if beside < SERVER_LEAST || pane.flows.iter().all(|flow| flow.haproxy.is_none()) {
        0
    } else {
        heading.push_str(" FRONTEND → SERVER, SESSION, WORKER");
        beside
    };
    if let Some(line) = lines.next() {
        put(buf, line, Line::styled(heading, theme.dim()));
    }
    for flow in pane.flows.iter().take(rows) {
        if let Some(line) = lines.next() {
            put(buf, line, flow_line(flow, beside, theme));
        }
    }
    if let Some(line) = lines.next()
        && hidden
    {
        let more = units::count(
            pane.matched
                .saturating_sub(rows.min(pane.flows.len()) as u64),
        );
        let text = format!(
            "{:>9} {more} more flows: tab 2, / client:{}",
            "", pane.key.name
        );
        put(buf, line, Line::styled(text, theme.dim()));
    }
}

/// `beside` is the room for the server.
fn flow_line(flow: &Flow, beside: usize, theme: Theme) -> Line<'static> {
    let rate = |bps: u64| match bps {
        0 => "-".to_owned(),
        _ => units::rate(bps),
    };
    let dropped = flow
        .upload
        .dropped_bytes
        .saturating_add(flow.download.dropped_bytes);
    let dropped = match dropped {
        0 => "-".to_owned(),
        n => units::bytes(n),
    };
    let local = std::net::SocketAddr::new(flow.local, flow.local_port);
    let mark = if flow.is_only_dropped() { "!" } else { "" };
    let to = fit(&format!("→ {local}/{}{mark}", flow.protocol), 24);
    let mut spans = vec![
        Span::raw(format!("{:>9} {to:<24} ", format!(":{}", flow.client_port))),
        Span::styled(
            format!("{:>11} ", rate(flow.upload.rate_bps)),
            theme.upload(),
        ),
        Span::styled(
            format!("{:>11} ", rate(flow.download.rate_bps)),
            theme.download(),
        ),
        Span::styled(format!("{dropped:>7} "), theme.warn()),
        Span::raw(format!(
            "{:>6} {:>6}",
            units::duration(flow.age_ms),
            units::duration(flow.idle_ms)
        )),
    ];
    if let Some(at) = flow.haproxy.as_ref().filter(|_| beside > 0) {
        let place = format!("{} → {}", at.frontend, place(at));
        let server = vec![
            Span::raw(fit(&place, beside)),
            Span::raw(format!(" {}", at.session)),
            Span::raw(format!(" {}", at.worker_pid)),
        ];
        spans.push(Span::raw(" "));
        spans.extend(whole(server, beside).spans);
    }
    Line::from(spans)
}
