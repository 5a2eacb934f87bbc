//! `image-store upload`: the reference client.
//!
//! ```text
//! file ─→ job ─┬→ stream (one form) ───────────────────→ the service
//!              ├→ resumable (tus) ─────────────────────→ the service
//!              └→ direct (a plan) ─→ PUT or parts ─→ S3 ─→ complete
//! ```
//!
//! A file is read while it is sent and is never held in memory. The client requests the service's limits and chooses
//! the upload method by the file's size. Every request is retried after temporary errors.

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
mod resumable;
mod retry;
mod stream;

pub use options::UploadOptions;

use self::api::{Image, Limits};
use self::http::Http;
use self::job::Job;
use self::report::Failure;

/// The exit status that shells report for a process that was interrupted.
const INTERRUPTED: u8 = 130;

/// Uploads all files, one after the other, and prints a line of JSON for each. Stops when `stop` resolves.
///
/// Exits with 0 if all files are stored, 1 if one is not, and 130 if it was stopped.
///
/// # Errors
/// Returns an error if the options are invalid. The process then exits with 2.
pub async fn upload(options: &UploadOptions, stop: impl Future<Output = ()>) -> Result<ExitCode, String> {
    if options.resume.is_some() && options.files.len() != 1 {
        return Err("--resume requires exactly one FILE".to_owned());
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
    match &options.resume {
        Some(address) if resumable::is_address(address) => return resumable::resume(job, address).await,
        Some(status_url) => return direct::resume(job, status_url).await,
        None if options.resumable => return resumable::upload(job).await,
        None => {}
    }
    let limits: Limits = job.ask(Method::GET, &job.http.route("limits")?, None).await?.json()?;
    if options.direct || (!options.stream && !limits.streams(job.size)) {
        direct::upload(job).await
    } else {
        stream::upload(job).await
    }
}
