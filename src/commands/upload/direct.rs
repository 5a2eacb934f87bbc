//! Direct uploads: requests a plan from the service, sends the bytes to S3, and completes the upload.

use reqwest::header::CONTENT_LENGTH;
use reqwest::{Method, StatusCode};
use serde_json::json;
use std::time::{Duration, Instant};

use super::api::{Headers, Image, Part, Plan, Progress, Status, UploadMethod};
use super::compare;
use super::error::{RequestError, retry_after};
use super::http::Link;
use super::input::detect;
use super::job::Job;
use super::parts;
use super::report::Failure;
use super::stream::by_extension;

/// Maximum number of plans for one file. A PUT URL that has expired cannot be signed again, so a new plan is required.
const MAX_PLANS: usize = 3;
/// Maximum number of attempts to complete an upload whose parts went missing.
const MAX_COMPLETIONS: usize = 3;
/// How long the service may take to verify an upload.
const VERIFY_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// The interval at which completion is requested again, if the answer has no Retry-After.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// A direct upload that has a plan.
pub struct Session<'a> {
    pub job: &'a Job<'a>,
    status: Link,
    complete: Link,
}

/// Uploads the file with a new plan.
///
/// # Errors
/// Returns an error if the image was rejected or could not be sent.
pub async fn upload(job: &Job<'_>) -> Result<Image, Failure> {
    let link = job.http.route("uploads")?;
    let request = upload_request(job)?;
    for _ in 0..MAX_PLANS {
        let plan: Plan = job.ask(Method::POST, &link, Some(&request)).await?.json()?;
        let session = Session::new(job, link.join(&plan.status_url)?, &plan.complete_url)?;
        match plan.method {
            UploadMethod::Multipart { parts } => {
                job.report.resumable(session.status.url.as_str());
                session.send(parts).await?;
                return session.finish().await;
            }
            UploadMethod::Put { url, headers } if session.put(&url, &headers).await? => return session.finish().await,
            UploadMethod::Put { .. } => job.report.print_status("the upload plan has expired; requesting a new one"),
        }
    }
    Err(Failure::new("expired", format!("{MAX_PLANS} upload plans expired before the upload began")))
}

/// Resumes an upload of an earlier run.
///
/// # Errors
/// Returns an error if the upload is of another file, has ended, or could not be sent.
pub async fn resume(job: &Job<'_>, status_url: &str) -> Result<Image, Failure> {
    let link = job.http.given(status_url)?;
    let status: Status = job.ask(Method::GET, &link, None).await?.json()?;
    if status.size != job.size {
        let error = format!("the upload is for a file of {} bytes, but this file has {} bytes", status.size, job.size);
        return Err(Failure::new("other_file", error));
    }
    let session = Session::new(job, link, &status.complete_url)?;
    match (status.state, status.parts) {
        (Progress::Waiting, None) => {
            job.set_status_url(None);
            job.report.print_status("nothing has arrived, and a single PUT cannot be signed again: starting over");
            return upload(job).await;
        }
        (_, Some(parts)) => {
            compare::parts(job, &parts).await?;
            session.send(parts).await?;
        }
        (_, None) => job.report.bar.set_position(job.size),
    }
    let image = session.finish().await?;
    compare::image(job, &image).await?;
    Ok(image)
}

/// Returns the body of `POST /uploads`.
fn upload_request(job: &Job<'_>) -> Result<serde_json::Value, Failure> {
    let filename = job.file_name();
    let mut request = json!({ "filename": filename, "size": job.size });
    if by_extension(filename).is_none()
        && let Some(format) = detect(job.path).map_err(RequestError::File)?
    {
        request["content_type"] = format.content_type().into();
    }
    Ok(request)
}

impl<'a> Session<'a> {
    fn new(job: &'a Job<'a>, status: Link, complete_url: &str) -> Result<Self, Failure> {
        let complete = status.join(complete_url)?;
        job.set_status_url(Some(&status.url));
        Ok(Session { job, status, complete })
    }

    /// Requests the status, with new URLs for the parts that have not arrived.
    ///
    /// # Errors
    /// Returns a 404 error if the upload has ended without an image.
    pub async fn status(&self) -> Result<Status, RequestError> {
        self.job.ask(Method::GET, &self.status, None).await?.json()
    }

    async fn send(&self, parts: Vec<Part>) -> Result<(), Failure> {
        parts::send(self.job, parts, async || Ok(self.status().await?.parts)).await
    }

    /// Sends the file in a single PUT. Returns whether the object exists afterwards; if not, the URL has expired.
    async fn put(&self, url: &str, headers: &Headers) -> Result<bool, Failure> {
        let size = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(CONTENT_LENGTH.as_str()));
        if size.is_some_and(|(_, size)| *size != self.job.size.to_string()) {
            return Err(Failure::new("other_file", "the upload plan is for a file of another size"));
        }
        let attempt = async || self.job.http.put(url, headers, self.job.read(0, self.job.size).await?).await;
        match self.job.retry("PUT", RequestError::is_retryable, attempt).await {
            Ok(_) => Ok(true),
            // If-None-Match failed, so an earlier attempt arrived and only its answer was lost.
            Err(error) if error.status() == Some(StatusCode::PRECONDITION_FAILED) => Ok(true),
            Err(error) if error.asks_for_status() => Ok(self.status().await?.state != Progress::Waiting),
            Err(error) => Err(error.into()),
        }
    }

    /// Completes the upload, and sends the parts that are reported as missing.
    async fn finish(&self) -> Result<Image, Failure> {
        for _ in 1..MAX_COMPLETIONS {
            match self.complete().await {
                Err(error) if error.refusal().is_some_and(|refusal| refusal.is("parts_missing")) => {
                    self.send(self.status().await?.parts.unwrap_or_default()).await?;
                }
                outcome => return self.ended(outcome),
            }
        }
        self.ended(self.complete().await)
    }

    async fn complete(&self) -> Result<Image, RequestError> {
        let deadline = Instant::now() + VERIFY_TIMEOUT;
        loop {
            let answer = self.job.ask(Method::POST, &self.complete, None).await?;
            if answer.status != StatusCode::ACCEPTED {
                return answer.image();
            }
            if Instant::now() > deadline {
                return Err(RequestError::Unclear("the service is still verifying the upload".to_owned()));
            }
            let interval = retry_after(&answer.headers).unwrap_or(POLL_INTERVAL);
            tokio::time::sleep(interval.max(MIN_POLL_INTERVAL)).await;
        }
    }

    /// Forgets the status URL if the service has rejected or removed the upload, because it cannot be resumed.
    fn ended(&self, outcome: Result<Image, RequestError>) -> Result<Image, Failure> {
        outcome.map_err(|error| {
            let ended = [StatusCode::BAD_REQUEST, StatusCode::NOT_FOUND];
            if error.status().is_some_and(|status| ended.contains(&status)) {
                self.job.set_status_url(None);
            }
            error.into()
        })
    }
}
