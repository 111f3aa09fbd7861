// SPDX-License-Identifier: Apache-2.0
//! Follows the API server: one watch per kind of object, all of them into one channel.
//!
//! Started by [`super::open`]. Source: Kubernetes API concepts, "Efficient detection of changes" (list, watch, bookmarks, 410).
//! Invariant: after an interruption a kind is listed again and comes as a whole, so a deletion that was missed is seen; between two
//! lists nothing that was there before is taken away.

use std::fmt::Debug;

use futures_util::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::{
    core::v1::{Namespace as ApiNamespace, Node as ApiNode, Pod as ApiPod, Service as ApiService},
    discovery::v1::EndpointSlice as ApiSlice,
    networking::v1::NetworkPolicy as ApiNetworkPolicy,
};
use kube::{
    Api, Client, Resource,
    api::{ApiResource, DynamicObject, GroupVersionKind},
    runtime::{WatchStreamExt as _, watcher, watcher::Event},
};
use nodemesh_model::{Keyword as _, Kind};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    crd,
    finding::{ObjectId, ObjectKind},
    mesh::Update,
    object::{Custom, Object, ObjectName},
};

/// How long the API server keeps one watch open, seconds; the next goes on where it was. A connection that died in silence (a load
/// balancer that forgot it) is noticed five seconds after that. One request per kind and this time is what it costs.
const WATCH_S: u32 = 15;

/// Updates that wait.
const QUEUE: usize = 4096;

/// Number of kinds that are followed: each is listed once before there is a mesh.
pub(super) const KINDS: usize = 6 + Kind::WORDS.len();

/// Follows every kind; the tasks end with the receiver.
pub(super) fn follow(client: &Client, tasks: &mut JoinSet<()>) -> mpsc::Receiver<Update> {
    let (sender, updates) = mpsc::channel(QUEUE);
    let mut native = Native {
        client,
        tasks,
        sender,
    };
    native.follow::<ApiNamespace>(ObjectKind::Namespace, |api| Object::Namespace(api.into()));
    native.follow::<ApiNode>(ObjectKind::Node, |api| Object::Node(api.into()));
    native.follow::<ApiService>(ObjectKind::Service, |api| Object::Service(api.into()));
    native.follow::<ApiSlice>(ObjectKind::EndpointSlice, |api| Object::EndpointSlice(api.into()));
    native.follow::<ApiPod>(ObjectKind::Pod, |api| Object::Pod(api.into()));
    native.follow::<ApiNetworkPolicy>(ObjectKind::NetworkPolicy, |api| Object::NetworkPolicy(api.into()));
    let Native { sender, .. } = native;
    for (kind, word) in Kind::WORDS {
        let gvk = GroupVersionKind::gvk(crd::GROUP, crd::VERSION, word);
        let resource = ApiResource::from_gvk_with_plural(&gvk, crd::plural(*kind));
        let api = Api::all_with(client.clone(), &resource);
        let (kind, sender) = (*kind, sender.clone());
        tasks.spawn(run(
            api,
            ObjectKind::Custom(kind),
            sender,
            move |object: DynamicObject| Object::Custom(custom(kind, object)),
        ));
    }
    updates
}

struct Native<'a> {
    client: &'a Client,
    tasks: &'a mut JoinSet<()>,
    sender: mpsc::Sender<Update>,
}

impl Native<'_> {
    fn follow<K>(&mut self, kind: ObjectKind, read: fn(K) -> Object)
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let api: Api<K> = Api::all(self.client.clone());
        self.tasks.spawn(run(api, kind, self.sender.clone(), read));
    }
}

/// Follows one kind until nobody listens.
async fn run<K>(
    api: Api<K>,
    kind: ObjectKind,
    sender: mpsc::Sender<Update>,
    read: impl Fn(K) -> Object + Send + 'static,
) where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let backoff = watcher::DefaultBackoff::default();
    let config = watcher::Config::default().timeout(WATCH_S);
    let mut events = watcher(api, config).backoff(backoff).boxed();
    let mut listed = Vec::new();
    loop {
        let event = match events.try_next().await {
            Ok(Some(event)) => event,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(?kind, %error, remedy = remedy(&error), "cannot follow objects of the cluster, what is known of them stays");
                continue;
            }
        };
        let update = match event {
            Event::Init => {
                listed.clear();
                continue;
            }
            Event::InitApply(object) => {
                listed.push((name_of(&object), read(object)));
                continue;
            }
            Event::InitDone => Update::All(kind, std::mem::take(&mut listed)),
            Event::Apply(object) => {
                let id = ObjectId::new(kind, name_of(&object));
                Update::Set(id, Box::new(read(object)))
            }
            Event::Delete(object) => Update::Removed(ObjectId::new(kind, name_of(&object))),
        };
        if sender.send(update).await.is_err() {
            return;
        }
    }
}

fn name_of(object: &impl Resource) -> ObjectName {
    let metadata = object.meta();
    ObjectName::new(
        metadata.namespace.as_deref().unwrap_or_default(),
        metadata.name.as_deref().unwrap_or_default(),
    )
}

/// What the log tells beside the error.
fn remedy(error: &watcher::Error) -> &'static str {
    let response = match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => error,
        watcher::Error::WatchError(_) | watcher::Error::NoResourceVersion => {
            return "none needed, listed again";
        }
    };
    match response {
        kube::Error::Api(status) if status.code == 403 => {
            "give the service account of the control plane the verbs get, list and watch on it (see the chart's ClusterRole)"
        }
        kube::Error::Api(status) if status.code == 404 => {
            "install the custom resource definitions (nodemesh-control crds)"
        }
        _ => "look whether the API server answers; it is tried again",
    }
}

/// The document that a custom resource is.
fn custom(kind: Kind, object: DynamicObject) -> Custom {
    let metadata = object.metadata;
    let mut own = Map::new();
    own.insert("namespace".to_owned(), metadata.namespace.into());
    own.insert("name".to_owned(), metadata.name.into());
    if let Some(labels) = metadata.labels {
        own.insert("labels".to_owned(), serde_json::json!(labels));
    }
    let spec = object.data.get("spec").cloned().unwrap_or(Value::Null);
    Custom {
        kind,
        document: nodemesh_model::document::document(kind, own.into(), spec),
        generation: metadata.generation.unwrap_or_default(),
    }
}
