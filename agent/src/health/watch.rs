// SPDX-License-Identifier: Apache-2.0
//! Shows [`silence`](super::silence) what each pass of the sweep saw of every backend, and has its verdicts carried out.
//!
//! One subject per endpoint, since several services may have the same replica: all of them lose it and get it back together. Owned by
//! the sweep's thread. Invariant: a pass costs what is open, not what the cluster has.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use nodemesh_abi::{
    Ejection, Ip16, ListedConnection, Port, Protocol, Traffic, Vantage,
    traffic::{FIRST_BOUNDS_NS, GAP_BOUNDS_NS, SHARED_PAIR},
};
use nodemesh_model::resource::policy::Silence;
use tracing::{info, warn};

use super::{
    judge::{Judge, Judged, is_out},
    silence::{Demand, Memory, Progress, Seen, Sign, Verdict},
};
use crate::{admin::report, quantile, reconcile::view::View};

/// How soon a backend that is out is looked at again.
const OUT_PERIOD: Duration = Duration::from_millis(500);

/// Where a backend listens.
type Endpoint = (Ip16, Port);

/// A backend as one service has it.
#[derive(Clone, Copy, Debug)]
struct Member {
    backend: Judged,
    traffic: u32,
    silence: Silence,
}

/// What is known of an endpoint.
#[derive(Debug, Default)]
struct Subject {
    members: Vec<Member>,
    memory: Memory,
    /// Whether it was out in the last pass.
    is_out: bool,
    /// Whether its silence was logged: the kernel may leave it in, or have it out for another reason.
    is_told: bool,
}

/// The watch.
pub struct SilenceWatch {
    judge: Arc<Judge>,
    view: Option<Arc<View>>,
    subjects: HashMap<Endpoint, Subject>,
    /// Those that are looked at in each pass, whether or not anything of them is open.
    watched: HashSet<Endpoint>,
}

impl SilenceWatch {
    /// A watch whose verdicts `judge` carries out.
    pub fn new(judge: Arc<Judge>) -> Self {
        Self {
            judge,
            view: None,
            subjects: HashMap::new(),
            watched: HashSet::new(),
        }
    }

    /// Takes over the backends of `view`.
    pub fn follow(&mut self, view: &Arc<View>) {
        if self.view.as_ref().is_some_and(|former| Arc::ptr_eq(former, view)) {
            return;
        }
        let mut former = std::mem::take(&mut self.subjects);
        let tcp = view
            .frontends
            .iter()
            .filter(|programmed| programmed.frontend.protocol() == Protocol::Tcp);
        for programmed in tcp {
            let Some(silence) = programmed.frontend.rules.silence else {
                continue;
            };
            for (backend, place) in programmed.frontend.backends.iter().zip(&programmed.backends) {
                let endpoint = (backend.addr, backend.port);
                let member = Member {
                    backend: Judged {
                        id: place.id,
                        generation: place.generation,
                    },
                    traffic: place.traffic,
                    silence,
                };
                let subject = self.subjects.entry(endpoint).or_insert_with(|| {
                    let mut subject = former.remove(&endpoint).unwrap_or_default();
                    subject.members.clear();
                    subject
                });
                subject.members.push(member);
            }
        }
        if self.view.is_none() {
            self.adopt();
        }
        self.watched
            .retain(|endpoint| self.subjects.contains_key(endpoint));
        self.view = Some(Arc::clone(view));
    }

    /// Finds the backends that a former agent ejected.
    fn adopt(&mut self) {
        for (endpoint, subject) in &self.subjects {
            if subject.is_out(&self.judge) {
                self.watched.insert(*endpoint);
            }
        }
    }

    /// Looks at `records`, what a pass at `now` found open, and at `rows`, what was counted before it. Tells how soon it wants to look
    /// again, if sooner than usual.
    pub fn pass(
        &mut self,
        records: &[ListedConnection],
        rows: &BTreeMap<u32, Traffic>,
        now: u64,
    ) -> Option<Duration> {
        let mut seen: HashMap<Endpoint, Vec<Seen>> = HashMap::new();
        for listed in records {
            let connection = &listed.connection;
            let endpoint = (connection.backend_addr, connection.backend_port);
            if let Some(sign) = Sign::of(listed)
                && self.subjects.contains_key(&endpoint)
            {
                seen.entry(endpoint).or_default().push(Seen {
                    cookie: connection.cookie,
                    vantage: Vantage::from_raw(connection.meter.vantage),
                    sign,
                });
            }
        }
        let endpoints: HashSet<Endpoint> = seen.keys().chain(&self.watched).copied().collect();
        let mut soonest: Option<Duration> = None;
        for endpoint in endpoints {
            let Some(subject) = self.subjects.get_mut(&endpoint) else {
                continue;
            };
            let wish = subject.look(&self.judge, endpoint, seen.get(&endpoint), rows, now);
            soonest = soonest.into_iter().chain(wish).min();
            if subject.is_out || !subject.memory.is_idle() || seen.contains_key(&endpoint) {
                self.watched.insert(endpoint);
            } else {
                self.watched.remove(&endpoint);
            }
        }
        soonest
    }
}

impl Subject {
    fn is_out(&self, judge: &Judge) -> bool {
        let out = |member: &Member| {
            judge
                .state(member.backend)
                .is_ok_and(|state| is_out(&state, Ejection::Silence))
        };
        self.members.iter().any(out)
    }

    fn look(
        &mut self,
        judge: &Judge,
        endpoint: Endpoint,
        seen: Option<&Vec<Seen>>,
        rows: &BTreeMap<u32, Traffic>,
        now: u64,
    ) -> Option<Duration> {
        self.is_out = self.is_out(judge);
        let (progress, gap_ns) = self.counted(rows);
        let strictest = self.members.iter().map(|member| member.silence);
        let strictest = strictest.min_by_key(|silence| (silence.minimum, silence.streams))?;
        let demand = Demand {
            streams: strictest.streams,
            minimum: strictest.minimum,
            gap_ns,
        };
        let seen = seen.map_or(&[][..], Vec::as_slice);
        let verdict = self.memory.pass(demand, seen, progress, self.is_out, now);
        let carry_out = |act: &dyn Fn(Judged) -> anyhow::Result<()>| {
            for member in &self.members {
                if let Err(error) = act(member.backend) {
                    let error = format!("{error:#}");
                    warn!(
                        error,
                        "could not judge a backend that is silent or emits again; trying again"
                    );
                }
            }
        };
        let address = || report::endpoint(endpoint.0, endpoint.1);
        match verdict {
            Verdict::Leave(due) => {
                self.is_told = self.is_out;
                let due = due.map(|due| Duration::from_nanos(due.saturating_sub(now)));
                return if self.is_out { Some(OUT_PERIOD) } else { due };
            }
            Verdict::Eject => {
                if !std::mem::replace(&mut self.is_told, true) {
                    info!(
                        backend = address(),
                        connections = seen.len(),
                        "a backend is silent"
                    );
                }
                carry_out(&|backend| judge.eject(backend, Ejection::Silence, Duration::ZERO));
            }
            Verdict::Readmit => {
                self.is_told = false;
                info!(backend = address(), "a silent backend emits again");
                carry_out(&|backend| judge.readmit(backend, Ejection::Silence));
            }
        }
        Some(OUT_PERIOD)
    }

    /// What its rows counted at the nearer end, and the 99th percentile of the gaps there.
    fn counted(&self, rows: &BTreeMap<u32, Traffic>) -> (Progress, Option<u64>) {
        let of_end = |vantage: Vantage| {
            let own = self.members.iter().map(|member| member.traffic);
            let used = own.filter(|pair| *pair != SHARED_PAIR);
            let used: Vec<&Traffic> = used.filter_map(|pair| rows.get(&vantage.row(pair))).collect();
            (!used.is_empty()).then_some(used)
        };
        let shared = || rows.get(&Vantage::Client.row(SHARED_PAIR)).map(|row| vec![row]);
        let Some(used) = of_end(Vantage::Server).or_else(|| of_end(Vantage::Client)) else {
            // Of the shared rows nothing but the pace can be told of one backend.
            let gap = shared().and_then(|rows| gap_ns(&rows));
            return (Progress::default(), gap);
        };
        let sum = |number: fn(&Traffic) -> u64| used.iter().map(|row| number(row)).fold(0, u64::wrapping_add);
        let progress = Progress {
            begun: sum(begun),
            read: sum(|row| row.bytes_up),
        };
        (progress, gap_ns(&used))
    }
}

/// The slowest pace of `rows`.
fn gap_ns(rows: &[&Traffic]) -> Option<u64> {
    let gaps = rows
        .iter()
        .filter_map(|row| quantile::of_slots(&GAP_BOUNDS_NS, &row.gap, 0.99));
    gaps.max()
}

/// Answers whose first token was sent.
fn begun(row: &Traffic) -> u64 {
    // The last slot is a sum.
    row.first_token[..=FIRST_BOUNDS_NS.len()].iter().sum()
}
