// SPDX-License-Identifier: Apache-2.0
//! What a former agent of this very build left attached, and which therefore stays: loading it again would take seconds and change
//! nothing. Called by the loader.
//!
//! Invariant: programs are kept all or none, and only if the maps that they use are those that are pinned.

use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
};

use nodemesh_abi::{
    Settings,
    names::{map, program},
};
use tracing::{info, warn};
use zerocopy::FromBytes as _;

use super::{
    link::{Running, found},
    pins::PinRoot,
    programs::{Hook, PROGRAMS},
    shapes::SHAPES,
    sys::{self, rows::Rows},
};

/// Pins the maps of programs that are attached again, where the files of their pins were removed while no agent ran.
pub fn restore_maps(pins: &PinRoot) -> io::Result<()> {
    let missing = |name: &str| SHAPES.iter().any(|shape| shape.name == name) && !pins.map(name).exists();
    // A map of sockets may be another version's too, and so is its program then.
    let linked = PROGRAMS
        .iter()
        .filter(|spec| !matches!(spec.hook, Hook::Sockets(_)));
    for spec in linked {
        let Some(running) = allowed(Running::of_pinned(spec, pins))? else {
            continue;
        };
        for (name, map) in maps(&running)? {
            if missing(&name) {
                fs::create_dir_all(pins.map(""))?;
                sys::object_pin(map.as_fd(), &pins.map(&name))?;
                warn!(
                    map = name,
                    "the pin of a map was gone while its programs ran; pinned it again"
                );
            }
        }
    }
    Ok(())
}

/// `None` for what only `CAP_SYS_ADMIN` may look at: objects by their ids. An agent without it does without.
fn allowed<T>(looked: io::Result<Option<T>>) -> io::Result<Option<T>> {
    match looked {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(None),
        looked => looked,
    }
}

/// The programs behind all links that are pinned; none if one of them is not what its name says.
pub fn programs(pins: &PinRoot) -> io::Result<BTreeMap<&'static str, Running>> {
    let pinned = pinned_maps(pins)?;
    let mut programs = BTreeMap::new();
    for spec in PROGRAMS {
        let Some(running) = allowed(Running::of_pinned(spec, pins))? else {
            continue;
        };
        let name = sys::object_name(&sys::program_info(running.fd())?.name);
        let is_ours = |(name, map): &(String, OwnedFd)| match pinned.get(name) {
            Some(id) => sys::map_info(map.as_fd()).is_ok_and(|info| info.id == *id),
            None => true,
        };
        if name != spec.name || !maps(&running)?.iter().all(is_ours) {
            info!(
                program = spec.name,
                found = name,
                "a pinned link runs something else; loading every program again"
            );
            return Ok(BTreeMap::new());
        }
        programs.insert(spec.name, running);
    }
    Ok(programs)
}

/// [`Settings::epoch`] of the programs that are in force; 0 if there are none.
pub fn epoch(pins: &PinRoot) -> io::Result<u32> {
    let Some(rows) = Rows::pinned(&pins.map(map::SETTINGS))? else {
        return Ok(0);
    };
    let value = rows.get(&0_u32.to_ne_bytes())?.unwrap_or_default();
    Ok(Settings::read_from_bytes(&value).map_or(0, |settings| settings.epoch_in_force()))
}

/// Whether the programs that the pinned links below `pins` run count no event twice when others are put in force, see
/// [`nodemesh_abi::turn`]: those of earlier builds do not know of it.
pub fn take_turns(pins: &PinRoot) -> io::Result<bool> {
    let Some(spec) = PROGRAMS.iter().find(|spec| spec.name == program::RETRANSMIT) else {
        return Ok(false);
    };
    let Some(running) = Running::of_pinned(spec, pins)? else {
        return Ok(false);
    };
    Ok(maps(&running)?.iter().any(|(name, _)| name == map::TURNS))
}

/// The maps that a program uses, by name.
fn maps(running: &Running) -> io::Result<Vec<(String, OwnedFd)>> {
    let mut maps = Vec::new();
    for id in sys::program_maps(running.fd())? {
        if let Some(map) = found(sys::map_by_id(id))? {
            maps.push((sys::object_name(&sys::map_info(map.as_fd())?.name), map));
        }
    }
    Ok(maps)
}

/// Ids of the pinned maps, by name.
fn pinned_maps(pins: &PinRoot) -> io::Result<BTreeMap<String, u32>> {
    let mut ids = BTreeMap::new();
    for shape in SHAPES {
        if let Some(map) = found(sys::object_get(&pins.map(shape.name)))? {
            ids.insert(shape.name.to_owned(), sys::map_info(map.as_fd())?.id);
        }
    }
    Ok(ids)
}
