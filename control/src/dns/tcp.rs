// SPDX-License-Identifier: Apache-2.0
//! DNS over TCP (RFC 7766): messages with a length before each, any number per connection.
//!
//! Invariant: a client that stalls loses its connection after [`PATIENCE`]; there are at most [`MAX_CONNECTIONS`].

use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tracing::debug;

use super::{Responder, zone::Transport};

const MAX_CONNECTIONS: usize = 512;
/// Longest time between two queries, and that an answer may take to be sent.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause after a failure to accept.
const BREATH: Duration = Duration::from_millis(50);

pub(super) async fn serve(listener: TcpListener, responder: Responder) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                debug!(%error, "cannot accept DNS connections");
                tokio::time::sleep(BREATH).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            continue;
        };
        let responder = responder.clone();
        tokio::spawn(async move {
            if let Err(error) = converse(stream, &responder).await {
                debug!(%error, "a DNS connection broke");
            }
            drop(place);
        });
    }
}

async fn converse(mut stream: TcpStream, responder: &Responder) -> io::Result<()> {
    while let Some(query) = timeout(PATIENCE, read(&mut stream)).await?? {
        let Some(reply) = responder.reply(&query, Transport::Tcp) else {
            return Ok(());
        };
        let Ok(length) = u16::try_from(reply.len()) else {
            return Ok(());
        };
        let message = [&length.to_be_bytes(), reply.as_slice()].concat();
        timeout(PATIENCE, stream.write_all(&message)).await??;
    }
    Ok(())
}

/// The next message; `None` at the end.
async fn read(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let length = match stream.read_u16().await {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut message = vec![0; length.into()];
    stream.read_exact(&mut message).await?;
    Ok(Some(message))
}
