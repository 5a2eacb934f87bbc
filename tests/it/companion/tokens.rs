//! The `uploadId`: only the one of this upload is accepted.

use super::*;

async fn check_refused(uppy: &Uppy, other: &Started) {
    refused(uppy.list(other).await, 401, "invalid_token").await;
    refused(uppy.sign(other, 1).await, 401, "invalid_token").await;
    refused(uppy.complete(other, &json!([{ "PartNumber": 1, "ETag": "x" }])).await, 401, "invalid_token").await;
    refused(uppy.abort(other).await, 401, "invalid_token").await;
}

#[tokio::test]
async fn only_the_upload_id_of_the_key_is_accepted() {
    let app = TestApp::start().await;
    let uppy = Uppy::of(&app);
    let (one, two) = (uppy.start().await, uppy.start().await);
    check_refused(&uppy, &Started { key: two.key.clone(), upload_id: one.upload_id.clone() }).await;
    check_refused(&uppy, &Started { key: String::new(), upload_id: one.upload_id.clone() }).await;
    check_refused(&uppy, &Started { key: one.key.clone(), upload_id: format!("{}x", one.upload_id) }).await;
    // The upload's ID in S3 is not accepted, although it is what Companion uses.
    let open = app.store.unfinished_uploads().await.unwrap();
    let id = open.iter().find(|upload| upload.object_key.ends_with(&one.key)).unwrap().upload_id.clone().unwrap();
    check_refused(&uppy, &Started { key: one.key.clone(), upload_id: id }).await;
    let no_key = uppy.request(Method::GET, &format!("multipart/{}", one.upload_id)).send().await.unwrap();
    refused(no_key, 401, "invalid_token").await;
    for started in [one, two] {
        ok(uppy.abort(&started).await).await;
    }
    app.end(&[]).await;
}

#[tokio::test]
async fn other_kinds_of_tokens_are_refused_and_the_other_way_round() {
    let app = TestApp::with(&["--direct-put-max=1MiB"]).await;
    let uppy = Uppy::of(&app);
    let started = uppy.start().await;
    let plan = json!({ "filename": "a.png", "size": 2 * MIB });
    let plan: Value = app.client.post(app.at("/uploads")).json(&plan).send().await.unwrap().json().await.unwrap();
    let token = plan["abort_url"].as_str().unwrap().split_once("?plan=").unwrap().1;
    check_refused(&uppy, &Started { key: plan["s3_key"].as_str().unwrap().to_owned(), upload_id: token.to_owned() })
        .await;
    let grant: Value = app.client.post(app.at("/grants")).json(&json!({})).send().await.unwrap().json().await.unwrap();
    let upload_id = grant["grant"].as_str().unwrap().to_owned();
    check_refused(&uppy, &Started { key: started.key.clone(), upload_id }).await;
    // An uploadId is neither a plan nor a grant.
    let link = format!("/uploads/{}?plan={}", started.key, started.upload_id);
    assert_eq!(app.client.get(app.at(&link)).send().await.unwrap().status(), 401);
    let upload = app.client.post(app.at(&format!("/g/{}/upload-image", started.upload_id)));
    assert_eq!(upload.send().await.unwrap().status(), 401);
    ok(uppy.abort(&started).await).await;
    let aborted = app.client.delete(app.at(plan["abort_url"].as_str().unwrap())).send().await.unwrap();
    assert_eq!(aborted.status(), 204);
    app.end(&[]).await;
}
