// SPDX-License-Identifier: Apache-2.0
//! Copies the table of flows, if the other version's rows have another layout. Called by `app`, before and after the programs at
//! interfaces are replaced.
//!
//! The rest of the table, which is the same in both versions, is shared: a row keeps its number. Invariant: a row that this version's
//! programs gave to another flow is not touched.

use std::{io, path::Path};

use nodemesh_abi::{Track, TrackState, flow::FlowState, names::map};
use tracing::info;
use zerocopy::FromBytes as _;

use super::{CarryError, Choice, Former, plan::Translation};
use crate::datapath::{
    pins::PinRoot,
    programs::PROGRAMS,
    shapes::{SHAPES, Shape},
    sys::rows::Rows,
};

/// Times that a row is read again that changes at this moment.
const TRIES: usize = 100;

impl Former {
    /// How many flows this version's table must have room for to take the other's rows; `None` if it need not.
    pub fn flows(&self) -> Result<Option<u32>, CarryError> {
        if !matches!(self.plan.choice(map::TRACKS), Some(Choice::Rows(_))) {
            return Ok(None);
        }
        let tracks = open(&self.pins.map(map::TRACKS));
        let tracks = tracks.map_err(|cause| self.failed("look at", map::TRACKS, cause))?;
        // Row 0 stands for none.
        Ok(Some(tracks.capacity.saturating_sub(1)))
    }

    /// Copies the flows: all of them while the other version's programs run at interfaces, then those that changed since.
    pub fn copy_flows(&self, own: &PinRoot) -> Result<(), CarryError> {
        let shape = SHAPES.iter().find(|shape| shape.name == map::TRACKS);
        let Some((shape, Choice::Rows(translation))) = shape.zip(self.plan.choice(map::TRACKS)) else {
            return Ok(());
        };
        let copied = (|| {
            let mut copy = Copy {
                shape,
                translation,
                former: open(&self.pins.map(map::TRACKS))?,
                own: open(&own.map(map::TRACKS))?,
                is_switched: has_interfaces(own)?,
            };
            copy.rows(used(own)?)
        })();
        let rows = copied.map_err(|cause| self.failed("copy the rows of", map::TRACKS, cause))?;
        info!(rows, "carried flows");
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<Rows> {
    Rows::pinned(path)?.ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Whether this version's programs run at an interface.
fn has_interfaces(own: &PinRoot) -> io::Result<bool> {
    for spec in PROGRAMS.iter().filter(|spec| spec.is_at_interfaces()) {
        if !own.interfaces(spec)?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Rows that were ever taken.
fn used(own: &PinRoot) -> io::Result<u64> {
    let state = open(&own.map(map::TRACK_STATE))?.get(&0_u32.to_ne_bytes())?;
    let state = TrackState::read_from_bytes(&state.unwrap_or_default()).unwrap_or_default();
    Ok(state.fresh)
}

struct Copy<'a> {
    shape: &'a Shape,
    translation: Translation,
    former: Rows,
    own: Rows,
    is_switched: bool,
}

impl Copy<'_> {
    /// How many of the first `used` rows were copied.
    fn rows(&mut self, used: u64) -> io::Result<usize> {
        let last = used.min(self.former.capacity.saturating_sub(1).into()) as u32;
        let mut copied = 0;
        for row in 1..=last {
            copied += usize::from(self.row(row)?);
        }
        Ok(copied)
    }

    fn row(&self, row: u32) -> io::Result<bool> {
        let key = row.to_ne_bytes();
        let own = self.own.get(&key)?.and_then(|value| track(&value));
        for _ in 0..TRIES {
            let value = self.former.get(&key)?;
            let value = value.and_then(|value| self.translation.apply(self.shape, &value));
            let Some((former, value)) = value.and_then(|value| Some((track(&value)?, value))) else {
                return Ok(false);
            };
            let is_free = former.life().raw_state() == FlowState::Free as u8;
            if former.seq & 1 != 0 && !is_free {
                continue;
            }
            let ahead = own.map_or(1, |own| former.seq.wrapping_sub(own.seq).cast_signed());
            if ahead > 0 || ahead == 0 && !self.is_switched {
                return self.own.put(&key, &value);
            }
            return Ok(false);
        }
        Ok(false)
    }
}

fn track(value: &[u8]) -> Option<Track> {
    Track::read_from_bytes(value).ok()
}
