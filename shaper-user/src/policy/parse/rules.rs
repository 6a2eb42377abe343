//! The `[[rule]]` tables, and what must hold between them.

use super::quota::{self, Named, QUOTA};
use super::{LIMIT_KEYS, limit, limits, place};
use crate::policy::client::{self, Prefixes};
use crate::policy::mistake::{Lines, Mistakes};
use crate::policy::section::{At, Section};
use crate::policy::{GroupLimits, Limits, PlaceRule, Rule};
use ipnet::IpNet;
use shaper_common::class::MAX_CLASSES;
use shaper_common::group::MAX_GROUPS;
use shaper_common::names::MAX_RULES;
use std::collections::{HashMap, HashSet};
use std::ops::Range;

/// Class 0 is `[default]`.
const RULES_MAX: usize = MAX_CLASSES as usize - 1;
/// Two generations share the trie; one entry may be needed to keep IPv4 out of
/// a rule for all of IPv6.
const PREFIXES_MAX: usize = MAX_RULES as usize / 2 - 1;
const NAME_MAX: usize = 64;
/// What only a rule can set.
const GROUP_KEYS: [&str; 2] = ["group_upload", "group_download"];
pub(super) const CLIENTS: &str =
    "addresses and prefixes, such as [\"192.0.2.10\", \"2001:db8::/48\"]";

/// What earlier rules have taken, with the lines where they did.
#[derive(Default)]
pub(super) struct Taken {
    names: HashMap<String, usize>,
    clients: HashMap<IpNet, (String, usize)>,
    /// The rules that quotas name.
    thens: HashSet<String>,
}

pub(super) fn rules(
    root: &mut Section<'_, '_>,
    prefixes: Prefixes,
    lines: &Lines<'_>,
    named: &mut Vec<Named>,
    mistakes: &mut Mistakes,
) -> (Vec<Rule>, Vec<PlaceRule>) {
    let mut taken = Taken {
        thens: quota::thens(root),
        ..Taken::default()
    };
    let mut total = 0;
    let mut groups = 0;
    let mut rules = Vec::new();
    let mut places = Vec::new();
    for section in root.tables("rule", "[[rule]]", mistakes) {
        let span = section.span();
        if place::is_place(&section) {
            let rule = place::place(section, prefixes, &mut taken, lines, mistakes);
            place::bound(&places, &rule, span, mistakes);
            places.push(rule);
            continue;
        }
        let section_span = span.clone();
        let rule = rule(section, prefixes, &mut taken, lines, named, mistakes);
        let before = total;
        total += rule.clients.len();
        if rules.len() == RULES_MAX {
            mistakes.push(
                span.clone(),
                format!("more rules than the kernel's table holds; allowed: at most {RULES_MAX}"),
            );
        }
        if before <= PREFIXES_MAX && total > PREFIXES_MAX {
            mistakes.push(
                span,
                format!(
                    "more clients in all rules than the kernel's table holds; allowed: at most \
                     {PREFIXES_MAX}"
                ),
            );
        }
        if rule.group.is_set() {
            groups += 1;
            if groups == MAX_GROUPS + 1 {
                mistakes.push(
                    section_span,
                    format!(
                        "more rules with `group_upload` or `group_download` than the kernel's \
                         table holds; allowed: at most {MAX_GROUPS}"
                    ),
                );
            }
        }
        rules.push(rule);
    }
    (rules, places)
}

fn rule(
    mut section: Section<'_, '_>,
    prefixes: Prefixes,
    taken: &mut Taken,
    lines: &Lines<'_>,
    named: &mut Vec<Named>,
    mistakes: &mut Mistakes,
) -> Rule {
    let name = name(&mut section, taken, lines, mistakes);
    let clients = clients(&mut section, &name, prefixes, taken, lines, mistakes);
    section.knows(&["backends", "servers"]);
    let mut limits = limits(&mut section, mistakes);
    limits.quota = quota::quota(&mut section, Some(&name), named, mistakes);
    let [upload, download] = GROUP_KEYS;
    let group = GroupLimits {
        upload: limit(&mut section, upload, mistakes),
        download: limit(&mut section, download, mistakes),
    };
    let exempt = section.get("exempt", mistakes);
    let block = section.get("block", mistakes);
    contradictions(&section, exempt.as_ref(), block.as_ref(), mistakes);
    section.finish(mistakes);
    let exempt = exempt.is_some_and(|(exempt, _)| exempt);
    let block = block.is_some_and(|(block, _)| block);
    Rule {
        name,
        clients,
        limits: if exempt || block {
            Limits::default()
        } else {
            limits
        },
        group: if exempt || block {
            GroupLimits::default()
        } else {
            group
        },
        exempt,
        block,
    }
}

pub(super) fn name(
    section: &mut Section<'_, '_>,
    taken: &mut Taken,
    lines: &Lines<'_>,
    mistakes: &mut Mistakes,
) -> String {
    let Some((name, span)) = section.get::<String>("name", mistakes) else {
        if section.key("name").is_none() {
            mistakes.push(
                section.span(),
                "[[rule]] has no `name`; allowed: a name of its own, such as name = \"partners\"",
            );
        }
        return String::new();
    };
    let odd = |c: char| c.is_whitespace() || c.is_control();
    if name.is_empty() || name.chars().count() > NAME_MAX || name.contains(odd) {
        mistakes.push(
            span,
            format!(
                "`{}` is not a name for a rule; allowed: 1 to {NAME_MAX} characters without spaces",
                name.escape_debug()
            ),
        );
    } else if name == "default" {
        mistakes.push(
            span,
            "`default` is the name of what no rule matches; allowed: any other name",
        );
    } else {
        let line = lines.line(span.start);
        match taken.names.get(&name) {
            Some(first) => mistakes.push(
                span,
                format!("rule `{name}` is already in line {first}; allowed: a name of its own"),
            ),
            None => {
                taken.names.insert(name.clone(), line);
            }
        }
    }
    name
}

fn clients(
    section: &mut Section<'_, '_>,
    name: &str,
    prefixes: Prefixes,
    taken: &mut Taken,
    lines: &Lines<'_>,
    mistakes: &mut Mistakes,
) -> Vec<IpNet> {
    let Some((texts, span)) = section.list::<String>("clients", CLIENTS, mistakes) else {
        if section.key("clients").is_none() && !taken.thens.contains(name) {
            mistakes.push(
                section.span(),
                format!(
                    "[[rule]] names none of `clients`, `backends` and `servers`; allowed: {CLIENTS}, \
                     or places such as backends = [\"be_ws\"]"
                ),
            );
        }
        return Vec::new();
    };
    if section.is_empty_array("clients") {
        mistakes.push(span, format!("`clients` is empty; allowed: {CLIENTS}"));
    }
    let mut clients = Vec::with_capacity(texts.len());
    for (text, span) in texts {
        match client::parse(&text, prefixes) {
            Err(error) => mistakes.push(span, error.to_string()),
            Ok(net) => {
                let line = lines.line(span.start);
                if let Some((rule, first)) = taken.clients.get(&net) {
                    let message = twice(net, &text, rule, name, *first);
                    mistakes.push(span, message);
                } else {
                    taken.clients.insert(net, (name.to_owned(), line));
                    clients.push(net);
                }
            }
        }
    }
    clients
}

fn twice(net: IpNet, text: &str, rule: &str, name: &str, line: usize) -> String {
    let shown = client::display(net);
    let cut = if shown == text {
        format!("`{text}`")
    } else {
        format!("`{text}` is the client {shown}, which")
    };
    let whose = if rule == name {
        "this rule".to_owned()
    } else {
        format!("rule `{rule}`")
    };
    format!("{cut} is already in {whose} (line {line}); allowed: each prefix once")
}

/// What `exempt` and `block` rule out.
fn contradictions(
    section: &Section<'_, '_>,
    exempt: Option<&At<bool>>,
    block: Option<&At<bool>>,
    mistakes: &mut Mistakes,
) {
    let set = |value: Option<&At<bool>>| -> Option<Range<usize>> {
        value
            .filter(|(value, _)| *value)
            .map(|(_, span)| span.clone())
    };
    let what = match (set(exempt), set(block)) {
        (Some(exempt), Some(block)) => {
            let later = if exempt.start > block.start {
                exempt
            } else {
                block
            };
            mistakes.push(
                later,
                "a rule with both `exempt` and `block`; allowed: one of them",
            );
            return;
        }
        (Some(_), None) => ("exempt", "never limited"),
        (None, Some(_)) => ("block", "dropped"),
        (None, None) => return,
    };
    let keys = LIMIT_KEYS.into_iter().chain(GROUP_KEYS).chain([QUOTA]);
    for key in keys {
        if let Some(span) = section.key(key) {
            mistakes.push(
                span,
                format!(
                    "`{key}` in a rule with `{}`: its clients are {}; allowed: one of the two",
                    what.0, what.1
                ),
            );
        }
    }
}
