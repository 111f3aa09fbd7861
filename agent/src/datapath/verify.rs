// SPDX-License-Identifier: Apache-2.0
//! Hands the programs to the kernel, which verifies and compiles them: on several threads, because that is what a start takes
//! longest for. Called by the loader.
//!
//! Invariant: after an error, no program of this build is in the kernel, and what a former agent attached runs on.

use std::{
    collections::BTreeMap,
    os::fd::AsFd as _,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use aya::{
    Btf, Ebpf,
    programs::{Program, ProgramError},
};

use super::{
    headroom, host,
    link::Running,
    loader::LoadError,
    programs::{Hook, PROGRAMS, ProgramSpec, SLOWEST, Use},
};

/// Memory of the kernel's that the verification of the largest program takes, in bytes.
const LARGEST: u64 = 110 << 20;

/// What the kernel says of a loaded program.
#[derive(Clone, Copy, Debug)]
pub struct ProgramCost {
    /// Instructions that the verifier walked through, all paths together.
    pub verified_instructions: u32,
    /// Instructions of the program.
    pub instructions: u32,
    /// Time that loading took, verification and JIT included.
    pub load_time: Duration,
}

/// A program to be loaded.
struct Job<'a> {
    spec: &'static ProgramSpec,
    program: &'a mut Program,
}

/// What became of it.
type Outcome = (&'static ProgramSpec, Result<(ProgramCost, Running), ProgramError>);

/// Loads what is used and not among `running`, and adds it there.
pub fn load_programs(
    ebpf: &mut Ebpf,
    btf: &Btf,
    using: Use,
    running: &mut BTreeMap<&'static str, Running>,
) -> Result<BTreeMap<&'static str, ProgramCost>, LoadError> {
    let jobs = jobs(ebpf, |spec| {
        spec.is_used(using) && !running.contains_key(spec.name)
    })?;
    let mut outcomes = run(jobs, btf);
    outcomes.sort_by_key(|(spec, _)| PROGRAMS.iter().position(|other| other.name == spec.name));
    // The verifier's words, of whatever program, say more than that a capability is missing.
    outcomes.sort_by_key(|(_, outcome)| !matches!(outcome, Err(ProgramError::LoadError { .. })));
    let mut costs = BTreeMap::new();
    for (spec, outcome) in outcomes {
        let (cost, program) = outcome.map_err(|error| refused(spec.name, error))?;
        costs.insert(spec.name, cost);
        running.insert(spec.name, program);
    }
    Ok(costs)
}

/// The programs to be loaded, the slowest last.
fn jobs(ebpf: &mut Ebpf, is_wanted: impl Fn(&ProgramSpec) -> bool) -> Result<Vec<Job<'_>>, LoadError> {
    let mut programs: BTreeMap<String, &mut Program> = ebpf
        .programs_mut()
        .map(|(name, program)| (name.to_owned(), program))
        .collect();
    let mut jobs = Vec::new();
    for spec in PROGRAMS.iter().filter(|spec| is_wanted(spec)) {
        let program = programs
            .remove(spec.name)
            .ok_or(LoadError::NoProgram(spec.name))?;
        jobs.push(Job { spec, program });
    }
    let rank = |job: &Job<'_>| SLOWEST.iter().position(|name| *name == job.spec.name);
    jobs.sort_by_key(|job| std::cmp::Reverse(rank(job).unwrap_or(SLOWEST.len())));
    Ok(jobs)
}

/// Works through `jobs` from the end, on as many threads as there are CPUs, and as the limit of memory allows.
fn run(jobs: Vec<Job<'_>>, btf: &Btf) -> Vec<Outcome> {
    let has_room = headroom::of_this_process().map_or(usize::MAX, |bytes| (bytes / LARGEST) as usize);
    let threads = thread::available_parallelism()
        .map_or(1, usize::from)
        .min(has_room)
        .clamp(1, jobs.len().max(1));
    let (jobs, outcomes) = (Mutex::new(jobs), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let Some(job) = jobs.lock().expect("no holder panics").pop() else {
                return;
            };
            let Job { spec, program } = job;
            let outcome = (spec, load(spec, program, btf));
            outcomes.lock().expect("no holder panics").push(outcome);
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    outcomes.into_inner().expect("no holder panics")
}

fn load(
    spec: &ProgramSpec,
    program: &mut Program,
    btf: &Btf,
) -> Result<(ProgramCost, Running), ProgramError> {
    let started = Instant::now();
    load_program(program, spec.hook, btf)?;
    let load_time = started.elapsed();
    let info = program.info()?;
    let cost = ProgramCost {
        verified_instructions: info.verified_instruction_count().unwrap_or_default(),
        instructions: info.size_translated().unwrap_or_default() / 8,
        load_time,
    };
    let fd = program.fd()?.as_fd().try_clone_to_owned();
    let running = fd.and_then(Running::new).map_err(ProgramError::IOError)?;
    Ok((cost, running))
}

fn load_program(program: &mut Program, hook: Hook, btf: &Btf) -> Result<(), ProgramError> {
    match (program, hook) {
        (Program::CgroupSockAddr(program), Hook::Cgroup(_)) => program.load(),
        (Program::CgroupSock(program), Hook::Cgroup(_)) => program.load(),
        (Program::CgroupSkb(program), Hook::Cgroup(_)) => program.load(),
        (Program::SockOps(program), Hook::Cgroup(_)) => program.load(),
        (Program::BtfTracePoint(program), Hook::Tracepoint(name)) => program.load(name, btf),
        (Program::Iter(program), Hook::Iterator(kind)) => program.load(kind, btf),
        (Program::SkMsg(program), Hook::Sockets(_)) => program.load(),
        (Program::RawTracePoint(program), Hook::TestRun) => program.load(),
        (Program::SchedClassifier(program), Hook::Tcx(_) | Hook::PacketTestRun) => program.load(),
        (Program::Xdp(program), Hook::Xdp) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

fn refused(name: &'static str, error: ProgramError) -> LoadError {
    const LAST_LINES: usize = 12;
    let kernel = host::kernel_release();
    let reason = match error {
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } => {
            let log = verifier_log.to_string();
            let lines: Vec<&str> = log.lines().collect();
            format!(
                "{io_error}; the verifier's last lines:\n{}",
                lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
            )
        }
        other => other.to_string(),
    };
    LoadError::Program { name, kernel, reason }
}
