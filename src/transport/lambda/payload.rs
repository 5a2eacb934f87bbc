//! The JSON of an invocation's payload.
//!
//! The types contain only the fields that are used, so fields that AWS adds or omits have no effect. The body is
//! borrowed from the payload until it is decoded.

use serde::Deserialize;
use serde::de::IgnoredAny;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// An object from an S3 ObjectCreated notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    /// The key as in the event: URL-encoded, with `+` for a space.
    pub encoded_key: String,
    /// Bytes.
    pub size: Option<u64>,
}

/// The fields of all kinds of events. The fields that are present determine the kind.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Payload<'a> {
    pub request_context: Option<RequestContext>,
    pub http_method: Option<String>,
    /// The resource that the gateway matched, with `{names}` in place of [`Self::path_parameters`]. For REST APIs and
    /// for payload format 1.0.
    pub resource: Option<String>,
    /// The same for payload format 2.0, after the method: `ANY /{proxy+}`, or `$default`.
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

/// A text that is borrowed from the payload if it contains no escapes there.
#[derive(Deserialize)]
pub(super) struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

#[derive(Deserialize)]
pub(super) struct RequestContext {
    pub http: Option<HttpContext>,
    pub elb: Option<IgnoredAny>,
    pub stage: Option<String>,
    /// The path of the URL that was requested. For REST APIs and for payload format 1.0.
    pub path: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct HttpContext {
    pub method: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    /// SNS capitalises this name.
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
        self.event_source.as_deref().unwrap_or("(no event source)")
    }

    pub fn created(&self) -> Option<Created> {
        // The name may have the prefix `s3:`.
        let name = self.event_name.as_deref()?.trim_start_matches("s3:");
        let object = self.s3.as_ref()?.object.as_ref()?;
        let created = Created { encoded_key: object.key.clone()?, size: object.size };
        name.starts_with("ObjectCreated:").then_some(created)
    }
}
