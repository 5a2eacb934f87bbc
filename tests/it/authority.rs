//! Authorization of every route with every kind of credential: which requests are accepted or rejected, and how.

use image_store::auth::grants::{Claims, DEFAULT_LIFETIME, sign_offline};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Write;
use std::time::Duration;
use tempfile::NamedTempFile;

use crate::support::app::TestApp;

const UNKNOWN_IMAGE: &str = "00000000-0000-4000-8000-000000000000.png";

/// The credential of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Credential {
    None,
    /// An API key with this scope, or an invalid key.
    Key(&'static str),
    /// A grant in the header.
    Grant(Grant),
    /// A grant in the path.
    Path(Grant),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grant {
    Plain,
    Keyed,
    Expired,
    Forged,
}

/// The columns of the table.
const COLUMNS: [Credential; 13] = [
    Credential::None,
    Credential::Key("upload"),
    Credential::Key("delete"),
    Credential::Key("read"),
    Credential::Key("wrong"),
    Credential::Grant(Grant::Plain),
    Credential::Grant(Grant::Keyed),
    Credential::Grant(Grant::Expired),
    Credential::Grant(Grant::Forged),
    Credential::Path(Grant::Plain),
    Credential::Path(Grant::Keyed),
    Credential::Path(Grant::Expired),
    Credential::Path(Grant::Forged),
];

/// The statuses of a route, in the order of [`COLUMNS`].
type Row = [u16; COLUMNS.len()];

/// A route that requires an API key with one scope. Accepted requests return `ok`.
const fn key(ok: u16, upload: bool, delete: bool, read: bool) -> Row {
    [401, pick(upload, ok), pick(delete, ok), pick(read, ok), 401, 403, 403, 401, 401, 403, 403, 401, 401]
}

const fn pick(is_allowed: bool, ok: u16) -> u16 {
    if is_allowed { ok } else { 403 }
}

/// A route that requires an API key with the scope `upload`, or a grant.
const fn upload(ok: u16) -> Row {
    [401, ok, 403, 403, 401, ok, ok, 401, 401, ok, ok, 401, 401]
}

/// A route that requires no credential and does not accept grants in the path.
const fn open(ok: u16) -> Row {
    [ok, ok, ok, ok, ok, ok, ok, ok, ok, 403, 403, 401, 401]
}

/// A route that the link of a plan authorizes. A grant in the path must be valid, too.
const fn link(ok: u16) -> Row {
    [ok, ok, ok, ok, ok, ok, ok, ok, ok, ok, ok, 401, 401]
}

/// A route that the ID of a Companion upload authorizes. A grant in the path may have expired since the upload began.
const fn upload_id(ok: u16) -> Row {
    [ok, ok, ok, ok, ok, ok, ok, ok, ok, ok, ok, ok, 401]
}

/// The page. It is the same for every request, and reports an expired grant itself.
const fn page(ok: u16) -> Row {
    [ok; COLUMNS.len()]
}

/// The limits, which every valid credential may read.
const fn limits(ok: u16) -> Row {
    [ok, ok, ok, ok, 401, ok, ok, 401, 401, ok, ok, 401, 401]
}

/// `{plan}` stands for the token of a plan for `{s3_key}`, `{upload}` for that of a resumable upload, and `{upload_id}` for a
/// Companion upload of it. The requests have no body, so that authorized uploads and plans are rejected with 415, and
/// resumable uploads with 400.
fn table() -> Vec<(&'static str, &'static str, &'static str, Row)> {
    let (status, complete, abort) = ("/uploads/{s3_key}", "/uploads/{s3_key}/complete", "/uploads/{s3_key}");
    let (companion, part) = ("/s3/multipart/{upload_id}", "/s3/multipart/{upload_id}/{part_number}");
    let file = "/files/{s3_key}";
    vec![
        ("POST", "/upload-image", "", upload(415)),
        ("POST", "/images", "", upload(415)),
        ("POST", "/uploads", "", upload(415)),
        ("POST", "/grants", "", key(415, true, false, false)),
        ("GET", status, "?plan={plan}", link(200)),
        ("POST", complete, "?plan={plan}", link(404)),
        ("DELETE", abort, "?plan={plan}", link(204)),
        ("GET", status, "?plan={plan}x", link(401)),
        ("POST", complete, "?plan={plan}x", link(401)),
        ("DELETE", abort, "?plan={plan}x", link(401)),
        // A grant is not a plan token.
        ("GET", status, "?plan={grant}", link(401)),
        ("GET", "/s3/params", "?filename=a.png", upload(200)),
        ("POST", "/s3/multipart", "", upload(415)),
        ("GET", part, "?key={s3_key}", upload_id(200)),
        ("GET", companion, "?key={s3_key}", upload_id(200)),
        ("POST", "/s3/multipart/{upload_id}/complete", "?key={s3_key}", upload_id(415)),
        // A plan token is not an uploadId.
        ("GET", "/s3/multipart/{plan}/{part_number}", "?key={s3_key}", upload_id(401)),
        ("DELETE", companion, "?key={s3_key}", upload_id(200)),
        ("POST", "/files", "", upload(400)),
        ("HEAD", file, "?upload={upload}", link(204)),
        ("GET", file, "?upload={upload}", link(204)),
        ("PATCH", file, "?upload={upload}", link(415)),
        ("POST", file, "?upload={upload}", link(405)),
        ("HEAD", file, "?upload={upload}x", link(401)),
        ("GET", file, "?upload={upload}x", link(401)),
        ("PATCH", file, "?upload={upload}x", link(401)),
        ("POST", file, "?upload={upload}x", link(401)),
        ("DELETE", file, "?upload={upload}x", link(401)),
        // Neither a grant nor the token of a plan is the token of a resumable upload.
        ("GET", file, "?upload={grant}", link(401)),
        ("GET", file, "?upload={plan}", link(401)),
        ("GET", status, "?plan={upload}", link(401)),
        ("DELETE", file, "?upload={upload}", link(204)),
        ("OPTIONS", "/files", "", limits(204)),
        ("OPTIONS", file, "", limits(204)),
        ("GET", "/images/{s3_key}", "", key(404, false, false, true)),
        ("HEAD", "/images/{s3_key}", "", key(404, false, false, true)),
        ("GET", "/images/{s3_key}/url", "", key(404, false, false, true)),
        ("DELETE", "/delete/{s3_key}", "", key(404, false, true, false)),
        ("DELETE", "/images/{s3_key}", "", key(404, false, true, false)),
        ("GET", "/metrics", "", key(200, true, true, true)),
        ("GET", "/limits", "", limits(200)),
        ("GET", "/healthz", "", open(200)),
        ("GET", "/readyz", "", open(200)),
        ("GET", "/openapi.json", "", open(200)),
        ("GET", "/docs", "", open(200)),
        ("GET", "/docs/0/start.js", "", open(200)),
        ("GET", "/", "", page(200)),
        ("GET", "/assets/0/app.js", "", page(200)),
        // Without its token the page does not exist.
        ("GET", "/uploaded", "", upload_id(404)),
        ("GET", "/uploaded", "?image={plan}", upload_id(404)),
        ("GET", "/no-such-route", "", page(404)),
    ]
}

/// A service with one API key per scope, and tokens signed with them.
struct World {
    app: TestApp,
    plan: Value,
    /// A Companion upload.
    companion: Value,
    /// The address of a resumable upload.
    upload: String,
    _keys: NamedTempFile,
}

impl World {
    async fn new() -> World {
        let mut keys = NamedTempFile::new().unwrap();
        for scope in ["upload", "delete", "read"] {
            writeln!(keys, "{scope}er {} {scope}", sha256(&format!("the-{scope}-key"))).unwrap();
        }
        let app = TestApp::with(&[&format!("--api-keys-file={}", keys.path().display())]).await;
        let request = json!({ "filename": "a.png", "size": 1 });
        let planned = app.client.post(app.at("/uploads")).bearer_auth("the-upload-key").json(&request);
        let plan = planned.send().await.unwrap().json().await.unwrap();
        let request = json!({ "filename": "a.png", "type": "image/png", "metadata": {} });
        let started = app.client.post(app.at("/s3/multipart")).bearer_auth("the-upload-key").json(&request);
        let companion = started.send().await.unwrap().json().await.unwrap();
        let creation = app.client.post(app.at("/files")).bearer_auth("the-upload-key").header("tus-resumable", "1.0.0");
        let creation = creation.header("upload-length", 1).header("upload-metadata", "filename YS5wbmc=");
        let created = creation.send().await.unwrap();
        let upload = created.headers()["location"].to_str().unwrap().to_owned();
        World { app, plan, companion, upload, _keys: keys }
    }

    async fn end(self) {
        let abort = self.request("DELETE", "/s3/multipart/{upload_id}", "?key={s3_key}", Credential::None);
        assert_eq!(abort.send().await.unwrap().status(), 200);
        let cancelled = self.app.client.delete(&self.upload).send().await.unwrap();
        assert_eq!(cancelled.status(), 204);
        self.app.end(&[]).await;
    }

    fn grant(&self, grant: Grant) -> String {
        let mut claims = Claims::lasting(DEFAULT_LIFETIME);
        let mut key = "the-upload-key";
        match grant {
            Grant::Plain => {}
            Grant::Keyed => claims.key = Some(UNKNOWN_IMAGE.to_owned()),
            Grant::Expired => {
                claims.exp = (std::time::SystemTime::now() - Duration::from_secs(120)).into();
            }
            Grant::Forged => key = "the-read-key",
        }
        sign_offline(&claims, key, None).unwrap()
    }

    fn request(&self, method: &str, template: &str, query: &str, credential: Credential) -> RequestBuilder {
        let plan = self.plan["status_url"].as_str().unwrap().split_once("?plan=").unwrap().1;
        let (upload_path, upload) = self.upload.split_once("?upload=").unwrap();
        let key = match template.split('/').nth(1) {
            Some("uploads") => self.plan["s3_key"].as_str().unwrap(),
            Some("s3") => self.companion["key"].as_str().unwrap(),
            Some("files") => upload_path.rsplit('/').next().unwrap(),
            _ => UNKNOWN_IMAGE,
        };
        let upload_id = self.companion["uploadId"].as_str().unwrap();
        let fill = |text: &str| {
            let text = text.replace("{plan}", plan).replace("{upload}", upload);
            let text = text.replace("{grant}", &self.grant(Grant::Plain)).replace("{s3_key}", key);
            text.replace("{upload_id}", upload_id).replace("{part_number}", "1")
        };
        let prefix =
            if let Credential::Path(grant) = credential { format!("/g/{}", self.grant(grant)) } else { String::new() };
        let path = format!("{prefix}{}{}", fill(template), fill(query));
        let request = self.app.client.request(method.parse().unwrap(), self.app.at(&path));
        // As if passed on by a proxy, so that /metrics is not a request from this machine.
        let request = request.header("via", "1.1 proxy");
        match credential {
            Credential::None | Credential::Path(_) => request,
            Credential::Key(scope) => request.bearer_auth(format!("the-{scope}-key")),
            Credential::Grant(grant) => request.bearer_auth(self.grant(grant)),
        }
    }
}

fn sha256(text: &str) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The error codes for the status of a rejected request.
fn codes(status: u16, credential: Credential) -> &'static [&'static str] {
    match (status, credential) {
        (401, Credential::Grant(Grant::Expired) | Credential::Path(Grant::Expired)) => {
            &["expired_token", "invalid_token"]
        }
        (401, Credential::None | Credential::Key(_)) => &["unauthorized", "invalid_token"],
        (401, _) => &["invalid_token"],
        (403, _) => &["forbidden"],
        _ => &[],
    }
}

#[tokio::test]
async fn every_route_accepts_only_the_right_credentials() {
    let world = World::new().await;
    for (method, template, query, row) in table() {
        for (credential, expected) in COLUMNS.into_iter().zip(row) {
            let answer = world.request(method, template, query, credential).send().await.unwrap();
            let (status, cache) = (answer.status().as_u16(), answer.headers()["cache-control"].clone());
            let referrer = answer.headers()["referrer-policy"].clone();
            let body = answer.text().await.unwrap();
            let name = format!("{method} {template}{query} by {credential:?}");
            assert_eq!(status, expected, "{name}: {body}");
            let codes = codes(status, credential);
            if method != "HEAD" && !codes.is_empty() {
                let body: Value = serde_json::from_str(&body).unwrap();
                assert!(codes.contains(&body["code"].as_str().unwrap()), "{name}: {body}");
            }
            if matches!(credential, Credential::Path(_)) {
                assert_eq!((cache.as_bytes(), referrer.as_bytes()), (&b"no-store"[..], &b"no-referrer"[..]), "{name}");
            }
        }
    }
    world.end().await;
}

#[tokio::test]
async fn api_key_is_also_accepted_as_x_api_key() {
    let world = World::new().await;
    for (method, template, query, row) in table() {
        for (credential, expected) in COLUMNS.into_iter().zip(row) {
            let Credential::Key(scope) = credential else { continue };
            let request = world.request(method, template, query, Credential::None);
            let answer = request.header("x-api-key", format!("the-{scope}-key")).send().await.unwrap();
            assert_eq!(answer.status().as_u16(), expected, "{method} {template} by {credential:?}");
        }
    }
    world.end().await;
}

/// Fails if a route of the API's description or of the router is missing in the table.
#[tokio::test]
async fn table_contains_every_route() {
    let world = World::new().await;
    let answer = world.app.client.get(world.app.at("/openapi.json")).send().await.unwrap();
    let description: Value = answer.json().await.unwrap();
    let described = description["paths"].as_object().unwrap().iter().flat_map(|(path, item)| {
        item.as_object().unwrap().keys().map(|method| (method.to_uppercase(), path.clone())).collect::<Vec<_>>()
    });
    let router = include_str!("../../src/server/router.rs").split("#[cfg(test)]").next().unwrap();
    let named = router.split(".route(\"").skip(1).map(|rest| {
        let (path, handler) = rest.split_once("\", ").unwrap();
        (handler.split('(').next().unwrap().to_uppercase(), path.to_owned())
    });
    let tested: BTreeSet<(String, String)> = table()
        .into_iter()
        .map(|(method, path, ..)| {
            let path = path.replace("/0/start.js", "/{version}/{file}").replace("/0/app.js", "/{version}/{file}");
            (method.to_owned(), path)
        })
        .collect();
    let routes: BTreeSet<_> = described.chain(named).collect();
    assert!(routes.len() >= 19, "{routes:?}");
    let missing: Vec<_> = routes.difference(&tested).collect();
    assert!(missing.is_empty(), "not in the table: {missing:?}");
    world.end().await;
}

#[tokio::test]
async fn without_keys_all_requests_are_allowed_and_grants_apply() {
    let app = TestApp::start().await;
    let answer = app.client.post(app.at("/grants")).json(&json!({})).send().await.unwrap();
    let granted: Value = answer.json().await.unwrap();
    let right = granted["grant"].as_str().unwrap();
    let wrong = sign_offline(&Claims::lasting(DEFAULT_LIFETIME), "a key that is long enough", None).unwrap();
    for (method, path, open, granted) in [
        (Method::POST, "/upload-image", 415, 415),
        (Method::POST, "/uploads", 415, 415),
        (Method::POST, "/files", 400, 400),
        (Method::OPTIONS, "/files", 204, 204),
        (Method::POST, "/grants", 415, 403),
        (Method::GET, "/images/x", 404, 403),
        (Method::DELETE, "/delete/x", 404, 403),
        (Method::GET, "/limits", 200, 200),
    ] {
        for (token, expected) in [(None, open), (Some("no-token"), open), (Some(right), granted), (Some(&*wrong), 401)]
        {
            let request = app.client.request(method.clone(), app.at(path));
            let request = if let Some(token) = token { request.bearer_auth(token) } else { request };
            assert_eq!(request.send().await.unwrap().status().as_u16(), expected, "{method} {path} {token:?}");
        }
        for (token, expected) in [(right, granted), (&wrong, 401)] {
            let request = app.client.request(method.clone(), app.at(&format!("/g/{token}{path}")));
            assert_eq!(request.send().await.unwrap().status().as_u16(), expected, "{method} {path} in the path");
        }
    }
    app.end(&[]).await;
}
