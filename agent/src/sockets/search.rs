// SPDX-License-Identifier: Apache-2.0
//! Looks for the sockets of a batch: in the namespaces of their processes, then in all. Runs on a thread that it moves.
//!
//! Invariant: what a batch costs is bounded by [`TRIES`] and [`LISTINGS`], however many sockets and namespaces there are.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::IpAddr,
};

use nix::errno::Errno;
use nodemesh_abi::Protocol;

use super::{
    Ending, Socket,
    diag::Diag,
    namespaces::{self, Namespace},
};

/// Sockets asked for by their ends, a few microseconds each, in all namespaces together.
const TRIES: usize = 500_000;
/// Looks at all sockets of a namespace, some milliseconds each.
const LISTINGS: usize = 1_000;
/// Namespaces that are open at a time: one descriptor each.
const WINDOW: usize = 128;

/// Ends `sockets`; what became of each, in the same order.
pub(super) fn end(sockets: &[Socket]) -> Vec<Ending> {
    let mut search = Search {
        sockets,
        endings: vec![None; sockets.len()],
        tries: TRIES,
        listings: LISTINGS,
        is_known: vec![false; sockets.len()],
        missed: None,
        unreadable: None,
        has_looked: false,
        hints: HashMap::new(),
    };
    search.in_namespaces_of_processes();
    search.in_all(Search::try_each);
    search.in_all(Search::list_each);
    search.finish()
}

struct Search<'a> {
    sockets: &'a [Socket],
    /// `None` for one that was not found yet.
    endings: Vec<Option<Ending>>,
    tries: usize,
    listings: usize,
    /// Whether all namespaces of its process were looked at: there is no need to have seen the others.
    is_known: Vec<bool>,
    /// Why a namespace could not be looked at.
    missed: Option<Ending>,
    /// Why it is not known in which namespace a process is. Most namespaces have several.
    unreadable: Option<Ending>,
    /// Whether any namespace could be looked at.
    has_looked: bool,
    /// The place in the open namespaces where a socket with this address was found.
    hints: HashMap<IpAddr, usize>,
}

impl Search<'_> {
    fn in_namespaces_of_processes(&mut self) {
        let mut by_process: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (index, socket) in self
            .sockets
            .iter()
            .enumerate()
            .filter(|(_, socket)| socket.tgid != 0)
        {
            by_process.entry(socket.tgid).or_default().push(index);
        }
        for (tgid, indices) in by_process {
            let (mut looked, mut all) = (false, true);
            for namespace in namespaces::of_process(tgid) {
                let Some(mut diag) = self.open(namespace) else {
                    all = false;
                    continue;
                };
                for &index in &indices {
                    self.try_in(&mut diag, index);
                }
                all &= self.list_in(&mut diag, &indices);
                looked = true;
            }
            if looked && all {
                for index in indices {
                    self.is_known[index] = true;
                }
            }
        }
    }

    /// Calls `look` with all namespaces, some of them at a time, as long as something is missing.
    fn in_all(&mut self, look: impl Fn(&mut Self, &mut [Diag])) {
        let mut namespaces = namespaces::all();
        while self.endings.contains(&None) {
            let mut diags = Vec::new();
            for namespace in namespaces.by_ref() {
                diags.extend(self.open(namespace));
                if diags.len() == WINDOW {
                    break;
                }
            }
            if diags.is_empty() {
                break;
            }
            self.hints.clear();
            look(self, &mut diags);
        }
    }

    fn open(&mut self, namespace: io::Result<Namespace>) -> Option<Diag> {
        let namespace = match namespace {
            Ok(namespace) => namespace,
            Err(error) => {
                let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
                self.unreadable = self.unreadable.or(Some(ending(errno)));
                return None;
            }
        };
        let opened = Diag::open(&namespace);
        self.has_looked |= opened.is_ok();
        opened.map_err(|error| self.miss(ending(error))).ok()
    }

    fn miss(&mut self, why: Ending) {
        self.missed = self.missed.or(Some(why));
    }

    /// Asks for each socket by its ends.
    fn try_each(&mut self, diags: &mut [Diag]) {
        for index in 0..self.sockets.len() {
            // Sockets with one address are mostly in one namespace.
            let hint = self.hints.get(&self.sockets[index].local.ip()).copied();
            let order = hint.into_iter().chain(0..diags.len());
            for place in order {
                if self.try_in(&mut diags[place], index) {
                    self.hints.insert(self.sockets[index].local.ip(), place);
                    break;
                }
            }
        }
    }

    /// Looks among all of a namespace for each socket for which that was not done in its process's.
    fn list_each(&mut self, diags: &mut [Diag]) {
        let all = (0..self.sockets.len()).filter(|index| !self.is_known[*index]);
        let all: Vec<usize> = all.collect();
        for diag in diags {
            self.list_in(diag, &all);
        }
    }

    /// Whether something was learnt of the socket now.
    fn try_in(&mut self, diag: &mut Diag, index: usize) -> bool {
        let socket = &self.sockets[index];
        if self.endings[index].is_some() || socket.local.port() == 0 {
            return false;
        }
        if self.tries == 0 {
            self.miss(Ending::GaveUp);
            return false;
        }
        self.tries -= 1;
        self.learn(index, diag.end(socket))
    }

    /// Looks for those of `indices` that were not found yet; false if not all could be looked for.
    fn list_in(&mut self, diag: &mut Diag, indices: &[usize]) -> bool {
        let sockets = self.sockets;
        let mut all = true;
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let is_missing =
                |index: &usize| self.endings[*index].is_none() && sockets[*index].protocol == protocol;
            let missing: Vec<usize> = indices.iter().copied().filter(is_missing).collect();
            if missing.is_empty() {
                continue;
            }
            if self.listings == 0 {
                self.miss(Ending::GaveUp);
                return false;
            }
            self.listings -= 1;
            let wanted: Vec<&Socket> = missing.iter().map(|index| &sockets[*index]).collect();
            match diag.find_and_end(&wanted) {
                Ok(ended) => {
                    for (place, result) in ended {
                        self.learn(missing[place], result);
                    }
                }
                Err(error) => {
                    self.miss(ending(error));
                    all = false;
                }
            }
        }
        all
    }

    fn learn(&mut self, index: usize, result: Result<(), Errno>) -> bool {
        self.endings[index] = match result {
            Ok(()) => Some(Ending::Ended),
            Err(Errno::ENOENT) => None,
            Err(error) => Some(ending(error)),
        };
        self.endings[index].is_some()
    }

    fn finish(self) -> Vec<Ending> {
        let unreadable = self.unreadable.filter(|_| !self.has_looked);
        let missing = self.missed.or(unreadable).unwrap_or(Ending::NotFound);
        let endings = self.endings.into_iter().zip(self.is_known);
        endings
            .map(|(ending, is_known)| ending.unwrap_or(if is_known { Ending::NotFound } else { missing }))
            .collect()
    }
}

/// What an error of the kernel says about a socket.
pub(super) fn ending(error: Errno) -> Ending {
    match error {
        Errno::EPERM | Errno::EACCES => Ending::NotPermitted,
        Errno::EOPNOTSUPP | Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT => Ending::NotSupported,
        error => Ending::Failed(error),
    }
}
