//! Adds formats and sizes from the settings, so that the service accepts exactly what the document calls valid.

use serde_json::{Map, Value, json};

use crate::format::Format;
use crate::policy::Policy;

const BODIES: [&str; 2] =
    ["/paths/~1upload-image/post/requestBody/content", "/paths/~1images/post/requestBody/content"];
const UPLOAD_REQUEST: &str = "/components/schemas/UploadRequest";
/// A placeholder for the media types of the formats, in the documentation of `POST /upload-image`.
pub const ANY_IMAGE: &str = "image/*";
const OCTET_STREAM: &str = "application/octet-stream";

pub fn apply(document: &mut Value, policy: &Policy, put_max: u64) {
    for bodies in BODIES {
        if let Some(Value::Object(bodies)) = document.pointer_mut(bodies) {
            name_formats(bodies, policy);
        }
    }
    if let Some(request) = document.pointer_mut(UPLOAD_REQUEST) {
        merge(request, rules(policy, put_max));
    }
}

/// Documents a raw body for each accepted format, and one of an unspecified type.
fn name_formats(bodies: &mut Map<String, Value>, policy: &Policy) {
    if let Some(body) = bodies.remove(ANY_IMAGE) {
        let types = policy.formats.iter().map(|format| format.content_type()).chain([OCTET_STREAM]);
        bodies.extend(types.map(|content_type| (content_type.to_owned(), body.clone())));
    }
}

/// Returns the rules of [`crate::direct::plan::UploadRequest::check`] and `create` as JSON Schema.
fn rules(policy: &Policy, put_max: u64) -> Value {
    let extensions = extensions(policy);
    let types: Vec<&str> = policy.formats.iter().map(|format| format.content_type()).collect();
    let types_or_none: Vec<Option<&str>> = types.iter().copied().map(Some).chain([Some(""), None]).collect();
    json!({
        "properties": {
            "filename": { "pattern": format!(r"(^|[/\\])([^./\\]*|[^/\\]*\.({extensions}))$") },
            "content_type": { "enum": types_or_none },
            "size": { "maximum": policy.max_upload_size },
        },
        "allOf": [
            { "anyOf": [
                { "required": ["content_type"], "properties": { "content_type": { "enum": types } } },
                { "properties": { "filename": { "pattern": format!(r"\.({extensions})$") } } },
            ] },
            { "anyOf": [
                { "properties": { "size": { "maximum": put_max } } },
                { "properties": { "sha256": { "type": "null" } } },
            ] },
        ],
    })
}

/// Returns the accepted extensions, in upper and lower case, as alternatives of a regular expression.
fn extensions(policy: &Policy) -> String {
    let extensions = policy.formats.iter().flat_map(|format: &Format| format.file_extensions());
    let any_case = |letter: char| format!("[{letter}{}]", letter.to_ascii_uppercase());
    let each: Vec<String> = extensions.map(|extension| extension.chars().map(any_case).collect()).collect();
    each.join("|")
}

/// Merges `more` into `value` recursively.
fn merge(value: &mut Value, more: Value) {
    match (value, more) {
        (Value::Object(value), Value::Object(more)) => {
            more.into_iter().for_each(|(name, more)| merge(value.entry(name).or_insert(Value::Null), more));
        }
        (value, more) => *value = more,
    }
}
