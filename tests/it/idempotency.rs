//! `Idempotency-Key`: all attempts of an upload store one image, regardless of lost answers and of the process.

use futures::future::join_all;
use image_store::store::s3::Checksum;
use image_store::store::{CustomMetadata, ImageKey, Metadata, ObjectName};
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};

use super::support::app::{TestApp, fixture, png, until};
use super::support::backend::Backend;
use super::support::faults::{Action, Faults, Operation};
use super::support::raw::{RawClient, form, head};
use super::support::samples::payload;
use super::support::strict::Quirk;

const MIB: usize = 1 << 20;
const PART: usize = 5 * MIB;
/// One PutObject, exactly one full part, and several parts.
const SIZES: [usize; 3] = [1_000, PART, 12 * MIB];
const VALUE: &str = "\"8e03978e-40d5-43dd-bc93-6894a57f9324\"";

/// Uploads a raw body.
async fn send(base: &str, value: &str, bytes: Vec<u8>) -> (StatusCode, Value) {
    let post = Client::new().post(format!("{base}/upload-image")).header("content-type", "image/png");
    answer(post.header("idempotency-key", value).body(bytes).send().await.unwrap()).await
}

async fn answer(answer: Response) -> (StatusCode, Value) {
    let status = answer.status();
    assert_eq!(answer.headers().contains_key("retry-after"), status == StatusCode::SERVICE_UNAVAILABLE);
    (status, answer.json().await.unwrap())
}

async fn stored(base: &str, value: &str, bytes: Vec<u8>) -> Value {
    let (status, image) = send(base, value, bytes).await;
    assert_eq!(status, 200, "{image}");
    image
}

async fn rejected(base: &str, value: &str, bytes: Vec<u8>) -> (u16, String) {
    let (status, error) = send(base, value, bytes).await;
    (status.as_u16(), error["code"].as_str().unwrap_or_else(|| panic!("{error}")).to_owned())
}

fn key(image: &Value) -> &str {
    image["s3_key"].as_str().unwrap()
}

/// Removes the URL, the only field that differs between answers about the same image.
fn without_url(mut image: Value) -> Value {
    image.as_object_mut().unwrap().remove("url");
    image
}

/// An image of the same size with another last byte.
fn other(mut bytes: Vec<u8>) -> Vec<u8> {
    *bytes.last_mut().unwrap() ^= 1;
    bytes
}

fn reused() -> (u16, String) {
    (422, "idempotency_key_reused".to_owned())
}

fn unknown() -> (u16, String) {
    (503, "outcome_unknown".to_owned())
}

async fn read(app: &TestApp, image: &Value) -> Vec<u8> {
    app.client.get(image["url"].as_str().unwrap()).send().await.unwrap().bytes().await.unwrap().to_vec()
}

#[tokio::test]
async fn repeated_upload_returns_the_image_without_writing() {
    let app = TestApp::behind_faults(&[]).await;
    let faults = app.faults();
    let writes = || [Operation::Put, Operation::Create, Operation::UploadPart].map(|call| faults.calls(call));
    let mut keys = Vec::new();
    for size in SIZES {
        let value = format!("of {size}");
        let first = stored(&app.url, &format!("\"{value}\""), png(size)).await;
        assert_eq!(first["size"], size);
        assert_eq!(uuid::Uuid::parse_str(&key(&first)[..36]).unwrap().get_version_num(), 8);
        let before = writes();
        let again = stored(&app.url, &format!("\"{value}\""), png(size)).await;
        assert_eq!(without_url(again.clone()), without_url(first.clone()));
        assert_eq!(read(&app, &again).await, png(size));

        // With a form and another file name.
        let part = reqwest::multipart::Part::bytes(png(size)).file_name("another name.png");
        let form = reqwest::multipart::Form::new().part("file", part);
        let post = app.client.post(app.at("/upload-image")).header("idempotency-key", format!("\"{value}\""));
        let (status, by_form) = answer(post.multipart(form).send().await.unwrap()).await;
        assert_eq!((status.as_u16(), without_url(by_form)), (200, without_url(first.clone())));
        assert_eq!(writes(), before, "nothing is written again");
        keys.push(key(&first).to_owned());
    }
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    app.end(&keys).await;
}

#[tokio::test]
async fn other_bytes_are_rejected_and_the_image_remains() {
    let app = TestApp::start().await;
    for (at, size) in SIZES.into_iter().enumerate() {
        let value = format!("{at}");
        let first = stored(&app.url, &value, png(size)).await;
        for wrong in [other(png(size)), png(size + 1), fixture("plain.jpg"), fixture("plain.gif")] {
            assert_eq!(rejected(&app.url, &value, wrong).await, reused());
        }
        assert_eq!(rejected(&app.url, &value, b"no image".to_vec()).await.1, "invalid_file_type");
        assert_eq!(read(&app, &first).await, png(size));
        assert_eq!(without_url(stored(&app.url, &value, png(size)).await), without_url(first.clone()));
        assert!(
            app.client.delete(app.at(&format!("/delete/{}", key(&first)))).send().await.unwrap().status().is_success()
        );
    }
    app.end(&[]).await;
}

#[tokio::test]
async fn extension_depends_on_the_bytes_not_the_file_name() {
    let app = TestApp::start().await;
    let mut keys = Vec::new();
    for name in ["a.jpeg", "b.jpg", "c.jfif", "d"] {
        let part = reqwest::multipart::Part::bytes(fixture("plain.jpg")).file_name(name);
        let post = app.client.post(app.at("/upload-image")).header("idempotency-key", VALUE);
        let (status, image) =
            answer(post.multipart(reqwest::multipart::Form::new().part("file", part)).send().await.unwrap()).await;
        assert_eq!(status, 200, "{image}");
        keys.push(key(&image).to_owned());
    }
    assert!(keys[0].ends_with(".jpg") && keys.iter().all(|key| *key == keys[0]), "{keys:?}");
    app.end(&[&keys[0]]).await;
}

#[tokio::test]
async fn values_are_separate_per_api_key() {
    let app = TestApp::with(&["--api-keys=first,second"]).await;
    let send = async |api_key: &str, value: &str| {
        let post = app.client.post(app.at("/upload-image")).header("content-type", "image/png");
        let post = post.header("x-api-key", api_key).header("idempotency-key", value);
        let (status, image) = answer(post.body(fixture("plain.png")).send().await.unwrap()).await;
        assert_eq!(status, 200, "{image}");
        key(&image).to_owned()
    };
    let first = send("first", VALUE).await;
    let second = send("second", VALUE).await;
    assert_ne!(first, second);
    assert_eq!(send("first", VALUE.trim_matches('"')).await, first);
    assert_ne!(send("first", "another").await, first);
    assert_eq!(app.objects().await.len(), 3);
    let objects = app.objects().await;
    app.end(&objects.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn invalid_value_is_rejected_before_the_body() {
    let app = TestApp::start().await;
    for wrong in ["", "\"\"", "\"a", "a b", "a, b", "\"a\"; b=c", &"a".repeat(256)] {
        let length = fixture("plain.png").len();
        let mut client = RawClient::connect(app.address()).await;
        client.send(head(length, &format!("idempotency-key: {wrong}\r\nexpect: 100-continue\r\n"))).await;
        let answer = client.read_answer().await;
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("invalid_request"), "{wrong}: {answer}");
    }
    let post = app.client.post(app.at("/upload-image")).header("content-type", "image/png");
    let post = post.header("idempotency-key", "a").header("idempotency-key", "a").body(fixture("plain.png"));
    assert_eq!(answer(post.send().await.unwrap()).await.0, 400, "two headers");
    app.end(&[]).await;
}

#[tokio::test]
async fn value_can_be_used_again_after_a_delete() {
    let app = TestApp::start().await;
    for size in [1_000, 12 * MIB] {
        let first = stored(&app.url, VALUE, png(size)).await;
        let deleted = app.client.delete(app.at(&format!("/delete/{}", key(&first)))).send().await.unwrap();
        assert_eq!(deleted.status(), 200);
        let second = stored(&app.url, VALUE, other(png(size))).await;
        assert_eq!(key(&second), key(&first));
        assert_eq!(read(&app, &second).await, other(png(size)));
        assert_eq!(app.client.delete(app.at(&format!("/delete/{}", key(&first)))).send().await.unwrap().status(), 200);
    }
    app.end(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_attempts_in_two_processes_store_one_image() {
    let app = TestApp::start().await;
    let (one, two) = (app.url.clone(), app.another().await);
    for size in SIZES {
        let value = format!("of-{size}");
        let bases = [&one, &two].into_iter().cycle().take(8);
        let images = join_all(bases.map(|base| stored(base, &value, png(size)))).await;
        let images: Vec<Value> = images.into_iter().map(without_url).collect();
        assert!(images.iter().all(|image| *image == images[0]), "{images:?}");
        assert_eq!(app.objects().await.len(), 1);
        assert_eq!(
            app.client.delete(app.at(&format!("/delete/{}", key(&images[0])))).send().await.unwrap().status(),
            200
        );
    }
    app.end(&[]).await;
}

/// Uploads eight different images with one value to `bases`. Returns the number and the answer of the winner.
async fn race(bases: [&str; 2], size: usize) -> (usize, Value) {
    let image = |number: usize| {
        let mut bytes = png(size);
        bytes[size - 1] = u8::try_from(number).unwrap();
        bytes
    };
    let bases = bases.into_iter().cycle().take(8).enumerate();
    let answers = join_all(bases.map(|(number, base)| send(base, VALUE, image(number)))).await;
    let mut winners = Vec::new();
    for (number, (status, answer)) in answers.into_iter().enumerate() {
        match status.as_u16() {
            200 => winners.push((number, answer)),
            other => assert_eq!((other, answer["code"].as_str().unwrap()), (422, "idempotency_key_reused")),
        }
    }
    assert_eq!(winners.len(), 1, "{winners:?}");
    winners.pop().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_eight_concurrent_different_images_is_stored() {
    let app = TestApp::start().await;
    let two = app.another().await;
    for size in [1_000, 12 * MIB] {
        let (winner, image) = race([&app.url, &two], size).await;
        assert_eq!(read(&app, &image).await[size - 1], u8::try_from(winner).unwrap());
        assert_eq!(app.client.delete(app.at(&format!("/delete/{}", key(&image)))).send().await.unwrap().status(), 200);
    }
    app.end(&[]).await;
}

/// A service on a strict S3 with these quirks. No checksums are sent to the store.
struct OnStrict {
    backend: Backend,
    faults: Faults,
    url: String,
}

impl OnStrict {
    async fn start(quirks: &[Quirk]) -> OnStrict {
        let backend = Backend::strict().await;
        quirks.iter().for_each(|quirk| backend.strict_s3().take_up(*quirk));
        let faults = Faults::before(&backend.endpoint).await;
        let endpoint = faults.endpoint.clone();
        let store = backend.store_with(|options| {
            options.endpoint = Some(endpoint);
            options.checksum = Checksum::None;
        });
        let url = TestApp::serve(store.await).await;
        OnStrict { backend, faults, url }
    }

    fn bytes(&self, image: &Value) -> Vec<u8> {
        self.backend.strict_s3().object(&format!("{}{}", self.backend.options.prefix, key(image))).unwrap().bytes
    }

    async fn delete(&self, image: &Value) {
        let deleted = Client::new().delete(format!("{}/delete/{}", self.url, key(image))).send().await.unwrap();
        assert_eq!(deleted.status(), 200);
    }
}

/// Garage is such a store.
#[tokio::test(flavor = "multi_thread")]
async fn one_image_is_stored_without_conditional_writes_in_one_process() {
    let on = OnStrict::start(&[Quirk::NoIfNoneMatch, Quirk::NoCrc64]).await;
    for size in [1_000, 12 * MIB] {
        let images = join_all((0..8).map(|_| stored(&on.url, VALUE, png(size)))).await;
        let images: Vec<Value> = images.into_iter().map(without_url).collect();
        assert!(images.iter().all(|image| *image == images[0]), "{images:?}");
        assert_eq!(on.bytes(&images[0]), png(size));
        on.delete(&images[0]).await;

        let (winner, image) = race([&on.url, &on.url], size).await;
        assert_eq!(
            on.bytes(&image)[size - 1],
            u8::try_from(winner).unwrap(),
            "the acknowledged image is the stored one"
        );
        on.delete(&image).await;
    }
    on.backend.check_clean().await;
}

/// A promotion writes the same key as a form.
#[tokio::test]
async fn promotion_and_upload_of_one_key_take_turns_without_conditional_writes() {
    let on = OnStrict::start(&[Quirk::NoIfNoneMatch, Quirk::NoCrc64]).await;
    let (client, size) = (Client::new(), 1_000);
    let post = |path: &str| client.post(format!("{}{path}", on.url));
    let (_, grant) = answer(post("/grants").json(&json!({ "filename": "a.png" })).send().await.unwrap()).await;
    let grant = grant["grant"].as_str().unwrap();
    let request = json!({ "filename": "a.png", "size": size });
    let (_, plan) = answer(post("/uploads").bearer_auth(grant).json(&request).send().await.unwrap()).await;
    let headers = plan["headers"].as_object().unwrap().iter().filter(|(name, _)| *name != "content-length");
    let put = client.put(plan["url"].as_str().unwrap());
    let put = headers.fold(put, |put, (name, value)| put.header(name, value.as_str().unwrap()));
    assert_eq!(put.body(png(size)).send().await.unwrap().status(), 200);

    on.faults.fail_once(Operation::Put, Action::Hold);
    let puts = on.faults.calls(Operation::Put);
    let form = post("/images").bearer_auth(grant).header("content-type", "image/png").body(png(size + 1));
    let form = tokio::spawn(form.send());
    on.faults.wait_for(Operation::Put, puts + 1).await;
    let promotion = tokio::spawn(post(plan["complete_url"].as_str().unwrap()).send());
    on.faults.wait_for(Operation::Copy, 1).await;
    on.faults.release();
    let (status, image) = answer(form.await.unwrap().unwrap()).await;
    assert_eq!(status, 200, "{image}");
    let (status, error) = answer(promotion.await.unwrap().unwrap()).await;
    assert_eq!((status.as_u16(), &error["code"]), (409, &json!("already_exists")), "{error}");
    assert_eq!(on.bytes(&image), png(size + 1), "the acknowledged image is the stored one");
    on.delete(&image).await;
}

/// No condition of the store applies, because the two images have two keys.
#[tokio::test]
async fn two_formats_at_the_same_time_store_one_image_in_one_process() {
    let app = TestApp::behind_faults(&["--s3-timeout=30s"]).await;
    app.faults().fail_once(Operation::Put, Action::Hold);
    let first = tokio::spawn(send_to(app.url.clone(), png(1_000)));
    app.faults().wait_for(Operation::Put, 1).await;
    let second = tokio::spawn(send_to(app.url.clone(), fixture("plain.gif")));
    // It finds no image.
    app.faults().wait_for(Operation::ListObjects, 2).await;
    app.faults().release();
    let ((status, image), (_, error)) = (first.await.unwrap(), second.await.unwrap());
    assert_eq!((status.as_u16(), &error["code"]), (200, &json!("idempotency_key_reused")), "{image} {error}");
    app.end(&[key(&image)]).await;
}

async fn send_to(base: String, bytes: Vec<u8>) -> (StatusCode, Value) {
    send(&base, VALUE, bytes).await
}

/// Another process has stored an image of another format while the parts were sent.
#[tokio::test]
async fn long_upload_is_rejected_if_another_format_was_stored_meanwhile() {
    let app = TestApp::behind_faults(&[]).await;
    let another = app.another().await;
    let body = form("a.png", &png(12 * MIB));
    let mut client = RawClient::connect(app.address()).await;
    client.send(head(body.len(), &format!("idempotency-key: {VALUE}\r\n"))).await;
    client.send(&body[..7 * MIB]).await;
    app.faults().wait_for(Operation::UploadPart, 1).await;
    let image = stored(&another, VALUE, fixture("plain.gif")).await;
    client.send(&body[7 * MIB..]).await;
    let answer = client.read_answer().await;
    assert!(answer.starts_with("HTTP/1.1 422") && answer.contains("idempotency_key_reused"), "{answer}");
    assert_eq!(app.faults().calls(Operation::Complete), 0);
    app.end(&[key(&image)]).await;
}

#[tokio::test]
async fn object_without_checksum_is_read_for_comparison() {
    let on = OnStrict::start(&[Quirk::NoCrc64]).await;
    for (size, reads) in [(1_000, 0), (12 * MIB, 1)] {
        let first = stored(&on.url, VALUE, png(size)).await;
        let before = on.faults.calls(Operation::Get);
        assert_eq!(without_url(stored(&on.url, VALUE, png(size)).await), without_url(first.clone()));
        assert_eq!(on.faults.calls(Operation::Get) - before, reads, "{size} bytes: a single PUT stores its checksum");
        assert_eq!(rejected(&on.url, VALUE, png(size + 1)).await, reused());
        assert_eq!(on.faults.calls(Operation::Get) - before, reads, "a different size needs no read");
        assert_eq!(rejected(&on.url, VALUE, other(png(size))).await, reused());
        on.delete(&first).await;
    }
    on.backend.check_clean().await;
}

/// An object that cannot be read is never considered equal.
#[tokio::test]
async fn unreadable_image_is_outcome_unknown() {
    let on = OnStrict::start(&[Quirk::NoCrc64]).await;
    let first = stored(&on.url, VALUE, png(12 * MIB)).await;
    on.faults.fail_all(Operation::Get, Action::Status(403));
    assert_eq!(rejected(&on.url, VALUE, png(12 * MIB)).await, unknown());
    on.faults.heal();
    assert_eq!(without_url(stored(&on.url, VALUE, png(12 * MIB)).await), without_url(first.clone()));
    on.delete(&first).await;
    on.backend.check_clean().await;
}

const TIMEOUT: &str = "--s3-timeout=1s";

/// The call that creates the object, and an image size for which it is used.
const CREATING_CALLS: [(Operation, usize); 2] = [(Operation::Put, 1_000), (Operation::Complete, 12 * MIB)];

#[tokio::test]
async fn lost_answer_is_resolved_by_reading_the_object() {
    for (operation, size) in CREATING_CALLS {
        for nth in [1..=1, 1..=usize::MAX] {
            let app = TestApp::behind_faults(&[TIMEOUT]).await;
            app.faults().fail(operation, nth, Action::LoseAnswer);
            let image = stored(&app.url, VALUE, png(size)).await;
            app.faults().heal();
            assert_eq!(without_url(stored(&app.url, VALUE, png(size)).await), without_url(image.clone()));
            app.settled().await;
            assert_eq!(app.faults().calls(Operation::Delete), 0);
            app.end(&[key(&image)]).await;
        }
    }
}

/// The store creates the object, but the service cannot see it. The next attempt finds it.
#[tokio::test]
async fn object_that_may_have_been_written_is_never_deleted() {
    for (operation, size) in CREATING_CALLS {
        let app = TestApp::behind_faults(&[TIMEOUT]).await;
        app.faults().fail_all(operation, Action::LoseAnswer);
        // The first HEAD, before the call, finds no object.
        app.faults().fail(Operation::Head, 2..=usize::MAX, Action::Status(403));
        assert_eq!(rejected(&app.url, VALUE, png(size)).await, unknown(), "{operation:?}");
        app.settled().await;
        assert_eq!(app.faults().calls(Operation::Delete), 0);
        assert_eq!(app.objects().await.len(), 1);
        app.faults().heal();
        let image = stored(&app.url, VALUE, png(size)).await;
        assert_eq!(rejected(&app.url, VALUE, other(png(size))).await, reused());
        app.end(&[key(&image)]).await;
    }
}

#[tokio::test]
async fn next_attempt_succeeds_after_a_call_that_never_arrived() {
    for (operation, size) in CREATING_CALLS {
        let app = TestApp::behind_faults(&[TIMEOUT]).await;
        app.faults().fail_all(operation, Action::Hang);
        assert_eq!(rejected(&app.url, VALUE, png(size)).await, unknown(), "{operation:?}");
        app.settled().await;
        assert!(app.objects().await.is_empty());
        assert_eq!(app.faults().calls(Operation::Delete), 0);
        app.faults().heal();
        let image = stored(&app.url, VALUE, png(size)).await;
        app.end(&[key(&image)]).await;
    }
}

/// A call that timed out takes effect after another attempt has succeeded.
#[tokio::test]
async fn late_call_does_not_change_the_image() {
    for (operation, size) in CREATING_CALLS {
        let app = TestApp::behind_faults(&[TIMEOUT]).await;
        app.faults().fail(operation, 1..=3, Action::Late);
        assert_eq!(rejected(&app.url, VALUE, png(size)).await, unknown(), "{operation:?}");
        app.settled().await;
        let image = stored(&app.url, VALUE, png(size)).await;
        app.faults().release();
        assert_eq!(without_url(stored(&app.url, VALUE, png(size)).await), without_url(image.clone()));
        assert_eq!(app.faults().calls(Operation::Delete), 0);
        app.end(&[key(&image)]).await;
    }
}

/// An upload whose Create got no answer may belong to another attempt, so only the sweep aborts it.
#[tokio::test]
async fn uploads_with_unknown_ids_are_left_to_the_sweep() {
    let app = TestApp::behind_faults(&[TIMEOUT]).await;
    app.faults().fail(Operation::Create, 1..=1, Action::LoseAnswer);
    let image = stored(&app.url, VALUE, png(12 * MIB)).await;
    app.faults().heal();
    app.faults().fail_all(Operation::Create, Action::LoseAnswer);
    assert_eq!(rejected(&app.url, "another", png(12 * MIB)).await, (500, "storage_failed".to_owned()));
    app.settled().await;
    app.app.uploads.reconciler().conclude().await;
    assert_eq!((app.faults().calls(Operation::ListUploads), app.faults().calls(Operation::Abort)), (0, 0));
    let left = app.store.unfinished_uploads().await.unwrap();
    assert_eq!(left.len(), 4, "one of the first upload, three of the second: {left:?}");
    for upload in &left {
        app.store.remove_leftover(upload).await.unwrap();
    }
    assert_eq!(without_url(stored(&app.url, VALUE, png(12 * MIB)).await), without_url(image.clone()));
    app.end(&[key(&image)]).await;
}

/// The store reports an existing object or a concurrent write, but there is no object.
#[tokio::test]
async fn false_conflict_deletes_nothing_and_can_be_retried() {
    const EXISTS: Action = Action::Answer(412, "<Error><Code>PreconditionFailed</Code></Error>");
    const CONFLICT: Action = Action::Answer(409, "<Error><Code>ConditionalRequestConflict</Code></Error>");
    for (operation, size) in CREATING_CALLS {
        for action in [EXISTS, CONFLICT] {
            let app = TestApp::behind_faults(&[TIMEOUT]).await;
            app.faults().fail_all(operation, action);
            assert_eq!(rejected(&app.url, VALUE, png(size)).await, unknown(), "{operation:?}");
            app.settled().await;
            assert_eq!(app.faults().calls(Operation::Delete), 0);
            assert!(app.store.unfinished_uploads().await.unwrap().is_empty());
            app.faults().heal();
            let image = stored(&app.url, VALUE, png(size)).await;
            app.end(&[key(&image)]).await;
        }
    }
}

/// Another attempt succeeds between the HEAD and the write.
#[tokio::test]
async fn image_of_a_concurrent_attempt_is_compared() {
    for (operation, size) in CREATING_CALLS {
        let app = TestApp::behind_faults(&[]).await;
        let second = app.another().await;
        app.faults().fail(operation, 1..=1, Action::Hold);
        let (url, bytes) = (app.url.clone(), png(size));
        let slow = tokio::spawn(async move { send(&url, VALUE, bytes).await });
        app.faults().wait_for(operation, 1).await;
        let image = stored(&second, VALUE, png(size)).await;
        app.faults().release();
        let (status, same) = slow.await.unwrap();
        assert_eq!((status.as_u16(), without_url(same)), (200, without_url(image.clone())), "{operation:?}");

        app.faults().heal();
        app.faults().fail_once(operation, Action::LoseAnswer);
        assert_eq!(app.client.delete(app.at(&format!("/delete/{}", key(&image)))).send().await.unwrap().status(), 200);
        let again = stored(&app.url, VALUE, other(png(size))).await;
        assert_eq!(rejected(&second, VALUE, png(size)).await, reused());
        app.settled().await;
        assert_eq!(read(&app, &stored(&app.url, VALUE, other(png(size))).await).await, other(png(size)));
        app.end(&[key(&again)]).await;
    }
}

#[tokio::test]
async fn aborted_upload_leaves_nothing_and_can_be_repeated() {
    let app = TestApp::behind_faults(&[]).await;
    let body = form("a.png", &png(12 * MIB));
    let mut client = RawClient::connect(app.address()).await;
    client.send(head(body.len(), &format!("idempotency-key: {VALUE}\r\n"))).await;
    client.send(&body[..7 * MIB]).await;
    app.faults().wait_for(Operation::UploadPart, 1).await;
    client.reset();
    app.settled().await;
    assert!(app.objects().await.is_empty());
    assert!(app.store.unfinished_uploads().await.unwrap().is_empty(), "the upload is aborted");
    let image = stored(&app.url, VALUE, png(12 * MIB)).await;
    app.end(&[key(&image)]).await;
}

/// The client disconnects after everything was sent. The object remains, and the next attempt returns it.
#[tokio::test]
async fn object_remains_if_the_client_disconnects_at_the_end() {
    for (operation, size) in CREATING_CALLS {
        let app = TestApp::behind_faults(&["--s3-timeout=20s"]).await;
        app.faults().fail(operation, 1..=1, Action::Hold);
        let body = form("a.png", &png(size));
        let mut client = RawClient::connect(app.address()).await;
        client.send(head(body.len(), &format!("idempotency-key: {VALUE}\r\n"))).await;
        client.send(&body).await;
        app.faults().wait_for(operation, 1).await;
        client.reset();
        until("the request is over", || app.app.scrape().contains("reason=\"client_gone\"")).await;
        app.faults().release();
        app.settled().await;
        assert_eq!(app.objects().await.len(), 1, "{operation:?}");
        assert_eq!(app.faults().calls(Operation::Delete), 0);
        let image = stored(&app.url, VALUE, png(size)).await;
        assert_eq!(app.faults().calls(operation), 1);
        app.end(&[key(&image)]).await;
    }
}

#[tokio::test]
async fn repeated_upload_returns_the_stored_metadata() {
    let app = TestApp::start().await;
    let first = stored(&app.url, VALUE, fixture("plain.png")).await;
    assert_eq!(first.get("metadata"), None);
    let name = ObjectName::Image(ImageKey::parse(key(&first)).unwrap());
    app.store.delete(&name).await.unwrap();
    let custom = CustomMetadata::from([("owner".to_owned(), "J\u{fc}rgen".to_owned())]);
    let metadata = Metadata { dimensions: Some((16, 12)), ..Metadata::unverified("image/png", custom) };
    app.store.put(&name, &metadata, payload(&fixture("plain.png").into())).await.unwrap();

    let again = stored(&app.url, VALUE, fixture("plain.png")).await;
    assert_eq!(again["metadata"], json!({ "owner": "J\u{fc}rgen" }));
    let link = app.client.get(app.at(&format!("/images/{}/url", key(&first)))).send().await.unwrap();
    assert_eq!(link.json::<Value>().await.unwrap()["metadata"], again["metadata"]);
    app.end(&[key(&first)]).await;
}

/// A repeated upload reserves no memory while it is compared.
#[tokio::test]
async fn repeated_upload_reserves_nothing_for_its_body() {
    let app = TestApp::behind_faults(&[]).await;
    let image = stored(&app.url, VALUE, png(12 * MIB)).await;
    let heads = app.faults().calls(Operation::Head);
    let body = form("a.png", &png(12 * MIB));
    let mut client = RawClient::connect(app.address()).await;
    client.send(head(body.len(), &format!("idempotency-key: {VALUE}\r\n"))).await;
    client.send(&body[..11 * MIB]).await;
    app.faults().wait_for(Operation::Head, heads + 1).await;
    until("its reservation is released", || app.app.uploads.used() == (0, 0)).await;
    client.send(&body[11 * MIB..]).await;
    let answer = client.read_answer().await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(key(&image)), "{answer}");
    app.end(&[key(&image)]).await;
}

#[tokio::test]
async fn small_image_needs_one_list_and_a_head_only_on_unknown_stores() {
    let app = TestApp::behind_faults(&[]).await;
    let image = stored(&app.url, VALUE, fixture("plain.png")).await;
    let calls = [Operation::ListObjects, Operation::Head, Operation::Put].map(|call| app.faults().calls(call));
    assert_eq!(calls, [1, 1, 1]);
    app.end(&[key(&image)]).await;

    // The embedded store, in process, honours If-None-Match.
    let app = TestApp::start().await;
    let image = stored(&app.url, VALUE, fixture("plain.png")).await;
    let metrics = app.app.scrape();
    let calls = |operation: &str| {
        let start = format!("image_store_s3_call_duration_seconds_count{{operation=\"{operation}\"");
        let counted = metrics.lines().filter(|line| line.starts_with(&start));
        counted.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum::<u64>()
    };
    assert_eq!(["ListObjectsV2", "HeadObject", "PutObject"].map(calls), [1, 0, 1], "{metrics}");
    app.end(&[key(&image)]).await;
}
