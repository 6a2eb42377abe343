//! A TOML table, read key by key: a wrong value is noted and reading goes on,
//! so that a person learns all mistakes of a file at once.

use super::mistake::Mistakes;
use serde::de::{DeserializeOwned, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

/// A table, and which of its keys were asked for.
pub(super) struct Section<'t, 'i> {
    /// How a person finds it: `[default]`, or the file as a whole.
    title: String,
    span: Range<usize>,
    table: &'t DeTable<'i>,
    known: Vec<&'static str>,
}

/// A value and where it stands.
pub(super) type At<T> = (T, Range<usize>);

impl<'t, 'i> Section<'t, 'i> {
    pub(super) fn new(
        title: impl Into<String>,
        table: &'t DeTable<'i>,
        span: Range<usize>,
    ) -> Self {
        Self {
            title: title.into(),
            span,
            table,
            known: Vec::new(),
        }
    }

    /// Where the table stands.
    pub(super) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// Where a key stands, if it does.
    pub(super) fn key(&self, key: &str) -> Option<Range<usize>> {
        self.table.get_key_value(key).map(|(key, _)| key.span())
    }

    /// What stands at a key, before it is read.
    pub(super) fn peek(&self, key: &str) -> Option<&'t DeValue<'i>> {
        self.table.get(key).map(Spanned::get_ref)
    }

    /// Whether a key holds an array without any element, right or wrong.
    pub(super) fn is_empty_array(&self, key: &str) -> bool {
        let array = self.table.get(key).and_then(|v| v.get_ref().as_array());
        array.is_some_and(|array| array.is_empty())
    }

    fn find(&mut self, key: &'static str) -> Option<&'t Spanned<DeValue<'i>>> {
        self.known.push(key);
        self.table.get(key)
    }

    /// The value of a key. `None` when it is absent or wrong.
    pub(super) fn get<T: DeserializeOwned>(
        &mut self,
        key: &'static str,
        mistakes: &mut Mistakes,
    ) -> Option<At<T>> {
        let value = self.find(key)?;
        read(key, value, mistakes).map(|read| (read, value.span()))
    }

    /// The values of an array that are right.
    pub(super) fn list<T: DeserializeOwned>(
        &mut self,
        key: &'static str,
        allowed: &str,
        mistakes: &mut Mistakes,
    ) -> Option<At<Vec<At<T>>>> {
        let value = self.find(key)?;
        let Some(array) = value.get_ref().as_array() else {
            mistakes.push(value.span(), wrong_type(key, value, allowed));
            return None;
        };
        let values = array
            .iter()
            .filter_map(|item| read(key, item, mistakes).map(|read| (read, item.span())))
            .collect();
        Some((values, value.span()))
    }

    /// The table below a key.
    pub(super) fn table(
        &mut self,
        key: &'static str,
        title: &str,
        allowed: &str,
        mistakes: &mut Mistakes,
    ) -> Option<Self> {
        let value = self.find(key)?;
        match value.get_ref().as_table() {
            Some(table) => Some(Self::new(title, table, value.span())),
            None => {
                mistakes.push(value.span(), wrong_type(key, value, allowed));
                None
            }
        }
    }

    /// The tables of an array of tables.
    pub(super) fn tables(
        &mut self,
        key: &'static str,
        title: &'static str,
        mistakes: &mut Mistakes,
    ) -> Vec<Self> {
        let Some(value) = self.find(key) else {
            return Vec::new();
        };
        let allowed = format!("{title}, once for each {key}");
        let Some(array) = value.get_ref().as_array() else {
            mistakes.push(value.span(), wrong_type(key, value, &allowed));
            return Vec::new();
        };
        array
            .iter()
            .filter_map(|item| match item.get_ref().as_table() {
                Some(table) => Some(Self::new(title, table, item.span())),
                None => {
                    mistakes.push(item.span(), wrong_type(key, item, &allowed));
                    None
                }
            })
            .collect()
    }

    /// Keys that are right here, although there are none of them.
    pub(super) fn knows(&mut self, keys: &[&'static str]) {
        self.known.extend(keys);
    }

    /// Notes every key that nobody asked for.
    pub(super) fn finish(self, mistakes: &mut Mistakes) {
        for key in self.table.keys() {
            let name = key.get_ref().as_ref();
            if self.known.contains(&name) {
                continue;
            }
            let meant = self
                .known
                .iter()
                .map(|known| (strsim::jaro_winkler(known, name), known))
                .filter(|(likeness, _)| *likeness > 0.8)
                .max_by(|a, b| a.0.total_cmp(&b.0))
                .map_or_else(String::new, |(_, known)| {
                    format!(" (did you mean `{known}`?)")
                });
            mistakes.push(
                key.span(),
                format!(
                    "unknown key `{}` in {}{meant}; allowed: {}",
                    name.escape_debug(),
                    self.title,
                    self.known.join(", ")
                ),
            );
        }
    }
}

fn read<T: DeserializeOwned>(
    key: &str,
    value: &Spanned<DeValue<'_>>,
    mistakes: &mut Mistakes,
) -> Option<T> {
    T::deserialize(ValueDeserializer::from(value.clone()))
        .map_err(|error| {
            let span = error.span().unwrap_or_else(|| value.span());
            // serde's words for what is allowed, in ours.
            let message = error.message().replacen(", expected ", "; allowed: ", 1);
            mistakes.push(span, format!("`{key}`: {message}"));
        })
        .ok()
}

fn wrong_type(key: &str, value: &Spanned<DeValue<'_>>, allowed: &str) -> String {
    let found = value.get_ref().type_str();
    let article = if found.starts_with(['a', 'i']) {
        "an"
    } else {
        "a"
    };
    format!("`{key}` is {article} {found}; allowed: {allowed}")
}

/// An integer from `MIN` to `MAX`.
pub(super) struct Int<const MIN: u32, const MAX: u32>(pub(super) u32);

impl<'de, const MIN: u32, const MAX: u32> Deserialize<'de> for Int<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Range<const MIN: u32, const MAX: u32>;
        impl<const MIN: u32, const MAX: u32> Visitor<'_> for Range<MIN, MAX> {
            type Value = u32;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a whole number from {MIN} to {MAX}")
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<u32, E> {
                u32::try_from(number)
                    .ok()
                    .filter(|n| (MIN..=MAX).contains(n))
                    .ok_or_else(|| E::invalid_value(serde::de::Unexpected::Signed(number), &self))
            }
        }
        deserializer.deserialize_i64(Range::<MIN, MAX>).map(Self)
    }
}
