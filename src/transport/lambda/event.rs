//! Determines the kind of event from an invocation's payload.

use serde::{Deserialize, Deserializer};

use super::payload::{Created, Payload, Record};
use super::request::HttpEvent;

/// A parsed payload. Parsing never fails: [`Event::Unknown`] contains the reason why a payload was not recognised.
#[derive(Debug)]
pub enum Event {
    Http(Box<HttpEvent>),
    Objects(Vec<Created>),
    Unknown(String),
}

const SUPPORTED: &str =
    "supported events are HTTP requests (function URL, HTTP API, REST API, ALB) and S3 ObjectCreated notifications";

impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match Payload::deserialize(deserializer) {
            Ok(payload) => Event::of(payload),
            Err(error) => Event::Unknown(format!("the event cannot be parsed ({error}); {SUPPORTED}")),
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
            Ok(None) => Event::Unknown(format!("the event is of an unknown kind; {SUPPORTED}")),
            Err(error) => Event::Unknown(format!("the event is not a valid HTTP request ({error})")),
        }
    }

    /// Lambda repeats a failed event with all its records. An S3 record that requires no action therefore does not make
    /// the event fail. A record of another service does, because it means that an unsupported sender calls the
    /// function.
    fn of_records(records: &[Record]) -> Event {
        let mut created = Vec::new();
        for record in records {
            let name = record.event_name.as_deref().unwrap_or("(no event name)");
            if record.source() != "aws:s3" {
                let source = record.source();
                return Event::Unknown(format!("the event contains a record of {name} from {source}; {SUPPORTED}"));
            }
            match record.created() {
                Some(object) => created.push(object),
                None => tracing::warn!(name, "ignored an S3 notification that is not a valid ObjectCreated event"),
            }
        }
        Event::Objects(created)
    }
}

#[cfg(test)]
mod tests {
    use super::super::payload::Text;
    use super::*;
    use std::borrow::Cow;

    #[test]
    fn unknown_events_contain_the_reason() {
        for (payload, expected) in [
            ("{}", "unknown kind"),
            ("\"hello\"", "cannot be parsed"),
            ("[1]", "cannot be parsed"),
            (r#"{"headers": 5}"#, "cannot be parsed"),
            (r#"{"Records": [{"eventSource": "aws:sqs", "body": "x"}]}"#, "(no event name) from aws:sqs"),
            (r#"{"Records": [{"EventSource": "aws:sns"}]}"#, "aws:sns"),
            (r#"{"httpMethod": "NO METHOD", "path": "/"}"#, "not a valid HTTP request"),
            (r#"{"requestContext": {"connectionId": "x"}, "body": ""}"#, "unknown kind"),
        ] {
            match serde_json::from_str(payload).unwrap() {
                Event::Unknown(reason) => assert!(reason.contains(expected), "{payload}: {reason}"),
                event => panic!("{payload}: {event:?}"),
            }
        }
    }

    #[test]
    fn ignored_records_do_not_affect_the_others() {
        let record =
            |name: &str, s3: &str| format!(r#"{{"eventSource": "aws:s3", "eventName": "{name}", "s3": {s3}}}"#);
        let records = [
            record("ObjectRemoved:Delete", r#"{"object": {"key": "removed"}}"#),
            record("ObjectCreated:Put", r#"{"object": {"key": "put"}}"#),
            record("ObjectCreated:Put", r#"{"object": {}}"#),
            record("s3:ObjectCreated:Copy", r#"{"object": {"key": "copied"}}"#),
            record("ObjectCreated:Put", "null"),
        ];
        let event = format!(r#"{{"Records": [{}]}}"#, records.join(", "));
        let Event::Objects(created) = serde_json::from_str(&event).unwrap() else { panic!("{event}") };
        let keys: Vec<&str> = created.iter().map(|created| created.encoded_key.as_str()).collect();
        assert_eq!(keys, ["put", "copied"]);
    }

    #[test]
    fn body_without_escapes_is_not_copied() {
        let payload: Payload<'_> = serde_json::from_str(r#"{"body": "QUJD"}"#).unwrap();
        assert!(matches!(payload.body, Some(Text(Cow::Borrowed("QUJD")))));
        let payload: Payload<'_> = serde_json::from_str(r#"{"body": "QQ\u003d="}"#).unwrap();
        assert!(matches!(payload.body, Some(Text(Cow::Owned(text))) if text == "QQ=="));
    }
}
