//! The values that are one of a few words.

use super::units::{Text, UnitError};
use super::{Action, Counts, Mode, OnExit, Xdp};
use serde::de::{Deserialize, Deserializer};
use std::fmt;
use std::str::FromStr;

macro_rules! choices {
    ($($type:ident ($allowed:literal) { $($word:literal => $variant:ident,)+ })+) => {$(
        impl FromStr for $type {
            type Err = UnitError;

            fn from_str(text: &str) -> Result<Self, UnitError> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(UnitError::new(format!(
                        "`{}` is not known; allowed: {}", text.escape_debug(), $allowed
                    ))),
                }
            }
        }

        impl fmt::Display for $type {
            /// As the policy writes it.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self { $(Self::$variant => $word,)+ })
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(Text::new($allowed))
            }
        }
    )+};
}

choices! {
    Action ("\"kill\" or \"drain\"") {
        "kill" => Kill,
        "drain" => Drain,
    }
    Counts ("\"upload\", \"download\" or \"both\"") {
        "upload" => Upload,
        "download" => Download,
        "both" => Both,
    }
    Mode ("\"enforce\" or \"observe\"") {
        "enforce" => Enforce,
        "observe" => Observe,
    }
    Xdp ("\"auto\", \"native\", \"generic\" or \"off\"") {
        "auto" => Auto,
        "native" => Native,
        "generic" => Generic,
        "off" => Off,
    }
    OnExit ("\"keep\" or \"detach\"") {
        "keep" => Keep,
        "detach" => Detach,
    }
}
