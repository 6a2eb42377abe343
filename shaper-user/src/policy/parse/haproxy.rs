//! `[haproxy]`: where its sockets are, and what may be done there.

use super::super::mistake::Mistakes;
use super::super::section::Section;
use super::super::units::Period;
use super::super::{Action, Haproxy};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

const POLL_MIN: Duration = Duration::from_secs(1);
const POLL_MAX: Duration = Duration::from_secs(3600);
/// `sun_path` without its closing zero byte.
const SOCKET_PATH_MAX: usize = 107;

const SOCKETS: &str = "absolute paths, such as [\"/run/haproxy/admin.sock\"]";
const LISTEN: &str = "an address and a port, such as \"127.0.0.1:9777\"";
const ACTIONS: &str = "\"kill\", \"drain\" or both";

pub(super) fn haproxy(root: &mut Section<'_, '_>, mistakes: &mut Mistakes) -> Haproxy {
    let mut haproxy = Haproxy::default();
    let Some(mut section) = root.table("haproxy", "[haproxy]", "the table [haproxy]", mistakes)
    else {
        return haproxy;
    };
    if let Some((sockets, _)) = section.list::<String>("sockets", SOCKETS, mistakes) {
        let mut paths = Vec::new();
        for (path, span) in sockets {
            if path.starts_with('/') && path.len() <= SOCKET_PATH_MAX && !path.contains('\0') {
                paths.push(PathBuf::from(path));
            } else {
                mistakes.push(
                    span,
                    format!(
                        "`{}` is not the path of a socket; allowed: an absolute path of at most \
                         {SOCKET_PATH_MAX} bytes",
                        path.escape_debug()
                    ),
                );
            }
        }
        haproxy.sockets = Some(paths);
    }
    if let Some((poll, span)) = section.get::<Period>("poll", mistakes) {
        if !(POLL_MIN..=POLL_MAX).contains(&poll.0) {
            let message = format!("`poll` = {poll} is out of range; allowed: 1s to 1h");
            mistakes.push(span, message);
        }
        haproxy.poll = poll.0;
    }
    if let Some((actions, _)) = section.list::<Action>("actions", ACTIONS, mistakes) {
        haproxy.actions = actions.into_iter().map(|(action, _)| action).collect();
    }
    haproxy.agent = agent(&mut section, mistakes);
    section.finish(mistakes);
    haproxy
}

fn agent(haproxy: &mut Section<'_, '_>, mistakes: &mut Mistakes) -> Option<SocketAddr> {
    let title = "[haproxy.agent]";
    let mut section = haproxy.table("agent", title, "the table [haproxy.agent]", mistakes)?;
    let listen = section.get::<String>("listen", mistakes);
    if listen.is_none() && section.key("listen").is_none() {
        mistakes.push(
            section.span(),
            format!("{title} has no `listen`; allowed: {LISTEN}"),
        );
    }
    section.finish(mistakes);
    let (text, span) = listen?;
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Some(address),
        _ => {
            let message = format!(
                "`listen` = \"{}\" is no address with a port; allowed: {LISTEN}",
                text.escape_debug()
            );
            mistakes.push(span, message);
            None
        }
    }
}
