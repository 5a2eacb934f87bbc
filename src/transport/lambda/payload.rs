//! An invocation's payload, as JSON has it.
//!
//! The types hold what is needed and no more, so a field that AWS adds or leaves out changes nothing. The body stays
//! where it is in the payload until it is decoded.

use serde::Deserialize;
use serde::de::IgnoredAny;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// An object that S3 says was created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    /// As in the event: URL-encoded, `+` for a space.
    pub encoded_key: String,
    /// Bytes.
    pub size: Option<u64>,
}

/// Every kind of event at once: which it is shows in the fields it has.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Payload<'a> {
    pub request_context: Option<RequestContext>,
    pub http_method: Option<String>,
    /// What the gateway matched, with `{names}` where [`Self::path_parameters`] go: of a REST API, and of payload format 1.0.
    pub resource: Option<String>,
    /// The same of payload format 2.0, behind the method: `ANY /{proxy+}`, or `$default`.
    pub route_key: Option<String>,
    pub path_parameters: Option<BTreeMap<String, Option<String>>>,
    pub path: Option<String>,
    pub raw_path: Option<String>,
    pub raw_query_string: Option<String>,
    pub cookies: Option<Vec<String>>,
    pub headers: Option<BTreeMap<String, String>>,
    pub multi_value_headers: Option<BTreeMap<String, Vec<String>>>,
    pub query_string_parameters: Option<BTreeMap<String, String>>,
    pub multi_value_query_string_parameters: Option<BTreeMap<String, Vec<String>>>,
    #[serde(borrow)]
    pub body: Option<Text<'a>>,
    pub is_base64_encoded: Option<bool>,
    #[serde(rename = "Records")]
    pub records: Option<Vec<Record>>,
}

/// A text that is not copied where the payload holds it without escapes.
#[derive(Deserialize)]
pub(super) struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

#[derive(Deserialize)]
pub(super) struct RequestContext {
    pub http: Option<HttpContext>,
    pub elb: Option<IgnoredAny>,
    pub stage: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct HttpContext {
    pub method: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    /// SNS writes it with a capital.
    #[serde(alias = "EventSource")]
    event_source: Option<String>,
    pub event_name: Option<String>,
    s3: Option<RecordS3>,
}

#[derive(Deserialize)]
struct RecordS3 {
    object: Option<RecordObject>,
}

#[derive(Deserialize)]
struct RecordObject {
    key: Option<String>,
    size: Option<u64>,
}

impl Record {
    pub fn source(&self) -> &str {
        self.event_source.as_deref().unwrap_or("nowhere")
    }

    pub fn created(&self) -> Option<Created> {
        // Also as configured by a notification that is older than `s3:`.
        let name = self.event_name.as_deref()?.trim_start_matches("s3:");
        let object = self.s3.as_ref()?.object.as_ref()?;
        let created = Created { encoded_key: object.key.clone()?, size: object.size };
        name.starts_with("ObjectCreated:").then_some(created)
    }
}
