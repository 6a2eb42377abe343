//! The `[[server_limit]]` tables.

use super::{place, rate_only};
use crate::haproxy::weights::ServerName;
use crate::policy::Rate;
use crate::policy::mistake::{Lines, Mistakes};
use crate::policy::place::{ServerLimit, Share, by_direction};
use crate::policy::section::Section;
use serde::de::{Deserialize, Deserializer, Visitor};
use std::collections::HashMap;
use std::fmt;

const TITLE: &str = "[[server_limit]]";
const SERVER: &str = "a backend and a server of HAProxy, such as server = \"be_ws/srv3\"";
const SHARE: &str = "a part of the server's rate above 0 and up to 1, such as share = 0.25";
const ABOVE: &str = "the rate of the server from which on it holds, such as above = \"100mbit\"";
/// More servers than a HAProxy that one host runs has.
const LIMITS_MAX: usize = 1024;

pub(super) fn server_limits(
    root: &mut Section<'_, '_>,
    lines: &Lines<'_>,
    mistakes: &mut Mistakes,
) -> Vec<ServerLimit> {
    let mut taken = HashMap::new();
    let mut limits = Vec::new();
    for (index, section) in root
        .tables("server_limit", TITLE, mistakes)
        .into_iter()
        .enumerate()
    {
        if index == LIMITS_MAX {
            mistakes.push(
                section.span(),
                format!("more {TITLE} than allowed: at most {LIMITS_MAX}"),
            );
        }
        limits.extend(limit(section, &mut taken, lines, mistakes));
    }
    limits
}

fn limit(
    mut section: Section<'_, '_>,
    taken: &mut HashMap<ServerName, usize>,
    lines: &Lines<'_>,
    mistakes: &mut Mistakes,
) -> Option<ServerLimit> {
    let server = server(&mut section, taken, lines, mistakes);
    let upload = rate_only(&mut section, "upload", mistakes);
    let download = rate_only(&mut section, "download", mistakes);
    let share = share(&mut section, mistakes);
    let keys = ["upload", "download", "share", "above"];
    if keys.iter().all(|key| section.key(key).is_none()) {
        mistakes.push(
            section.span(),
            format!("{TITLE} limits nothing; allowed: upload, download, share with above"),
        );
    }
    section.finish(mistakes);
    Some(ServerLimit {
        server: server?,
        cap: by_direction(upload, download),
        share,
    })
}

fn server(
    section: &mut Section<'_, '_>,
    taken: &mut HashMap<ServerName, usize>,
    lines: &Lines<'_>,
    mistakes: &mut Mistakes,
) -> Option<ServerName> {
    let Some((text, span)) = section.get::<String>("server", mistakes) else {
        if section.key("server").is_none() {
            mistakes.push(
                section.span(),
                format!("{TITLE} has no `server`; allowed: {SERVER}"),
            );
        }
        return None;
    };
    let Some(server) = place::server(&text) else {
        mistakes.push(span, format!("`{}` is not {SERVER}", text.escape_debug()));
        return None;
    };
    let line = lines.line(span.start);
    if let Some(first) = taken.get(&server) {
        mistakes.push(
            span,
            format!("{text} already has a {TITLE} (line {first}); allowed: one for each server"),
        );
        return None;
    }
    taken.insert(server.clone(), line);
    Some(server)
}

fn share(section: &mut Section<'_, '_>, mistakes: &mut Mistakes) -> Option<Share> {
    let share = section.get::<Number>("share", mistakes);
    let above = section.get::<Rate>("above", mistakes);
    match (section.key("share"), section.key("above")) {
        (Some(span), None) => {
            mistakes.push(span, format!("`share` needs `above`; allowed: {ABOVE}"));
        }
        (None, Some(span)) => {
            mistakes.push(span, format!("`above` needs `share`; allowed: {SHARE}"));
        }
        _ => {}
    }
    let (Number(part), span) = share?;
    let millionths = (part * f64::from(Share::WHOLE)).round();
    if !(part <= 1.0 && millionths >= 1.0) {
        mistakes.push(span, format!("`share` = {part}; allowed: {SHARE}"));
        return None;
    }
    let (above, _) = above?;
    Some(Share {
        // Between 1 and a million.
        millionths: millionths as u32,
        above,
    })
}

/// A number, with or without a point.
struct Number(f64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl Visitor<'_> for Any {
            type Value = f64;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number above 0 and up to 1")
            }

            fn visit_f64<E>(self, number: f64) -> Result<f64, E> {
                Ok(number)
            }

            fn visit_i64<E>(self, number: i64) -> Result<f64, E> {
                Ok(number as f64)
            }
        }
        deserializer.deserialize_any(Any).map(Self)
    }
}
