// SPDX-License-Identifier: Apache-2.0
//! The links of the packet path's programs at interfaces: made, given new programs, checked, removed. Called by the thread of the packet
//! path.
//!
//! A link is pinned as `<program>_<number of the interface>`. Invariants: between a former agent's program and ours there is no moment
//! without one, since a link is updated in place; XDP never runs where the programs behind it do not.

use std::{
    collections::BTreeSet,
    fs, io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    programs::{
        LinkOrder, Program, ProgramError, TcAttachType,
        links::{FdLink, LinkError},
        tc::TcAttachOptions,
        xdp::XdpMode,
    },
};
use aya_obj::generated::bpf_attach_type;
use nodemesh_abi::names::program;
use tracing::info;

use super::{
    attach::AttachError,
    pins::PinRoot,
    programs::{Hook, PROGRAMS, ProgramSpec},
    sys,
};

/// Attaches the tcx programs to an interface, or gives a former agent's links there these programs.
pub fn attach(ebpf: &mut Ebpf, pins: &PinRoot, (index, name): (u32, &str)) -> Result<(), AttachError> {
    for (spec, hook) in tcx() {
        let Some(program) = ebpf.program_mut(spec.name) else {
            continue;
        };
        let pin = pin(pins, spec.name, index);
        if update_pinned(program, spec, index, &pin)? {
            continue;
        }
        let refused = |cause| AttachError::Refused {
            program: spec.name,
            target: name.to_owned(),
            cause,
        };
        let link = tcx_link(program, name, hook).map_err(refused)?;
        keep(link, spec, &pin)?;
        info!(program = spec.name, interface = name, "attached");
    }
    Ok(())
}

/// Attaches the XDP program to an interface that [`attach`] was done for, natively or by the generic hook.
pub fn attach_xdp(
    ebpf: &mut Ebpf,
    pins: &PinRoot,
    (index, name): (u32, &str),
    is_native: bool,
) -> Result<(), AttachError> {
    let Some((spec, Program::Xdp(program))) =
        spec_of(program::FLOW_XDP).zip(ebpf.program_mut(program::FLOW_XDP))
    else {
        return Ok(());
    };
    let mode = if is_native { XdpMode::Driver } else { XdpMode::Skb };
    let refused = |cause| AttachError::Refused {
        program: spec.name,
        target: name.to_owned(),
        cause,
    };
    let id = program.attach(name, mode).map_err(refused)?;
    let link = program.take_link(id).map_err(refused)?;
    let from_link = |_: LinkError| refused(ProgramError::UnexpectedProgramType);
    keep(
        link.try_into().map_err(from_link)?,
        spec,
        &pin(pins, spec.name, index),
    )?;
    info!(program = spec.name, interface = name, is_native, "attached");
    Ok(())
}

/// Whether the kernel runs both tcx programs on the interface with this number.
pub fn is_effective(ebpf: &Ebpf, index: u32) -> bool {
    tcx().all(|(spec, hook)| {
        let own = ebpf.program(spec.name).and_then(|program| program.info().ok());
        let running = sys::interface_programs(index, hook).unwrap_or_default();
        own.is_some_and(|own| running.contains(&own.id()))
    })
}

/// Removes the links of interfaces whose number `is_wanted` does not name; XDP first. Returns how many there were.
pub fn detach(pins: &PinRoot, is_wanted: impl Fn(&str, u32) -> bool) -> io::Result<usize> {
    let mut removed = 0;
    for name in [program::FLOW_XDP, program::FLOW_INGRESS, program::FLOW_EGRESS] {
        for index in attached(pins, name)? {
            if !is_wanted(name, index) {
                fs::remove_file(pin(pins, name, index))?;
                info!(program = name, interface = index, "detached");
                removed += 1;
            }
        }
    }
    Ok(removed)
}

/// Numbers of the interfaces at which a link of the program `name` is pinned.
fn attached(pins: &PinRoot, name: &str) -> io::Result<BTreeSet<u32>> {
    let folder = pins.link("");
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        entries => entries?,
    };
    let index = |entry: io::Result<fs::DirEntry>| {
        let entry = entry.ok()?.file_name();
        entry
            .to_str()?
            .strip_prefix(name)?
            .strip_prefix('_')?
            .parse()
            .ok()
    };
    Ok(entries.filter_map(index).collect())
}

fn pin(pins: &PinRoot, name: &str, index: u32) -> PathBuf {
    pins.link(&format!("{name}_{index}"))
}

fn spec_of(name: &str) -> Option<&'static ProgramSpec> {
    PROGRAMS.iter().find(|spec| spec.name == name)
}

/// The programs at tcx hooks.
fn tcx() -> impl Iterator<Item = (&'static ProgramSpec, bpf_attach_type)> {
    PROGRAMS.iter().filter_map(|spec| match spec.hook {
        Hook::Tcx(hook) => Some((spec, hook)),
        _ => None,
    })
}

fn tcx_link(program: &mut Program, interface: &str, hook: bpf_attach_type) -> Result<FdLink, ProgramError> {
    let Program::SchedClassifier(program) = program else {
        return Err(ProgramError::UnexpectedProgramType);
    };
    let direction = match hook {
        bpf_attach_type::BPF_TCX_EGRESS => TcAttachType::Egress,
        _ => TcAttachType::Ingress,
    };
    let options = TcAttachOptions::TcxOrder(LinkOrder::default());
    let id = program.attach_with_options(interface, direction, options)?;
    let from_link = |_: LinkError| ProgramError::UnexpectedProgramType;
    program.take_link(id)?.try_into().map_err(from_link)
}

fn keep(link: FdLink, spec: &ProgramSpec, pin: &Path) -> Result<(), AttachError> {
    link.pin(pin).map(drop).map_err(|cause| AttachError::Pin {
        program: spec.name,
        cause,
    })
}

/// Puts `program` into the link pinned at `pin`, if that is at this interface; a link whose interface is gone is removed.
fn update_pinned(program: &Program, spec: &ProgramSpec, index: u32, pin: &Path) -> Result<bool, AttachError> {
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
    if sys::link_interface(link.as_fd()).map_err(failed("inspect"))? != index {
        fs::remove_file(pin).map_err(failed("unpin"))?;
        return Ok(false);
    }
    let fd = program
        .fd()
        .map_err(|error| failed("update")(io::Error::other(error)))?;
    sys::link_update(link.as_fd(), fd.as_fd()).map_err(failed("update"))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_links_of_unwanted_interfaces_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let pins = PinRoot::new(folder.path());
        pins.create().unwrap();
        for name in [
            "flow_ingress_2",
            "flow_egress_2",
            "flow_ingress_13",
            "flow_xdp_13",
            "connect4",
        ] {
            fs::write(pins.link(name), "").unwrap();
        }
        let is_wanted = |name: &str, index| index == 2 && name != program::FLOW_EGRESS;
        assert_eq!(detach(&pins, is_wanted).unwrap(), 3);
        let mut left: Vec<_> = fs::read_dir(pins.link(""))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["connect4", "flow_ingress_2"]);
    }
}
