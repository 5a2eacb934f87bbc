//! The direct door: a plan from the service, the bytes to S3, and the word that it is done.

use reqwest::header::CONTENT_LENGTH;
use reqwest::{Method, StatusCode};
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;

use super::api::{Headers, Image, Part, Plan, Progress, Status, UploadMethod};
use super::compare;
use super::error::{RequestError, retry_after};
use super::http::Link;
use super::job::Job;
use super::parts;
use super::report::Failure;
use super::stream::by_extension;
use crate::ingest::sniff::{Known, Sniff, inspect};

/// Plans made for one file: a PUT's URL that has expired cannot be signed again, only planned again.
const PLANS: usize = 3;
/// How often parts that went missing are sent before completing is given up.
const COMPLETIONS: usize = 3;
/// How long the service may take to look at what has arrived.
const VERIFY_WAIT: Duration = Duration::from_secs(15 * 60);
/// Between two questions whether it has, where it does not say itself.
const ASK_AGAIN: Duration = Duration::from_secs(2);
const SOONEST: Duration = Duration::from_millis(100);
/// Read of a file whose name does not say its type.
const HEAD: u64 = 64 << 10;

/// A direct upload the service knows of.
pub struct Session<'a> {
    pub job: &'a Job<'a>,
    status: Link,
    complete: Link,
}

/// Plans, sends and completes.
///
/// # Errors
/// Where the image was refused or could not be sent.
pub async fn upload(job: &Job<'_>) -> Result<Image, Failure> {
    let link = job.http.route("uploads")?;
    let wish = wish(job).await?;
    for _ in 0..PLANS {
        let plan: Plan = job.ask(Method::POST, &link, Some(&wish)).await?.json()?;
        let session = Session::new(job, link.join(&plan.status_url)?, &plan.complete_url)?;
        match plan.door {
            UploadMethod::Multipart { parts } => {
                job.report.resumable(session.status.url.as_str());
                session.send(parts).await?;
                return session.finish().await;
            }
            UploadMethod::Put { url, headers } if session.put(&url, &headers).await? => return session.finish().await,
            UploadMethod::Put { .. } => job.report.print_status("the plan has expired; asking for another"),
        }
    }
    Err(Failure::new("expired", "every plan expired before its upload began"))
}

/// Goes on with an upload of an earlier run.
///
/// # Errors
/// If it is not this file's, is over, or could not be sent.
pub async fn resume(job: &Job<'_>, status_url: &str) -> Result<Image, Failure> {
    let link = job.http.given(status_url)?;
    let status: Status = job.ask(Method::GET, &link, None).await?.json()?;
    if status.size != job.size {
        let error = format!("the upload is of a file of {} bytes, and this one has {}", status.size, job.size);
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

async fn wish(job: &Job<'_>) -> Result<serde_json::Value, Failure> {
    let filename = job.file_name();
    let mut wish = json!({ "filename": filename, "size": job.size });
    if by_extension(&filename).is_none() {
        let mut head = Vec::new();
        let file = tokio::fs::File::open(job.path).await.map_err(RequestError::File)?;
        file.take(HEAD).read_to_end(&mut head).await.map_err(RequestError::File)?;
        if let Sniff::Image(info) = inspect(Known::whole(&head)) {
            wish["content_type"] = info.format.content_type().into();
        }
    }
    Ok(wish)
}

impl<'a> Session<'a> {
    fn new(job: &'a Job<'a>, status: Link, complete_url: &str) -> Result<Self, Failure> {
        let complete = status.join(complete_url)?;
        job.set_status_url(Some(&status.url));
        Ok(Session { job, status, complete })
    }

    /// What has arrived, and fresh URLs for the parts that have not.
    ///
    /// # Errors
    /// 404 where the upload is over and there is no image.
    pub async fn status(&self) -> Result<Status, RequestError> {
        self.job.ask(Method::GET, &self.status, None).await?.json()
    }

    async fn send(&self, parts: Vec<Part>) -> Result<(), Failure> {
        parts::send(self.job, parts, async || Ok(self.status().await?.parts)).await
    }

    /// Whether the object is there now; if not, the URL has expired.
    async fn put(&self, url: &str, headers: &Headers) -> Result<bool, Failure> {
        let size = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(CONTENT_LENGTH.as_str()));
        if size.is_some_and(|(_, size)| *size != self.job.size.to_string()) {
            return Err(Failure::new("other_file", "the plan is for another size"));
        }
        let attempt = async || self.job.http.put(url, headers, self.job.read(0, self.job.size).await?).await;
        match self.job.retry("PUT", RequestError::is_retryable, attempt).await {
            Ok(_) => Ok(true),
            // If-None-Match: an earlier attempt arrived, and only its answer was lost.
            Err(error) if error.status() == Some(StatusCode::PRECONDITION_FAILED) => Ok(true),
            Err(error) if error.asks_for_status() => Ok(self.status().await?.state != Progress::Waiting),
            Err(error) => Err(error.into()),
        }
    }

    /// Completes, and sends what turns out to be missing.
    async fn finish(&self) -> Result<Image, Failure> {
        for _ in 1..COMPLETIONS {
            match self.complete().await {
                Err(error) if error.refusal().is_some_and(|refusal| refusal.is("parts_missing")) => {
                    self.send(self.status().await?.parts.unwrap_or_default()).await?;
                }
                outcome => return self.verdict(outcome),
            }
        }
        self.verdict(self.complete().await)
    }

    async fn complete(&self) -> Result<Image, RequestError> {
        let deadline = Instant::now() + VERIFY_WAIT;
        loop {
            let answer = self.job.ask(Method::POST, &self.complete, None).await?;
            if answer.status != StatusCode::ACCEPTED {
                return answer.image();
            }
            if Instant::now() > deadline {
                return Err(RequestError::Unclear("the service is still looking at it".to_owned()));
            }
            tokio::time::sleep(retry_after(&answer.headers).unwrap_or(ASK_AGAIN).max(SOONEST)).await;
        }
    }

    /// What the service has refused is gone, and there is nothing to go on with.
    fn verdict(&self, outcome: Result<Image, RequestError>) -> Result<Image, Failure> {
        outcome.map_err(|error| {
            let over = [StatusCode::BAD_REQUEST, StatusCode::NOT_FOUND];
            if error.status().is_some_and(|status| over.contains(&status)) {
                self.job.set_status_url(None);
            }
            error.into()
        })
    }
}
