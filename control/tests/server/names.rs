// SPDX-License-Identifier: Apache-2.0
//! DNS over real sockets.

use std::{net::SocketAddr, time::Duration};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, RecordType},
};
use nodemesh_proto::v1::ApplyRequest;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use crate::harness::{Control, eventually, service, soon};

fn query(name: &str, record_type: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), record_type));
    message
}

async fn udp(server: SocketAddr, query: &[u8]) -> Vec<u8> {
    const AGAIN: Duration = Duration::from_secs(1);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut buffer = vec![0; 4096];
    let asking = async {
        loop {
            socket.send_to(query, server).await.unwrap();
            // UDP may lose it, as it does when many come at once: resolvers ask again.
            if let Ok(received) = timeout(AGAIN, socket.recv(&mut buffer)).await {
                return received.unwrap();
            }
        }
    };
    let length = soon("an answer", asking).await;
    buffer.truncate(length);
    buffer
}

async fn ask(server: SocketAddr, name: &str, record_type: RecordType) -> Message {
    let answer = udp(server, &query(name, record_type).to_vec().unwrap()).await;
    Message::from_vec(&answer).unwrap()
}

async fn with_dns(services: &[(&str, &[&str])]) -> (Control, SocketAddr) {
    let control = Control::start(&["--dns", "127.0.0.1:0", "--dns-zone", "Mesh.Internal"]).await;
    for (name, addresses) in services {
        let request = ApplyRequest {
            resource: service(name, addresses).to_string(),
            ..ApplyRequest::default()
        };
        control.registry().await.apply(request).await.unwrap();
    }
    let server = control.app.dns_address().unwrap();
    (control, server)
}

#[tokio::test(flavor = "multi_thread")]
async fn services_are_found_by_name() {
    let (control, server) = with_dns(&[("llama", &["10.96.0.1", "fd00::1"]), ("qwen", &["10.96.0.2"])]).await;
    let a = ask(server, "LLaMa.models.mesh.INTERNAL.", RecordType::A).await;
    assert_eq!(a.metadata.response_code, ResponseCode::NoError);
    assert!(a.metadata.authoritative && a.metadata.recursion_desired && !a.metadata.recursion_available);
    assert_eq!(a.answers.len(), 1);
    assert_eq!(a.answers[0].data, RData::A("10.96.0.1".parse().unwrap()));
    assert_eq!(a.answers[0].ttl, 5);
    assert!(
        a.answers[0]
            .name
            .eq_case(&Name::from_ascii("LLaMa.models.mesh.INTERNAL.").unwrap()),
        "as it was asked"
    );
    let aaaa = ask(server, "llama.models.mesh.internal.", RecordType::AAAA).await;
    assert_eq!(aaaa.answers[0].data, RData::AAAA("fd00::1".parse().unwrap()));
    let none = ask(server, "qwen.models.mesh.internal.", RecordType::AAAA).await;
    assert_eq!(
        (none.metadata.response_code, none.answers.len()),
        (ResponseCode::NoError, 0)
    );
    assert_eq!(none.authorities[0].record_type(), RecordType::SOA);
    let queries = "nodemesh_control_dns_queries_total{code=\"NOERROR\",transport=\"udp\"}";
    assert_eq!(control.metric(queries).await, Some(3.0));

    let mut client = control.registry().await;
    let gone = nodemesh_proto::v1::DeleteRequest {
        kind: "Service".to_owned(),
        namespace: "models".to_owned(),
        name: "qwen".to_owned(),
        expect_version: String::new(),
    };
    client.delete(gone).await.unwrap();
    eventually("the name is gone", || async {
        let answer = ask(server, "qwen.models.mesh.internal.", RecordType::A).await;
        answer.metadata.response_code == ResponseCode::NXDomain
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp_and_udp_are_answered_alike() {
    let (_control, server) = with_dns(&[("llama", &["10.96.0.1"])]).await;
    let mut stream = TcpStream::connect(server).await.unwrap();
    for (name, code) in [
        ("llama.models.mesh.internal.", ResponseCode::NoError),
        ("other.models.mesh.internal.", ResponseCode::NXDomain),
        ("example.com.", ResponseCode::Refused),
    ] {
        let message = query(name, RecordType::A).to_vec().unwrap();
        let length = u16::try_from(message.len()).unwrap();
        // In pieces, as TCP may deliver them.
        stream.write_all(&length.to_be_bytes()[..1]).await.unwrap();
        stream.flush().await.unwrap();
        stream.write_all(&length.to_be_bytes()[1..]).await.unwrap();
        stream.write_all(&message).await.unwrap();
        let length = soon("an answer", stream.read_u16()).await.unwrap();
        let mut answer = vec![0; length.into()];
        stream.read_exact(&mut answer).await.unwrap();
        let over_tcp = Message::from_vec(&answer).unwrap();
        assert_eq!(over_tcp.metadata.response_code, code, "{name}");
        let over_udp = ask(server, name, RecordType::A).await;
        assert_eq!(over_tcp.answers, over_udp.answers, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_does_not_keep_others_from_answers() {
    let (_control, server) = with_dns(&[("llama", &["10.96.0.1"])]).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    for length in 0..600 {
        let bytes: Vec<u8> = (0..length).map(|_| random.u8(..)).collect();
        socket.send_to(&bytes, server).await.unwrap();
    }
    let mut half = TcpStream::connect(server).await.unwrap();
    half.write_all(&[0xff, 0xff, 1]).await.unwrap();
    let mut edns = query("llama.models.mesh.internal.", RecordType::A);
    edns.set_edns(Edns::new());
    let answer = udp(server, &edns.to_vec().unwrap()).await;
    let answer = Message::from_vec(&answer).unwrap();
    assert_eq!(answer.answers.len(), 1);
    assert!(answer.edns.is_some());
}
