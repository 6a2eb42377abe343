//! Byte quotas: what each client has used of them, and where that is kept.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`window`] | hours, days, weeks and months of a time zone |
//! | [`meter`] | bytes in such a window, or in the last hours |
//! | [`row`] | one client: its meter, and the kernel's counters it was read from |
//! | [`ledger`] | all clients: counting, and who is over |
//! | [`stored`] | a row as the store has it |
//! | [`store`] | the file |
//! | [`writer`] | the thread that writes it |
//!
//! Usage is counted from the kernel's counters of each client, which go on while no
//! daemon runs. So what is stored is the usage together with the counters it was
//! read from, and a restart counts what came in between exactly once.

pub mod ledger;
pub mod meter;
pub mod row;
pub mod store;
pub mod stored;
pub mod window;
pub mod writer;

#[cfg(test)]
mod tests;
