//! The upload of one file.

use reqwest::{Method, Url};
use serde_json::Value;
use std::cell::RefCell;
use std::path::Path;

use super::body::FileBody;
use super::error::RequestError;
use super::http::{Answer, Http, Link};
use super::input::Input;
use super::report::{Failure, Report, Style};
use super::retry::retrying;

/// A file to upload, with everything that is needed to send it.
pub struct Job<'a> {
    pub http: &'a Http,
    pub path: &'a Path,
    /// Size in bytes when the upload began.
    pub size: u64,
    /// Number of parts that are sent at once.
    pub parallel: usize,
    pub report: Report,
    file_name: &'a str,
    status_url: RefCell<Option<Url>>,
}

impl<'a> Job<'a> {
    /// # Errors
    /// Returns an error if the file does not exist or cannot be read.
    pub async fn open(http: &'a Http, input: &'a Input, parallel: usize, style: Style) -> Result<Job<'a>, Failure> {
        let metadata = tokio::fs::metadata(&input.path).await.map_err(|error| Failure::unreadable(&error))?;
        if !metadata.is_file() {
            return Err(Failure::new("unreadable_file", "is not a file"));
        }
        let size = metadata.len();
        let report = Report::new(&input.name, size, style);
        let (path, file_name) = (input.path.as_path(), input.file_name.as_str());
        Ok(Job { http, path, size, parallel, report, file_name, status_url: RefCell::default() })
    }

    /// Returns the file name for the service, without folders.
    pub fn file_name(&self) -> &str {
        self.file_name
    }

    /// Returns bytes of the file as a request body.
    ///
    /// # Errors
    /// Returns an error if the file cannot be opened.
    pub async fn read(&self, offset: u64, size: u64) -> Result<FileBody, RequestError> {
        FileBody::open(self.path, offset, size, &self.report.bar).await.map_err(RequestError::File)
    }

    /// Calls the service, with retries. Every call can be repeated.
    ///
    /// # Errors
    /// Returns the error of the last attempt.
    pub async fn ask(&self, method: Method, link: &Link, json: Option<&Value>) -> Result<Answer, RequestError> {
        let what = format!("{method} {}", link.url.path());
        self.retry(&what, RequestError::is_retryable, async || self.http.call(method.clone(), link, json).await).await
    }

    /// Runs `attempt` with retries, and reports each of them.
    ///
    /// # Errors
    /// Returns the error of the last attempt.
    pub async fn retry<T>(
        &self,
        what: &str,
        may_repeat: impl Fn(&RequestError) -> bool,
        attempt: impl AsyncFn() -> Result<T, RequestError>,
    ) -> Result<T, RequestError> {
        let on_retry = |error: &RequestError, wait| self.report.print_retry(what, error, wait);
        retrying(self.http.retries, may_repeat, on_retry, attempt).await
    }

    /// Sets the URL with which a later run can resume the upload; `None` if that is not possible.
    pub fn set_status_url(&self, url: Option<&Url>) {
        self.status_url.replace(url.cloned());
    }

    pub fn status_url(&self) -> Option<String> {
        self.status_url.borrow().as_ref().map(Url::to_string)
    }

    pub fn failed(&self, failure: Failure) {
        self.report.failed(failure, self.status_url().as_deref());
    }
}
