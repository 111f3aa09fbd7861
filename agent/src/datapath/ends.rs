// SPDX-License-Identifier: Apache-2.0
//! The sockets that are enrolled in the shortcut, and their ends. Used by the keeper of the shortcut, the metrics and the self-test.
//!
//! Invariant: a socket is taken out only when nothing that was handed to it waits to be read.

use std::{io, os::fd::AsFd as _};

use aya::maps::{Array, HashMap, MapData, SockHash};
use nodemesh_abi::{
    Rules, Settings,
    names::map,
    shortcut::{End, EndFlags},
};
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::{
    maps::{MapOpError, failed, open},
    pins::PinRoot,
    sys::{self, rows::Rows},
};

/// Handles on the maps.
pub struct Ends {
    sockets: SockHash<MapData, u64>,
    raw: MapData,
    rows: HashMap<MapData, u64, End>,
    rules: Array<MapData, Rules>,
}

impl Ends {
    /// Opens the maps pinned below `pins`.
    pub fn open(pins: &PinRoot) -> Result<Self, MapOpError> {
        let raw = || MapData::from_pin(pins.map(map::SHORT_SOCKS)).map_err(failed("open", map::SHORT_SOCKS));
        let sockets =
            SockHash::try_from(aya::maps::Map::SockHash(raw()?)).map_err(failed("open", map::SHORT_SOCKS))?;
        Ok(Self {
            sockets,
            raw: raw()?,
            rows: open(pins, map::SHORT_ENDS)?,
            rules: open(pins, map::RULES)?,
        })
    }

    /// Cookies of the enrolled sockets; those that come and go meanwhile may be missed.
    pub fn enrolled(&self) -> Vec<u64> {
        self.sockets.keys().flatten().collect()
    }

    /// The end of a socket.
    pub fn end(&self, cookie: u64) -> Option<End> {
        self.rows.get(&cookie, 0).ok()
    }

    /// Whether the service of an end, or its client, has the shortcut switched on.
    pub fn is_on(&self, end: &End) -> bool {
        let by_service = || {
            self.rules
                .get(&end.rules, 0)
                .is_ok_and(|rules| rules.shortcut != 0)
        };
        end.flags & EndFlags::BY_CLIENT != 0 || by_service()
    }

    /// Takes a socket out if nothing waits at its end; true if it did. To be called only for sockets to which nothing is handed any more.
    pub fn take_out(&self, cookie: u64) -> Result<bool, MapOpError> {
        if self.end(cookie).is_some_and(|end| end.progress().unread() != 0) {
            return Ok(false);
        }
        sys::map_delete(self.raw.fd().as_fd(), &cookie)
            .map(|()| true)
            .map_err(|error| failed("delete from", map::SHORT_SOCKS)(aya::maps::MapError::IoError(error)))
    }
}

/// Lets everything that is sent from now on go by TCP, where no agent runs that would say otherwise.
pub fn switch_off(pins: &PinRoot) -> io::Result<()> {
    let rows = Rows::pinned(&pins.map(map::SETTINGS))?.ok_or(io::ErrorKind::NotFound)?;
    let key = 0_u32.to_ne_bytes();
    let value = rows.get(&key)?.unwrap_or_default();
    let mut settings = Settings::read_from_bytes(&value)
        .map_err(|_| io::Error::other("the settings are those of another build"))?;
    settings.shortcut = Settings::shortcut(false);
    rows.put(&key, settings.as_bytes()).map(drop)
}
