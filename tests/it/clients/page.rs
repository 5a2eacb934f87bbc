//! A plain HTML form without a script: the browser navigates to the answer.

use super::*;

/// What Chrome sends when a form is submitted.
const NAVIGATION: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;\
                          q=0.8,application/signed-exchange;v=b3;q=0.7";
const HTML: &str = "text/html; charset=utf-8";

async fn submit(app: &TestApp, path: &str, fields: &[(&str, &str)], bytes: &[u8]) -> Response {
    send(app, path, &[("accept", NAVIGATION), ("origin", "null")], fields, bytes).await
}

/// Follows the redirect to the page of the result.
async fn follow(app: &TestApp, path: &str, answer: Response) -> Response {
    assert_eq!(answer.status(), 303);
    let location = answer.headers()["location"].to_str().unwrap();
    let page = reqwest::Url::parse(&app.at(path)).unwrap().join(location).unwrap();
    app.client.get(page).header("accept", NAVIGATION).send().await.unwrap()
}

fn check_page(page: &Response) {
    assert_eq!(page.headers()["content-type"], HTML);
    assert_eq!(page.headers()["cache-control"], "no-store");
    assert_eq!(page.headers()["referrer-policy"], "no-referrer");
    let policy = page.headers()["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'; style-src 'self'; img-src 'self';"), "{policy}");
    assert!(!policy.contains("script-src"), "{policy}");
}

#[tokio::test]
async fn form_leads_to_a_page_with_the_result() {
    let app = TestApp::start().await;
    let mut keys = Vec::new();
    for path in ["/upload-image", "/images"] {
        let page = follow(&app, path, submit(&app, path, &[], &fixture("plain.png")).await).await;
        assert_eq!(page.status(), 200);
        check_page(&page);
        let html = page.text().await.unwrap();
        for shown in ["Image uploaded", "image/png", "16 × 12 pixels", &format!("{} bytes", fixture("plain.png").len())]
        {
            assert!(html.contains(shown), "{shown}: {html}");
        }
        assert!(!html.contains("<script"), "{html}");
        let link = html.split("href=\"").find(|link| link.starts_with("http")).unwrap().split('"').next().unwrap();
        let image = app.client.get(link.replace("&amp;", "&")).send().await.unwrap();
        assert!(image.bytes().await.unwrap() == fixture("plain.png"));
        keys.push(html.split("<dd>").nth(1).unwrap().split('<').next().unwrap().to_owned());
    }
    app.end(&[&keys[0], &keys[1]]).await;
}

#[tokio::test]
async fn form_with_a_grant_needs_no_key() {
    let app = TestApp::with(&["--api-keys=a-key-that-may-sign-grants"]).await;
    let granted = app.client.post(app.at("/grants")).bearer_auth("a-key-that-may-sign-grants").body("{}");
    let granted = granted.header("content-type", "application/json").send().await.unwrap();
    let grant = granted.json::<Value>().await.unwrap()["grant"].as_str().unwrap().to_owned();
    let mut keys = Vec::new();
    let in_path = format!("/g/{grant}/images");
    for (path, fields) in [("/images", &[("grant", &*grant)][..]), (&in_path, &[])] {
        let page = follow(&app, path, submit(&app, path, fields, &fixture("plain.png")).await).await;
        assert_eq!(page.status(), 200);
        check_page(&page);
        let html = page.text().await.unwrap();
        keys.push(html.split("<dd>").nth(1).unwrap().split('<').next().unwrap().to_owned());
        let read = app.client.get(app.at(&format!("/images/{}", keys.last().unwrap()))).send().await.unwrap();
        assert_eq!(read.status(), 401, "the page is no key");
    }
    let without = submit(&app, "/images", &[], &fixture("plain.png")).await;
    assert_eq!(without.status(), 401);
    check_page(&without);
    assert!(without.text().await.unwrap().contains("form field named &#39;grant&#39; before the field &#39;file&#39;"));
    app.end(&[&keys[0], &keys[1]]).await;
}

#[tokio::test]
async fn refusals_are_pages_with_the_same_status() {
    let app = TestApp::with(&["--max-upload-size=1000"]).await;
    for (bytes, status, shown) in [
        (&b"no image"[..], 400, "Invalid file type"),
        (b"", 400, "No file uploaded"),
        (&[b'x'; 2_000], 413, "The image exceeds the limit of 1000 bytes"),
    ] {
        let page = submit(&app, "/upload-image", &[], bytes).await;
        assert_eq!(page.status(), status);
        check_page(&page);
        let html = page.text().await.unwrap();
        assert!(html.contains(shown) && html.contains("Upload failed") && !html.contains("{{"), "{html}");
    }
    let formats = submit(&app, "/upload-image", &[], b"no image").await.text().await.unwrap();
    assert!(formats.contains("Accepted formats: jpeg, png, gif, bmp"), "{formats}");
    app.end(&[]).await;
}

#[tokio::test]
async fn page_of_the_result_is_only_at_its_own_address() {
    let app = TestApp::with(&["--read-url-ttl=1s"]).await;
    let answer = submit(&app, "/images", &[], &fixture("plain.png")).await;
    let location = answer.headers()["location"].to_str().unwrap().trim_start_matches('.').to_owned();
    let get = async |path: &str| app.client.get(app.at(path)).header("accept", NAVIGATION).send().await.unwrap();
    for other in ["/uploaded", "/uploaded?image=", &format!("{location}x"), "/uploaded?image=a.b.c"] {
        let page = get(other).await;
        assert_eq!(page.status(), 404, "{other}");
        check_page(&page);
        assert!(page.text().await.unwrap().contains("File not found"));
    }
    // It expires with the link in it.
    let expired = tokio::time::timeout(std::time::Duration::from_secs(10), async {
        while get(&location).await.status() == 200 {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        get(&location).await.status()
    });
    assert_eq!(expired.await.unwrap(), 404);
    let key = app.objects().await.into_iter().next().unwrap();
    app.end(&[&key]).await;
}
