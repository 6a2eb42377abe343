//! What the fuzz targets check of one input: that nothing panics, and what must
//! hold besides. `shaper-user/fuzz` calls these with inputs that it makes up, the
//! tests with those that are kept in `shaper-user/fuzz/corpus`.

// In the order of where the bytes come from.
mod haproxy;
mod policy;
mod protocol;

pub use haproxy::haproxy;
pub use policy::policy;
pub use protocol::protocol;
