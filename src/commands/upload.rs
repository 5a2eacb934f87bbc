//! `image-store upload`: the reference client.
//!
//! ```text
//! file ─→ job ─┬→ stream (one form) ───────────────────→ the service
//!              └→ direct (a plan) ─→ PUT or parts ─→ S3 ─→ complete
//! ```
//!
//! A file is read while it is sent, and never held. The service is asked what it takes; by that and the file's size the
//! door is chosen. Every request is repeated on errors that may pass.

use reqwest::Method;
use std::pin::pin;
use std::process::ExitCode;

pub mod options;

mod api;
mod body;
mod compare;
mod direct;
mod error;
mod http;
mod job;
mod parts;
mod report;
mod retry;
mod stream;

pub use options::UploadOptions;

use self::api::{Image, Limits};
use self::http::Http;
use self::job::Job;
use self::report::Failure;

/// What a shell reports of a process that was interrupted.
const INTERRUPTED: u8 = 130;

/// Uploads every file, one after the other, and prints a line of JSON for each; stops when `stop` resolves.
///
/// Exits with 0 if all are stored, 1 if one is not, 130 if it was stopped.
///
/// # Errors
/// If the options cannot be used: wrong usage, for which the process exits with 2.
pub async fn upload(options: &UploadOptions, stop: impl Future<Output = ()>) -> Result<ExitCode, String> {
    if options.resume.is_some() && options.files.len() != 1 {
        return Err("--resume goes with exactly one FILE".to_owned());
    }
    let http = Http::new(options)?;
    let mut stop = pin!(stop);
    let mut code = ExitCode::SUCCESS;
    for path in &options.files {
        let job = match Job::open(&http, path, options.parallel.get()).await {
            Ok(job) => job,
            Err((report, failure)) => {
                report.failed(failure, None);
                code = ExitCode::FAILURE;
                continue;
            }
        };
        let outcome = tokio::select! {
            outcome = send(&job, options) => outcome,
            () = &mut stop => {
                job.failed(Failure::new("interrupted", "interrupted"));
                return Ok(ExitCode::from(INTERRUPTED));
            }
        };
        match outcome {
            Ok(image) => job.report.stored(image),
            Err(failure) => {
                job.failed(failure);
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

async fn send(job: &Job<'_>, options: &UploadOptions) -> Result<Image, Failure> {
    if let Some(status_url) = &options.resume {
        return direct::resume(job, status_url).await;
    }
    let limits: Limits = job.ask(Method::GET, &job.http.route("limits")?, None).await?.json()?;
    if options.direct || (!options.stream && !limits.streams(job.size)) {
        direct::upload(job).await
    } else {
        stream::upload(job).await
    }
}
