// SPDX-License-Identifier: Apache-2.0
//! Case `start`: from the agent's process to a data path that is ready: for the first time, in the place of another build, and again.

use std::{
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use super::{Run, lab::Lab, markdown::Table, process_use, series::Series};

/// Services, backends of each, and the seconds that a start may take.
const SIZES: [(u32, u32, f64); 2] = [(1_000, 10, 1.0), (10_000, 10, 3.0)];
/// Services in a file.
const PER_FILE: u32 = 100;

pub(super) fn run(run: &Run) -> Result<String> {
    let headers = [
        "seconds from process to ready, median (and range)",
        "first start",
        "another build",
        "the same build",
        "resident, idle",
        "CPU, idle",
    ];
    let mut table = Table::new(&headers);
    let mut is_met = true;
    for (services, backends, target) in SIZES {
        let measured = measure(run, services, backends)?;
        is_met &= measured.times.iter().all(|times| times.median() <= target);
        let what = format!(
            "{services} services, {} backends (target {target} s)",
            services * backends
        );
        let [first, other, same] = measured.times.each_ref().map(|times| times.shown(1.0, 2));
        let idle = format!("{:.2} %", measured.idle * 100.0);
        table.row(&[what, first, other, same, measured.resident, idle]);
    }
    let met = if is_met { "met" } else { "**not met**" };
    Ok(format!("{table}\nTarget: {met}.\n"))
}

/// What was measured at one size.
struct Measured {
    times: [Series; 3],
    resident: String,
    idle: f64,
}

fn measure(run: &Run, services: u32, backends: u32) -> Result<Measured> {
    let mut lab = Lab::new()?;
    let folder = lab.agent.config();
    fs::create_dir(&folder)?;
    for file in 0..services.div_ceil(PER_FILE) {
        fs::write(folder.join(format!("{file:03}.yaml")), text(file, backends))?;
    }
    let mut times: [Series; 3] = Default::default();
    for _ in 0..run.scaled(2, 7) {
        run.step()?;
        let began = Instant::now();
        lab.start_agent(false)?;
        times[0].push(began.elapsed().as_secs_f64());
        for (kind, is_other) in [(1, true), (2, false)] {
            lab.agent.kill()?;
            if is_other {
                lab.agent.disown_programs()?;
            }
            let began = Instant::now();
            lab.start_agent(false)?;
            times[kind].push(began.elapsed().as_secs_f64());
        }
        lab.agent.stop()?;
        let cleaned = lab.agent.cleanup()?;
        ensure!(
            cleaned.status.success(),
            "{}",
            String::from_utf8_lossy(&cleaned.stderr)
        );
    }
    lab.start_agent(false)?;
    lab.agent.kill()?;
    // As it is on a node: started again with what is there.
    lab.start_agent(false)?;
    let pid = lab.agent.process().pid();
    let idle = process_use::idle_share(run, pid, Duration::from_secs(run.scaled(5, 30)))?;
    let (resident, peak) = process_use::resident(pid)?;
    Ok(Measured {
        times,
        resident: format!(
            "{:.1} MiB (peak {:.1})",
            resident as f64 / 1024.0,
            peak as f64 / 1024.0
        ),
        idle,
    })
}

/// Manifest `file`, with `backends` for each of its services.
fn text(file: u32, backends: u32) -> String {
    let mut text = String::new();
    for index in file * PER_FILE..(file + 1) * PER_FILE {
        let address = Ipv4Addr::from(0x0a61_0000 + index);
        let _ = write!(
            text,
            "---\napiVersion: nodemesh.io/v1alpha1\nkind: Service\nmetadata: {{name: s{index}, namespace: n{file}}}\n\
             spec:\n  addresses: [{address}]\n  ports: [{{port: 8000}}]\n  backends:\n"
        );
        for replica in 0..backends {
            let backend = SocketAddr::from((Ipv4Addr::from(0x0a80_0000 + index * backends + replica), 8000));
            let _ = writeln!(
                text,
                "  - {{address: {}, port: {}}}",
                backend.ip(),
                backend.port()
            );
        }
    }
    text
}
