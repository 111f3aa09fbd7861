// SPDX-License-Identifier: Apache-2.0
//! The packet path's maps beside its services: settings, counters, and the table of flows, which is read where the kernel has it.
//!
//! [`FlowWriter`] belongs to the thread of the packet path; [`FlowReader`] is shared. Invariant: a row of the table is handed out only if
//! it was the same flow's from the first byte to the last.

use std::{
    net::IpAddr,
    os::fd::AsFd as _,
    ptr::NonNull,
    sync::atomic::{Ordering, fence},
};

use aya::maps::{Array, HashMap, MapData, PerCpuArray};
use nodemesh_abi::{FlowCount, FlowEvent, FlowSettings, Ip16, Source, Track, TrackState, names::map};

use super::{
    maps::{MapOpError, failed, io_failed, open},
    pins::PinRoot,
    sys,
};

/// Tells the programs how the packet path is set up.
pub struct FlowWriter {
    settings: Array<MapData, FlowSettings>,
    rows: u32,
    sets: u32,
}

impl FlowWriter {
    /// Opens the maps pinned below `pins`.
    pub fn open(pins: &PinRoot) -> Result<Self, MapOpError> {
        Ok(Self {
            settings: open(pins, map::FLOW_SETTINGS)?,
            // Row 0 stands for none.
            rows: entries(pins, map::TRACKS)?.saturating_sub(1),
            sets: entries(pins, map::TRACK_INDEX)?,
        })
    }

    /// Rows of the table, and sets of its index.
    pub fn size(&self) -> (u32, u32) {
        (self.rows, self.sets)
    }

    /// The settings that are there.
    pub fn settings(&self) -> Result<FlowSettings, MapOpError> {
        self.settings
            .get(&0, 0)
            .map_err(failed("read", map::FLOW_SETTINGS))
    }

    /// Writes the settings.
    pub fn put_settings(&mut self, settings: &FlowSettings) -> Result<(), MapOpError> {
        self.settings
            .set(0, settings, 0)
            .map_err(failed("write", map::FLOW_SETTINGS))
    }
}

fn entries(pins: &PinRoot, name: &'static str) -> Result<u32, MapOpError> {
    let info = MapData::from_pin(pins.map(name)).and_then(|data| data.info());
    info.map(|info| info.max_entries())
        .map_err(failed("inspect", name))
}

/// Reads what the programs count, and the flows.
pub struct FlowReader {
    counts: PerCpuArray<MapData, FlowCount>,
    state: Array<MapData, TrackState>,
    sources: HashMap<MapData, Ip16, Source>,
    tracks: Tracks,
}

impl FlowReader {
    /// Opens the maps pinned below `pins`.
    pub fn open(pins: &PinRoot) -> Result<Self, MapOpError> {
        Ok(Self {
            counts: open(pins, map::FLOW_COUNTS)?,
            state: open(pins, map::TRACK_STATE)?,
            sources: open(pins, map::TRACK_SOURCES)?,
            tracks: Tracks::open(pins)?,
        })
    }

    /// What became of packets and flows since the maps were created, over all CPUs.
    pub fn counts(&self) -> Result<[FlowCount; FlowEvent::COUNT], MapOpError> {
        let mut sums = [FlowCount::default(); FlowEvent::COUNT];
        for (index, sum) in sums.iter_mut().enumerate() {
            let per_cpu = self
                .counts
                .get(&(index as u32), 0)
                .map_err(failed("read", map::FLOW_COUNTS))?;
            for count in per_cpu.iter() {
                sum.packets = sum.packets.wrapping_add(count.packets);
                sum.bytes = sum.bytes.wrapping_add(count.bytes);
            }
        }
        Ok(sums)
    }

    /// How full the table is.
    pub fn state(&self) -> Result<TrackState, MapOpError> {
        self.state.get(&0, 0).map_err(failed("read", map::TRACK_STATE))
    }

    /// Rows that there are.
    pub fn limit(&self) -> u32 {
        self.tracks.rows
    }

    /// The `most` clients that opened the most flows, most first.
    pub fn top_sources(&self, most: usize) -> Vec<(IpAddr, Source)> {
        let mut sources: Vec<_> = self.sources.iter().filter_map(Result::ok).collect();
        sources.sort_unstable_by_key(|(address, source)| (std::cmp::Reverse(source.opened), *address));
        sources.truncate(most);
        sources
            .into_iter()
            .map(|(address, source)| (address.into(), source))
            .collect()
    }

    /// Hands every flow to `visit`.
    pub fn scan(&self, mut visit: impl FnMut(&Track)) -> Result<(), MapOpError> {
        let used = self.state()?.fresh.min(self.limit().into()) as u32;
        for row in 1..=used {
            if let Some(track) = self.tracks.row(row) {
                visit(&track);
            }
        }
        Ok(())
    }
}

/// `tracks`, mapped into memory.
struct Tracks {
    first: NonNull<Track>,
    /// Rows after the first, which stands for none.
    rows: u32,
    length: usize,
}

impl Tracks {
    fn open(pins: &PinRoot) -> Result<Self, MapOpError> {
        // The loader has checked that its values are rows.
        let data = MapData::from_pin(pins.map(map::TRACKS)).map_err(failed("open", map::TRACKS))?;
        let entries = data.info().map_err(failed("inspect", map::TRACKS))?.max_entries();
        let length = entries as usize * size_of::<Track>();
        let mapped = sys::memory::map(data.fd().as_fd(), length);
        let first = mapped.map_err(|error| io_failed("map", map::TRACKS, error))?;
        Ok(Self {
            first: first.cast(),
            rows: entries.saturating_sub(1),
            length,
        })
    }

    /// The flow of a row; `None` if there is none, or it became another one at this moment.
    fn row(&self, row: u32) -> Option<Track> {
        if row > self.rows {
            return None;
        }
        // SAFETY: the mapping has `rows` rows after the first. Programs change it meanwhile, which is why the reads are volatile and
        // the copy is trusted only if the row's sequence number stood still; every bit pattern is a `Track`.
        unsafe {
            let row = self.first.add(row as usize).as_ptr();
            let before = (&raw const (*row).seq).read_volatile();
            fence(Ordering::Acquire);
            let track = row.read_volatile();
            fence(Ordering::Acquire);
            let after = (&raw const (*row).seq).read_volatile();
            (before == after && track.is_live()).then_some(track)
        }
    }
}

impl Drop for Tracks {
    fn drop(&mut self) {
        // SAFETY: nobody else has the mapping, and it is not used any more.
        unsafe { sys::memory::unmap(self.first.cast(), self.length) };
    }
}

// SAFETY: the mapping is read only, by volatile reads.
unsafe impl Send for Tracks {}
// SAFETY: as above.
unsafe impl Sync for Tracks {}
