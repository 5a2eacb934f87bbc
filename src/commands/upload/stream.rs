//! Uploads a file through the service, as a form that is sent while the file is read.
//!
//! Every attempt has the same `Idempotency-Key`, so the form is simply sent again, also if the answer was lost: the service
//! stores the image once.

use bytes::Bytes;
use uuid::Uuid;

use super::api::Image;
use super::body::FileBody;
use super::error::RequestError;
use super::job::Job;
use super::report::Failure;
use crate::format::Format;

/// # Errors
/// If the image was refused, or no attempt was answered.
pub async fn upload(job: &Job<'_>) -> Result<Image, Failure> {
    let link = job.http.route("upload-image")?;
    let boundary = format!("image-store-{}", Uuid::new_v4().simple());
    let headers = [
        ("content-type", format!("multipart/form-data; boundary={boundary}")),
        ("idempotency-key", format!("\"{}\"", Uuid::new_v4())),
    ];
    let attempt = async || {
        let around = form(job.file_name(), &boundary);
        let body =
            FileBody::framed(job.path, 0, job.size, around, &job.report.bar).await.map_err(RequestError::File)?;
        job.http.post(&link, &headers, body).await
    };
    let answer = job.retry("POST /upload-image", RequestError::is_retryable, attempt).await?;
    Ok(answer.image()?)
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

    #[test]
    fn file_name_cannot_end_its_header() {
        let [head, _] = form("a\"\r\nX: y.png", "b");
        let head = String::from_utf8(head.to_vec()).unwrap();
        assert!(head.contains("filename=\"a%22%0D%0AX: y.png\"\r\nContent-Type: image/png\r\n\r\n"), "{head}");
    }
}
