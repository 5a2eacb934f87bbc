//! Uploads a file through the service, as a form that is sent while the file is read.
//!
//! A streamed upload has no name before it has succeeded, so one that is repeated may be stored twice. It is repeated only
//! where no answer could have been a success: the connection broke before it had the form's last byte, or the service
//! itself (not a gateway before it) said that it failed, and it keeps nothing then.

use bytes::Bytes;
use std::cell::RefCell;
use std::sync::Arc;
use uuid::Uuid;

use super::api::Image;
use super::body::{FileBody, Meter};
use super::error::RequestError;
use super::job::Job;
use super::report::Failure;
use crate::format::Format;

/// # Errors
/// Where the image was refused, or its answer was lost.
pub async fn upload(job: &Job<'_>) -> Result<Image, Failure> {
    let link = job.http.route("upload-image")?;
    let boundary = format!("image-store-{}", Uuid::new_v4().simple());
    let content_type = format!("multipart/form-data; boundary={boundary}");
    let meter: RefCell<Option<Arc<Meter>>> = RefCell::default();
    let attempt = async || {
        let around = form(&job.file_name(), &boundary);
        let body =
            FileBody::framed(job.path, 0, job.size, around, &job.report.bar).await.map_err(RequestError::File)?;
        meter.replace(Some(body.meter()));
        job.http.post(&link, &content_type, body).await
    };
    let is_whole = || meter.borrow().as_ref().is_some_and(|meter| meter.is_whole());
    let may_repeat = |error: &RequestError| error.is_retryable() && !may_be_stored(error, is_whole());
    match job.retry("POST /upload-image", may_repeat, attempt).await {
        Ok(answer) => Ok(answer.image()?),
        Err(error) if may_be_stored(&error, is_whole()) => Err(lost(&error)),
        Err(error) => Err(error.into()),
    }
}

/// Whether this may be how a success looks from here.
fn may_be_stored(error: &RequestError, sent_whole: bool) -> bool {
    let unheard = match error {
        RequestError::Network(_) | RequestError::Stalled(_) => true,
        RequestError::Rejected(refusal) => refusal.status.is_server_error() && !refusal.by_service,
        RequestError::File(_) | RequestError::Unclear(_) => false,
    };
    unheard && sent_whole
}

fn lost(error: &RequestError) -> Failure {
    let error = format!("{error}; the image was sent whole and may be stored, so it is not sent again");
    Failure::new("answer_lost", error)
}

/// Returns the bytes of the form before and after the file (RFC 7578).
fn form(file_name: &str, boundary: &str) -> [Bytes; 2] {
    let content_type = by_extension(file_name).map_or("application/octet-stream", Format::content_type);
    let head = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{}\"\r\n\
         Content-Type: {content_type}\r\n\r\n",
        escaped(file_name)
    );
    [head.into(), format!("\r\n--{boundary}--\r\n").into()]
}

/// Returns the format of a file by the extension of its name.
pub fn by_extension(file_name: &str) -> Option<Format> {
    Format::from_extension(file_name.rsplit_once('.')?.1).map(|(format, _)| format)
}

/// Escapes a file name as browsers do:
/// <https://html.spec.whatwg.org/multipage/form-control-infrastructure.html#multipart-form-data>.
fn escaped(file_name: &str) -> String {
    file_name.replace('"', "%22").replace('\r', "%0D").replace('\n', "%0A")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::upload::error::ErrorBody;
    use reqwest::StatusCode;
    use std::time::Duration;

    fn refused(status: u16, by_service: bool) -> RequestError {
        let status = StatusCode::from_u16(status).unwrap();
        RequestError::Rejected(ErrorBody { status, code: None, detail: String::new(), by_service, retry_after: None })
    }

    #[test]
    fn only_a_lost_answer_to_a_whole_form_may_be_a_success() {
        let stalled = RequestError::Stalled(Duration::ZERO);
        assert!(may_be_stored(&stalled, true));
        assert!(!may_be_stored(&stalled, false));
        assert!(may_be_stored(&refused(502, false), true), "a gateway's");
        assert!(!may_be_stored(&refused(503, true), true), "the service's own");
        assert!(!may_be_stored(&refused(429, false), true), "no failure of the service's");
    }

    #[test]
    fn file_name_cannot_end_its_header() {
        let [head, _] = form("a\"\r\nX: y.png", "b");
        let head = String::from_utf8(head.to_vec()).unwrap();
        assert!(head.contains("filename=\"a%22%0D%0AX: y.png\"\r\nContent-Type: image/png\r\n\r\n"), "{head}");
    }
}
