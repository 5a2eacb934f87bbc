//! Clients that exist: the exact requests that they send to `/upload-image` and `/images`, and what they read of the answer.

mod page;

use reqwest::{Method, Response};
use serde_json::Value;

use crate::support::app::{TestApp, fixture};

const PAGE: &str = "http://page.example";
const BOUNDARY: &str = "----WebKitFormBoundaryQ3zZtq7Ue4m5JvYb";

/// A client with its own headers, and the fields that it sends before the file.
struct Client {
    name: &'static str,
    headers: &'static [(&'static str, &'static str)],
    /// Names and values.
    fields: &'static [(&'static str, &'static str)],
}

const CLIENTS: [Client; 6] = [
    // `FilePond.create(input, { server: { process: "/upload-image" } })` with an input named `file`. Its metadata have
    // the name of the file's field, and no file name.
    Client { name: "FilePond", headers: &[("origin", PAGE), ("accept", "*/*")], fields: &[("file", "{}")] },
    Client {
        name: "Dropzone",
        headers: &[
            ("origin", PAGE),
            ("accept", "application/json"),
            ("cache-control", "no-cache"),
            ("x-requested-with", "XMLHttpRequest"),
        ],
        fields: &[],
    },
    Client {
        name: "axios",
        headers: &[("origin", PAGE), ("accept", "application/json, text/plain, */*")],
        fields: &[],
    },
    Client {
        name: "@uppy/xhr-upload",
        headers: &[("origin", PAGE), ("accept", "*/*")],
        fields: &[("relativePath", "null"), ("name", "photo.png"), ("type", "image/png")],
    },
    Client { name: "curl", headers: &[("user-agent", "curl/8.5.0"), ("accept", "*/*")], fields: &[] },
    Client { name: "httpx", headers: &[("user-agent", "python-httpx/0.28.1"), ("accept", "*/*")], fields: &[] },
];

/// Returns a form as browsers and curl send it.
fn form(fields: &[(&str, &str)], bytes: &[u8]) -> Vec<u8> {
    let mut form = String::new();
    for (name, value) in fields {
        form += &format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
    }
    form += &format!(
        "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"photo.png\"\r\n\
         Content-Type: image/png\r\n\r\n"
    );
    [form.as_bytes(), bytes, format!("\r\n--{BOUNDARY}--\r\n").as_bytes()].concat()
}

async fn send(app: &TestApp, path: &str, headers: &[(&str, &str)], fields: &[(&str, &str)], bytes: &[u8]) -> Response {
    let request =
        app.client.post(app.at(path)).header("content-type", format!("multipart/form-data; boundary={BOUNDARY}"));
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.body(form(fields, bytes)).send().await.unwrap()
}

#[tokio::test]
async fn unchanged_clients_upload() {
    let app = TestApp::start().await;
    let mut keys = Vec::new();
    for (Client { name, headers, fields }, path) in CLIENTS.iter().zip(["/upload-image", "/images"].into_iter().cycle())
    {
        let sent = send(&app, path, headers, fields, &fixture("plain.png")).await;
        assert_eq!(sent.status(), 200, "{name}");
        if headers.contains(&("origin", PAGE)) {
            assert_eq!(sent.headers()["access-control-allow-origin"], PAGE, "{name}");
            let exposed = sent.headers()["access-control-expose-headers"].to_str().unwrap();
            assert!(exposed.contains("etag") && exposed.contains("location"), "{name}: {exposed}");
        }
        assert_eq!(sent.headers()["content-type"], "application/json", "{name}");
        let image: Value = sent.json().await.unwrap();
        let read = app.client.get(image["url"].as_str().unwrap()).send().await.unwrap();
        assert!(read.bytes().await.unwrap() == fixture("plain.png"), "{name}");
        keys.push(image["s3_key"].as_str().unwrap().to_owned());
    }
    app.end(&keys.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn unchanged_clients_read_errors_as_json() {
    let app = TestApp::start().await;
    for Client { name, headers, fields } in &CLIENTS {
        let sent = send(&app, "/images", headers, fields, b"no image").await;
        assert_eq!(sent.status(), 400, "{name}");
        let refusal: Value = sent.json().await.unwrap();
        assert_eq!(refusal["detail"], "Invalid file type", "{name}");
        assert!(refusal.get("message").is_none(), "{name}");
    }
    app.end(&[]).await;
}

#[tokio::test]
async fn headers_of_unchanged_clients_pass_preflights() {
    let app = TestApp::start().await;
    for (client, headers) in [
        ("Dropzone", "cache-control,x-requested-with"),
        ("axios", "authorization"),
        ("Uppy", "authorization,content-type"),
        ("fetch", "authorization,content-type,idempotency-key,x-api-key"),
        ("raw", "content-type"),
    ] {
        for path in ["/upload-image", "/images"] {
            let request = app.client.request(Method::OPTIONS, app.at(path)).header("origin", PAGE);
            let request = request.header("access-control-request-method", "POST");
            let preflight = request.header("access-control-request-headers", headers).send().await.unwrap();
            assert_eq!(preflight.status(), 200, "{client}");
            assert_eq!(preflight.headers()["access-control-allow-origin"], PAGE, "{client}");
            let allowed = preflight.headers()["access-control-allow-headers"].to_str().unwrap().to_owned();
            assert!(
                headers.split(',').all(|header| allowed.split(',').any(|one| one == header)),
                "{client}: {allowed}"
            );
        }
    }
    app.end(&[]).await;
}

/// FilePond deletes with the text of the answer as the body, at the address of the upload. Nothing there answers it: its
/// `revert` must be configured.
#[tokio::test]
async fn filepond_reverts_only_by_configuration() {
    let app = TestApp::start().await;
    let sent = send(&app, "/upload-image", CLIENTS[0].headers, CLIENTS[0].fields, &fixture("plain.png")).await;
    let server_id = sent.text().await.unwrap();
    let reverted = app.client.delete(app.at("/upload-image")).body(server_id.clone()).send().await.unwrap();
    assert_eq!(reverted.status(), 405);
    let key = serde_json::from_str::<Value>(&server_id).unwrap()["s3_key"].as_str().unwrap().to_owned();
    let deleted = app.client.delete(app.at(&format!("/images/{key}"))).send().await.unwrap();
    assert_eq!(deleted.status(), 200);
    app.end(&[]).await;
}

/// `curl --retry` sends the same request again after a 503, a 408, a 429 and other 5xx, and after no answer at all.
#[tokio::test]
async fn curl_may_retry_with_an_idempotency_key() {
    let app = TestApp::start().await;
    let headers = [("accept", "*/*"), ("idempotency-key", "8e03978e-40d5-43dd-bc93-6894a57f9324")];
    let mut keys = Vec::new();
    for _ in 0..2 {
        let sent = send(&app, "/upload-image", &headers, &[], &fixture("plain.png")).await;
        assert_eq!(sent.status(), 200);
        keys.push(sent.json::<Value>().await.unwrap()["s3_key"].as_str().unwrap().to_owned());
    }
    assert_eq!(keys[0], keys[1]);
    app.end(&[&keys[0]]).await;
}
