//! Managed Instances: concurrent invocations in one process.

use super::*;

/// A quarter of the memory is 32 MiB. Half of that is for parts, so three uploads of [`LARGE`] fit.
const TIGHT: [(&str, &str); 2] = [("AWS_LAMBDA_MAX_CONCURRENCY", "8"), ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")];
const FITTING: usize = 3;
const LARGE: usize = 4_500_000;
/// Far longer than a test runs, so that no answer comes from the deadline.
const LONG: Duration = Duration::from_secs(600);

#[tokio::test]
async fn concurrent_invocations_share_one_memory_budget() {
    let setup = Setup::with_environment(&TIGHT).await;
    let faults = setup.app.faults();
    faults.fail_all(Operation::Put, Action::Hold);
    let upload = post("function_url", &form(&png(LARGE)));
    let stored: Vec<_> = (0..FITTING).map(|_| setup.function.begin(&upload, LONG)).collect();
    faults.wait_for(Operation::Put, FITTING).await;

    for _ in 0..2 {
        let full = setup.function.begin(&upload, LONG).outcome().await.response();
        refused(&full, 503, "over_capacity");
        assert!(!header(&full, "retry-after").is_empty());
    }
    let healthy = setup.function.begin(&request("function_url", "GET", "/healthz"), LONG).outcome().await;
    assert_eq!(healthy.response()["statusCode"], 200);

    faults.release();
    let mut keys = Vec::new();
    for invocation in stored {
        let image = body(&invocation.outcome().await.response());
        keys.push(image["s3_key"].as_str().unwrap().to_owned());
    }
    // Their memory is released.
    let image = body(&setup.function.begin(&upload, LONG).outcome().await.response());
    keys.push(image["s3_key"].as_str().unwrap().to_owned());
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    setup.end(&keys).await;
}

#[tokio::test]
async fn invocations_neither_wait_for_nor_cut_off_each_other() {
    let setup = Setup::with_environment(&[("AWS_LAMBDA_MAX_CONCURRENCY", "4")]).await;
    let faults = setup.app.faults();
    faults.fail(Operation::Put, 1..=1, Action::Hold);
    faults.fail(Operation::Put, 2..=2, Action::Hang);
    let upload = post("function_url", &form(&png(100_000)));
    let mut held = setup.function.begin(&upload, LONG);
    faults.wait_for(Operation::Put, 1).await;

    let cut_off = setup.function.begin(&upload, Duration::from_secs(3)).outcome().await;
    refused(&cut_off.response(), 503, "deadline");
    assert_eq!(faults.calls(Operation::Delete), 1, "the object must be deleted before the answer");
    let image = body(&setup.function.begin(&upload, LONG).outcome().await.response());
    let other = image["s3_key"].as_str().unwrap().to_owned();
    assert!(!held.is_answered());

    faults.release();
    let image = body(&held.outcome().await.response());
    let log = setup.end(&[&other, image["s3_key"].as_str().unwrap()]).await;
    assert!(!log.contains("could not be cleaned up"), "{log}");
}

#[tokio::test]
async fn sigterm_undoes_all_running_uploads() {
    let setup = Setup::with_environment(&[("AWS_LAMBDA_MAX_CONCURRENCY", "4")]).await;
    let faults = setup.app.faults();
    faults.fail_all(Operation::Put, Action::Hang);
    let upload = post("function_url", &form(&png(100_000)));
    let _unanswered = [0; 3].map(|_| setup.function.begin(&upload, LONG));
    faults.wait_for(Operation::Put, 3).await;
    let log = setup.end(&[]).await;
    assert!(log.contains("Graceful shutdown completed") && !log.contains("could not"), "{log}");
    assert_eq!(log.matches("cut off at shutdown").count(), 3, "{log}");
}

#[tokio::test]
async fn invalid_max_concurrency_is_a_configuration_error() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_image-store"))
        .envs([("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:1"), ("AWS_LAMBDA_MAX_CONCURRENCY", "many"), ("S3_BUCKET", "b")])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let problems = String::from_utf8(output.stderr).unwrap();
    assert!(problems.contains("AWS_LAMBDA_MAX_CONCURRENCY"), "{problems}");
}
