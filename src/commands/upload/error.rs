//! Errors of one request, and whether it can be retried.

use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Response, StatusCode};
use serde_json::Value;
use std::error::Error;
use std::io;
use std::time::{Duration, SystemTime};

/// The maximum that is observed of a `Retry-After`.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(600);
/// Maximum number of characters that are shown of an error's text.
const MAX_TEXT: usize = 300;

/// The failure of one request.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error("{}", root_cause(.0))]
    Network(#[source] reqwest::Error),
    #[error("no data was sent or received for {} s", .0.as_secs())]
    Stalled(Duration),
    #[error("{0}")]
    Rejected(ErrorBody),
    #[error("{0}")]
    File(io::Error),
    /// The answer is not one that the service gives.
    #[error("{0}")]
    Unclear(String),
}

/// An answer other than success.
#[derive(Debug, thiserror::Error)]
#[error("{status}{}{detail}", if detail.is_empty() { "" } else { ": " })]
pub struct ErrorBody {
    pub status: StatusCode,
    /// The service's `code`, or S3's.
    pub code: Option<String>,
    pub detail: String,
    /// Whether the service itself answered, and not a gateway in front of it.
    pub by_service: bool,
    pub retry_after: Option<Duration>,
}

impl RequestError {
    /// Returns whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            RequestError::Network(error) => !error.is_builder(),
            RequestError::Stalled(_) => true,
            RequestError::Rejected(refusal) => refusal.is_retryable(),
            RequestError::File(_) | RequestError::Unclear(_) => false,
        }
    }

    /// Returns whether a presigned URL may have expired or its upload may have ended, which `status_url` reports.
    pub fn asks_for_status(&self) -> bool {
        self.refusal().is_some_and(|refusal| {
            let stale = [StatusCode::FORBIDDEN, StatusCode::NOT_FOUND].contains(&refusal.status);
            stale || refusal.is("ExpiredToken")
        })
    }

    pub fn refusal(&self) -> Option<&ErrorBody> {
        if let RequestError::Rejected(refusal) = self { Some(refusal) } else { None }
    }

    pub fn status(&self) -> Option<StatusCode> {
        self.refusal().map(|refusal| refusal.status)
    }

    pub fn retry_after(&self) -> Option<Duration> {
        self.refusal()?.retry_after
    }
}

impl ErrorBody {
    pub fn is(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }

    /// Reads an answer that is not a success.
    pub async fn read(answer: Response) -> ErrorBody {
        let (status, retry_after) = (answer.status(), retry_after(answer.headers()));
        let location = answer.headers().get("location").and_then(|to| to.to_str().ok()).map(str::to_owned);
        // The status is enough if the text cannot be read.
        let text = answer.text().await.unwrap_or_default();
        let json: Value = serde_json::from_str(&text).unwrap_or_default();
        let code = json["code"].as_str().map(str::to_owned);
        let by_service = code.is_some();
        let detail = match (json["detail"].as_str(), between(&text, "Message"), location) {
            (Some(detail), ..) => detail.to_owned(),
            (None, Some(message), _) => message,
            (None, None, Some(location)) => format!("redirected to {location}"),
            (None, None, None) => text.trim().chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect(),
        };
        ErrorBody { status, code: code.or_else(|| between(&text, "Code")), detail, by_service, retry_after }
    }

    /// Returns whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        let statuses = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
        let server_error = self.status.is_server_error() && self.status != StatusCode::NOT_IMPLEMENTED;
        // S3 answers 400 to a body that is too slow, and 409 to concurrent PUTs to one key.
        let codes = ["RequestTimeout", "ConditionalRequestConflict", "OperationAborted"];
        server_error
            || statuses.contains(&self.status)
            || self.code.as_deref().is_some_and(|code| codes.contains(&code))
    }
}

/// Parses `Retry-After`: seconds or a date (RFC 9110, section 10.2.3).
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let until = |date: SystemTime| date.duration_since(SystemTime::now()).unwrap_or_default();
    let wait = text.parse().map(Duration::from_secs).ok().or_else(|| httpdate::parse_http_date(text).ok().map(until));
    wait.map(|wait| wait.min(MAX_RETRY_AFTER))
}

/// Returns the text of the first `<name>` element of S3's XML.
fn between(text: &str, name: &str) -> Option<String> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    Some(rest.split_once('<')?.0.to_owned())
}

/// Returns the innermost error. The outer ones repeat the URL, which may be presigned and therefore secret.
fn root_cause(error: &reqwest::Error) -> String {
    let mut root: &dyn Error = error;
    while let Some(source) = root.source() {
        root = source;
    }
    if root.is::<reqwest::Error>() { "the request failed".to_owned() } else { root.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: u16, code: Option<&str>) -> ErrorBody {
        let status = StatusCode::from_u16(status).unwrap();
        let code = code.map(str::to_owned);
        ErrorBody { status, code, detail: String::new(), by_service: false, retry_after: None }
    }

    #[test]
    fn temporary_errors_are_retryable() {
        for status in [408, 429, 500, 502, 503, 504] {
            assert!(refusal(status, None).is_retryable(), "{status}");
        }
        for status in [301, 400, 401, 403, 404, 409, 412, 413, 501] {
            assert!(!refusal(status, None).is_retryable(), "{status}");
        }
        assert!(refusal(400, Some("RequestTimeout")).is_retryable());
    }

    #[test]
    fn expired_urls_ask_for_the_status() {
        for (status, code) in [(403, None), (403, Some("AccessDenied")), (404, Some("NoSuchUpload"))] {
            assert!(RequestError::Rejected(refusal(status, code)).asks_for_status(), "{status}");
        }
        assert!(RequestError::Rejected(refusal(400, Some("ExpiredToken"))).asks_for_status());
        assert!(!RequestError::Rejected(refusal(400, None)).asks_for_status());
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let read = |text: &str| retry_after(&HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]));
        assert_eq!(read("7"), Some(Duration::from_secs(7)));
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        assert_eq!(read("999999"), Some(MAX_RETRY_AFTER));
        assert_eq!(read("soon"), None);
        let later = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(30));
        assert!((28..=30).contains(&read(&later).unwrap().as_secs()));
    }

    #[test]
    fn code_is_read_from_xml_errors() {
        let text =
            "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>";
        assert_eq!(between(text, "Code").as_deref(), Some("AccessDenied"));
        assert_eq!(between(text, "Resource"), None);
    }
}
