//! Answers for people: aligned tables, human units, colour.
//!
//! Everything is written with colours; the stream that `shaper` writes to takes
//! them away where nobody wants them.

mod events;
pub mod quota;
mod rows;
mod servers;
mod status;
mod table;
pub mod units;

pub use events::{event, missed};
pub use quota::quota;
pub use rows::{clients, flows};
pub use servers::{servers, why_none};
pub use status::status;
