//! The output on a terminal, and images from the standard input.

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use tokio::io::AsyncWriteExt;

use super::*;

/// A terminal: the side of its user, and that of the program.
fn terminal() -> (File, OwnedFd) {
    let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&user).unwrap();
    unlockpt(&user).unwrap();
    let name = ptsname(&user, Vec::new()).unwrap();
    let program = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    (user.into(), program.into())
}

/// Runs the client with its standard output on a terminal. Returns its exit code, the text on the terminal and its
/// stderr.
async fn on_terminal(app: &TestApp, flags: &[&str], files: &[&Path]) -> (i32, String, String) {
    let (mut user, program) = terminal();
    let child = {
        let mut command = client(app, flags);
        command.args(files).stdout(Stdio::from(program)).spawn().unwrap()
        // The command, which has the program's side of the terminal open, is dropped here.
    };
    let reading = tokio::task::spawn_blocking(move || {
        let mut text = Vec::new();
        // When the program's side is closed, reading fails with EIO.
        let _ = user.read_to_end(&mut text);
        String::from_utf8(text).unwrap()
    });
    let output = finished(child).await;
    (output.status.code().unwrap(), reading.await.unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// Runs the client with `bytes` on its standard input.
async fn piped(app: &TestApp, flags: &[&str], bytes: &[u8]) -> (i32, Vec<Value>, String) {
    let mut child = client(app, flags).arg("-").stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(bytes).await.unwrap();
    drop(stdin);
    read(finished(child).await)
}

#[tokio::test]
async fn terminal_shows_one_readable_line_per_file() {
    let app = TestApp::start().await;
    let files = Files::new();
    let (good, text) = (files.image(1_572_864), files.add("text.png", b"this is no image"));
    let (code, shown, err) = on_terminal(&app, &[], &[&good, &text]).await;
    assert_eq!(code, 1, "{shown}{err}");
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines.len(), 1, "a failure is reported on stderr only: {shown}");
    let words: Vec<&str> = lines[0].split_whitespace().collect();
    let [name, "1.5", "MiB", "16", "x", "12", address] = words[..] else { panic!("{shown}") };
    assert_eq!(name, good.to_str().unwrap());
    assert!(err.contains("text.png: 400 Bad Request: Invalid file type"), "{err}");
    // The address does not expire: the service redirects to a link.
    let key = address.strip_prefix(&format!("{}/images/", app.url)).expect("an address of the service");
    assert_eq!(app.client.get(address).send().await.unwrap().status(), 307);
    app.end(&[key]).await;
}

#[tokio::test]
async fn terminal_shows_json_if_requested() {
    let app = TestApp::start().await;
    let files = Files::new();
    let (code, shown, err) = on_terminal(&app, &["--json"], &[&files.image(1_000)]).await;
    assert_eq!(code, 0, "{err}");
    let line: Value = serde_json::from_str(shown.trim_end()).unwrap();
    app.end(&[key(&line)]).await;
}

#[tokio::test]
async fn image_from_standard_input_is_uploaded_by_every_method() {
    let app = TestApp::behind_faults(&[SMALL_PUTS]).await;
    let mut keys = Vec::new();
    for (method, image, size) in
        [("--stream", png(1_000), 1_000), ("--direct", png(1_000), 1_000), ("--direct", png(2 * PART), 2 * PART)]
    {
        let (code, lines, err) = piped(&app, &[method], &image).await;
        assert_eq!((code, lines.len()), (0, 1), "{method}: {err}");
        assert_eq!((&lines[0]["file"], &lines[0]["size"]), (&"-".into(), &size.into()));
        let got = app.client.get(lines[0]["url"].as_str().unwrap()).send().await.unwrap().bytes().await.unwrap();
        assert!(got == image, "{method}: the stored bytes differ");
        keys.push(key(&lines[0]).to_owned());
    }
    app.end(&keys.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn standard_input_is_sent_again_after_an_error() {
    let app = TestApp::behind_faults(&[]).await;
    app.faults().fail(Operation::Put, 1..=1, Action::Status(403));
    let (code, lines, err) = piped(&app, &["--stream"], &png(1_000)).await;
    assert_eq!((code, app.faults().calls(Operation::Put)), (0, 2), "{lines:?}: {err}");
    app.end(&[key(&lines[0])]).await;
}

#[tokio::test]
async fn standard_input_without_an_image_is_rejected() {
    let app = TestApp::start().await;
    for bytes in [&b""[..], b"this is no image"] {
        let (code, lines, err) = piped(&app, &[], bytes).await;
        assert_eq!((code, lines.len()), (1, 1), "{err}");
        assert!(lines[0]["error"].is_string() && lines[0]["file"] == "-", "{lines:?}");
    }
    let (code, _, err) = run(&app, &[], &[Path::new("-"), Path::new("-")]).await;
    assert_eq!(code, 2, "{err}");
    app.end(&[]).await;
}

#[tokio::test]
async fn waiting_for_standard_input_can_be_interrupted() {
    let app = TestApp::start().await;
    let mut child = client(&app, &["--stream"]).arg("-").stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // The pipe is full only when the client reads, which is after it has installed its signal handlers.
    stdin.write_all(&vec![0; 4 << 20]).await.unwrap();
    let pid = child.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let (code, lines, err) = read(finished(child).await);
    assert_eq!((code, &lines[0]["code"]), (130, &"interrupted".into()), "{err}");
    drop(stdin);
    app.end(&[]).await;
}
