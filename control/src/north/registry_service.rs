// SPDX-License-Identifier: Apache-2.0
//! The service `nodemesh.v1.Registry`.

use std::{pin::Pin, sync::Arc};

use futures_util::Stream;
use nodemesh_proto::v1::{self, apply_response::Outcome, registry_server as rpc};
use tonic::{Request, Response, Status, Streaming};
use tracing::info;

use super::{
    backends, entry, load_table::Loads, nodes, registration, reports::Reports, status::of_registry, watch,
};
use crate::{
    metrics::Metrics,
    registry::{Applied, Key, Registry},
    security::Caller,
    store::Precondition,
    xds,
};

/// Entries per batch of a list that is made without letting others run.
const LISTED_AT_ONCE: usize = 1000;

/// Where answers come from.
#[derive(Clone)]
pub struct Sources {
    /// The resources.
    pub registry: Registry,
    /// Who is connected.
    pub nodes: xds::Nodes,
    /// What nodes say about themselves.
    pub reports: Reports,
    /// What they say about backends.
    pub loads: Loads,
}

/// The service.
pub struct RegistryService {
    sources: Sources,
    times: registration::LeaseTimes,
    metrics: Arc<Metrics>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl RegistryService {
    /// Answers from `sources`.
    pub fn new(sources: Sources, times: registration::LeaseTimes, metrics: Arc<Metrics>) -> Self {
        Self {
            sources,
            times,
            metrics,
        }
    }

    fn registry(&self) -> &Registry {
        &self.sources.registry
    }

    /// What the registry made of a document.
    fn applied(&self, applied: &Applied) -> v1::ApplyResponse {
        let state = self.registry().state();
        let outcome = match applied {
            Applied {
                is_changed: false, ..
            } => Outcome::Unchanged,
            Applied { is_new: true, .. } => Outcome::Created,
            Applied { .. } => Outcome::Updated,
        };
        // Another writer may have deleted it since.
        let entry = state
            .get(&applied.key)
            .map_or_else(|| entry::name_of(&applied.key), |entry| entry::entry(entry));
        v1::ApplyResponse {
            entry: Some(entry),
            outcome: outcome.into(),
            warnings: nodes::warnings(&state, &applied.key),
        }
    }

    fn dry_run(&self, request: &v1::ApplyRequest) -> Result<v1::ApplyResponse, Status> {
        let expected = entry::precondition(&request.expect_version)?;
        let document = entry::document(&request.resource)?;
        let checked = self.registry().check(document, expected);
        let (applied, planned) = checked.map_err(|error| of_registry(&error))?;
        let mut response = self.applied(&applied);
        response.entry = Some(entry::entry(&planned));
        Ok(response)
    }
}

/// Says in the log who changed what.
fn note(caller: Option<&Caller>, act: &'static str, key: &Key) {
    let by = caller.map_or("unknown", |caller| &*caller.name);
    info!(%key, by, "{act}");
}

fn caller<T>(request: &Request<T>) -> Option<Caller> {
    request.extensions().get().cloned()
}

#[tonic::async_trait]
impl rpc::Registry for RegistryService {
    type WatchStream = Answers<v1::WatchEvent>;
    type RenewStream = Answers<v1::RenewResponse>;

    async fn apply(&self, request: Request<v1::ApplyRequest>) -> Result<Response<v1::ApplyResponse>, Status> {
        let caller = caller(&request);
        let request = request.into_inner();
        if request.dry_run {
            return self.dry_run(&request).map(Response::new);
        }
        let expected = entry::precondition(&request.expect_version)?;
        let document = entry::document(&request.resource)?;
        let applied = self.registry().apply(document, expected).await;
        let applied = applied.map_err(|error| of_registry(&error))?;
        if applied.is_changed {
            note(caller.as_ref(), "applied", &applied.key);
        }
        Ok(Response::new(self.applied(&applied)))
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        let v1::GetRequest {
            kind,
            namespace,
            name,
        } = request.into_inner();
        let key = entry::key(&kind, &namespace, &name)?;
        let state = self.registry().state();
        let found = state
            .get(&key)
            .ok_or_else(|| Status::not_found(format!("{key} does not exist")))?;
        Ok(Response::new(v1::GetResponse {
            entry: Some(entry::entry(found)),
        }))
    }

    async fn list(&self, request: Request<v1::ListRequest>) -> Result<Response<v1::ListResponse>, Status> {
        let v1::ListRequest { kind, namespace } = request.into_inner();
        let kind = entry::optional_kind(&kind)?;
        let namespace = entry::optional_namespace(namespace)?;
        let state = self.registry().state();
        let mut entries = Vec::new();
        for found in state.entries() {
            let is_wanted = kind.is_none_or(|kind| found.key.kind == kind)
                && namespace
                    .as_ref()
                    .is_none_or(|namespace| found.key.name.namespace() == namespace);
            if is_wanted {
                entries.push(entry::entry(found));
                if entries.len() % LISTED_AT_ONCE == 0 {
                    tokio::task::yield_now().await;
                }
            }
        }
        Ok(Response::new(v1::ListResponse {
            entries,
            revision: entry::revision(state.revision),
        }))
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteRequest>,
    ) -> Result<Response<v1::DeleteResponse>, Status> {
        let caller = caller(&request);
        let request = request.into_inner();
        let key = entry::key(&request.kind, &request.namespace, &request.name)?;
        let expected = match entry::precondition(&request.expect_version)? {
            Precondition::Absent => {
                return Err(Status::invalid_argument(
                    "expect_version: what must not exist cannot be deleted",
                ));
            }
            expected => expected,
        };
        let deleted = self.registry().delete(&key, expected).await;
        let deleted = deleted.map_err(|error| of_registry(&error))?;
        note(caller.as_ref(), "deleted", &key);
        Ok(Response::new(v1::DeleteResponse {
            revision: entry::revision(deleted.version),
        }))
    }

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let events = watch::events(self.registry(), request.into_inner()).await?;
        Ok(Response::new(Box::pin(events)))
    }

    async fn register(
        &self,
        request: Request<v1::RegisterRequest>,
    ) -> Result<Response<v1::RegisterResponse>, Status> {
        let registered = registration::register(self.registry(), &self.times, request.into_inner()).await;
        registered.map(Response::new)
    }

    async fn renew(
        &self,
        request: Request<Streaming<v1::RenewRequest>>,
    ) -> Result<Response<Self::RenewStream>, Status> {
        let registry = self.registry().clone();
        let answers = registration::renewals(registry, Arc::clone(&self.metrics), request.into_inner());
        Ok(Response::new(Box::pin(answers)))
    }

    async fn deregister(
        &self,
        request: Request<v1::DeregisterRequest>,
    ) -> Result<Response<v1::DeregisterResponse>, Status> {
        let ended = registration::deregister(self.registry(), &request.into_inner()).await;
        ended.map(Response::new)
    }

    async fn nodes(&self, _: Request<v1::NodesRequest>) -> Result<Response<v1::NodesResponse>, Status> {
        let nodes = nodes::merged(&self.sources.nodes, &self.sources.reports);
        Ok(Response::new(v1::NodesResponse { nodes }))
    }

    async fn backends(
        &self,
        request: Request<v1::BackendsRequest>,
    ) -> Result<Response<v1::BackendsResponse>, Status> {
        let v1::BackendsRequest { namespace, service } = request.into_inner();
        let state = self.registry().state();
        let backends = backends::selected(&self.sources.loads, &state, &namespace, &service);
        Ok(Response::new(v1::BackendsResponse { backends }))
    }
}
