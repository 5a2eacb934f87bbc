//! `--resumable`: uploads with tus, which continue after an interruption.

use super::*;
use crate::process::Process;
use image_store::auth::grants::{Claims, DEFAULT_LIFETIME, sign_offline};

/// Stops a client after its first part has arrived. Returns the address of its upload.
async fn stopped_upload(app: &TestApp, file: &Path, signal: &str) -> String {
    app.faults().fail(Operation::UploadPart, 2..=2, Action::Hang);
    let child = client(app, &["--resumable"]).arg(file).spawn().unwrap();
    app.faults().wait_for(Operation::UploadPart, 2).await;
    let pid = child.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args([signal, &pid]).status().unwrap().success());
    let output = finished(child).await;
    app.faults().heal();
    let err = String::from_utf8(output.stderr).unwrap();
    let (_, rest) = err.split_once("image-store upload --resume '").expect("a line to resume with");
    rest.split_once('\'').unwrap().0.to_owned()
}

#[tokio::test]
async fn files_of_all_sizes_are_stored() {
    let app = TestApp::start().await;
    let files = Files::new();
    let small = files.add("small.png", &fixture("plain.png"));
    let large = files.image(3 * PART + 1);
    let (code, lines, err) = run(&app, &["--resumable"], &[&small, &large]).await;
    assert_eq!(code, 0, "{lines:?}: {err}");
    for (line, file) in lines.iter().zip([&small, &large]) {
        check(&app, line, file).await;
        assert!(line["checksum"].is_string(), "{line}");
    }
    app.end(&[key(&lines[0]), key(&lines[1])]).await;
}

#[tokio::test]
async fn upload_continues_after_broken_connections() {
    let app = TestApp::start().await;
    let between = Faults::before(&app.url).await;
    // `Operation` names S3 calls. Here the first is the creation, all others are parts of the upload.
    between.fail(Operation::Head, 1..=1, Action::Break);
    between.fail(Operation::Other, 2..=2, Action::Break);
    between.fail(Operation::Other, 3..=3, Action::LoseAnswer);
    let url = format!("--url={}", between.endpoint);
    let files = Files::new();
    let file = files.image(4 * PART);
    let (code, lines, err) = run(&app, &["--resumable", &url], &[&file]).await;
    assert_eq!(code, 0, "{lines:?}: {err}");
    assert!(err.contains("retrying in"), "{err}");
    check(&app, &lines[0], &file).await;
    app.end(&[key(&lines[0])]).await;
}

#[tokio::test]
async fn later_run_continues_with_what_is_missing() {
    for signal in ["-INT", "-KILL"] {
        let app = TestApp::behind_faults(&[]).await;
        let files = Files::new();
        let file = files.image(3 * PART + 1);
        let address = stopped_upload(&app, &file, signal).await;
        app.settled().await;
        let before = app.faults().calls(Operation::UploadPart);
        let line = stored(&app, &["--resume", &address], &file).await;
        check(&app, &line, &file).await;
        assert!(app.faults().calls(Operation::UploadPart) - before <= 3, "the first part is not sent again");
        // Repeating it changes nothing.
        assert_eq!(stored(&app, &["--resume", &address], &file).await["s3_key"], line["s3_key"]);
        app.end(&[key(&line)]).await;
    }
}

#[tokio::test]
async fn upload_continues_after_the_service_was_killed() {
    let app = TestApp::behind_faults(&[]).await;
    let files = Files::new();
    let file = files.image(3 * PART + 1);
    let first = Process::on_store_of(&app, &[]);
    let address = first.address.clone();
    app.faults().fail(Operation::UploadPart, 3..=3, Action::Hang);
    let url = format!("--url=http://{address}");
    let child = client(&app, &["--resumable", "--retries=20", &url]).arg(&file).spawn().unwrap();
    app.faults().wait_for(Operation::UploadPart, 3).await;
    first.kill();
    first.end().await;
    app.faults().heal();
    let port = address.rsplit(':').next().unwrap();
    let second = Process::on_store_of(&app, &["--port", port]);
    let (code, lines, err) = read(finished(child).await);
    assert_eq!(code, 0, "{lines:?}: {err}");
    check(&app, &lines[0], &file).await;
    second.terminate();
    assert!(second.end().await.0.success());
    app.end(&[key(&lines[0])]).await;
}

#[tokio::test]
async fn keys_and_grants_are_accepted_and_their_limits_apply() {
    let app = TestApp::with(&["--api-keys=a-key-that-is-long-enough"]).await;
    let files = Files::new();
    let file = files.image(2000);
    let limited = Claims { max_size: Some(2000), ..Claims::lasting(DEFAULT_LIFETIME) };
    let grant = sign_offline(&limited, "a-key-that-is-long-enough", None).unwrap();
    let mut keys = Vec::new();
    for flags in [
        ["--resumable".to_owned(), "--api-key=a-key-that-is-long-enough".to_owned()],
        ["--resumable".to_owned(), format!("--api-key={grant}")],
        ["--resumable".to_owned(), format!("--url={}/g/{grant}", app.url)],
    ] {
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let line = stored(&app, &flags, &file).await;
        check(&app, &line, &file).await;
        keys.push(key(&line).to_owned());
    }
    let large = files.add("large.png", &png(2001));
    let grant = format!("--api-key={grant}");
    let (code, lines, _) = run(&app, &["--resumable", &grant], &[&large]).await;
    assert_eq!((code, &lines[0]["code"]), (1, &"payload_too_large".into()), "{lines:?}");
    let (code, lines, _) = run(&app, &["--resumable"], &[&file]).await;
    assert_eq!((code, &lines[0]["code"]), (1, &"unauthorized".into()), "{lines:?}");
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    app.end(&keys).await;
}

#[tokio::test]
async fn rejected_and_other_files_are_reported() {
    let app = TestApp::behind_faults(&[]).await;
    let files = Files::new();
    let text = files.add("text.png", &[b'x'; 100_000]);
    let (code, lines, err) = run(&app, &["--resumable"], &[&text]).await;
    assert_eq!((code, &lines[0]["code"]), (1, &"invalid_file_type".into()), "{err}");
    assert!(lines[0]["status_url"].is_null(), "{lines:?}");

    let file = files.image(2 * PART);
    let address = stopped_upload(&app, &file, "-INT").await;
    app.settled().await;
    let other = files.add("other.png", &png(2 * PART + 1));
    let (code, lines, _) = run(&app, &["--resume", &address], &[&other]).await;
    assert_eq!((code, &lines[0]["code"]), (1, &"other_file".into()));
    // Of the same size, and found to be another one when all of it is stored.
    let mut changed = png(2 * PART);
    changed[100] ^= 1;
    std::fs::write(&other, &changed).unwrap();
    let (code, lines, err) = run(&app, &["--resume", &address], &[&other]).await;
    assert_eq!((code, &lines[0]["code"]), (1, &"other_file".into()), "{lines:?}: {err}");
    let stored = stored(&app, &["--resume", &address], &file).await;
    assert_eq!(app.client.delete(&address).send().await.unwrap().status(), 409);
    app.end(&[key(&stored)]).await;
}
