// SPDX-License-Identifier: Apache-2.0
//! The session against a server that is written from the protocol's description: scenes, and random histories after which both sides
//! must agree.

mod histories;
mod server;

use std::collections::{BTreeMap, BTreeSet};

use nodemesh_proto::type_url::{ASSIGNMENT, CLUSTER, LISTENER, POLICY_DOCUMENT, WORKLOAD_TABLE};

use super::*;
use server::Server;

/// Bytes that are refused.
const BAD: &[u8] = b"bad";

/// A stand-in for what is behind the session. The body of a listener or cluster is the names that it refers to, with blanks between.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    pub(super) held: BTreeMap<(&'static str, String), Vec<u8>>,
}

impl Shelf {
    fn references(&self, type_url: &str) -> BTreeSet<&str> {
        let bodies = self.held.iter().filter(|((held, _), _)| *held == type_url);
        let text = |body| std::str::from_utf8(body).expect("the tests write text");
        bodies
            .flat_map(|(_, body)| text(body).split_whitespace())
            .collect()
    }

    pub(super) fn names(&self, type_url: &str) -> Vec<&str> {
        let names = self.held.keys().filter(|(held, _)| *held == type_url);
        names.map(|(_, name)| name.as_str()).collect()
    }
}

impl Taken for Shelf {
    fn put(&mut self, type_url: &'static str, name: &str, resource: &Any) -> Result<(), String> {
        if resource.value == BAD {
            return Err("bad bytes".to_owned());
        }
        self.held
            .insert((type_url, name.to_owned()), resource.value.clone());
        Ok(())
    }

    fn remove(&mut self, type_url: &'static str, name: &str) {
        self.held.remove(&(type_url, name.to_owned()));
    }

    fn wanted(&self, type_url: &'static str) -> BTreeSet<&str> {
        self.references(if type_url == CLUSTER { LISTENER } else { CLUSTER })
    }
}

pub(super) fn session() -> Session<Shelf> {
    Session::new(Shelf::default())
}

fn resource(type_url: &str, name: &str, version: &str, body: &[u8]) -> Resource {
    Resource {
        name: name.to_owned(),
        version: version.to_owned(),
        resource: Some(Any {
            type_url: type_url.to_owned(),
            value: body.to_vec(),
        }),
        ..Resource::default()
    }
}

fn response(type_url: &str, resources: Vec<Resource>, removed: &[&str]) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        system_version_info: "7".to_owned(),
        type_url: type_url.to_owned(),
        nonce: "n".to_owned(),
        resources,
        removed_resources: removed.iter().map(ToString::to_string).collect(),
        ..DeltaDiscoveryResponse::default()
    }
}

/// A session that has a listener, its cluster and its endpoints.
fn settled() -> Session<Shelf> {
    let mut session = session();
    session.open(Node::default());
    session.respond(response(CLUSTER, vec![resource(CLUSTER, "c", "1", b"e")], &[]));
    session.respond(response(LISTENER, vec![resource(LISTENER, "l", "2", b"c")], &[]));
    session.respond(response(
        ASSIGNMENT,
        vec![resource(ASSIGNMENT, "e", "3", b"")],
        &[],
    ));
    session
}

/// The first request for `type_url` on a new stream.
fn opened(session: &Session<Shelf>, type_url: &str) -> DeltaDiscoveryRequest {
    let requests = session.open(Node::default()).into_iter();
    let mut of_type = requests.filter(|request| request.type_url == type_url);
    of_type.next().unwrap()
}

#[test]
fn the_first_requests_ask_for_everything_and_say_who_asks_once() {
    let node = Node {
        id: "node".to_owned(),
        ..Node::default()
    };
    let requests = session().open(node);
    let told: Vec<(&str, &[String], bool)> = requests
        .iter()
        .map(|it| (&*it.type_url, &*it.resource_names_subscribe, it.node.is_some()))
        .collect();
    let all = ["*".to_owned()];
    assert_eq!(
        told,
        [
            (WORKLOAD_TABLE, &all[..], true),
            (POLICY_DOCUMENT, &all, false),
            (CLUSTER, &[], false),
            (LISTENER, &[], false)
        ]
    );
}

#[test]
fn a_cluster_makes_the_session_ask_for_its_endpoints() {
    let mut session = session();
    session.open(Node::default());
    let requests = session.respond(response(CLUSTER, vec![resource(CLUSTER, "c", "1", b"e f")], &[]));
    assert_eq!(
        (
            requests[0].response_nonce.as_str(),
            requests[0].error_detail.as_ref()
        ),
        ("n", None)
    );
    assert_eq!(requests[1].type_url, ASSIGNMENT);
    assert_eq!(requests[1].resource_names_subscribe, ["e", "f"]);
    let requests = session.respond(response(CLUSTER, vec![resource(CLUSTER, "c", "2", b"f")], &[]));
    assert_eq!(requests[1].resource_names_unsubscribe, ["e"]);
    assert!(!session.is_answered(), "listeners were not answered yet");
    session.respond(response(LISTENER, Vec::new(), &[]));
    assert!(session.is_answered() && session.version() == "7");
}

#[test]
fn a_cluster_that_the_server_left_out_is_asked_for_by_name() {
    let mut session = session();
    session.open(Node::default());
    let listener = response(LISTENER, vec![resource(LISTENER, "l", "1", b"c d")], &[]);
    assert_eq!(session.respond(listener).len(), 1, "clusters may still come");
    let requests = session.respond(response(CLUSTER, vec![resource(CLUSTER, "c", "1", b"")], &[]));
    assert_eq!(
        (&*requests[1].type_url, &requests[1].resource_names_subscribe[..]),
        (CLUSTER, &["d".to_owned()][..])
    );
    session.respond(response(CLUSTER, Vec::new(), &["d"]));
    assert!(session.is_missing(CLUSTER, "d") && !session.is_missing(CLUSTER, "c"));
    let cluster = &opened(&session, CLUSTER);
    assert_eq!(cluster.resource_names_subscribe, ["*", "d"]);
    let requests = session.respond(response(LISTENER, vec![resource(LISTENER, "l", "2", b"c")], &[]));
    assert_eq!(requests[1].resource_names_unsubscribe, ["d"]);
}

#[test]
fn a_bad_resource_is_refused_by_name_and_the_others_are_taken() {
    let mut session = settled();
    let resources = vec![
        resource(CLUSTER, "a", "4", b""),
        resource(CLUSTER, "c", "5", BAD),
        resource(LISTENER, "z", "6", b""),
    ];
    let requests = session.respond(response(CLUSTER, resources, &[]));
    let refusal = requests[0].error_detail.as_ref().unwrap();
    assert_eq!(refusal.code, INVALID_ARGUMENT);
    assert!(
        refusal.message.contains("c: bad bytes") && refusal.message.contains("z: is a"),
        "{}",
        refusal.message
    );
    assert!(!refusal.message.contains("a:"));
    assert_eq!(session.taken().names(CLUSTER), ["a", "c"]);
    assert_eq!(session.nacks(), 1);
    assert_eq!(
        session.rejected().map(|(name, _)| name).collect::<Vec<_>>(),
        ["c", "z"]
    );
    let known = &opened(&session, CLUSTER).initial_resource_versions;
    assert_eq!(
        (known["a"].as_str(), known["c"].as_str(), known.get("z")),
        ("4", "1", None)
    );
    session.respond(response(CLUSTER, vec![resource(CLUSTER, "c", "6", b"e")], &["z"]));
    assert_eq!(session.rejected().count(), 0);
}

#[test]
fn a_long_list_of_refusals_is_cut() {
    let mut session = settled();
    let bad = |number: usize| resource(CLUSTER, &format!("bad{number}"), "1", BAD);
    let requests = session.respond(response(CLUSTER, (0..30).map(bad).collect(), &[]));
    let message = &requests[0].error_detail.as_ref().unwrap().message;
    assert!(message.ends_with("and 10 more"), "{message}");
}

#[test]
fn endpoints_that_do_not_exist_are_none_rather_than_unknown() {
    let mut session = settled();
    session.take_change();
    session.respond(response(ASSIGNMENT, Vec::new(), &["e"]));
    assert!(session.take_change() && session.is_missing(ASSIGNMENT, "e"));
    let body = &session.taken().held[&(ASSIGNMENT, "e".to_owned())];
    let none = ClusterLoadAssignment::decode(&**body).unwrap();
    assert_eq!((none.cluster_name.as_str(), none.endpoints.len()), ("e", 0));
    session.respond(response(ASSIGNMENT, Vec::new(), &["e"]));
    assert!(!session.take_change(), "it was known");
    let assignments = opened(&session, ASSIGNMENT);
    assert_eq!(assignments.resource_names_subscribe, ["e"]);
    assert!(assignments.initial_resource_versions.is_empty());
    session.respond(response(
        ASSIGNMENT,
        vec![resource(ASSIGNMENT, "e", "9", b"")],
        &[],
    ));
    assert!(!session.is_missing(ASSIGNMENT, "e"));
}

#[test]
fn after_a_reconnect_the_server_learns_what_is_there() {
    let session = settled();
    let requests = session.open(Node::default());
    let versions: Vec<(&str, Vec<(&str, &str)>)> = requests
        .iter()
        .map(|it| {
            let versions = it.initial_resource_versions.iter();
            (
                &*it.type_url,
                versions.map(|(name, version)| (&**name, &**version)).collect(),
            )
        })
        .collect();
    assert_eq!(
        versions,
        [
            (WORKLOAD_TABLE, vec![]),
            (POLICY_DOCUMENT, vec![]),
            (CLUSTER, vec![("c", "1")]),
            (ASSIGNMENT, vec![("e", "3")]),
            (LISTENER, vec![("l", "2")])
        ]
    );
    assert_eq!(requests[3].resource_names_subscribe, ["e"]);
}

#[test]
fn what_was_not_asked_for_is_refused_or_ignored() {
    let mut session = settled();
    session.take_change();
    let requests = session.respond(response("type.googleapis.com/other", Vec::new(), &[]));
    assert!(
        requests[0]
            .error_detail
            .as_ref()
            .unwrap()
            .message
            .contains("not asked for")
    );
    let late = response(
        ASSIGNMENT,
        vec![resource(ASSIGNMENT, "late", "1", b"")],
        &["later"],
    );
    assert_eq!(session.respond(late)[0].error_detail, None);
    assert!(!session.take_change() && session.taken().names(ASSIGNMENT) == ["e"]);
    let nameless = response(CLUSTER, vec![resource(CLUSTER, "", "1", b"")], &[]);
    assert!(session.respond(nameless)[0].error_detail.is_some());
    let heartbeat = Resource {
        resource: None,
        ..resource(CLUSTER, "c", "8", b"")
    };
    assert_eq!(
        session.respond(response(CLUSTER, vec![heartbeat], &[]))[0].error_detail,
        None
    );
    assert_eq!(opened(&session, CLUSTER).initial_resource_versions["c"], "1");
}

#[test]
fn the_version_that_is_shown_is_the_highest() {
    for (new, old, expected) in [
        ("10", "9", true),
        ("9", "10", false),
        ("b", "a", true),
        ("", "a", false),
        ("5", "", true),
    ] {
        assert_eq!(is_newer(new, old), expected, "{new:?} after {old:?}");
    }
}
