//! What the program `shaper-killed` and its tests say to each other.

use crate::leftovers::Owned;
use anyhow::{Context as _, Result};
use clap::ValueEnum as _;
use serde::{Deserialize, Serialize};
use shaper_user::steps::Step;
use std::path::Path;

/// The step to die behind, counted from 1.
pub const KILL_AT: &str = "SHAPER_TEST_KILL_AT";
/// The file that steps are noted in, while it is there.
pub const STEPS: &str = "SHAPER_TEST_STEPS";
/// What the line begins with that has a [`Held`].
pub const HELD: &str = "held ";

/// Ids of kernel objects of a process.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Held {
    programs: Vec<u32>,
    maps: Vec<u32>,
    links: Vec<u32>,
}

impl Held {
    /// Those of this process.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn now() -> Result<Self> {
        let owned = Owned::by(std::process::id())?;
        Ok(Self {
            programs: owned.programs.into_iter().collect(),
            maps: owned.maps.into_iter().collect(),
            links: owned.links.into_iter().collect(),
        })
    }
}

impl From<Held> for Owned {
    fn from(held: Held) -> Self {
        Self {
            programs: held.programs.into_iter().collect(),
            maps: held.maps.into_iter().collect(),
            links: held.links.into_iter().collect(),
        }
    }
}

/// A step's name.
#[must_use]
pub fn name(step: Step) -> String {
    step.to_possible_value()
        .map_or_else(String::new, |value| value.get_name().to_owned())
}

/// The steps that were noted, and what the process held when it died.
///
/// # Errors
/// When the file is not there or has another form.
pub fn read(path: &Path) -> Result<(Vec<String>, Owned)> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let (mut steps, mut owned) = (Vec::new(), Owned::default());
    for line in text.lines() {
        match line.strip_prefix(HELD) {
            Some(held) => owned = serde_json::from_str::<Held>(held)?.into(),
            None => steps.push(line.to_owned()),
        }
    }
    Ok((steps, owned))
}
