//! Answers for people: aligned tables, human units, colour.
//!
//! Everything is written with colours; the stream that `shaper` writes to takes
//! them away where nobody wants them.

mod history;
mod rows;
mod servers;
pub mod spark;
mod status;
mod table;
pub mod units;

pub use history::{history, place};
pub use rows::{clients, flows};
pub use servers::{servers, why_none};
pub use status::status;
