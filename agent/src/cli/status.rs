// SPDX-License-Identifier: Apache-2.0
//! `nodemesh status`.

mod shortcut;

use std::{
    fmt::Write as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Result;

use super::{Output, client::AdminClient, log, table, units};
use crate::api::{ConfigState, ControlStatus, MeterStatus, PacketStatus, Status};

/// Prints the status; the result is whether there are no problems.
pub(super) fn run(agent: &AdminClient, output: Output) -> Result<bool> {
    let status: Status = agent.get("/v1/status")?;
    let well = status.problems.is_empty();
    if output == Output::Json {
        table::print_json(&status)?;
    } else {
        table::print(describe(&status)?.trim_end())?;
    }
    Ok(well)
}

fn describe(status: &Status) -> Result<String> {
    let mut text = String::new();
    let uptime = humantime::format_duration(Duration::from_secs(status.uptime_seconds));
    writeln!(
        text,
        "agent    {}, pid {}, up {uptime}",
        status.version, status.pid
    )?;
    writeln!(text, "ready    {}", if status.ready { "yes" } else { "no" })?;
    for problem in &status.problems {
        writeln!(text, "  ! {problem}")?;
    }
    describe_config(&mut text, status)?;
    describe_datapath(&mut text, status)?;
    describe_meter(&mut text, &status.datapath.meter)?;
    shortcut::describe(&mut text, &status.datapath.shortcut)?;
    match &status.datapath.packet {
        Some(packet) => describe_packet(&mut text, packet)?,
        None => writeln!(text, "packets  off, no interface is named")?,
    }
    writeln!(text, "access   {}", log::access(&status.log))?;
    Ok(text)
}

fn describe_config(text: &mut String, status: &Status) -> Result<()> {
    let config = &status.config;
    let state = match config.state {
        ConfigState::Ok => "ok",
        ConfigState::Invalid => "INVALID, the last good one stays in force",
    };
    writeln!(
        text,
        "config   {}: {state}, generation {} ({} in the kernel)",
        config.path, config.generation, config.applied_generation
    )?;
    for line in &config.errors {
        writeln!(text, "  ! {line}")?;
    }
    for line in &config.warnings {
        writeln!(text, "  - {line}")?;
    }
    config
        .control
        .as_ref()
        .map_or(Ok(()), |control| describe_control(text, control))
}

fn describe_control(text: &mut String, control: &ControlStatus) -> Result<()> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let age = |then: u64| units::seconds(now.saturating_sub(then) as f64);
    let since = age(control.since);
    match (&control.connected, &control.error) {
        (Some(url), _) => write!(text, "control  {url} for {since}")?,
        (None, Some(error)) => write!(text, "control  NOT CONNECTED for {since}: {error}")?,
        (None, None) => write!(text, "control  connecting")?,
    }
    let version = if control.version.is_empty() {
        "none"
    } else {
        &control.version
    };
    let origin = if control.from_disk { " (from disk)" } else { "" };
    writeln!(
        text,
        "; state {version}{origin}, {} connections, {} NACKs",
        control.connections, control.nacks
    )?;
    for line in &control.rejected {
        writeln!(text, "  ! refused: {line}")?;
    }
    for line in &control.waiting {
        writeln!(text, "  - {line}")?;
    }
    Ok(())
}

fn describe_datapath(text: &mut String, status: &Status) -> Result<()> {
    let datapath = &status.datapath;
    let running = datapath.programs.values().filter(|effective| **effective).count();
    writeln!(
        text,
        "kernel   {}, {running} of {} programs in force, cgroup {}",
        datapath.kernel,
        datapath.programs.len(),
        datapath.cgroup
    )?;
    if let Some(last) = &datapath.attachment.last_repair {
        let count: u64 = datapath.attachment.repairs.values().sum();
        let at = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(last.at));
        writeln!(
            text,
            "  - put right {count} times what another tool had done, last {} ({}) at {at}",
            last.object, last.fault
        )?;
    }
    writeln!(text, "pins     {}", datapath.pin_dir)?;
    let maps: Vec<String> = datapath
        .maps
        .iter()
        .map(|(name, usage)| format!("{name} {}/{}", usage.entries, usage.capacity))
        .collect();
    writeln!(text, "maps     {}", maps.join(", "))?;
    let errors: Vec<String> = datapath
        .internal_errors
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(reason, count)| format!("{reason} {count}"))
        .collect();
    writeln!(
        text,
        "errors   {}",
        if errors.is_empty() {
            "none".to_owned()
        } else {
            errors.join(", ")
        }
    )?;
    for (frontend, reason) in &datapath.frontends_not_programmed {
        writeln!(text, "  ! {frontend}: {reason}")?;
    }
    for cgroup in &datapath.cgroups_missing {
        writeln!(text, "  - the configured cgroup {cgroup} does not exist (yet)")?;
    }
    Ok(())
}

fn describe_meter(text: &mut String, meter: &MeterStatus) -> Result<()> {
    let limit = match meter.connection_limit {
        0 => String::new(),
        limit => format!("/{limit}"),
    };
    writeln!(
        text,
        "meter    by {}, connections {}{limit} ({} adopted, {} without room), stalled {} as client, {} as server",
        meter.path,
        meter.connections,
        meter.adopted,
        meter.connections_untracked,
        meter.stalled_client,
        meter.stalled_server
    )?;
    if meter.corrections > 0 {
        writeln!(
            text,
            "  - the number in flight was corrected {} times",
            meter.corrections
        )?;
    }
    Ok(())
}

fn describe_packet(text: &mut String, packet: &PacketStatus) -> Result<()> {
    let interfaces = packet.interfaces.iter().map(|interface| {
        let state = if interface.effective { "" } else { " NOT ATTACHED" };
        let xdp = interface.xdp.as_deref().map(|xdp| format!(" (XDP {xdp})"));
        format!("{}{state}{}", interface.name, xdp.unwrap_or_default())
    });
    let interfaces: Vec<String> = interfaces.collect();
    let on = if interfaces.is_empty() {
        "no interface".to_owned()
    } else {
        interfaces.join(", ")
    };
    let count = |event: &str| packet.events.get(event).map_or(0, |count| count.packets);
    let dropped: u64 = packet
        .events
        .iter()
        .filter(|(event, _)| event.starts_with("drop_"))
        .map(|(_, count)| count.packets)
        .sum();
    writeln!(
        text,
        "packets  on {on}; flows {}/{}, {} evicted; packets {} forwarded, {} returned, {dropped} dropped",
        packet.flows,
        packet.flow_limit,
        count("evicted"),
        count("forwarded"),
        count("returned")
    )?;
    for problem in &packet.problems {
        writeln!(text, "  ! {problem}")?;
    }
    if packet.under_pressure {
        let sources = packet.sources.iter().take(3);
        let sources: Vec<String> = sources
            .map(|source| format!("{} ({} opened)", source.address, source.opened))
            .collect();
        writeln!(
            text,
            "  ! the table of flows is nearly full; most are opened by {}",
            sources.join(", ")
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::api::{
        AttachmentStatus, ConfigStatus, DatapathStatus, LogStatus, MapUsage, PacketEvent, PacketInterface,
        PacketSource, Repair,
    };
    use crate::shortcut::State;

    use super::*;

    fn packet() -> PacketStatus {
        let interface = |name: &str, effective, xdp: Option<&str>| PacketInterface {
            name: name.to_owned(),
            effective,
            xdp: xdp.map(str::to_owned),
        };
        let event = |event: &str, packets| (event.to_owned(), PacketEvent { packets, bytes: 0 });
        PacketStatus {
            interfaces: vec![
                interface("eth0", true, Some("native")),
                interface("eth1", false, None),
            ],
            problems: vec!["forwarding is off".to_owned()],
            flows: 9,
            flow_limit: 10,
            events: [
                event("forwarded", 7),
                event("drop_policy", 1),
                event("drop_rate", 2),
                event("evicted", 3),
            ]
            .into(),
            sources: vec![PacketSource {
                address: "192.0.2.7".to_owned(),
                opened: 5,
                refused: 0,
            }],
            under_pressure: true,
            ..PacketStatus::default()
        }
    }

    fn status() -> Status {
        Status {
            version: "0.1.0".into(),
            pid: 7,
            uptime_seconds: 61,
            ready: true,
            problems: Vec::new(),
            config: ConfigStatus {
                path: "/etc/mesh.yaml".into(),
                state: ConfigState::Ok,
                generation: 2,
                applied_generation: 2,
                loaded_at: 0,
                errors: Vec::new(),
                warnings: Vec::new(),
                control: None,
            },
            datapath: DatapathStatus {
                kernel: "6.18".into(),
                cgroup: "/sys/fs/cgroup".into(),
                pin_dir: "/sys/fs/bpf/nodemesh".into(),
                programs: [("connect4".to_owned(), true), ("connect6".to_owned(), false)].into(),
                attachment: AttachmentStatus {
                    repairs: [("detached".to_owned(), 2), ("moved".to_owned(), 0)].into(),
                    last_repair: Some(Repair {
                        object: "connect4".into(),
                        fault: "detached".into(),
                        at: 1_700_000_000,
                    }),
                },
                maps: [(
                    "services".to_owned(),
                    MapUsage {
                        entries: 1,
                        capacity: 10,
                    },
                )]
                .into(),
                internal_errors: [("backend".to_owned(), 0), ("slot_table".to_owned(), 3)].into(),
                frontends_not_programmed: [("a/b".to_owned(), "no room".to_owned())].into(),
                cgroups_missing: vec!["pods/gone".into()],
                meter: MeterStatus {
                    path: "tracepoint".into(),
                    connections: 12,
                    connection_limit: 200,
                    connections_untracked: 1,
                    adopted: 3,
                    stalled_client: 4,
                    stalled_server: 5,
                    corrections: 6,
                },
                shortcut: State {
                    reason: "unused".into(),
                    ..State::default()
                },
                packet: Some(packet()),
            },
            log: LogStatus::default(),
        }
    }

    #[test]
    fn every_part_of_the_status_is_shown() {
        let text = describe(&status()).unwrap();
        let expected = [
            "agent    0.1.0, pid 7, up 1m 1s",
            "ready    yes",
            "config   /etc/mesh.yaml: ok, generation 2 (2 in the kernel)",
            "kernel   6.18, 1 of 2 programs in force, cgroup /sys/fs/cgroup",
            "  - put right 2 times what another tool had done, last connect4 (detached) at 2023-11-14T22:13:20Z",
            "pins     /sys/fs/bpf/nodemesh",
            "maps     services 1/10",
            "errors   slot_table 3",
            "  ! a/b: no room",
            "  - the configured cgroup pods/gone does not exist (yet)",
            "meter    by tracepoint, connections 12/200 (3 adopted, 1 without room), stalled 4 as client, 5 as server",
            "  - the number in flight was corrected 6 times",
            "shortcut off: no policy asks for it",
            "packets  on eth0 (XDP native), eth1 NOT ATTACHED; flows 9/10, 3 evicted; packets 7 forwarded, 0 returned, 3 dropped",
            "  ! forwarding is off",
            "  ! the table of flows is nearly full; most are opened by 192.0.2.7 (5 opened)",
            "access   off",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn the_connection_to_the_control_plane_is_shown() {
        let mut control = ControlStatus {
            connected: Some("http://127.0.0.1:15010".into()),
            version: "417".into(),
            connections: 1,
            nacks: 2,
            rejected: vec!["a: bad".into()],
            waiting: vec!["b waits".into()],
            from_disk: true,
            since: u64::MAX,
            ..ControlStatus::default()
        };
        let mut text = String::new();
        describe_control(&mut text, &control).unwrap();
        assert_eq!(
            text,
            "control  http://127.0.0.1:15010 for 0s; state 417 (from disk), 1 connections, 2 NACKs\n  ! refused: a: bad\n  - b waits\n"
        );
        (control.connected, control.error) = (None, Some("refused".into()));
        let mut text = String::new();
        describe_control(&mut text, &control).unwrap();
        assert!(
            text.starts_with("control  NOT CONNECTED for 0s: refused; state 417"),
            "{text}"
        );
    }

    #[test]
    fn problems_and_refused_reloads_stand_out() {
        let mut status = status();
        (status.ready, status.problems) = (false, vec!["broken".into()]);
        (status.config.state, status.config.errors) = (ConfigState::Invalid, vec!["line 3".into()]);
        status.config.warnings = vec!["odd".into()];
        let text = describe(&status).unwrap();
        assert!(text.contains("ready    no\n  ! broken\nconfig "), "{text}");
        assert!(text.contains("INVALID, the last good one stays in force, generation 2 (2 in the kernel)\n  ! line 3\n  - odd\n"), "{text}");
    }
}
