//! `SystemCallFilter`, `RestrictAddressFamilies` and `MemoryDenyWriteExecute` of
//! a unit, as filters for the kernel (seccomp).

use super::Unit;
use anyhow::{Context, Result, bail};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};
use std::collections::{BTreeMap, BTreeSet};
use syscalls::Sysno;

const GROUPS: &str = include_str!("syscall-groups.txt");

/// The names that a unit allows, its groups resolved: systemd always adds
/// `@default`.
///
/// # Errors
/// When it names a group that is not on record here.
pub fn allowed(unit: &Unit) -> Result<BTreeSet<String>> {
    let groups = groups();
    let mut allowed = BTreeSet::new();
    expand(&groups, "@default", &mut |name| {
        allowed.insert(name.to_owned());
    })?;
    for (nth, line) in unit.all("SystemCallFilter").enumerate() {
        let (takes_away, names) = match line.strip_prefix('~') {
            Some(names) => (true, names),
            None => (false, line),
        };
        if takes_away && nth == 0 {
            bail!("a filter of this kind allows everything it does not name");
        }
        for name in names.split_whitespace() {
            expand(&groups, name, &mut |name| {
                if takes_away {
                    allowed.remove(name);
                } else {
                    allowed.insert(name.to_owned());
                }
            })?;
        }
    }
    Ok(allowed)
}

fn groups() -> BTreeMap<&'static str, Vec<&'static str>> {
    let mut groups = BTreeMap::new();
    let mut group = "";
    for line in GROUPS.lines().filter(|line| !line.starts_with('#')) {
        match line.strip_prefix("    ") {
            Some(names) => groups
                .entry(group)
                .or_insert_with(Vec::new)
                .extend(names.split_whitespace()),
            None => group = line.trim(),
        }
    }
    groups
}

fn expand(
    groups: &BTreeMap<&str, Vec<&str>>,
    name: &str,
    each: &mut impl FnMut(&str),
) -> Result<()> {
    if !name.starts_with('@') {
        each(name);
        return Ok(());
    }
    let names = groups
        .get(name)
        .with_context(|| format!("{name} is not in syscall-groups.txt"))?;
    for name in names {
        expand(groups, name, each)?;
    }
    Ok(())
}

/// The filters, in the order in which they are applied.
pub(super) fn filters(unit: &Unit) -> Result<Vec<BpfProgram>> {
    let mut filters = vec![write_or_execute()?, families(unit)?];
    // Names of other machines and newer kernels have no number.
    let numbers = allowed(unit)?
        .iter()
        .filter_map(|name| name.parse::<Sysno>().ok())
        .map(|number| (i64::from(number.id()), Vec::new()))
        .collect();
    filters.push(filter(
        numbers,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
    )?);
    Ok(filters)
}

fn filter(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<BpfProgram> {
    let arch = std::env::consts::ARCH.try_into()?;
    Ok(SeccompFilter::new(rules, otherwise, matched, arch)?.try_into()?)
}

fn families(unit: &Unit) -> Result<BpfProgram> {
    let mut others = Vec::new();
    for family in unit.words("RestrictAddressFamilies") {
        let number = match family {
            "AF_UNIX" => libc::AF_UNIX,
            "AF_INET" => libc::AF_INET,
            "AF_INET6" => libc::AF_INET6,
            "AF_NETLINK" => libc::AF_NETLINK,
            "AF_PACKET" => libc::AF_PACKET,
            _ => bail!("no number is known for {family}"),
        };
        others.push(SeccompCondition::new(
            0,
            SeccompCmpArgLen::Dword,
            SeccompCmpOp::Ne,
            u64::try_from(number)?,
        )?);
    }
    let rules = [(libc::SYS_socket, vec![SeccompRule::new(others)?])].into();
    let refused = SeccompAction::Errno(libc::EAFNOSUPPORT.cast_unsigned());
    filter(rules, SeccompAction::Allow, refused)
}

/// No memory is writable and executable, none becomes executable.
fn write_or_execute() -> Result<BpfProgram> {
    let has = |protection: libc::c_int| -> Result<SeccompRule> {
        let mask = u64::try_from(protection)?;
        let op = SeccompCmpOp::MaskedEq(mask);
        let condition = SeccompCondition::new(2, SeccompCmpArgLen::Dword, op, mask)?;
        Ok(SeccompRule::new(vec![condition])?)
    };
    let rules = [
        (
            libc::SYS_mmap,
            vec![has(libc::PROT_WRITE | libc::PROT_EXEC)?],
        ),
        (libc::SYS_mprotect, vec![has(libc::PROT_EXEC)?]),
        (libc::SYS_pkey_mprotect, vec![has(libc::PROT_EXEC)?]),
    ]
    .into();
    let refused = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    filter(rules, SeccompAction::Allow, refused)
}
