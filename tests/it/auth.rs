//! API keys: what each scope allows, and that keys appear in no log and no message.

use reqwest::{Method, StatusCode, header};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::io::Write;
use std::process::Command;
use std::time::Duration;
use tempfile::{NamedTempFile, TempDir};

use super::process::Process;
use super::support::app::{TestApp, fixture};
use super::support::raw::{RawClient, form, head};

const KEY: &str = "/images/00000000-0000-4000-8000-000000000000.png";
const SCOPES: [&str; 3] = ["upload", "delete", "read"];

/// A file with a key for each scope: `the-upload-key` and so on.
fn keys_file() -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    writeln!(file, "# name, SHA-256, scopes").unwrap();
    for scope in SCOPES {
        let hash = Sha256::digest(format!("the-{scope}-key"));
        let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(file, "{scope}er {hex} {scope}").unwrap();
    }
    file
}

/// Returns every route that requires a scope, with the scope.
fn guarded() -> Vec<(Method, String, &'static str)> {
    let image = KEY.trim_start_matches("/images/");
    vec![
        (Method::POST, "/upload-image".to_owned(), "upload"),
        (Method::POST, "/images".to_owned(), "upload"),
        (Method::POST, "/uploads".to_owned(), "upload"),
        (Method::DELETE, format!("/delete/{image}"), "delete"),
        (Method::DELETE, format!("/images/{image}"), "delete"),
        (Method::GET, KEY.to_owned(), "read"),
        (Method::HEAD, KEY.to_owned(), "read"),
        (Method::GET, format!("{KEY}/url"), "read"),
    ]
}

#[tokio::test]
async fn each_route_requires_its_scope() {
    let file = keys_file();
    let app = TestApp::with(&["--api-keys=every-scope", &format!("--api-keys-file={}", file.path().display())]).await;
    for (method, path, required) in guarded() {
        for scope in SCOPES {
            let request = app.client.request(method.clone(), app.at(&path)).bearer_auth(format!("the-{scope}-key"));
            let status = request.send().await.unwrap().status();
            assert_eq!(status == StatusCode::FORBIDDEN, scope != required, "{method} {path} with {scope}: {status}");
            assert_ne!(status, StatusCode::UNAUTHORIZED, "{method} {path} with {scope}");
        }
        let request = app.client.request(method.clone(), app.at(&path)).header("x-api-key", "every-scope");
        let status = request.send().await.unwrap().status();
        assert!(![401, 403].contains(&status.as_u16()), "{method} {path}: {status}");
    }
    let refused = app.client.delete(app.at("/delete/x")).bearer_auth("the-read-key").send().await.unwrap();
    let refused: Value = refused.json().await.unwrap();
    assert_eq!(
        (&refused["code"], &refused["detail"]),
        (&"forbidden".into(), &"The API key does not have the scope delete; use a key that has it".into())
    );
    app.end(&[]).await;
}

#[tokio::test]
async fn missing_or_wrong_key_is_401_with_challenge() {
    let app = TestApp::with(&["--api-keys=right"]).await;
    for (method, path, _) in guarded() {
        for wrong in [None, Some("Bearer wrong"), Some("Bearer righ"), Some("Basic right"), Some("")] {
            let mut request = app.client.request(method.clone(), app.at(&path));
            if let Some(wrong) = wrong {
                request = request.header(header::AUTHORIZATION, wrong);
            }
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{method} {path} {wrong:?}");
            assert_eq!(answer.headers()[header::WWW_AUTHENTICATE], "Bearer");
            if method != Method::HEAD {
                assert_eq!(answer.json::<Value>().await.unwrap()["code"], "unauthorized");
            }
        }
    }
    for open in ["/limits", "/healthz", "/readyz"] {
        assert_eq!(app.client.get(app.at(open)).send().await.unwrap().status(), 200, "{open}");
    }
    assert_eq!(app.client.get(app.at("/no-such-route")).send().await.unwrap().status(), 404);
    assert_eq!(app.client.get(app.at("/upload-image")).send().await.unwrap().status(), 405);
    app.end(&[]).await;
}

#[tokio::test]
async fn key_is_accepted_in_either_header() {
    let app = TestApp::with(&["--api-keys=one,two"]).await;
    let post = app.client.post(app.at("/upload-image")).header(header::CONTENT_TYPE, "image/png");
    let answer = post.bearer_auth("one").body(fixture("plain.png")).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let answer: Value = answer.json().await.unwrap();
    let path = format!("/delete/{}", answer["s3_key"].as_str().unwrap());
    assert_eq!(app.client.delete(app.at(&path)).header("x-api-key", "two").send().await.unwrap().status(), 200);
    app.end(&[]).await;
}

#[tokio::test]
async fn public_read_requires_no_key() {
    let app = TestApp::with(&["--api-keys=right", "--public-read=true"]).await;
    for (method, path, scope) in guarded() {
        let status = app.client.request(method.clone(), app.at(&path)).send().await.unwrap().status();
        assert_eq!(status, if scope == "read" { 404 } else { 401 }, "{method} {path}");
    }
    app.end(&[]).await;
}

#[tokio::test]
async fn wrong_key_is_rejected_before_100_continue() {
    let app = TestApp::with(&["--api-keys=right"]).await;
    let body = form("a.png", &fixture("plain.png"));
    let mut client = RawClient::connect(app.address()).await;
    client.send(head(body.len(), "expect: 100-continue\r\nx-api-key: wrong\r\n")).await;
    let answer = client.read_to_end().await;
    assert!(answer.starts_with("HTTP/1.1 401") && !answer.contains("100 Continue"), "{answer}");

    let mut client = RawClient::connect(app.address()).await;
    client.send(head(body.len(), "expect: 100-continue\r\nx-api-key: right\r\nconnection: close\r\n")).await;
    let answer = client.read_answer().await;
    assert!(answer.starts_with("HTTP/1.1 100"), "{answer}");
    drop(client);
    app.end(&[]).await;
}

#[tokio::test]
async fn preflight_needs_no_key_and_401_has_cors_headers() {
    let app = TestApp::with(&["--api-keys=right"]).await;
    let preflight = app
        .client
        .request(Method::OPTIONS, app.at("/upload-image"))
        .header(header::ORIGIN, "http://page.example")
        .header(header::ACCESS_CONTROL_REQUEST_METHOD, "POST")
        .header(header::ACCESS_CONTROL_REQUEST_HEADERS, "authorization,x-api-key");
    let answer = preflight.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN], "http://page.example");
    let allowed = answer.headers()[header::ACCESS_CONTROL_ALLOW_HEADERS].to_str().unwrap().to_owned();
    assert!(allowed.contains("authorization") && allowed.contains("x-api-key"), "{allowed}");
    let refused = app.client.get(app.at(KEY)).header(header::ORIGIN, "http://page.example").send().await.unwrap();
    assert_eq!(refused.status(), 401);
    assert_eq!(refused.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN], "http://page.example");
    app.end(&[]).await;
}

#[tokio::test]
async fn log_has_key_name_and_never_key() {
    let (data, file) = (TempDir::new().unwrap(), keys_file());
    let flags = ["--log-format=json", "--api-keys=hush-hush", "--api-keys-file", file.path().to_str().unwrap()];
    let process = Process::start(data.path(), &flags);
    let client = reqwest::Client::new();
    for (key, status) in [("hush-hush", 404), ("the-upload-key", 403), ("the-read-key", 404), ("guess", 401)] {
        let url = format!("http://{}{KEY}", process.address);
        assert_eq!(client.get(url).bearer_auth(key).send().await.unwrap().status(), status, "{key}");
    }
    drop(client);
    process.terminate();
    let (_, log) = process.end().await;
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let names = lines.filter(|line| line["status"].is_u64()).map(|line| line["api_key_name"].clone());
    assert_eq!(names.collect::<Vec<_>>(), ["key-1".into(), "uploader".into(), "reader".into(), Value::Null], "{log}");
    for secret in ["hush-hush", "the-upload-key", "the-read-key", "guess"] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
}

#[tokio::test]
async fn public_address_without_keys_logs_a_warning() {
    for (flags, warned) in [(&["--host=0.0.0.0"][..], true), (&["--host=0.0.0.0", "--api-keys=k"], false), (&[], false)]
    {
        let data = TempDir::new().unwrap();
        let process = Process::start(data.path(), flags);
        tokio::time::sleep(Duration::from_millis(100)).await;
        process.terminate();
        let (_, log) = process.end().await;
        assert_eq!(log.contains("set API_KEYS"), warned, "{flags:?}: {log}");
    }
}

#[test]
fn help_and_configuration_errors_never_show_keys() {
    let binary = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_image-store"));
        command.env("API_KEYS", "hush-hush,gr\u{fc}n");
        command
    };
    let help = String::from_utf8(binary().arg("--help").output().unwrap().stdout).unwrap();
    assert!(help.contains("API_KEYS") && !help.contains("hush-hush"), "{help}");

    let mut file = NamedTempFile::new().unwrap();
    writeln!(file, "name hush-hush upload").unwrap();
    let output = binary().arg("--port=http").arg("--api-keys-file").arg(file.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8(output.stderr).unwrap();
    for problem in ["PORT: ", "API_KEYS: key 2 ", "API_KEYS_FILE: line 1: "] {
        assert!(stderr.contains(problem), "{problem} in {stderr}");
    }
    assert!(!stderr.contains("hush-hush") && !stderr.contains("gr\u{fc}n"), "{stderr}");
}
