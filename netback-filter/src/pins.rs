// SPDX-License-Identifier: GPL-3.0-only
//! The pin directory: what a daemon leaves in the kernel and the next one finds.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::maps::{Array, Map, MapData, MapError, MapInfo, MapType};
use log::{info, warn};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use crate::error::Error;
use crate::layout::{CONTROL_LAYOUT, LAYOUT_VERSION};

/// Every map of the object, all of them pinned.
pub(crate) const MAPS: [&str; 26] = [
    "vifs",
    "stations",
    "scopes",
    "sources",
    "mirrors",
    "control",
    "peers",
    "rules",
    "with_verdicts",
    "verdicts",
    "flows",
    "turns",
    "hands",
    "fragments",
    "refusals",
    "holds",
    "services",
    "spreads",
    "backends",
    "dead",
    "choices",
    "redirects",
    "returns",
    "counters",
    "histograms",
    "events",
];

/// What the names of pinned programs begin with.
const PROGRAM: &str = "program-";

/// What was found in the pin directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    /// All maps, of this layout.
    Current,
    /// Maps of another layout, or only some.
    Foreign,
}

/// A directory on bpffs that holds our maps under their names, and our programs.
pub(crate) struct Pins {
    dir: PathBuf,
}

impl Pins {
    /// Makes the directory if need be.
    pub(crate) fn open(dir: &Path) -> Result<Self, Error> {
        let failed = |source| Error::PinDir {
            path: dir.to_owned(),
            source,
        };
        // Looked at before it is made, so that nothing is left on another file system.
        let existing = dir
            .ancestors()
            .find(|path| path.exists())
            .unwrap_or(Path::new("/"));
        let kind = statfs(existing)
            .map_err(|errno| failed(errno.into()))?
            .filesystem_type();
        if kind != BPF_FS_MAGIC {
            return Err(Error::NoBpfFs { path: dir.to_owned() });
        }
        fs::create_dir_all(dir).map_err(failed)?;
        Ok(Self { dir: dir.to_owned() })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// What is there. Foreign maps are unpinned; filters that still use them go on doing so until they are exchanged.
    pub(crate) fn adopt_or_clear(&self) -> Result<Found, Error> {
        let there = MAPS.iter().filter(|name| self.dir.join(name).exists()).count();
        if there == 0 {
            return Ok(Found::Nothing);
        }
        let version = self.layout_version();
        if there == MAPS.len() && version == LAYOUT_VERSION {
            info!("{}: taking over the maps in force", self.dir.display());
            return Ok(Found::Current);
        }
        warn!(
            "{}: {there} of {} maps, layout version {version} instead of {LAYOUT_VERSION}: replacing them; their flows \
             and rules are lost, and attached vifs stay under the old filters until they are attached again",
            self.dir.display(),
            MAPS.len()
        );
        self.remove_programs()?;
        self.remove_maps()?;
        Ok(Found::Foreign)
    }

    /// 0 when it cannot be read: written last, so such maps are not complete.
    fn layout_version(&self) -> u32 {
        self.map::<Array<MapData, u32>>("control")
            .ok()
            .and_then(|control| control.get(&CONTROL_LAYOUT, 0).ok())
            .unwrap_or(0)
    }

    /// How many entries a pinned map has room for, if it is there.
    pub(crate) fn capacity(&self, name: &str) -> Option<u32> {
        MapInfo::from_pin(self.dir.join(name))
            .ok()
            .map(|info| info.max_entries())
    }

    /// What kind of map a pinned one is, if it is there.
    pub(crate) fn map_type(&self, name: &str) -> Option<MapType> {
        MapInfo::from_pin(self.dir.join(name)).ok()?.map_type().ok()
    }

    pub(crate) fn map_data(&self, name: &'static str) -> Result<MapData, Error> {
        MapData::from_pin(self.dir.join(name)).map_err(|e| Error::Map {
            map: name,
            source: e.into(),
        })
    }

    /// A pinned map as a type of the loader library, which compares the sizes of key and value.
    pub(crate) fn map<T: TryFrom<Map, Error = MapError>>(&self, name: &'static str) -> Result<T, Error> {
        let data = self.map_data(name)?;
        Map::from_map_data(data)
            .and_then(T::try_from)
            .map_err(|e| Error::Map {
                map: name,
                source: e.into(),
            })
    }

    /// The kernel's numbers of the pinned maps.
    pub(crate) fn map_ids(&self) -> Result<BTreeSet<u32>, Error> {
        let id = |name| MapInfo::from_pin(self.dir.join(name)).map(|info| info.id());
        MAPS.iter()
            .map(|name| {
                id(name).map_err(|e| Error::Map {
                    map: name,
                    source: e.into(),
                })
            })
            .collect()
    }

    /// Where a program is pinned. `key`: of what it is made.
    pub(crate) fn program(&self, name: &str, key: &str) -> PathBuf {
        self.dir.join(format!("{PROGRAM}{name}-{key}"))
    }

    /// Unpins programs, whatever their keys. Where they are attached they stay.
    pub(crate) fn remove_programs(&self) -> Result<(), Error> {
        let failed = |source| Error::PinDir {
            path: self.dir.clone(),
            source,
        };
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry
                .file_name()
                .as_encoded_bytes()
                .starts_with(PROGRAM.as_bytes())
            {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }

    fn remove_maps(&self) -> Result<(), Error> {
        MAPS.iter().try_for_each(|name| remove(&self.dir.join(name)))
    }

    /// Unpins the programs and maps and removes the directory, unless somebody else has something in it.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        self.remove_programs()?;
        self.remove_maps()?;
        match fs::remove_dir(&self.dir) {
            Err(source) if source.kind() != io::ErrorKind::DirectoryNotEmpty => Err(Error::PinDir {
                path: self.dir.clone(),
                source,
            }),
            _ => Ok(()),
        }
    }
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::PinDir {
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}
