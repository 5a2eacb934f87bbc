//! Grants: in the header (5.x), or in the address (6.x, which can send no header).

use image_store::auth::grants::{Claims, DEFAULT_LIFETIME, sign_offline};
use std::time::{Duration, SystemTime};

use super::*;

const KEY: &str = "a-key-that-may-sign-grants";

fn grant(change: impl FnOnce(&mut Claims)) -> String {
    let mut claims = Claims::lasting(DEFAULT_LIFETIME);
    change(&mut claims);
    sign_offline(&claims, KEY, None).unwrap()
}

async fn service(flags: &[&str]) -> TestApp {
    TestApp::with(&[&[&*format!("--api-keys={KEY}"), "--public-read=true"], flags].concat()).await
}

/// The plugin with a grant, where its release can have one.
fn granted(release: Release, app: &TestApp, grant: &str) -> Uppy {
    match release {
        Release::V5 => Uppy::new(release, &app.url).with_bearer(grant),
        Release::V6 => Uppy::new(release, &app.at(&format!("/g/{grant}"))),
    }
}

#[tokio::test]
async fn grant_authorizes_and_limits_uploads() {
    let app = service(&[]).await;
    let grant = grant(|claims| {
        claims.max_size = Some(6 << 20);
        claims.formats = Some(vec!["png".to_owned()]);
        claims.metadata = [("owner".to_owned(), "7".to_owned())].into();
    });
    let (small, large) = (png(1_000), png(PART + 7));
    let mut keys = Vec::new();
    for release in RELEASES {
        let uppy = granted(release, &app, &grant);
        let params = ok(uppy.params("photo.png", TYPE).await).await;
        assert_eq!(params["url"], app.at("/images"), "the grant is in the form, not in the address");
        let image: Value = uppy.send_form(&params, &small).await.json().await.unwrap();
        assert_eq!((&image["s3_key"], &image["metadata"]), (&params["fields"]["key"], &json!({ "owner": "7" })));
        let over: Value =
            uppy.send_form(&ok(uppy.params("b.png", TYPE).await).await, &png(6 * MIB + 1)).await.json().await.unwrap();
        assert_eq!(over["code"], "payload_too_large");
        refused(uppy.params("photo.jpg", "image/jpeg").await, 400, "invalid_file_type").await;

        let started = uppy.start().await;
        refused(uppy.sign(&started, 3).await, 413, "payload_too_large").await;
        let parts = uppy.send_parts(&started, &large).await;
        let done = ok(uppy.complete(&started, &parts).await).await;
        check_image(&app, &done["location"], &started.key, &large).await;
        let link = app.client.get(app.at(&format!("/images/{}/url", started.key))).send().await.unwrap();
        assert_eq!(link.json::<Value>().await.unwrap()["metadata"], json!({ "owner": "7" }));
        refused(uppy.create("photo.jpg", "image/jpeg").await, 400, "invalid_file_type").await;
        keys.extend([params["fields"]["key"].as_str().unwrap().to_owned(), started.key]);
    }
    app.end(&keys.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn grant_for_one_image_gives_that_image() {
    let app = service(&[]).await;
    for release in RELEASES {
        let key = format!("{}.png", uuid::Uuid::new_v4());
        let uppy = granted(release, &app, &grant(|claims| claims.key = Some(key.clone())));
        let params = ok(uppy.params("photo.png", TYPE).await).await;
        assert_eq!(params["fields"]["key"], *key);
        let started = uppy.start().await;
        assert_eq!(started.key, key);
        let parts = uppy.send_parts(&started, &png(1_000)).await;
        ok(uppy.complete(&started, &parts).await).await;
        refused(uppy.create("photo.png", TYPE).await, 409, "already_exists").await;
        let deleted = app.client.delete(app.at(&format!("/delete/{key}"))).bearer_auth(KEY).send().await.unwrap();
        assert_eq!(deleted.status(), 200);
    }
    app.end(&[]).await;
}

/// Two attempts under one grant for one image: what is answered is what was sent.
#[tokio::test]
async fn other_bytes_under_one_key_are_refused() {
    let app = service(&[]).await;
    let key = format!("{}.png", uuid::Uuid::new_v4());
    let uppy = granted(Release::V6, &app, &grant(|claims| claims.key = Some(key.clone())));
    let (first, second) = (uppy.start().await, uppy.start().await);
    let parts = [uppy.send_parts(&first, &png(1_000)).await, uppy.send_parts(&second, &png(2_000)).await];
    let image = ok(uppy.complete(&first, &parts[0]).await).await;
    refused(uppy.complete(&second, &parts[1]).await, 409, "already_exists").await;
    ok(uppy.complete(&first, &parts[0]).await).await;
    check_image(&app, &image["location"], &key, &png(1_000)).await;
    refused(uppy.abort(&second).await, 409, "already_complete").await;
    app.end(&[&key]).await;
}

/// Only the beginning of an upload needs the grant: 6.x cannot change its address during an upload.
#[tokio::test]
async fn upload_outlives_the_grant_with_which_it_began() {
    let app = service(&[]).await;
    let bytes = png(1_000);
    let started = granted(Release::V6, &app, &grant(|_| {})).start().await;
    let expired = grant(|claims| claims.exp = (SystemTime::now() - Duration::from_secs(120)).into());
    let uppy = granted(Release::V6, &app, &expired);
    refused(uppy.create("photo.png", TYPE).await, 401, "expired_token").await;
    refused(uppy.params("photo.png", TYPE).await, 401, "expired_token").await;
    let parts = uppy.send_parts(&started, &bytes).await;
    assert_eq!(ok(uppy.list(&started).await).await.as_array().unwrap().len(), 1);
    let image = ok(uppy.complete(&started, &parts).await).await;
    check_image(&app, &image["location"], &started.key, &bytes).await;
    let forged = granted(Release::V6, &app, &format!("{expired}x"));
    refused(forged.list(&started).await, 401, "invalid_token").await;
    app.end(&[&started.key]).await;
}
