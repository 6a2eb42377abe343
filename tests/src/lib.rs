//! The lab: everything that a test or the demo needs around the daemon, in
//! network namespaces of its own.
//!
//! ```text
//!  client ns        path ns           proxy ns              backend ns (two)
//!  eth0 ───────── c ─ relay ─ p ───── eth0   be1 ────────── eth0
//!  10.77.0.10 …     20 ms             10.77.0.1, HAProxy,   10.78.1.2:9000
//!  fd77:0:0:10::10                    shaper
//! ```
//!
//! | module | what it is |
//! | --- | --- |
//! | [`lab`] | the topology above, or client and proxy joined directly |
//! | [`netns`] | one network namespace: entering it, commands in it |
//! | [`relay`] | the path: a fixed delay each way, a bottleneck, exact counts |
//! | [`haproxy`] | a HAProxy in the proxy namespace |
//! | [`nginx`] | an NGINX in HAProxy's place |
//! | [`ws`] | WebSocket backends and clients |
//! | [`traffic`] | plain TCP and UDP |
//! | [`flood`] | packets from sources that nobody has, and whom they must not hurt |
//! | [`shaper`] | the daemon under test and its command line |
//! | [`confined`] | what the systemd unit forbids, done to the daemon under test |
//! | [`testbed`] | the kernel programs alone, fed by `BPF_PROG_TEST_RUN` |
//! | [`mod@bench`] | the benchmarks |
//! | [`empty`] | an empty program, to compare with |
//! | [`killed`] | a daemon that kills itself behind a step |
//! | [`leftovers`] | what must be gone afterwards |
//! | [`package`] | the Debian package in a clean Debian, as `cargo xtask dist --test` runs it |
//! | [`process`] | children that never outlive this process |
//! | [`cleanup`] | removal on Ctrl-C, and of what a killed run left |
//! | [`guest`] | what `cargo xtask vm-test` runs in a virtual machine |
//! | [`demo`] | the demo's phases, claims and report |
//! | [`soak`] | churn and chaos for minutes or hours, and what must be so throughout |

pub mod bench;
pub mod cleanup;
pub mod confined;
pub mod demo;
pub mod empty;
pub mod flood;
pub mod guest;
pub mod haproxy;
pub mod killed;
pub mod lab;
pub mod leftovers;
pub mod netns;
pub mod nginx;
pub mod offload;
pub mod package;
pub mod process;
pub mod relay;
pub mod shaper;
pub mod soak;
pub mod testbed;
pub mod traffic;
pub mod ws;
