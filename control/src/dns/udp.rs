// SPDX-License-Identifier: Apache-2.0
//! DNS over UDP: one message in, at most one out.

use std::time::Duration;

use tokio::net::UdpSocket;
use tracing::debug;

use super::{Responder, zone::Transport};

/// Longest query that is read; a longer one is cut, and then is no DNS message.
const MAX_QUERY: usize = 4096;
/// Pause after an error of the socket, which would come again at once.
const BREATH: Duration = Duration::from_millis(10);

pub(super) async fn serve(socket: UdpSocket, responder: Responder) {
    let mut buffer = vec![0; MAX_QUERY];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                debug!(%error, "cannot receive DNS queries");
                tokio::time::sleep(BREATH).await;
                continue;
            }
        };
        let Some(reply) = responder.reply(&buffer[..length], Transport::Udp) else {
            continue;
        };
        if let Err(error) = socket.send_to(&reply, from).await {
            debug!(%error, %from, "cannot send a DNS answer");
        }
    }
}
