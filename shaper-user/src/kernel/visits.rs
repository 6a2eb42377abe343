//! Visits to open sockets: TCP iterators, programs that the kernel runs once for
//! each socket of this network namespace when their file is read.

use anyhow::{Context, Result};
use aya::programs::Iter;
use aya::{Btf, Ebpf};
use std::io::{ErrorKind, Read as _};

/// What the iterators visit, as the kernel's types call it.
const TCP: &str = "tcp";

/// Loads an iterator. Limits hold without, so a kernel that refuses it is no
/// failure: what it says is kept for `status`.
pub(super) fn load(program: &mut Iter) -> Result<(), String> {
    let mut load = || -> Result<()> {
        program.load(TCP, &Btf::from_sys_fs()?)?;
        Ok(())
    };
    load().map_err(|error| format!("{error:#}"))
}

/// Runs a loaded iterator over every TCP socket.
///
/// # Errors
/// When it is not loaded, or the kernel stops it.
pub(super) fn run(ebpf: &mut Ebpf, name: &str) -> Result<()> {
    let mut visit = || -> Result<()> {
        let program: &mut Iter = ebpf
            .program_mut(name)
            .context("the kernel object does not have it")?
            .try_into()?;
        let link = program.attach()?;
        let mut file = program.take_link(link)?.into_file()?;
        // It prints nothing; reading is what runs it.
        let mut nothing = [0; 64];
        loop {
            match file.read(&mut nothing) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                // After a million sockets the kernel wants to be asked again.
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => return Err(error.into()),
            }
        }
    };
    visit().with_context(|| format!("visiting the open sockets by {name}"))
}
