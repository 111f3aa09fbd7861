// SPDX-License-Identifier: Apache-2.0
//! Attaches the loaded programs, or puts them in the place of those that a former agent left attached, of this version of the ABI or of
//! another one.
//!
//! Invariant: between a former agent's program and ours there is no moment without one, and none in which both count. Links at cgroup
//! hooks are updated in place. A tracepoint's new link is attached beside the old one, but of the two programs only the one whose
//! epoch the settings name does anything.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use aya::{Ebpf, programs::Program};
use tracing::{debug, info};

pub use super::sys::Runs;
use super::{
    kept,
    link::{At, Fault, Link, Running, Target, found},
    loader::Loaded,
    pins::{PinRoot, is_interface_link},
    programs::{Hook, PROGRAMS, ProgramSpec, Use},
    sys,
};

/// Why a program is not attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The cgroup root cannot be opened.
    #[error("open the cgroup {path}: {cause}")]
    Cgroup {
        /// The cgroup root.
        path: PathBuf,
        /// Why not.
        cause: io::Error,
    },
    /// The kernel refused, or the link could not be pinned.
    #[error("attach {program} to {target}: {cause}; the agent needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON")]
    Refused {
        /// The program.
        program: &'static str,
        /// Where to.
        target: String,
        /// Why not.
        cause: io::Error,
    },
    /// The kernel does not know such a hook.
    #[error("{target} cannot be served: this kernel has no tcx hooks, which Linux 6.6 introduced")]
    NoTcx {
        /// The interface.
        target: String,
    },
    /// The folder for pins could not be read or written.
    #[error("note below {path} what is attached: {cause}")]
    Build {
        /// The folder for pins.
        path: PathBuf,
        /// Why not.
        cause: io::Error,
    },
    /// A pinned link could not be handled.
    #[error("{op} the link of {program}: {cause}")]
    Link {
        /// What was done.
        op: &'static str,
        /// The program.
        program: &'static str,
        /// With which result.
        cause: io::Error,
    },
    /// The programs at tracepoints could not be put in force.
    #[error("put the programs at tracepoints in force: {0}")]
    Force(String),
    /// The call succeeded but the kernel does not run the program there.
    #[error(
        "{program} is attached to {cgroup} but is not among the programs that run there ({fault}); another tool may have replaced it"
    )]
    NotEffective {
        /// The program.
        program: &'static str,
        /// The cgroup root.
        cgroup: PathBuf,
        /// What is wrong.
        fault: &'static str,
    },
}

/// Where programs are attached.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The cgroup.
    pub cgroup: &'a Path,
    /// The pins.
    pub pins: &'a PinRoot,
    /// Those of another version, whose programs are attached now.
    pub former: Option<&'a PinRoot>,
}

/// The switch from the programs that are at the tracepoints to those that were attached beside them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switch {
    /// Epoch of the new ones.
    pub epoch: u32,
    /// Whether the old ones know that a switch may be announced, see [`nodemesh_abi::turn`].
    pub is_announced: bool,
}

/// Attaches every program; gives the links by program. `put_in_force` writes the epoch of the programs at tracepoints, `step` is told of
/// each program as it is done.
pub fn attach(
    loaded: &Loaded,
    place: Place<'_>,
    put_in_force: impl FnOnce(Switch) -> Result<(), String>,
    mut step: impl FnMut(&'static str),
) -> Result<BTreeMap<&'static str, Link>, AttachError> {
    let root = File::open(place.cgroup).map_err(|cause| AttachError::Cgroup {
        path: place.cgroup.into(),
        cause,
    })?;
    let build_error = |cause| AttachError::Build {
        path: place.pins.path().into(),
        cause,
    };
    if !loaded.is_kept {
        place.pins.forget_build().map_err(build_error)?;
    }
    place.pins.remember_layouts().map_err(build_error)?;
    let attaching = Attaching {
        loaded,
        place,
        target: Target {
            at: At::Cgroup(&root),
            pins: place.pins,
        },
    };
    let mut links = BTreeMap::new();
    attaching.tracepoints(put_in_force, &mut links, &mut step)?;
    for (spec, running) in attaching.programs(|hook| matches!(hook, Hook::Sockets(_))) {
        links.insert(spec.name, attaching.sockets(spec, running)?);
        step(spec.name);
    }
    for (spec, running) in attaching.programs(|hook| matches!(hook, Hook::Cgroup(_))) {
        links.insert(spec.name, attaching.cgroup(spec, running)?);
        step(spec.name);
    }
    attaching.detach_unused(&links)?;
    attaching.verify(&links)?;
    place.pins.remember_build(loaded.build).map_err(build_error)?;
    Ok(links)
}

/// One attachment of everything.
struct Attaching<'a> {
    loaded: &'a Loaded,
    place: Place<'a>,
    target: Target<'a>,
}

impl Attaching<'_> {
    /// The programs that are used at hooks of a kind, in the order of the table.
    fn programs(
        &self,
        is_hook: impl Fn(Hook) -> bool,
    ) -> impl Iterator<Item = (&'static ProgramSpec, &Running)> {
        PROGRAMS
            .iter()
            .filter(move |spec| is_hook(spec.hook) && spec.is_used(self.used()))
            .filter_map(|spec| Some((spec, self.loaded.running.get(spec.name)?)))
    }

    fn used(&self) -> Use {
        Use {
            meter_path: self.loaded.meter_path,
            carries: false,
            has_packet_path: false,
        }
    }

    fn refused(&self, spec: &ProgramSpec) -> impl FnOnce(io::Error) -> AttachError {
        let program = spec.name;
        let target = match spec.hook {
            Hook::Tracepoint(name) | Hook::Sockets(name) => name.to_owned(),
            _ => self.place.cgroup.display().to_string(),
        };
        move |cause| AttachError::Refused {
            program,
            target,
            cause,
        }
    }

    /// Attaches the programs at tracepoints beside those that are there, lets them take over in one step, and ends the others.
    fn tracepoints(
        &self,
        put_in_force: impl FnOnce(Switch) -> Result<(), String>,
        links: &mut BTreeMap<&'static str, Link>,
        step: &mut impl FnMut(&'static str),
    ) -> Result<(), AttachError> {
        let [in_force, epoch] = self.loaded.epochs;
        let is_announced =
            kept::take_turns(self.place.former.unwrap_or(self.place.pins)).map_err(|cause| {
                AttachError::Build {
                    path: self.place.pins.path().into(),
                    cause,
                }
            })?;
        let mut pending = Vec::new();
        for (spec, running) in self.programs(|hook| matches!(hook, Hook::Tracepoint(_))) {
            self.finish_former(spec, in_force)?;
            if self.loaded.is_kept
                && let Some(link) = self.kept(spec, running)?
            {
                links.insert(spec.name, link);
                debug!(
                    program = spec.name,
                    "kept the program of a pinned link, which is the same"
                );
            } else {
                let path = self.next(spec, epoch);
                found(fs::remove_file(&path)).map_err(self.refused(spec))?;
                let link = Link::create_at(spec, running, self.target, &path).map_err(self.refused(spec))?;
                pending.push((spec, link, path));
            }
            step(spec.name);
        }
        if epoch != in_force || !pending.is_empty() {
            put_in_force(Switch { epoch, is_announced }).map_err(AttachError::Force)?;
        }
        for (spec, link, path) in pending {
            fs::rename(path, self.place.pins.link(spec.name)).map_err(self.refused(spec))?;
            if let Some(former) = self.place.former {
                found(fs::remove_file(former.link(spec.name))).map_err(self.refused(spec))?;
            }
            info!(program = spec.name, "attached");
            links.insert(spec.name, link);
        }
        Ok(())
    }

    /// Where the link of a program that is not in force yet is pinned.
    fn next(&self, spec: &ProgramSpec, epoch: u32) -> PathBuf {
        self.place.pins.link(&format!("{}_e{epoch}", spec.name))
    }

    /// Completes what an agent had begun that was killed between putting its programs in force and naming their links.
    fn finish_former(&self, spec: &ProgramSpec, in_force: u32) -> Result<(), AttachError> {
        let path = self.next(spec, in_force);
        if path.exists() {
            fs::rename(path, self.place.pins.link(spec.name)).map_err(self.refused(spec))?;
        }
        Ok(())
    }

    /// The pinned link of a program that stays.
    fn kept(&self, spec: &ProgramSpec, running: &Running) -> Result<Option<Link>, AttachError> {
        let failed = |cause| AttachError::Link {
            op: "inspect",
            program: spec.name,
            cause,
        };
        let Some(link) = Link::pinned(&self.place.pins.link(spec.name)).map_err(failed)? else {
            return Ok(None);
        };
        let fault = link.fault(spec, running, self.target).map_err(failed)?;
        Ok(fault.is_none().then_some(link))
    }

    /// Gives a map of sockets its program, in the place of the one that it has: sockets that are in it already keep theirs.
    fn sockets(&self, spec: &'static ProgramSpec, running: &Running) -> Result<Link, AttachError> {
        let Hook::Sockets(map) = spec.hook else {
            return Err(self.refused(spec)(io::ErrorKind::Unsupported.into()));
        };
        let link = Link::sockets(map, self.place.pins).map_err(self.refused(spec))?;
        let fault = link.fault(spec, running, self.target);
        match fault.map_err(self.refused(spec))? {
            None => Ok(link),
            Some(fault) => link
                .mend(fault, spec, running, self.target)
                .map_err(|(_, cause)| self.refused(spec)(cause)),
        }
    }

    /// Puts a program into the link of its predecessor, or attaches it.
    fn cgroup(&self, spec: &'static ProgramSpec, running: &Running) -> Result<Link, AttachError> {
        let failed = |op| {
            move |cause| AttachError::Link {
                op,
                program: spec.name,
                cause,
            }
        };
        let own = self.place.pins.link(spec.name);
        let mut link = Link::pinned(&own).map_err(failed("open"))?;
        let is_own = link.is_some();
        if let (None, Some(former)) = (&link, self.place.former) {
            link = Link::pinned(&former.link(spec.name)).map_err(failed("open"))?;
        }
        let Some(link) = link else {
            let link = Link::create(spec, running, self.target).map_err(self.refused(spec))?;
            info!(program = spec.name, cgroup = %self.place.cgroup.display(), "attached");
            return Ok(link);
        };
        let fault = link
            .fault(spec, running, self.target)
            .map_err(failed("inspect"))?;
        let link = if let Some(fault) = fault {
            debug!(
                program = spec.name,
                fault = fault.word(),
                "replaced the program of a pinned link"
            );
            link.mend(fault, spec, running, self.target)
                .map_err(|(_, cause)| failed("update")(cause))?
        } else {
            debug!(
                program = spec.name,
                "kept the program of a pinned link, which is the same"
            );
            link
        };
        if !is_own {
            link.pin(spec, self.target).map_err(failed("pin"))?;
        }
        Ok(link)
    }

    /// Takes away what a former agent attached, or began to attach, and this one does not use. What is at interfaces is for `packet` to
    /// take away.
    fn detach_unused(&self, links: &BTreeMap<&'static str, Link>) -> Result<(), AttachError> {
        let unpinned = self
            .place
            .pins
            .remove_links_but(|name| links.contains_key(name) || is_interface_link(name));
        for name in unpinned.map_err(|cause| AttachError::Build {
            path: self.place.pins.path().into(),
            cause,
        })? {
            info!(link = name, "detached");
        }
        Ok(())
    }

    fn verify(&self, links: &BTreeMap<&'static str, Link>) -> Result<(), AttachError> {
        for (spec, running) in self.programs(Hook::stays) {
            let fault = links.get(spec.name).map_or(Ok(Some(Fault::Detached)), |link| {
                link.fault(spec, running, self.target)
            });
            let fault = fault.map_err(|cause| AttachError::Link {
                op: "inspect",
                program: spec.name,
                cause,
            })?;
            if let Some(fault) = fault {
                return Err(AttachError::NotEffective {
                    program: spec.name,
                    cgroup: self.place.cgroup.into(),
                    fault: fault.word(),
                });
            }
        }
        Ok(())
    }
}

/// What each program cost so far, by name, while the kernel measured: also for a program that a former agent attached.
pub fn runs(ebpf: &Ebpf, pins: &PinRoot) -> Vec<(String, Runs)> {
    let of_pinned = |spec| {
        let running = Running::of_pinned(spec, pins).ok()??;
        sys::program_runs(running.fd()).ok()
    };
    let of_program = |program: &Program| {
        program.info().ok().map(|info| Runs {
            count: info.run_count(),
            time: info.run_time(),
        })
    };
    PROGRAMS
        .iter()
        .filter_map(|spec| {
            let runs = of_pinned(spec).or_else(|| of_program(ebpf.program(spec.name)?))?;
            Some((spec.name.to_owned(), runs))
        })
        .collect()
}
