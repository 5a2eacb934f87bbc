//! Grants with a `key`: exactly one image, whatever is sent, when and to which process.

mod plans;

use futures::future::join_all;
use image_store::auth::grants::{Claims, DEFAULT_LIFETIME, sign_offline};
use reqwest::multipart::{Form, Part};
use reqwest::{RequestBuilder, StatusCode};
use serde_json::{Value, json};

use super::support::app::{TestApp, fixture, png};
use super::support::faults::{Action, Operation};

const API_KEY: &str = "a-key-that-is-long-enough";
const KEYS: &str = "--api-keys=a-key-that-is-long-enough";
const IMAGE_KEY: &str = "0c6f1c1e-5d0b-4f6e-9d3a-1f2e3d4c5b6a.png";
const MIB: usize = 1 << 20;
/// One PutObject, and several parts.
const SIZES: [usize; 2] = [1_000, 12 * MIB];

fn grant() -> String {
    let mut claims = Claims::lasting(DEFAULT_LIFETIME);
    claims.key = Some(IMAGE_KEY.to_owned());
    claims.metadata = [("owner".to_owned(), "7".to_owned())].into();
    sign_offline(&claims, API_KEY, None).unwrap()
}

fn raw(app: &TestApp, base: &str, bytes: Vec<u8>) -> RequestBuilder {
    let post = app.client.post(format!("{base}/images")).header("content-type", "image/png");
    post.bearer_auth(grant()).body(bytes)
}

async fn answer(request: RequestBuilder) -> (u16, Value) {
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

fn other(mut bytes: Vec<u8>) -> Vec<u8> {
    *bytes.last_mut().unwrap() ^= 1;
    bytes
}

fn is_image(answer: &(u16, Value), size: usize) -> bool {
    let (status, image) = answer;
    *status == 200
        && image["s3_key"] == IMAGE_KEY
        && image["size"] == size
        && image["metadata"] == json!({"owner": "7"})
}

#[tokio::test]
async fn same_bytes_get_the_same_answer_and_other_bytes_are_rejected() {
    for size in SIZES {
        let app = TestApp::with(&[KEYS]).await;
        for _ in 0..2 {
            let sent = answer(raw(&app, &app.url, png(size))).await;
            assert!(is_image(&sent, size), "{sent:?}");
        }
        let (status, error) = answer(raw(&app, &app.url, other(png(size)))).await;
        assert_eq!((status, &error["code"]), (409, &json!("already_exists")));
        let jpeg = raw(&app, &app.url, fixture("plain.jpg")).header("content-type", "image/jpeg");
        assert_eq!(answer(jpeg).await.1["code"], "invalid_file_type");
        app.end(&[IMAGE_KEY]).await;
    }
}

#[tokio::test]
async fn eight_concurrent_uploads_in_two_processes_store_one_image() {
    for size in SIZES {
        let app = TestApp::with(&[KEYS]).await;
        let another = app.another().await;
        let bases = [app.url.clone(), another].into_iter().cycle().take(8);
        let answers = join_all(bases.enumerate().map(|(nth, base)| {
            let bytes = if nth < 4 { png(size) } else { other(png(size)) };
            let request = raw(&app, &base, bytes);
            async move { (nth < 4, answer(request).await) }
        }))
        .await;
        let stored: Vec<bool> = answers.iter().filter(|(_, (status, _))| *status == 200).map(|(one, _)| *one).collect();
        assert_eq!(stored.len(), 4, "{answers:?}");
        assert!(stored.iter().all(|one| *one == stored[0]), "one of the two files is stored: {answers:?}");
        let rejected =
            answers.iter().filter(|(_, (status, error))| *status == 409 && error["code"] == "already_exists");
        assert_eq!(rejected.count(), 4, "{answers:?}");
        app.end(&[IMAGE_KEY]).await;
    }
}

#[tokio::test]
async fn upload_with_lost_responses_is_stored_once_and_never_undone() {
    for (size, operation) in SIZES.into_iter().zip([Operation::Put, Operation::Complete]) {
        let app = TestApp::behind_faults(&[KEYS, "--s3-timeout=1s"]).await;
        app.faults().fail_all(operation, Action::LoseAnswer);
        let sent = answer(raw(&app, &app.url, png(size))).await;
        assert!(is_image(&sent, size), "{sent:?}");
        app.faults().heal();
        let again = answer(raw(&app, &app.url, png(size))).await;
        assert!(is_image(&again, size), "{again:?}");
        app.settled().await;
        assert_eq!(app.faults().calls(Operation::Delete), 0);
        app.end(&[IMAGE_KEY]).await;
    }
}

#[tokio::test]
async fn key_is_free_again_after_a_delete() {
    let app = TestApp::with(&[KEYS]).await;
    assert_eq!(answer(raw(&app, &app.url, png(1_000))).await.0, 200);
    let delete = app.client.delete(app.at(&format!("/images/{IMAGE_KEY}"))).bearer_auth(API_KEY);
    assert_eq!(delete.send().await.unwrap().status(), StatusCode::OK);
    assert_eq!(answer(raw(&app, &app.url, other(png(1_000)))).await.0, 200);
    app.end(&[IMAGE_KEY]).await;
}

/// Sends the request that a plan, or a part of it, describes. Returns the status that the store answers.
async fn put(app: &TestApp, target: &Value, bytes: Vec<u8>) -> u16 {
    let headers = target["headers"].as_object().unwrap().iter().filter(|(name, _)| *name != "content-length");
    let put = app.client.put(target["url"].as_str().unwrap());
    let put = headers.fold(put, |put, (name, value)| put.header(name, value.as_str().unwrap()));
    put.body(bytes).send().await.unwrap().status().as_u16()
}

/// Nothing under `incoming/` shows that there is such a plan.
#[tokio::test]
async fn delete_ends_plans_that_have_sent_nothing() {
    for size in SIZES {
        let app = TestApp::with(&[KEYS, "--direct-put-max=6MiB"]).await;
        let request = json!({ "filename": "a.png", "size": size });
        let (_, plan) = answer(app.client.post(app.at("/uploads")).bearer_auth(grant()).json(&request)).await;
        let link = |name: &str| app.at(plan[name].as_str().unwrap());
        assert_eq!(answer(raw(&app, &app.url, png(size))).await.0, 200);
        let delete = app.client.delete(app.at(&format!("/images/{IMAGE_KEY}"))).bearer_auth(API_KEY);
        assert_eq!(delete.send().await.unwrap().status(), 200);

        let bytes = png(size);
        match plan["parts"].as_array() {
            None => assert_eq!(put(&app, &plan, bytes).await, 412),
            Some(parts) => {
                let part_size = usize::try_from(plan["part_size"].as_u64().unwrap()).unwrap();
                for (part, chunk) in parts.iter().zip(bytes.chunks(part_size)) {
                    assert_eq!(put(&app, part, chunk.to_vec()).await, 200);
                }
            }
        }
        let (status, error) = answer(app.client.post(link("complete_url"))).await;
        assert_eq!((status, &error["code"]), (404, &json!("not_found")), "{error}");
        assert_eq!(app.objects().await.len(), 0);
        assert_eq!(app.client.delete(link("abort_url")).send().await.unwrap().status(), 204);
        assert_eq!(answer(raw(&app, &app.url, other(png(size)))).await.0, 200, "the key is free for the service");
        app.end(&[IMAGE_KEY]).await;
    }
}

#[tokio::test]
async fn delete_writes_a_marker_only_if_there_may_be_plans() {
    let app = TestApp::behind_faults(&[KEYS]).await;
    let post = || app.client.post(app.at("/images")).header("content-type", "image/png").body(png(1_000));
    let drawn = post().bearer_auth(API_KEY);
    let idempotent = post().bearer_auth(API_KEY).header("idempotency-key", "a");
    for (upload, markers) in [(drawn, 0), (idempotent, 0), (raw(&app, &app.url, png(1_000)), 1)] {
        let (status, image) = answer(upload).await;
        assert_eq!(status, 200, "{image}");
        let before = app.faults().calls(Operation::Put);
        let delete = app.client.delete(app.at(&format!("/images/{}", image["s3_key"].as_str().unwrap())));
        assert_eq!(delete.bearer_auth(API_KEY).send().await.unwrap().status(), 200);
        assert_eq!(app.faults().calls(Operation::Put) - before, markers, "{image}");
    }
    app.end(&[]).await;
}

/// It is not the image if a file with a name follows.
#[tokio::test]
async fn format_of_an_unnamed_file_does_not_matter_before_a_named_file() {
    let app = TestApp::with(&[KEYS]).await;
    let jpeg = || Part::bytes(fixture("plain.jpg"));
    let both = || Form::new().part("file", jpeg()).part("file", Part::bytes(png(1_000)).file_name("a.png"));
    let post = |form: Form| app.client.post(app.at("/images")).multipart(form);
    let mut keys = Vec::new();
    for _ in 0..2 {
        let granted = answer(post(both()).bearer_auth(grant())).await;
        assert!(is_image(&granted, 1_000), "{granted:?}");
        let (status, image) = answer(post(both()).bearer_auth(API_KEY).header("idempotency-key", "a")).await;
        assert_eq!((status, &image["content_type"]), (200, &json!("image/png")), "{image}");
        keys.push(image["s3_key"].as_str().unwrap().to_owned());
    }
    assert_eq!(keys[0], keys[1]);
    let alone = || post(Form::new().part("file", jpeg()));
    assert_eq!(answer(alone().bearer_auth(grant())).await.1["code"], "invalid_file_type");
    let reused = answer(alone().bearer_auth(API_KEY).header("idempotency-key", "a")).await;
    assert_eq!((reused.0, &reused.1["code"]), (422, &json!("idempotency_key_reused")));
    app.end(&[IMAGE_KEY, &keys[0]]).await;
}

#[tokio::test]
async fn metadata_is_returned_by_every_upload_method() {
    let app = TestApp::with(&[KEYS]).await;
    assert_eq!(answer(raw(&app, &app.url, png(1_000))).await.1["metadata"], json!({"owner": "7"}));
    let url = app.client.get(app.at(&format!("/images/{IMAGE_KEY}/url"))).bearer_auth(API_KEY);
    assert_eq!(answer(url).await.1["metadata"], json!({"owner": "7"}));
    let mut claims = Claims::lasting(DEFAULT_LIFETIME);
    claims.metadata = [("owner".to_owned(), "8".to_owned())].into();
    let grant = sign_offline(&claims, API_KEY, None).unwrap();
    let request = json!({ "filename": "a.png", "size": 1_000 });
    let (status, plan) = answer(app.client.post(app.at("/uploads")).bearer_auth(grant).json(&request)).await;
    assert_eq!(status, 201, "{plan}");
    assert_eq!(put(&app, &plan, png(1_000)).await, 200);
    let (status, image) = answer(app.client.post(app.at(plan["complete_url"].as_str().unwrap()))).await;
    assert_eq!((status, &image["metadata"]), (200, &json!({"owner": "8"})), "{image}");
    app.end(&[IMAGE_KEY, image["s3_key"].as_str().unwrap()]).await;
}

/// Another client has stored its own image under the key after the plan was made.
#[tokio::test]
async fn complete_does_not_answer_with_the_image_of_another_client() {
    let app = TestApp::with(&[KEYS]).await;
    let plan = || app.client.post(app.at("/uploads")).bearer_auth(grant());
    let request = json!({ "filename": "a.png", "size": 1_000 });
    let (status, planned) = answer(plan().json(&request)).await;
    assert_eq!(status, 201, "{planned}");
    assert_eq!(put(&app, &planned, png(1_000)).await, 200);
    assert_eq!(answer(raw(&app, &app.url, other(png(1_000)))).await.0, 200);
    let (status, error) = answer(app.client.post(app.at(planned["complete_url"].as_str().unwrap()))).await;
    assert_eq!((status, &error["code"]), (409, &json!("already_exists")), "{error}");
    let (status, error) = answer(plan().json(&request)).await;
    assert_eq!((status, &error["code"]), (409, &json!("already_exists")), "{error}");
    app.end(&[IMAGE_KEY]).await;
}
