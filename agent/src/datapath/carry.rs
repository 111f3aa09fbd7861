// SPDX-License-Identifier: Apache-2.0
//! Carries what must survive from the maps of another version of the ABI into this one's, so that an upgrade or a downgrade loses no
//! connection, count or affinity that both versions can read. Called by `app` around the load and the attachment.
//!
//! ```text
//! plan ─► share (before the load) ─► rows (before the reconciler) ─► records ─► [ attach ] ─► records
//!                                                                ─► flows ─► [ interfaces ] ─► flows ─► remove
//! ```
//!
//! Invariant: until the programs are replaced, nothing that the other version's programs use is changed.

mod flows;
mod plan;

use std::{io, mem::offset_of, os::fd::AsFd as _, time::Instant};

use aya::programs::ProgramFd;
use nodemesh_abi::{Settings, names::map};
use tracing::{info, warn};

pub use self::plan::{Choice, Plan};
use super::{
    listing,
    pins::PinRoot,
    shapes::SHAPES,
    sys::{self, rows::Rows},
};

/// Why something could not be carried.
#[derive(Debug, thiserror::Error)]
#[error("{op} {map} of ABI {version}: {cause}")]
pub struct CarryError {
    /// What was done.
    op: &'static str,
    /// To which map.
    map: &'static str,
    /// Of which version of the ABI.
    version: u32,
    /// With which result.
    cause: io::Error,
}

/// What an agent of another version left, and what becomes of it.
#[derive(Debug)]
pub struct Former {
    pins: PinRoot,
    plan: Plan,
    /// Whether some of this version's programs are attached already: the switch was begun by an agent that did not live to end it.
    is_begun: bool,
}

impl Former {
    /// The other version whose programs are attached, if there is one; removes what was begun and never attached. `own` is where this
    /// agent's pins are, or will be.
    pub fn find(own: &PinRoot) -> io::Result<Option<Self>> {
        let mut attached = Vec::new();
        for pins in own.others()? {
            match pins.links()? {
                0 => {
                    let version = pins.version();
                    let removed = pins.remove()?;
                    info!(version, removed, "removed what an agent of another ABI had begun");
                }
                links => attached.push((links, pins)),
            }
        }
        let Some((_, pins)) = attached.into_iter().max_by_key(|(links, _)| *links) else {
            return Ok(None);
        };
        let is_begun = own.links()? > 0;
        if !is_begun {
            // An upgrade that ended before it attached anything: its rows are old by now.
            own.remove()?;
        }
        let plan = Plan::new(&pins)?;
        plan.tell(pins.version());
        Ok(Some(Self { pins, plan, is_begun }))
    }

    /// The other version's pins.
    pub fn pins(&self) -> &PinRoot {
        &self.pins
    }

    /// Bytes that the records of connections have in common, if they must be copied.
    pub fn record_bytes(&self) -> Option<u32> {
        match self.plan.choice(map::CONNECTIONS) {
            Some(Choice::Records(bytes)) => Some(bytes),
            _ => None,
        }
    }

    /// Pins the maps whose layout is the same as this version's too: the programs of both use them until the switch.
    pub fn share(&self, own: &PinRoot) -> Result<(), CarryError> {
        for shape in SHAPES
            .iter()
            .filter(|shape| self.plan.choice(shape.name) == Some(Choice::Share))
        {
            let pin = || -> io::Result<()> {
                let path = own.map(shape.name);
                if path.exists() {
                    return Ok(());
                }
                sys::object_pin(sys::object_get(&self.pins.map(shape.name))?.as_fd(), &path)
            };
            pin().map_err(|cause| self.failed("share", shape.name, cause))?;
        }
        Ok(())
    }

    /// Translates the rows of the maps whose layout is another one. What programs count in these from now to the switch is not carried.
    ///
    /// Not once this version's programs have begun to write there: what they wrote is newer.
    pub fn rows(&self, own: &PinRoot) -> Result<(), CarryError> {
        if self.is_begun {
            return Ok(());
        }
        // What programs change with each packet is copied when they are replaced.
        for shape in SHAPES.iter().filter(|shape| shape.name != map::TRACKS) {
            let Some(Choice::Rows(translate)) = self.plan.choice(shape.name) else {
                continue;
            };
            let started = Instant::now();
            let carried = (|| {
                let former = Rows::pinned(&self.pins.map(shape.name))?.ok_or(io::ErrorKind::NotFound)?;
                let to = Rows::pinned(&own.map(shape.name))?.ok_or(io::ErrorKind::NotFound)?;
                copy_rows(&former, &to, |value| translate.apply(shape, value))
            })();
            let (rows, lost) = carried.map_err(|cause| self.failed("translate", shape.name, cause))?;
            info!(
                map = shape.name,
                rows,
                lost,
                elapsed_us = started.elapsed().as_micros() as u64,
                "carried"
            );
        }
        Ok(())
    }

    /// Copies the records of open connections with the iterator `program`, as often as it is called.
    pub fn records(&self, program: &ProgramFd) -> Result<(), CarryError> {
        let copied = sys::object_get(&self.pins.map(map::CONNECTIONS))
            .and_then(|former| sys::iterate_map(program.as_fd(), former.as_fd()))
            .and_then(|mut output| while_some(|| listing::read(&mut output, &mut [0; 64])));
        copied.map_err(|cause| self.failed("copy the records of", map::CONNECTIONS, cause))
    }

    /// Makes sockets that the other version enrolled in the shortcut leave everything to TCP, since its programs run on at these until they
    /// are closed and nobody would count for them. Where both versions use the same settings, it is enough that these name this version.
    pub fn end_shortcut(&self) -> Result<(), CarryError> {
        let Some(Choice::Rows(_)) = self.plan.choice(map::SETTINGS) else {
            return Ok(());
        };
        let end = || -> io::Result<()> {
            let rows = Rows::pinned(&self.pins.map(map::SETTINGS))?.ok_or(io::ErrorKind::NotFound)?;
            let key = 0_u32.to_ne_bytes();
            let mut value = rows.get(&key)?.unwrap_or_default();
            let at = offset_of!(Settings, shortcut);
            // A version from before the shortcut has shorter settings.
            if let Some(word) = value.get_mut(at..at + size_of::<u32>()) {
                word.fill(0);
                rows.put(&key, &value)?;
            }
            Ok(())
        };
        end().map_err(|cause| self.failed("end the shortcut in", map::SETTINGS, cause))
    }

    /// Removes the other version's pins, once nothing of it is attached any more.
    pub fn remove(self, own: &PinRoot) {
        let removed = own.others().and_then(|others| {
            others
                .iter()
                .try_fold(0, |removed, pins| Ok(removed + pins.remove()?))
        });
        let version = self.pins.version();
        match removed {
            Ok(removed) => info!(version, removed, "removed the pins of another ABI"),
            Err(error) => {
                warn!(%error, version, "could not remove what an agent of another ABI left; `nodemesh cleanup` does it while no agent runs");
            }
        }
    }

    fn failed(&self, op: &'static str, map: &'static str, cause: io::Error) -> CarryError {
        CarryError {
            op,
            map,
            version: self.pins.version(),
            cause,
        }
    }
}

/// Reads until there is nothing more.
fn while_some(mut read: impl FnMut() -> io::Result<usize>) -> io::Result<()> {
    while read()? > 0 {}
    Ok(())
}

/// Puts every row of `former`, translated, into `to`; how many were put, and how many could not be.
fn copy_rows(
    former: &Rows,
    to: &Rows,
    translate: impl Fn(&[u8]) -> Option<Vec<u8>>,
) -> io::Result<(usize, usize)> {
    let (mut rows, mut lost) = (0, 0);
    let mut key = former.next_key(None)?;
    while let Some(at) = key {
        // A program may have removed it in between.
        if let Some(value) = former.get(&at)? {
            let is_zero = to.form.is_array() && value.iter().all(|byte| *byte == 0);
            let done = match translate(&value) {
                _ if is_zero => None,
                Some(value) => Some(to.put(&at, &value)?),
                None => Some(false),
            };
            match done {
                Some(true) => rows += 1,
                Some(false) => lost += 1,
                None => {}
            }
        }
        key = former.next_key(Some(&at))?;
    }
    Ok((rows, lost))
}
