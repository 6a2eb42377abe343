//! The filter of `flows`, `clients` and `servers`: terms that all must match.
//!
//! | term | matches |
//! | --- | --- |
//! | `client:PREFIX` | an address, a CIDR, or the beginning of an address as text |
//! | `rule:NAME` | the rule's name, exactly |
//! | `state:STATE` | `limited`, `blocked`, `exempt`, `idle`, `active` |
//! | `port:N` | either port of a flow; clients with such a flow |
//! | `protocol:tcp` or `protocol:udp` | flows of it; clients with such a flow |
//! | `backend:NAME` | flows that HAProxy has pinned there; clients with such a flow; its servers |
//! | `server:NAME` or `server:BACKEND/NAME` | flows pinned to it; clients with such a flow; the server |
//! | any other text | text within the client, the rule, or the backend or server of a flow, in either case |
//!
//! A server matches by its names alone, or by a flow on it that all terms match.

use crate::addr;
use ipnet::IpNet;
use shaper_common::key::{Addr, FlowKey, TCP, UDP};
use std::net::IpAddr;
use thiserror::Error;

/// What a term may be, for messages.
const TERMS: &str = "client:PREFIX, rule:NAME, state:STATE, port:N, protocol:tcp|udp, \
                     backend:NAME, server:NAME, or text without a colon";

/// Why a filter is none.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("filter term `{term}`: {reason}")]
pub struct FilterError {
    /// The term as written.
    pub term: String,
    /// What is wrong, and what is allowed.
    pub reason: String,
}

/// What a client or flow is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Limited,
    Blocked,
    Exempt,
    Idle,
    Active,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Term {
    /// Network and bits of an [`Addr`].
    Client(Addr, u32),
    /// The beginning of an address as printed.
    ClientText(String),
    Rule(String),
    State(State),
    Port(u16),
    Protocol(u8),
    Backend(String),
    /// Of this backend only, where one is named.
    Server(Option<String>, String),
    /// In lower case.
    Text(String),
}

/// The server that HAProxy has pinned a flow to.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// HAProxy's backend.
    pub backend: &'a str,
    /// HAProxy's server.
    pub server: &'a str,
}

impl Place<'_> {
    fn contains(self, text: &str) -> bool {
        contains_ignoring_case(self.backend, text) || contains_ignoring_case(self.server, text)
    }
}

/// What the terms about a client look at.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The client's network, or the whole address of a flow's client.
    pub addr: &'a Addr,
    /// How many bits of it name the client.
    pub bits: u32,
    /// The rule it falls under.
    pub rule: &'a str,
    /// Held by a limit now.
    pub limited: bool,
    /// Everything it sends is dropped.
    pub blocked: bool,
    /// Never limited.
    pub exempt: bool,
    /// A packet came or went lately.
    pub active: bool,
    /// Where a flow is pinned; `None` for a client, and where that is not known.
    pub place: Option<Place<'a>>,
}

/// A checked filter. The empty one matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    terms: Vec<Term>,
}

impl Filter {
    /// Reads the terms, which are divided by white space.
    ///
    /// # Errors
    /// At the first term that is none.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        let terms = text
            .split_whitespace()
            .map(parse_term)
            .collect::<Result<_, _>>()?;
        Ok(Self { terms })
    }

    /// Whether some term is about flows: a port, a protocol, a backend or a server.
    #[must_use]
    pub fn asks_for_flows(&self) -> bool {
        self.terms.iter().any(|term| {
            matches!(
                term,
                Term::Port(_) | Term::Protocol(_) | Term::Backend(_) | Term::Server(..)
            )
        })
    }

    /// Whether every term about the client matches.
    #[must_use]
    pub fn matches_client(&self, subject: &Subject<'_>) -> bool {
        self.terms.iter().all(|term| match term {
            // Either may be the shorter prefix: an address finds the aggregated
            // client that it belongs to.
            Term::Client(network, bits) => {
                addr::contains(network, *bits, subject.addr)
                    || addr::contains(subject.addr, subject.bits, network)
            }
            Term::ClientText(start) => addr::from_kernel(subject.addr)
                .to_string()
                .starts_with(start.as_str()),
            Term::Rule(name) => subject.rule == name,
            Term::State(state) => match state {
                State::Limited => subject.limited,
                State::Blocked => subject.blocked,
                State::Exempt => subject.exempt,
                State::Idle => !subject.active,
                State::Active => subject.active,
            },
            Term::Text(text) => {
                contains_ignoring_case(subject.rule, text)
                    || subject.place.is_some_and(|place| place.contains(text))
                    || addr::from_kernel(subject.addr).to_string().contains(text)
            }
            Term::Port(_) | Term::Protocol(_) | Term::Backend(_) | Term::Server(..) => true,
        })
    }

    /// Whether every term about flows matches.
    #[must_use]
    pub fn matches_flow(&self, key: &FlowKey, place: Option<Place<'_>>) -> bool {
        self.terms.iter().all(|term| match term {
            Term::Port(port) => key.local_port == *port || key.client_port == *port,
            Term::Protocol(protocol) => key.protocol == *protocol,
            Term::Backend(_) | Term::Server(..) => place.is_some_and(|place| term.names(place)),
            _ => true,
        })
    }

    /// Whether every term matches the names of a server, without a look at its
    /// flows.
    #[must_use]
    pub fn matches_server(&self, place: Place<'_>) -> bool {
        self.terms.iter().all(|term| match term {
            Term::Text(text) => place.contains(text),
            term => term.names(place),
        })
    }
}

impl Term {
    /// Whether the term is about servers, and this is one that it names.
    fn names(&self, place: Place<'_>) -> bool {
        match self {
            Self::Backend(name) => place.backend == name,
            Self::Server(backend, name) => {
                place.server == name && backend.as_ref().is_none_or(|name| place.backend == name)
            }
            _ => false,
        }
    }
}

/// `needle` is in lower case already.
fn contains_ignoring_case(text: &str, needle: &str) -> bool {
    text.to_lowercase().contains(needle)
}

fn parse_term(term: &str) -> Result<Term, FilterError> {
    let wrong = |reason: String| FilterError {
        term: term.to_owned(),
        reason,
    };
    // An IPv6 address has colons itself.
    if let Some(prefix) = parse_prefix(term) {
        return Ok(prefix);
    }
    let Some((key, value)) = term.split_once(':') else {
        return Ok(Term::Text(term.to_lowercase()));
    };
    match key {
        "client" => parse_client(value).ok_or_else(|| {
            wrong(
                "expected an address (192.0.2.7), a prefix (192.0.2.0/24, 2001:db8::/48) or the \
                 beginning of an address (192.0.)"
                    .to_owned(),
            )
        }),
        "rule" if value.is_empty() => Err(wrong("expected the name of a rule".to_owned())),
        "rule" => Ok(Term::Rule(value.to_owned())),
        "state" => match value {
            "limited" => Ok(Term::State(State::Limited)),
            "blocked" => Ok(Term::State(State::Blocked)),
            "exempt" => Ok(Term::State(State::Exempt)),
            "idle" => Ok(Term::State(State::Idle)),
            "active" => Ok(Term::State(State::Active)),
            _ => Err(wrong(
                "expected limited, blocked, exempt, idle or active".to_owned(),
            )),
        },
        "port" => match value.parse() {
            Ok(port) if port > 0 => Ok(Term::Port(port)),
            _ => Err(wrong("expected a port from 1 to 65535".to_owned())),
        },
        "protocol" => match value {
            "tcp" => Ok(Term::Protocol(TCP)),
            "udp" => Ok(Term::Protocol(UDP)),
            _ => Err(wrong("expected tcp or udp".to_owned())),
        },
        "backend" if value.is_empty() => Err(wrong("expected the name of a backend".to_owned())),
        "backend" => Ok(Term::Backend(value.to_owned())),
        "server" => parse_server(value).ok_or_else(|| {
            wrong("expected the name of a server, or of its backend too: backend/server".to_owned())
        }),
        // The beginning of an IPv6 address, such as `2001:db8:`.
        _ => parse_client(term).ok_or_else(|| wrong(format!("unknown; expected {TERMS}"))),
    }
}

/// `server` or `backend/server`; names have no slash.
fn parse_server(value: &str) -> Option<Term> {
    let (backend, server) = match value.split_once('/') {
        Some((backend, server)) => (Some(backend), server),
        None => (None, value),
    };
    let is_name = |name: &str| !name.is_empty() && !name.contains('/');
    (is_name(server) && backend.is_none_or(is_name))
        .then(|| Term::Server(backend.map(str::to_owned), server.to_owned()))
}

/// A whole address or a CIDR.
fn parse_prefix(text: &str) -> Option<Term> {
    let net: IpNet = text
        .parse()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .ok()?;
    let (network, bits) = addr::prefix_to_kernel(net);
    Some(Term::Client(network, bits))
}

fn parse_client(value: &str) -> Option<Term> {
    parse_prefix(value).or_else(|| {
        let text = value.to_lowercase();
        let like_an_address = !text.is_empty()
            && text.contains(|c: char| c.is_ascii_hexdigit())
            && text
                .chars()
                .all(|c| c.is_ascii_hexdigit() || c == '.' || c == ':');
        like_an_address.then_some(Term::ClientText(text))
    })
}

#[cfg(test)]
mod tests;
