//! Sends valid and invalid requests to every route and compares each response with the description.

use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

use super::{Description, UNUSED_KEY};
use crate::support::app::{TestApp, fixture, png};
use crate::support::faults::{Action, Operation};

/// Sends requests and compares the responses with the description.
struct Checked<'a> {
    app: &'a TestApp,
    description: Description,
}

impl<'a> Checked<'a> {
    async fn new(app: &'a TestApp) -> Self {
        Checked { app, description: Description::of(app).await }
    }

    /// Requests `path`, which matches `template`. Asserts the status and returns the body.
    async fn ask(
        &self,
        (method, template): (Method, &str),
        path: &str,
        status: u16,
        build: impl FnOnce(RequestBuilder) -> RequestBuilder,
    ) -> Value {
        let request = build(self.app.client.request(method.clone(), self.app.at(path)));
        let answer = request.send().await.unwrap();
        let name = format!("{method} {path}: {}", answer.status());
        let described = &self.description.operation(&method, template)["responses"][answer.status().as_str()];
        assert!(described.is_object(), "{name} is not described");
        check_headers(&name, answer.headers(), described);
        let (found, content_type) = (answer.status(), content_type(&answer));
        let body = answer.text().await.unwrap();
        assert_eq!(found.as_u16(), status, "{name}: {body}");
        self.check_body(&name, described, content_type.as_deref(), &body)
    }

    fn check_body(&self, name: &str, described: &Value, content_type: Option<&str>, body: &str) -> Value {
        let Some(content) = described.get("content") else {
            assert!(body.is_empty(), "{name} has a body: {body}");
            return Value::Null;
        };
        let schema = &content[content_type.unwrap_or_default()]["schema"];
        assert!(schema.is_object(), "{name}: no {content_type:?} is described");
        let body = if content_type == Some("text/plain") { body.into() } else { serde_json::from_str(body).unwrap() };
        let errors: Vec<_> =
            self.description.validator(schema).iter_errors(&body).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{name}: {errors:?} in {body}");
        if let Some(code) = body["code"].as_str() {
            let examples = &content["application/json"]["examples"];
            assert!(examples.get(code).is_some(), "{name}: {code} is not described");
        }
        body
    }
}

fn content_type(answer: &reqwest::Response) -> Option<String> {
    let whole = answer.headers().get("content-type")?.to_str().unwrap();
    // Without its parameters.
    Some(whole.split(';').next().unwrap_or_default().to_owned())
}

/// Asserts that every header a client acts on is described, and that every response has a request ID.
fn check_headers(name: &str, headers: &reqwest::header::HeaderMap, described: &Value) {
    let described_headers: Vec<String> =
        described["headers"].as_object().unwrap().keys().map(|name| name.to_lowercase()).collect();
    for header in ["location", "retry-after", "www-authenticate", "x-request-id"] {
        let is_described = described_headers.iter().any(|known| known == header);
        assert!(is_described || !headers.contains_key(header), "{name}: {header} is not described");
    }
    assert!(headers.contains_key("x-request-id"), "{name}");
}

const UPLOAD: (Method, &str) = (Method::POST, "/upload-image");
const PLAN: (Method, &str) = (Method::POST, "/uploads");
const STATUS: (Method, &str) = (Method::GET, "/uploads/{s3_key}");
const COMPLETE: (Method, &str) = (Method::POST, "/uploads/{s3_key}/complete");
const ABORT: (Method, &str) = (Method::DELETE, "/uploads/{s3_key}");
const OPEN: (Method, &str) = (Method::GET, "/images/{s3_key}");
const HEAD: (Method, &str) = (Method::HEAD, "/images/{s3_key}");
const LINK: (Method, &str) = (Method::GET, "/images/{s3_key}/url");
const DELETE: (Method, &str) = (Method::DELETE, "/delete/{s3_key}");

fn as_is(request: RequestBuilder) -> RequestBuilder {
    request
}

#[tokio::test]
async fn images() {
    let app = TestApp::with(&["--max-upload-size=6MiB", "--max-pixels=1000"]).await;
    let checked = Checked::new(&app).await;
    let raw = |bytes: Vec<u8>| move |request: RequestBuilder| request.header("content-type", "image/png").body(bytes);
    let stored = checked.ask(UPLOAD, "/upload-image", 200, raw(fixture("plain.png"))).await;
    for (bytes, status) in [(b"text".to_vec(), 400), (Vec::new(), 400), (png((6 << 20) + 1), 413)] {
        checked.ask(UPLOAD, "/upload-image", status, raw(bytes)).await;
    }
    checked.ask(UPLOAD, "/upload-image", 415, |request| request.body("text")).await;
    checked.ask(UPLOAD, "/upload-image", 400, |request| request.header("content-type", "multipart/form-data")).await;

    let key = stored["s3_key"].as_str().unwrap();
    checked.ask(OPEN, &format!("/images/{key}"), 307, as_is).await;
    checked.ask(HEAD, &format!("/images/{key}"), 200, as_is).await;
    checked.ask(LINK, &format!("/images/{key}/url"), 200, as_is).await;
    checked.ask(DELETE, &format!("/delete/{key}"), 200, as_is).await;
    for wrong in [key, "no-key", "%ff"] {
        checked.ask(OPEN, &format!("/images/{wrong}"), 404, as_is).await;
        checked.ask(HEAD, &format!("/images/{wrong}"), 404, as_is).await;
        checked.ask(LINK, &format!("/images/{wrong}/url"), 404, as_is).await;
        checked.ask(DELETE, &format!("/delete/{wrong}"), 404, as_is).await;
    }
    app.end(&[]).await;
}

#[tokio::test]
async fn direct_uploads() {
    let app = TestApp::with(&["--direct-put-max=6MiB", "--max-upload-size=12MiB"]).await;
    let checked = Checked::new(&app).await;
    let plan = async |size: usize| {
        let request_body = json!({ "filename": "a.png", "size": size });
        checked.ask(PLAN, "/uploads", 201, |request| request.json(&request_body)).await
    };
    let link = |plan: &Value, name: &str| plan[name].as_str().unwrap().to_owned();
    let image = fixture("plain.png");

    let put = plan(image.len()).await;
    checked.ask(STATUS, &link(&put, "status_url"), 200, as_is).await;
    checked.ask(COMPLETE, &link(&put, "complete_url"), 404, as_is).await;
    send(&app, &put, &image).await;
    checked.ask(STATUS, &link(&put, "status_url"), 200, as_is).await;
    checked.ask(COMPLETE, &link(&put, "complete_url"), 200, as_is).await;
    checked.ask(STATUS, &link(&put, "status_url"), 200, as_is).await;
    checked.ask(ABORT, &link(&put, "abort_url"), 409, as_is).await;

    let parts = plan(7 << 20).await;
    checked.ask(STATUS, &link(&parts, "status_url"), 200, as_is).await;
    checked.ask(COMPLETE, &link(&parts, "complete_url"), 409, as_is).await;
    checked.ask(ABORT, &link(&parts, "abort_url"), 204, as_is).await;
    checked.ask(STATUS, &link(&parts, "status_url"), 404, as_is).await;

    let text = plan(4).await;
    send(&app, &text, b"text").await;
    checked.ask(COMPLETE, &link(&text, "complete_url"), 400, as_is).await;
    app.end(&[put["s3_key"].as_str().unwrap()]).await;
}

#[tokio::test]
async fn companion() {
    let app = TestApp::with(&["--max-upload-size=6MiB"]).await;
    let checked = Checked::new(&app).await;
    let (part, parts) = ("/s3/multipart/{upload_id}/{part_number}", "/s3/multipart/{upload_id}");
    let complete = (Method::POST, "/s3/multipart/{upload_id}/complete");
    let form = (Method::GET, "/s3/params");
    checked.ask(form.clone(), "/s3/params?filename=a.png&type=image/png", 200, as_is).await;
    checked.ask(form, "/s3/params?filename=a.svg", 400, as_is).await;
    let start = async || {
        let file = json!({ "filename": "a.png", "type": "image/png", "metadata": {} });
        checked.ask((Method::POST, "/s3/multipart"), "/s3/multipart", 200, |request| request.json(&file)).await
    };
    let started = start().await;
    let id = |started: &Value| started["uploadId"].as_str().unwrap().to_owned();
    let path = |started: &Value, rest: &str| {
        format!("/s3/multipart/{}{rest}?key={}", id(started), started["key"].as_str().unwrap())
    };
    let signed = checked.ask((Method::GET, part), &path(&started, "/1"), 200, as_is).await;
    checked.ask((Method::GET, part), &path(&started, "/3"), 413, as_is).await;
    checked.ask((Method::GET, part), &path(&started, "/0"), 400, as_is).await;
    let sent = app.client.put(signed["url"].as_str().unwrap()).body(fixture("plain.png")).send().await.unwrap();
    let etag = sent.headers()["etag"].to_str().unwrap().to_owned();
    checked.ask((Method::GET, parts), &path(&started, ""), 200, as_is).await;
    let report = |number: u32| json!({ "parts": [{ "PartNumber": number, "ETag": etag }] });
    let with = |body: Value| move |request: RequestBuilder| request.json(&body);
    checked.ask(complete.clone(), &path(&started, "/complete"), 400, with(report(2))).await;
    checked.ask(complete.clone(), &path(&started, "/complete"), 415, as_is).await;
    checked.ask(complete.clone(), &path(&started, "/complete"), 200, with(report(1))).await;
    checked.ask((Method::GET, parts), &path(&started, ""), 200, as_is).await;
    checked.ask((Method::DELETE, parts), &path(&started, ""), 409, as_is).await;
    let other = start().await;
    checked.ask(complete.clone(), &path(&other, "/complete"), 409, with(report(1))).await;
    checked.ask((Method::DELETE, parts), &path(&other, ""), 200, as_is).await;
    checked.ask(complete, &path(&other, "/complete"), 404, with(report(1))).await;
    let wrong = format!("/s3/multipart/{}?key=x", id(&other));
    checked.ask((Method::GET, parts), &wrong, 401, as_is).await;
    app.end(&[started["key"].as_str().unwrap()]).await;
}

async fn send(app: &TestApp, plan: &Value, bytes: &[u8]) {
    let headers = plan["headers"].as_object().unwrap().iter().filter(|(name, _)| *name != "content-length");
    let request = app.client.put(plan["url"].as_str().unwrap());
    let request = headers.fold(request, |request, (name, value)| request.header(name, value.as_str().unwrap()));
    assert_eq!(request.body(bytes.to_vec()).send().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn refused_plans_and_links() {
    let app = TestApp::with(&["--max-upload-size=12MiB"]).await;
    let checked = Checked::new(&app).await;
    for (request_body, status) in [
        (json!({ "filename": "a.png", "size": 0 }), 400),
        (json!({ "filename": "a.svg", "size": 1 }), 400),
        (json!({ "filename": "a.png", "size": (12 << 20) + 1 }), 413),
        (json!({ "filename": "x".repeat(20 << 10), "size": 1 }), 400),
    ] {
        checked.ask(PLAN, "/uploads", status, |request| request.json(&request_body)).await;
    }
    checked.ask(PLAN, "/uploads", 415, |request| request.body("{}")).await;
    let json_type = |request: RequestBuilder| request.header("content-type", "application/json").body("{");
    checked.ask(PLAN, "/uploads", 400, json_type).await;
    for query in ["", "?plan=", "?plan=x.y.z", "?size=1&content_type=image/png"] {
        checked.ask(STATUS, &format!("/uploads/{UNUSED_KEY}{query}"), 401, as_is).await;
        checked.ask(ABORT, &format!("/uploads/{UNUSED_KEY}{query}"), 401, as_is).await;
        checked.ask(COMPLETE, &format!("/uploads/{UNUSED_KEY}/complete{query}"), 401, as_is).await;
    }
    checked.ask(STATUS, "/uploads/no-key?plan=x.y.z", 404, as_is).await;
    app.end(&[]).await;
}

#[tokio::test]
async fn grants() {
    let app = TestApp::with(&["--api-keys=long-enough-to-sign,short"]).await;
    let checked = Checked::new(&app).await;
    const GRANT: (Method, &str) = (Method::POST, "/grants");
    let ask = |key: &str, body: Value| {
        let key = key.to_owned();
        move |request: RequestBuilder| request.bearer_auth(key).json(&body)
    };
    let one = json!({ "filename": "a.png", "metadata": { "user": "7" }, "formats": ["png"], "max_size": 5 });
    for (key, body, status) in [
        ("long-enough-to-sign", json!({}), 201),
        ("long-enough-to-sign", one.clone(), 201),
        ("long-enough-to-sign", json!({ "expires_in": 0 }), 400),
        ("long-enough-to-sign", json!({ "filename": "a.svg" }), 400),
        ("short", json!({}), 403),
        ("wrong", json!({}), 401),
        ("eyJ.wrong.token", json!({}), 401),
    ] {
        checked.ask(GRANT, "/grants", status, ask(key, body)).await;
    }
    checked.ask(GRANT, "/grants", 415, |request| request.bearer_auth("long-enough-to-sign").body("{}")).await;
    let granted = checked.ask(GRANT, "/grants", 201, ask("long-enough-to-sign", one)).await;
    let token = granted["grant"].as_str().unwrap();
    checked.ask(GRANT, "/grants", 403, ask(token, json!({}))).await;
    let limits = checked.ask((Method::GET, "/limits"), "/limits", 200, |request| request.bearer_auth(token)).await;
    assert_eq!((&limits["s3_key"], &limits["expires_at"]), (&granted["s3_key"], &granted["expires_at"]));
    for wrong in [token, "long-enough-to-sign"] {
        let wrong = format!("{wrong}x");
        checked.ask((Method::GET, "/limits"), "/limits", 401, |request| request.bearer_auth(wrong)).await;
    }
    app.end(&[]).await;
}

#[tokio::test]
async fn the_service_itself() {
    let app = TestApp::start().await;
    let checked = Checked::new(&app).await;
    for path in ["/limits", "/healthz", "/readyz", "/metrics", "/openapi.json"] {
        checked.ask((Method::GET, path), path, 200, as_is).await;
    }
    let tag = app.client.get(app.at("/openapi.json")).send().await.unwrap().headers()["etag"].clone();
    let known = |request: RequestBuilder| request.header("if-none-match", tag);
    checked.ask((Method::GET, "/openapi.json"), "/openapi.json", 304, known).await;
    let page = |request: RequestBuilder| request.header("origin", "http://page.example");
    let refused = checked.ask((Method::GET, "/metrics"), "/metrics", 403, page).await;
    assert_eq!(refused["code"], "forbidden");
    app.app.start_draining();
    checked.ask((Method::GET, "/readyz"), "/readyz", 503, as_is).await;
    app.end(&[]).await;
}

#[tokio::test]
async fn without_a_key() {
    let app = TestApp::with(&["--api-keys=secret"]).await;
    let checked = Checked::new(&app).await;
    let mut refused = 0;
    for (method, template, operation) in checked.description.operations() {
        // `{}` means that a request without a key is allowed.
        let key_required = operation["security"].as_array().is_some_and(|keys| !keys.contains(&json!({})));
        let status = if key_required { 401 } else { 200 };
        let path = template.replace("{s3_key}", UNUSED_KEY);
        checked.ask((method, template), &path, status, as_is).await;
        refused += usize::from(status == 401);
    }
    assert_eq!(refused, 23);
    app.end(&[]).await;
}

#[tokio::test]
async fn when_the_store_fails() {
    let app = TestApp::behind_faults(&[]).await;
    let checked = Checked::new(&app).await;
    let request_body = json!({ "filename": "a.png", "size": 1 });
    let plan = checked.ask(PLAN, "/uploads", 201, |request| request.json(&request_body)).await;
    app.faults().fail_all(Operation::Head, Action::Status(500));
    for (operation, path) in [
        (OPEN, format!("/images/{UNUSED_KEY}")),
        (HEAD, format!("/images/{UNUSED_KEY}")),
        (DELETE, format!("/delete/{UNUSED_KEY}")),
        (STATUS, plan["status_url"].as_str().unwrap().to_owned()),
    ] {
        checked.ask(operation, &path, 500, as_is).await;
    }
    app.end(&[]).await;
}
