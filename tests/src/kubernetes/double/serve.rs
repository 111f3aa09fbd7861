// SPDX-License-Identifier: Apache-2.0
//! The double's answers: get, list by pages, create, replace, patch, apply, delete and watch, in JSON.
//!
//! Source: Kubernetes documentation, "Kubernetes API Concepts". Invariant: what is asked for and not known here is refused, never ignored.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    body::{Body, Bytes},
    extract::{Query, Request, State},
    http::{Method, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use super::{
    Inner,
    kinds::Target,
    objects::{Objects, Write},
    refusal::Refusal,
    shelves::{Name, Stored},
    watching,
};

type Parameters = BTreeMap<String, String>;

/// Parameters that change nothing here.
const IDLE: [&str; 5] = [
    "fieldManager",
    "fieldValidation",
    "resourceVersionMatch",
    "timeout",
    "propagationPolicy",
];
const LISTING: [&str; 4] = ["limit", "continue", "resourceVersion", "watch"];
const WATCHING: [&str; 2] = ["allowWatchBookmarks", "timeoutSeconds"];

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let code = StatusCode::from_u16(self.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        json_response(code, self.status().to_string().into())
    }
}

pub(super) fn json_response(code: StatusCode, body: Bytes) -> Response {
    (code, [(CONTENT_TYPE, "application/json")], body).into_response()
}

/// Answers one request.
pub(super) async fn answer(
    State(inner): State<Arc<Inner>>,
    Query(parameters): Query<Parameters>,
    request: Request,
) -> Response {
    inner.until_open().await;
    match answered(&inner, &parameters, request).await {
        Ok(response) => response,
        Err(refusal) => {
            inner.note_refusal(refusal.code);
            refusal.into_response()
        }
    }
}

async fn answered(
    inner: &Arc<Inner>,
    parameters: &Parameters,
    request: Request,
) -> Result<Response, Refusal> {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    if path == "/version" {
        let version = json!({"major": "1", "minor": "33", "gitVersion": "v1.33.0-double"});
        return Ok(json_response(StatusCode::OK, version.to_string().into()));
    }
    let Some(target) = Target::of(path) else {
        return Ok((StatusCode::NOT_FOUND, "404 page not found\n").into_response());
    };
    let form = head.headers.get(CONTENT_TYPE).and_then(|form| form.to_str().ok());
    let body = body
        .collect()
        .await
        .map_err(|_| Refusal::bad_request("the body did not come"))?;
    let body = body.to_bytes();
    let objects = &inner.objects;
    match (&head.method, target.name) {
        (&Method::GET, Some(name)) => {
            let stored = objects.get(target.resource, &named(&target, name))?;
            Ok(json_response(StatusCode::OK, stored.json.clone()))
        }
        (&Method::GET, None) if parameters.get("watch").is_some_and(|watch| watch != "false") => {
            known(parameters, &[&LISTING, &WATCHING])?;
            watching::answer(inner, &target, parameters)
        }
        (&Method::GET, None) => {
            known(parameters, &[&LISTING])?;
            list(objects, &target, parameters)
        }
        (&Method::POST, None) => {
            let stored = objects.create(target.resource, target.namespace, read(&body)?)?;
            Ok(json_response(StatusCode::CREATED, stored.json.clone()))
        }
        (method, Some(name)) => {
            let name = named(&target, name);
            let Some((stored, is_new)) = change(objects, &target, &name, method, form, parameters, &body)?
            else {
                return Ok(json_response(StatusCode::OK, deleted()));
            };
            let code = if is_new {
                StatusCode::CREATED
            } else {
                StatusCode::OK
            };
            Ok(json_response(code, stored.json.clone()))
        }
        (method, None) => Err(Refusal::bad_request(&format!("{method} of a collection"))),
    }
}

/// Replaces, patches, applies or deletes; what is there then, and whether it is new.
fn change(
    objects: &Objects,
    target: &Target<'_>,
    name: &Name,
    method: &Method,
    form: Option<&str>,
    parameters: &Parameters,
    body: &Bytes,
) -> Result<Option<(Arc<Stored>, bool)>, Refusal> {
    known(parameters, &[&["force"]])?;
    let write = |write| {
        let written = objects.write(target.resource, name, write, target.is_status)?;
        Ok(Some(written))
    };
    match (method, form) {
        (&Method::DELETE, _) => objects.delete(target.resource, name).map(|()| None),
        (&Method::PUT, _) => write(Write::Replace(read(body)?)),
        (&Method::PATCH, Some("application/merge-patch+json")) => write(Write::Merge(&read(body)?)),
        (&Method::PATCH, Some("application/apply-patch+yaml")) => write(Write::Apply {
            manager: parameters
                .get("fieldManager")
                .ok_or_else(|| Refusal::bad_request("fieldManager is required for apply patch"))?,
            wanted: read(body)?,
            is_forced: parameters.get("force").is_some_and(|force| force == "true"),
        }),
        (&Method::PATCH, form) => Err(Refusal::unknown_patch(form.unwrap_or_default())),
        (method, _) => Err(Refusal::bad_request(&format!("{method} of an object"))),
    }
}

fn list(objects: &Objects, target: &Target<'_>, parameters: &Parameters) -> Result<Response, Refusal> {
    let limit = parameters.get("limit").and_then(|limit| limit.parse().ok());
    let limit = limit.filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    let token = parameters.get("continue").filter(|token| !token.is_empty());
    let (revision, items, from) = match token {
        None => {
            let (revision, items) = objects.list(target.resource);
            (revision, items, None)
        }
        Some(token) => {
            let (revision, last) = read_token(token).ok_or_else(|| Refusal::bad_request("continue"))?;
            (revision, objects.listed(target.resource, revision)?, Some(last))
        }
    };
    let from = from.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
    let mut found = items
        .range((from, std::ops::Bound::Unbounded))
        .filter(|(name, _)| target.namespace.is_empty() || name.0 == target.namespace);
    let page: Vec<_> = found.by_ref().take(limit).collect();
    let mut metadata = json!({"resourceVersion": revision.to_string()});
    let left = found.count();
    if let (Some((last, _)), true) = (page.last(), left > 0) {
        metadata["continue"] = format!("{revision}/{}/{}", last.0, last.1).into();
        metadata["remainingItemCount"] = left.into();
    }
    let resource = target.resource;
    let mut text = format!(
        r#"{{"kind":"{}List","apiVersion":"{}","metadata":{metadata},"items":["#,
        resource.kind,
        resource.api_version()
    )
    .into_bytes();
    for (index, (_, stored)) in page.into_iter().enumerate() {
        if index > 0 {
            text.push(b',');
        }
        text.extend_from_slice(&stored.json);
    }
    text.extend_from_slice(b"]}");
    Ok(json_response(StatusCode::OK, text.into()))
}

fn read_token(token: &str) -> Option<(u64, Name)> {
    let mut parts = token.splitn(3, '/');
    let revision = parts.next()?.parse().ok()?;
    Some((revision, (parts.next()?.to_owned(), parts.next()?.to_owned())))
}

fn known(parameters: &Parameters, lists: &[&[&str]]) -> Result<(), Refusal> {
    let is_known = |name: &&String| {
        let mut known = lists.iter().copied().flatten().chain(&IDLE);
        known.any(|known| known == name)
    };
    match parameters.keys().find(|name| !is_known(name)) {
        None => Ok(()),
        Some(name) => Err(Refusal::bad_request(&format!(
            "{name} is not known to the double"
        ))),
    }
}

fn named(target: &Target<'_>, name: &str) -> Name {
    (target.namespace.to_owned(), name.to_owned())
}

fn read(body: &Bytes) -> Result<Value, Refusal> {
    serde_json::from_slice(body)
        .map_err(|error| Refusal::bad_request(&format!("the body is no JSON: {error}")))
}

fn deleted() -> Bytes {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})
        .to_string()
        .into()
}

/// A stream of these lines.
pub(super) fn stream(
    lines: impl futures_util::Stream<Item = Result<Bytes, std::convert::Infallible>> + Send + 'static,
) -> Response {
    ([(CONTENT_TYPE, "application/json")], Body::from_stream(lines)).into_response()
}
