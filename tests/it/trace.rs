//! W3C Trace Context: a request's trace goes on to S3, and into nothing that a client is given.

use http::{HeaderMap, HeaderValue};
use image_store::telemetry::trace::{self, TraceContext};
use std::collections::HashSet;

use super::direct::{completed, plan, put, send_parts};
use super::support::app::{TestApp, fixture, png};
use super::support::backend::Backend;
use super::support::faults::{Action, Faults, Operation};
use super::support::raw::{RawClient, form, head};
use super::support::samples;

const MIB: usize = 1 << 20;
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";
const STATE: &str = "vendor=opaque,other=1";

fn traceparent() -> String {
    format!("00-{TRACE}-{PARENT}-01")
}

/// A client whose every request belongs to the trace.
fn traced(app: &mut TestApp) {
    let headers = [("traceparent", traceparent()), ("tracestate", STATE.to_owned())];
    let headers = headers.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
    app.client = client.default_headers(HeaderMap::from_iter(headers)).build().unwrap();
}

/// The parent ids S3 was sent with the calls of an operation; each is of the trace.
fn parents(faults: &Faults, operation: Operation) -> Vec<String> {
    let calls = faults.headers(operation);
    assert!(!calls.is_empty(), "no {operation:?}");
    let parent = |headers: &HeaderMap| {
        let text = headers.get("traceparent").unwrap_or_else(|| panic!("{operation:?} without it: {headers:?}"));
        let fields: Vec<&str> = text.to_str().unwrap().split('-').collect();
        assert_eq!((fields[0], fields[1], fields[3]), ("00", TRACE, "01"), "{operation:?}: {text:?}");
        assert_eq!(headers["tracestate"], STATE);
        let signed = headers["authorization"].to_str().unwrap();
        assert!(!signed.contains("trace"), "what is on the way may change it: {signed}");
        fields[2].to_owned()
    };
    calls.iter().map(parent).collect()
}

fn check(faults: &Faults, operations: &[Operation]) {
    let all: Vec<String> = operations.iter().flat_map(|operation| parents(faults, *operation)).collect();
    let different: HashSet<&str> = all.iter().map(String::as_str).chain([PARENT]).collect();
    assert_eq!(different.len(), all.len() + 1, "each call has a parent id of its own: {all:?}");
}

#[tokio::test]
async fn an_upload_s_calls_belong_to_its_trace_also_those_made_again() {
    let mut app = TestApp::behind_faults(&[]).await;
    traced(&mut app);
    app.faults().fail(Operation::UploadPart, 1..=1, Action::Status(503));
    let answer: serde_json::Value = app.upload("a.png", png(12 * MIB)).await.json().await.unwrap();
    let small: serde_json::Value = app.upload("b.png", png(1000)).await.json().await.unwrap();
    let parts = app.faults().headers(Operation::UploadPart);
    assert_eq!(parts.len(), 4, "one is sent again");
    check(app.faults(), &[Operation::Create, Operation::UploadPart, Operation::Complete, Operation::Put]);
    assert!(!answer.to_string().contains("trace"), "{answer}");
    app.end(&[answer["s3_key"].as_str().unwrap(), small["s3_key"].as_str().unwrap()]).await;
}

#[tokio::test]
async fn so_do_those_that_undo_it_when_its_client_has_left() {
    let app = TestApp::behind_faults(&["--s3-timeout=20s"]).await;
    app.faults().fail_all(Operation::UploadPart, Action::Hang);
    let body = form("a.png", &png(12 * MIB));
    let mut client = RawClient::connect(app.address()).await;
    client.send(head(body.len(), &format!("traceparent: {}\r\ntracestate: {STATE}\r\n", traceparent()))).await;
    client.send(&body[..11 * MIB]).await;
    app.faults().wait_for(Operation::UploadPart, 2).await;
    drop(client);
    app.faults().wait_for(Operation::Abort, 1).await;
    check(app.faults(), &[Operation::Create, Operation::UploadPart, Operation::Abort]);
    app.end(&[]).await;
}

#[tokio::test]
async fn a_direct_upload_s_calls_too_but_not_what_its_client_is_told_to_send() {
    let mut app = TestApp::behind_faults(&["--direct-put-max=6MiB"]).await;
    traced(&mut app);
    let single = plan(&app, 5_000).await;
    let parts = plan(&app, 7 * MIB).await;
    for told in [&single, &parts] {
        assert!(!told.text().contains("trace"), "{}", told.text());
    }
    put(&app, &single, &png(5_000)).await;
    completed(&app, &single).await;
    send_parts(&app, parts.parts(), &png(7 * MIB), |_| true).await;
    completed(&app, &parts).await;
    let promoting = [Operation::ListParts, Operation::Complete, Operation::Get, Operation::Copy, Operation::Delete];
    check(app.faults(), &[Operation::Create, Operation::Head]);
    check(app.faults(), &promoting);
    app.end(&[single.key(), parts.key()]).await;
}

#[tokio::test]
async fn without_a_trace_none_is_made_up() {
    let app = TestApp::behind_faults(&[]).await;
    let bad = app.client.get(app.at("/images/00000000-0000-4000-8000-000000000000.png"));
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

/// It is added behind the signature, which a strict S3 checks.
#[tokio::test]
async fn a_strict_s3_takes_it() {
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
    check(&faults, &[Operation::Put, Operation::Head, Operation::Delete]);
    backend.check_clean().await;
}
