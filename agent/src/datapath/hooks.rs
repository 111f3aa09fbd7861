// SPDX-License-Identifier: Apache-2.0
//! Who is at the cgroup hooks that nodemesh uses: our programs, by their pinned links, and those of others, by id and name. Used by
//! `nodemesh check`, which needs no agent for it.
//!
//! Invariant: a program is ours if and only if a link that is pinned below our folder runs it.

use std::{
    collections::BTreeSet,
    fs::File,
    io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use aya_obj::generated::bpf_attach_type;

use super::{
    features::Answer,
    pins::PinRoot,
    programs::{Hook, PROGRAMS},
    sys,
};

/// A hook of the mesh's cgroup.
#[derive(Clone, Debug)]
pub struct HookUse {
    /// Name of our program there.
    pub program: &'static str,
    /// Whether our link is pinned.
    pub pinned: bool,
    /// Whether the kernel runs the program of our link.
    pub effective: bool,
    /// Programs of others that run there.
    pub others: Vec<ForeignProgram>,
    /// A cgroup at which somebody attached so that nobody else can.
    pub exclusive: Option<PathBuf>,
    /// Why it could not be asked.
    pub error: Option<String>,
}

/// Somebody else's program.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ForeignProgram {
    /// Its id.
    pub id: u32,
    /// Its name, as the kernel keeps it: 15 bytes.
    pub name: String,
}

/// Looks at every hook of `cgroup`, with our links below `pins`.
pub fn inspect(cgroup: &Path, pins: &PinRoot) -> Vec<HookUse> {
    let ours: BTreeSet<u32> = PROGRAMS
        .iter()
        .filter_map(|spec| pinned(pins, spec.name))
        .collect();
    let hooks = PROGRAMS.iter().filter_map(|spec| match spec.hook {
        Hook::Cgroup(attach_type) => Some((spec.name, attach_type)),
        _ => None,
    });
    hooks
        .map(|(program, attach_type)| {
            let id = pinned(pins, program);
            let mut facts = HookUse {
                program,
                pinned: id.is_some(),
                effective: false,
                others: Vec::new(),
                exclusive: None,
                error: None,
            };
            match running(cgroup, attach_type) {
                Ok(running) => {
                    facts.effective = id.is_some_and(|id| running.contains(&id));
                    facts.others = named(running.into_iter().filter(|id| !ours.contains(id)));
                    facts.exclusive = exclusive(cgroup, attach_type);
                }
                Err(error) => facts.error = Some(error.to_string()),
            }
            facts
        })
        .collect()
}

/// Whether maps are free of the limit of locked memory: one is created while the limit is 0.
pub fn maps_are_free_of_the_limit() -> Answer {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_MEMLOCK) else {
        return Answer::Unknown("the limit cannot be read".to_owned());
    };
    if let Err(error) = setrlimit(Resource::RLIMIT_MEMLOCK, 0, hard) {
        return Answer::Unknown(error.to_string());
    }
    let created = sys::create_array();
    let restored = setrlimit(Resource::RLIMIT_MEMLOCK, soft, hard);
    let with_limit = sys::create_array();
    match (created, with_limit, restored) {
        (_, _, Err(error)) => Answer::Unknown(error.to_string()),
        (Ok(_), _, Ok(())) => Answer::Yes,
        (Err(_), Ok(_), Ok(())) => Answer::No,
        (Err(error), Err(_), Ok(())) => Answer::Unknown(error.to_string()),
    }
}

/// Id of the program that our pinned link runs.
fn pinned(pins: &PinRoot, program: &str) -> Option<u32> {
    let link = sys::object_get(&pins.link(program)).ok()?;
    Some(sys::link_info(link.as_fd()).ok()?.prog_id)
}

fn running(cgroup: &Path, attach_type: bpf_attach_type) -> io::Result<Vec<u32>> {
    sys::effective_programs(File::open(cgroup)?.as_fd(), attach_type)
}

/// A program may go between being listed and being asked for its name; then it is not there.
fn named(ids: impl Iterator<Item = u32>) -> Vec<ForeignProgram> {
    ids.filter_map(|id| match sys::program_name(id) {
        Ok(name) => Some(ForeignProgram { id, name }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(_) => Some(ForeignProgram {
            id,
            name: String::new(),
        }),
    })
    .collect()
}

/// The nearest cgroup, this one or one above, at which somebody attached exclusively.
fn exclusive(cgroup: &Path, attach_type: bpf_attach_type) -> Option<PathBuf> {
    cgroup
        .ancestors()
        .map_while(|folder| Some((folder, File::open(folder).ok()?)))
        .find(|(_, folder)| sys::is_exclusive(folder.as_fd(), attach_type).is_ok_and(|is| is))
        .map(|(folder, _)| folder.to_owned())
}
