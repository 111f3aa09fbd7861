// SPDX-License-Identifier: Apache-2.0
//! What every call passes before its handler sees it: the rate limit, who it is from, and whether that one may call the method.
//!
//! A layer of tonic's server. Invariant: no handler runs for a call that was not allowed; every call is counted once, by method
//! and code.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use http::{HeaderMap, Request, Response};
use tokio::sync::watch;
use tonic::{Status, body::Body, transport::server::TcpConnectInfo};
use tower::{Layer, Service};
use tracing::debug;

use super::{
    connection::Peer,
    ending::Ending,
    guarded::{Guarded, Record},
    rate::RateLimit,
};
use crate::{
    metrics::Metrics,
    security::{Access, Caller, Credentials, Method},
};

/// How often streams are judged again even if the access file stays: certificates end.
const JUDGE_EVERY: Duration = Duration::from_secs(60);

/// What the gate knows.
#[derive(Clone, Debug)]
pub struct GateLayer {
    /// Who may do what.
    pub access: watch::Receiver<Arc<Access>>,
    /// How often.
    pub rate: Arc<RateLimit>,
    /// When streams end.
    pub ending: Ending,
    /// Where calls are counted.
    pub metrics: Arc<Metrics>,
}

/// A service behind the gate.
#[derive(Clone, Debug)]
pub struct Gate<S> {
    inner: S,
    layer: GateLayer,
}

impl<S> Layer<S> for GateLayer {
    type Service = Gate<S>;

    fn layer(&self, inner: S) -> Gate<S> {
        Gate {
            inner,
            layer: self.clone(),
        }
    }
}

impl<S> Service<Request<Body>> for Gate<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let method = Method::of(request.uri().path());
        let record = Record::begin(&self.layer.metrics, method);
        let judged = self.layer.admit(method, &mut request);
        let credentials = match judged {
            Ok(credentials) => credentials,
            Err(status) => {
                debug!(method = method.name, code = ?status.code(), "call refused");
                record.end(status.code());
                let response = status.into_http();
                return Box::pin(async move { Ok(response) });
            }
        };
        let layer = self.layer.clone();
        let called = self.inner.call(request);
        Box::pin(async move {
            let response = called.await?;
            let end = method.is_stream.then(|| layer.end(method, credentials));
            Ok(Guarded::wrap(response, record, end))
        })
    }
}

impl GateLayer {
    /// Judges a call, and notes in it who it is from.
    fn admit(&self, method: Method, request: &mut Request<Body>) -> Result<Credentials, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let peer = peer.ok_or_else(|| Status::internal("the connection of this call is not known"))?;
        if !self.rate.allows(peer.remote.ip()) {
            let (address, limit) = (peer.remote.ip(), self.rate.per_second());
            let message = format!("more than {limit} calls per second from {address}; call less often");
            return Err(Status::resource_exhausted(message));
        }
        let credentials = Credentials::new(request.headers(), peer.identity.clone());
        let caller = judge(&self.access.borrow(), method, &credentials)?;
        // Where tonic looks for the address of a peer.
        request.extensions_mut().insert(TcpConnectInfo {
            local_addr: Some(peer.local),
            remote_addr: Some(peer.remote),
        });
        request.extensions_mut().insert(caller);
        Ok(credentials)
    }

    /// Why a stream ends before its time.
    fn end(self, method: Method, credentials: Credentials) -> impl Future<Output = Status> + Send + 'static {
        let Self {
            mut access, ending, ..
        } = self;
        access.mark_changed();
        async move {
            loop {
                tokio::select! {
                    () = ending.announced() => {
                        return Status::unavailable("this control plane is about to end; connect to another one");
                    }
                    Ok(()) = access.changed() => {}
                    () = tokio::time::sleep(JUDGE_EVERY) => {}
                }
                let judged = judge(&access.borrow_and_update(), method, &credentials);
                if let Err(status) = judged {
                    return status;
                }
            }
        }
    }
}

fn judge(access: &Access, method: Method, credentials: &Credentials) -> Result<Caller, Status> {
    let caller = access
        .caller(credentials, SystemTime::now())
        .map_err(|refusal| Status::unauthenticated(refusal.to_string()))?;
    if caller.role.meets(method.need) {
        return Ok(caller);
    }
    let (Caller { name, role }, name_of, roles) = (caller, method.name, method.need.roles());
    let message = format!("{name} has role {role}, but {name_of} is for {roles}");
    Err(Status::permission_denied(message))
}

/// The code of a response that has no body, or of trailers.
pub(super) fn code_of(headers: &HeaderMap) -> Option<tonic::Code> {
    let code = headers.get(Status::GRPC_STATUS)?;
    Some(tonic::Code::from_bytes(code.as_bytes()))
}
