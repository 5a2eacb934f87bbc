//! Texts that users see, as a whole, so that a review shows each change. `INSTA_UPDATE=always` accepts the current texts.

use image_store::error::Error;
use image_store::server::response::ErrorBody;
use serde_json::{Value, json};
use std::process::Command;

use super::support::app::TestApp;

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap()
}

#[tokio::test]
async fn openapi_document() {
    let app = TestApp::with(&["--public-url=https://images.example", "--api-keys=secret"]).await;
    let document = app.client.get(app.at("/openapi.json")).send().await.unwrap().json().await.unwrap();
    app.end(&[]).await;
    insta::assert_snapshot!(pretty(&document));
}

fn help(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_image-store")).args(arguments).env_clear().output();
    String::from_utf8(output.unwrap().stdout).unwrap()
}

#[test]
fn help_texts() {
    for command in ["serve", "sweep", "doctor", "config", "grant", "upload", "healthcheck"] {
        insta::assert_snapshot!(command, help(&[command, "--help"]));
    }
    insta::assert_snapshot!("short_help", help(&["-h"]));
}

#[test]
fn error_bodies() {
    let errors = Error::examples();
    let bodies =
        errors.iter().map(|error| json!({ "status": error.status().as_u16(), "body": ErrorBody::from(error) }));
    insta::assert_snapshot!(pretty(&bodies.collect()));
}
