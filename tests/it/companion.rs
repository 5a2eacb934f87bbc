//! Uppy's S3 plugin: the requests of `@uppy/aws-s3` 5.1 and 6.3, which expect the routes of Uppy's Companion.

mod forms;
mod grants;
mod limits;
mod races;
mod tokens;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::multipart::{Form, Part};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};

use crate::support::app::{TestApp, png};
use crate::support::backend::Backend;
use crate::support::scrape::Scrape;

const MIB: usize = 1 << 20;
/// The size of Uppy's parts.
const PART: usize = 5 * MIB;
const PAGE: &str = "http://page.example";
const TYPE: &str = "image/png";

/// The release of the plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Release {
    /// Given `endpoint` and `headers`.
    V5,
    /// Given `companionEndpoint`, which is all that can authorize its requests.
    V6,
}

const RELEASES: [Release; 2] = [Release::V5, Release::V6];

/// The plugin on a page of another origin.
#[derive(Clone)]
struct Uppy {
    release: Release,
    client: reqwest::Client,
    /// The address that the page has given to the plugin.
    endpoint: String,
    /// The page's `headers` option.
    bearer: Option<String>,
}

/// An upload that the plugin has started.
#[derive(Clone)]
struct Started {
    key: String,
    upload_id: String,
}

impl Uppy {
    fn new(release: Release, endpoint: &str) -> Self {
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Uppy { release, client, endpoint: endpoint.to_owned(), bearer: None }
    }

    fn of(app: &TestApp) -> Self {
        Uppy::new(Release::V6, &app.url)
    }

    fn with_bearer(mut self, bearer: &str) -> Self {
        self.bearer = Some(bearer.to_owned());
        self
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}/s3/{path}", self.endpoint)).header("origin", PAGE);
        match (self.release, &self.bearer) {
            (Release::V5, Some(bearer)) => request.header("accept", "application/json").bearer_auth(bearer),
            (Release::V5, None) => request.header("accept", "application/json"),
            (Release::V6, _) => request,
        }
    }

    async fn params(&self, name: &str, content_type: &str) -> Response {
        let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let (name, content_type) = (encoded(name), encoded(content_type));
        let metadata =
            format!("metadata%5Bname%5D={name}&metadata%5Btype%5D={content_type}&metadata%5BrelativePath%5D=null");
        let path = format!("params?filename={name}&type={content_type}&{metadata}");
        self.request(Method::GET, &path).send().await.unwrap()
    }

    /// Sends the form that `params` describes.
    async fn send_form(&self, params: &Value, bytes: &[u8]) -> Response {
        assert_eq!(params["method"], "POST");
        let fields = params["fields"].as_object().unwrap().iter();
        let form =
            fields.fold(Form::new(), |form, (name, value)| form.text(name.clone(), value.as_str().unwrap().to_owned()));
        let file = Part::bytes(bytes.to_vec()).file_name("photo.png").mime_str(TYPE).unwrap();
        let request = self.client.post(params["url"].as_str().unwrap()).header("origin", PAGE);
        request.multipart(form.part("file", file)).send().await.unwrap()
    }

    async fn create(&self, name: &str, content_type: &str) -> Response {
        let metadata = json!({ "name": name, "type": content_type, "relativePath": null });
        let file = json!({ "filename": name, "type": content_type, "metadata": metadata });
        self.request(Method::POST, "multipart").json(&file).send().await.unwrap()
    }

    async fn start(&self) -> Started {
        let started = ok(self.create("photo.png", TYPE).await).await;
        let text = |name: &str| started[name].as_str().unwrap().to_owned();
        Started { key: text("key"), upload_id: text("uploadId") }
    }

    fn of_upload(&self, method: Method, started: &Started, rest: &str) -> RequestBuilder {
        let Started { key, upload_id } = started;
        self.request(method, &format!("multipart/{upload_id}{rest}?key={key}"))
    }

    async fn sign(&self, started: &Started, number: u32) -> Response {
        self.of_upload(Method::GET, started, &format!("/{number}")).send().await.unwrap()
    }

    /// Sends one part, and returns it as the plugin reports it.
    async fn send_part(&self, started: &Started, number: u32, bytes: &[u8]) -> Value {
        let signed = ok(self.sign(started, number).await).await;
        let request = self.client.put(signed["url"].as_str().unwrap()).header("origin", PAGE);
        let sent = request.body(bytes.to_vec()).send().await.unwrap();
        let (status, headers) = (sent.status(), sent.headers().clone());
        assert_eq!(status, 200, "{}", sent.text().await.unwrap());
        let etag = headers["etag"].to_str().unwrap();
        let etag = if self.release == Release::V6 { etag.trim_matches('"') } else { etag };
        json!({ "PartNumber": number, "ETag": etag })
    }

    /// Sends all parts of a file, and returns the plugin's report of them.
    async fn send_parts(&self, started: &Started, bytes: &[u8]) -> Value {
        let mut parts = Vec::new();
        for (number, part) in (1..).zip(bytes.chunks(PART)) {
            parts.push(self.send_part(started, number, part).await);
        }
        Value::from(parts)
    }

    async fn list(&self, started: &Started) -> Response {
        self.of_upload(Method::GET, started, "").send().await.unwrap()
    }

    async fn complete(&self, started: &Started, parts: &Value) -> Response {
        self.of_upload(Method::POST, started, "/complete").json(&json!({ "parts": parts })).send().await.unwrap()
    }

    async fn abort(&self, started: &Started) -> Response {
        self.of_upload(Method::DELETE, started, "").send().await.unwrap()
    }
}

/// Returns the JSON of a success.
async fn ok(response: Response) -> Value {
    let (status, origin) = (response.status(), response.headers().get("access-control-allow-origin").cloned());
    let text = response.text().await.unwrap();
    assert_eq!(status, 200, "{text}");
    assert_eq!(origin.unwrap(), PAGE);
    serde_json::from_str(&text).unwrap()
}

/// Asserts an error. Uppy shows its `message`.
async fn refused(response: Response, status: u16, code: &str) -> Value {
    let found = response.status();
    let body: Value = response.json().await.unwrap();
    assert_eq!((found.as_u16(), &body["code"]), (status, &json!(code)), "{body}");
    assert!(body["message"].is_string() && body["message"] == body["detail"], "{body}");
    body
}

/// Asserts that the image exists and has these bytes.
async fn check_image(app: &TestApp, location: &Value, key: &str, bytes: &[u8]) {
    assert_eq!(location, &json!(app.at(&format!("/images/{key}"))));
    let link: Value = app.client.get(app.at(&format!("/images/{key}/url"))).send().await.unwrap().json().await.unwrap();
    let image = app.client.get(link["url"].as_str().unwrap()).send().await.unwrap();
    assert_eq!(image.headers()["content-type"], TYPE);
    assert!(image.bytes().await.unwrap() == bytes, "the bytes differ");
}

#[tokio::test]
async fn file_is_uploaded_in_parts() {
    let app = TestApp::start().await;
    let (bytes, mut keys) = (png(2 * PART + 7), Vec::new());
    for release in RELEASES {
        let uppy = Uppy::new(release, &app.url);
        let started = uppy.start().await;
        let parts = uppy.send_parts(&started, &bytes).await;
        assert_eq!(app.client.get(app.at(&format!("/images/{}", started.key))).send().await.unwrap().status(), 404);
        let image = ok(uppy.complete(&started, &parts).await).await;
        check_image(&app, &image["location"], &started.key, &bytes).await;
        assert_eq!(image["key"], *started.key);
        // The answer was lost.
        assert_eq!(ok(uppy.complete(&started, &parts).await).await, image);
        keys.push(started.key);
    }
    Scrape::of(&app).await.check(&[("image_store_upload_size_bytes_count{method=\"companion\"}", 2.0)]);
    app.end(&[&keys[0], &keys[1]]).await;
}

#[tokio::test]
async fn file_smaller_than_a_part_can_be_uploaded_in_parts() {
    let app = TestApp::start().await;
    let (uppy, bytes) = (Uppy::of(&app), png(1_000));
    let started = uppy.start().await;
    let parts = uppy.send_parts(&started, &bytes).await;
    let image = ok(uppy.complete(&started, &parts).await).await;
    check_image(&app, &image["location"], &started.key, &bytes).await;
    app.end(&[&started.key]).await;
}

#[tokio::test]
async fn paused_upload_is_resumed_in_another_process() {
    let app = TestApp::start().await;
    let (uppy, bytes) = (Uppy::of(&app), png(PART + 7));
    let started = uppy.start().await;
    assert_eq!(ok(uppy.list(&started).await).await, json!([]));
    let first = uppy.send_part(&started, 1, &bytes[..PART]).await;
    let other = Uppy::new(Release::V5, &app.another().await);
    let listed = ok(other.list(&started).await).await;
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert_eq!((&listed[0]["PartNumber"], &listed[0]["Size"]), (&json!(1), &json!(PART)));
    assert_eq!(listed[0]["ETag"].as_str().unwrap().trim_matches('"'), first["ETag"].as_str().unwrap());
    let second = other.send_part(&started, 2, &bytes[PART..]).await;
    let part = json!({ "PartNumber": 1, "ETag": listed[0]["ETag"] });
    let image = ok(other.complete(&started, &json!([part, second])).await).await;
    assert_eq!(image["location"], format!("{}/images/{}", other.endpoint, started.key));
    // The first process learns of it only now.
    let image = ok(uppy.complete(&started, &json!([part, second])).await).await;
    check_image(&app, &image["location"], &started.key, &bytes).await;
    app.end(&[&started.key]).await;
}

/// A client that has lost the answer to its complete request lists the parts, and then completes the upload again.
#[tokio::test]
async fn completed_upload_lists_parts_that_cover_the_file() {
    let app = TestApp::start().await;
    let (uppy, bytes) = (Uppy::of(&app), png(2 * PART + 7));
    let started = uppy.start().await;
    let parts = uppy.send_parts(&started, &bytes).await;
    ok(uppy.complete(&started, &parts).await).await;
    let listed = ok(uppy.list(&started).await).await;
    let sizes: Vec<u64> = listed.as_array().unwrap().iter().map(|part| part["Size"].as_u64().unwrap()).collect();
    assert_eq!(sizes, [PART as u64, PART as u64, 7]);
    let reported: Vec<Value> = (1..=3)
        .zip(listed.as_array().unwrap())
        .map(|(number, part)| {
            assert_eq!(part["PartNumber"], number);
            json!({ "PartNumber": number, "ETag": part["ETag"].as_str().unwrap() })
        })
        .collect();
    let image = ok(uppy.complete(&started, &reported.into()).await).await;
    check_image(&app, &image["location"], &started.key, &bytes).await;
    app.end(&[&started.key]).await;
}

#[tokio::test]
async fn upload_is_aborted() {
    let app = TestApp::start().await;
    for release in RELEASES {
        let uppy = Uppy::new(release, &app.url);
        let started = uppy.start().await;
        let parts = uppy.send_parts(&started, &png(PART + 7)).await;
        for _ in 0..2 {
            assert_eq!(ok(uppy.abort(&started).await).await, json!({}));
        }
        refused(uppy.list(&started).await, 404, "not_found").await;
        refused(uppy.complete(&started, &parts).await, 404, "not_found").await;
    }
    app.end(&[]).await;
}

#[tokio::test]
async fn abort_after_complete_keeps_the_image() {
    let app = TestApp::start().await;
    let (uppy, bytes) = (Uppy::of(&app), png(1_000));
    let started = uppy.start().await;
    let parts = uppy.send_parts(&started, &bytes).await;
    let image = ok(uppy.complete(&started, &parts).await).await;
    refused(uppy.abort(&started).await, 409, "already_complete").await;
    check_image(&app, &image["location"], &started.key, &bytes).await;
    app.end(&[&started.key]).await;
}

#[tokio::test]
async fn deleted_image_does_not_come_back() {
    let app = TestApp::start().await;
    let uppy = Uppy::of(&app);
    let started = uppy.start().await;
    let parts = uppy.send_parts(&started, &png(1_000)).await;
    ok(uppy.complete(&started, &parts).await).await;
    let deleted = app.client.delete(app.at(&format!("/delete/{}", started.key))).send().await.unwrap();
    assert_eq!(deleted.status(), 200);
    refused(uppy.complete(&started, &parts).await, 404, "not_found").await;
    refused(uppy.list(&started).await, 404, "not_found").await;
    app.end(&[]).await;
}

#[tokio::test]
async fn upload_works_on_a_store_that_behaves_as_aws() {
    let backend = Backend::strict().await;
    let url = TestApp::serve(backend.store.clone()).await;
    let (uppy, bytes) = (Uppy::new(Release::V5, &url), png(PART + 7));
    let created: Value = uppy.create("photo.png", TYPE).await.json().await.unwrap();
    let started = Started {
        key: created["key"].as_str().unwrap().to_owned(),
        upload_id: created["uploadId"].as_str().unwrap().to_owned(),
    };
    let mut parts = Vec::new();
    for (number, part) in (1..).zip(bytes.chunks(PART)) {
        let signed: Value = uppy.sign(&started, number).await.json().await.unwrap();
        let sent = uppy.client.put(signed["url"].as_str().unwrap()).body(part.to_vec()).send().await.unwrap();
        assert_eq!(sent.status(), 200);
        parts.push(json!({ "PartNumber": number, "ETag": sent.headers()["etag"].to_str().unwrap() }));
    }
    let image: Value = uppy.complete(&started, &parts.into()).await.json().await.unwrap();
    assert_eq!(image["location"], format!("{url}/images/{}", started.key));
    assert_eq!(backend.strict_s3().open_uploads(), Vec::<String>::new());
    assert!(backend.strict_s3().objects().iter().any(|key| key.ends_with(&started.key) && !key.contains("incoming/")));
}

#[tokio::test]
async fn unknown_routes_and_methods_have_a_message() {
    let app = TestApp::start().await;
    let uppy = Uppy::of(&app);
    refused(uppy.request(Method::GET, "sts").send().await.unwrap(), 404, "not_found").await;
    refused(uppy.request(Method::PUT, "params").send().await.unwrap(), 405, "method_not_allowed").await;
    // Elsewhere errors are as ever.
    let other: Value = app.client.get(app.at("/s3")).send().await.unwrap().json().await.unwrap();
    assert!(other.get("message").is_none(), "{other}");
    app.end(&[]).await;
}

#[tokio::test]
async fn pages_of_other_origins_may_send_the_requests() {
    let app = TestApp::start().await;
    for (method, path) in [
        ("GET", "/s3/params"),
        ("POST", "/s3/multipart"),
        ("GET", "/s3/multipart/x/1"),
        ("POST", "/s3/multipart/x/complete"),
        ("DELETE", "/s3/multipart/x"),
        ("POST", "/g/x/s3/multipart"),
    ] {
        let request = app.client.request(Method::OPTIONS, app.at(path)).header("origin", PAGE);
        let request = request.header("access-control-request-method", method);
        let asked = "authorization,content-type";
        let preflight = request.header("access-control-request-headers", asked).send().await.unwrap();
        assert_eq!(preflight.status(), 200, "{method} {path}");
        let allowed = |name: &str| preflight.headers()[name].to_str().unwrap().to_ascii_lowercase();
        assert_eq!(allowed("access-control-allow-origin"), PAGE, "{method} {path}");
        assert!(allowed("access-control-allow-methods").contains(&method.to_ascii_lowercase()), "{method} {path}");
        assert!(asked.split(',').all(|header| allowed("access-control-allow-headers").contains(header)));
    }
    app.end(&[]).await;
}
