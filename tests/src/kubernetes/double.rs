// SPDX-License-Identifier: Apache-2.0
//! An API server in this process, for machines where the real one cannot be built, and for what that is too slow for.
//!
//! ```text
//! control plane --HTTP--> serve --> objects (revisions, log per kind) --> watching
//! ```
//! Lists by pages, watches with bookmarks and 410, conflicts of versions, server-side apply, the status subresource: that is what the control
//! plane stands on. No schemas, no roles, no discovery: tests of those need the real one. A test compares the two.
//! Invariant: what is stored outlives the serving, as etcd outlives an API server.

mod fields;
mod kinds;
mod objects;
mod refusal;
mod serve;
mod shelves;
mod watching;

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context as _, Result, bail};
use axum::Router;
use serde_json::{Value, json};
use tokio::{
    runtime::{Builder, Runtime},
    sync::watch,
};

use self::{
    kinds::Resource,
    objects::{Objects, Write},
    shelves::Name,
};
use crate::{
    eventually::{PATIENCE, wait_until},
    netns::NetNs,
};

/// Who applies what tests apply.
const MANAGER: &str = "kubectl";

/// What the tasks of the server have in common.
#[derive(Debug)]
struct Inner {
    objects: Objects,
    /// Whether anything is answered.
    is_open: watch::Sender<bool>,
    /// How often a version was too old.
    expired: AtomicU64,
}

impl Inner {
    async fn until_open(&self) {
        // The sender is here: it does not end.
        let _ = self.is_open.subscribe().wait_for(|is_open| *is_open).await;
    }

    fn note_refusal(&self, code: u16) {
        if code == 410 {
            self.expired.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// An API server that may serve or not.
#[derive(Debug)]
pub struct Double {
    inner: Arc<Inner>,
    serving: Option<Runtime>,
}

impl Double {
    /// One with nothing in it, that does not serve yet.
    pub fn new() -> Self {
        Self {
            inner: Arc::new(Inner {
                objects: Objects::new(),
                is_open: watch::Sender::new(true),
                expired: AtomicU64::new(0),
            }),
            serving: None,
        }
    }

    /// Serves what is stored at `address` of `netns`. As after a start of the real one, changes of before are forgotten.
    pub fn serve(&mut self, netns: &NetNs, address: SocketAddr) -> Result<()> {
        self.stop();
        self.inner.objects.forget();
        self.inner.is_open.send_replace(true);
        let listener = listen(netns, address)?;
        listener.set_nonblocking(true)?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let router = Router::new()
            .fallback(serve::answer)
            .with_state(Arc::clone(&self.inner));
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        runtime.spawn(async move { axum::serve(listener, router).await });
        self.serving = Some(runtime);
        Ok(())
    }

    /// Ends in the middle of everything.
    pub fn stop(&mut self) {
        if let Some(runtime) = self.serving.take() {
            // The address is free when its tasks are gone.
            runtime.shutdown_timeout(PATIENCE);
        }
    }

    /// Stops answering, or goes on.
    pub fn pause(&self, is_paused: bool) {
        self.inner.is_open.send_replace(!is_paused);
    }

    /// Forgets all changes so far: whoever has not seen them gets 410.
    pub fn forget(&self) {
        self.inner.objects.forget();
    }

    /// How often it has answered 410.
    pub fn expired(&self) -> u64 {
        self.inner.expired.load(Ordering::Relaxed)
    }

    /// Applies `object`, as a person with `kubectl apply --server-side` does.
    pub fn apply(&self, object: &Value) -> Result<()> {
        let (resource, name) = named(object)?;
        let write = Write::Apply {
            manager: MANAGER,
            wanted: object.clone(),
            is_forced: false,
        };
        said(self.inner.objects.write(resource, &name, write, false)).map(drop)
    }

    /// Merges `patch` into the status of an object.
    pub fn patch_status(&self, object: &Value, patch: &Value) -> Result<()> {
        let (resource, name) = named(object)?;
        said(
            self.inner
                .objects
                .write(resource, &name, Write::Merge(patch), true),
        )
        .map(drop)
    }

    /// Deletes an object that looks like `object`.
    pub fn delete(&self, object: &Value) -> Result<()> {
        let (resource, name) = named(object)?;
        said(self.inner.objects.delete(resource, &name))
    }

    /// What `kubectl get -o json` says for these arguments: `RESOURCE [NAME] [-n NAMESPACE | -A]`.
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        let (mut words, mut namespace) = (Vec::new(), "");
        let mut arguments = arguments.iter();
        while let Some(&argument) = arguments.next() {
            match argument {
                "-n" => namespace = arguments.next().context("a namespace")?,
                "-A" => namespace = "",
                word => words.push(word),
            }
        }
        let resource =
            |word: &str| Resource::called(word).with_context(|| format!("the double has no {word}"));
        match words[..] {
            [kind] => {
                let (_, items) = self.inner.objects.list(resource(kind)?);
                let of_namespace = items
                    .iter()
                    .filter(|(name, _)| namespace.is_empty() || name.0 == namespace);
                let items: Vec<Value> = of_namespace.map(|(_, stored)| stored.value()).collect();
                Ok(json!({"kind": "List", "items": items}))
            }
            [kind, name] => {
                let name = (namespace.to_owned(), name.to_owned());
                Ok(said(self.inner.objects.get(resource(kind)?, &name))?.value())
            }
            _ => bail!("get {words:?}: the double knows RESOURCE [NAME]"),
        }
    }
}

impl Default for Double {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Double {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Processes that are started at this moment have all sockets of this one until they become another program: the former listener may still be
/// there.
fn listen(netns: &NetNs, address: SocketAddr) -> Result<TcpListener> {
    let mut last = netns.run(|| TcpListener::bind(address))?;
    let is_free = || {
        let in_use = matches!(&last, Err(error) if error.kind() == io::ErrorKind::AddrInUse);
        if in_use && let Ok(again) = netns.run(|| TcpListener::bind(address)) {
            last = again;
        }
        !in_use
    };
    // The error of the last attempt says more.
    let _ = wait_until(PATIENCE, is_free);
    last.with_context(|| format!("listen at {address}"))
}

fn named(object: &Value) -> Result<(&'static Resource, Name)> {
    let resource = Resource::of(object)
        .with_context(|| format!("the double has no {} {}", object["apiVersion"], object["kind"]))?;
    let field = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
    Ok((resource, (field("namespace"), field("name"))))
}

fn said<T>(answer: Result<T, refusal::Refusal>) -> Result<T> {
    answer.map_err(|refusal| anyhow::anyhow!("{}", refusal.status()["message"]))
}
