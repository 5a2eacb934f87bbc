//! A service under a path prefix, and an address at which another server answers.

use axum::Router;
use axum::response::Html;
use axum::routing::get;
use http::StatusCode;
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::support::{Server, serve};

/// Serves `app` under `prefix` and an unrelated page at every other address, whose requests are counted.
async fn under_prefix(app: &TestApp, prefix: &str) -> (Server, Arc<AtomicUsize>) {
    let unrelated = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&unrelated);
    let page = async move || {
        counted.fetch_add(1, Ordering::Relaxed);
        Html("<h1>Welcome</h1>")
    };
    let router = Router::new().nest_service(prefix, app.app.router()).fallback(page);
    (serve(TowerToHyperService::new(router)).await, unrelated)
}

#[tokio::test]
async fn service_under_a_path_needs_no_public_url() {
    let app = TestApp::behind_faults(&[SMALL_PUTS]).await;
    let (proxy, unrelated) = under_prefix(&app, "/up/here").await;
    let url = format!("--url={}/up/here", proxy.endpoint);
    let files = Files::new();
    let (small, large) = (files.add("small.png", &png(1_000)), files.image(PART + 1));
    let mut keys = Vec::new();
    // A `status_url` contains the address of its service.
    let (status_url, _) = stopped(&app, &large, "-INT").await;
    let below = status_url.replace(&app.url, &format!("{}/up/here", proxy.endpoint));
    keys.push(key(&stored(&app, &["--resume", &below], &large).await).to_owned());
    for (flags, file) in [(&["--stream"][..], &small), (&["--direct"], &small), (&["--direct"], &large)] {
        let line = stored(&app, &[flags, &[url.as_str()]].concat(), file).await;
        check(&app, &line, file).await;
        keys.push(key(&line).to_owned());
    }
    assert_eq!(unrelated.load(Ordering::Relaxed), 0);
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    app.end(&keys).await;
}

#[tokio::test]
async fn invalid_url_is_wrong_usage_and_hides_its_password() {
    let app = TestApp::start().await;
    for (address, problem) in [
        ("ftp://user:hunter2@images.example", "must start with http:// or https://"),
        ("http://user:hunter2@images.example/?a=b", "must not have a query"),
        ("http://user:hunter2@images.example:port", "port"),
    ] {
        let (by_flag, mut by_environment) = (client(&app, &["--url", address, "a.png"]), client(&app, &["a.png"]));
        by_environment.env("IMAGE_STORE_URL", address);
        let mut help = client(&app, &["--help"]);
        help.env("IMAGE_STORE_URL", address);
        for (mut command, code) in [(by_flag, 2), (by_environment, 2), (help, 0)] {
            let output = finished(command.spawn().unwrap()).await;
            let text = [output.stdout, output.stderr].concat();
            let text = String::from_utf8(text).unwrap();
            assert_eq!(output.status.code(), Some(code), "{text}");
            assert!(code == 0 || (text.contains("IMAGE_STORE_URL") && text.contains(problem)), "{text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
    }
    app.end(&[]).await;
}

#[tokio::test]
async fn embedded_store_is_reached_under_the_same_path() {
    let app = TestApp::with(&[SMALL_PUTS]).await;
    let (proxy, unrelated) = under_prefix(&app, "/up/here").await;
    let below = format!("{}/up/here", proxy.endpoint);
    let url = format!("--url={below}");
    let files = Files::new();
    let (small, large) = (files.add("small.png", &png(1_000)), files.image(PART + 1));
    let mut keys = Vec::new();
    for (flags, file) in [(&["--stream"][..], &small), (&["--direct"], &small), (&["--direct"], &large)] {
        let line = stored(&app, &[flags, &[url.as_str()]].concat(), file).await;
        assert!(line["url"].as_str().unwrap().starts_with(&format!("{below}/_store/")), "{line}");
        check(&app, &line, file).await;
        keys.push(key(&line).to_owned());
    }
    // A client that sends no `X-Base-URL` is redirected to an address under the path as well.
    let image = format!("{below}/images/{}", keys[0]);
    let redirect = app.client.get(&image).send().await.unwrap();
    let location = redirect.headers()["location"].to_str().unwrap();
    let location = reqwest::Url::parse(&image).unwrap().join(location).unwrap();
    assert!(location.as_str().starts_with(&format!("{below}/_store/")), "{location}");
    assert_eq!(app.client.get(location).send().await.unwrap().bytes().await.unwrap(), png(1_000));
    assert_eq!(unrelated.load(Ordering::Relaxed), 0);
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    app.end(&keys).await;
}

#[tokio::test]
async fn foreign_response_is_not_retried() {
    let app = TestApp::start().await;
    let files = Files::new();
    let file = files.image(1_000);
    let (server, requests) = under_prefix(&app, "/up").await;
    let url = format!("--url={}", server.endpoint);
    for flags in [&["--stream"][..], &["--direct"], &[]] {
        let before = requests.load(Ordering::Relaxed);
        let (code, lines, err) = run(&app, &[flags, &[url.as_str()]].concat(), &[&file]).await;
        assert_eq!((code, requests.load(Ordering::Relaxed) - before), (1, 1), "{lines:?}: {err}");
        assert!(lines[0]["error"].as_str().unwrap().contains("not from image-store"), "{lines:?}");
    }
    let limits = app.client.get(app.at("/limits")).send().await.unwrap().text().await.unwrap();
    // JSON that is not a stored image, and errors that are not the service's.
    for (status, body) in [(200, "{}"), (200, "[]"), (404, "<h1>Not found</h1>"), (413, "{\"message\":\"Too large\"}")]
    {
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&requests);
        let answer = async move || {
            counted.fetch_add(1, Ordering::Relaxed);
            (StatusCode::from_u16(status).unwrap(), body)
        };
        let limits = limits.clone();
        let router = Router::new().route("/limits", get(async move || limits)).fallback(answer);
        let server = serve(TowerToHyperService::new(router)).await;
        let url = format!("--url={}", server.endpoint);
        let (code, lines, err) = run(&app, &["--stream", &url], &[&file]).await;
        assert_eq!((code, requests.load(Ordering::Relaxed)), (1, 1), "{status} {body}: {lines:?}: {err}");
        assert!(lines[0]["error"].as_str().unwrap().contains("not from image-store"), "{lines:?}");
    }
    app.end(&[]).await;
}
