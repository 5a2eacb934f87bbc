//! The binary as a Lambda function: every event shape, with the tests' own Runtime API, and the embedded S3 as the
//! store.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use uuid::Uuid;

mod concurrent;
mod grants;
mod promotions;
mod resumable;

use super::hardening::HEADERS;
use super::support::app::{TestApp, fixture, png, until};
use super::support::faults::{Action, Operation};
use super::support::runtime_api::Function;
use super::support::scrape::Scrape;

const PREFIX: &str = "the-photos!/";
const BOUNDARY: &str = "----boundary";

/// A function on the embedded S3 of a [`TestApp`], whose own HTTP server is not used.
struct Setup {
    app: TestApp,
    function: Function,
}

impl Setup {
    async fn start() -> Setup {
        Setup::with("").await
    }

    async fn with(prefix: &str) -> Setup {
        Setup::with_environment(&[("S3_PREFIX", prefix)]).await
    }

    async fn with_environment(more: &[(&str, &str)]) -> Setup {
        let app = TestApp::behind_faults(&[]).await;
        let endpoint = app.faults.as_ref().unwrap().endpoint.clone();
        let (access_key, secret_key) = app.credentials();
        let always = [
            ("S3_BUCKET", app.bucket.as_str()),
            ("S3_FORCE_PATH_STYLE", "true"),
            ("AWS_ENDPOINT_URL_S3", &endpoint),
            ("AWS_ACCESS_KEY_ID", &access_key),
            ("AWS_SECRET_ACCESS_KEY", &secret_key),
            ("CORS_ALLOW_ORIGIN", "http://page.example"),
        ];
        let function = Function::start(&[&always, more].concat()).await;
        Setup { app, function }
    }

    async fn upload(&self, shape: &str, file: &[u8]) -> Value {
        let event = post(shape, &form(file));
        self.function.invoke(&event).await.response()
    }

    async fn put(&self, key: &str, bytes: Vec<u8>) {
        self.app.sdk.put_object().bucket(&self.app.bucket).key(key).body(bytes.into()).send().await.unwrap();
    }

    /// Stops the function, then checks the store for leftovers. Returns the function's log.
    async fn end(self, expected: &[&str]) -> String {
        let log = self.function.end().await;
        assert!(!log.contains("panicked"), "{log}");
        self.app.end(expected).await;
        log
    }
}

fn event(name: &str) -> Value {
    serde_json::from_slice(&fixture(&format!("lambda/{name}.json"))).unwrap()
}

/// Every kind of event source, and the variants that differ in the event's path.
const SHAPES: [&str; 7] = [
    "function_url",
    "http_api",
    "http_api_custom_domain",
    "rest_api",
    "rest_api_custom_domain",
    "alb",
    "alb_multi_value",
];

/// Returns the path prefix that an event source of this shape adds to the requested path.
fn base(shape: &str) -> &'static str {
    match shape {
        "http_api" => "/prod",
        "http_api_custom_domain" | "rest_api_custom_domain" => "/img",
        _ => "",
    }
}

/// Returns the path prefix of the URL that clients of this event source request.
fn requested_base(shape: &str) -> &'static str {
    if shape == "rest_api" { "/prod" } else { base(shape) }
}

/// Builds an event of this shape that requests `path`.
fn request(shape: &str, method: &str, path: &str) -> Value {
    let mut event = event(shape);
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let whole = format!("{}{path}", base(shape));
    if event.get("version").is_some() {
        event["rawPath"] = whole.into();
        event["rawQueryString"] = query.into();
        event["requestContext"]["http"]["method"] = method.into();
    } else {
        event["path"] = whole.into();
        event["httpMethod"] = method.into();
    }
    if event.pointer("/requestContext/path").is_some() {
        event["requestContext"]["path"] = format!("{}{path}", requested_base(shape)).into();
    }
    if event.get("pathParameters").is_some() {
        event["pathParameters"] = json!({"proxy": path.trim_start_matches('/')});
    }
    event
}

fn set_header(event: &mut Value, name: &str, value: &str) {
    if let Some(headers) = event.get_mut("headers").and_then(Value::as_object_mut) {
        headers.insert(name.to_owned(), value.into());
    }
    if let Some(headers) = event.get_mut("multiValueHeaders").and_then(Value::as_object_mut) {
        headers.insert(name.to_owned(), json!([value]));
    }
}

fn form(file: &[u8]) -> Vec<u8> {
    let head = format!(
        "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.png\"\r\nContent-Type: image/png\r\n\r\n"
    );
    [head.as_bytes(), file, format!("\r\n--{BOUNDARY}--\r\n").as_bytes()].concat()
}

/// Builds an upload event with a body in base64, as it should be.
fn post(shape: &str, body: &[u8]) -> Value {
    post_to(shape, "/upload-image", body)
}

fn post_to(shape: &str, path: &str, body: &[u8]) -> Value {
    let mut event = request(shape, "POST", path);
    set_header(&mut event, "content-type", &format!("multipart/form-data; boundary={BOUNDARY}"));
    set_header(&mut event, "content-length", &body.len().to_string());
    event["body"] = STANDARD.encode(body).into();
    event["isBase64Encoded"] = true.into();
    event
}

fn created(keys: &[&str]) -> Value {
    let mut whole = event("s3");
    let record = whole["Records"][0].take();
    let records = keys.iter().map(|key| {
        let mut record = record.clone();
        record["s3"]["object"]["key"] = (*key).into();
        record
    });
    whole["Records"] = records.collect();
    whole
}

fn body(answer: &Value) -> Value {
    assert_eq!(answer["isBase64Encoded"], false, "{answer}");
    serde_json::from_str(answer["body"].as_str().unwrap()).unwrap()
}

fn header(answer: &Value, name: &str) -> String {
    let value = answer["headers"].get(name).unwrap_or(&answer["multiValueHeaders"][name][0]);
    value.as_str().unwrap_or_else(|| panic!("no {name} in {answer}")).to_owned()
}

fn refused(answer: &Value, status: u16, code: &str) -> String {
    let body = body(answer);
    assert_eq!((&answer["statusCode"], &body["code"]), (&status.into(), &code.into()), "{answer}");
    body["detail"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn every_event_shape_uploads_reads_and_deletes() {
    let setup = Setup::start().await;
    let file = png(300_000);
    for shape in SHAPES {
        let answer = setup.upload(shape, &file).await;
        assert_eq!(answer["statusCode"], 200, "{shape}: {answer}");
        assert_eq!(header(&answer, "content-type"), "application/json");
        assert_eq!(answer.get("statusDescription").is_some(), shape.starts_with("alb"), "{answer}");
        let image = body(&answer);
        assert_eq!((&image["size"], &image["content_type"]), (&300_000.into(), &"image/png".into()));
        let read = setup.app.client.get(image["url"].as_str().unwrap()).send().await.unwrap();
        assert!(read.bytes().await.unwrap() == file, "{shape}: the bytes differ");

        let key = image["s3_key"].as_str().unwrap();
        let answer = setup.function.invoke(&request(shape, "GET", &format!("/images/{key}"))).await.response();
        assert_eq!(answer["statusCode"], 307, "{answer}");
        assert!(header(&answer, "location").contains(key));
        let answer = setup.function.invoke(&request(shape, "HEAD", &format!("/images/{key}"))).await.response();
        assert_eq!((&answer["statusCode"], &answer["body"]), (&200.into(), &"".into()));
        assert_eq!(header(&answer, "content-length"), "300000");
        let delete = request(shape, "DELETE", &format!("/delete/{key}"));
        let answer = setup.function.invoke(&delete).await.response();
        assert_eq!(body(&answer)["detail"], format!("File '{key}' deleted successfully"));
        refused(&setup.function.invoke(&delete).await.response(), 404, "not_found");
        refused(&setup.function.invoke(&request(shape, "GET", "/nowhere")).await.response(), 404, "not_found");
    }
    setup.end(&[]).await;
}

#[tokio::test]
async fn request_ids_and_cors_headers_are_returned() {
    let setup = Setup::start().await;
    for shape in ["function_url", "rest_api"] {
        let mut event = request(shape, "GET", "/limits");
        set_header(&mut event, "x-request-id", "from-the-client");
        set_header(&mut event, "origin", "http://page.example");
        let answer = setup.function.invoke(&event).await.response();
        assert_eq!(header(&answer, "x-request-id"), "from-the-client");
        assert_eq!(header(&answer, "access-control-allow-origin"), "http://page.example");
    }
    let generated = setup.function.invoke(&request("alb", "GET", "/limits")).await.response();
    assert_eq!(header(&generated, "x-request-id").len(), 36);
    let log = setup.end(&[]).await;
    let lines: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let entry = lines.iter().find(|line| line["request_id"] == "from-the-client").expect("its log line");
    assert_eq!(entry["lambda_request_id"], "invocation-1");
}

#[tokio::test]
async fn api_keys_are_required() {
    let app = TestApp::start().await;
    let function = Function::start(&[
        ("S3_BUCKET", &app.bucket),
        ("AWS_ACCESS_KEY_ID", "unused"),
        ("AWS_SECRET_ACCESS_KEY", "unused"),
        ("API_KEYS", "right"),
    ])
    .await;
    for shape in ["function_url", "rest_api", "alb"] {
        // The key is invalid: with a valid API key the answer is a 404 that needs no store.
        for (key, status) in [("", 401), ("wrong", 401), ("right", 404)] {
            let mut event = request(shape, "GET", "/images/x");
            set_header(&mut event, "x-api-key", key);
            let answer = function.invoke(&event).await.response();
            assert_eq!(answer["statusCode"], status, "{shape} with '{key}'");
        }
    }
    function.end().await;
    app.end(&[]).await;
}

#[tokio::test]
async fn metrics_count_events_and_require_a_key() {
    let setup = Setup::with_environment(&[("API_KEYS", "right")]).await;
    let [good, bad] = [0; 2].map(|_| format!("{}.png", Uuid::new_v4()));
    setup.put(&format!("incoming/{good}"), png(5_000)).await;
    setup.put(&format!("incoming/{bad}"), b"no image at all".to_vec()).await;
    let notification = created(&[&format!("incoming/{good}"), &format!("incoming/{bad}")]);
    for _ in 0..2 {
        setup.function.invoke(&notification).await.response();
    }
    let body = form(&png(5_000));
    let mut upload = post("function_url", &body);
    set_header(&mut upload, "x-api-key", "right");
    let stored = self::body(&setup.function.invoke(&upload).await.response());
    let mut ask = request("function_url", "GET", "/metrics");
    refused(&setup.function.invoke(&ask).await.response(), 401, "unauthorized");
    set_header(&mut ask, "x-api-key", "right");
    let answer = setup.function.invoke(&ask).await.response();
    assert_eq!(answer["statusCode"], 200, "{answer}");
    Scrape::read(answer["body"].as_str().unwrap()).check(&[
        (r#"image_store_promotions_total{trigger="event",outcome="promoted"}"#, 1.0),
        (r#"image_store_promotions_total{trigger="event",outcome="already_there"}"#, 1.0),
        (r#"image_store_promotions_total{trigger="event",outcome="invalid_file_type"}"#, 2.0),
        (r#"image_store_upload_size_bytes_sum{method="direct"}"#, 5_000.0),
        (r#"image_store_s3_call_duration_seconds_count{operation="UploadPartCopy",outcome="ok"}"#, 1.0),
        (r#"image_store_upload_size_bytes_sum{method="form"}"#, 5_000.0),
        ("image_store_http_received_bytes_total", body.len() as f64),
    ]);
    setup.end(&[&good, &format!("incoming/{bad}"), stored["s3_key"].as_str().unwrap()]).await;
}

#[tokio::test]
async fn metrics_without_configured_keys_are_403() {
    let setup = Setup::start().await;
    let answer = setup.function.invoke(&request("alb", "GET", "/metrics")).await.response();
    assert_eq!(refused(&answer, 403, "forbidden"), "Only the operators of the service have access to this route");
    let log = setup.end(&[]).await;
    assert!(log.contains("set API_KEYS or API_KEYS_FILE"), "{log}");
}

#[tokio::test]
async fn limits_depend_on_the_event_source() {
    let setup = Setup::start().await;
    for (shape, limit) in [("function_url", 4_694_016), ("rest_api", 4_694_016), ("alb", 967_232)] {
        let limits = body(&setup.function.invoke(&request(shape, "GET", "/limits")).await.response());
        assert_eq!(limits["max_stream_size"], limit, "{shape}");
        assert_eq!(limits["max_upload_size"], 5_000_000_000_u64);
        let detail = refused(&setup.upload(shape, &png(limit + 1)).await, 413, "payload_too_large");
        assert!(detail.contains("POST /uploads"), "{detail}");
        let answer = setup.upload(shape, &png(limit)).await;
        assert_eq!(answer["statusCode"], 200, "{answer}");
        let key = body(&answer)["s3_key"].as_str().unwrap().to_owned();
        setup.function.invoke(&request(shape, "DELETE", &format!("/delete/{key}"))).await.response();
    }
    setup.end(&[]).await;
}

#[tokio::test]
async fn responses_have_security_headers_and_long_uris_are_414() {
    let setup = Setup::start().await;
    let long = format!("/{}", "a".repeat(9000));
    for shape in SHAPES {
        for path in ["/limits", "/nothing", &long] {
            let answer = setup.function.invoke(&request(shape, "GET", path)).await.response();
            for (name, expected) in HEADERS {
                assert_eq!(header(&answer, name), expected, "{shape} {path}");
            }
        }
        let answer = setup.function.invoke(&request(shape, "GET", &long)).await.response();
        refused(&answer, 414, "uri_too_long");
    }
    setup.end(&[]).await;
}

#[tokio::test]
async fn mangled_body_error_names_binary_media_types() {
    let setup = Setup::start().await;
    let mut wrong = post("function_url", &form(&png(5_000)));
    wrong["body"] = "this is not base64".into();
    let detail = refused(&setup.function.invoke(&wrong).await.response(), 400, "invalid_base64");
    assert!(detail.contains("binaryMediaTypes"), "{detail}");

    let mut mangled = post("rest_api", &[]);
    mangled["isBase64Encoded"] = false.into();
    let mut cut = form(b"GIF89a");
    cut.truncate(cut.len() - 6);
    for body in [form(&png(5_000)), cut] {
        mangled["body"] = String::from_utf8_lossy(&body).into();
        let detail = refused(&setup.function.invoke(&mangled).await.response(), 400, "mangled_body");
        assert!(detail.contains("binaryMediaTypes"), "{detail}");
    }
    setup.end(&[]).await;
}

#[tokio::test]
async fn upload_rules_are_those_of_http() {
    let setup = Setup::start().await;
    refused(&setup.upload("function_url", b"<svg/>").await, 400, "invalid_file_type");
    let mut empty = request("function_url", "POST", "/upload-image");
    set_header(&mut empty, "content-type", &format!("multipart/form-data; boundary={BOUNDARY}"));
    empty["body"] = format!("--{BOUNDARY}--\r\n").into();
    refused(&setup.function.invoke(&empty).await.response(), 400, "no_file");

    let mut raw = post("function_url", &fixture("plain.jpg"));
    set_header(&mut raw, "content-type", "image/jpeg");
    let image = body(&setup.function.invoke(&raw).await.response());
    assert_eq!(image["content_type"], "image/jpeg");
    setup.end(&[image["s3_key"].as_str().unwrap()]).await;
}

#[tokio::test]
async fn text_body_is_accepted() {
    let setup = Setup::start().await;
    let mut event = request("function_url", "POST", "/uploads");
    set_header(&mut event, "content-type", "application/json");
    event["body"] = r#"{"filename": "a.png", "size": 70}"#.into();
    let answer = setup.function.invoke(&event).await.response();
    assert_eq!((&answer["statusCode"], &body(&answer)["kind"]), (&201.into(), &"put".into()), "{answer}");
    let status = request("function_url", "GET", body(&answer)["status_url"].as_str().unwrap());
    assert_eq!(body(&setup.function.invoke(&status).await.response())["state"], "waiting");
    setup.end(&[]).await;
}

#[tokio::test]
async fn s3_events_promote_only_images() {
    let prefix = PREFIX;
    let setup = Setup::with(prefix).await;
    let [good, other, bad, gone] = [0; 4].map(|_| format!("{}.png", Uuid::new_v4()));
    setup.put(&format!("{prefix}incoming/{good}"), png(5_000)).await;
    setup.put(&format!("{prefix}incoming/{other}"), png(200_000)).await;
    setup.put(&format!("{prefix}incoming/{bad}"), b"no image at all".to_vec()).await;
    let encoded = format!("{}incoming/", prefix.replace('!', "%21").replace('/', "%2F"));
    let keys = [&good, &gone, &bad, &other].map(|key| format!("{encoded}{key}"));
    let mut keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    keys.push("holiday+photos/incoming/cat+1.png");
    let done = json!({"promoted": 2, "refused": 1, "skipped": 2});
    assert_eq!(setup.function.invoke(&created(&keys)).await.response(), done);
    // Lambda may deliver the event again.
    assert_eq!(setup.function.invoke(&created(&keys)).await.response(), done);
    let read = setup.function.invoke(&request("function_url", "GET", &format!("/images/{good}"))).await;
    assert_eq!(read.response()["statusCode"], 307);
    let refused = format!("{prefix}incoming/{bad}");
    let images = [good, other].map(|key| format!("{prefix}{key}"));
    setup.end(&[&images[0], &images[1], &refused]).await;
}

#[tokio::test]
async fn transient_failure_is_retried_and_unknown_event_is_an_error() {
    let setup = Setup::start().await;
    let [first, second] = [0; 2].map(|_| format!("{}.png", Uuid::new_v4()));
    for key in [&first, &second] {
        setup.put(&format!("incoming/{key}"), png(5_000)).await;
    }
    let notification = created(&[&format!("incoming/{first}"), &format!("incoming/{second}")]);
    let faults = setup.app.faults.as_ref().unwrap();
    faults.fail(Operation::Copy, 1..=1, Action::Status(403));
    let failed = setup.function.invoke(&notification).await.error();
    assert_eq!(failed["errorType"], "PromotionFailed", "{failed}");
    // The objects are promoted concurrently, so the failure of one does not delay the other.
    let objects = setup.app.objects().await;
    assert!(objects.contains(&first) != objects.contains(&second), "{objects:?}");
    assert_eq!(setup.function.invoke(&notification).await.response()["promoted"], 2);

    for unknown in [event("sqs"), json!({}), json!("hello"), json!([1, 2]), json!({"headers": 1})] {
        let failed = setup.function.invoke(&unknown).await.error();
        assert_eq!(failed["errorType"], "UnknownEvent", "{failed}");
        assert!(failed["errorMessage"].as_str().unwrap().contains("ObjectCreated"), "{failed}");
    }
    assert_eq!(setup.function.invoke(&request("alb", "GET", "/healthz")).await.response()["statusCode"], 200);
    setup.end(&[&first, &second]).await;
}

#[tokio::test]
async fn upload_cut_off_by_deadline_is_undone_before_the_answer() {
    let setup = Setup::start().await;
    let event = post("function_url", &form(&png(100_000)));
    let faults = setup.app.faults.as_ref().unwrap();
    // The first call never reaches S3. The second succeeds late, after the request was cancelled.
    for action in [Action::Hang, Action::Delay(Duration::from_millis(1_100))] {
        faults.heal();
        faults.fail_all(Operation::Put, action);
        let deleted = faults.calls(Operation::Delete);
        let began = Instant::now();
        let answer = setup.function.invoke_within(&event, Duration::from_secs(3)).await.response();
        assert!(began.elapsed() < Duration::from_millis(2_800), "{:?}", began.elapsed());
        refused(&answer, 503, "deadline");
        assert_eq!(header(&answer, "retry-after"), "1");
        assert_eq!(faults.calls(Operation::Delete), deleted + 1, "the object must be deleted before the answer");
        assert!(setup.app.objects().await.is_empty());
    }
    faults.heal();
    // If too little time is left, no upload starts.
    let late = setup.function.invoke_within(&event, Duration::from_millis(1_500)).await.response();
    refused(&late, 503, "deadline");
    let answer = setup.function.invoke(&event).await.response();
    setup.end(&[body(&answer)["s3_key"].as_str().unwrap()]).await;
}

#[tokio::test]
async fn sigterm_undoes_a_running_upload() {
    let setup = Setup::start().await;
    let faults = setup.app.faults.as_ref().unwrap();
    faults.fail_all(Operation::Put, Action::Hang);
    let _unanswered = setup.function.begin(&post("function_url", &form(&png(100_000))), Duration::from_secs(30));
    until("the upload is under way", || faults.calls(Operation::Put) == 1).await;
    let log = setup.end(&[]).await;
    assert!(log.contains("Graceful shutdown completed") && !log.contains("could not"), "{log}");
    assert!(log.contains("cut off at shutdown") && !log.contains("client disconnected"), "{log}");
}

#[tokio::test]
async fn missing_environment_is_a_configuration_error() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_image-store"))
        .env("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:1")
        .env_remove("S3_BUCKET")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("S3_BUCKET") && stderr.contains("AWS_LAMBDA_FUNCTION_NAME"), "{stderr}");
}

#[tokio::test]
async fn openapi_and_docs_fit_into_every_response() {
    let setup = Setup::start().await;
    for shape in SHAPES {
        let answer = setup.function.invoke(&request(shape, "GET", "/openapi.json")).await.response();
        assert_eq!(body(&answer)["openapi"], "3.1.0", "{shape}");
        let answer = setup.function.invoke(&request(shape, "GET", "/docs/0/swagger-ui-bundle.js")).await.response();
        assert_eq!((&answer["statusCode"], &answer["isBase64Encoded"]), (&200.into(), &true.into()), "{shape}");
        assert_eq!(header(&answer, "content-encoding"), "gzip");
        let bytes = STANDARD.decode(answer["body"].as_str().unwrap()).unwrap();
        assert!(bytes.starts_with(&[0x1f, 0x8b]), "{shape}");
        assert!(answer.to_string().len() < 1_000_000, "an ALB accepts at most 1 MB");
    }
    setup.end(&[]).await;
}
