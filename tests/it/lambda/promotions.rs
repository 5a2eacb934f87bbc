//! Direct uploads: requests are answered in time however long the promotion takes, and the promotion is finished later.

use super::*;

/// Far longer than a test runs, so that no answer comes from the deadline.
const LONG: Duration = Duration::from_secs(600);

/// Creates a direct upload and puts its object. Returns its key and its `complete_url`.
async fn arrived(setup: &Setup) -> (String, String) {
    let mut event = request("function_url", "POST", "/uploads");
    set_header(&mut event, "content-type", "application/json");
    event["body"] = r#"{"filename": "a.png", "size": 5000}"#.into();
    let plan = body(&setup.function.invoke(&event).await.response());
    let mut put = setup.app.client.put(plan["url"].as_str().unwrap()).body(png(5_000));
    for (name, value) in plan["headers"].as_object().unwrap() {
        put = put.header(name, value.as_str().unwrap());
    }
    assert_eq!(put.send().await.unwrap().status(), 200);
    (plan["s3_key"].as_str().unwrap().to_owned(), plan["complete_url"].as_str().unwrap().to_owned())
}

fn complete(url: &str) -> Value {
    request("function_url", "POST", &format!("/{}", url.trim_start_matches('/')))
}

fn verifying(answer: &Value) {
    assert_eq!((&answer["statusCode"], &body(answer)["state"]), (&202.into(), &"verifying".into()), "{answer}");
    assert!(!header(answer, "retry-after").is_empty());
}

#[tokio::test]
async fn event_finishes_a_promotion_that_was_frozen() {
    let setup = Setup::with_environment(&[("COMPLETE_WAIT", "1s"), ("S3_TIMEOUT", "60s")]).await;
    let faults = setup.app.faults();
    let (key, url) = arrived(&setup).await;
    faults.fail(Operation::Copy, 1..=1, Action::Hold);
    verifying(&setup.function.begin(&complete(&url), LONG).outcome().await.response());
    assert_eq!(faults.calls(Operation::Copy), 1, "the promotion was running");
    setup.function.freeze();
    setup.function.thaw();

    let next = setup.function.begin(&request("function_url", "GET", "/healthz"), LONG).outcome().await;
    assert_eq!(next.response()["statusCode"], 200);
    let event = setup.function.begin(&created(&[&format!("incoming/{key}")]), LONG).outcome().await;
    assert_eq!(event.response()["promoted"], 1);
    faults.release();
    let answer = setup.function.begin(&complete(&url), LONG).outcome().await.response();
    assert_eq!((&answer["statusCode"], &body(&answer)["s3_key"]), (&200.into(), &key.as_str().into()), "{answer}");
    let log = setup.end(&[&key]).await;
    assert!(!log.contains("could not be cleaned up"), "{log}");
}

#[tokio::test]
async fn complete_is_answered_before_the_deadline() {
    let setup = Setup::with_environment(&[("COMPLETE_WAIT", "60s"), ("S3_TIMEOUT", "60s")]).await;
    let faults = setup.app.faults();
    let (key, url) = arrived(&setup).await;
    faults.fail(Operation::Copy, 1..=1, Action::Hold);
    verifying(&setup.function.invoke_within(&complete(&url), Duration::from_secs(4)).await.response());
    faults.release();
    let answer = setup.function.invoke(&complete(&url)).await.response();
    assert_eq!(answer["statusCode"], 200, "{answer}");
    setup.end(&[&key]).await;
}

#[tokio::test]
async fn failure_of_frozen_promotion_is_not_returned_to_next_complete() {
    let setup = Setup::with_environment(&[("COMPLETE_WAIT", "1s"), ("S3_TIMEOUT", "1s")]).await;
    let faults = setup.app.faults();
    let (key, url) = arrived(&setup).await;
    // Every attempt of the first promotion's call.
    faults.fail(Operation::Copy, 1..=3, Action::Hang);
    verifying(&setup.function.invoke(&complete(&url)).await.response());
    setup.function.freeze();
    setup.function.thaw();
    let mut answer = Value::Null;
    for _ in 0..60 {
        answer = setup.function.invoke(&complete(&url)).await.response();
        if answer["statusCode"] != 202 {
            break;
        }
    }
    assert_eq!((&answer["statusCode"], &body(&answer)["s3_key"]), (&200.into(), &key.as_str().into()), "{answer}");
    setup.end(&[&key]).await;
}

#[tokio::test]
async fn slow_object_does_not_delay_others_of_the_event() {
    let setup = Setup::with_environment(&[("S3_TIMEOUT", "60s")]).await;
    let faults = setup.app.faults();
    let keys = [0; 3].map(|_| format!("{}.png", Uuid::new_v4()));
    for key in &keys {
        setup.put(&format!("incoming/{key}"), png(5_000)).await;
    }
    let event = created(&keys.each_ref().map(|key| format!("incoming/{key}")).each_ref().map(String::as_str));
    faults.fail(Operation::Copy, 1..=1, Action::Hold);
    let failed = setup.function.invoke_within(&event, Duration::from_secs(4)).await.error();
    assert_eq!(failed["errorType"], "PromotionFailed", "{failed}");
    assert!(failed["errorMessage"].as_str().unwrap().starts_with("1 of 3 objects"), "{failed}");
    faults.release();
    assert_eq!(setup.function.invoke(&event).await.response()["promoted"], 3);
    setup.end(&keys.each_ref().map(String::as_str)).await;
}

#[tokio::test]
async fn sigterm_undoes_promotion_started_by_event() {
    let setup = Setup::start().await;
    let faults = setup.app.faults();
    let incoming = format!("incoming/{}.png", Uuid::new_v4());
    setup.put(&incoming, png(5_000)).await;
    faults.fail_all(Operation::Copy, Action::Hang);
    let _unanswered = setup.function.begin(&created(&[&incoming]), LONG);
    faults.wait_for(Operation::Copy, 1).await;
    let log = setup.end(&[&incoming]).await;
    assert!(log.contains("Graceful shutdown completed") && !log.contains("could not"), "{log}");
}
