// SPDX-License-Identifier: Apache-2.0
//! Simulates a replica, hour after hour, and holds the verdicts against what it did. Its clock has steps of 10 ms and costs nothing.

use proptest::prelude::*;

use super::*;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;
const STEP: u64 = 10 * MS;
const PERIOD: u64 = SECOND;

/// A request, as the server sees it.
#[derive(Clone, Debug)]
struct Request {
    cookie: u64,
    /// Work until the first token, nanoseconds.
    prefill: u64,
    tokens: u64,
    last_ns: u64,
    next_ns: u64,
}

/// A replica that answers requests, and freezes when told to.
#[derive(Debug, Default)]
struct Replica {
    requests: Vec<Request>,
    unread: Vec<u64>,
    progress: Progress,
    frozen: bool,
    /// Whether requests are read, and health checks answered, by a front that goes on when the engine is frozen.
    has_front: bool,
    cookies: u64,
}

impl Replica {
    fn submit(&mut self, now: u64, prefill: u64, tokens: u64) {
        self.cookies += 1;
        if self.frozen && !self.has_front {
            return self.unread.push(self.cookies);
        }
        self.progress.read += 1;
        self.requests.push(Request {
            cookie: self.cookies,
            prefill,
            tokens,
            last_ns: now,
            next_ns: now + prefill,
        });
    }

    fn step(&mut self, now: u64, gap: u64) {
        if self.has_front {
            self.progress.read += 1;
        }
        if self.frozen {
            return;
        }
        for _ in 0..std::mem::take(&mut self.unread).len() {
            self.submit(now, 100 * MS, 100);
        }
        for request in &mut self.requests {
            if now >= request.next_ns {
                self.progress.begun += u64::from(request.prefill > 0);
                (request.prefill, request.last_ns, request.next_ns) = (0, now, now + gap);
                request.tokens -= 1;
            }
        }
        self.requests.retain(|request| request.tokens > 0);
    }

    fn thaw(&mut self, now: u64) {
        self.frozen = false;
        for request in &mut self.requests {
            request.next_ns = request.next_ns.max(now);
        }
    }

    fn seen(&self) -> Vec<Seen> {
        let requests = self.requests.iter().map(|request| {
            let is_prefill = request.prefill > 0;
            let sign = if is_prefill {
                Sign::Busy
            } else {
                Sign::Stream(request.last_ns)
            };
            (request.cookie, sign)
        });
        let unread = self.unread.iter().map(|cookie| (*cookie, Sign::Unread { up: 0 }));
        let all = requests.chain(unread);
        all.map(|(cookie, sign)| Seen {
            cookie,
            vantage: Vantage::Server,
            sign,
        })
        .collect()
    }
}

/// The agent and the kernel.
#[derive(Debug, Default)]
struct Mesh {
    memory: Memory,
    next_pass: u64,
    out: bool,
    ejections: u64,
}

impl Mesh {
    fn step(&mut self, replica: &Replica, demand: Demand, now: u64) {
        if now < self.next_pass {
            return;
        }
        self.next_pass = now + PERIOD;
        match self
            .memory
            .pass(demand, &replica.seen(), replica.progress, self.out, now)
        {
            Verdict::Leave(due) => {
                self.next_pass = due.map_or(self.next_pass, |due| due.clamp(now + STEP, self.next_pass));
            }
            Verdict::Eject => {
                self.ejections += u64::from(!self.out);
                self.out = true;
            }
            Verdict::Readmit => self.out = false,
        }
    }
}

fn demand(gap: u64) -> Demand {
    Demand {
        streams: 2,
        minimum: Duration::from_secs(2),
        gap_ns: Some(gap),
    }
}

/// One hour of traffic: each load is (idle before, prefill, tokens).
fn hour(loads: &[(u64, u64, u64)], gap: u64) -> Mesh {
    let (mut replica, mut mesh, mut next) = (Replica::default(), Mesh::default(), 0);
    let mut loads = loads.iter().cycle();
    for now in (SECOND..3_600 * SECOND).step_by(STEP as usize) {
        if now >= next {
            let (idle, prefill, tokens) = loads.next().expect("a cycle has no end");
            next = now + idle;
            if replica.requests.len() < 16 {
                replica.submit(now, *prefill, *tokens);
            }
        }
        replica.step(now, gap);
        mesh.step(&replica, demand(gap), now);
    }
    mesh
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_replica_that_works_is_never_ejected(
        loads in prop::collection::vec((100 * MS..120 * SECOND, 0..61 * SECOND, 1_u64..2_000), 1..20),
        gap in 10 * MS..100 * MS,
    ) {
        prop_assert_eq!(hour(&loads, gap).ejections, 0);
    }

    #[test]
    fn a_frozen_replica_is_ejected_within_3_s_and_readmitted_within_2_s(
        streams in 2_u64..20,
        prefills in 0_u64..3,
        more in 0_u64..5,
        gap in 10 * MS..100 * MS,
        has_front: bool,
        freeze in 3 * SECOND..9 * SECOND,
        frozen in 5 * SECOND..100 * SECOND,
    ) {
        let (mut replica, mut mesh) = (Replica { has_front, ..Replica::default() }, Mesh::default());
        let (freeze, thaw) = (freeze / STEP * STEP, (freeze + frozen) / STEP * STEP);
        (0..streams).for_each(|_| replica.submit(0, 50 * MS, 1_000_000));
        (0..prefills).for_each(|_| replica.submit(0, 60 * SECOND, 1_000_000));
        for now in (STEP..thaw + 5 * SECOND).step_by(STEP as usize) {
            if now == freeze {
                replica.frozen = true;
            }
            if now == thaw {
                replica.thaw(now);
            }
            // Clients keep coming until the replica is out.
            if more > 0 && !mesh.out && replica.frozen && now.is_multiple_of(SECOND / more / STEP * STEP) {
                replica.submit(now, 50 * MS, 100);
            }
            replica.step(now, gap);
            mesh.step(&replica, demand(gap), now);
            prop_assert!(!mesh.out || now >= freeze, "ejected before it froze");
            if (freeze + 3 * SECOND..thaw).contains(&now) {
                prop_assert!(mesh.out, "in, {} ms after it froze", (now - freeze) / MS);
            }
            if now >= thaw + 2 * SECOND {
                prop_assert!(!mesh.out, "out, {} ms after it thawed", (now - thaw) / MS);
            }
        }
        prop_assert_eq!(mesh.ejections, 1);
    }
}

#[test]
fn an_idle_replica_and_one_in_prefill_give_no_evidence() {
    let replica = Replica::default();
    let mut mesh = Mesh::default();
    (0..3_600).for_each(|second| mesh.step(&replica, demand(20 * MS), second * SECOND));
    assert_eq!(mesh.ejections, 0);

    let mut replica = Replica::default();
    (0..8).for_each(|_| replica.submit(0, 3_500 * SECOND, 1));
    (0..3_400).for_each(|second| mesh.step(&replica, demand(20 * MS), second * SECOND));
    assert_eq!(mesh.ejections, 0);
}

#[test]
fn a_server_that_reads_nothing_is_ejected_unless_it_works_on_something() {
    let mut replica = Replica {
        frozen: true,
        ..Replica::default()
    };
    replica.submit(0, 0, 1);
    replica.submit(0, 0, 1);
    let mut memory = Memory::default();
    let mut look = |replica: &Replica, second: u64| {
        memory.pass(
            demand(20 * MS),
            &replica.seen(),
            replica.progress,
            false,
            second * SECOND,
        )
    };
    assert_eq!(look(&replica, 10), Verdict::Leave(Some(13 * SECOND)));
    assert_eq!(look(&replica, 13), Verdict::Eject);
    replica.frozen = false;
    replica.submit(13 * SECOND, 60 * SECOND, 1);
    assert_eq!(look(&replica, 40), Verdict::Leave(None), "it may be in prefill");
}

#[test]
fn the_own_pace_of_a_replica_counts() {
    let slow = Demand {
        gap_ns: Some(SECOND),
        ..demand(0)
    };
    assert_eq!(slow.limit_ns(), 10 * SECOND);
    assert_eq!(Demand { gap_ns: None, ..slow }.limit_ns(), UNKNOWN_PACE_NS);
    assert_eq!(demand(50 * MS).limit_ns(), 2 * SECOND);
}

#[test]
fn one_stream_that_emits_or_begins_to_proves_it_alive() {
    let seen = |cookie, last_ns| Seen {
        cookie,
        vantage: Vantage::Server,
        sign: Sign::Stream(last_ns),
    };
    let mut memory = Memory::default();
    let mut look = |seen: &[Seen], begun, now| {
        let progress = Progress {
            begun,
            ..Progress::default()
        };
        memory.pass(demand(20 * MS), seen, progress, false, now)
    };
    let now = 100 * SECOND;
    let silent = [seen(1, now - 50 * SECOND), seen(2, now - 50 * SECOND)];
    let with_one = [silent[0], silent[1], seen(3, now)];
    assert_eq!(look(&with_one, 0, now), Verdict::Leave(Some(now + 2 * SECOND)));
    assert_eq!(
        look(&silent, 1, now + SECOND),
        Verdict::Leave(Some(now + 5 * SECOND / 2)),
        "another one came and went"
    );
    assert_eq!(
        look(&silent[..1], 1, now + 9 * SECOND),
        Verdict::Leave(None),
        "one alone is not enough"
    );
    assert_eq!(look(&silent, 1, now + 9 * SECOND), Verdict::Eject);
}

#[test]
fn what_a_front_reads_does_not_prove_an_engine_well() {
    let stream = |cookie| Seen {
        cookie,
        vantage: Vantage::Server,
        sign: Sign::Stream(SECOND),
    };
    let busy = Seen {
        sign: Sign::Busy,
        ..stream(3)
    };
    let seen = [stream(1), stream(2), busy];
    let mut memory = Memory::default();
    let mut look = |seen: &[Seen], begun, read, is_out, second: u64| {
        memory.pass(
            demand(20 * MS),
            seen,
            Progress { begun, read },
            is_out,
            second * SECOND,
        )
    };
    assert_eq!(look(&seen, 7, 100, false, 10), Verdict::Eject);
    assert_eq!(look(&seen, 7, 200, true, 11), Verdict::Eject);
    assert_eq!(
        look(&seen[2..], 7, 300, true, 12),
        Verdict::Leave(None),
        "their clients gave up"
    );
    assert_eq!(look(&seen[2..], 8, 300, true, 13), Verdict::Readmit);
}

#[test]
fn a_clock_that_stands_still_or_goes_back_ejects_nothing() {
    // The kernel's clock does neither; a record may be newer than the time that a pass began at.
    let stream = |cookie| Seen {
        cookie,
        vantage: Vantage::Server,
        sign: Sign::Stream(100 * SECOND),
    };
    let seen = [stream(1), stream(2)];
    let mut memory = Memory::default();
    for second in [100, 100, 50, 0, 101] {
        let verdict = memory.pass(
            demand(20 * MS),
            &seen,
            Progress::default(),
            false,
            second * SECOND,
        );
        assert_eq!(verdict, Verdict::Leave(Some(102 * SECOND)), "{second}");
    }
}

#[test]
fn a_stream_that_is_seen_at_both_ends_counts_once() {
    let both = [Vantage::Client, Vantage::Server].map(|vantage| Seen {
        cookie: vantage as u64,
        vantage,
        sign: Sign::Stream(1),
    });
    let mut memory = Memory::default();
    let verdict = memory.pass(demand(20 * MS), &both, Progress::default(), false, 100 * SECOND);
    assert_eq!(verdict, Verdict::Leave(None));
}
