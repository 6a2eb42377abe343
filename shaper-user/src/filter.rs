//! The filter of `flows` and `clients`: terms that all must match.
//!
//! | term | matches |
//! | --- | --- |
//! | `client:PREFIX` | an address, a CIDR, or the beginning of an address as text |
//! | `rule:NAME` | the rule's name, exactly |
//! | `state:STATE` | `limited`, `blocked`, `exempt`, `idle`, `active` |
//! | `port:N` | either port of a flow; clients with such a flow |
//! | `protocol:tcp` or `protocol:udp` | flows of it; clients with such a flow |
//! | any other text | text within the client or the rule, in either case |

use crate::addr;
use ipnet::IpNet;
use shaper_common::key::{Addr, FlowKey, TCP, UDP};
use std::net::IpAddr;
use thiserror::Error;

/// What a term may be, for messages.
const TERMS: &str =
    "client:PREFIX, rule:NAME, state:STATE, port:N, protocol:tcp|udp, or text without a colon";

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
    /// In lower case.
    Text(String),
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

    /// Whether some term is about flows: a port or a protocol.
    #[must_use]
    pub fn asks_for_flows(&self) -> bool {
        self.terms
            .iter()
            .any(|term| matches!(term, Term::Port(_) | Term::Protocol(_)))
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
                    || addr::from_kernel(subject.addr).to_string().contains(text)
            }
            Term::Port(_) | Term::Protocol(_) => true,
        })
    }

    /// Whether every term about flows matches.
    #[must_use]
    pub fn matches_flow(&self, key: &FlowKey) -> bool {
        self.terms.iter().all(|term| match term {
            Term::Port(port) => key.local_port == *port || key.client_port == *port,
            Term::Protocol(protocol) => key.protocol == *protocol,
            _ => true,
        })
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
        // The beginning of an IPv6 address, such as `2001:db8:`.
        _ => parse_client(term).ok_or_else(|| wrong(format!("unknown; expected {TERMS}"))),
    }
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
mod tests {
    use super::*;

    fn matches(filter: &str, client: &str, rule: &str) -> bool {
        let net: IpNet = client
            .parse()
            .or_else(|_| client.parse::<IpAddr>().map(IpNet::from))
            .unwrap();
        let (addr, bits) = addr::prefix_to_kernel(net);
        Filter::parse(filter).unwrap().matches_client(&Subject {
            addr: &addr,
            bits,
            rule,
            limited: true,
            blocked: false,
            exempt: false,
            active: true,
        })
    }

    #[test]
    fn all_terms_must_match() {
        assert!(matches("", "192.0.2.7", "default"));
        assert!(matches("state:limited rule:gold", "192.0.2.7", "gold"));
        assert!(!matches("state:limited rule:gold", "192.0.2.7", "golden"));
        assert!(!matches("state:blocked rule:gold", "192.0.2.7", "gold"));
        assert!(!matches("state:idle", "192.0.2.7", "gold"));
        assert!(matches("state:active", "192.0.2.7", "gold"));
    }

    #[test]
    fn clients_are_found_by_address_prefix_and_text() {
        for yes in [
            "client:192.0.2.7",
            "client:192.0.2.0/24",
            "192.0.2.0/24",
            "client:192.0.",
            "92.0",
        ] {
            assert!(matches(yes, "192.0.2.7", "default"), "{yes}");
        }
        for no in [
            "client:192.0.2.70",
            "client:192.0.3.0/24",
            "client:92.0",
            "client:2001:db8::/32",
        ] {
            assert!(!matches(no, "192.0.2.7", "default"), "{no}");
        }
        for yes in [
            "client:2001:db8:1:2::9",
            "2001:db8::/32",
            "2001:DB8:1",
            "client:2001:db8:",
        ] {
            assert!(matches(yes, "2001:db8:1:2::/64", "default"), "{yes}");
        }
        assert!(!matches(
            "client:2001:db8:1:3::9",
            "2001:db8:1:2::/64",
            "default"
        ));
    }

    #[test]
    fn text_is_found_in_the_rule_in_either_case() {
        assert!(matches("PART", "192.0.2.7", "Partners"));
        assert!(!matches("partx", "192.0.2.7", "Partners"));
    }

    #[test]
    fn flow_terms_look_at_ports_and_protocol() {
        let key = FlowKey {
            client_port: 40_000,
            local_port: 443,
            protocol: UDP,
            ..FlowKey::default()
        };
        let matches = |text: &str| Filter::parse(text).unwrap().matches_flow(&key);
        assert!(matches("port:443 protocol:udp"));
        assert!(matches("port:40000"));
        assert!(!matches("port:443 protocol:tcp"));
        assert!(!matches("port:80"));
        assert!(Filter::parse("port:1").unwrap().asks_for_flows());
        assert!(!Filter::parse("rule:a").unwrap().asks_for_flows());
    }

    #[test]
    fn bad_terms_are_named_with_what_is_allowed() {
        let message = |text: &str| Filter::parse(text).unwrap_err().to_string();
        insta::assert_snapshot!(
            "bad_terms",
            [
                "ok state:limit",
                "port:0",
                "port:https",
                "protocol:quic",
                "client:",
                "client:192.0.2.0/33",
                "client:example.org",
                "rule:",
                "server:web1",
            ]
            .map(message)
            .join(
                "
"
            )
        );
    }
}
