//! What comes and goes: interfaces, and sockets of HAProxy. Told when it changes.

use crate::events::{Event, cut};
use crate::model;
use std::collections::HashMap;

/// How it was when last looked at.
#[derive(Debug, Default)]
pub(super) struct Presence {
    /// Whether each interface is attached.
    interfaces: HashMap<String, bool>,
    /// Whether each socket answers. Those are not here that were not asked yet.
    sockets: HashMap<String, bool>,
}

impl Presence {
    /// Takes the interfaces as they are, without a word.
    pub fn settle(&mut self, interfaces: &[model::Interface]) {
        self.interfaces = interfaces
            .iter()
            .map(|interface| (interface.name.clone(), attached(interface)))
            .collect();
    }

    /// What is different. An interface that is not in the list any more has gone.
    pub fn interfaces(&mut self, interfaces: &[model::Interface]) -> Vec<Event> {
        let same = interfaces.len() == self.interfaces.len()
            && interfaces
                .iter()
                .all(|i| self.interfaces.get(&i.name) == Some(&attached(i)));
        if same {
            return Vec::new();
        }
        let before = std::mem::take(&mut self.interfaces);
        self.settle(interfaces);
        let mut events = Vec::new();
        for interface in interfaces {
            let was = before.get(&interface.name).copied();
            match (was, attached(interface)) {
                (None | Some(false), true) => events.push(Event::InterfaceBack {
                    interface: interface.name.clone(),
                    ingress: interface.ingress.clone(),
                    egress: interface.egress.clone(),
                    xdp: interface.xdp.clone(),
                }),
                (Some(true), false) => events.push(gone(&interface.name)),
                _ => {}
            }
        }
        let mut left: Vec<_> = before
            .iter()
            .filter(|(name, was)| **was && !self.interfaces.contains_key(*name))
            .map(|(name, _)| name)
            .collect();
        left.sort();
        events.extend(left.into_iter().map(|name| gone(name)));
        events
    }

    /// Which sockets have begun to answer, or ceased to.
    pub fn haproxy(&mut self, sockets: &[model::HaproxySocket]) -> Vec<Event> {
        let mut events = Vec::new();
        self.sockets
            .retain(|path, _| sockets.iter().any(|socket| socket.path == *path));
        for socket in sockets {
            let Some(answers) = answers(socket) else {
                continue;
            };
            match (self.sockets.insert(socket.path.clone(), answers), answers) {
                (Some(false), true) => events.push(Event::HaproxyBack {
                    socket: socket.path.clone(),
                    version: socket.version.as_deref().map(cut),
                }),
                (None | Some(true), false) => events.push(Event::HaproxyLost {
                    socket: socket.path.clone(),
                    error: cut(socket.error.as_deref().unwrap_or_default()),
                }),
                _ => {}
            }
        }
        events
    }
}

fn attached(interface: &model::Interface) -> bool {
    interface.state == "attached"
}

/// `None` before the first answer, as long as nothing is wrong.
const fn answers(socket: &model::HaproxySocket) -> Option<bool> {
    match (&socket.error, socket.age_ms) {
        (Some(_), _) => Some(false),
        (None, Some(_)) => Some(true),
        (None, None) => None,
    }
}

fn gone(name: &str) -> Event {
    Event::InterfaceGone {
        interface: name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::text::sentence;

    fn interface(name: &str, state: &str) -> model::Interface {
        model::Interface {
            name: name.to_owned(),
            state: state.to_owned(),
            ingress: (state == "attached").then(|| "tcx".to_owned()),
            egress: None,
            xdp: None,
        }
    }

    fn sentences(events: &[Event]) -> Vec<String> {
        events.iter().map(sentence).collect()
    }

    #[test]
    fn interfaces_that_go_and_come_are_told_once() {
        let mut presence = Presence::default();
        let [eth0, eth1] = ["eth0", "eth1"].map(|name| interface(name, "attached"));
        presence.settle(&[eth0.clone(), eth1.clone()]);
        assert_eq!(presence.interfaces(&[eth1.clone(), eth0.clone()]), []);
        let now = [interface("eth0", "gone")];
        assert_eq!(
            sentences(&presence.interfaces(&now)),
            ["interface eth0 is gone", "interface eth1 is gone"]
        );
        assert_eq!(presence.interfaces(&now), []);
        assert_eq!(
            sentences(&presence.interfaces(std::slice::from_ref(&eth0))),
            ["interface eth0 is attached: ingress tcx"]
        );
        // Those that were never attached to.
        let never = [eth0, interface("eth9", "gone")];
        assert_eq!(presence.interfaces(&never), []);
        // A new policy.
        presence.settle(std::slice::from_ref(&eth1));
        assert_eq!(presence.interfaces(&[eth1]), []);
    }

    #[test]
    fn sockets_of_haproxy_that_cease_and_begin_to_answer_are_told_once() {
        let mut presence = Presence::default();
        let mut socket = model::HaproxySocket {
            path: "/run/haproxy/admin.sock".to_owned(),
            ..model::HaproxySocket::default()
        };
        assert_eq!(presence.haproxy(&[socket.clone()]), []);
        socket.age_ms = Some(1);
        socket.version = Some("3.0".to_owned());
        assert_eq!(presence.haproxy(&[socket.clone()]), []);
        socket.error = Some("connection refused".to_owned());
        assert_eq!(
            sentences(&presence.haproxy(&[socket.clone()])),
            ["HAProxy does not answer on /run/haproxy/admin.sock: connection refused"]
        );
        socket.error = Some("no answer".to_owned());
        assert_eq!(presence.haproxy(&[socket.clone()]), []);
        socket.error = None;
        assert_eq!(
            sentences(&presence.haproxy(&[socket.clone()])),
            ["HAProxy 3.0 answers on /run/haproxy/admin.sock"]
        );
        assert_eq!(presence.haproxy(&[]), []);
        // Wrong from the beginning.
        socket.error = Some("no such file".to_owned());
        assert_eq!(presence.haproxy(&[socket]).len(), 1);
    }
}
