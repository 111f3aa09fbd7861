// SPDX-License-Identifier: Apache-2.0
//! The thread that follows the view: tells when drains begin and end, and ends connections that have a reason to.
//!
//! Its own thread because a listing of many connections takes milliseconds. Invariant: it costs less than two percent of a core: the
//! longer a listing took, the longer the rest after it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use anyhow::Result;
use nodemesh_abi::{Connection, Ip16, Port};
use nodemesh_model::{BackendState, ResourceName, resource::policy::OnRemoval};
use tokio::sync::watch;
use tracing::{debug, warn};

use super::{
    examine::Examiner,
    reason::{Removed, Wanted, is_client},
};
use crate::{
    datapath::{MapReader, clock::monotonic_ns, listing::ConnectionLister},
    drain::left::{Left, Place},
    events::{self, AgentEvent, Closing, Events},
    reconcile::view::View,
    sockets::{Ending, Socket, Sockets},
};

/// Time between two looks at what drains.
const PERIOD: Duration = Duration::from_millis(250);
/// Looks for the same news: a connection that was on its way when it came shows a little later.
const LOOKS: u32 = 3;
/// Time between them.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// A listing is followed by so many times the rest.
const REST: u32 = 50;
/// A socket that was asked for is not asked for again before this.
const PATIENCE: Duration = Duration::from_secs(5);

/// A backend of a service.
type Key = (ResourceName, Ip16, Port);

/// The thread's state.
pub struct Watch {
    lister: ConnectionLister,
    maps: MapReader,
    view: watch::Receiver<Arc<View>>,
    events: Arc<Events>,
    sockets: Sockets,
    former: Option<Arc<View>>,
    /// What becomes of TCP connections to backends of services, those that are gone too.
    on_removal: HashMap<ResourceName, OnRemoval>,
    draining: BTreeMap<Key, Drain>,
    removed: HashMap<u32, Removed>,
    /// How often to look for connections that policies deny, or whose backend was removed.
    examinations: u32,
    removals: u32,
    next_look: Instant,
    rested: Instant,
    asked: HashMap<u64, Instant>,
}

/// A backend that drains.
#[derive(Debug)]
struct Drain {
    places: Vec<Place>,
    /// Whether its end was told.
    ended: bool,
}

impl Watch {
    /// Follows `view`, what it shows now not being news; lists with `lister` and ends connections through `sockets`.
    pub fn new(
        lister: ConnectionLister,
        maps: MapReader,
        view: watch::Receiver<Arc<View>>,
        events: Arc<Events>,
        sockets: Sockets,
    ) -> Self {
        let now = view.borrow().clone();
        let mut watch = Self {
            lister,
            maps,
            view,
            events,
            sockets,
            former: None,
            on_removal: HashMap::new(),
            draining: BTreeMap::new(),
            removed: HashMap::new(),
            examinations: 0,
            removals: 0,
            next_look: Instant::now(),
            rested: Instant::now(),
            asked: HashMap::new(),
        };
        // Not by the first pass: a drain may begin before that.
        watch.follow(&now);
        watch
    }

    /// Watches until the other end of `stop` is gone.
    pub fn run(mut self, stop: &mpsc::Receiver<()>) {
        while stop.recv_timeout(PERIOD) == Err(mpsc::RecvTimeoutError::Timeout) {
            if let Err(error) = self.pass() {
                let error = format!("{error:#}");
                warn!(
                    error,
                    "cannot look for connections that are to be ended; trying again"
                );
            }
        }
    }

    fn pass(&mut self) -> Result<()> {
        let view = self.view.borrow().clone();
        self.follow(&view);
        let drains = self.drains()?;
        let is_due = self.examinations + self.removals > 0 && Instant::now() >= self.next_look;
        if (is_due || drains) && Instant::now() >= self.rested {
            self.look(&view, is_due)?;
        }
        Ok(())
    }

    /// Notes what is new in `view`.
    fn follow(&mut self, view: &Arc<View>) {
        if self
            .former
            .as_ref()
            .is_some_and(|former| Arc::ptr_eq(former, view))
        {
            return;
        }
        let former = self.former.replace(Arc::clone(view));
        let is_first = former.as_ref().is_none_or(|former| former.generation == 0);
        let is_changed = former
            .as_ref()
            .is_none_or(|former| !Arc::ptr_eq(&former.desired, &view.desired));
        for programmed in &view.frontends {
            let frontend = &programmed.frontend;
            self.on_removal
                .insert(frontend.service.clone(), frontend.rules.on_removal);
        }
        // Policies may have changed while no agent ran, too.
        if is_changed
            && view
                .frontends
                .iter()
                .any(|programmed| programmed.frontend.access.is_some())
        {
            self.look_soon();
            self.examinations = LOOKS;
        }
        self.follow_removals(view);
        self.follow_drains(view, is_first);
        let live: HashSet<&ResourceName> = view
            .frontends
            .iter()
            .map(|programmed| &programmed.frontend.service)
            .chain(
                view.retired
                    .iter()
                    .filter_map(|(_, retired)| retired.service.as_ref()),
            )
            .collect();
        self.on_removal.retain(|service, _| live.contains(service));
    }

    fn follow_removals(&mut self, view: &View) {
        let mut removed = HashMap::new();
        for (id, retired) in &view.retired {
            let on_removal = retired
                .service
                .as_ref()
                .and_then(|service| self.on_removal.get(service));
            let now = Removed {
                endpoint: (retired.row.addr, retired.row.port),
                ends_tcp: on_removal == Some(&OnRemoval::Close),
            };
            let former = self.removed.get(id).copied();
            let former = former.filter(|former| former.endpoint == now.endpoint);
            if former.is_none() {
                self.look_soon();
                self.removals = LOOKS;
            }
            removed.insert(*id, former.unwrap_or(now));
        }
        self.removed = removed;
    }

    fn follow_drains(&mut self, view: &View, is_first: bool) {
        let mut draining: BTreeMap<Key, Drain> = BTreeMap::new();
        for programmed in &view.frontends {
            let frontend = &programmed.frontend;
            for (backend, place) in frontend.backends.iter().zip(&programmed.backends) {
                if backend.state != BackendState::Draining {
                    continue;
                }
                let key = (frontend.service.clone(), backend.addr, backend.port);
                let place = Place {
                    id: place.id,
                    traffic: place.traffic,
                };
                let drain = draining.entry(key).or_insert_with(|| Drain {
                    places: Vec::new(),
                    ended: false,
                });
                drain.places.push(place);
            }
        }
        for (key, drain) in &mut draining {
            match self.draining.get(key) {
                Some(former) => drain.ended = former.ended,
                // What drained before this agent began was told by the former one.
                None if is_first => {}
                None => self.events.tell(AgentEvent::DrainBegan(told(key))),
            }
        }
        self.draining = draining;
    }

    /// Looks at what drains; whether anything is left there.
    fn drains(&mut self) -> Result<bool> {
        let mut any = false;
        for (key, drain) in &mut self.draining {
            if drain.ended {
                continue;
            }
            let mut is_nothing = true;
            for place in &drain.places {
                is_nothing &= Left::at(*place, &self.maps)?.is_nothing();
            }
            any |= !is_nothing;
            if is_nothing {
                drain.ended = true;
                self.events.tell(AgentEvent::DrainEnded(told(key)));
            }
        }
        Ok(any)
    }

    fn look_soon(&mut self) {
        self.next_look = Instant::now();
    }

    /// Lists the connections and ends those that have a reason to; `is_due` for the reasons beside drains.
    fn look(&mut self, view: &View, is_due: bool) -> Result<()> {
        let started = Instant::now();
        let drains = self.draining.iter().filter(|(_, drain)| !drain.ended);
        let mut wanted = Wanted {
            examiner: (is_due && self.examinations > 0).then(|| Examiner::new(view)),
            removed: if is_due && self.removals > 0 {
                self.removed.clone()
            } else {
                HashMap::new()
            },
            draining: drains.map(|((_, addr, port), _)| (*addr, *port)).collect(),
            now: monotonic_ns(),
        };
        self.asked.retain(|_, at| at.elapsed() < PATIENCE);
        let mut ends: HashMap<_, (Connection, Closing)> = HashMap::new();
        self.lister.scan(|listed| {
            let connection = &listed.connection;
            if self.asked.contains_key(&connection.cookie) {
                return;
            }
            if let Some(closing) = wanted.reason(connection) {
                let client = (connection.client_addr, connection.client_port);
                let backend = (connection.backend_addr, connection.backend_port);
                let key = (connection.protocol, client, backend);
                if is_client(connection) || !ends.contains_key(&key) {
                    ends.insert(key, (*connection, closing));
                }
            }
        })?;
        if is_due {
            self.examinations = self.examinations.saturating_sub(1);
            self.removals = self.removals.saturating_sub(1);
            self.next_look = started + LOOK_AGAIN;
        }
        self.end(&ends.into_values().collect::<Vec<_>>(), view);
        self.rested = Instant::now() + started.elapsed() * REST;
        Ok(())
    }

    fn end(&mut self, ends: &[(Connection, Closing)], view: &View) {
        if ends.is_empty() {
            return;
        }
        let names = names_of(view);
        let sockets: Vec<Socket> = ends
            .iter()
            .map(|(connection, _)| Socket::of(connection))
            .collect();
        let asked: Vec<u64> = sockets.iter().map(|socket| socket.cookie).collect();
        let told: Vec<AgentEvent> = ends
            .iter()
            .map(|(connection, closing)| closed(connection, *closing, &names))
            .collect();
        let events = Arc::clone(&self.events);
        let done = move |endings: Vec<Ending>| {
            for (event, ending) in told.into_iter().zip(endings) {
                match ending {
                    Ending::Ended => events.tell(event),
                    Ending::NotFound => {}
                    other => warn!(?other, "could not end a connection"),
                }
            }
        };
        match self.sockets.end(sockets, done) {
            Ok(()) => self
                .asked
                .extend(asked.into_iter().zip(std::iter::repeat(Instant::now()))),
            Err(error) => debug!(%error, "connections are ended later"),
        }
    }
}

fn told((service, addr, port): &Key) -> events::Backend {
    events::Backend {
        service: service.clone(),
        endpoint: (*addr, *port),
    }
}

/// Services by id, and by the ids of backends that were removed.
type Services<'a> = (HashMap<u32, &'a ResourceName>, HashMap<u32, &'a ResourceName>);

fn names_of(view: &View) -> Services<'_> {
    let live = view
        .frontends
        .iter()
        .map(|programmed| (programmed.service_id, &programmed.frontend.service));
    let retired = view
        .retired
        .iter()
        .filter_map(|(id, retired)| Some((*id, retired.service.as_ref()?)));
    (live.collect(), retired.collect())
}

fn closed(connection: &Connection, closing: Closing, (live, retired): &Services<'_>) -> AgentEvent {
    let service = retired
        .get(&connection.backend)
        .or_else(|| live.get(&connection.service));
    let backend = events::Backend {
        service: service.map_or_else(unknown, |name| (*name).clone()),
        endpoint: (connection.backend_addr, connection.backend_port),
    };
    let connection = events::Connection {
        backend,
        client: (connection.client_addr, connection.client_port),
        identity: connection.identity,
        tgid: connection.tgid,
        cgroup: connection.cgroup,
        protocol: connection.protocol,
    };
    AgentEvent::Closed(Box::new(connection), closing)
}

/// The service of a backend that a former agent had, of which only the row is known.
fn unknown() -> ResourceName {
    ResourceName::new("unknown", "unknown").expect("two labels")
}
