// SPDX-License-Identifier: Apache-2.0
//! The link of one program to its hook, or the map of sockets that holds its program: held open, pinned, and put right when another tool
//! touched it. Used by `attach`, by `guard` and by `interface_links`.
//!
//! Invariant: whatever is wrong with a link, the new one is attached and pinned before the old one goes, so that there is no moment
//! without a program.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
};

use aya_obj::generated::{bpf_attach_type, bpf_link_info, bpf_link_type};

use super::{
    pins::PinRoot,
    programs::{Hook, ProgramSpec},
    sys::{self, interface},
};

/// A program in the kernel, whoever loaded it.
#[derive(Debug)]
pub struct Running {
    program: OwnedFd,
    id: u32,
}

impl Running {
    /// The program behind a descriptor.
    pub fn new(program: OwnedFd) -> io::Result<Self> {
        let id = sys::program_info(program.as_fd())?.id;
        Ok(Self { program, id })
    }

    /// The program that the pinned link of `spec` runs, of several links the first, or its pinned map of sockets; `None` without such a
    /// link or map, and if the map has no program.
    pub fn of_pinned(spec: &ProgramSpec, pins: &PinRoot) -> io::Result<Option<Self>> {
        let path = match spec.hook {
            Hook::Sockets(map) => Some(pins.map(map)),
            _ => pins.first_link(spec)?,
        };
        let Some(path) = path else {
            return Ok(None);
        };
        let Some(object) = found(sys::object_get(&path))? else {
            return Ok(None);
        };
        let id = match spec.hook {
            Hook::Sockets(_) => sys::sockets_program(object.as_fd())?,
            _ => Some(sys::link_info(object.as_fd())?.prog_id),
        };
        let Some(id) = id else {
            return Ok(None);
        };
        let Some(program) = found(sys::program_by_id(id))? else {
            return Ok(None);
        };
        Ok(Some(Self { program, id }))
    }

    /// The program.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }

    /// Its id in the kernel.
    pub fn id(&self) -> u32 {
        self.id
    }
}

/// `None` for what is not there.
pub(super) fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What is wrong with where a link attaches to.
fn misplaced(info: &bpf_link_info, hook: Hook, at: At<'_>) -> io::Result<Option<Fault>> {
    let moved = Ok(Some(Fault::Moved));
    let is = |kind: bpf_link_type| info.type_ == kind as u32;
    match (hook, at) {
        (Hook::Cgroup(kind), At::Cgroup(root)) if is(bpf_link_type::BPF_LINK_TYPE_CGROUP) => {
            // SAFETY: a link at a cgroup, for which the kernel fills this member.
            let cgroup = unsafe { info.__bindgen_anon_1.cgroup };
            if cgroup.cgroup_id == 0 {
                return Ok(Some(Fault::Detached));
            }
            let is_there = cgroup.attach_type == kind as u32 && cgroup.cgroup_id == root.metadata()?.ino();
            Ok((!is_there).then_some(Fault::Moved))
        }
        (Hook::Tcx(kind), At::Interface { index, .. }) if is(bpf_link_type::BPF_LINK_TYPE_TCX) => {
            // SAFETY: a tcx link, for which the kernel fills this member.
            let tcx = unsafe { info.__bindgen_anon_1.tcx };
            if tcx.attach_type != kind as u32 {
                return moved;
            }
            Ok(elsewhere(tcx.ifindex, index))
        }
        (Hook::Xdp, At::Interface { index, .. }) if is(bpf_link_type::BPF_LINK_TYPE_XDP) => {
            // SAFETY: an XDP link, for which the kernel fills this member.
            let xdp = unsafe { info.__bindgen_anon_1.xdp };
            Ok(elsewhere(xdp.ifindex, index))
        }
        (Hook::Cgroup(_) | Hook::Tcx(_) | Hook::Xdp, _) => moved,
        _ => Ok(None),
    }
}

/// What is wrong with a link at the interface `is` that belongs at another; 0 is none.
fn elsewhere(is: u32, should_be: u32) -> Option<Fault> {
    match is {
        0 => Some(Fault::Detached),
        index => (index != should_be).then_some(Fault::Moved),
    }
}

/// What is wrong with a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The file of its pin is gone, or is that of another object.
    Unpinned,
    /// It runs another program.
    Replaced,
    /// It was detached.
    Detached,
    /// It is at another cgroup than the one that is configured, or at another interface.
    Moved,
    /// The kernel does not run its program there.
    Ineffective,
}

impl Fault {
    /// Every fault.
    pub const ALL: [Self; 5] = [
        Self::Unpinned,
        Self::Replaced,
        Self::Detached,
        Self::Moved,
        Self::Ineffective,
    ];

    /// The word for it, in metrics and in the log.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unpinned => "unpinned",
            Self::Replaced => "replaced",
            Self::Detached => "detached",
            Self::Moved => "moved",
            Self::Ineffective => "ineffective",
        }
    }
}

/// Where links belong.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// What they attach to; programs at tracepoints do not ask.
    pub at: At<'a>,
    /// The pins.
    pub pins: &'a PinRoot,
}

/// What a link attaches to.
#[derive(Clone, Copy, Debug)]
pub enum At<'a> {
    /// The cgroup, open.
    Cgroup(&'a File),
    /// An interface.
    Interface {
        /// Its number.
        index: u32,
        /// How XDP is to run there, `XDP_FLAGS_*` of `linux/if_link.h`; 0 for other hooks.
        xdp_flags: u32,
    },
}

impl Target<'_> {
    /// Where the link of `spec` is pinned.
    pub fn path(&self, spec: &ProgramSpec) -> PathBuf {
        match self.at {
            At::Cgroup(_) => self.pins.link(spec.name),
            At::Interface { index, .. } => self.pins.interface_link(spec, index),
        }
    }
}

/// A link, held open so that it outlives its pin. Of a program for a map of sockets it is the map, which the program is attached to
/// without a link (these came with Linux 6.10): pinned, and guarded, as a map.
#[derive(Debug)]
pub struct Link {
    fd: OwnedFd,
    id: u32,
}

impl Link {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        let id = sys::link_info(fd.as_fd())?.id;
        Ok(Self { fd, id })
    }

    /// The link that is pinned at `path`.
    pub fn pinned(path: &Path) -> io::Result<Option<Self>> {
        found(sys::object_get(path))?.map(Self::new).transpose()
    }

    /// The pinned map that a program for sockets is attached to.
    pub fn sockets(map: &str, pins: &PinRoot) -> io::Result<Self> {
        let fd = sys::object_get(&pins.map(map))?;
        let id = sys::map_info(fd.as_fd())?.id;
        Ok(Self { fd, id })
    }

    /// Attaches `running` and pins the link in the place of whatever is pinned for it.
    pub fn create(spec: &ProgramSpec, running: &Running, target: Target<'_>) -> io::Result<Self> {
        let link = Self::attach(spec, running, target)?;
        link.pin(spec, target)?;
        Ok(link)
    }

    /// Attaches `running` and pins the link at `path`, where nothing is.
    pub fn create_at(
        spec: &ProgramSpec,
        running: &Running,
        target: Target<'_>,
        path: &Path,
    ) -> io::Result<Self> {
        let link = Self::attach(spec, running, target)?;
        sys::object_pin(link.fd.as_fd(), path)?;
        Ok(link)
    }

    fn attach(spec: &ProgramSpec, running: &Running, target: Target<'_>) -> io::Result<Self> {
        let program = running.fd();
        let fd = match (spec.hook, target.at) {
            (Hook::Tracepoint(_), _) => sys::link_tracepoint_program(program)?,
            (Hook::Cgroup(kind), At::Cgroup(cgroup)) => {
                sys::link_cgroup_program(program, cgroup.as_fd(), kind)?
            }
            (Hook::Tcx(kind), At::Interface { index, .. }) => {
                interface::link_program(program, index, kind, 0)?
            }
            (Hook::Xdp, At::Interface { index, xdp_flags }) => {
                interface::link_program(program, index, bpf_attach_type::BPF_XDP, xdp_flags)?
            }
            _ => return Err(io::ErrorKind::Unsupported.into()),
        };
        Self::new(fd)
    }

    /// Pins it under the name of `spec`, over what is pinned there, which ends with that.
    pub fn pin(&self, spec: &ProgramSpec, target: Target<'_>) -> io::Result<()> {
        let next = target.pins.link(&format!("{}_next", spec.name));
        found(fs::remove_file(&next))?;
        sys::object_pin(self.fd.as_fd(), &next)?;
        fs::rename(&next, target.path(spec))
    }

    /// Makes it run `running` (`BPF_LINK_UPDATE`).
    pub fn update(&self, running: &Running) -> io::Result<()> {
        sys::link_update(self.fd.as_fd(), running.fd())
    }

    /// What is wrong with it, if it is to run `running` at `target`.
    pub fn fault(
        &self,
        spec: &ProgramSpec,
        running: &Running,
        target: Target<'_>,
    ) -> io::Result<Option<Fault>> {
        if let Hook::Sockets(_) = spec.hook {
            return Ok(match sys::sockets_program(self.fd.as_fd())? {
                None => Some(Fault::Detached),
                Some(id) => (id != running.id()).then_some(Fault::Replaced),
            });
        }
        let info = sys::link_info(self.fd.as_fd())?;
        if let Some(fault) = misplaced(&info, spec.hook, target.at)? {
            return Ok(Some(fault));
        }
        if info.prog_id != running.id() {
            return Ok(Some(Fault::Replaced));
        }
        let is_pinned = Self::pinned(&target.path(spec))?.is_some_and(|pinned| pinned.id == self.id);
        if !is_pinned {
            return Ok(Some(Fault::Unpinned));
        }
        let effective = match (spec.hook, target.at) {
            (Hook::Cgroup(kind), At::Cgroup(cgroup)) => sys::effective_programs(cgroup.as_fd(), kind)?,
            (Hook::Tcx(kind), At::Interface { index, .. }) => interface::programs(index, kind)?,
            // The kernel lets nobody replace a link at a tracepoint, nor one at the XDP hook.
            _ => return Ok(None),
        };
        Ok((!effective.contains(&running.id())).then_some(Fault::Ineffective))
    }

    /// Puts right what is wrong with it; gives the link that is in force then.
    pub fn mend(
        self,
        fault: Fault,
        spec: &ProgramSpec,
        running: &Running,
        target: Target<'_>,
    ) -> Result<Self, (Self, io::Error)> {
        if let Hook::Sockets(_) = spec.hook {
            return match sys::attach_to_sockets(running.fd(), self.fd.as_fd()) {
                Ok(()) => Ok(self),
                Err(error) => Err((self, error)),
            };
        }
        let kept = match fault {
            Fault::Unpinned => self.pin(spec, target),
            // A link to a tracepoint cannot be updated.
            Fault::Replaced if !matches!(spec.hook, Hook::Tracepoint(_)) => self.update(running),
            _ => return Self::create(spec, running, target).map_err(|error| (self, error)),
        };
        match kept {
            Ok(()) => Ok(self),
            // Of another type, although it is pinned under this name.
            Err(_) if fault == Fault::Replaced => {
                Self::create(spec, running, target).map_err(|error| (self, error))
            }
            Err(error) => Err((self, error)),
        }
    }
}
