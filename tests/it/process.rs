//! The binary: how it starts, rejects a wrong configuration, and stops.

use base64::Engine;
use sha2::Digest;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

use super::support::app::{TestApp, fixture, png};
use super::support::faults::{Action, Operation};
use super::support::raw::{RawClient, form, head};

const MIB: usize = 1 << 20;

pub struct Process {
    child: Child,
    pub address: String,
    lines: Vec<String>,
}

pub fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_image-store"));
    command.env_remove("S3_BUCKET").env("PORT", "0");
    command
}

impl Process {
    pub fn start(data: &Path, flags: &[&str]) -> Self {
        let mut command = binary();
        command.args(flags).env("DATA_DIR", data);
        Process::spawn(command, if flags.contains(&"--log-format=json") { 1 } else { 2 })
    }

    /// Starts a process on the store of `app`, behind its faults.
    pub fn on_store_of(app: &TestApp, flags: &[&str]) -> Self {
        let (access_key, secret_key) = app.credentials();
        let mut command = binary();
        command
            .args(["--s3-force-path-style=true", "--s3-bucket", &app.bucket])
            .args(flags)
            .env("AWS_ENDPOINT_URL_S3", &app.faults().endpoint)
            .env("AWS_ACCESS_KEY_ID", access_key)
            .env("AWS_SECRET_ACCESS_KEY", secret_key);
        Process::spawn(command, 1)
    }

    /// Starts a process like [`Process::start`], with at most `descriptors` open files.
    pub fn start_limited(data: &Path, flags: &[&str], descriptors: u64) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -n {descriptors} && exec \"$0\" \"$@\"")]);
        command.arg(env!("CARGO_BIN_EXE_image-store")).args(flags);
        command.env_remove("S3_BUCKET").env("PORT", "0").env("DATA_DIR", data);
        Process::spawn(command, 2)
    }

    /// Starts `command` and waits until it has printed `greeting` lines.
    pub fn spawn(mut command: Command, greeting: usize) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = Vec::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        while lines.len() < greeting {
            let mut line = String::new();
            assert!(stdout.read_line(&mut line).unwrap() > 0, "the process ended early: {lines:?}");
            lines.push(line);
        }
        let (_, rest) = lines[0].split_once("image-store listens on http://").expect("the start-up line");
        let address = rest.split(',').next().unwrap().to_owned();
        Process { child, address, lines }
    }

    pub fn terminate(&self) {
        let status = Command::new("kill").arg("-TERM").arg(self.child.id().to_string()).status().unwrap();
        assert!(status.success());
    }

    /// Kills the process (SIGKILL).
    pub fn kill(&self) {
        let status = Command::new("kill").arg("-KILL").arg(self.child.id().to_string()).status().unwrap();
        assert!(status.success());
    }

    /// Waits for the process to end. Returns its exit status and its log.
    pub async fn end(mut self) -> (ExitStatus, String) {
        let deadline = Instant::now() + Duration::from_secs(20);
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "the process does not end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        (status, log)
    }
}

/// Returns the number of files of unfinished uploads and of files that are being written.
fn unfinished(data: &Path) -> usize {
    walk(&data.join("uploads")).len() + walk(&data.join("tmp")).len()
}

fn walk(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut names = Vec::new();
    for entry in entries.map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            names.extend(walk(&entry.path()));
        } else {
            names.push(entry.path().strip_prefix(folder).unwrap().display().to_string());
        }
    }
    names
}

async fn until_parts_are_stored(data: &Path) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while walk(&data.join("uploads")).iter().all(|name| name == "upload") {
        assert!(Instant::now() < deadline, "no part arrives in the store");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn sigterm_lets_requests_in_flight_finish() {
    let data = TempDir::new().unwrap();
    let process = Process::start(data.path(), &[]);
    let body = form("a.png", &png(12 * MIB));
    let mut client = RawClient::connect(&process.address).await;
    client.send(head(body.len(), "")).await;
    client.send(&body[..11 * MIB]).await;
    until_parts_are_stored(data.path()).await;
    process.terminate();
    // New connections are rejected once the service has stopped accepting. Requests in flight continue.
    let deadline = Instant::now() + Duration::from_secs(5);
    while tokio::net::TcpStream::connect(&process.address).await.is_ok() {
        assert!(Instant::now() < deadline, "the service still accepts connections");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    client.send(&body[11 * MIB..]).await;
    let answer = client.read_to_end().await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let (status, log) = process.end().await;
    assert!(status.success(), "{status}: {log}");
    assert_eq!(unfinished(data.path()), 0, "{:?}", walk(data.path()));
}

#[tokio::test]
async fn requests_are_aborted_after_shutdown_timeout() {
    let data = TempDir::new().unwrap();
    let process = Process::start(data.path(), &["--shutdown-timeout=300ms"]);
    let body = form("a.png", &png(12 * MIB));
    let mut client = RawClient::connect(&process.address).await;
    client.send(head(body.len(), "")).await;
    client.send(&body[..11 * MIB]).await;
    until_parts_are_stored(data.path()).await;
    process.terminate();
    let (status, log) = process.end().await;
    assert!(status.success(), "{status}: {log}");
    assert!(log.contains("aborting requests in flight") && log.contains("cut off at shutdown"), "{log}");
    assert!(!log.contains("client disconnected"), "{log}");
    assert_eq!(unfinished(data.path()), 0, "{:?}", walk(data.path()));
}

/// Posts a fixture as the field `file`.
async fn post_form(process: &Process, file: &Path, headers: &[(&str, &str)]) -> serde_json::Value {
    let part = reqwest::multipart::Part::bytes(std::fs::read(file).unwrap()).file_name("photo.jpg");
    let post = reqwest::Client::new().post(format!("http://{}/upload-image", process.address));
    let post = headers.iter().fold(post, |post, (name, value)| post.header(*name, *value));
    let answer = post.multipart(reqwest::multipart::Form::new().part("file", part)).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.json().await.unwrap()
}

#[tokio::test]
async fn printed_curl_line_works() {
    let data = TempDir::new().unwrap();
    let process = Process::start(data.path(), &[]);
    let line = process.lines[1].strip_prefix("try it:  curl -F file=@").expect("a curl line");
    let (file, url) = line.trim().split_once(' ').unwrap();
    assert_eq!(url, format!("http://{}/upload-image", process.address));
    let answer = post_form(&process, &Path::new(env!("CARGO_MANIFEST_DIR")).join(file), &[]).await;
    assert_eq!(reqwest::get(answer["url"].as_str().unwrap()).await.unwrap().status(), 200);
    process.terminate();
    assert!(process.end().await.0.success());
}

#[tokio::test]
async fn json_log_has_one_flat_line_per_request_from_the_first_line_on() {
    let data = TempDir::new().unwrap();
    let process = Process::start(data.path(), &["--log-format=json"]);
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let traceparent = format!("00-{trace}-00f067aa0ba902b7-01");
    let agent = format!("test/1 {}", "x".repeat(300));
    let headers = [("x-request-id", "one-upload"), ("traceparent", &traceparent), ("user-agent", &agent)];
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/plain.jpg");
    let answer = post_form(&process, &file, &headers).await;
    assert_eq!(reqwest::get(answer["url"].as_str().unwrap()).await.unwrap().status(), 200);
    let greeting: serde_json::Value = serde_json::from_str(&process.lines[0]).unwrap();
    assert_eq!(greeting["level"], "INFO");
    process.terminate();
    let (status, log) = process.end().await;
    assert!(status.success());
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &lines {
        assert!(line.as_object().unwrap().values().all(|value| !value.is_object() && !value.is_array()), "{line}");
    }
    let entries: Vec<_> = lines.iter().filter(|line| line["request_id"] == "one-upload").collect();
    assert_eq!(entries.len(), 1, "{log}");
    let entry = entries[0];
    let expected = serde_json::json!({
        "level": "INFO", "message": "request completed", "status": 200, "method": "POST", "route": "/upload-image",
        "client": "127.0.0.1", "user_agent": agent[..256], "trace_id": trace, "s3_key": answer["s3_key"], "size": 670,
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&entry[name], value, "{name} in {entry}");
    }
    // The file, and the form around it.
    assert!((670..2_000).contains(&entry["bytes_received"].as_u64().unwrap()), "{entry}");
    assert!(entry["ms"].is_u64() && entry["timestamp"].is_string(), "{entry}");
    assert!(!log.contains("X-Amz"), "no presigned URL in the log");
}

#[test]
fn start_up_errors_are_lines_of_a_json_log() {
    let used = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (data, port) = (TempDir::new().unwrap(), used.local_addr().unwrap().port().to_string());
    for (flags, code, messages) in [
        (
            ["--part-size=1", "--port=http"],
            2,
            &["invalid configuration: PORT: ", "invalid configuration: PART_SIZE: "][..],
        ),
        (["--spill-dir=/proc", "--port=0"], 2, &["invalid configuration: SPILL_DIR: "]),
        (["--port", port.as_str()], 1, &["cannot listen on 127.0.0.1:"]),
    ] {
        let output = binary().env("LOG_FORMAT", "json").env("DATA_DIR", data.path()).args(flags).output().unwrap();
        assert_eq!(output.status.code(), Some(code));
        let stderr = String::from_utf8(output.stderr).unwrap();
        let lines: Vec<serde_json::Value> = stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let errors = lines.iter().filter(|line| line["level"] == "ERROR");
        let errors: Vec<&str> = errors.map(|line| line["message"].as_str().unwrap()).collect();
        assert_eq!(errors.len(), messages.len(), "{stderr}");
        for message in messages {
            assert!(errors.iter().any(|error| error.starts_with(message)), "{message} in {stderr}");
        }
    }
}

#[tokio::test]
async fn log_has_client_address_from_trusted_proxy() {
    for (proxies, logged) in [("127.0.0.0/8", "192.0.2.7"), ("10.0.0.0/8", "127.0.0.1")] {
        let data = TempDir::new().unwrap();
        let process = Process::start(data.path(), &["--log-format=json", "--trusted-proxies", proxies]);
        let get = reqwest::Client::new().get(format!("http://{}/limits", process.address));
        let get = get.header("x-forwarded-for", "198.51.100.1, 192.0.2.7").header("connection", "close");
        assert_eq!(get.send().await.unwrap().status(), 200);
        process.terminate();
        let (_, log) = process.end().await;
        let lines = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let clients: Vec<_> = lines.filter(|line| line["status"] == 200).map(|line| line["client"].clone()).collect();
        assert_eq!(clients, [logged], "{log}");
    }
}

#[tokio::test]
async fn strangers_add_no_lines_to_the_log_and_tokens_are_not_in_it() {
    const LINE: &str = "2026-01-01T00:00:00Z  INFO a line of a stranger";
    const UNKNOWN: &str = "a claim\nof two lines";
    let header = |json: String| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(json);
    let secret = jsonwebtoken::EncodingKey::from_secret(&sha2::Sha256::digest("a-key-of-the-operator"));
    let signed = |claims| jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &secret).unwrap();
    let key = "0c6f1c1e-5d0b-4f6e-9d3a-1f2e3d4c5b6a.png";
    let query = format!("%0A{}=1&token%3Dsecret", LINE.replace(' ', "%20"));
    let data = TempDir::new().unwrap();
    let process = Process::start(data.path(), &["--api-keys=a-key-of-the-operator"]);
    let client = reqwest::Client::new();
    let at = |path: &str| client.get(format!("http://{}{path}", process.address)).header("connection", "close");
    for (request, rejected) in [
        (at(&format!("/uploads/{key}?{query}")), "invalid_token"),
        (at(&format!("/files/{key}?{query}")), "invalid_token"),
        (at(&format!("/s3/multipart/id?{query}")), "invalid_token"),
        (
            at("/limits").bearer_auth(header(serde_json::json!({ "alg": format!("x\n{LINE}") }).to_string()) + ".a.b"),
            "invalid_token",
        ),
        // The answer and the log name the unknown claim.
        (
            at("/limits").bearer_auth(signed(serde_json::json!({ "aud": "image-store", "exp": 1, UNKNOWN: 1 }))),
            "invalid_token",
        ),
    ] {
        let answer: serde_json::Value = request.send().await.unwrap().json().await.unwrap();
        assert_eq!(answer["code"], rejected, "{answer}");
    }
    process.terminate();
    let (_, log) = process.end().await;
    assert_eq!(log.matches("request rejected").count(), 5, "{log}");
    assert!(!log.contains("stranger") && !log.contains("secret"), "{log}");
    assert_eq!(log.lines().filter(|line| line.contains("a claim\\nof two lines")).count(), 1, "{log}");
}

#[test]
fn all_configuration_errors_are_reported_with_exit_status_2() {
    let output = binary().args(["--part-size=1", "--max-pixels=many", "--log-format=xml"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8(output.stderr).unwrap();
    for setting in ["PART_SIZE", "MAX_PIXELS", "LOG_FORMAT"] {
        assert!(stderr.contains(setting), "{stderr}");
    }
}

#[test]
fn help_shows_settings_with_variable_and_default() {
    let output = binary().arg("--help").output().unwrap();
    // The comparison must not depend on line wrapping.
    let help: Vec<String> = String::from_utf8(output.stdout).unwrap().split_whitespace().map(str::to_owned).collect();
    let help = help.join(" ");
    for shown in ["[env: PART_SIZE=]", "[default: 5MiB]", "[env: S3_BUCKET=]", "[env: MAX_PIXELS=]", "sweep", "doctor"]
    {
        assert!(help.contains(shown), "{shown} in {help}");
    }
}

/// The process is killed repeatedly while clients upload.
#[tokio::test]
async fn kill_loses_no_acknowledged_image_and_sweep_removes_the_rest() {
    let data = TempDir::new().unwrap();
    let image = png(11 * MIB);
    let mut stored = Vec::new();
    for _ in 0..3 {
        let mut process = Process::start(data.path(), &[]);
        let (answered, mut answers) = tokio::sync::mpsc::unbounded_channel();
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..4 {
            clients.spawn(upload_repeatedly(process.address.clone(), image.clone(), answered.clone()));
        }
        for _ in 0..6 {
            stored.push(answers.recv().await.unwrap());
        }
        process.child.kill().unwrap();
        process.child.wait().unwrap();
        clients.shutdown().await;
        answers.close();
        while let Some(key) = answers.recv().await {
            stored.push(key);
        }
    }
    let process = Process::start(data.path(), &[]);
    for key in &stored {
        let read = reqwest::get(format!("http://{}/images/{key}", process.address)).await.unwrap();
        assert!(read.bytes().await.unwrap() == image, "{key}");
    }
    let objects = std::fs::read_dir(data.path().join("objects")).unwrap();
    for object in objects.map(|object| object.unwrap().path()) {
        assert!(
            std::fs::read(&object).unwrap().starts_with(&image),
            "{object:?} must be complete, even if it was not acknowledged"
        );
    }
    process.terminate();
    assert!(process.end().await.0.success());
    let swept = binary().env("DATA_DIR", data.path()).args(["sweep", "--older-than=0s"]).output().unwrap();
    assert!(swept.status.success(), "{}", String::from_utf8_lossy(&swept.stderr));
    assert_eq!(unfinished(data.path()), 0, "{:?}", walk(data.path()));
}

/// Uploads an image until the service stops, and sends the key of every stored image.
async fn upload_repeatedly(address: String, image: Vec<u8>, answered: tokio::sync::mpsc::UnboundedSender<String>) {
    let (client, url) = (reqwest::Client::new(), format!("http://{address}/upload-image"));
    loop {
        let request = client.post(&url).header("content-type", "image/png").body(image.clone());
        let Ok(answer) = request.send().await else { return };
        let Ok(stored) = answer.json::<serde_json::Value>().await else { return };
        answered.send(stored["s3_key"].as_str().unwrap().to_owned()).unwrap();
    }
}

#[tokio::test]
async fn sweep_runs_on_the_embedded_store() {
    let data = TempDir::new().unwrap();
    let process = Process::start(data.path(), &[]);
    let part = reqwest::multipart::Part::bytes(fixture("plain.png")).file_name("a.png");
    let form = reqwest::multipart::Form::new().part("file", part);
    let url = format!("http://{}/upload-image", process.address);
    assert_eq!(reqwest::Client::new().post(url).multipart(form).send().await.unwrap().status(), 200);
    let busy = binary().env("DATA_DIR", data.path()).args(["sweep"]).output().unwrap();
    assert_eq!(busy.status.code(), Some(1), "only one process may use the folder");
    process.terminate();
    assert!(process.end().await.0.success());
    let swept = binary().env("DATA_DIR", data.path()).args(["sweep", "--older-than=0s"]).output().unwrap();
    assert!(swept.status.success(), "{}", String::from_utf8_lossy(&swept.stderr));
    assert_eq!(
        String::from_utf8(swept.stdout).unwrap(),
        "aborted 0 unfinished uploads, deleted 0 unverified objects\n"
    );
}

/// Runs `image-store healthcheck` for an address. Returns its exit code and its stderr.
fn health(address: &str) -> (Option<i32>, String) {
    let (host, port) = address.rsplit_once(':').unwrap();
    let output = binary().args(["--host", host, "--port", port, "healthcheck"]).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[tokio::test]
async fn healthcheck_reports_whether_the_service_answers() {
    let data = TempDir::new().unwrap();
    let process = Process::start(data.path(), &["--host=0.0.0.0"]);
    assert_eq!(health(&process.address), (Some(0), String::new()));
    process.terminate();
    let address = process.address.clone();
    assert!(process.end().await.0.success());
    let (code, stderr) = health(&address);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("/healthz cannot be reached: Connection refused"), "{stderr}");
}

#[tokio::test]
async fn healthcheck_works_at_the_connection_limit() {
    let data = TempDir::new().unwrap();
    let process = Process::start(data.path(), &["--max-connections=2", "--shutdown-timeout=0"]);
    let body = form("a.png", &png(12 * MIB));
    let mut idle = Vec::new();
    for _ in 0..2 {
        let mut client = RawClient::connect(&process.address).await;
        client.send(head(body.len(), "")).await;
        client.send(&body[..11 * MIB]).await;
        idle.push(client);
    }
    assert_eq!(health(&process.address), (Some(0), String::new()));
    process.terminate();
    assert!(process.end().await.0.success());
    drop(idle);
}

/// This process opens as many connections as the tested service rejects.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
}

#[tokio::test]
async fn many_connections_do_not_disturb_health_or_running_uploads() {
    raise_file_limit();
    let data = TempDir::new().unwrap();
    let process = Process::start_limited(data.path(), &["--shutdown-timeout=0"], 512);
    let body = form("a.png", &png(12 * MIB));
    let mut uploads = Vec::new();
    for _ in 0..8 {
        let mut client = RawClient::connect(&process.address).await;
        client.send(head(body.len(), "")).await;
        client.send(&body[..6 * MIB]).await;
        uploads.push(client);
    }
    until_parts_are_stored(data.path()).await;
    let mut crowd = Vec::new();
    for _ in 0..700 {
        crowd.push(RawClient::connect(&process.address).await);
    }
    for _ in 0..5 {
        assert_eq!(health(&process.address), (Some(0), String::new()));
    }
    for client in &mut uploads {
        client.send(&body[6 * MIB..]).await;
        let answer = client.read_answer().await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(health(&process.address), (Some(0), String::new()));
    }
    process.terminate();
    let (status, log) = process.end().await;
    assert!(status.success(), "{status}: {log}");
    assert!(log.contains("112 connections are served at once"), "{log}");
    assert!(!log.contains("could not be accepted") && !log.contains("Too many open files"), "{log}");
    drop((crowd, uploads));
}

#[test]
fn healthcheck_fails_on_error_status_or_timeout() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let began = Instant::now();
    let (code, stderr) = health(&address);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("does not answer within 3 s"), "{stderr}");
    assert!(began.elapsed() < Duration::from_secs(10));

    let server = std::thread::spawn(move || {
        // The connection that was given up is still in the listener's queue.
        drop(listener.accept().unwrap());
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 1024]).unwrap();
        stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").unwrap();
    });
    let (code, stderr) = health(&address);
    server.join().unwrap();
    assert_eq!(code, Some(1));
    assert!(stderr.contains("answers 503"), "{stderr}");
}

#[tokio::test]
async fn failed_clean_up_at_shutdown_exits_with_1() {
    let app = TestApp::behind_faults(&[]).await;
    app.faults().fail_all(Operation::Abort, Action::Hang);
    let process = Process::on_store_of(&app, &["--shutdown-timeout=0"]);
    let body = form("a.png", &png(12 * MIB));
    let mut client = RawClient::connect(&process.address).await;
    client.send(head(body.len(), "")).await;
    client.send(&body[..11 * MIB]).await;
    app.faults().wait_for(Operation::UploadPart, 1).await;
    process.terminate();
    let (status, log) = process.end().await;
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("could not be cleaned up in time"), "{log}");
    image_store::commands::sweep::sweep(app.store.as_ref(), Duration::ZERO, Duration::ZERO).await;
    app.end(&[]).await;
}
