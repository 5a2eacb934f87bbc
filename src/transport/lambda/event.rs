//! What an invocation's payload is.
//!
//! The types hold what is needed and no more, so a field that AWS adds or leaves out changes nothing. The body stays
//! where it is in the payload until it is decoded.

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use std::borrow::Cow;
use std::collections::BTreeMap;

use super::request::HttpEvent;

/// A payload, read. Reading never fails: what is not understood says why.
#[derive(Debug)]
pub enum Event {
    Http(Box<HttpEvent>),
    Objects(Vec<Created>),
    Unknown(String),
}

/// An object that S3 says was created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    /// As in the event: URL-encoded, `+` for a space.
    pub encoded_key: String,
}

/// Every kind of event at once: which it is shows in the fields it has.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Payload<'a> {
    pub request_context: Option<RequestContext>,
    pub http_method: Option<String>,
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
    #[serde(default)]
    pub is_base64_encoded: bool,
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
    event_name: Option<String>,
    s3: Option<RecordS3>,
}

#[derive(Deserialize)]
struct RecordS3 {
    object: RecordObject,
}

#[derive(Deserialize)]
struct RecordObject {
    key: String,
}

const KNOWN: &str =
    "known are HTTP requests (function URL, HTTP API, REST API, ALB) and S3's ObjectCreated notifications";

impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match Payload::deserialize(deserializer) {
            Ok(payload) => Event::of(payload),
            Err(error) => Event::Unknown(format!("this event cannot be read ({error}); {KNOWN}")),
        })
    }
}

impl Event {
    fn of(payload: Payload<'_>) -> Event {
        if let Some(records) = &payload.records {
            return Event::of_records(records);
        }
        match HttpEvent::of(payload) {
            Ok(Some(event)) => Event::Http(Box::new(event)),
            Ok(None) => Event::Unknown(format!("this event is of an unknown kind; {KNOWN}")),
            Err(error) => Event::Unknown(format!("this event is not a valid HTTP request ({error})")),
        }
    }

    fn of_records(records: &[Record]) -> Event {
        let mut created = Vec::new();
        for record in records {
            let source = record.event_source.as_deref().unwrap_or("nowhere");
            let name = record.event_name.as_deref().unwrap_or("nothing");
            match &record.s3 {
                // Also as configured by a notification that is older than `s3:`.
                Some(s3) if source == "aws:s3" && name.trim_start_matches("s3:").starts_with("ObjectCreated:") => {
                    created.push(Created { encoded_key: s3.object.key.clone() });
                }
                _ => return Event::Unknown(format!("this event has a record of {name} from {source}; {KNOWN}")),
            }
        }
        Event::Objects(created)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_understood_says_why() {
        for (payload, why) in [
            ("{}", "unknown kind"),
            ("\"hello\"", "cannot be read"),
            ("[1]", "cannot be read"),
            (r#"{"headers": 5}"#, "cannot be read"),
            (r#"{"Records": [{"eventSource": "aws:sqs", "body": "x"}]}"#, "nothing from aws:sqs"),
            (r#"{"Records": [{"EventSource": "aws:sns"}]}"#, "aws:sns"),
            (r#"{"httpMethod": "NO METHOD", "path": "/"}"#, "not a valid HTTP request"),
            (r#"{"requestContext": {"connectionId": "x"}, "body": ""}"#, "unknown kind"),
        ] {
            match serde_json::from_str(payload).unwrap() {
                Event::Unknown(reason) => assert!(reason.contains(why), "{payload}: {reason}"),
                event => panic!("{payload}: {event:?}"),
            }
        }
    }

    #[test]
    fn a_body_without_escapes_is_not_copied() {
        let payload: Payload<'_> = serde_json::from_str(r#"{"body": "QUJD"}"#).unwrap();
        assert!(matches!(payload.body, Some(Text(Cow::Borrowed("QUJD")))));
        let payload: Payload<'_> = serde_json::from_str(r#"{"body": "QQ\u003d="}"#).unwrap();
        assert!(matches!(payload.body, Some(Text(Cow::Owned(text))) if text == "QQ=="));
    }
}
