//! Settings that the process reads from its environment like every AWS SDK: the endpoint, and credentials that expire.

use std::process::Command;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

use super::process::{Process, binary};
use super::support::app::{TestApp, fixture};
use super::support::faults::{Action, Operation};

/// Starts the service on the store of `app`, configured by `variables` and the profile `config`.
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
async fn auto_checksum_is_off_for_every_kind_of_endpoint_setting() {
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
async fn links_expire_with_the_credentials() {
    let app = TestApp::behind_faults(&[]).await;
    let (access_key, secret_key) = app.credentials();
    let folder = TempDir::new().unwrap();
    // A whole second, well before the end of READ_URL_TTL.
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
    // The SDK signs the first link. The second is signed with the template taken from it.
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
async fn failed_bucket_probe_warns_once_and_delays_nothing() {
    let app = TestApp::behind_faults(&[]).await;
    let mut keys = Vec::new();
    // If the bucket answers, the probe also puts and deletes an object.
    for (action, warnings, lists, tries) in
        [(Action::Status(403), 1, 1, 0), (Action::SetHeader("x-other", "1"), 0, 0, 1), (Action::Hang, 0, 0, 0)]
    {
        app.faults().heal();
        app.faults().fail_all(Operation::HeadBucket, action);
        let denied = Action::Answer(403, "<Error><Code>AccessDenied</Code></Error>");
        app.faults().fail_all(Operation::ListObjects, denied);
        let (probed, listed) = (app.faults().calls(Operation::HeadBucket), app.faults().calls(Operation::ListObjects));
        let (written, deleted) = (app.faults().calls(Operation::Put), app.faults().calls(Operation::Delete));
        let process = Process::on_store_of(&app, &["--log-format=json"]);
        app.faults().wait_for(Operation::HeadBucket, probed + 1).await;
        app.faults().wait_for(Operation::ListObjects, listed + lists).await;
        app.faults().wait_for(Operation::Delete, deleted + tries).await;
        keys.push(upload(&process).await["s3_key"].as_str().unwrap().to_owned());
        process.terminate();
        let (status, log) = process.end().await;
        assert!(status.success(), "{log}");
        assert_eq!(log.matches("run `image-store doctor`").count(), warnings, "{action:?}: {log}");
        assert_eq!(
            app.faults().calls(Operation::Put),
            written + 1 + tries,
            "one PUT of the upload, and those of the probe"
        );
    }
    app.end(&keys.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

/// If the clocks differ, the SDK signs its own calls by the store's clock but presigned URLs by this machine's clock.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_clock_is_a_warning() {
    let app = TestApp::behind_faults(&[]).await;
    let long_ago = httpdate::fmt_http_date(SystemTime::now() - Duration::from_secs(3600));
    app.faults().fail_all(Operation::HeadBucket, Action::SetHeader("date", long_ago.leak()));
    let process = Process::on_store_of(&app, &[]);
    app.faults().wait_for(Operation::HeadBucket, 1).await;
    let health = format!("http://{}/readyz", process.address);
    // The status does not matter, because the embedded store's clock is right. The answer arrives well after the
    // probe's.
    reqwest::get(health).await.unwrap();
    process.terminate();
    let (_, log) = process.end().await;
    assert!(log.contains("this machine's clock is wrong: run `image-store doctor`"), "{log}");
    app.end(&[]).await;
}

#[test]
fn store_settings_without_bucket_are_reported_together() {
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
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
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
        assert!(stderr.contains(setting), "{setting} in {stderr}");
    }
    assert!(!stderr.contains("hunter2"), "{stderr}");
}

#[test]
fn empty_s3_bucket_is_a_configuration_error() {
    let output = binary().env("S3_BUCKET", "").output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("S3_BUCKET: is empty"), "{stderr}");
}

#[test]
fn unwritable_spill_dir_is_a_configuration_error() {
    let data = TempDir::new().unwrap();
    let output = binary().env("DATA_DIR", data.path()).env("SPILL_DIR", "/proc").output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("invalid configuration:\n  SPILL_DIR: /proc cannot be written"), "{stderr}");
}

/// This is the SDK's own variable: the configured endpoint must be ignored, without an error.
#[tokio::test]
async fn ignored_endpoint_setting_is_ignored() {
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
