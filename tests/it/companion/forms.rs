//! Small files, which the plugin sends as one form.

use super::*;
use crate::support::app::fixture;

#[tokio::test]
async fn file_is_sent_with_a_grant_of_its_own() {
    let app = TestApp::with(&["--api-keys=a-key-that-may-sign-grants"]).await;
    let (bytes, mut keys) = (fixture("plain.png"), Vec::new());
    let uppy = Uppy::new(Release::V5, &app.url).with_bearer("a-key-that-may-sign-grants");
    for (name, content_type) in [("photo.png", TYPE), ("photo.png", "application/octet-stream"), ("photo", TYPE)] {
        let params = ok(uppy.params(name, content_type).await).await;
        assert_eq!(params["url"], app.at("/images"));
        // Uppy's metadata are the page's, not those of whoever signed the grant.
        assert_eq!(params["fields"].as_object().unwrap().keys().collect::<Vec<_>>(), ["grant", "key"]);
        let sent = uppy.send_form(&params, &bytes).await;
        assert_eq!(sent.status(), 200);
        let key = params["fields"]["key"].as_str().unwrap();
        // 5.x waits for an ETag and takes the location from the header, 6.x builds it from the URL and the key.
        let exposed = sent.headers()["access-control-expose-headers"].to_str().unwrap().to_ascii_lowercase();
        assert!(exposed.contains("etag") && exposed.contains("location"), "{exposed}");
        assert!(sent.headers().contains_key("etag"));
        assert_eq!(sent.headers()["location"], format!("{}/{key}", params["url"].as_str().unwrap()));
        let image: Value = sent.json().await.unwrap();
        assert_eq!(image["s3_key"], key);
        assert!(image.get("metadata").is_none(), "{image}");
        // The answer was lost.
        assert_eq!(uppy.send_form(&params, &bytes).await.status(), 200);
        keys.push(key.to_owned());
    }
    app.end(&[&keys[0], &keys[1], &keys[2]]).await;
}

#[tokio::test]
async fn the_grant_is_for_one_image() {
    let app = TestApp::start().await;
    let uppy = Uppy::of(&app);
    let params = ok(uppy.params("photo.png", TYPE).await).await;
    assert_eq!(uppy.send_form(&params, &fixture("plain.png")).await.status(), 200);
    let other: Value = uppy.send_form(&params, &png(1_000)).await.json().await.unwrap();
    assert_eq!(other["code"], "already_exists", "{other}");
    // A field `key` by itself means nothing.
    let mut without = ok(uppy.params("photo.png", TYPE).await).await;
    without["fields"].as_object_mut().unwrap().remove("grant");
    let image: Value = uppy.send_form(&without, &fixture("plain.png")).await.json().await.unwrap();
    assert_ne!(image["s3_key"], without["fields"]["key"]);
    app.end(&[params["fields"]["key"].as_str().unwrap(), image["s3_key"].as_str().unwrap()]).await;
}

#[tokio::test]
async fn files_that_are_not_images_are_refused() {
    let app = TestApp::start().await;
    let uppy = Uppy::of(&app);
    for (name, content_type) in [("a.svg", "image/svg+xml"), ("a.png", "text/html"), ("a", "application/octet-stream")]
    {
        let refusal = refused(uppy.params(name, content_type).await, 400, "invalid_file_type").await;
        assert_eq!(refusal["message"], "Invalid file type");
        refused(uppy.create(name, content_type).await, 400, "invalid_file_type").await;
    }
    let params = ok(uppy.params("photo.jpg", "image/jpeg").await).await;
    let sent: Value = uppy.send_form(&params, &fixture("plain.png")).await.json().await.unwrap();
    assert_eq!((&sent["code"], &sent["detected"]), (&json!("invalid_file_type"), &json!("png")));
    let twice = uppy.request(Method::GET, "params?filename=a.png&filename=b.png").send().await.unwrap();
    refused(twice, 400, "invalid_request").await;
    app.end(&[]).await;
}

#[tokio::test]
async fn key_that_is_too_short_cannot_sign_the_grant() {
    let app = TestApp::with(&["--api-keys=short"]).await;
    let uppy = Uppy::new(Release::V5, &app.url).with_bearer("short");
    refused(uppy.params("photo.png", TYPE).await, 403, "key_too_short").await;
    let without = Uppy::new(Release::V5, &app.url);
    refused(without.params("photo.png", TYPE).await, 401, "unauthorized").await;
    refused(without.create("photo.png", TYPE).await, 401, "unauthorized").await;
    app.end(&[]).await;
}
