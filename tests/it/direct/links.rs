//! The links of a plan are its only permission and allow nothing else. Altered or forged links, and links of another
//! key, are rejected before the service calls the store.

use serde_json::json;

use super::*;
use crate::support::app::{fixture, png};

/// Returns the token in the links of a plan.
fn token(plan: &Plan) -> &str {
    plan.link("status_url").split_once("?plan=").unwrap().1
}

/// Sends every request that requires a link, with this query.
async fn request_all(app: &TestApp, key: &str, query: &str) -> Vec<Response> {
    let at = |suffix: &str| app.at(&format!("/uploads/{key}{suffix}{query}"));
    let (status, complete, abort) =
        (app.client.get(at("")), app.client.post(at("/complete")), app.client.delete(at("")));
    join_all([status, complete, abort].map(|request| async { request.send().await.unwrap() })).await
}

async fn check_refused(app: &TestApp, key: &str, query: &str) {
    for response in request_all(app, key, query).await {
        let challenge = response.headers().contains_key("www-authenticate");
        refusal(response, 401, "invalid_token").await;
        assert!(challenge, "{query}");
    }
}

#[tokio::test]
async fn forged_or_foreign_link_is_rejected() {
    let app = TestApp::with(&SMALL).await;
    let (small, large, bytes) = (plan(&app, 100_000).await, plan(&app, 11 * MIB).await, png(100_000));
    put(&app, &small, &bytes).await;
    send_parts(&app, large.parts(), &png(11 * MIB), |_| true).await;
    let before = app.objects().await;
    for plan in [&small, &large] {
        let own = token(plan);
        let (head, rest) = own.split_once('.').unwrap();
        let (claims, signature) = rest.split_once('.').unwrap();
        for query in [
            String::new(),
            "?".to_owned(),
            "?plan=".to_owned(),
            "?plan=x".to_owned(),
            format!("?plan={}", own.to_lowercase()),
            format!("?plan={head}.{claims}."),
            format!("?plan=eyJhbGciOiJub25lIn0.{claims}."),
            format!("?plan={head}.e30.{signature}"),
            format!("?plan={own}&size=1"),
            // The format of the links before they were signed.
            "?size=100000&content_type=image%2Fpng".to_owned(),
            format!("?size=11534336&content_type=image%2Fpng&upload_id={}&part_size=5242880", "0".repeat(36)),
        ] {
            check_refused(&app, plan.key(), &query).await;
        }
    }
    check_refused(&app, small.key(), &format!("?plan={}", token(&large))).await;
    check_refused(&app, "00000000-0000-4000-8000-000000000000.png", &format!("?plan={}", token(&small))).await;
    assert_eq!(app.objects().await, before);
    check_image(&app, &completed(&app, &small).await, &bytes).await;
    assert_eq!(abort(&app, &large).await.status(), 204);
    app.end(&[small.key()]).await;
}

#[tokio::test]
async fn links_need_no_key_and_give_no_access_to_other_images() {
    let keys = tempfile::NamedTempFile::new().unwrap();
    let line = "phone 2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b upload\n";
    std::fs::write(keys.path(), line).unwrap();
    // The holder of a single key that may not read must not know the secret either.
    let secret = format!("--token-secret={}", "x".repeat(32));
    let app = TestApp::with(&[&format!("--api-keys-file={}", keys.path().display()), &secret]).await;
    let bytes = fixture("plain.png");
    let form = || {
        let part = reqwest::multipart::Part::bytes(fixture("plain.png")).file_name("a.png");
        app.client.post(app.at("/upload-image")).multipart(reqwest::multipart::Form::new().part("file", part))
    };
    let stored = answer(form().bearer_auth("secret").send().await.unwrap(), 200).await;
    let request = json!({ "filename": "a.png", "size": bytes.len() });
    let plan_request = app.client.post(app.at("/uploads")).json(&request);
    refusal(plan_request.try_clone().unwrap().send().await.unwrap(), 401, "unauthorized").await;
    let plan = Plan(answer(plan_request.bearer_auth("secret").send().await.unwrap(), 201).await);

    put(&app, &plan, &bytes).await;
    assert_eq!(status(&app, &plan).await["state"], "verifying");
    check_image(&app, &completed(&app, &plan).await, &bytes).await;
    refusal(abort(&app, &plan).await, 409, "already_complete").await;

    // An image that was not uploaded with this plan: its links give no access to it, with the API key or without.
    let other = stored["s3_key"].as_str().unwrap();
    for query in [format!("?plan={}", token(&plan)), format!("?size={}&content_type=image/png", bytes.len())] {
        check_refused(&app, other, &query).await;
        let request = app.client.post(app.at(&format!("/uploads/{other}/complete{query}"))).bearer_auth("secret");
        refusal(request.send().await.unwrap(), 401, "invalid_token").await;
    }
    let read = app.client.get(app.at(&format!("/images/{other}/url"))).bearer_auth("secret");
    refusal(read.send().await.unwrap(), 403, "forbidden").await;
    app.end(&[plan.key(), other]).await;
}

#[tokio::test]
async fn invalid_key_in_link_is_404() {
    let app = TestApp::start().await;
    let plan = plan(&app, 100_000).await;
    put(&app, &plan, &png(100_000)).await;
    for key in ["..%2F..%2Fa.png", "incoming%2Fa.png", "%ff.png"] {
        let link = plan.link("complete_url").replace(plan.key(), key);
        refusal(post(&app, &link).await, 404, "not_found").await;
    }
    completed(&app, &plan).await;
    app.end(&[plan.key()]).await;
}
