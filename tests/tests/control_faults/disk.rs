// SPDX-License-Identifier: Apache-2.0
//! The embedded store when its disk is full, and when its file is not what it was.

use std::fs::{self, File};

use nodemesh_e2e::{
    bed::{Bed, Connecting},
    control::ControlPlane,
    eventually::eventually,
    process::Process,
};

use super::{Journal, empty, follow, serve, services};

/// Backends of a service that takes some pages of the store.
const MANY: u16 = 150;

#[test]
fn a_full_disk_is_told_and_nothing_acknowledged_is_lost() {
    let mut bed = Bed::new();
    let mut control = ControlPlane::new(bed.b.pod("control").expect("a pod"));
    // The mount lives as long as somebody is in its namespace, whatever becomes of the control plane.
    let disk = control.folder().display().to_string();
    let script = format!("mount -t tmpfs -o size=16m tmpfs {disk} && echo mounted && exec sleep infinity");
    let keeper = control
        .pod()
        .spawn("/usr/bin/unshare", &["--mount", "sh", "-c", &script]);
    let keeper: Process = keeper.expect("start unshare");
    keeper
        .wait_for_line(|line| line == "mounted")
        .expect("a small disk");
    let enter = format!("--mount=/proc/{}/ns/mnt", keeper.pid());
    let wrapper = ["/usr/bin/nsenter", enter.as_str()];
    control
        .start_through(&wrapper, &[])
        .expect("start the control plane");
    follow(&mut bed.agent, &control, &[]);
    let (_replica, address) = serve(&bed, &control);
    let connecting = Connecting::start(bed.client.place(), address);
    let journal = Journal::start(bed.client.netns(), vec![control.url()], "w", MANY);
    journal.until_acknowledged(5);

    let rest = format!("/proc/{}/root{disk}/rest", keeper.pid());
    let fill = || {
        let mut file = File::options()
            .append(true)
            .create(true)
            .open(&rest)
            .expect("a file");
        std::io::copy(&mut std::io::repeat(0), &mut file).expect_err("the disk is full")
    };
    fill();
    journal.until_failed();
    let refusals = journal.refusals();
    let told = refusals.last().expect("a clear error, not one of many");
    assert!(told.contains("no room") && told.contains("store.redb"), "{told}");
    // What needs no room is served.
    control.get(&["services", "-A"]);
    fs::remove_file(&rest).expect("make room");
    journal.until_acknowledged(5);

    // Once more, and this time it does not get to make room before it dies.
    fill();
    journal.until_failed();
    control.kill().expect("kill the control plane");
    let told = journal.finish();
    fs::remove_file(&rest).expect("make room");
    control
        .start_through(&wrapper, &[])
        .expect("start the control plane again");
    told.compare(&control, "w");
    control.apply(&empty("after", 2));
    connecting.finish();
    let listed = control.get(&["services", "-A"]);
    let expected = listed["items"].as_array().expect("a list").len();
    eventually(
        "all in the kernel",
        || services(&bed.agent).len(),
        |count| *count == expected,
    );
}

#[test]
fn a_truncated_store_is_refused_and_left_as_it_is() {
    let bed = Bed::new();
    let mut control = ControlPlane::new(bed.b.pod("control").expect("a pod"));
    control.start(&[]).expect("start the control plane");
    for number in 0..5 {
        control.apply(&empty(&format!("s{number}"), number));
    }
    control.kill().expect("kill the control plane");
    let whole = fs::read(control.store()).expect("read the store");
    for length in [whole.len() / 2, 4096, 1, 0] {
        fs::write(control.store(), &whole[..length]).expect("write the store");
        let process = control.launch(&[], &[]).expect("start the control plane");
        let (status, said) = process.finish().expect("it ends");
        assert!(!status.success(), "{length}: {said}");
        let remedy = "restore the file from a copy, or move it away to start empty";
        assert!(
            said.contains("store.redb") && said.contains(remedy),
            "{length}: {said}"
        );
        let there = fs::read(control.store()).expect("read the store");
        assert!(there == whole[..length], "{length}: it was written to");
    }
    fs::write(control.store(), &whole).expect("restore the store");
    control.start(&[]).expect("start the control plane");
    let listed = control.get(&["services", "-A"]);
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(5), "{listed}");
}
