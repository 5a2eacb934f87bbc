//! Uploads with grants: in a header, the path and a form field, with limits, created by the service and by others.

use image_store::auth::grants::{Claims, DEFAULT_LIFETIME, sign_offline};
use reqwest::multipart::{Form, Part};
use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};
use std::process::Command;
use std::time::{Duration, SystemTime};
use tempfile::{NamedTempFile, TempDir};

use crate::process::{Process, binary};
use crate::support::app::{TestApp, fixture, png, until};
use crate::support::raw::{BOUNDARY, RawClient, form, head};

const API_KEY: &str = "a-key-that-is-long-enough";
const KEYS: &str = "--api-keys=a-key-that-is-long-enough";
const IMAGE_KEY: &str = "0c6f1c1e-5d0b-4f6e-9d3a-1f2e3d4c5b6a.png";
const MIB: usize = 1 << 20;

/// Returns a grant with these claims, signed as by a backend.
fn sign(change: impl FnOnce(&mut Claims)) -> String {
    let mut claims = Claims::lasting(DEFAULT_LIFETIME);
    change(&mut claims);
    sign_offline(&claims, API_KEY, None).unwrap()
}

fn plain() -> String {
    sign(|_| {})
}

fn keyed(key: &str) -> String {
    sign(|claims| claims.key = Some(key.to_owned()))
}

fn expired() -> String {
    sign(|claims| claims.exp = (SystemTime::now() - Duration::from_secs(120)).into())
}

fn file(name: &str, bytes: Vec<u8>) -> Part {
    Part::bytes(bytes).file_name(name.to_owned())
}

fn image_form() -> Form {
    Form::new().part("file", file("a.png", fixture("plain.png")))
}

async fn answer(request: RequestBuilder, status: u16) -> Value {
    body(request.send().await.unwrap(), status).await
}

async fn body(response: Response, status: u16) -> Value {
    let found = response.status();
    let text = response.text().await.unwrap();
    assert_eq!(found.as_u16(), status, "{text}");
    if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() }
}

async fn rejected(request: RequestBuilder, status: u16, code: &str) -> Value {
    let body = answer(request, status).await;
    assert_eq!(body["code"], code, "{body}");
    body
}

fn raw(app: &TestApp, grant: &str, content_type: &str, bytes: Vec<u8>) -> RequestBuilder {
    app.client.post(app.at("/upload-image")).bearer_auth(grant).header("content-type", content_type).body(bytes)
}

fn posted(app: &TestApp, path: &str, form: Form) -> RequestBuilder {
    app.client.post(app.at(path)).multipart(form)
}

async fn end(app: TestApp, images: &[Value]) {
    let keys: Vec<&str> = images.iter().map(|image| image["s3_key"].as_str().unwrap()).collect();
    app.end(&keys).await;
}

#[tokio::test]
async fn grant_is_accepted_in_header_path_and_form_field() {
    let app = TestApp::with(&[KEYS]).await;
    let grant = plain();
    let in_path = format!("/g/{grant}/upload-image");
    let field = || Form::new().text("user", "7").text("grant", grant.clone());
    let mut images = Vec::new();
    for request in [
        posted(&app, "/upload-image", image_form()).bearer_auth(&grant),
        raw(&app, &grant, "image/png", fixture("plain.png")),
        posted(&app, &in_path, image_form()),
        app.client.post(app.at(&in_path)).header("content-type", "image/png").body(fixture("plain.png")),
        posted(&app, "/upload-image", field().part("file", file("a.png", fixture("plain.png")))),
    ] {
        images.push(answer(request, 200).await);
    }
    // The URL of the image does not contain the grant.
    let response = posted(&app, &in_path, image_form()).send().await.unwrap();
    let location = response.url().join(response.headers()["location"].to_str().unwrap()).unwrap();
    images.push(body(response, 200).await);
    assert_eq!(location.path(), format!("/images/{}", images.last().unwrap()["s3_key"].as_str().unwrap()));
    end(app, &images).await;
}

#[tokio::test]
async fn only_the_first_credential_counts_and_must_be_valid() {
    let app = TestApp::with(&[KEYS]).await;
    let (right, wrong) = (plain(), format!("{}x", plain()));
    let with_field =
        |grant: &str| Form::new().text("grant", grant.to_owned()).part("file", file("a.png", fixture("plain.png")));
    let path = |grant: &str| format!("/g/{grant}/upload-image");
    let mut images = Vec::new();
    for request in [
        posted(&app, &path(&right), image_form()).bearer_auth("wrong"),
        posted(&app, &path(&right), with_field(&wrong)),
        posted(&app, "/upload-image", with_field(&wrong)).bearer_auth(API_KEY),
        posted(&app, "/upload-image", with_field(&wrong)).bearer_auth(&right),
    ] {
        images.push(answer(request, 200).await);
    }
    for (request, code) in [
        (posted(&app, &path(&wrong), image_form()).bearer_auth(API_KEY), "invalid_token"),
        (posted(&app, &path(&expired()), with_field(&right)).bearer_auth(&right), "expired_token"),
        (posted(&app, "/upload-image", with_field(&right)).bearer_auth(&wrong), "invalid_token"),
        (posted(&app, "/upload-image", with_field(&right)).header("x-api-key", "wrong"), "unauthorized"),
        (posted(&app, "/upload-image", with_field(&wrong)), "invalid_token"),
        (posted(&app, "/upload-image", with_field(&expired())), "expired_token"),
        (posted(&app, "/upload-image", with_field("")), "unauthorized"),
        // An API key is not accepted in a form field.
        (posted(&app, "/upload-image", with_field(API_KEY)), "invalid_token"),
    ] {
        rejected(request, 401, code).await;
    }
    end(app, &images).await;
}

#[tokio::test]
async fn grant_field_must_precede_the_file_within_64_kib() {
    let app = TestApp::with(&[KEYS]).await;
    let late = image_form().text("grant", plain());
    let far = Form::new().text("long", "x".repeat(70_000)).text("grant", plain());
    let far = far.part("file", file("a.png", fixture("plain.png")));
    let long =
        Form::new().text("grant", plain() + &"x".repeat(9_000)).part("file", file("a.png", fixture("plain.png")));
    rejected(posted(&app, "/upload-image", long), 401, "invalid_token").await;
    for form in [late, far, image_form(), Form::new().text("user", "7")] {
        let rejected = rejected(posted(&app, "/upload-image", form), 401, "unauthorized").await;
        let detail = rejected["detail"].as_str().unwrap();
        assert!(detail.contains("before the field 'file'") && detail.contains("64 KiB"), "{detail}");
    }
    app.end(&[]).await;

    // Without API keys, a form needs no grant. If it contains one, the grant's limits apply.
    let app = TestApp::start().await;
    let far = Form::new().text("long", "x".repeat(70_000)).part("file", file("a.png", fixture("plain.png")));
    let image = answer(posted(&app, "/upload-image", far), 200).await;
    let granted = answer(app.client.post(app.at("/grants")).json(&json!({ "max_size": 10 })), 201).await;
    let bound = Form::new().text("grant", granted["grant"].as_str().unwrap().to_owned());
    let bound = bound.part("file", file("a.png", fixture("plain.png")));
    rejected(posted(&app, "/upload-image", bound), 413, "payload_too_large").await;
    end(app, &[image]).await;
}

#[tokio::test]
async fn nothing_is_reserved_before_the_grant_field_is_read() {
    let app = TestApp::with(&[KEYS, "--public-read=true"]).await;
    let rest = form("a.png", &png(100_000));
    let field = |name: &str, value: &str| {
        format!("--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    let (before, grant) = (field("user", &"x".repeat(20_000)), field("grant", &plain()));
    let mut client = RawClient::connect(app.address()).await;
    client.send(head(before.len() + grant.len() + rest.len(), "connection: close\r\n")).await;
    client.send(&before).await;
    app.go_round().await;
    assert_eq!(app.app.uploads.used(), (0, 0));
    client.send(&grant).await;
    client.send(&rest[..50_000]).await;
    until("memory is reserved", || app.app.uploads.used().0 > 0).await;
    client.send(&rest[50_000..]).await;
    let answer = client.read_to_end().await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let key = crate::support::raw::s3_key(&answer);
    app.end(&[&key]).await;
}

#[tokio::test]
async fn grant_limits_apply_to_every_upload_method() {
    let app = TestApp::with(&[KEYS, "--direct-put-max=6MiB"]).await;
    let small = sign(|claims| claims.max_size = Some(2_000));
    let jpegs = sign(|claims| claims.formats = Some(vec!["jpg".to_owned(), "gif".to_owned()]));
    let large_form = || Form::new().part("file", file("a.png", png(2_001)));
    let too_large = [
        raw(&app, &small, "image/png", png(2_001)),
        posted(&app, "/upload-image", large_form()).bearer_auth(&small),
        posted(&app, &format!("/g/{small}/upload-image"), large_form()),
        posted(&app, "/upload-image", Form::new().text("grant", small.clone()).part("file", file("a.png", png(2_001)))),
        app.client.post(app.at("/uploads")).bearer_auth(&small).json(&json!({ "filename": "a.png", "size": 2_001 })),
    ];
    for request in too_large {
        let rejected = rejected(request, 413, "payload_too_large").await;
        assert!(rejected["detail"].as_str().unwrap().contains("2000 bytes"), "{rejected}");
    }
    let wrong_type = [
        raw(&app, &jpegs, "image/png", fixture("plain.png")),
        raw(&app, &jpegs, "image/gif", fixture("plain.png")),
        posted(&app, "/upload-image", image_form()).bearer_auth(&jpegs),
        posted(&app, "/upload-image", Form::new().part("file", file("a.jpg", fixture("plain.png"))))
            .bearer_auth(&jpegs),
        app.client.post(app.at("/uploads")).bearer_auth(&jpegs).json(&json!({ "filename": "a.png", "size": 1 })),
        app.client.post(app.at(&format!("/g/{jpegs}/uploads"))).json(&json!({ "filename": "a.png", "size": 1 })),
    ];
    for request in wrong_type {
        let rejected = rejected(request, 400, "invalid_file_type").await;
        assert_eq!(rejected["accepted"], json!(["jpeg", "gif"]));
    }
    let fits = answer(raw(&app, &small, "image/png", png(2_000)), 200).await;
    let jpeg = answer(raw(&app, &jpegs, "image/jpeg", fixture("plain.jpg")), 200).await;
    // A grant cannot extend the limits of the service.
    let wide = sign(|claims| (claims.max_size, claims.formats) = (Some(u64::MAX), Some(vec!["webp".to_owned()])));
    let rejected = rejected(raw(&app, &wide, "image/webp", fixture("lossy.webp")), 400, "invalid_file_type").await;
    assert_eq!(rejected["accepted"], json!([]));
    end(app, &[fits, jpeg]).await;
}

#[tokio::test]
async fn upload_exceeding_the_grant_is_rejected_before_its_body() {
    let app = TestApp::with(&[KEYS]).await;
    let bytes = form("a.png", &png(5 * MIB));
    let small = sign(|claims| claims.max_size = Some(1 << 18));
    for (grant, status) in [(small, "413"), (expired(), "401"), (format!("{}x", plain()), "401")] {
        let mut client = RawClient::connect(app.address()).await;
        client.send(head(bytes.len(), &format!("expect: 100-continue\r\nauthorization: Bearer {grant}\r\n"))).await;
        let answer = client.read_to_end().await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) && !answer.contains("100 Continue"), "{answer}");
    }
    app.end(&[]).await;
}

#[tokio::test]
async fn grant_limits_apply_to_plans() {
    let app = TestApp::with(&[KEYS, "--direct-put-max=6MiB"]).await;
    let plan = async |grant: &str, wish: Value| {
        answer(app.client.post(app.at("/uploads")).bearer_auth(grant).json(&wish), 201).await
    };
    let put = async |plan: &Value, bytes: &[u8]| {
        let headers = plan["headers"].as_object().unwrap().iter().filter(|(name, _)| *name != "content-length");
        let request = app.client.put(plan["url"].as_str().unwrap());
        let request = headers.fold(request, |request, (name, value)| request.header(name, value.as_str().unwrap()));
        assert_eq!(request.body(bytes.to_vec()).send().await.unwrap().status(), 200);
        app.client.post(app.at(plan["complete_url"].as_str().unwrap()))
    };
    let image = fixture("plain.png");
    let wish = |name: &str, size: usize| json!({ "filename": name, "size": size });

    let free = plan(&plain(), wish("a.png", image.len())).await;
    let stored = answer(put(&free, &image).await, 200).await;

    // For exactly the key of the grant, regardless of the file name.
    let one = plan(&keyed(IMAGE_KEY), wish("a.jpg", image.len())).await;
    assert_eq!((&one["s3_key"], &one["headers"]["content-type"]), (&json!(IMAGE_KEY), &json!("image/png")));
    let fixed = answer(put(&one, &image).await, 200).await;
    assert_eq!(fixed["s3_key"], IMAGE_KEY);

    let jpg = IMAGE_KEY.replace("png", "jpg");
    let other = plan(&keyed(&jpg), wish("a.jpg", image.len())).await;
    let rejected_late = rejected(put(&other, &image).await, 400, "invalid_file_type").await;
    assert_eq!((&rejected_late["detected"], &rejected_late["accepted"]), (&json!("png"), &json!(["jpeg"])));
    let declared = json!({ "filename": "a.jpg", "content_type": "image/png", "size": 1 });
    let request = app.client.post(app.at("/uploads")).bearer_auth(keyed(&jpg)).json(&declared);
    assert_eq!(rejected(request, 400, "invalid_file_type").await["accepted"], json!(["jpeg"]));

    // The links are valid without the grant, even after it has expired.
    let large = plan(&plain(), wish("a.png", 7 * MIB)).await;
    assert!(large["parts"].as_array().unwrap().len() > 1);
    let in_path = format!("/g/{}{}", expired(), large["abort_url"].as_str().unwrap());
    rejected(app.client.delete(app.at(&in_path)), 401, "expired_token").await;
    let in_path = format!("/g/{}{}", plain(), large["status_url"].as_str().unwrap());
    assert_eq!(answer(app.client.get(app.at(&in_path)), 200).await["state"], "waiting");
    answer(app.client.delete(app.at(large["abort_url"].as_str().unwrap())), 204).await;
    end(app, &[stored, fixed]).await;
}

#[tokio::test]
async fn image_is_stored_under_the_key_of_the_grant() {
    let app = TestApp::with(&[KEYS]).await;
    let grant = keyed(IMAGE_KEY);
    // The detected format must match the key. The file name is irrelevant.
    let named_png = Form::new().part("file", file("a.png", fixture("plain.jpg")));
    let wrong = rejected(posted(&app, "/upload-image", named_png).bearer_auth(&grant), 400, "invalid_file_type").await;
    assert_eq!((&wrong["detected"], &wrong["accepted"]), (&json!("jpeg"), &json!(["png"])));
    let named_svg = Form::new().part("file", file("a.svg", fixture("plain.png")));
    rejected(posted(&app, "/upload-image", named_svg).bearer_auth(&grant), 400, "invalid_file_type").await;
    let named_jpg = Form::new().part("file", file("a.jpg", fixture("plain.png")));
    let image = answer(posted(&app, "/upload-image", named_jpg).bearer_auth(&grant), 200).await;
    assert_eq!((&image["s3_key"], &image["content_type"]), (&json!(IMAGE_KEY), &json!("image/png")));
    end(app, &[image]).await;
}

#[tokio::test]
async fn limits_route_returns_the_limits_of_the_grant() {
    let app = TestApp::with(&[KEYS, "--max-upload-size=12MiB"]).await;
    let names = |limits: &Value| -> Vec<String> {
        let formats = limits["formats"].as_array().unwrap().iter();
        formats.map(|format| format["name"].as_str().unwrap().to_owned()).collect()
    };
    let open = answer(app.client.get(app.at("/limits")), 200).await;
    assert_eq!((&open["max_upload_size"], names(&open).len()), (&json!(12 * MIB), 4));
    assert!(open.get("expires_at").is_none() && open.get("s3_key").is_none(), "{open}");

    let grant = sign(|claims| (claims.max_size, claims.formats) = (Some(1000), Some(vec!["png".to_owned()])));
    for request in
        [app.client.get(app.at("/limits")).bearer_auth(&grant), app.client.get(app.at(&format!("/g/{grant}/limits")))]
    {
        let limits = answer(request, 200).await;
        for size in ["max_upload_size", "max_stream_size", "direct_put_max"] {
            assert_eq!(limits[size], 1000, "{limits}");
        }
        assert_eq!(names(&limits), ["png"]);
        let ends = humantime::parse_rfc3339(limits["expires_at"].as_str().unwrap()).unwrap();
        let left = ends.duration_since(SystemTime::now()).unwrap().as_secs();
        assert!((890..=900).contains(&left), "{left}");
    }
    let keyed = answer(app.client.get(app.at("/limits")).bearer_auth(keyed(IMAGE_KEY)), 200).await;
    assert_eq!((names(&keyed), &keyed["s3_key"]), (vec!["png".to_owned()], &json!(IMAGE_KEY)));
    app.end(&[]).await;
}

#[tokio::test]
async fn service_creates_grants_for_api_keys() {
    let app =
        TestApp::with(&["--api-keys=a-key-that-is-long-enough,short", "--public-url=https://images.example/up"]).await;
    let mint = |key: &str, body: Value| app.client.post(app.at("/grants")).bearer_auth(key).json(&body);
    let granted = answer(mint(API_KEY, json!({})), 201).await;
    let token = granted["grant"].as_str().unwrap();
    assert_eq!(granted["url"], format!("https://images.example/up/g/{token}/"));
    assert!(granted.get("s3_key").is_none());
    let ends = humantime::parse_rfc3339(granted["expires_at"].as_str().unwrap()).unwrap();
    assert!((890..=900).contains(&ends.duration_since(SystemTime::now()).unwrap().as_secs()));
    let plain_image = answer(raw(&app, token, "image/png", fixture("plain.png")), 200).await;

    let wish = json!({ "expires_in": 86_400, "max_size": 900, "formats": ["jpg", "png"], "filename": "a.PNG",
        "metadata": { "user": "7" } });
    let one = answer(mint(API_KEY, wish), 201).await;
    assert!(one["s3_key"].as_str().unwrap().ends_with(".png"), "{one}");
    let token = one["grant"].as_str().unwrap();
    rejected(raw(&app, token, "image/png", png(901)), 413, "payload_too_large").await;
    let image = answer(raw(&app, token, "image/png", fixture("plain.png")), 200).await;
    assert_eq!(image["s3_key"], one["s3_key"]);
    let by_type = answer(mint(API_KEY, json!({ "content_type": "image/jpeg" })), 201).await;
    assert!(by_type["s3_key"].as_str().unwrap().ends_with(".jpg"), "{by_type}");

    rejected(mint("short", json!({})), 403, "key_too_short").await;
    rejected(mint(token, json!({})), 403, "forbidden").await;
    rejected(mint("wrong", json!({})), 401, "unauthorized").await;
    let long = "x".repeat(1100);
    for wrong in [
        json!({ "expires_in": 0 }),
        json!({ "expires_in": 86_401 }),
        json!({ "expires_in": "1" }),
        json!({ "max_size": 0 }),
        json!({ "max_size": -1 }),
        json!({ "formats": ["svg"] }),
        json!({ "metadata": { "a": 1 } }),
        json!({ "metadata": { "a": long } }),
        json!({ "maxsize": 1 }),
        json!([]),
    ] {
        rejected(mint(API_KEY, wrong.clone()), 400, "invalid_request").await;
    }
    for wrong in [
        json!({ "formats": ["webp"] }),
        json!({ "formats": [] }),
        json!({ "filename": "a.svg" }),
        json!({ "filename": "a" }),
        json!({ "content_type": "image/webp" }),
        json!({ "formats": ["png"], "filename": "a.jpg" }),
    ] {
        rejected(mint(API_KEY, wrong.clone()), 400, "invalid_file_type").await;
    }
    end(app, &[plain_image, image]).await;
}

#[tokio::test]
async fn page_is_served_with_a_grant_in_the_path() {
    let app = TestApp::with(&[KEYS]).await;
    let get = async |path: &str| app.client.get(app.at(path)).send().await.unwrap();
    for grant in [plain(), expired()] {
        let page = get(&format!("/g/{grant}/")).await;
        assert_eq!(page.status(), 200);
        assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
        assert!(page.headers().contains_key("content-security-policy"));
        assert_eq!(page.text().await.unwrap(), get("/").await.text().await.unwrap());
        assert_eq!(get(&format!("/g/{grant}/assets/0/app.js")).await.status(), 200);
        let moved = get(&format!("/g/{grant}")).await;
        assert_eq!(moved.status(), 308);
        let target = moved.url().join(moved.headers()["location"].to_str().unwrap()).unwrap();
        assert_eq!(target.path(), format!("/g/{grant}/"));
    }
    for nothing in ["/g", "/g/", "/g//limits"] {
        assert_eq!(get(nothing).await.status(), 404, "{nothing}");
    }
    app.end(&[]).await;
}

#[tokio::test]
async fn log_contains_the_issuer_but_never_the_grant() {
    let data = TempDir::new().unwrap();
    let process = Process::start(data.path(), &["--log-format=json", KEYS]);
    let (grant, one, wrong) = (plain(), keyed(IMAGE_KEY), format!("{}x", plain()));
    let client = reqwest::Client::new();
    let at = |path: &str| format!("http://{}{path}", process.address);
    let post = |path: &str| client.post(at(path)).header("content-type", "image/png").body(fixture("plain.png"));
    for (request, status) in [
        (post("/upload-image").bearer_auth(&grant), 200),
        (post(&format!("/g/{one}/upload-image")), 200),
        (post(&format!("/g/{wrong}/upload-image")), 401),
        (client.post(at("/upload-image")).multipart(Form::new().text("grant", grant.clone())), 400),
        (client.get(at(&format!("/g/{grant}/no-such"))), 404),
        (client.get(at(&format!("/g/{grant}"))), 200),
        (client.get(at(&format!("/g/{grant}/{}", "x".repeat(9000)))), 414),
    ] {
        assert_eq!(request.send().await.unwrap().status(), status);
    }
    let metrics = client.get(at("/metrics")).send().await.unwrap().text().await.unwrap();
    drop(client);
    process.terminate();
    let (_, log) = process.end().await;
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let spans: Vec<&Value> = lines.iter().filter(|line| line["status"].is_u64()).collect();
    assert_eq!((&spans[0]["granted_by"], &spans[0]["route"]), (&json!("key-1"), &json!("/upload-image")));
    assert!(spans[0].get("api_key_name").is_none_or(Value::is_null), "{log}");
    assert_eq!((&spans[1]["granted_by"], &spans[1]["s3_key"]), (&json!("key-1"), &json!(IMAGE_KEY)));
    assert_eq!(spans[3]["granted_by"], "key-1");
    for text in [log, metrics] {
        for token in [&grant, &one, &wrong] {
            // Not even its claims or its signature.
            assert!(token.split('.').skip(1).all(|part| !text.contains(part)), "{text}");
        }
    }
}

#[tokio::test]
async fn keys_that_cannot_or_should_not_sign_are_named_at_start_up() {
    use std::os::unix::fs::PermissionsExt;
    let keys = NamedTempFile::new().unwrap();
    let line = "phone 2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b upload\n";
    std::fs::write(keys.path(), line).unwrap();
    let file = format!("--api-keys-file={}", keys.path().display());
    for (mode, flag, short, readable) in
        [(0o600, KEYS, false, false), (0o644, "--api-keys=fifteen-letters", true, true), (0o640, KEYS, false, true)]
    {
        std::fs::set_permissions(keys.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        let data = TempDir::new().unwrap();
        let process = Process::start(data.path(), &[flag, &file]);
        let health = format!("http://{}/healthz", process.address);
        assert_eq!(reqwest::get(health).await.unwrap().status(), 200);
        process.terminate();
        let (_, log) = process.end().await;
        assert_eq!(log.contains("key-1 has fewer than 16 characters"), short, "{log}");
        assert_eq!(log.contains("API_KEYS_FILE: other users can read"), readable, "{log}");
        assert!(!log.contains("fifteen-letters"), "{log}");
    }
}

/// `image-store grant` with these arguments: its exit code, and what it prints.
fn printed(key: Option<&str>, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command: Command = binary();
    command.env_remove("IMAGE_STORE_API_KEY").arg("grant").args(arguments);
    if let Some(key) = key {
        command.env("IMAGE_STORE_API_KEY", key);
    }
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn grant_command_signs_grants_offline() {
    let app = TestApp::with(&[KEYS]).await;
    let (code, token, _) = printed(Some(API_KEY), &[]);
    assert_eq!(code, Some(0));
    let image = answer(raw(&app, token.trim_end(), "image/png", fixture("plain.png")), 200).await;

    let all = [
        "--url=https://images.example/up/",
        "--kid=key-1",
        "--expires-in=2h",
        "--not-before=0s",
        "--max-size=1KiB",
        "--formats=png,jpg",
        "--key",
        IMAGE_KEY,
        "--metadata=user=7",
        "--metadata=note=a=b",
        "--issuer=backend",
        "--subject=somebody",
        "--jti=once",
    ];
    let (code, link, _) = printed(Some(API_KEY), &all);
    assert_eq!(code, Some(0));
    let token = link.trim_end().strip_prefix("https://images.example/up/g/").unwrap().strip_suffix('/').unwrap();
    let limits = answer(app.client.get(app.at("/limits")).bearer_auth(token), 200).await;
    assert_eq!((&limits["max_upload_size"], &limits["s3_key"]), (&json!(1024), &json!(IMAGE_KEY)));
    let ends = humantime::parse_rfc3339(limits["expires_at"].as_str().unwrap()).unwrap();
    assert!((7190..=7200).contains(&ends.duration_since(SystemTime::now()).unwrap().as_secs()));

    for (key, arguments, code, said) in [
        (None, &[][..], 2, "--api-key"),
        (Some("fifteen-letters"), &[], 1, "fewer than 16"),
        (Some(API_KEY), &["--expires-in=25h"], 1, "24 hours"),
        (Some(API_KEY), &["--formats=svg"], 1, "svg"),
        (Some(API_KEY), &["--key=photo.jpg"], 1, "s3_key"),
        (Some(API_KEY), &["--metadata=x"], 2, "name=value"),
        (Some(API_KEY), &["--url=images.example"], 2, "URL"),
    ] {
        let (found, printed, stderr) = printed(key, arguments);
        assert_eq!((found, printed.as_str()), (Some(code), ""), "{arguments:?}: {stderr}");
        assert!(stderr.contains(said) && !stderr.contains(API_KEY) && !stderr.contains("fifteen-letters"), "{stderr}");
    }
    end(app, &[image]).await;
}

#[cfg(feature = "client")]
#[tokio::test]
async fn client_uploads_with_a_grant_as_key_or_in_the_url() {
    let app = TestApp::with(&[KEYS]).await;
    let grant = plain();
    let (bare, with_grant) = (app.url.clone(), app.at(&format!("/g/{grant}/")));
    let image = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/plain.png");
    let mut images = Vec::new();
    for way in ["--stream", "--direct"] {
        for arguments in [vec!["--url", &bare, "--api-key", &grant], vec!["--url", &with_grant]] {
            let mut command = tokio::process::Command::from(binary());
            command.env_remove("IMAGE_STORE_API_KEY").args(["upload", way, image]).args(arguments);
            let output = command.output().await.unwrap();
            assert!(output.status.success(), "{way}: {output:?}");
            images.push(serde_json::from_slice(&output.stdout).unwrap());
        }
    }
    end(app, &images).await;
}
