//! Which events a query is about: terms that all must match.
//!
//! | term | matches |
//! | --- | --- |
//! | `event:NAME` or `event:NAME,NAME` | events of that name, or one of those |
//! | `client:PREFIX` | events of clients in it, as in [`crate::filter`] |
//! | `rule:NAME` | events of clients under that rule |
//! | any other text | text within the name or the sentence of an event, in either case |

use super::{Event, text};
use crate::addr;
use crate::filter::{Filter, FilterError, Subject};
use ipnet::IpNet;
use std::net::IpAddr;

/// A checked filter. The empty one matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    terms: Vec<Term>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Term {
    Names(Vec<String>),
    /// Has one term, which is about the client.
    Client(Filter),
    Rule(String),
    /// In lower case.
    Text(String),
}

impl EventFilter {
    /// Reads the terms, which are divided by white space.
    ///
    /// # Errors
    /// At the first term that is none.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        let terms = text.split_whitespace().map(parse_term);
        Ok(Self {
            terms: terms.collect::<Result<_, _>>()?,
        })
    }

    /// Whether all terms match.
    #[must_use]
    pub fn matches(&self, event: &Event) -> bool {
        self.terms.iter().all(|term| match term {
            Term::Names(names) => names.iter().any(|name| name == event.name()),
            Term::Client(filter) => event
                .client()
                .and_then(prefix)
                .is_some_and(|client| matches_client(filter, client)),
            Term::Rule(name) => event.rule() == Some(name),
            Term::Text(text) => {
                event.name().contains(text)
                    || text::sentence(event).to_lowercase().contains(text.as_str())
            }
        })
    }
}

/// A client as it is printed, or the client's end of a flow.
fn prefix(text: &str) -> Option<IpNet> {
    text.parse()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .or_else(|_| {
            text.parse()
                .map(|end: std::net::SocketAddr| end.ip().into())
        })
        .ok()
}

fn matches_client(filter: &Filter, client: IpNet) -> bool {
    let (network, bits) = addr::prefix_to_kernel(client);
    filter.matches_client(&Subject {
        addr: &network,
        bits,
        rule: "",
        limited: false,
        blocked: false,
        exempt: false,
        active: true,
        place: None,
    })
}

fn parse_term(term: &str) -> Result<Term, FilterError> {
    let wrong = |reason: String| FilterError {
        term: term.to_owned(),
        reason,
    };
    if prefix(term).is_some() {
        return Ok(Term::Client(Filter::parse(term)?));
    }
    match term.split_once(':') {
        None => Ok(Term::Text(term.to_lowercase())),
        Some(("client", _)) => Ok(Term::Client(Filter::parse(term)?)),
        Some(("rule", "")) => Err(wrong("expected the name of a rule".to_owned())),
        Some(("rule", name)) => Ok(Term::Rule(name.to_owned())),
        Some(("event", names)) => {
            let names: Vec<_> = names.split(',').map(str::to_owned).collect();
            match names
                .iter()
                .find(|name| !Event::NAMES.contains(&name.as_str()))
            {
                None => Ok(Term::Names(names)),
                Some(name) => Err(wrong(format!(
                    "no event is called `{name}`; expected {}",
                    Event::NAMES.join(", ")
                ))),
            }
        }
        Some(_) => Err(wrong(
            "unknown here; expected event:NAME, client:PREFIX, rule:NAME, or text without a colon"
                .to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{By, Change};

    fn blocked(client: &str, rule: &str) -> Event {
        Event::Blocked {
            client: client.to_owned(),
            rule: rule.to_owned(),
        }
    }

    #[test]
    fn terms_match_what_they_say() {
        let event = blocked("192.0.2.7", "Abuser");
        let matches = |filter: &str| EventFilter::parse(filter).unwrap().matches(&event);
        for filter in [
            "",
            "event:blocked",
            "event:limited,blocked",
            "client:192.0.2.0/24",
            "192.0.2.7",
            "client:192.0.",
            "rule:Abuser",
            "abus",
            "block",
            "event:blocked rule:Abuser 192.0.2.0/28",
        ] {
            assert!(matches(filter), "{filter}");
        }
        for filter in [
            "event:limited",
            "client:192.0.3.0/24",
            "2001:db8::/32",
            "rule:abuser",
            "nobody",
            "event:blocked rule:other",
        ] {
            assert!(!matches(filter), "{filter}");
        }
    }

    #[test]
    fn a_flow_is_found_by_its_client_and_an_event_without_one_is_not() {
        let killed = Event::SessionKilled(Change {
            client: "[2001:db8::1]:4000".to_owned(),
            before: "open".to_owned(),
            after: "closed".to_owned(),
            by: By::default(),
            message: String::new(),
        });
        let filter = EventFilter::parse("2001:db8::/64").unwrap();
        assert!(filter.matches(&killed));
        assert!(filter.matches(&blocked("2001:db8::/56", "default")));
        assert!(!filter.matches(&Event::Unknown));
    }

    #[test]
    fn what_is_no_term_is_named_with_what_would_be() {
        let why = |filter: &str| EventFilter::parse(filter).unwrap_err().to_string();
        assert!(why("event:limit").contains("no event is called `limit`; expected daemon_started"));
        assert!(why("state:limited").contains("expected event:NAME"));
        assert!(why("client:x").contains("filter term `client:x`"));
        assert!(why("rule:").contains("the name of a rule"));
    }
}
