// SPDX-License-Identifier: Apache-2.0
//! What the programs cost the verifier of the running kernel, and that they load within their ceilings.
//!
//! The table also goes to `verifier.md` in the target directory, to be compared between kernels.
#![expect(clippy::unwrap_used, reason = "what a test calls panics like the test")]

use std::{
    fmt::Write as _,
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use nodemesh_abi::Connection;
use nodemesh_agent::datapath::{
    PinRoot,
    loader::{self, Capacities, Loaded, Wanted},
    programs::PROGRAMS,
};
use nodemesh_e2e::topology::Topology;

/// (program, most instructions after translation, most instructions that the verifier may walk through): about twice what
/// Linux 6.18 says, but no more than 850,000, since no kernel walks through more than a million. Kernels prune differently, so a
/// program that doubles is news and one that wavers is not.
const CEILINGS: [(&str, u32, u32); 30] = [
    ("adopt", 1_000, 3_000),
    ("carry", 1_000, 5_000),
    ("connect4", 13_500, 400_000),
    ("connect6", 13_500, 320_000),
    ("correct", 50, 40),
    ("egress", 28_000, 650_000),
    ("flow_egress", 8_000, 170_000),
    ("flow_ingress", 20_000, 280_000),
    ("flow_sweep", 2_700, 37_000),
    ("flow_xdp", 10_300, 110_000),
    ("getpeername4", 80, 80),
    ("getpeername6", 130, 130),
    ("hand_over", 9_800, 140_000),
    ("ingress", 28_000, 650_000),
    ("judge", 850, 33_000),
    ("list_conns", 350, 1_400),
    ("recv_length", 15_500, 330_000),
    ("recvmsg4", 200, 250),
    ("recvmsg6", 260, 300),
    ("rejoin", 1_800, 50_000),
    ("retransmit", 190, 210),
    ("send_length", 10_500, 190_000),
    ("sendmsg4", 10_700, 250_000),
    ("sendmsg6", 10_700, 310_000),
    ("set_state", 14_500, 240_000),
    ("sock_ops", 3_500, 52_000),
    ("sock_release", 11_000, 110_000),
    ("sweep", 4_700, 54_000),
    ("enlist", 310, 560),
    ("whoami", 10, 10),
];
/// Most time for all programs together; about one second on an idle machine, nearly all of it for the parsers of packets.
const MAX_LOAD_TIME: Duration = Duration::from_secs(20);
/// Inode number of the initial pid namespace (`PROC_PID_INIT_INO` of the kernel).
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";
/// Set for the copy of this test that runs in a pid namespace of its own: where to pin.
const INSIDE: &str = "NODEMESH_E2E_PINS_INSIDE";

fn load(pins: &PinRoot) -> Loaded {
    pins.create().unwrap();
    let wanted = Wanted {
        capacities: Capacities {
            services: 8,
            backends: 8,
            metered_backends: 8,
            flows: 64,
        },
        carried_bytes: Some(size_of::<Connection>() as u32),
        has_packet_path: true,
        ..Wanted::default()
    };
    loader::load(pins, wanted).unwrap()
}

#[test]
fn every_program_loads_within_its_ceiling() {
    let node = Topology::new().unwrap().node("a").unwrap();
    let started = Instant::now();
    let Loaded { costs, .. } = load(&node.pins());
    let total = started.elapsed();

    let kernel = nix::sys::utsname::uname().unwrap();
    let mut table = format!(
        "Linux {}\n\n| program | instructions | verified | load time |\n|---|---:|---:|---:|\n",
        kernel.release().display()
    );
    for (name, cost) in &costs {
        let (instructions, verified) = (cost.instructions, cost.verified_instructions);
        writeln!(
            table,
            "| {name} | {instructions} | {verified} | {:.1?} |",
            cost.load_time
        )
        .unwrap();
    }
    println!("{table}");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    fs::write(target.join("verifier.md"), &table).unwrap();

    assert_eq!(costs.len(), PROGRAMS.len(), "{table}");
    assert_eq!(
        costs.len(),
        CEILINGS.len(),
        "a program has no ceiling, or a ceiling no program:\n{table}"
    );
    for (name, instructions, verified) in CEILINGS {
        let cost = costs
            .get(name)
            .unwrap_or_else(|| panic!("no program {name}:\n{table}"));
        // The kernel says 0 only if it does not tell at all.
        assert!(
            (1..=instructions).contains(&cost.instructions),
            "{name} grew beyond {instructions}:\n{table}"
        );
        assert!(
            (1..=verified).contains(&cost.verified_instructions),
            "{name} is harder than {verified}:\n{table}"
        );
    }
    assert!(total < MAX_LOAD_TIME, "loading took {total:?}:\n{table}");
}

#[test]
fn a_process_learns_its_pid_in_the_initial_namespace() {
    if let Some(pins) = std::env::var_os(INSIDE) {
        assert_eq!(std::process::id(), 1, "in a pid namespace of its own");
        assert_eq!(own_tgid(&PinRoot::new(pins)), pid_by_procfs());
        return;
    }
    let node = Topology::new().unwrap().node("a").unwrap();
    let tgid = own_tgid(&node.pins());
    assert_ne!(tgid, 0);
    if fs::read_link("/proc/self/ns/pid").unwrap() != Path::new(INITIAL_PID_NAMESPACE) {
        // In a container, nobody but the program under test knows the number.
        return;
    }
    assert_eq!(tgid, std::process::id());
    let inside = Command::new("unshare")
        .args(["--pid", "--fork", "--kill-child"])
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "a_process_learns_its_pid_in_the_initial_namespace",
            "--nocapture",
        ])
        .env(INSIDE, node.pins().path())
        .output()
        .unwrap();
    let (said, errors) = (
        String::from_utf8_lossy(&inside.stdout),
        String::from_utf8_lossy(&inside.stderr),
    );
    assert!(
        inside.status.success() && said.contains("1 passed"),
        "{said}\n{errors}"
    );
}

fn own_tgid(pins: &PinRoot) -> u32 {
    let Loaded { ebpf, .. } = load(pins);
    loader::own_tgid(&ebpf).unwrap()
}

/// The pid in the namespace in which procfs was mounted.
fn pid_by_procfs() -> u32 {
    let link = fs::read_link("/proc/self").unwrap();
    link.to_str().unwrap().parse().unwrap()
}
