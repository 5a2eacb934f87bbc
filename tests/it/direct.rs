//! Direct uploads: plans, which requests S3 accepts for them, and what becomes of the objects.

mod aborted;
mod deadline;
mod formats;
mod links;
mod metadata;
mod quirks;
mod races;
mod refused;
mod status;
mod store_fails;
mod upload_methods;
mod withdrawn;

use futures::future::join_all;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};

use crate::support::app::TestApp;

const MIB: usize = 1 << 20;
/// Settings for tests of multipart plans: files above 6 MiB are planned in parts of 5 MiB.
const SMALL: [&str; 2] = ["--direct-put-max=6MiB", "--max-upload-size=12MiB"];
const SHA256_OF_PLAIN_PNG: &str = "688011d168af08899c9584648230b4739852c97f9bf4201d3fd8b448084b64e3";

async fn answer(response: Response, status: u16) -> Value {
    let found = response.status();
    let text = response.text().await.unwrap();
    assert_eq!(found.as_u16(), status, "{text}");
    if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() }
}

/// Asserts an error response, which always has a `detail` and a `code`.
async fn refusal(response: Response, status: u16, code: &str) -> Value {
    let body = answer(response, status).await;
    assert_eq!(body["code"], code, "{body}");
    assert!(body["detail"].is_string(), "{body}");
    body
}

async fn request_plan(app: &TestApp, request: Value) -> Response {
    app.client.post(app.at("/uploads")).json(&request).send().await.unwrap()
}

/// The plan for a PNG of `size` bytes.
pub async fn plan(app: &TestApp, size: usize) -> Plan {
    plan_for(app, json!({ "filename": "photo.png", "size": size })).await
}

async fn plan_for(app: &TestApp, request: Value) -> Plan {
    Plan(answer(request_plan(app, request).await, 201).await)
}

/// What `POST /uploads` answered.
pub struct Plan(Value);

impl Plan {
    pub fn key(&self) -> &str {
        self.0["s3_key"].as_str().unwrap()
    }

    /// Returns everything that the client receives.
    pub fn text(&self) -> String {
        self.0.to_string()
    }

    fn link(&self, name: &str) -> &str {
        self.0[name].as_str().unwrap()
    }

    fn incoming(&self) -> String {
        format!("incoming/{}", self.key())
    }

    pub fn parts(&self) -> &[Value] {
        self.0["parts"].as_array().unwrap()
    }
}

/// Builds a request as a plan describes it, except for headers that the HTTP client sets itself.
fn signed(app: &TestApp, target: &Value) -> RequestBuilder {
    let request = app.client.request(Method::PUT, target["url"].as_str().unwrap());
    let headers = target["headers"].as_object().unwrap().iter().filter(|(name, _)| *name != "content-length");
    headers.fold(request, |request, (name, value)| request.header(name, value.as_str().unwrap()))
}

pub async fn put(app: &TestApp, plan: &Plan, bytes: &[u8]) {
    let sent = signed(app, &plan.0).body(bytes.to_vec()).send().await.unwrap();
    assert_eq!(sent.status(), 200, "{}", sent.text().await.unwrap());
}

/// Sends all parts that are `wanted` and have a URL, at once. Returns their numbers.
pub async fn send_parts(app: &TestApp, parts: &[Value], bytes: &[u8], wanted: impl Fn(u64) -> bool) -> Vec<u64> {
    let mut at = 0;
    let mut requests = Vec::new();
    let mut numbers = Vec::new();
    for part in parts {
        let size = usize::try_from(part["size"].as_u64().unwrap()).unwrap();
        let number = part["part_number"].as_u64().unwrap();
        if wanted(number) && part.get("url").is_some() {
            requests.push(signed(app, part).body(bytes[at..at + size].to_vec()).send());
            numbers.push(number);
        }
        at += size;
    }
    assert_eq!(at, bytes.len(), "the parts must cover the whole file");
    for sent in join_all(requests).await {
        assert_eq!(sent.unwrap().status(), 200);
    }
    numbers
}

async fn post(app: &TestApp, link: &str) -> Response {
    app.client.post(app.at(link)).send().await.unwrap()
}

pub async fn complete(app: &TestApp, plan: &Plan) -> Response {
    post(app, plan.link("complete_url")).await
}

pub async fn completed(app: &TestApp, plan: &Plan) -> Value {
    answer(complete(app, plan).await, 200).await
}

async fn status(app: &TestApp, plan: &Plan) -> Value {
    answer(app.client.get(app.at(plan.link("status_url"))).send().await.unwrap(), 200).await
}

pub async fn abort(app: &TestApp, plan: &Plan) -> Response {
    app.client.delete(app.at(plan.link("abort_url"))).send().await.unwrap()
}

/// Asserts that the image is not readable yet: every route that reads answers 404.
async fn check_unreadable(app: &TestApp, key: &str) {
    for (method, path) in [
        (Method::GET, format!("/images/{key}")),
        (Method::HEAD, format!("/images/{key}")),
        (Method::GET, format!("/images/{key}/url")),
    ] {
        let found = app.client.request(method.clone(), app.at(&path)).send().await.unwrap();
        assert_eq!(found.status(), 404, "{method} {path}");
    }
}

async fn check_image(app: &TestApp, answer: &Value, bytes: &[u8]) {
    assert_eq!(answer["size"], bytes.len(), "{answer}");
    let read = app.client.get(answer["url"].as_str().unwrap()).send().await.unwrap();
    assert_eq!(read.headers()["content-type"], answer["content_type"].as_str().unwrap());
    assert!(read.bytes().await.unwrap() == bytes, "the bytes differ");
}

/// Replaces the object, as a second PUT does on a store that ignores If-None-Match.
async fn replace(app: &TestApp, plan: &Plan, bytes: &[u8]) {
    let call = app.sdk.put_object().bucket(&app.bucket).key(plan.incoming());
    call.body(bytes.to_vec().into()).send().await.unwrap();
}
