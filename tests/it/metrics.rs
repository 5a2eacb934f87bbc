//! `/metrics`: every metric of the table, and what it counts.

use image_store::telemetry::metrics::{Kind, METRICS};
use std::time::{Duration, SystemTime};

use super::direct::{abort, completed, plan, put};
use super::support::app::{TestApp, png, until};
use super::support::faults::{Action, Operation};
use super::support::raw::{RawClient, form, head};
use super::support::scrape::Scrape;

const MIB: usize = 1 << 20;
/// Size of a form upload of which only half is sent.
const LONG: usize = 24 * MIB;

fn call(operation: &str, outcome: &str) -> String {
    format!("image_store_s3_call_duration_seconds_count{{operation=\"{operation}\",outcome=\"{outcome}\"}}")
}

fn aborted(method: &str, reason: &str) -> String {
    format!("image_store_uploads_aborted_total{{method=\"{method}\",reason=\"{reason}\"}}")
}

async fn post_raw(app: &TestApp, body: Vec<u8>) -> reqwest::Response {
    let post = app.client.post(app.at("/upload-image")).header("content-type", "image/png");
    post.header("idempotency-key", "raw").body(body).send().await.unwrap()
}

async fn key(answer: reqwest::Response) -> String {
    assert_eq!(answer.status(), 200);
    answer.json::<serde_json::Value>().await.unwrap()["s3_key"].as_str().unwrap().to_owned()
}

/// Connects a client that sends half of its upload.
async fn half(app: &TestApp) -> RawClient {
    beginning(app, 12 * MIB).await
}

/// Sends the first bytes of an upload, and keeps the connection open.
async fn beginning(app: &TestApp, bytes: usize) -> RawClient {
    let body = form("a.png", &png(LONG));
    let mut client = RawClient::connect(app.address()).await;
    client.send(head(body.len(), "")).await;
    client.send(&body[..bytes]).await;
    client
}

/// Does everything that a metric counts, once.
async fn all_upload_methods(app: &TestApp) -> Vec<String> {
    let form = key(app.upload("a.png", png(12 * MIB)).await).await;
    let raw = key(post_raw(app, png(20_000)).await).await;
    assert_eq!(key(post_raw(app, png(20_000)).await).await, raw);
    let planned = plan(app, 5_000).await;
    put(app, &planned, &png(5_000)).await;
    completed(app, &planned).await;
    completed(app, &planned).await;
    assert_eq!(abort(app, &plan(app, 5_000).await).await.status(), 204);
    let granted = app.client.post(app.at("/grants")).json(&serde_json::json!({})).send().await.unwrap();
    let granted: serde_json::Value = granted.json().await.unwrap();
    let grant = granted["grant"].as_str().unwrap();
    for (token, status) in [(grant.to_owned(), 200), (format!("{grant}x"), 401)] {
        assert_eq!(app.client.get(app.at("/limits")).bearer_auth(token).send().await.unwrap().status(), status);
    }
    assert_eq!(app.upload("a.png", b"%PDF-1.7 and on".to_vec()).await.status(), 400);
    assert_eq!(app.client.get(app.at("/no/such")).send().await.unwrap().status(), 404);
    vec![form, raw, planned.key().to_owned()]
}

#[tokio::test]
async fn every_metric_of_the_table_is_exported_and_counts() {
    let app = TestApp::behind_faults(&["--memory-budget=128MiB", "--spill-budget=32MiB"]).await;
    let keys = all_upload_methods(&app).await;
    app.faults().fail_all(Operation::UploadPart, Action::Status(403));
    assert_eq!(app.upload("a.png", png(6 * MIB)).await.status(), 500);
    app.faults().heal();
    app.settled().await;

    let scrape = Scrape::of(&app).await;
    for metric in &METRICS {
        let name = match metric.kind {
            Kind::Histogram(_) => format!("{}_count", metric.name),
            _ => metric.name.to_owned(),
        };
        let found: Vec<_> = scrape.labels(&name).collect();
        assert!(!found.is_empty(), "no {name} in {scrape:#?}");
        for labels in found {
            let named = |label: &&str| labels.contains(&format!("{label}=\""));
            assert!(metric.labels.iter().all(named), "{name}{labels}");
            assert_eq!(labels.matches("=\"").count(), metric.labels.len(), "{name}{labels}");
        }
    }
    scrape.check(&[
        (r#"image_store_http_requests_total{route="/upload-image",method="POST",status="200"}"#, 3.0),
        (r#"image_store_http_requests_total{route="/upload-image",method="POST",status="400"}"#, 1.0),
        (r#"image_store_http_requests_total{route="/upload-image",method="POST",status="500"}"#, 1.0),
        (r#"image_store_http_requests_total{route="/uploads/{s3_key}/complete",method="POST",status="200"}"#, 2.0),
        (r#"image_store_http_requests_total{route="-",method="GET",status="404"}"#, 1.0),
        (r#"image_store_refusals_total{code="invalid_file_type",detected="pdf"}"#, 1.0),
        (r#"image_store_refusals_total{code="not_found",detected="-"}"#, 1.0),
        (r#"image_store_grants_total{outcome="used"}"#, 1.0),
        (r#"image_store_grants_total{outcome="signature"}"#, 1.0),
        (r#"image_store_refusals_total{code="storage_failed",detected="-"}"#, 1.0),
        (r#"image_store_upload_duration_seconds_count{method="form"}"#, 1.0),
        (r#"image_store_upload_duration_seconds_count{method="raw"}"#, 1.0),
        (r#"image_store_upload_duration_seconds_count{method="direct"}"#, 1.0),
        (r#"image_store_upload_size_bytes_sum{method="form"}"#, 12.0 * MIB as f64),
        (r#"image_store_upload_size_bytes_bucket{method="raw",le="16384"}"#, 0.0),
        (r#"image_store_upload_size_bytes_bucket{method="raw",le="65536"}"#, 1.0),
        (r#"image_store_upload_size_bytes_sum{method="direct"}"#, 5_000.0),
        (r#"image_store_promotions_total{trigger="complete",outcome="promoted"}"#, 1.0),
        (r#"image_store_promotions_total{trigger="complete",outcome="already_there"}"#, 1.0),
        (r#"image_store_uploads_repeated_total{method="raw"}"#, 1.0),
        (&aborted("form", "store_failed"), 1.0),
        (&aborted("direct", "requested"), 1.0),
        (&call("PutObject", "ok"), 3.0),
        (&call("CreateMultipartUpload", "ok"), 3.0),
        (&call("UploadPart", "ok"), 3.0),
        (&call("CompleteMultipartUpload", "ok"), 2.0),
        (&call("AbortMultipartUpload", "ok"), 1.0),
        (&call("UploadPartCopy", "ok"), 1.0),
        ("image_store_parts_in_flight", 0.0),
        ("image_store_uploads_open", 0.0),
        (r#"image_store_budget_used_bytes{budget="memory"}"#, 0.0),
        (r#"image_store_budget_limit_bytes{budget="memory"}"#, 88.0 * MIB as f64),
        (r#"image_store_budget_limit_bytes{budget="spill"}"#, 32.0 * MIB as f64),
        (
            r#"image_store_http_request_duration_seconds_count{route="/upload-image",method="POST",status_class="2xx"}"#,
            3.0,
        ),
        (
            r#"image_store_http_request_duration_seconds_count{route="/upload-image",method="POST",status_class="5xx"}"#,
            1.0,
        ),
    ]);
    assert!(scrape.get(&call("UploadPart", "refused")) >= 1.0, "{scrape:#?}");
    assert!(scrape.get("image_store_connections_open") >= 1.0, "{scrape:#?}");
    assert!(scrape.get("image_store_http_received_bytes_total") > 18.0 * MIB as f64, "{scrape:#?}");
    let build: Vec<_> = scrape.labels("image_store_build_info").collect();
    let version = concat!("{version=\"", env!("CARGO_PKG_VERSION"), "\",commit=\"");
    assert!(build.len() == 1 && build[0].starts_with(version), "{build:?}");
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    assert!((0.0..300.0).contains(&(now - scrape.get("process_start_time_seconds"))));
    app.end(&keys.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn gauges_show_running_uploads_and_drop_when_client_leaves() {
    let app = TestApp::behind_faults(&["--memory-budget=10MiB", "--spill-budget=16MiB", "--s3-timeout=30s"]).await;
    app.faults().fail_all(Operation::UploadPart, Action::Hold);
    // The first part is being sent from memory, and the second one arrives in a file.
    let client = beginning(&app, 8 * MIB).await;
    app.faults().wait_for(Operation::UploadPart, 1).await;
    let spilled = r#"image_store_budget_used_bytes{budget="spill"}"#;
    let scrape = Scrape::until(&app, spilled, 5.0 * MIB as f64).await;
    scrape.check(&[
        ("image_store_parts_in_flight", 1.0),
        ("image_store_uploads_open", 1.0),
        // The connections of the upload and of the scrape.
        ("image_store_connections_open", 2.0),
        (r#"image_store_budget_used_bytes{budget="memory"}"#, 5.0 * MIB as f64),
    ]);
    assert!(
        scrape.get("image_store_http_received_bytes_total") >= 5.0 * MIB as f64,
        "received bytes are counted while the upload runs"
    );
    drop(client);
    let scrape = Scrape::until(&app, "image_store_uploads_open", 0.0).await;
    scrape.check(&[
        (&aborted("form", "client_gone"), 1.0),
        (&call("UploadPart", "cancelled"), 1.0),
        (&call("AbortMultipartUpload", "ok"), 1.0),
        ("image_store_parts_in_flight", 0.0),
    ]);
    Scrape::until(&app, spilled, 0.0).await;
    Scrape::until(&app, "image_store_connections_open", 1.0).await;
    app.end(&[]).await;
}

#[tokio::test]
async fn aborted_uploads_are_counted_by_reason() {
    let flags = ["--request-timeout=2s", "--body-idle-timeout=700ms", "--max-upload-size=8MiB"];
    let app = TestApp::with(&flags).await;
    // The body is chunked, so that the service detects late that it is too large.
    let chunks = futures::stream::iter(
        (0..12).map(|nth| Ok::<_, std::io::Error>(if nth == 0 { png(MIB) } else { vec![0; MIB] })),
    );
    let post = app.client.post(app.at("/upload-image")).header("content-type", "image/png");
    let refused = post.body(reqwest::Body::wrap_stream(chunks)).send().await.unwrap();
    assert_eq!(refused.status(), 413);

    let body = form("a.png", &png(MIB));
    let mut slow = RawClient::connect(app.address()).await;
    slow.send(head(body.len(), "")).await;
    slow.send(&body[..MIB / 2]).await;
    assert!(slow.read_answer().await.starts_with("HTTP/1.1 408"));

    let mut steady = RawClient::connect(app.address()).await;
    steady.send(head(body.len(), "")).await;
    steady.send(&body[..MIB / 2]).await;
    let dribble = async {
        for byte in &body[MIB / 2..] {
            tokio::time::sleep(Duration::from_millis(50)).await;
            if steady.try_send([*byte]).await.is_err() {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_millis(2200), dribble).await;
    assert!(steady.read_answer().await.contains("deadline"));
    let scrape = Scrape::of(&app).await;
    scrape.check(&[
        (&aborted("raw", "refused_late"), 1.0),
        (&aborted("form", "client_too_slow"), 1.0),
        (&aborted("form", "deadline"), 1.0),
    ]);
    assert_eq!(scrape.labels("image_store_uploads_aborted_total").count(), 3, "{scrape:#?}");
    app.end(&[]).await;
}

#[tokio::test]
async fn shutdown_is_not_counted_as_client_gone() {
    let mut app = TestApp::with(&["--shutdown-timeout=0"]).await;
    let client = half(&app).await;
    until("the upload has begun", || app.app.uploads.open() == 1).await;
    app.stop();
    let service = app.app.clone();
    app.end(&[]).await;
    let scrape = Scrape::read(&service.scrape());
    scrape.check(&[
        (&aborted("form", "shutdown"), 1.0),
        (r#"image_store_http_requests_total{route="/upload-image",method="POST",status="503"}"#, 1.0),
    ]);
    for metric in ["image_store_uploads_aborted_total", "image_store_http_requests_total"] {
        assert_eq!(scrape.labels(metric).count(), 1, "{scrape:#?}");
    }
    drop(client);
}

#[tokio::test]
async fn arbitrary_paths_and_methods_create_no_new_series() {
    let app = TestApp::start().await;
    for name in ["one", "two", "three"] {
        let method = reqwest::Method::from_bytes(name.to_uppercase().as_bytes()).unwrap();
        app.client.request(method, app.at(&format!("/{name}"))).send().await.unwrap();
        app.client.get(app.at(&format!("/images/{name}"))).send().await.unwrap();
    }
    let scrape = Scrape::of(&app).await;
    scrape.check(&[
        (r#"image_store_http_requests_total{route="-",method="other",status="404"}"#, 3.0),
        (r#"image_store_http_requests_total{route="/images/{s3_key}",method="GET",status="404"}"#, 3.0),
    ]);
    assert_eq!(scrape.labels("image_store_http_requests_total").count(), 2, "{scrape:#?}");
    app.end(&[]).await;
}

#[tokio::test]
async fn metrics_from_proxies_and_browsers_require_a_key() {
    for (keys, status, code, detail) in [
        ("--public-read=false", 403, "forbidden", "Only the operators of the service have access to this route"),
        (
            "--api-keys=right",
            401,
            "unauthorized",
            "An API key is required; send it as Authorization: Bearer <key> or X-API-Key: <key>",
        ),
    ] {
        let app = TestApp::with(&[keys]).await;
        let ask = || app.client.get(app.at("/metrics"));
        assert_eq!(ask().send().await.unwrap().status(), 200);
        for host in ["localhost:80", "[::1]", "127.0.0.1:1", "workstation"] {
            assert_eq!(ask().header("host", host).send().await.unwrap().status(), 200, "{host}");
        }
        for (header, value) in [
            ("x-forwarded-proto", "https"),
            ("origin", "http://page.example"),
            ("sec-fetch-site", "same-origin"),
            // A page of this host, whose name its owner makes resolve to 127.0.0.1, may send neither of them.
            ("host", "page.example:80"),
        ] {
            let refused = ask().header(header, value).send().await.unwrap();
            assert_eq!(refused.status(), status, "{header}");
            let refused: serde_json::Value = refused.json().await.unwrap();
            assert_eq!((&refused["code"], &refused["detail"]), (&code.into(), &detail.into()));
        }
        let keyed = ask().header("via", "1.1 proxy").bearer_auth("right").send().await.unwrap();
        assert_eq!(keyed.status() == 200, keys.ends_with("right"));
        app.end(&[]).await;
    }
}
