//! The output: a line of JSON for each file on stdout, everything else on stderr.

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value};
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use super::api::Image;
use super::error::RequestError;

const STYLE: &str = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";

/// The progress and the result of one file.
pub struct Report {
    /// Draws on stderr if that is a terminal.
    pub bar: ProgressBar,
    name: String,
}

/// Why a file was not uploaded.
#[derive(Debug)]
pub struct Failure {
    pub error: String,
    /// The error code of the service or of S3, if one of them rejected a request.
    pub code: Option<String>,
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        let code = error.refusal().and_then(|refusal| refusal.code.clone());
        Failure { error: error.to_string(), code }
    }
}

impl Failure {
    /// Returns a failure of the client itself.
    pub fn new(code: &str, error: impl Into<String>) -> Failure {
        Failure { error: error.into(), code: Some(code.to_owned()) }
    }
}

impl Report {
    pub fn new(path: &Path, size: u64) -> Report {
        let name = path.display().to_string();
        let short = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let bar = ProgressBar::new(size).with_message(short);
        if let Ok(style) = ProgressStyle::with_template(STYLE) {
            bar.set_style(style);
        }
        Report { bar, name }
    }

    /// Prints a retry, which explains why an upload is slow.
    pub fn print_retry(&self, what: &str, error: &RequestError, wait: Duration) {
        self.print_status(&format!("{what}: {error}; retrying in {:.1} s", wait.as_secs_f64()));
    }

    /// Prints a message on stderr.
    pub fn print_status(&self, text: &str) {
        // If stderr is closed, the upload continues.
        self.bar.suspend(|| drop(writeln!(io::stderr(), "{}: {text}", self.name)));
    }

    /// Prints the command that resumes the upload.
    pub fn resumable(&self, status_url: &str) {
        self.print_status(&format!("to resume later: {}", resume_line(status_url, &self.name)));
    }

    pub fn stored(&self, mut image: Image) {
        self.bar.finish_and_clear();
        image.insert("file".to_owned(), self.name.as_str().into());
        print(&image);
    }

    pub fn failed(&self, failure: Failure, status_url: Option<&str>) {
        self.bar.finish_and_clear();
        self.print_status(&failure.error);
        let mut line = Map::new();
        line.insert("file".to_owned(), self.name.as_str().into());
        line.insert("error".to_owned(), failure.error.into());
        line.extend(failure.code.map(|code| ("code".to_owned(), code.into())));
        line.extend(status_url.map(|url| ("status_url".to_owned(), url.into())));
        print(&line);
        if let Some(url) = status_url {
            self.resumable(url);
        }
    }
}

fn print(line: &Map<String, Value>) {
    let line = Value::Object(line.clone());
    // If stdout is closed, the upload is stored nevertheless.
    let _ = writeln!(io::stdout(), "{line}");
}

fn resume_line(status_url: &str, file: &str) -> String {
    format!("image-store upload --resume {} {}", quoted(status_url), quoted(file))
}

/// Quotes `text` as one word of a POSIX shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::resume_line;

    #[test]
    fn resume_command_is_quoted_for_the_shell() {
        assert_eq!(
            resume_line("http://h/uploads/k?a=1&b=2", "it's.png"),
            r"image-store upload --resume 'http://h/uploads/k?a=1&b=2' 'it'\''s.png'"
        );
    }
}
