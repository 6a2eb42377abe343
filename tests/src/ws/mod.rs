//! WebSocket backends and clients (RFC 6455).

pub mod backend;
pub mod client;
mod recorder;

pub use backend::Backend;
pub use recorder::Recorder;
