//! `image-store upload`: the reference client.
//!
//! ```text
//! file ─→ job ─┬→ stream (one form) ───────────────────→ the service
//!              ├→ resumable (tus) ─────────────────────→ the service
//!              └→ direct (a plan) ─→ PUT or parts ─→ S3 ─→ complete
//! ```
//!
//! A file is read while it is sent and is never held in memory. The standard input is copied to a file first. The client requests the service's limits and chooses
//! the upload method by the file's size. Every request is retried after temporary errors.

use reqwest::Method;
use std::path::Path;
use std::pin::{Pin, pin};
use std::process::ExitCode;

pub mod options;

mod api;
mod body;
mod compare;
mod direct;
mod error;
mod http;
mod input;
mod job;
mod parts;
mod report;
mod resumable;
mod retry;
mod stream;

pub use options::UploadOptions;

use self::api::{Image, Limits};
use self::error::RequestError;
use self::http::Http;
use self::input::{Input, STDIN};
use self::job::Job;
use self::report::{Failure, Report, Style};

/// The exit status that shells report for a process that was interrupted.
const INTERRUPTED: u8 = 130;

/// Uploads all files, one after the other, and prints a line for each. Stops when `stop` resolves.
///
/// Exits with 0 if all files are stored, 1 if one is not, and 130 if it was stopped.
///
/// # Errors
/// Returns an error if the options are invalid. The process then exits with 2.
pub async fn upload(options: &UploadOptions, stop: impl Future<Output = ()>) -> Result<ExitCode, String> {
    if options.resume.is_some() && options.files.len() != 1 {
        return Err("--resume requires exactly one FILE".to_owned());
    }
    if options.files.iter().filter(|file| **file == Path::new(STDIN)).count() > 1 {
        return Err("the standard input (-) can be uploaded only once".to_owned());
    }
    let http = Http::new(options)?;
    let mut stop = pin!(stop);
    let mut code = ExitCode::SUCCESS;
    for path in &options.files {
        match one(&http, path, options, stop.as_mut()).await {
            Outcome::Stored => {}
            Outcome::Failed => code = ExitCode::FAILURE,
            Outcome::Interrupted => return Ok(ExitCode::from(INTERRUPTED)),
        }
    }
    Ok(code)
}

/// What became of one file.
enum Outcome {
    Stored,
    Failed,
    Interrupted,
}

/// Uploads one file, and prints its line.
async fn one(
    http: &Http,
    path: &Path,
    options: &UploadOptions,
    mut stop: Pin<&mut impl Future<Output = ()>>,
) -> Outcome {
    let style = Style::choose(options.json);
    let failed = |failure| {
        Report::new(&path.display().to_string(), 0, style).failed(failure, None);
        Outcome::Failed
    };
    let input = tokio::select! {
        opened = Input::open(path) => match opened {
            Ok(input) => input,
            Err(error) => return failed(Failure::unreadable(&error)),
        },
        () = &mut stop => {
            failed(Failure::interrupted());
            return Outcome::Interrupted;
        }
    };
    let job = match Job::open(http, &input, options.parallel.get(), style).await {
        Ok(job) => job,
        Err(failure) => return failed(failure),
    };
    let sent = tokio::select! {
        sent = send(&job, options) => sent,
        () = &mut stop => {
            job.failed(Failure::interrupted());
            return Outcome::Interrupted;
        }
    };
    match sent.and_then(|image| Ok((address(http, options, &image)?, image))) {
        Ok((address, image)) => {
            job.report.stored(image, &address);
            Outcome::Stored
        }
        Err(failure) => {
            job.failed(failure);
            Outcome::Failed
        }
    }
}

/// Returns the address of the stored image at the service that stored it.
fn address(http: &Http, options: &UploadOptions, image: &Image) -> Result<String, RequestError> {
    let service = options.resume.as_deref().map_or_else(|| http.route(""), |status_url| http.given(status_url))?;
    let key = image.get("s3_key").and_then(|key| key.as_str()).unwrap_or_default();
    Ok(Http::image_address(&service, key))
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
