//! Resumable uploads through the service (tus 1.0): creates an upload, and sends the rest of the file until the service
//! has all of it.
//!
//! After an error the client asks how much has arrived and continues there. A later run can do the same with the upload's
//! address (`--resume`).

use reqwest::Method;
use reqwest::header::{HeaderMap, LOCATION};
use std::cell::Cell;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::api::Image;
use super::compare;
use super::error::RequestError;
use super::http::{Answer, Link};
use super::job::Job;
use super::report::Failure;
use super::retry::backoff;
use super::stream::by_extension;

/// The part of an upload's path that precedes its key.
const FILES: &str = "/files/";

type Headers = [(&'static str, String)];

/// Uploads the file with a new upload.
///
/// # Errors
/// Returns an error if the image was rejected or could not be sent.
pub async fn upload(job: &Job<'_>) -> Result<Image, Failure> {
    let link = job.http.route("files")?;
    let mut metadata = format!("filename {}", STANDARD.encode(job.file_name()));
    if let Some(format) = by_extension(job.file_name()) {
        metadata.push_str(&format!(",filetype {}", STANDARD.encode(format.content_type())));
    }
    let headers = [tus(), ("upload-length", job.size.to_string()), ("upload-metadata", metadata)];
    let attempt = async || job.http.exchange(Method::POST, &link, &headers, None).await;
    let created = job.retry("POST /files", RequestError::is_retryable, attempt).await?;
    let address = text(&created.headers, LOCATION.as_str()).ok_or_else(|| unclear("Location"))?;
    let session = Session::new(job, link.join(address)?);
    job.report.resumable(session.link.url.as_str());
    session.send(0).await
}

/// Returns whether this is the address of a resumable upload.
pub fn is_address(link: &str) -> bool {
    link.split('?').next().is_some_and(|path| path.contains(FILES))
}

/// Resumes an upload of an earlier run.
///
/// # Errors
/// Returns an error if the upload is of another file, has ended, or could not be sent.
pub async fn resume(job: &Job<'_>, address: &str) -> Result<Image, Failure> {
    let session = Session::new(job, job.http.given(address)?);
    let State { offset, length } = session.state().await?;
    if length.is_some_and(|length| length != job.size) || offset > job.size {
        let length = length.unwrap_or(offset);
        let error = format!("the upload is for a file of {length} bytes, but this file has {} bytes", job.size);
        return Err(Failure::new("other_file", error));
    }
    let image = session.send(offset).await?;
    compare::image(job, &image).await?;
    Ok(image)
}

/// An upload that was created.
struct Session<'a> {
    job: &'a Job<'a>,
    link: Link,
}

/// What the service has of an upload, in bytes.
struct State {
    offset: u64,
    /// `None` if the service does not know it yet.
    length: Option<u64>,
}

impl<'a> Session<'a> {
    fn new(job: &'a Job<'a>, link: Link) -> Self {
        job.set_status_url(Some(&link.url));
        Session { job, link }
    }

    /// Sends the file from `offset` on. Gives up after as many consecutive errors without progress as there are retries.
    async fn send(&self, mut offset: u64) -> Result<Image, Failure> {
        let failures = Cell::new(0);
        loop {
            self.job.report.bar.set_position(offset);
            let error = match self.append(offset).await {
                Ok(Appended::Image(image)) => return Ok(image),
                Ok(Appended::Part(next)) if next > offset => {
                    failures.set(0);
                    offset = next;
                    continue;
                }
                Ok(Appended::Part(_)) => RequestError::Unclear("the service stored nothing of the file".to_owned()),
                Err(error) => error,
            };
            if failures.get() == self.job.http.retries || !may_continue(&error) {
                return Err(self.ended(error));
            }
            let wait = error.retry_after().unwrap_or_else(|| backoff(failures.get()));
            self.job.report.print_retry(&format!("PATCH {}", self.link.url.path()), &error, wait);
            tokio::time::sleep(wait).await;
            let arrived = self.state().await?.offset;
            failures.set(if arrived > offset { 0 } else { failures.get() + 1 });
            offset = arrived;
        }
    }

    /// Sends the rest of the file in one request. An upload that is already complete is answered the same.
    async fn append(&self, offset: u64) -> Result<Appended, RequestError> {
        if offset == self.job.size {
            return self.ask(Method::GET).await?.image().map(Appended::Image);
        }
        let body = self.job.read(offset, self.job.size - offset).await?;
        let headers = [
            tus(),
            ("accept", "application/json".to_owned()),
            ("content-type", "application/offset+octet-stream".to_owned()),
            ("upload-offset", offset.to_string()),
        ];
        let answer = self.job.http.exchange(Method::PATCH, &self.link, &headers, Some(body)).await?;
        match number(&answer.headers, "upload-offset") {
            Some(stored) if stored < self.job.size => Ok(Appended::Part(stored)),
            _ => answer.image().map(Appended::Image),
        }
    }

    async fn state(&self) -> Result<State, Failure> {
        let answer = self.ask(Method::HEAD).await.map_err(|error| self.ended(error))?;
        let offset = number(&answer.headers, "upload-offset").ok_or_else(|| unclear("Upload-Offset"))?;
        Ok(State { offset, length: number(&answer.headers, "upload-length") })
    }

    /// Asks about the upload, with retries.
    async fn ask(&self, method: Method) -> Result<Answer, RequestError> {
        let headers: &Headers = &[tus(), ("accept", "application/json".to_owned())];
        let what = format!("{method} {}", self.link.url.path());
        let attempt = async || self.job.http.exchange(method.clone(), &self.link, headers, None).await;
        self.job.retry(&what, RequestError::is_retryable, attempt).await
    }

    /// Forgets the upload's address if the service has rejected or removed it, because it cannot be resumed.
    fn ended(&self, error: RequestError) -> Failure {
        if !may_continue(&error) && error.status().is_some_and(|status| status.is_client_error()) {
            self.job.set_status_url(None);
        }
        error.into()
    }
}

/// The result of a request that sent bytes of the file.
enum Appended {
    Image(Image),
    /// The offset up to which the service has the file.
    Part(u64),
}

/// Returns whether the upload can be continued after this error, at the offset that the service reports.
fn may_continue(error: &RequestError) -> bool {
    error.is_retryable() || error.refusal().is_some_and(|refusal| refusal.is("offset_mismatch"))
}

fn tus() -> (&'static str, String) {
    ("tus-resumable", "1.0.0".to_owned())
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    text(headers, name)?.parse().ok()
}

fn unclear(header: &str) -> RequestError {
    RequestError::Unclear(format!("the answer has no valid {header}; check the address of the service"))
}

#[cfg(test)]
mod tests {
    use super::is_address;

    #[test]
    fn addresses_of_resumable_uploads_are_recognized() {
        assert!(is_address("https://h/up/files/k.png?upload=x"));
        assert!(!is_address("https://h/uploads/k.png?plan=/files/"));
    }
}
