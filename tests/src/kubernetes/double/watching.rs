// SPDX-License-Identifier: Apache-2.0
//! A watch of the double: changes from a revision on, bookmarks, and 410 for what is forgotten.
//!
//! Invariant: a watch sends each change of its kind once, in order, or ends with an error that says why it cannot.

use std::{collections::BTreeMap, convert::Infallible, fmt::Write as _, sync::Arc, time::Duration};

use axum::{body::Bytes, response::Response};
use futures_util::stream;
use serde_json::json;
use tokio::{sync::watch, time::Instant};

use super::{
    Inner,
    kinds::{Resource, Target},
    refusal::Refusal,
    serve,
};

/// Pause between two bookmarks: a minute in a real API server.
const BOOKMARKS: Duration = Duration::from_secs(2);
/// How long a watch lasts that does not say.
const DURATION_S: u64 = 300;

/// One watch.
struct Watching {
    inner: Arc<Inner>,
    resource: &'static Resource,
    /// Empty for all.
    namespace: String,
    /// All up to here was sent.
    revision: u64,
    revisions: watch::Receiver<u64>,
    has_bookmarks: bool,
    next_bookmark: Instant,
    ends: Instant,
    is_over: bool,
}

pub(super) fn answer(
    inner: &Arc<Inner>,
    target: &Target<'_>,
    parameters: &BTreeMap<String, String>,
) -> Result<Response, Refusal> {
    let from = parameters.get("resourceVersion").map_or("", String::as_str);
    let revision = from.parse().ok().filter(|revision| *revision > 0);
    let revision = revision
        .ok_or_else(|| Refusal::bad_request("a watch begins where a list ended: give its resourceVersion"))?;
    let seconds = parameters
        .get("timeoutSeconds")
        .and_then(|seconds| seconds.parse().ok());
    let watching = Watching {
        resource: target.resource,
        namespace: target.namespace.to_owned(),
        revision,
        revisions: inner.objects.revisions(),
        has_bookmarks: parameters
            .get("allowWatchBookmarks")
            .is_some_and(|is_so| is_so == "true"),
        next_bookmark: Instant::now() + BOOKMARKS,
        ends: Instant::now() + Duration::from_secs(seconds.unwrap_or(DURATION_S)),
        is_over: false,
        inner: Arc::clone(inner),
    };
    Ok(serve::stream(stream::unfold(watching, |mut watching| async {
        let lines = watching.next().await?;
        Some((Ok::<_, Infallible>(lines), watching))
    })))
}

impl Watching {
    /// What is sent next, when there is something.
    async fn next(&mut self) -> Option<Bytes> {
        while !self.is_over {
            self.inner.until_open().await;
            self.revisions.mark_unchanged();
            let lines = match self.inner.objects.since(self.resource, self.revision) {
                Err(refusal) => {
                    self.inner.note_refusal(refusal.code);
                    self.is_over = true;
                    return Some(line("ERROR", &refusal.status().to_string()));
                }
                Ok((revision, changes)) => {
                    self.revision = self.revision.max(revision);
                    let mut lines = String::new();
                    let is_own = |namespace: &str| self.namespace.is_empty() || self.namespace == namespace;
                    for change in changes.iter().filter(|change| is_own(&change.name.0)) {
                        let object = std::str::from_utf8(&change.object.json).unwrap_or_default();
                        // A string takes all.
                        let _ = writeln!(lines, r#"{{"type":"{}","object":{object}}}"#, change.event);
                    }
                    lines
                }
            };
            if !lines.is_empty() {
                return Some(lines.into());
            }
            tokio::select! {
                changed = self.revisions.changed() => if changed.is_err() { return None },
                () = tokio::time::sleep_until(self.ends) => {
                    self.is_over = true;
                    return self.bookmark();
                }
                () = tokio::time::sleep_until(self.next_bookmark) => {
                    self.next_bookmark = Instant::now() + BOOKMARKS;
                    if let Some(bookmark) = self.bookmark() {
                        return Some(bookmark);
                    }
                }
            }
        }
        None
    }

    fn bookmark(&self) -> Option<Bytes> {
        let object = json!({
            "kind": self.resource.kind, "apiVersion": self.resource.api_version(),
            "metadata": {"resourceVersion": self.revision.to_string(), "creationTimestamp": null},
        });
        self.has_bookmarks.then(|| line("BOOKMARK", &object.to_string()))
    }
}

fn line(event: &str, object: &str) -> Bytes {
    format!("{{\"type\":\"{event}\",\"object\":{object}}}\n").into()
}
