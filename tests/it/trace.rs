//! W3C Trace Context: the trace of a request is sent to S3, and never appears in anything returned to clients.

use http::{HeaderMap, HeaderValue};
use image_store::telemetry::trace::{self, TraceContext};
use std::collections::HashSet;

use super::direct::{completed, plan, put, send_parts};
use super::process::Process;
use super::support::app::{TestApp, fixture, png};
use super::support::backend::Backend;
use super::support::faults::{Action, Faults, Operation};
use super::support::raw::{RawClient, form, head};
use super::support::samples;

const MIB: usize = 1 << 20;
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";
const STATE: &str = "vendor=opaque,other=1";
const UNUSED_IMAGE: &str = "/images/00000000-0000-4000-8000-000000000000.png";

fn traceparent() -> String {
    format!("00-{TRACE}-{PARENT}-01")
}

/// Makes `app.client` add the trace to every request.
fn traced(app: &mut TestApp) {
    let headers = [("traceparent", traceparent()), ("tracestate", STATE.to_owned())];
    let headers = headers.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
    app.client = client.default_headers(HeaderMap::from_iter(headers)).build().unwrap();
}

/// Returns the parent IDs that were sent with the calls of an operation. Each belongs to the trace, and none is the
/// client's own.
fn parents(faults: &Faults, operation: Operation) -> Vec<String> {
    let calls = faults.headers(operation);
    assert!(!calls.is_empty(), "no {operation:?}");
    let parent = |headers: &HeaderMap| {
        let text = headers.get("traceparent").unwrap_or_else(|| panic!("{operation:?} without it: {headers:?}"));
        let fields: Vec<&str> = text.to_str().unwrap().split('-').collect();
        assert_eq!((fields[0], fields[1], fields[3]), ("00", TRACE, "01"), "{operation:?}: {text:?}");
        assert_eq!(headers["tracestate"], STATE);
        let signed = headers["authorization"].to_str().unwrap();
        assert!(!signed.contains("trace"), "proxies may change the header, so it must not be signed: {signed}");
        assert_ne!(fields[2], PARENT, "{operation:?}");
        fields[2].to_owned()
    };
    calls.iter().map(parent).collect()
}

/// Returns the single parent ID of the calls of these operations, which belong to one request.
fn parent(faults: &Faults, operations: &[Operation]) -> String {
    let all: HashSet<String> = operations.iter().flat_map(|operation| parents(faults, *operation)).collect();
    assert_eq!(all.len(), 1, "one request must have one span: {all:?}");
    all.into_iter().next().unwrap()
}

#[tokio::test]
async fn calls_and_retries_of_an_upload_have_its_trace() {
    let mut app = TestApp::behind_faults(&[]).await;
    traced(&mut app);
    app.faults().fail(Operation::UploadPart, 1..=1, Action::Status(503));
    let answer: serde_json::Value = app.upload("a.png", png(12 * MIB)).await.json().await.unwrap();
    let small: serde_json::Value = app.upload("b.png", png(1000)).await.json().await.unwrap();
    let parts = app.faults().headers(Operation::UploadPart);
    assert_eq!(parts.len(), 4, "one part is sent again");
    let large = parent(app.faults(), &[Operation::Create, Operation::UploadPart, Operation::Complete]);
    assert_ne!(large, parent(app.faults(), &[Operation::Put]), "another request has another span");
    assert!(!answer.to_string().contains("trace"), "{answer}");
    app.end(&[answer["s3_key"].as_str().unwrap(), small["s3_key"].as_str().unwrap()]).await;
}

#[tokio::test]
async fn clean_up_after_disconnect_has_the_trace() {
    let app = TestApp::behind_faults(&["--s3-timeout=20s"]).await;
    app.faults().fail_all(Operation::UploadPart, Action::Hang);
    let body = form("a.png", &png(12 * MIB));
    let mut client = RawClient::connect(app.address()).await;
    client.send(head(body.len(), &format!("traceparent: {}\r\ntracestate: {STATE}\r\n", traceparent()))).await;
    client.send(&body[..11 * MIB]).await;
    app.faults().wait_for(Operation::UploadPart, 2).await;
    drop(client);
    app.faults().wait_for(Operation::Abort, 1).await;
    parent(app.faults(), &[Operation::Create, Operation::UploadPart, Operation::Abort]);
    app.end(&[]).await;
}

#[tokio::test]
async fn direct_upload_has_the_trace_but_its_plan_does_not() {
    let mut app = TestApp::behind_faults(&["--direct-put-max=6MiB"]).await;
    traced(&mut app);
    let single = plan(&app, 5_000).await;
    let parts = plan(&app, 7 * MIB).await;
    for plan in [&single, &parts] {
        assert!(!plan.text().contains("trace"), "{}", plan.text());
    }
    put(&app, &single, &png(5_000)).await;
    completed(&app, &single).await;
    send_parts(&app, parts.parts(), &png(7 * MIB), |_| true).await;
    completed(&app, &parts).await;
    let [planning, first, second] = parents(app.faults(), Operation::Create).try_into().unwrap();
    assert!(planning != first && planning != second && first != second, "three requests have three spans");
    assert_eq!(parent(app.faults(), &[Operation::ListParts]), second);
    for promoting in [Operation::Get, Operation::Copy] {
        assert_eq!(parents(app.faults(), promoting), [&*first, &*second], "{promoting:?}");
    }
    assert_eq!(parents(app.faults(), Operation::Complete), [&*first, &*second, &*second]);
    parents(app.faults(), Operation::Head);
    app.end(&[single.key(), parts.key()]).await;
}

#[tokio::test]
async fn no_trace_is_sent_without_a_valid_traceparent() {
    let app = TestApp::behind_faults(&[]).await;
    let bad = app.client.get(app.at(UNUSED_IMAGE));
    assert_eq!(
        bad.header("traceparent", "00-nonsense").header("tracestate", STATE).send().await.unwrap().status(),
        404
    );
    let answer: serde_json::Value = app.upload("a.png", fixture("plain.png")).await.json().await.unwrap();
    for operation in [Operation::Head, Operation::Put] {
        let headers = &app.faults().headers(operation)[0];
        assert!(!headers.contains_key("traceparent") && !headers.contains_key("tracestate"), "{headers:?}");
    }
    app.end(&[answer["s3_key"].as_str().unwrap()]).await;
}

#[tokio::test]
async fn log_has_the_span_id_sent_to_s3() {
    let app = TestApp::behind_faults(&[]).await;
    // If HeadBucket fails, the start-up probe makes no further calls, which would belong to no request.
    app.faults().fail_all(Operation::HeadBucket, Action::Status(403));
    let process = Process::on_store_of(&app, &["--log-format=json"]);
    let get = reqwest::Client::new().get(format!("http://{}{UNUSED_IMAGE}", process.address));
    assert_eq!(
        get.header("traceparent", traceparent()).header("tracestate", STATE).send().await.unwrap().status(),
        404
    );
    process.terminate();
    let (_, log) = process.end().await;
    let lines = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let spans: Vec<_> = lines.filter(|line| line["status"] == 404).collect();
    assert_eq!(spans.len(), 1, "{log}");
    let sent = parent(app.faults(), &[Operation::Head]);
    assert_eq!((&spans[0]["trace_id"], &spans[0]["span_id"]), (&TRACE.into(), &sent.into()));
    app.end(&[]).await;
}

#[tokio::test]
async fn cors_allows_trace_headers() {
    let app = TestApp::start().await;
    let preflight = app
        .client
        .request(reqwest::Method::OPTIONS, app.at("/upload-image"))
        .header("origin", "http://page.example")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "traceparent,tracestate");
    let answer = preflight.send().await.unwrap();
    let allowed = answer.headers()["access-control-allow-headers"].to_str().unwrap();
    for header in ["traceparent", "tracestate"] {
        assert!(allowed.split(',').any(|name| name == header), "{header} in {allowed}");
    }
    app.end(&[]).await;
}

/// The headers are added after signing. A strict S3 checks the signature.
#[tokio::test]
async fn trace_headers_do_not_break_signatures() {
    let backend = Backend::strict().await;
    let faults = Faults::before(&backend.endpoint).await;
    let store = backend.store_at(&faults.endpoint).await;
    let given = HeaderMap::from_iter([
        (http::HeaderName::from_static("traceparent"), HeaderValue::try_from(traceparent()).unwrap()),
        (http::HeaderName::from_static("tracestate"), HeaderValue::from_static(STATE)),
    ]);
    let (name, bytes) = (samples::image(), samples::noise(7, 1000));
    trace::within(TraceContext::of(&given), async {
        store.put(&name, &samples::png(), samples::payload(&bytes)).await.unwrap();
        assert_eq!(store.head(&name).await.unwrap().size, 1000);
        let link = store.presign_get(&name, &samples::for_a_minute()).await.unwrap();
        assert!(link.headers.is_empty() && !link.url.contains("trace"), "{link:?}");
        store.delete(&name).await.unwrap();
    })
    .await;
    parent(&faults, &[Operation::Put, Operation::Head, Operation::Delete]);
    backend.check_clean().await;
}
