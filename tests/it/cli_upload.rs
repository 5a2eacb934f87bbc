//! `image-store upload`: the real binary against an in-process service.

mod addresses;
mod resumable;
mod terminal;

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::support::app::{TestApp, fixture, png};
use super::support::faults::{Action, Faults, Operation};

const PART: usize = 5 << 20;
/// Files above this size are planned in parts.
const SMALL_PUTS: &str = "--direct-put-max=1MiB";

/// A folder with files to upload.
struct Files(TempDir);

impl Files {
    fn new() -> Files {
        Files(TempDir::new().unwrap())
    }

    fn add(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// A PNG of `size` bytes.
    fn image(&self, size: usize) -> PathBuf {
        self.add("image.png", &png(size))
    }
}

fn client(app: &TestApp, flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_image-store"));
    command.arg("upload").args(flags).env("IMAGE_STORE_URL", &app.url).env_remove("IMAGE_STORE_API_KEY");
    command.kill_on_drop(true).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

async fn finished(child: Child) -> Output {
    let output = tokio::time::timeout(Duration::from_secs(60), child.wait_with_output()).await;
    output.expect("the client ends within 60 s").unwrap()
}

/// Runs the client. Returns its exit code, the lines it printed, and its stderr.
async fn run(app: &TestApp, flags: &[&str], files: &[&Path]) -> (i32, Vec<Value>, String) {
    read(finished(client(app, flags).args(files).spawn().unwrap()).await)
}

fn read(output: Output) -> (i32, Vec<Value>, String) {
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    let lines = out.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    (output.status.code().expect("an exit code"), lines, err)
}

/// Uploads one file, which must succeed. Returns the line that the client printed.
async fn stored(app: &TestApp, flags: &[&str], file: &Path) -> Value {
    let (code, lines, err) = run(app, flags, &[file]).await;
    assert_eq!((code, lines.len()), (0, 1), "{lines:?}: {err}");
    lines.into_iter().next().unwrap()
}

fn key(line: &Value) -> &str {
    line["s3_key"].as_str().unwrap_or_else(|| panic!("no s3_key in {line}"))
}

/// Asserts that the line's URL returns the file.
async fn check(app: &TestApp, line: &Value, file: &Path) {
    let got = app.client.get(line["url"].as_str().unwrap()).send().await.unwrap().bytes().await.unwrap();
    assert!(got == std::fs::read(file).unwrap(), "the stored bytes differ: {line}");
    assert_eq!(line["file"], file.to_str().unwrap());
    assert_eq!((&line["size"], &line["width"], &line["height"]), (&got.len().into(), &16.into(), &12.into()));
}

/// Stops a client after the first part arrived and while the second is being sent. Returns its `status_url` and stderr.
async fn stopped(app: &TestApp, file: &Path, signal: &str) -> (String, String) {
    let faults = app.faults.as_ref().unwrap();
    faults.fail(Operation::UploadPart, 2..=2, Action::Hang);
    let child = client(app, &["--direct", "--parallel=1"]).arg(file).spawn().unwrap();
    faults.wait_for(Operation::UploadPart, 2).await;
    let pid = child.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args([signal, &pid]).status().unwrap().success());
    let output = finished(child).await;
    faults.heal();
    let err = String::from_utf8(output.stderr).unwrap();
    if signal == "-KILL" {
        assert!(output.stdout.is_empty() && output.status.code().is_none());
    } else {
        let line: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((output.status.code(), &line["code"]), (Some(130), &"interrupted".into()), "{line}");
        assert!(err.contains(&format!("--resume '{}'", line["status_url"].as_str().unwrap())), "{err}");
    }
    let (_, rest) = err.split_once("image-store upload --resume '").expect("a line to resume with");
    (rest.split_once('\'').unwrap().0.to_owned(), err)
}

#[tokio::test]
async fn small_file_is_streamed() {
    let app = TestApp::behind_faults(&[]).await;
    let files = Files::new();
    let file = files.image(2 * PART + 1);
    let (code, lines, err) = run(&app, &[], &[&file]).await;
    assert_eq!((code, err.as_str()), (0, ""), "no progress bar where stderr is no terminal");
    check(&app, &lines[0], &file).await;
    let mut fields: Vec<_> = lines[0].as_object().unwrap().keys().map(String::as_str).collect();
    fields.sort_unstable();
    let answered = ["checksum", "content_type", "file", "height", "s3_key", "size", "url", "width"];
    assert_eq!(fields, answered);
    assert!(lines[0]["checksum"].is_string(), "streamed uploads have a checksum");
    app.end(&[key(&lines[0])]).await;
}

#[tokio::test]
async fn direct_put_sends_file_to_store() {
    let app = TestApp::behind_faults(&[]).await;
    let files = Files::new();
    // The file name does not show the format.
    let file = files.add("image", &png(100_000));
    let line = stored(&app, &["--direct"], &file).await;
    check(&app, &line, &file).await;
    let faults = app.faults.as_ref().unwrap();
    // The client's PUT, and the marker with which the service replaces it after the promotion.
    assert_eq!((faults.calls(Operation::Put), faults.calls(Operation::Copy)), (2, 1));
    let headers = &faults.headers(Operation::Put)[0];
    assert_eq!(
        (&headers["content-type"], &headers["content-length"]),
        (&"image/png".parse().unwrap(), &"100000".parse().unwrap())
    );
    app.end(&[key(&line)]).await;
}

#[tokio::test]
async fn large_direct_upload_is_sent_in_parts() {
    let app = TestApp::behind_faults(&[SMALL_PUTS]).await;
    let files = Files::new();
    let file = files.image(3 * PART + 1);
    let line = stored(&app, &["--direct"], &file).await;
    check(&app, &line, &file).await;
    assert_eq!(app.faults.as_ref().unwrap().calls(Operation::UploadPart), 4);
    app.end(&[key(&line)]).await;
}

#[tokio::test]
async fn api_key_is_never_sent_to_s3() {
    let app = TestApp::behind_faults(&[SMALL_PUTS]).await;
    let files = Files::new();
    let file = files.image(PART);
    let line = stored(&app, &["--direct", "--api-key=secret"], &file).await;
    for headers in app.faults.as_ref().unwrap().headers(Operation::UploadPart) {
        assert!(!headers.contains_key("authorization"), "{headers:?}");
    }
    app.end(&[key(&line)]).await;
}

#[tokio::test]
async fn failed_file_does_not_stop_the_others() {
    let app = TestApp::start().await;
    let files = Files::new();
    let good = [files.add("a.png", &fixture("plain.png")), files.add("b.jpg", &fixture("plain.jpg"))];
    let (text, missing) = (files.add("text.png", b"this is no image"), files.0.path().join("missing.png"));
    for method in ["--stream", "--direct"] {
        let (code, lines, err) = run(&app, &[method], &[&good[0], &text, &missing, &good[1]]).await;
        assert_eq!((code, lines.len()), (1, 4), "{lines:?}: {err}");
        assert!(lines[0]["s3_key"].is_string() && lines[3]["s3_key"].is_string(), "{lines:?}");
        assert_eq!((&lines[1]["code"], &lines[1]["file"]), (&"invalid_file_type".into(), &text.to_str().into()));
        assert_eq!(lines[2]["code"], "unreadable_file");
        for failed in &lines[1..3] {
            assert!(failed["error"].is_string() && failed["status_url"].is_null(), "{failed}");
        }
        for line in [&lines[0], &lines[3]] {
            app.client.delete(app.at(&format!("/delete/{}", key(line)))).send().await.unwrap();
        }
    }
    app.end(&[]).await;
}

#[tokio::test]
async fn resume_after_interrupt_sends_only_missing_parts() {
    for signal in ["-INT", "-TERM", "-KILL"] {
        let app = TestApp::behind_faults(&[SMALL_PUTS]).await;
        let files = Files::new();
        let file = files.image(3 * PART + 1);
        let (status_url, _) = stopped(&app, &file, signal).await;
        let before = app.faults.as_ref().unwrap().calls(Operation::UploadPart);
        let line = stored(&app, &["--resume", &status_url], &file).await;
        check(&app, &line, &file).await;
        let sent = app.faults.as_ref().unwrap().calls(Operation::UploadPart) - before;
        assert_eq!(sent, 3, "the first part is not sent again");
        // A second resume changes nothing.
        assert_eq!(stored(&app, &["--resume", &status_url], &file).await["s3_key"], line["s3_key"]);
        assert_eq!(app.faults.as_ref().unwrap().calls(Operation::UploadPart), before + sent);
        app.end(&[key(&line)]).await;
    }
}

#[tokio::test]
async fn resume_rejects_file_of_other_size() {
    let app = TestApp::behind_faults(&[SMALL_PUTS]).await;
    let files = Files::new();
    let (status_url, _) = stopped(&app, &files.image(2 * PART), "-INT").await;
    let other = files.add("other.png", &png(2 * PART + 1));
    let (code, lines, _) = run(&app, &["--resume", &status_url], &[&other]).await;
    assert_eq!((code, &lines[0]["code"]), (1, &"other_file".into()));
    assert_eq!(app.client.delete(&status_url).send().await.unwrap().status(), 204);
    let (code, lines, _) = run(&app, &["--resume", &status_url], &[&other]).await;
    assert_eq!((code, &lines[0]["code"]), (1, &"not_found".into()));
    app.end(&[]).await;
}

#[tokio::test]
async fn resume_rejects_changed_file() {
    let app = TestApp::behind_faults(&[SMALL_PUTS]).await;
    let files = Files::new();
    let file = files.image(2 * PART);
    let original = std::fs::read(&file).unwrap();
    let (status_url, _) = stopped(&app, &file, "-INT").await;
    let sent = app.faults().calls(Operation::UploadPart);
    let mut changed = original.clone();
    changed[PART - 1] ^= 1;
    std::fs::write(&file, &changed).unwrap();
    let (code, lines, err) = run(&app, &["--resume", &status_url], &[&file]).await;
    assert_eq!((code, &lines[0]["code"]), (1, &"other_file".into()), "{lines:?}: {err}");
    assert!(lines[0]["error"].as_str().unwrap().contains("part 1"), "{lines:?}");
    assert_eq!(app.faults().calls(Operation::UploadPart), sent, "no part of the changed file may be sent");

    // A part that has not arrived may have changed, and the unchanged file resumes.
    std::fs::write(&file, &original).unwrap();
    let line = stored(&app, &["--resume", &status_url], &file).await;
    check(&app, &line, &file).await;
    // A complete image has no parts to compare, but a changed file is still rejected.
    std::fs::write(&file, &changed).unwrap();
    let (code, lines, _) = run(&app, &["--resume", &status_url], &[&file]).await;
    assert_eq!((code, &lines[0]["code"]), (1, &"other_file".into()), "{lines:?}");
    app.end(&[key(&line)]).await;
}

#[tokio::test]
async fn resume_of_put_rejects_changed_file() {
    let app = TestApp::start().await;
    let files = Files::new();
    let file = files.image(1_000);
    let request = serde_json::json!({ "filename": "image.png", "size": 1_000 });
    let plan: Value = app.client.post(app.at("/uploads")).json(&request).send().await.unwrap().json().await.unwrap();
    let put = app.client.put(plan["url"].as_str().unwrap());
    let put = put.header("content-type", "image/png").header("if-none-match", "*").body(std::fs::read(&file).unwrap());
    assert!(put.send().await.unwrap().status().is_success());
    let mut changed = png(1_000);
    changed[999] ^= 1;
    let other = files.add("other.png", &changed);
    let status_url = app.at(plan["status_url"].as_str().unwrap());
    let (code, lines, _) = run(&app, &["--resume", &status_url], &[&other]).await;
    assert_eq!((code, &lines[0]["code"]), (1, &"other_file".into()), "{lines:?}");
    assert_eq!(stored(&app, &["--resume", &status_url], &file).await["s3_key"], plan["s3_key"]);
    app.end(&[plan["s3_key"].as_str().unwrap()]).await;
}

#[tokio::test]
async fn failed_upload_can_be_resumed() {
    let app = TestApp::behind_faults(&[SMALL_PUTS]).await;
    let faults = app.faults.as_ref().unwrap();
    faults.fail(Operation::UploadPart, 2..=3, Action::Status(500));
    let files = Files::new();
    let file = files.image(2 * PART);
    let (code, lines, err) = run(&app, &["--direct", "--parallel=1", "--retries=1"], &[&file]).await;
    assert_eq!((code, &lines[0]["code"]), (1, &"InternalError".into()), "{lines:?}");
    let status_url = lines[0]["status_url"].as_str().unwrap();
    assert!(err.contains(status_url), "{err}");
    let line = stored(&app, &["--resume", status_url], &file).await;
    check(&app, &line, &file).await;
    assert_eq!(faults.calls(Operation::UploadPart), 4);
    app.end(&[key(&line)]).await;
}

#[tokio::test]
async fn part_with_expired_url_gets_a_new_url() {
    let app = TestApp::behind_faults(&[SMALL_PUTS, "--upload-url-ttl=1s"]).await;
    let faults = app.faults.as_ref().unwrap();
    faults.fail(Operation::UploadPart, 2..=2, Action::Delay(Duration::from_millis(2_500)));
    let files = Files::new();
    let file = files.image(2 * PART + 1);
    let (code, lines, err) = run(&app, &["--direct", "--parallel=1"], &[&file]).await;
    assert_eq!(code, 0, "{lines:?}: {err}");
    assert!(err.contains("requesting new URLs"), "{err}");
    check(&app, &lines[0], &file).await;
    app.end(&[key(&lines[0])]).await;
}

#[tokio::test]
async fn put_with_expired_url_gets_a_new_plan() {
    let app = TestApp::behind_faults(&["--upload-url-ttl=1s"]).await;
    app.faults.as_ref().unwrap().fail(Operation::Put, 1..=1, Action::Delay(Duration::from_millis(2_500)));
    let files = Files::new();
    let file = files.image(1_000);
    let line = stored(&app, &["--direct"], &file).await;
    check(&app, &line, &file).await;
    // Two PUTs of the client, and the marker with which the service replaces the second.
    assert_eq!(app.faults.as_ref().unwrap().calls(Operation::Put), 3);
    app.end(&[key(&line)]).await;
}

#[tokio::test]
async fn parts_are_retried_after_transient_errors() {
    let app = TestApp::behind_faults(&[SMALL_PUTS]).await;
    let faults = app.faults.as_ref().unwrap();
    faults.fail(Operation::UploadPart, 1..=1, Action::Status(503));
    faults.fail(Operation::UploadPart, 2..=2, Action::Break);
    faults.fail(Operation::UploadPart, 3..=3, Action::LoseAnswer);
    let files = Files::new();
    let file = files.image(2 * PART);
    let line = stored(&app, &["--direct"], &file).await;
    check(&app, &line, &file).await;
    assert_eq!(faults.calls(Operation::UploadPart), 5);
    app.end(&[key(&line)]).await;
}

#[tokio::test]
async fn put_with_lost_response_is_stored_once() {
    let app = TestApp::behind_faults(&[]).await;
    app.faults.as_ref().unwrap().fail(Operation::Put, 1..=1, Action::LoseAnswer);
    let files = Files::new();
    let file = files.image(1_000);
    let line = stored(&app, &["--direct"], &file).await;
    check(&app, &line, &file).await;
    app.end(&[key(&line)]).await;
}

#[tokio::test]
async fn stalled_part_is_sent_again() {
    let app = TestApp::behind_faults(&[SMALL_PUTS]).await;
    // The proxy reads nothing: the connection fills up, and then no more bytes move.
    app.faults.as_ref().unwrap().fail(Operation::UploadPart, 1..=1, Action::Hang);
    let files = Files::new();
    let file = files.image(4 * PART);
    let line = stored(&app, &["--direct", "--stall-timeout=1s"], &file).await;
    check(&app, &line, &file).await;
    app.end(&[key(&line)]).await;
}

#[tokio::test]
async fn streamed_upload_is_retried_after_500() {
    let app = TestApp::behind_faults(&[]).await;
    let faults = app.faults.as_ref().unwrap();
    // The service itself does not retry after this status.
    faults.fail(Operation::Put, 1..=1, Action::Status(403));
    let files = Files::new();
    let file = files.image(1_000);
    let (code, lines, err) = run(&app, &["--stream"], &[&file]).await;
    assert_eq!(code, 0, "{lines:?}: {err}");
    assert!(err.contains("500"), "{err}");
    check(&app, &lines[0], &file).await;
    assert_eq!(faults.calls(Operation::Put), 2);
    app.end(&[key(&lines[0])]).await;
}

#[tokio::test]
async fn streamed_upload_whose_response_was_lost_is_retried_and_stored_once() {
    let app = TestApp::start().await;
    let between = Faults::before(&app.url).await;
    let url = format!("--url={}", between.endpoint);
    let files = Files::new();
    let file = files.image(4 * PART);
    // `Operation` names S3 calls. This is the only POST.
    between.fail(Operation::Other, 1..=1, Action::Break);
    let line = stored(&app, &[&url], &file).await;
    assert_eq!(between.calls(Operation::Other), 2, "a form whose connection broke half-way is sent again");

    between.fail(Operation::Other, 3..=4, Action::LoseAnswer);
    let other = stored(&app, &[&url], &file).await;
    assert_eq!(between.calls(Operation::Other), 5, "and so is one that was stored");
    check(&app, &other, &file).await;
    let sent = between.headers(Operation::Other);
    let values: Vec<_> = sent.iter().map(|headers| &headers["idempotency-key"]).collect();
    assert!(values[0] == values[1] && values[2..].iter().all(|value| *value == values[2]), "{values:?}");
    assert_ne!(values[0], values[2], "every run is an upload of its own");
    app.end(&[key(&line), key(&other)]).await;
}

#[tokio::test]
async fn complete_is_retried_after_202() {
    let app = TestApp::behind_faults(&["--complete-wait=200ms"]).await;
    app.faults.as_ref().unwrap().fail(Operation::Copy, 1..=1, Action::Delay(Duration::from_millis(500)));
    let files = Files::new();
    let file = files.image(1_000);
    let begun = Instant::now();
    let line = stored(&app, &["--direct"], &file).await;
    assert!(begun.elapsed() >= Duration::from_secs(2), "the client waits for the Retry-After of the 202");
    check(&app, &line, &file).await;
    assert_eq!(app.faults.as_ref().unwrap().calls(Operation::Copy), 1);
    app.end(&[key(&line)]).await;
}

#[tokio::test]
async fn unreachable_service_is_reported() {
    let files = Files::new();
    let app = TestApp::start().await;
    let file = files.image(1_000);
    let nowhere = ["--url=http://127.0.0.1:9", "--retries=1"];
    let (code, lines, err) = run(&app, &nowhere, &[&file]).await;
    assert_eq!((code, lines.len()), (1, 1));
    assert!(lines[0]["error"].as_str().unwrap().contains("refused") && err.contains("retrying in"), "{lines:?}: {err}");
    app.end(&[]).await;
}

#[tokio::test]
async fn client_ignores_server_settings_and_rejects_wrong_usage() {
    let app = TestApp::start().await;
    let files = Files::new();
    let mut command = client(&app, &[]);
    let command = command.arg(files.image(1_000)).env("PART_SIZE", "nonsense").env("LOG_FORMAT", "xml");
    let (code, lines, err) = read(finished(command.spawn().unwrap()).await);
    assert_eq!(code, 0, "{lines:?}: {err}");
    for wrong in [
        &["--url=nowhere"][..],
        &["--stream", "--direct"],
        &["--resume=x", "--stream"],
        &["--resumable", "--direct"],
        &["--parallel=0"],
    ] {
        let (code, ..) = run(&app, wrong, &[Path::new("a.png")]).await;
        assert_eq!(code, 2, "{wrong:?}");
    }
    for wrong in [&["--resume=x"][..], &["--api-key=a\nb"], &["--url=http://h/?a=b"]] {
        let (code, lines, err) = run(&app, wrong, &[Path::new("a.png"), Path::new("b.png")]).await;
        assert_eq!((code, lines.len()), (2, 0), "{wrong:?}: {err}");
    }
    app.end(&[key(&lines[0])]).await;
}
