//! Programs that the kernel has verified, used again with maps that are as new:
//! the verifier needs half a second for them, and ten in an emulated machine.

use anyhow::{Context, Result, bail};
use aya::maps::{Map, MapData, RingBuf};
use aya::programs::{SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader};
use shaper_common::names;
use shaper_user::kernel::ebpf::OBJECT;
use shaper_user::kernel::maps::{self, Maps};
use shaper_user::kernel::sys;
use shaper_user::policy::Tables;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Mutex;

/// Those that no testbed uses now.
static IDLE: Mutex<Vec<Loaded>> = Mutex::new(Vec::new());

/// The programs with their maps.
pub struct Loaded {
    pub(super) ebpf: Ebpf,
    pub(super) maps: Maps,
    updates: RingBuf<MapData>,
    sizes: Tables,
    contents: Vec<Table>,
}

/// Programs whose maps are as after loading, with tables of these sizes.
pub(super) fn take(sizes: &Tables) -> Result<Loaded> {
    let mut idle = IDLE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let found = idle.iter().position(|loaded| loaded.sizes == *sizes);
    let Some(found) = found else {
        drop(idle);
        return Loaded::new(sizes);
    };
    let mut loaded = idle.swap_remove(found);
    drop(idle);
    loaded.reset()?;
    Ok(loaded)
}

/// For the next one that needs them.
pub(super) fn give_back(loaded: Loaded) {
    if let Ok(mut idle) = IDLE.lock() {
        idle.push(loaded);
    }
}

impl Loaded {
    fn new(sizes: &Tables) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        loader.override_global(aya_log::LEVEL, &0_u8, false);
        for (name, entries) in sizes.by_name() {
            loader.map_max_entries(name, entries);
        }
        let mut ebpf = loader.load(OBJECT)?;
        for name in [names::INGRESS, names::EGRESS, names::CONTROL] {
            let program: &mut SchedClassifier = ebpf.program_mut(name).context(name)?.try_into()?;
            program.load()?;
        }
        let shield: &mut Xdp = ebpf
            .program_mut(names::SHIELD)
            .context("shield")?
            .try_into()?;
        shield.load()?;
        // Before the maps are taken out of it.
        let contents = ebpf
            .maps()
            .map(|(name, map)| Table::of(name, map).with_context(|| format!("the map {name}")))
            .filter_map(Result::transpose)
            .collect::<Result<_>>()?;
        Ok(Self {
            maps: Maps::new(&mut ebpf)?,
            updates: maps::window_updates(&mut ebpf)?,
            ebpf,
            sizes: *sizes,
            contents,
        })
    }

    /// Names of the maps that are not as they were after loading.
    pub(super) fn changed(&self) -> Result<Vec<&str>> {
        let mut changed = Vec::new();
        for table in &self.contents {
            if table.is_changed()? {
                changed.push(table.name.as_str());
            }
        }
        Ok(changed)
    }

    /// Puts back what was in the maps after loading.
    pub(super) fn reset(&mut self) -> Result<()> {
        for table in &self.contents {
            table
                .reset()
                .with_context(|| format!("emptying the map {}", table.name))?;
        }
        while self.updates.next().is_some() {}
        // Takes the events out of their ring.
        self.maps.sample().map(drop)
    }
}

/// A map, and what was in it after loading.
struct Table {
    name: String,
    fd: OwnedFd,
    kind: Kind,
    key_size: usize,
    value_size: usize,
}

enum Kind {
    /// With all its values.
    Array(Vec<u8>),
    /// Empty.
    Hash,
    /// Empty.
    Trie,
}

/// `union bpf_attr` of the commands for one element.
#[repr(C)]
#[derive(Default)]
struct Element {
    map_fd: u32,
    _pad: u32,
    key: u64,
    /// Or the next key.
    value: u64,
    flags: u64,
}

const MAP_UPDATE_ELEM: libc::c_long = 2;
const MAP_DELETE_ELEM: libc::c_long = 3;
const MAP_GET_NEXT_KEY: libc::c_long = 4;

impl Table {
    /// `None` for rings, whose reader empties them.
    fn of(name: &str, map: &Map) -> Result<Option<Self>> {
        let (data, per_cpu) = match map {
            Map::RingBuf(_) => return Ok(None),
            Map::PerCpuArray(data) => (data, true),
            Map::Array(data) | Map::HashMap(data) | Map::LruHashMap(data) | Map::LpmTrie(data) => {
                (data, false)
            }
            _ => bail!("is of a type that this cannot empty"),
        };
        let info = data.info()?;
        let size = info.value_size() as usize;
        let mut table = Self {
            name: name.to_owned(),
            fd: data.fd().as_fd().try_clone_to_owned()?,
            kind: Kind::Hash,
            key_size: info.key_size() as usize,
            value_size: if per_cpu {
                let cpus = aya::util::nr_cpus().map_err(|(file, error)| {
                    anyhow::Error::from(error).context(format!("reading {file}"))
                })?;
                size.next_multiple_of(8) * cpus
            } else {
                size
            },
        };
        table.kind = match map {
            Map::LpmTrie(_) => Kind::Trie,
            Map::HashMap(_) | Map::LruHashMap(_) => Kind::Hash,
            _ => Kind::Array(table.read()?.1),
        };
        Ok(Some(table))
    }

    fn read(&self) -> Result<(Vec<u8>, Vec<u8>)> {
        sys::read_raw(self.fd.as_fd(), self.key_size, self.value_size)
    }

    fn is_changed(&self) -> Result<bool> {
        Ok(match &self.kind {
            Kind::Array(before) => self.read()?.1 != *before,
            Kind::Hash => !self.read()?.0.is_empty(),
            Kind::Trie => self.first()?.is_some(),
        })
    }

    fn reset(&self) -> Result<()> {
        match &self.kind {
            Kind::Array(before) => {
                let (_, now) = self.read()?;
                let before = before.chunks_exact(self.value_size);
                let now = now.chunks_exact(self.value_size);
                for (index, (before, now)) in (0_u32..).zip(before.zip(now)) {
                    if before != now {
                        self.update(&index.to_ne_bytes(), before)?;
                    }
                }
            }
            Kind::Hash => {
                for key in self.read()?.0.chunks_exact(self.key_size) {
                    self.delete(key)?;
                }
            }
            Kind::Trie => {
                while let Some(key) = self.first()? {
                    self.delete(&key)?;
                }
            }
        }
        Ok(())
    }

    fn element(&self, key: &[u8]) -> Element {
        Element {
            map_fd: self.fd.as_raw_fd().cast_unsigned(),
            key: key.as_ptr().addr() as u64,
            ..Element::default()
        }
    }

    fn update(&self, key: &[u8], value: &[u8]) -> Result<()> {
        let mut attr = self.element(key);
        attr.value = value.as_ptr().addr() as u64;
        // SAFETY: a key and a value of the map's sizes, which live through the call.
        unsafe { sys::bpf(MAP_UPDATE_ELEM, &mut attr) }?;
        Ok(())
    }

    fn delete(&self, key: &[u8]) -> Result<()> {
        let mut attr = self.element(key);
        // SAFETY: a key of the map's size, which lives through the call.
        unsafe { sys::bpf(MAP_DELETE_ELEM, &mut attr) }?;
        Ok(())
    }

    fn first(&self) -> Result<Option<Vec<u8>>> {
        let mut key = vec![0; self.key_size];
        let mut attr = Element {
            value: key.as_mut_ptr().addr() as u64,
            ..self.element(&[])
        };
        // No key: from the beginning.
        attr.key = 0;
        // SAFETY: room for a key of the map's size, which lives through the call.
        match unsafe { sys::bpf(MAP_GET_NEXT_KEY, &mut attr) } {
            Ok(_) => Ok(Some(key)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
