//! `/docs` as it is served. `tests/e2e` tests in a browser that it renders.

use reqwest::{Response, StatusCode};

use crate::support::app::TestApp;

const FILES: [(&str, &str); 4] = [
    ("swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
    ("swagger-ui.css", "text/css; charset=utf-8"),
    ("start.js", "text/javascript; charset=utf-8"),
    ("docs.css", "text/css; charset=utf-8"),
];

async fn get(app: &TestApp, path: &str) -> Response {
    app.client.get(app.at(path)).send().await.unwrap()
}

/// Returns all quoted texts.
fn quoted(html: &str) -> impl Iterator<Item = &str> {
    html.split('"').skip(1).step_by(2)
}

#[tokio::test]
async fn docs_need_no_key_and_load_nothing_from_elsewhere() {
    let app = TestApp::with(&["--api-keys=secret"]).await;
    let page = get(&app, "/docs").await;
    assert_eq!(page.status(), StatusCode::OK);
    assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    let html = page.text().await.unwrap();
    assert!(!html.contains("://") && !html.contains("style=") && html.matches("<script").count() == 2, "{html}");
    for (file, _) in FILES {
        assert!(quoted(&html).any(|path| path.starts_with("docs/") && path.ends_with(&format!("/{file}"))), "{file}");
    }
    assert_eq!(get(&app, "/openapi.json").await.status(), StatusCode::OK);
    app.end(&[]).await;
}

#[tokio::test]
async fn docs_files_are_compressed_and_revalidated() {
    let app = TestApp::start().await;
    for (file, content_type) in FILES {
        let path = format!("/docs/0/{file}");
        let first = get(&app, &path).await;
        assert_eq!(first.status(), StatusCode::OK, "{file}");
        assert_eq!(first.headers()["content-type"], content_type);
        let tag = first.headers()["etag"].clone();
        let encoding = first.headers().get("content-encoding").map(|encoding| encoding.to_str().unwrap().to_owned());
        let bytes = first.bytes().await.unwrap();
        // RFC 1952: the magic number at the start, and the uncompressed length at the end.
        let is_gzip = bytes.starts_with(&[0x1f, 0x8b, 8]);
        assert_eq!(encoding.as_deref(), is_gzip.then_some("gzip"), "{file}");
        assert_eq!(is_gzip, file.starts_with("swagger-ui"));
        assert!(!is_gzip || u32::from_le_bytes(bytes[bytes.len() - 4..].try_into().unwrap()) > 100_000);
        let again = app.client.get(app.at(&path)).header("if-none-match", tag).send().await.unwrap();
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
    }
    let nothing = get(&app, "/docs/0/none.js").await;
    assert_eq!(nothing.status(), StatusCode::NOT_FOUND);
    app.end(&[]).await;
}
