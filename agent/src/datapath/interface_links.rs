// SPDX-License-Identifier: Apache-2.0
//! The links of the packet path's programs at interfaces: made, taken over, put right when another tool touched them, removed. Owned by
//! the thread of the packet path.
//!
//! A link is pinned as `<program>_<number of the interface>`. Invariants: between a former agent's program and ours there is no moment
//! without one, since a link is updated in place; XDP never runs where the programs behind it do not.

use std::{collections::BTreeMap, fs, io};

use nodemesh_abi::names::program;
use tracing::{debug, info, warn};

use super::{
    attach::AttachError,
    guard::Attachment,
    link::{At, Link, Running, Target, found},
    pins::PinRoot,
    programs::{Hook, PROGRAMS, ProgramSpec},
};

/// `XDP_FLAGS_SKB_MODE` of `linux/if_link.h`.
const XDP_GENERIC: u32 = 1 << 1;
/// `XDP_FLAGS_DRV_MODE`.
const XDP_NATIVE: u32 = 1 << 2;

/// The programs, and their links, held open.
#[derive(Debug)]
pub struct InterfaceLinks {
    pins: PinRoot,
    running: BTreeMap<&'static str, Running>,
    links: BTreeMap<(u32, &'static str), Link>,
    attachment: Attachment,
}

impl InterfaceLinks {
    /// Takes the programs for interfaces out of all that were loaded.
    pub fn new(pins: PinRoot, loaded: &mut BTreeMap<&'static str, Running>) -> Self {
        let specs = PROGRAMS.iter().filter(|spec| spec.is_at_interfaces());
        let running: BTreeMap<_, _> = specs.filter_map(|spec| loaded.remove_entry(spec.name)).collect();
        let attachment = Attachment::of(running.keys().copied().filter(|name| *name != program::FLOW_XDP));
        Self {
            pins,
            running,
            links: BTreeMap::new(),
            attachment,
        }
    }

    /// Which programs are in force, on all interfaces that are served, and what was put right.
    pub fn attachment(&self) -> &Attachment {
        &self.attachment
    }

    /// Lets the links that an agent of another version of the ABI left run these programs, and pins them with ours. XDP's end with the
    /// other pins: the programs behind it do the same.
    pub fn take_over(&mut self, former: &PinRoot) -> io::Result<usize> {
        let mut taken = 0;
        for spec in tcx() {
            let Some(running) = self.running.get(spec.name) else {
                continue;
            };
            for index in former.interfaces(spec)? {
                let target = Target {
                    at: interface(index, 0),
                    pins: &self.pins,
                };
                let is_ours = target.path(spec).exists();
                let Some(link) = Link::pinned(&former.interface_link(spec, index))?.filter(|_| !is_ours)
                else {
                    continue;
                };
                // The interface may have gone meanwhile, and its link with it.
                if let Err(error) = link.update(running).and_then(|()| link.pin(spec, target)) {
                    warn!(program = spec.name, interface = index, %error, "could not take over a link");
                    continue;
                }
                self.links.insert((index, spec.name), link);
                taken += 1;
            }
        }
        Ok(taken)
    }

    /// A look at all interfaces begins.
    pub fn begin(&mut self) {
        self.attachment.begin();
    }

    /// Sees to it that the tcx programs run on an interface.
    pub fn serve(&mut self, (index, name): (u32, &str)) -> Result<(), AttachError> {
        tcx().try_for_each(|spec| self.see_to(spec, (index, name), 0))
    }

    /// The same of the XDP program, where [`Self::serve`] was done: in the driver, or by the kernel's generic hook.
    pub fn serve_xdp(&mut self, interface: (u32, &str), is_native: bool) -> Result<(), AttachError> {
        let flags = if is_native { XDP_NATIVE } else { XDP_GENERIC };
        xdp().try_for_each(|spec| self.see_to(spec, interface, flags))
    }

    fn see_to(
        &mut self,
        spec: &'static ProgramSpec,
        interface: (u32, &str),
        xdp_flags: u32,
    ) -> Result<(), AttachError> {
        let held = self.links.remove(&(interface.0, spec.name));
        let (link, result) = self.put_right(spec, interface, xdp_flags, held);
        if let Some(link) = link {
            self.links.insert((interface.0, spec.name), link);
        }
        if let Err(error) = &result {
            self.attachment.not_in_force(spec.name);
            debug!(program = spec.name, interface = interface.1, %error, "not attached");
        }
        result
    }

    /// Gives the link that is there then, which is `held` if that is well.
    fn put_right(
        &mut self,
        spec: &'static ProgramSpec,
        (index, name): (u32, &str),
        xdp_flags: u32,
        held: Option<Link>,
    ) -> (Option<Link>, Result<(), AttachError>) {
        let Some(running) = self.running.get(spec.name) else {
            return (None, Ok(()));
        };
        let target = Target {
            at: interface(index, xdp_flags),
            pins: &self.pins,
        };
        let failed = |op| {
            move |cause| AttachError::Link {
                op,
                program: spec.name,
                cause,
            }
        };
        let is_held = held.is_some();
        let link = match held.map_or_else(|| Link::pinned(&target.path(spec)), |link| Ok(Some(link))) {
            Ok(link) => link,
            Err(error) => return (None, Err(failed("open")(error))),
        };
        let Some(link) = link else {
            return match Link::create(spec, running, target) {
                Ok(link) => {
                    info!(program = spec.name, interface = name, "attached");
                    (Some(link), Ok(()))
                }
                Err(cause) => (None, Err(refused(spec, name)(cause))),
            };
        };
        let fault = match link.fault(spec, running, target) {
            Ok(None) => return (Some(link), Ok(())),
            Ok(Some(fault)) => fault,
            Err(error) => return (Some(link), Err(failed("inspect")(error))),
        };
        match link.mend(fault, spec, running, target) {
            Ok(link) => {
                if is_held {
                    let (object, fault_word) = (spec.name, fault.word());
                    warn!(
                        object,
                        interface = name,
                        fault = fault_word,
                        "another tool touched what is attached; put right"
                    );
                    self.attachment.repaired(object, fault);
                }
                (Some(link), Ok(()))
            }
            Err((link, cause)) => (Some(link), Err(refused(spec, name)(cause))),
        }
    }

    /// Removes the links of interfaces whose number `is_wanted` does not name; XDP first. Returns how many there were.
    pub fn detach(&mut self, is_wanted: impl Fn(&str, u32) -> bool) -> io::Result<usize> {
        let mut removed = 0;
        for spec in xdp().chain(tcx()) {
            self.links
                .retain(|(index, name), _| *name != spec.name || is_wanted(name, *index));
            for index in self.pins.interfaces(spec)? {
                if !is_wanted(spec.name, index) {
                    found(fs::remove_file(self.pins.interface_link(spec, index)))?;
                    info!(program = spec.name, interface = index, "detached");
                    removed += 1;
                }
            }
        }
        Ok(removed)
    }
}

fn interface(index: u32, xdp_flags: u32) -> At<'static> {
    At::Interface { index, xdp_flags }
}

fn refused(spec: &ProgramSpec, interface: &str) -> impl FnOnce(io::Error) -> AttachError {
    let (program, target) = (spec.name, interface.to_owned());
    let is_tcx = matches!(spec.hook, Hook::Tcx(_));
    move |cause| match cause.kind() {
        io::ErrorKind::InvalidInput if is_tcx => AttachError::NoTcx { target },
        _ => AttachError::Refused {
            program,
            target,
            cause,
        },
    }
}

/// The programs at tcx hooks.
fn tcx() -> impl Iterator<Item = &'static ProgramSpec> {
    PROGRAMS.iter().filter(|spec| matches!(spec.hook, Hook::Tcx(_)))
}

/// The program at the XDP hook.
fn xdp() -> impl Iterator<Item = &'static ProgramSpec> {
    PROGRAMS.iter().filter(|spec| spec.hook == Hook::Xdp)
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
            "flow_ingress_next",
            "connect4",
        ] {
            fs::write(pins.link(name), "").unwrap();
        }
        let mut links = InterfaceLinks::new(pins.clone(), &mut BTreeMap::new());
        let is_wanted = |name: &str, index| index == 2 && name != program::FLOW_EGRESS;
        assert_eq!(links.detach(is_wanted).unwrap(), 3);
        let mut left: Vec<_> = fs::read_dir(pins.link(""))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["connect4", "flow_ingress_2", "flow_ingress_next"]);
        let ingress = PROGRAMS
            .iter()
            .find(|spec| spec.name == program::FLOW_INGRESS)
            .unwrap();
        assert_eq!(
            pins.first_link(ingress).unwrap(),
            Some(pins.link("flow_ingress_2"))
        );
    }
}
