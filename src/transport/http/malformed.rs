//! Answers to requests that cannot be parsed.
//!
//! hyper answers such a request itself, with a status and no body, and does not call the service. This module
//! recognises these answers in the bytes that a connection writes and replaces them, so that every error is JSON.

use memchr::memmem;

use super::head::MAX_HEAD;
use crate::error::Error;
use crate::server::response::ErrorBody;

/// A header of every answer of the service, which hyper's own answers do not have.
const SERVICE_HEADER: &[u8] = b"\r\nx-request-id:";

/// The leading digits of two Content-Lengths that hyper uses internally as special values. hyper answers such requests
/// like ones whose head is too large.
const UNREADABLE_LENGTH: &[u8] = b"1844674407370955161";

/// Whether the head of a request that hyper rejects has a Content-Length that hyper does not support.
pub(super) fn has_unreadable_length(head: &[u8]) -> bool {
    memmem::find(head, UNREADABLE_LENGTH).is_some()
}

/// Returns the answer to send instead of `written`, if `written` is exactly one answer of hyper itself.
pub(super) fn answer_instead_of(written: &[u8], unreadable_length: bool) -> Option<Vec<u8>> {
    let error = match written.strip_prefix(b"HTTP/1.1 ")?.first_chunk::<3>()? {
        b"431" if unreadable_length => {
            Error::InvalidRequest("The Content-Length exceeds the size limit of any body".to_owned())
        }
        b"400" => Error::InvalidRequest("The head of the request is malformed (RFC 9112)".to_owned()),
        b"414" | b"431" => Error::HeadTooLarge { limit: MAX_HEAD },
        _ => return None,
    };
    let bare = written.ends_with(b"\r\n\r\n") && memmem::find(written, SERVICE_HEADER).is_none();
    bare.then(|| answer(&error))
}

fn answer(error: &Error) -> Vec<u8> {
    let body = serde_json::to_vec(&ErrorBody::from(error)).unwrap_or_default();
    let (status, length) = (error.status(), body.len());
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\
         cache-control: no-store\r\nx-content-type-options: nosniff\r\n\r\n"
    );
    [head.into_bytes(), body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instead_of(written: &str) -> Option<String> {
        answer_instead_of(written.as_bytes(), false).map(|answer| String::from_utf8(answer).unwrap())
    }

    #[test]
    fn only_bare_error_answers_are_replaced_with_json() {
        for (status, code) in
            [("400 Bad Request", "invalid_request"), ("431 X", "head_too_large"), ("414 X", "head_too_large")]
        {
            let answer = instead_of(&format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\ndate: x\r\n\r\n")).unwrap();
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(body).unwrap()["code"], code);
        }
        for other in [
            "HTTP/1.1 400 Bad Request\r\nx-request-id: 1\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\n{}",
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 4",
        ] {
            assert_eq!(instead_of(other), None, "{other}");
        }
    }
}
