//! `[history]`: what is kept of the last hours, and where.

use super::super::History;
use super::super::mistake::Mistakes;
use super::super::section::{Int, Section};
use super::super::units::Size;
use std::path::PathBuf;

/// A week: what a store that is read for each answer holds.
const HOURS_MAX: u32 = 168;
/// Below this an embedded store has little room for itself.
const SIZE_MIN: Size = Size(16_000_000);
const SIZE_MAX: Size = Size(16_000_000_000);
const FLOW_MIN: Size = Size(1_000);

pub(super) fn history(root: &mut Section<'_, '_>, mistakes: &mut Mistakes) -> History {
    let mut history = History::default();
    let Some(mut section) = root.table("history", "[history]", "the table [history]", mistakes)
    else {
        return history;
    };
    if let Some((enabled, _)) = section.get::<bool>("enabled", mistakes) {
        history.enabled = enabled;
    }
    if let Some((Int(hours), _)) = section.get::<Int<1, HOURS_MAX>>("hours", mistakes) {
        history.hours = hours;
    }
    if let Some((size, span)) = section.get::<Size>("max_size", mistakes) {
        if !(SIZE_MIN..=SIZE_MAX).contains(&size) {
            let message =
                format!("`max_size` = {size} is out of range; allowed: {SIZE_MIN} to {SIZE_MAX}");
            mistakes.push(span, message);
        }
        history.max_size = size.0;
    }
    if let Some((size, span)) = section.get::<Size>("flow_min", mistakes) {
        if size < FLOW_MIN {
            let message = format!("`flow_min` = {size} is too little; allowed: from {FLOW_MIN} on");
            mistakes.push(span, message);
        }
        history.flow_min = size.0;
    }
    if let Some((path, span)) = section.get::<String>("path", mistakes) {
        if path.starts_with('/') && !path.ends_with('/') && !path.contains('\0') {
            history.path = Some(PathBuf::from(path));
        } else {
            let message = format!(
                "`path` = \"{}\" is not the path of a file; allowed: an absolute path, such as \
                 \"/var/lib/shaper/history.redb\"",
                path.escape_debug()
            );
            mistakes.push(span, message);
        }
    }
    section.finish(mistakes);
    history
}
