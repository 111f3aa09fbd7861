// SPDX-License-Identifier: Apache-2.0
//! Answers, over a table of questions, and over bytes that are none.

use std::sync::{Arc, LazyLock};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType, rdata::A},
};
use proptest::prelude::*;
use serde_json::json;

use super::zone::{Transport, Zone, written};
use crate::{
    registry::{Registry, RegistryOptions, State},
    store::{Precondition, embedded::EmbeddedStore},
};

static STATE: LazyLock<Arc<State>> = LazyLock::new(|| {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(state())
});

async fn state() -> Arc<State> {
    let service = |namespace: &str, name: &str, addresses: &[&str]| {
        json!({
            "apiVersion": "nodemesh.io/v1alpha1", "kind": "Service",
            "metadata": {"namespace": namespace, "name": name},
            "spec": {"addresses": addresses, "ports": [{"port": 80}]},
        })
    };
    let documents = [
        service("models", "llama", &["10.96.0.1", "fd00::1"]),
        service("models", "qwen", &["10.96.0.2"]),
        service("other", "six", &["fd00::2"]),
    ];
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(&folder.path().join("store.redb")).unwrap();
    let registry = Registry::open(Arc::new(store), RegistryOptions::default())
        .await
        .unwrap();
    for document in documents {
        registry.apply(document, Precondition::Any).await.unwrap();
    }
    registry.state()
}

fn zone() -> Zone {
    Zone::new("mesh.internal").unwrap()
}

fn question(name: &str, record_type: RecordType) -> Message {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), record_type));
    message
}

fn reply(message: &Message) -> Message {
    let bytes = message.to_vec().unwrap();
    let reply = zone().reply(&bytes, &STATE, Transport::Udp).unwrap();
    Message::from_vec(&reply.bytes).unwrap()
}

#[test]
fn every_question_has_its_answer() {
    use RecordType::{A, AAAA, ANY, AXFR, NS, SOA, TXT};
    use ResponseCode::{NXDomain, NoError, Refused};
    for (name, record_type, code, answers, has_soa) in [
        ("llama.models.mesh.internal.", A, NoError, 1, false),
        ("llama.models.mesh.internal.", AAAA, NoError, 1, false),
        ("llama.models.mesh.internal.", ANY, NoError, 2, false),
        ("llama.models.mesh.internal.", TXT, NoError, 0, true),
        ("qwen.models.mesh.internal.", AAAA, NoError, 0, true),
        ("six.other.mesh.internal.", A, NoError, 0, true),
        ("none.models.mesh.internal.", A, NXDomain, 0, true),
        ("llama.other.mesh.internal.", A, NXDomain, 0, true),
        ("models.mesh.internal.", A, NoError, 0, true),
        ("nowhere.mesh.internal.", A, NXDomain, 0, true),
        ("a.llama.models.mesh.internal.", A, NXDomain, 0, true),
        ("not_a_name.models.mesh.internal.", A, NXDomain, 0, true),
        ("mesh.internal.", SOA, NoError, 1, false),
        ("mesh.internal.", A, NoError, 0, true),
        ("mesh.internal.", NS, NoError, 0, true),
        ("mesh.internal.", AXFR, Refused, 0, false),
        ("internal.", A, Refused, 0, false),
        ("meshxinternal.", A, Refused, 0, false),
        ("xmesh.internal.", A, Refused, 0, false),
        ("example.com.", A, Refused, 0, false),
        (".", A, Refused, 0, false),
    ] {
        let answer = reply(&question(name, record_type));
        let what = format!("{name} {record_type}");
        assert_eq!(answer.metadata.response_code, code, "{what}");
        assert_eq!(answer.metadata.message_type, MessageType::Response, "{what}");
        assert_eq!(answer.metadata.id, 7, "{what}");
        assert_eq!(answer.answers.len(), answers, "{what}");
        assert_eq!(answer.metadata.authoritative, code != Refused, "{what}");
        assert_eq!(
            answer
                .authorities
                .iter()
                .any(|record| record.record_type() == SOA),
            has_soa,
            "{what}"
        );
    }
}

#[test]
fn unusual_messages_are_answered_by_the_rules() {
    let name = "llama.models.mesh.internal.";
    let mut status = question(name, RecordType::A);
    status.metadata.op_code = OpCode::Status;
    let mut two = question(name, RecordType::A);
    two.add_query(two.queries[0].clone());
    let none = Message::new(7, MessageType::Query, OpCode::Query);
    let mut chaos = question(name, RecordType::A);
    chaos.queries[0].set_query_class(DNSClass::CH);
    let mut newer = question(name, RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(1);
    newer.set_edns(edns);
    for (what, message, code) in [
        ("another operation", status, ResponseCode::NotImp),
        ("two questions", two, ResponseCode::FormErr),
        ("no question", none, ResponseCode::FormErr),
        ("another class", chaos, ResponseCode::Refused),
        ("a later EDNS", newer, ResponseCode::BADVERS),
    ] {
        let answer = reply(&message);
        // One number has two names: BADVERS of EDNS, BADSIG of TSIG.
        assert_eq!(
            u16::from(answer.metadata.response_code),
            u16::from(code),
            "{what}"
        );
        assert_eq!(answer.answers.len(), 0, "{what}");
    }
    let mut response = question(name, RecordType::A);
    response.metadata.message_type = MessageType::Response;
    assert!(
        zone()
            .reply(&response.to_vec().unwrap(), &STATE, Transport::Udp)
            .is_none(),
        "answers are not answered"
    );
}

#[test]
fn edns_is_answered_by_edns() {
    let plain = question("llama.models.mesh.internal.", RecordType::A);
    assert!(reply(&plain).edns.is_none());
    let mut with = plain;
    with.set_edns(Edns::new());
    assert_eq!(reply(&with).edns.map(|edns| edns.max_payload()), Some(1232));
}

#[test]
fn what_does_not_fit_is_cut_and_says_so() {
    let mut response = question("llama.models.mesh.internal.", RecordType::A).into_response();
    let name = response.queries[0].name().clone();
    for last in 0..40 {
        let address = RData::A(A::new(10, 0, 0, last));
        response.add_answer(Record::from_rdata(name.clone(), 5, address));
    }
    for (limit, is_cut) in [(512, true), (4096, false)] {
        let reply = written(&response, ResponseCode::NoError, limit).unwrap();
        assert!(reply.bytes.len() <= limit, "{limit}");
        let message = Message::from_vec(&reply.bytes).unwrap();
        assert_eq!(message.metadata.truncation, is_cut, "{limit}");
        assert_eq!(message.answers.is_empty(), is_cut, "{limit}");
        assert_eq!(message.queries, response.queries, "{limit}");
    }
}

#[test]
fn zones_are_domain_names() {
    for name in ["mesh.internal", "mesh.internal.", "MESH.internal", "mesh"] {
        assert!(Zone::new(name).is_ok(), "{name}");
    }
    let long = ["a".repeat(60).as_str(); 3].join(".");
    for name in ["", ".", "a..b", &long, "a b"] {
        assert!(Zone::new(name).is_err(), "{name}");
    }
}

proptest! {
    #[test]
    fn no_message_breaks_it(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        if let Some(reply) = zone().reply(&bytes, &STATE, Transport::Udp) {
            prop_assert!(reply.bytes.len() <= 1232);
            prop_assert_eq!(&reply.bytes[..2], &bytes[..2]);
            prop_assert!(reply.bytes[2] & 0x80 != 0);
        }
    }

    #[test]
    fn no_damaged_question_breaks_it(at in 0_usize..60, to in any::<u8>(), cut in 0_usize..60) {
        let mut bytes = question("llama.models.mesh.internal.", RecordType::A).to_vec().unwrap();
        let length = bytes.len();
        bytes[at % length] = to;
        bytes.truncate(length - cut % length);
        let _ = zone().reply(&bytes, &STATE, Transport::Tcp);
    }
}
