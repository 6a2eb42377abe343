//! `quota` in `[default]` and rules, and the rules that it names.

use crate::policy::mistake::Mistakes;
use crate::policy::quota::{BLOCK, Counts, Per, Quota, Then};
use crate::policy::section::Section;
use crate::policy::units::Size;
use crate::policy::{PlaceRule, Rule};
use jiff::tz::TimeZone;
use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

/// The key.
pub(super) const QUOTA: &str = "quota";
const ALLOWED: &str =
    "a table, such as { bytes = \"50GB\", per = \"day\", counts = \"both\", then = \"block\" }";

/// A rule that a quota names, and where.
pub(super) struct Named {
    rule: String,
    span: Range<usize>,
    /// Whose quota it is; `None`: that of `[default]`.
    of: Option<String>,
}

/// Reads the quota of a section.
pub(super) fn quota(
    section: &mut Section<'_, '_>,
    of: Option<&str>,
    named: &mut Vec<Named>,
    mistakes: &mut Mistakes,
) -> Option<Arc<Quota>> {
    let mut table = section.table(QUOTA, "`quota`", ALLOWED, mistakes)?;
    let bytes = table.get::<Size>("bytes", mistakes);
    let per = table.get::<Per>("per", mistakes);
    let counts = table.get::<Counts>("counts", mistakes);
    let then = table.get::<String>("then", mistakes);
    for key in ["bytes", "per", "then"] {
        if table.key(key).is_none() {
            let message = format!("`quota` has no `{key}`; allowed: {ALLOWED}");
            mistakes.push(table.span(), message);
        }
    }
    table.finish(mistakes);
    if let Some((Size(0), span)) = &bytes {
        mistakes.push(
            span.clone(),
            "a quota of no bytes; allowed: a size from 1B on, or block = true in the place of a \
             quota",
        );
    }
    let then = then.map(|(rule, span)| {
        if rule == BLOCK {
            return Then::Block;
        }
        named.push(Named {
            rule: rule.clone(),
            span,
            of: of.map(str::to_owned),
        });
        Then::Rule(rule)
    });
    Some(Arc::new(Quota {
        bytes: bytes?.0.0,
        per: per?.0,
        counts: counts.map(|(counts, _)| counts).unwrap_or_default(),
        then: then?,
    }))
}

/// The rules that quotas name, right or wrong: they need no clients of their own.
pub(super) fn thens(root: &Section<'_, '_>) -> HashSet<String> {
    let mut tables = vec![root.peek("default")];
    if let Some(rules) = root.peek("rule").and_then(|rules| rules.as_array()) {
        tables.extend(rules.iter().map(|rule| Some(rule.get_ref())));
    }
    tables
        .into_iter()
        .flatten()
        .filter_map(|table| {
            let quota = table.as_table()?.get(QUOTA)?.get_ref().as_table()?;
            Some(quota.get("then")?.get_ref().as_str()?.to_owned())
        })
        .collect()
}

/// What must hold of the rules that quotas name.
pub(super) fn check(
    named: Vec<Named>,
    rules: &[Rule],
    places: &[PlaceRule],
    mistakes: &mut Mistakes,
) {
    const OTHERS: &str = "allowed: a rule with limits, or \"block\"";
    for Named { rule, span, of } in named {
        let shown = rule.escape_debug();
        if of.as_ref() == Some(&rule) {
            let message = format!("the quota of rule `{shown}` ends in the rule itself; {OTHERS}");
            mistakes.push(span, message);
            continue;
        }
        let found = rules.iter().find(|found| found.name == rule);
        let message = match found {
            None if places.iter().any(|place| place.name == rule) => {
                format!("rule `{shown}` limits by where HAProxy sends a connection; {OTHERS}")
            }
            None => {
                let meant = rules
                    .iter()
                    .map(|known| (strsim::jaro_winkler(&known.name, &rule), &known.name))
                    .filter(|(likeness, _)| *likeness > 0.8)
                    .max_by(|a, b| a.0.total_cmp(&b.0))
                    .map_or_else(String::new, |(_, known)| {
                        format!(" (did you mean `{known}`?)")
                    });
                format!("no rule is named `{shown}`{meant}; {OTHERS}")
            }
            Some(found) if found.exempt => {
                format!("rule `{shown}` is exempt, so it would end every limit; {OTHERS}")
            }
            Some(found) if found.limits.quota.is_some() => {
                format!("rule `{shown}` has a quota itself, and quotas make no chains; {OTHERS}")
            }
            Some(_) => continue,
        };
        mistakes.push(span, message);
    }
}

/// The time zone that days, weeks and months are of; UTC where none is named.
pub(super) fn time_zone(root: &mut Section<'_, '_>, mistakes: &mut Mistakes) -> TimeZone {
    let Some((name, span)) = root.get::<String>("time_zone", mistakes) else {
        return TimeZone::UTC;
    };
    match TimeZone::get(&name) {
        // Without a name it is none of the database, as "Etc/Unknown".
        Ok(zone) if zone.iana_name().is_some() => zone,
        _ => {
            mistakes.push(
                span,
                format!(
                    "`{}` is not a time zone; allowed: a name of the tz database, such as \
                     \"Europe/Berlin\" or \"UTC\"",
                    name.escape_debug()
                ),
            );
            TimeZone::UTC
        }
    }
}
