// SPDX-License-Identifier: Apache-2.0
//! Sees to it, all the time, that what is attached is in force: another tool may replace or detach a program, the cgroup root may
//! become another one, the file of a pin may vanish. Runs as one thread; asked by the admin API and the metrics.
//!
//! Invariant: what is wrong is seen, counted, told and put right within a second; what cannot be put right is tried again.

mod report;

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
    sync::{Arc, mpsc},
    time::Duration,
};

use tokio::sync::watch;
use tracing::{error, info, warn};

pub use self::report::{Attachment, Repair};
use super::{
    link::{At, Fault, Link, Running, Target},
    pins::PinRoot,
    programs::{PROGRAMS, ProgramSpec},
    shapes::SHAPES,
    sys,
};

/// Time between two looks.
const PERIOD: Duration = Duration::from_secs(1);

/// The thread's state: everything that is to stay, held open.
pub struct Guard {
    cgroup: PathBuf,
    pins: PinRoot,
    running: BTreeMap<&'static str, Running>,
    links: BTreeMap<&'static str, Link>,
    maps: Vec<PinnedMap>,
    told: BTreeMap<String, String>,
    attachment: Attachment,
    published: watch::Sender<Arc<Attachment>>,
}

/// A map whose pin is to stay.
struct PinnedMap {
    name: &'static str,
    map: OwnedFd,
    id: u32,
}

impl Guard {
    /// Guards `links` to the programs `running`, and the maps that are pinned.
    pub fn new(
        cgroup: PathBuf,
        pins: PinRoot,
        running: BTreeMap<&'static str, Running>,
        links: BTreeMap<&'static str, Link>,
    ) -> io::Result<(Self, watch::Receiver<Arc<Attachment>>)> {
        let mut maps = Vec::new();
        for shape in SHAPES {
            let map = sys::object_get(&pins.map(shape.name))?;
            let id = sys::map_info(map.as_fd())?.id;
            maps.push(PinnedMap {
                name: shape.name,
                map,
                id,
            });
        }
        let attachment = Attachment::of(links.keys().copied());
        let (published, receiver) = watch::channel(Arc::new(attachment.clone()));
        let guard = Self {
            cgroup,
            pins,
            running,
            links,
            maps,
            told: BTreeMap::new(),
            attachment,
            published,
        };
        Ok((guard, receiver))
    }

    /// Looks and mends until the other end of `stop` is gone.
    pub fn run(mut self, stop: &mpsc::Receiver<()>) {
        while stop.recv_timeout(PERIOD) == Err(mpsc::RecvTimeoutError::Timeout) {
            self.pass();
        }
    }

    /// Looks at everything once, and mends it.
    fn pass(&mut self) {
        self.attachment.begin();
        match File::open(&self.cgroup) {
            Ok(cgroup) => {
                for spec in PROGRAMS.iter().filter(|spec| spec.is_attached()) {
                    self.look_at(spec, &cgroup);
                }
            }
            Err(error) => {
                let problem = format!("cannot open the cgroup {}: {error}", self.cgroup.display());
                self.tell("cgroup", Some(problem));
            }
        }
        for index in 0..self.maps.len() {
            self.look_at_map(index);
        }
        if *self.published.borrow().as_ref() != self.attachment {
            self.published.send_replace(Arc::new(self.attachment.clone()));
        }
    }

    fn look_at(&mut self, spec: &'static ProgramSpec, cgroup: &File) {
        let (Some(running), Some(link)) = (self.running.get(spec.name), self.links.remove(spec.name)) else {
            return;
        };
        let target = Target {
            at: At::Cgroup(cgroup),
            pins: &self.pins,
        };
        let fault = link.fault(spec, running, target);
        let (link, outcome) = match fault {
            Ok(None) => (link, Ok(None)),
            Ok(Some(fault)) => match link.mend(fault, spec, running, target) {
                Ok(link) => (link, Ok(Some(fault))),
                Err((link, error)) => (link, Err((fault.word(), error))),
            },
            Err(error) => (link, Err(("unreadable", error))),
        };
        self.links.insert(spec.name, link);
        self.conclude(spec.name, outcome);
    }

    fn look_at_map(&mut self, index: usize) {
        let PinnedMap { name, map, id } = &self.maps[index];
        let name = *name;
        let path = self.pins.map(name);
        let pinned = super::link::found(sys::object_get(&path))
            .and_then(|map| map.map(|map| sys::map_info(map.as_fd())).transpose());
        let outcome = match pinned {
            Ok(Some(info)) if info.id == *id => Ok(None),
            Ok(_) => {
                let next = self.pins.map(&format!("{name}_next"));
                super::link::found(std::fs::remove_file(&next))
                    .and_then(|_| sys::object_pin(map.as_fd(), &next))
                    .and_then(|()| std::fs::rename(&next, &path))
                    .map(|()| Some(Fault::Unpinned))
                    .map_err(|error| (Fault::Unpinned.word(), error))
            }
            Err(error) => Err(("unreadable", error)),
        };
        self.conclude(name, outcome);
    }

    /// Counts and tells what was found about the program or map `name`.
    fn conclude(&mut self, name: &'static str, outcome: Result<Option<Fault>, (&'static str, io::Error)>) {
        let problem = match outcome {
            Ok(None) => None,
            Ok(Some(fault)) => {
                warn!(
                    object = name,
                    fault = fault.word(),
                    "another tool touched what is attached; put right"
                );
                self.attachment.repaired(name, fault);
                None
            }
            Err((fault, error)) => Some(format!("{name} is {fault} and cannot be put right: {error}")),
        };
        self.tell(name, problem);
    }

    /// Remembers what is wrong with `object`, and logs it when that changes.
    fn tell(&mut self, object: &str, problem: Option<String>) {
        match problem {
            Some(problem) => {
                if self.told.get(object) != Some(&problem) {
                    error!(problem, "the data path is not whole; trying again");
                }
                self.attachment.broken(object, &problem);
                self.told.insert(object.to_owned(), problem);
            }
            None => {
                if self.told.remove(object).is_some() {
                    info!(object, "the data path is whole again");
                }
            }
        }
    }
}
