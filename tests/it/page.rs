//! The upload page as it is served. `tests/e2e` tests its behaviour in a browser.

use reqwest::{Response, StatusCode};

use crate::support::app::TestApp;

async fn get(app: &TestApp, path: &str) -> Response {
    app.client.get(app.at(path)).send().await.unwrap()
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers().get(name).unwrap_or_else(|| panic!("no {name}")).to_str().unwrap()
}

/// Returns the text after each `before`, up to the next quote.
fn quoted<'a>(text: &'a str, before: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(before).skip(1).filter_map(|rest| rest.split('"').next())
}

#[tokio::test]
async fn page_policy_allows_only_itself_and_the_store() {
    let app = TestApp::start().await;
    let page = get(&app, "/").await;
    assert_eq!(page.status(), StatusCode::OK);
    assert_eq!(header(&page, "content-type"), "text/html; charset=utf-8");
    assert_eq!(header(&page, "x-content-type-options"), "nosniff");
    assert_eq!(header(&page, "referrer-policy"), "no-referrer");
    assert_eq!(header(&page, "cache-control"), "no-cache");
    let stored = app.upload("a.jpg", crate::support::app::fixture("plain.jpg")).await;
    let stored: serde_json::Value = stored.json().await.unwrap();
    let store = stored["url"].as_str().unwrap().split("/_store/").next().unwrap();
    let expected = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data: {store}; \
         connect-src 'self' {store}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    assert_eq!(header(&page, "content-security-policy"), expected);
    app.end(&[stored["s3_key"].as_str().unwrap()]).await;
}

#[tokio::test]
async fn page_policy_names_the_host_and_rejects_injection() {
    let app = TestApp::start().await;
    let policy = async |app: &TestApp, host: &str| {
        let page = app.client.get(app.at("/")).header("host", host).send().await.unwrap();
        assert_eq!(page.status(), StatusCode::OK);
        header(&page, "content-security-policy").to_owned()
    };
    let named = policy(&app, "localhost:9999").await;
    assert!(named.contains("connect-src 'self' http://localhost:9999; base-uri"), "{named}");
    for forged in ["a;script-src", "a;script-src*:80", "'unsafe-inline'", "*", "a,b"] {
        let policy = policy(&app, forged).await;
        assert!(policy.contains("connect-src 'self';"), "{forged}: {policy}");
        assert_eq!(policy.matches("script-src").count(), 1, "{policy}");
    }
    app.end(&[]).await;
    let app = TestApp::with(&["--public-url=https://images.example/up"]).await;
    let public = policy(&app, "localhost:9999").await;
    assert!(public.contains("connect-src 'self' https://images.example; base-uri"), "{public}");
    app.end(&[]).await;
}

#[tokio::test]
async fn page_loads_nothing_from_elsewhere() {
    let app = TestApp::start().await;
    let page = get(&app, "/").await.text().await.unwrap();
    let named = ["href=\"", "src=\""].into_iter().flat_map(|attribute| quoted(&page, attribute));
    // The only link to another page.
    let mut wanted: Vec<String> = named.filter(|path| *path != "docs").map(str::to_owned).collect();
    let folder = version(&page);
    assert!(wanted.iter().all(|path| path.starts_with(&folder)), "{wanted:?}");
    check_text("the page", &page);

    let mut seen = Vec::new();
    while let Some(path) = wanted.pop() {
        if seen.contains(&path) {
            continue;
        }
        let asset = get(&app, &format!("/{path}")).await;
        assert_eq!(asset.status(), StatusCode::OK, "{path}");
        let expected = match path.rsplit('.').next().unwrap() {
            "js" => "text/javascript; charset=utf-8",
            "css" => "text/css; charset=utf-8",
            "svg" => "image/svg+xml",
            _ => panic!("{path}"),
        };
        assert_eq!(header(&asset, "content-type"), expected);
        assert_eq!(header(&asset, "x-content-type-options"), "nosniff");
        assert!(header(&asset, "content-security-policy").starts_with("default-src 'none'"));
        let text = asset.text().await.unwrap();
        check_text(&path, &text);
        wanted.extend(quoted(&text, "from \"./").map(|module| format!("{folder}{module}")));
        seen.push(path);
    }
    assert!(seen.len() > 10, "the page should load more modules: {seen:?}");
    app.end(&[]).await;
}

/// Returns the folder of the page's files. It has their version in its name.
fn version(page: &str) -> String {
    let file = quoted(page, "src=\"").find(|path| path.ends_with("app.js")).unwrap();
    file.strip_suffix("app.js").unwrap().to_owned()
}

/// Asserts that the text has no external address and nothing that the policy would block.
fn check_text(name: &str, text: &str) {
    let text = text.replace("http://www.w3.org/2000/svg", "");
    for banned in ["http://", "https://", "//cdn", "@import", "url(", " style=\"", " onclick=", "innerHTML", "eval("] {
        assert!(!text.contains(banned), "{name} has {banned}");
    }
    assert_eq!(text.matches("<script").count(), text.matches("<script type=\"module\" src=\"").count(), "{name}");
}

#[tokio::test]
async fn assets_are_cached_by_version() {
    let app = TestApp::start().await;
    let folder = version(&get(&app, "/").await.text().await.unwrap());
    assert_eq!(folder.len(), "assets/".len() + 16 + "/".len(), "{folder}");
    let first = get(&app, &format!("/{folder}app.js")).await;
    assert_eq!(header(&first, "cache-control"), "public, max-age=31536000, immutable");
    let tag = header(&first, "etag").to_owned();
    let other = get(&app, "/assets/0123456789abcdef/app.js").await;
    assert_eq!(other.status(), StatusCode::OK, "a page of another release");
    assert_eq!(header(&other, "cache-control"), "no-cache");
    let path = app.at(&format!("/{folder}app.js"));
    for known in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}")] {
        let again = app.client.get(&path).header("if-none-match", known).send().await.unwrap();
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
        assert_eq!(header(&again, "etag"), tag);
        let vary = again.headers().get_all("vary").iter().any(|vary| vary == "accept-encoding");
        assert!(vary, "as in the 200: {again:?}");
    }
    let other = app.client.get(&path).header("if-none-match", "\"other\"").send().await.unwrap();
    assert_eq!(other.status(), StatusCode::OK);
    for nothing in ["index.html", "none.js", "..%2Fpage.rs", "%ff", ""] {
        for folder in [&folder, "assets/"] {
            let answer = get(&app, &format!("/{folder}{nothing}")).await;
            assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{folder}{nothing}");
            let body: serde_json::Value = answer.json().await.unwrap();
            assert_eq!(body["code"], "not_found");
        }
    }
    app.end(&[]).await;
}

#[tokio::test]
async fn page_is_compressed_if_the_client_accepts_it() {
    let app = TestApp::start().await;
    let page = get(&app, "/").await;
    assert_eq!(header(&page, "vary"), "accept-encoding");
    let folder = version(&page.text().await.unwrap());
    for path in ["/".to_owned(), format!("/{folder}app.css"), format!("/{folder}app.js"), "/docs".to_owned()] {
        let plain = get(&app, &path).await.bytes().await.unwrap();
        let packed = app.client.get(app.at(&path)).header("accept-encoding", "gzip, br").send().await.unwrap();
        assert_eq!(header(&packed, "content-encoding"), "gzip", "{path}");
        let packed = packed.bytes().await.unwrap();
        assert!(packed.starts_with(&[0x1f, 0x8b]) && packed.len() < plain.len(), "{path}");
    }
    app.end(&[]).await;
}
