//! Which kind of event an invocation's payload is.

use serde::{Deserialize, Deserializer};

use super::payload::{Created, Payload, Record};
use super::request::HttpEvent;

/// A payload, read. Reading never fails: what is not understood says why.
#[derive(Debug)]
pub enum Event {
    Http(Box<HttpEvent>),
    Objects(Vec<Created>),
    Unknown(String),
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

    /// Lambda repeats an event that failed, all of it. So a record of S3's that asks for nothing does not make it fail; one
    /// of another service means that the function is called by something that it does not know.
    fn of_records(records: &[Record]) -> Event {
        let mut created = Vec::new();
        for record in records {
            let name = record.event_name.as_deref().unwrap_or("nothing");
            if record.source() != "aws:s3" {
                return Event::Unknown(format!("this event has a record of {name} from {}; {KNOWN}", record.source()));
            }
            match record.created() {
                Some(object) => created.push(object),
                None => tracing::warn!(name, "S3 sent a notification of another event than ObjectCreated"),
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
    fn a_record_that_asks_for_nothing_does_not_hold_up_the_others() {
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
    fn a_body_without_escapes_is_not_copied() {
        let payload: Payload<'_> = serde_json::from_str(r#"{"body": "QUJD"}"#).unwrap();
        assert!(matches!(payload.body, Some(Text(Cow::Borrowed("QUJD")))));
        let payload: Payload<'_> = serde_json::from_str(r#"{"body": "QQ\u003d="}"#).unwrap();
        assert!(matches!(payload.body, Some(Text(Cow::Owned(text))) if text == "QQ=="));
    }
}
