//! Limits and blocks set while the daemon runs. They lie over the policy, and
//! outlive a reload and a restart.

use crate::policy::client::{self, ClientError, Prefixes};
use crate::policy::units::Size;
use crate::policy::{Expiry, Override, Rate, RateLimit, RuntimeLimit};
use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Reads a client of the command line: an address is cut to its client prefix,
/// a prefix must not be longer than that.
///
/// # Errors
/// Says what is wrong with the text, and what is allowed.
pub fn parse_client(text: &str, ipv4_prefix: u8, ipv6_prefix: u8) -> Result<IpNet, ClientError> {
    client::parse(
        text,
        Prefixes {
            ipv4: ipv4_prefix,
            ipv6: ipv6_prefix,
        },
    )
}

/// The overrides in force, by client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides(BTreeMap<IpNet, Override>);

/// What [`Overrides::load`] found.
#[derive(Debug, Default)]
pub struct Loaded {
    /// What could be read.
    pub overrides: Overrides,
    /// Why it is not everything, for a person; the file was set aside.
    pub damaged: Option<String>,
}

impl Overrides {
    /// Sets a limit; returns whether the client had one. A direction that is
    /// `None` stays as it was set before. `expires` is for the whole limit.
    pub fn set_limit(
        &mut self,
        client: IpNet,
        upload: Option<RateLimit>,
        download: Option<RateLimit>,
        expires: Expiry,
    ) -> bool {
        let entry = self.entry(client);
        let before = entry.limit.take();
        entry.limit = Some(RuntimeLimit {
            upload: upload.or(before.and_then(|limit| limit.upload)),
            download: download.or(before.and_then(|limit| limit.download)),
            expires,
        });
        before.is_some()
    }

    /// Takes a limit away; returns whether there was one.
    pub fn clear_limit(&mut self, client: IpNet) -> bool {
        self.change(client, |entry| entry.limit.take().is_some())
    }

    /// Blocks a client; returns whether it was blocked at runtime before.
    pub fn set_block(&mut self, client: IpNet, expires: Expiry) -> bool {
        self.entry(client).block.replace(expires).is_some()
    }

    /// Takes a block away; returns whether there was one. What the policy
    /// blocks stays blocked.
    pub fn unblock(&mut self, client: IpNet) -> bool {
        self.change(client, |entry| entry.block.take().is_some())
    }

    /// Takes away what has ended at `now`; returns whether anything had.
    pub fn expire(&mut self, now: Timestamp) -> bool {
        let ended = |expires: Expiry| expires.is_some_and(|at| at <= now);
        let mut changed = false;
        self.0.retain(|_, entry| {
            changed |= entry.limit.take_if(|limit| ended(limit.expires)).is_some();
            changed |= entry.block.take_if(|expires| ended(*expires)).is_some();
            entry.limit.is_some() || entry.block.is_some()
        });
        changed
    }

    /// When the next one ends.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Timestamp> {
        let limits = self.0.values().filter_map(|o| o.limit?.expires);
        let blocks = self.0.values().filter_map(|o| o.block?);
        limits.chain(blocks).min()
    }

    /// What is set for exactly this prefix.
    #[must_use]
    pub fn get(&self, client: &IpNet) -> Option<&Override> {
        self.0.get(client)
    }

    /// All of them, ordered by client, as [`crate::policy::Policy::compile`]
    /// takes them.
    #[must_use]
    pub fn list(&self) -> Vec<Override> {
        self.0.values().cloned().collect()
    }

    fn entry(&mut self, client: IpNet) -> &mut Override {
        self.0.entry(client).or_insert(Override {
            client,
            limit: None,
            block: None,
        })
    }

    fn change(&mut self, client: IpNet, change: impl FnOnce(&mut Override) -> bool) -> bool {
        let Some(entry) = self.0.get_mut(&client) else {
            return false;
        };
        let changed = change(entry);
        if entry.limit.is_none() && entry.block.is_none() {
            self.0.remove(&client);
        }
        changed
    }

    /// Writes them in one step: after a crash the file is the old or the new
    /// one, never half of it.
    ///
    /// # Errors
    /// When the directory cannot be written to.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let stored = Stored {
            version: VERSION,
            overrides: self.0.values().map(Entry::from).collect(),
        };
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        serde_json::to_writer_pretty(&mut file, &stored)?;
        file.write_all(b"\n")?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        // The new name lasts once the directory has reached the disk.
        File::open(directory)?.sync_all()
    }

    /// Reads them back. Never fails: no file means no overrides, and a damaged
    /// one is set aside as `.damaged` and reported.
    #[must_use]
    pub fn load(path: &Path) -> Loaded {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Loaded::default(),
            Err(error) => return Loaded::damaged(path, &error),
        };
        let stored: Stored = match serde_json::from_str(&text) {
            Ok(stored) => stored,
            Err(error) => return Loaded::damaged(path, &error),
        };
        if stored.version != VERSION {
            let found = stored.version;
            return Loaded::damaged(path, &format!("version {found}, not {VERSION}"));
        }
        let restored: Result<_, _> = stored.overrides.into_iter().map(Entry::restore).collect();
        match restored {
            Ok(overrides) => Loaded {
                overrides: Self(overrides),
                damaged: None,
            },
            Err(error) => Loaded::damaged(path, &error),
        }
    }
}

impl Loaded {
    fn damaged(path: &Path, why: &dyn std::fmt::Display) -> Self {
        let mut aside = path.as_os_str().to_owned();
        aside.push(".damaged");
        let aside = PathBuf::from(aside);
        let done = match std::fs::rename(path, &aside) {
            Ok(()) => format!("it is now {}", aside.display()),
            Err(error) => format!("it could not be set aside: {error}"),
        };
        Self {
            overrides: Overrides::default(),
            damaged: Some(format!(
                "cannot read the runtime limits in {}: {why}; {done}, and none are in force",
                path.display()
            )),
        }
    }
}

/// The version of the file.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    overrides: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    client: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    limit: Option<StoredLimit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    block: Option<StoredBlock>,
}

#[derive(Serialize, Deserialize)]
struct StoredLimit {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    upload: Option<StoredRate>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    download: Option<StoredRate>,
    expires: Expiry,
}

#[derive(Serialize, Deserialize)]
struct StoredRate {
    rate: Rate,
    burst: Size,
}

#[derive(Serialize, Deserialize)]
struct StoredBlock {
    expires: Expiry,
}

impl From<&Override> for Entry {
    fn from(over: &Override) -> Self {
        let stored = |limit: RateLimit| StoredRate {
            rate: limit.rate,
            burst: Size(limit.burst),
        };
        Self {
            client: over.client.to_string(),
            limit: over.limit.map(|limit| StoredLimit {
                upload: limit.upload.map(stored),
                download: limit.download.map(stored),
                expires: limit.expires,
            }),
            block: over.block.map(|expires| StoredBlock { expires }),
        }
    }
}

impl Entry {
    fn restore(self) -> Result<(IpNet, Override), ipnet::AddrParseError> {
        let limit = |stored: StoredRate| RateLimit {
            rate: stored.rate,
            burst: stored.burst.0,
        };
        let client: IpNet = self.client.parse()?;
        let over = Override {
            client,
            limit: self.limit.map(|stored| RuntimeLimit {
                upload: stored.upload.map(limit),
                download: stored.download.map(limit),
                expires: stored.expires,
            }),
            block: self.block.map(|stored| stored.expires),
        };
        Ok((client, over))
    }
}

#[cfg(test)]
mod tests;
