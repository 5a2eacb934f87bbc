//! Compares `/openapi.json` with the API: every described route exists, and every response matches its description.

mod conforming;

use jsonschema::Validator;
use reqwest::Method;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

use crate::support::app::TestApp;

const UNUSED_KEY: &str = "00000000-0000-4000-8000-000000000000.png";

/// `/openapi.json`, and lookups in it.
struct Description(Value);

impl Description {
    async fn of(app: &TestApp) -> Self {
        let answer = app.client.get(app.at("/openapi.json")).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "application/json");
        Description(answer.json().await.unwrap())
    }

    /// Returns every operation: its method, its path template and its description.
    fn operations(&self) -> Vec<(Method, &str, &Value)> {
        let paths = self.0["paths"].as_object().unwrap().iter();
        paths
            .flat_map(|(path, item)| {
                let methods = item.as_object().unwrap().iter();
                methods.map(|(method, described)| (method.to_uppercase().parse().unwrap(), path.as_str(), described))
            })
            .collect()
    }

    fn operation(&self, method: &Method, template: &str) -> &Value {
        let found = self.operations().into_iter().find(|(known, path, _)| (known, *path) == (method, template));
        found.unwrap_or_else(|| panic!("{method} {template} is not described")).2
    }

    /// A validator for a schema in the description.
    fn validator(&self, schema: &Value) -> Validator {
        let mut schema = schema.clone();
        schema["components"] = self.0["components"].clone();
        jsonschema::draft202012::options().should_validate_formats(true).build(&schema).unwrap()
    }

    fn schema(&self, name: &str) -> Validator {
        self.validator(&json!({ "$ref": format!("#/components/schemas/{name}") }))
    }
}

#[tokio::test]
async fn every_described_route_exists() {
    let app = TestApp::start().await;
    let description = Description::of(&app).await;
    let operations = description.operations();
    assert!(operations.len() >= 14, "{}", operations.len());
    for (method, template, _) in operations {
        let path = template.replace("{s3_key}", UNUSED_KEY);
        let answer = app.client.request(method.clone(), app.at(&path)).send().await.unwrap();
        assert_ne!(answer.status(), 405, "{method} {template}");
        assert!(!answer.text().await.unwrap().contains("The route does not exist"), "{method} {template}");
    }
    app.end(&[]).await;
}

#[tokio::test]
async fn openapi_json_is_revalidated_with_etag() {
    let app = TestApp::start().await;
    let ask = || app.client.get(app.at("/openapi.json"));
    let first = ask().send().await.unwrap();
    assert_eq!(first.headers()["cache-control"], "no-cache");
    let tag = first.headers()["etag"].clone();
    let compressed = ask().header("accept-encoding", "gzip").send().await.unwrap();
    assert_eq!(
        (&compressed.headers()["content-encoding"], &compressed.headers()["etag"]),
        (&"gzip".parse().unwrap(), &tag)
    );
    assert!(tag.to_str().unwrap().starts_with("W/"), "one tag for both forms");
    let again = ask().header("if-none-match", &tag).send().await.unwrap();
    assert_eq!((again.status().as_u16(), &again.headers()["etag"]), (304, &tag));
    assert_eq!(ask().header("if-none-match", "\"other\"").send().await.unwrap().status(), 200);
    app.end(&[]).await;

    let other = TestApp::with(&["--allowed-formats=png"]).await;
    let first = other.client.get(other.at("/openapi.json")).header("if-none-match", &tag).send().await.unwrap();
    assert_eq!(first.status(), 200, "other settings give another document");
    other.end(&[]).await;
}

#[tokio::test]
async fn every_error_code_has_a_valid_example() {
    let app = TestApp::start().await;
    let description = Description::of(&app).await;
    let error = description.schema("Error");
    let mut described = BTreeSet::new();
    for (method, template, operation) in description.operations() {
        for (status, response) in operation["responses"].as_object().unwrap() {
            let examples = response.pointer("/content/application~1json/examples").and_then(Value::as_object);
            for (code, example) in examples.into_iter().flatten() {
                assert!(error.is_valid(&example["value"]), "{method} {template} {status}: {example}");
                assert_eq!(example["value"]["code"], *code);
                described.insert(code.clone());
            }
        }
    }
    // Codes that any route may return. The text at the top of the description names them.
    for code in ["method_not_allowed", "uri_too_long", "head_too_large", "unsupported_transfer_encoding"] {
        assert!(description.0["info"]["description"].as_str().unwrap().contains(code));
        described.insert(code.to_owned());
    }
    let all: BTreeSet<_> = image_store::error::Error::examples().iter().map(|error| error.code().to_owned()).collect();
    assert_eq!(described, all);
    let codes = &description.0["components"]["schemas"]["Error"]["properties"]["code"]["enum"];
    assert_eq!(codes, &json!(all));
    app.end(&[]).await;
}

#[tokio::test]
async fn every_field_has_a_description_and_an_example() {
    let app = TestApp::start().await;
    let Description(document) = Description::of(&app).await;
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let mut seen = 0;
    for (name, schema) in schemas {
        for (field, described) in objects(schema).iter().filter_map(|object| object["properties"].as_object()).flatten()
        {
            let described = described["$ref"].as_str().map_or(described, |_| &schemas[reference(described)]);
            // The discriminator needs no description of its own.
            assert!(described["description"].is_string() || field == "kind", "{name}.{field} has no description");
            assert!(is_shown(described), "{name}.{field} has no example");
            seen += 1;
        }
    }
    assert!(seen > 40, "{seen}");
    app.end(&[]).await;
}

/// Returns whether a field has an example or needs none: its items have one, its values are listed, or it is a file.
fn is_shown(described: &Value) -> bool {
    let listed = ["examples", "enum", "$ref"].iter().any(|key| described.get(key).is_some());
    let contents = ["items", "additionalProperties"].iter().filter_map(|key| described.get(key));
    listed || described["format"] == "binary" || contents.into_iter().any(is_shown)
}

/// Returns the schema of an object, or the schemas it is composed of.
fn objects(schema: &Value) -> Vec<&Value> {
    let several = ["oneOf", "allOf"].iter().filter_map(|key| schema[key].as_array()).flatten();
    several.chain([schema]).filter(|schema| schema.get("properties").is_some()).collect()
}

fn reference(schema: &Value) -> &str {
    schema["$ref"].as_str().unwrap().rsplit('/').next().unwrap()
}

#[tokio::test]
async fn upload_request_schema_matches_what_is_planned() {
    let app =
        TestApp::with(&["--allowed-formats=jpg,jpeg,webp", "--max-upload-size=12MiB", "--direct-put-max=6MiB"]).await;
    let request = Description::of(&app).await.schema("UploadRequest");
    let sha256 = "0a".repeat(32);
    let mut valid = 0;
    for request_body in [
        json!({ "filename": "a.jpg", "size": 1 }),
        json!({ "filename": "a.JpEg", "size": 12 << 20, "content_type": null, "sha256": null }),
        json!({ "filename": "a", "size": 1, "content_type": "image/webp" }),
        json!({ "filename": "", "size": 5.0, "content_type": "image/jpeg" }),
        json!({ "filename": "a.b/c\\d.webp", "size": 6 << 20, "sha256": sha256 }),
        json!({ "filename": "a.b/c", "size": 1, "content_type": "image/jpeg" }),
        json!({ "filename": "a\n.webp", "size": 1 }),
        json!({ "filename": "a.JFIF", "size": 1, "content_type": "" }),
        json!({ "filename": "a", "size": 1, "content_type": "" }),
        json!({ "filename": "a", "size": 1 }),
        json!({ "filename": "a", "size": 1, "content_type": null }),
        json!({ "filename": "a.b/c", "size": 1 }),
        json!({ "filename": "a.png", "size": 1 }),
        json!({ "filename": "a.jpg.png", "size": 1, "content_type": "image/jpeg" }),
        json!({ "filename": "a.jpg\n", "size": 1 }),
        json!({ "filename": "a.", "size": 1, "content_type": "image/jpeg" }),
        json!({ "filename": "a.jpg", "size": 1, "content_type": "image/png" }),
        json!({ "filename": "a.jpg", "size": 0 }),
        json!({ "filename": "a.jpg", "size": 1.5 }),
        json!({ "filename": "a.jpg", "size": -5.0 }),
        json!({ "filename": "a.jpg", "size": "1" }),
        json!({ "filename": "a.jpg", "size": (12 << 20) + 1 }),
        json!({ "filename": "a.jpg", "size": (6 << 20) + 1, "sha256": sha256 }),
        json!({ "filename": "a.jpg", "size": 1, "sha256": "0a" }),
        json!({ "filename": "a.jpg", "size": 1, "more": 1 }),
        json!({ "filename": "a.jpg" }),
        json!({ "size": 1 }),
        json!([]),
    ] {
        let answer = app.client.post(app.at("/uploads")).json(&request_body).send().await.unwrap();
        let status = answer.status();
        assert_eq!(status == 201, request.is_valid(&request_body), "{request_body}: {status}");
        if status == 201 {
            valid += 1;
            let plan: Value = answer.json().await.unwrap();
            let aborted = app.client.delete(app.at(plan["abort_url"].as_str().unwrap())).send().await.unwrap();
            assert_eq!(aborted.status(), 204);
        }
    }
    assert_eq!(valid, 8);
    app.end(&[]).await;
}

#[tokio::test]
async fn described_security_matches_settings() {
    let security = async |flags: &[&str]| {
        let app = TestApp::with(flags).await;
        let description = Description::of(&app).await;
        let security_of = |method, template| description.operation(&method, template).get("security").cloned();
        let found = (
            security_of(Method::POST, "/uploads"),
            security_of(Method::HEAD, "/images/{s3_key}"),
            security_of(Method::GET, "/limits"),
        );
        // The token of a link is a parameter.
        let linked = [(Method::GET, "/uploads/{s3_key}"), (Method::HEAD, "/files/{s3_key}")];
        assert!(linked.into_iter().all(|(method, template)| security_of(method, template) == Some(json!([]))));
        let schemes = description.0["components"]["securitySchemes"].as_object().map_or(0, Map::len);
        assert_eq!(schemes, if flags.is_empty() { 0 } else { 2 });
        app.end(&[]).await;
        found
    };
    let keys = |scope: &str| json!([{ "bearer": [scope] }, { "api_key": [scope] }]);
    let (open, anybody) = (Some(json!([{}])), Some(json!([{}, { "bearer": [] }, { "api_key": [] }])));
    assert_eq!(security(&[]).await, (open.clone(), open.clone(), open.clone()));
    assert_eq!(security(&["--api-keys=k"]).await, (Some(keys("upload")), Some(keys("read")), anybody.clone()));
    let public = security(&["--api-keys=k", "--public-read=true"]).await;
    assert_eq!(public, (Some(keys("upload")), open, anybody));
}

#[tokio::test]
async fn description_has_configured_formats_and_url() {
    let app = TestApp::with(&["--allowed-formats=png,avif", "--public-url=https://images.example/up"]).await;
    let description = Description::of(&app).await;
    for path in ["/upload-image", "/images"] {
        let bodies: &Map<_, _> =
            description.operation(&Method::POST, path)["requestBody"]["content"].as_object().unwrap();
        let types: Vec<&str> = bodies.keys().map(String::as_str).collect();
        assert_eq!(types, ["multipart/form-data", "image/png", "image/avif", "application/octet-stream"], "{path}");
    }
    assert_eq!(description.0["servers"], json!([{ "url": "https://images.example/up" }]));
    app.end(&[]).await;
}
