//! WebSocket backends and clients (RFC 6455).

pub mod backend;
pub mod client;
mod named;
mod pinned;
mod recorder;

pub use backend::Backend;
pub use named::Named;
pub use pinned::Pinned;
pub use recorder::Recorder;
