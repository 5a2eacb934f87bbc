//! What the process takes from its environment as every AWS SDK does: the endpoint, and credentials that end.

use std::process::Command;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

use super::process::{Process, binary};
use super::support::app::{TestApp, fixture};
use super::support::faults::{Action, Operation};

/// The service on the store of `app`, which it finds through `variables` and the profile `config`.
fn on_store_of(app: &TestApp, folder: &TempDir, config: &str, variables: &[(&str, &str)]) -> Process {
    let file = folder.path().join("config");
    std::fs::write(&file, config).unwrap();
    let mut command: Command = binary();
    command
        .args(["--s3-force-path-style=true", "--s3-bucket", &app.bucket])
        .env("AWS_CONFIG_FILE", file)
        .env("AWS_SHARED_CREDENTIALS_FILE", folder.path().join("none"))
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .envs(variables.iter().copied());
    Process::spawn(command, 1)
}

async fn upload(process: &Process) -> serde_json::Value {
    let part = reqwest::multipart::Part::bytes(fixture("plain.png")).file_name("a.png");
    let form = reqwest::multipart::Form::new().part("file", part);
    let url = format!("http://{}/upload-image", process.address);
    reqwest::Client::new().post(url).multipart(form).send().await.unwrap().json().await.unwrap()
}

#[tokio::test]
async fn no_checksum_is_sent_to_an_endpoint_wherever_it_is_configured() {
    let app = TestApp::behind_faults(&[]).await;
    let (access_key, secret_key) = app.credentials();
    let endpoint = app.faults().endpoint.clone();
    let profile = format!("[default]\nendpoint_url = {endpoint}\n");
    let services = format!("[default]\nservices = here\n[services here]\ns3 =\n  endpoint_url = {endpoint}\n");
    let mut keys = Vec::new();
    for (config, variable, checksum, sent) in [
        ("", "AWS_ENDPOINT_URL_S3", "auto", false),
        ("", "AWS_ENDPOINT_URL", "auto", false),
        (profile.as_str(), "OTHER", "auto", false),
        (services.as_str(), "OTHER", "auto", false),
        ("", "AWS_ENDPOINT_URL", "crc64nvme", true),
    ] {
        let folder = TempDir::new().unwrap();
        let variables = [
            (variable, endpoint.as_str()),
            ("S3_CHECKSUM", checksum),
            ("AWS_ACCESS_KEY_ID", access_key.as_str()),
            ("AWS_SECRET_ACCESS_KEY", secret_key.as_str()),
        ];
        let process = on_store_of(&app, &folder, config, &variables);
        let image = upload(&process).await;
        let puts = app.faults().headers(Operation::Put);
        let put = puts.last().expect("a PUT at this endpoint");
        assert_eq!(put.contains_key("x-amz-checksum-crc64nvme"), sent, "{config} {variable}");
        keys.push(image["s3_key"].as_str().expect("an image").to_owned());
        process.terminate();
        assert!(process.end().await.0.success());
    }
    app.end(&keys.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn links_end_with_the_credentials_that_sign_them() {
    let app = TestApp::behind_faults(&[]).await;
    let (access_key, secret_key) = app.credentials();
    let folder = TempDir::new().unwrap();
    // A whole second, well before READ_URL_TTL.
    let end = SystemTime::UNIX_EPOCH + SystemTime::UNIX_EPOCH.elapsed().unwrap() + Duration::from_secs(600);
    let end = humantime::format_rfc3339_seconds(end).to_string();
    let json = serde_json::json!({
        "Version": 1, "AccessKeyId": access_key, "SecretAccessKey": secret_key, "Expiration": end,
    });
    let file = folder.path().join("credentials.json");
    std::fs::write(&file, json.to_string()).unwrap();
    let config = format!("[default]\ncredential_process = cat {}\n", file.display());
    let process = on_store_of(&app, &folder, &config, &[("AWS_ENDPOINT_URL_S3", app.faults().endpoint.as_str())]);
    let key = upload(&process).await["s3_key"].as_str().unwrap().to_owned();
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    // The first link is the SDK's, the second is signed after its pattern.
    for _ in 0..2 {
        let url = format!("http://{}/images/{key}", process.address);
        let link: serde_json::Value = client.get(format!("{url}/url")).send().await.unwrap().json().await.unwrap();
        assert_eq!(link["expires_at"], end, "{link}");
        let redirect = client.get(url).send().await.unwrap();
        let cached = redirect.headers()["cache-control"].to_str().unwrap();
        let seconds: u64 = cached.strip_prefix("private, max-age=").unwrap().parse().unwrap();
        assert!((1..=300).contains(&seconds), "{cached}");
    }
    process.terminate();
    assert!(process.end().await.0.success());
    app.end(&[&key]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_rejects_its_probe_is_one_warning_and_delays_nothing() {
    let app = TestApp::behind_faults(&[]).await;
    let mut keys = Vec::new();
    // What answers is also tried: with an object that is put and deleted.
    for (action, warnings, lists, tries) in
        [(Action::Status(403), 1, 1, 0), (Action::SetHeader("x-other", "1"), 0, 0, 1), (Action::Hang, 0, 0, 0)]
    {
        app.faults().heal();
        app.faults().fail_all(Operation::HeadBucket, action);
        let denied = Action::Answer(403, "<Error><Code>AccessDenied</Code></Error>");
        app.faults().fail_all(Operation::ListObjects, denied);
        let (asked, listed) = (app.faults().calls(Operation::HeadBucket), app.faults().calls(Operation::ListObjects));
        let (written, deleted) = (app.faults().calls(Operation::Put), app.faults().calls(Operation::Delete));
        let process = Process::on_store_of(&app, &["--log-format=json"]);
        app.faults().wait_for(Operation::HeadBucket, asked + 1).await;
        app.faults().wait_for(Operation::ListObjects, listed + lists).await;
        app.faults().wait_for(Operation::Delete, deleted + tries).await;
        keys.push(upload(&process).await["s3_key"].as_str().unwrap().to_owned());
        process.terminate();
        let (status, log) = process.end().await;
        assert!(status.success(), "{log}");
        assert_eq!(log.matches("run `image-store doctor`").count(), warnings, "{action:?}: {log}");
        assert_eq!(app.faults().calls(Operation::Put), written + 1 + tries, "the upload's, and the trial's");
    }
    app.end(&keys.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

/// The SDK signs its own calls by the store's clock then, and presigned URLs by this machine's.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_wrong_is_a_warning() {
    let app = TestApp::behind_faults(&[]).await;
    let long_ago = httpdate::fmt_http_date(SystemTime::now() - Duration::from_secs(3600));
    app.faults().fail_all(Operation::HeadBucket, Action::SetHeader("date", long_ago.leak()));
    let process = Process::on_store_of(&app, &[]);
    app.faults().wait_for(Operation::HeadBucket, 1).await;
    let health = format!("http://{}/readyz", process.address);
    // Its status is of no interest: the embedded store's clock is right. It comes well after the probe's answer.
    reqwest::get(health).await.unwrap();
    process.terminate();
    let (_, log) = process.end().await;
    assert!(log.contains("this machine's clock is wrong: run `image-store doctor`"), "{log}");
    app.end(&[]).await;
}

#[test]
fn settings_that_are_lost_without_a_bucket_are_reported_together() {
    let output = binary()
        .env("AWS_ENDPOINT_URL_S3", "http://user:hunter2@127.0.0.1:9000")
        .env("S3_PUBLIC_ENDPOINT_URL", "https://s3.example")
        .env("S3_FORCE_PATH_STYLE", "true")
        .env("S3_CHECKSUM", "none")
        .env("S3_SSE", "AES256")
        .env("API_KEYS", "")
        .env("COMPLETE_WAIT", "0")
        .env("RUST_LOG", "image_store=loud")
        .env("CORS_ALLOW_ORIGIN", "https://Page.example/")
        .output()
        .unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{told}");
    for setting in [
        "AWS_ENDPOINT_URL_S3: ",
        "S3_PUBLIC_ENDPOINT_URL: requires S3_BUCKET",
        "S3_FORCE_PATH_STYLE: requires S3_BUCKET",
        "S3_CHECKSUM: requires S3_BUCKET",
        "S3_SSE: requires S3_BUCKET",
        "API_KEYS: ",
        "COMPLETE_WAIT: ",
        "RUST_LOG: 'image_store=loud' ",
        "CORS_ALLOW_ORIGIN: 'https://Page.example/' never matches; browsers send 'https://page.example'",
    ] {
        assert!(told.contains(setting), "{setting} in {told}");
    }
    assert!(!told.contains("hunter2"), "{told}");
}

#[test]
fn an_empty_bucket_is_no_embedded_store() {
    let output = binary().env("S3_BUCKET", "").output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains("S3_BUCKET: is empty"), "{told}");
}

#[test]
fn a_folder_that_takes_no_spilled_parts_is_a_configuration_error() {
    let data = TempDir::new().unwrap();
    let output = binary().env("DATA_DIR", data.path()).env("SPILL_DIR", "/proc").output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains("invalid configuration:\n  SPILL_DIR: /proc cannot be written"), "{told}");
}

/// The SDK's own variable for "this environment is not mine": the endpoint in it is no setting, and nothing to complain of.
#[tokio::test]
async fn an_endpoint_that_is_to_be_ignored_is() {
    let data = TempDir::new().unwrap();
    let mut command = binary();
    command
        .env("DATA_DIR", data.path())
        .env("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
        .env("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true");
    let process = Process::spawn(command, 2);
    assert!(upload(&process).await["s3_key"].is_string());
    process.terminate();
    assert!(process.end().await.0.success());
}
