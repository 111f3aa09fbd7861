// SPDX-License-Identifier: Apache-2.0
//! Attaches the loaded programs, or puts them in the place of those that a former agent left attached.
//!
//! Invariant: between a former agent's program and ours there is no moment without one: links at cgroup hooks are
//! updated in place, and a tracepoint's new link is pinned over the old one only after it is attached. An agent of the same build
//! finds the same programs at the tracepoints and leaves them there, so that no byte is metered twice.

use std::{
    fs::{self, File},
    io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    pin::PinError,
    programs::{
        CgroupAttachMode, CgroupSkbAttachType, Program, ProgramError,
        links::{FdLink, LinkError},
    },
};
use aya_obj::generated::bpf_attach_type;
use tracing::{debug, info};

pub use super::sys::Runs;
use super::{
    loader::Loaded,
    pins::PinRoot,
    programs::{Hook, PROGRAMS, ProgramSpec},
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
    /// The kernel refused.
    #[error("attach {program} to {target}: {cause}; the agent needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON")]
    Refused {
        /// The program.
        program: &'static str,
        /// Where to.
        target: String,
        /// Why not.
        cause: ProgramError,
    },
    /// The link could not be pinned.
    #[error("pin the link of {program}: {cause}")]
    Pin {
        /// The program.
        program: &'static str,
        /// Why not.
        cause: PinError,
    },
    /// It could not be noted of which build the programs are.
    #[error("note in {path} of which build the attached programs are: {cause}")]
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
    /// The call succeeded but the kernel does not run the program there.
    #[error(
        "{program} is attached to {cgroup} but is not among the programs that run there; another tool may have replaced it"
    )]
    NotEffective {
        /// The program.
        program: &'static str,
        /// The cgroup root.
        cgroup: PathBuf,
    },
}

/// Attaches every program to `cgroup` or to its tracepoint; `step` is told of each as it is done.
pub fn attach(
    loaded: &mut Loaded,
    cgroup: &Path,
    pins: &PinRoot,
    mut step: impl FnMut(&'static str),
) -> Result<(), AttachError> {
    let root = File::open(cgroup).map_err(|cause| AttachError::Cgroup {
        path: cgroup.into(),
        cause,
    })?;
    let build_error = |cause| AttachError::Build {
        path: pins.path().into(),
        cause,
    };
    let same_build = pins.is_of(loaded.build);
    if !same_build {
        pins.forget_build().map_err(build_error)?;
    }
    for spec in PROGRAMS {
        if !spec.is_used(loaded.meter_path, loaded.has_packet_path) {
            detach(spec, pins)?;
            continue;
        }
        let Some(program) = loaded.ebpf.program_mut(spec.name) else {
            continue;
        };
        match spec.hook {
            Hook::Cgroup(_) => attach_cgroup(program, spec, &root, cgroup, pins)?,
            Hook::Tracepoint(_) if same_build && is_linked(spec, pins)? => {
                debug!(
                    program = spec.name,
                    "left the program of a pinned link, which is the same"
                );
            }
            Hook::Tracepoint(name) => attach_tracepoint(program, spec, name, pins)?,
            Hook::Iterator(_) | Hook::TestRun | Hook::Tcx(_) | Hook::Xdp | Hook::PacketTestRun => continue,
        }
        step(spec.name);
    }
    verify(&loaded.ebpf, &root, cgroup)?;
    pins.remember_build(loaded.build).map_err(build_error)
}

/// Takes away what a former agent attached and this one does not use.
fn detach(spec: &ProgramSpec, pins: &PinRoot) -> Result<(), AttachError> {
    match fs::remove_file(pins.link(spec.name)) {
        Ok(()) => info!(program = spec.name, "detached"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(cause) => {
            return Err(AttachError::Link {
                op: "unpin",
                program: spec.name,
                cause,
            });
        }
    }
    Ok(())
}

/// Whether a link of the program is pinned.
fn is_linked(spec: &ProgramSpec, pins: &PinRoot) -> Result<bool, AttachError> {
    match sys::object_get(&pins.link(spec.name)) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(cause) => Err(AttachError::Link {
            op: "open",
            program: spec.name,
            cause,
        }),
    }
}

fn attach_cgroup(
    program: &mut Program,
    spec: &ProgramSpec,
    root: &File,
    cgroup: &Path,
    pins: &PinRoot,
) -> Result<(), AttachError> {
    let pin = pins.link(spec.name);
    if update_pinned(program, spec, root, &pin)? {
        debug!(program = spec.name, "replaced the program of a pinned link");
        return Ok(());
    }
    let refused = |cause| AttachError::Refused {
        program: spec.name,
        target: cgroup.display().to_string(),
        cause,
    };
    let link = cgroup_link(program, spec.hook, root).map_err(refused)?;
    link.pin(&pin).map_err(|cause| AttachError::Pin {
        program: spec.name,
        cause,
    })?;
    info!(program = spec.name, cgroup = %cgroup.display(), "attached");
    Ok(())
}

/// Attaches with `BPF_LINK_CREATE` and no flags, which for cgroups always means "beside the programs of others".
fn cgroup_link(program: &mut Program, hook: Hook, root: &File) -> Result<FdLink, ProgramError> {
    let from_link = |_: LinkError| ProgramError::UnexpectedProgramType;
    match program {
        Program::CgroupSockAddr(program) => {
            let id = program.attach(root, CgroupAttachMode::Single)?;
            program.take_link(id)?.try_into().map_err(from_link)
        }
        Program::CgroupSock(program) => {
            let id = program.attach(root, CgroupAttachMode::Single)?;
            program.take_link(id)?.try_into().map_err(from_link)
        }
        Program::SockOps(program) => {
            let id = program.attach(root, CgroupAttachMode::Single)?;
            program.take_link(id)?.try_into().map_err(from_link)
        }
        Program::CgroupSkb(program) => {
            let direction = match hook {
                Hook::Cgroup(bpf_attach_type::BPF_CGROUP_INET_EGRESS) => CgroupSkbAttachType::Egress,
                _ => CgroupSkbAttachType::Ingress,
            };
            let id = program.attach(root, direction, CgroupAttachMode::Single)?;
            program.take_link(id)?.try_into().map_err(from_link)
        }
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// Puts `program` into the link that a former agent pinned, if that link is to the same cgroup.
fn update_pinned(
    program: &Program,
    spec: &ProgramSpec,
    root: &File,
    pin: &Path,
) -> Result<bool, AttachError> {
    let failed = |op| {
        move |cause| AttachError::Link {
            op,
            program: spec.name,
            cause,
        }
    };
    let link = match sys::object_get(pin) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed("open")(error)),
    };
    if sys::link_cgroup(link.as_fd()).map_err(failed("inspect"))?
        != cgroup_id(root).map_err(failed("inspect"))?
    {
        fs::remove_file(pin).map_err(failed("unpin"))?;
        return Ok(false);
    }
    let fd = program
        .fd()
        .map_err(|error| failed("update")(io::Error::other(error)))?;
    sys::link_update(link.as_fd(), fd.as_fd()).map_err(failed("update"))?;
    Ok(true)
}

/// Id of a cgroup: the inode number of its folder.
fn cgroup_id(cgroup: &File) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    Ok(cgroup.metadata()?.ino())
}

fn attach_tracepoint(
    program: &mut Program,
    spec: &ProgramSpec,
    tracepoint: &str,
    pins: &PinRoot,
) -> Result<(), AttachError> {
    let refused = |cause| AttachError::Refused {
        program: spec.name,
        target: tracepoint.into(),
        cause,
    };
    let Program::BtfTracePoint(program) = program else {
        return Err(refused(ProgramError::UnexpectedProgramType));
    };
    let id = program.attach().map_err(refused)?;
    let link: FdLink = program.take_link(id).map_err(refused)?.into();
    let failed = |op| {
        move |cause| AttachError::Link {
            op,
            program: spec.name,
            cause,
        }
    };

    // A link at a tracepoint cannot be updated. The old one ends when its only pin is overwritten by the rename.
    let next = pins.link(&format!("{}_next", spec.name));
    match fs::remove_file(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("unpin")(error)),
        _ => {}
    }
    link.pin(&next).map_err(|cause| AttachError::Pin {
        program: spec.name,
        cause,
    })?;
    fs::rename(&next, pins.link(spec.name)).map_err(failed("rename"))?;
    info!(program = spec.name, tracepoint, "attached");
    Ok(())
}

/// What each program cost so far, by name, while the kernel measured: also for a program that a former agent attached.
pub fn runs(ebpf: &Ebpf, pins: &PinRoot) -> Vec<(String, Runs)> {
    let of_link = |name| sys::object_get(&pins.link(name)).and_then(|link| sys::link_runs(link.as_fd()));
    let of_program = |program: &Program| {
        program.info().ok().map(|info| Runs {
            count: info.run_count(),
            time: info.run_time(),
        })
    };
    ebpf.programs()
        .filter_map(|(name, program)| {
            let runs = of_link(name).ok().or_else(|| of_program(program))?;
            Some((name.to_owned(), runs))
        })
        .collect()
}

/// Asks the kernel which programs really run for sockets of the cgroup.
pub fn effective(ebpf: &Ebpf, root: &File) -> Result<Vec<(&'static str, bool)>, AttachError> {
    let mut programs = Vec::new();
    for spec in PROGRAMS {
        let Hook::Cgroup(attach_type) = spec.hook else {
            continue;
        };
        let failed = |cause| AttachError::Link {
            op: "query",
            program: spec.name,
            cause,
        };
        let running = sys::effective_programs(root.as_fd(), attach_type).map_err(failed)?;
        let ours = ebpf
            .program(spec.name)
            .and_then(|program| program.info().ok())
            .map(|info| info.id());
        programs.push((spec.name, ours.is_some_and(|id| running.contains(&id))));
    }
    Ok(programs)
}

fn verify(ebpf: &Ebpf, root: &File, cgroup: &Path) -> Result<(), AttachError> {
    let replaced = effective(ebpf, root)?
        .into_iter()
        .find(|(_, effective)| !effective);
    match replaced {
        Some((program, _)) => Err(AttachError::NotEffective {
            program,
            cgroup: cgroup.into(),
        }),
        None => Ok(()),
    }
}
