//! What the user sees: a line of JSON for every file on stdout, everything else on stderr.

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value};
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use super::api::Image;
use super::error::RequestError;

const STYLE: &str = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";

/// One file's progress and outcome.
pub struct Report {
    /// Draws on stderr where that is a terminal, and nowhere else.
    pub bar: ProgressBar,
    name: String,
}

/// Why a file was not uploaded.
#[derive(Debug)]
pub struct Failure {
    pub error: String,
    /// The service's, or S3's, where they refused.
    pub code: Option<String>,
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        let code = error.refusal().and_then(|refusal| refusal.code.clone());
        Failure { error: error.to_string(), code }
    }
}

impl Failure {
    /// The client's own.
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

    /// A retry, so that a slow upload is no riddle.
    pub fn print_retry(&self, what: &str, error: &RequestError, wait: Duration) {
        self.print_status(&format!("{what}: {error}; again in {:.1} s", wait.as_secs_f64()));
    }

    /// Something for people.
    pub fn print_status(&self, text: &str) {
        // Nobody may be listening to stderr; that is no reason to stop.
        self.bar.suspend(|| drop(writeln!(io::stderr(), "{}: {text}", self.name)));
    }

    /// How to go on, once there is something to go on with.
    pub fn resumable(&self, status_url: &str) {
        self.print_status(&format!("to go on later: {}", resume_line(status_url, &self.name)));
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
    // As above: a reader that has gone does not undo an upload.
    let _ = writeln!(io::stdout(), "{line}");
}

fn resume_line(status_url: &str, file: &str) -> String {
    format!("image-store upload --resume {} {}", quoted(status_url), quoted(file))
}

/// As one word of a POSIX shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::resume_line;

    #[test]
    fn the_resume_line_survives_a_shell() {
        assert_eq!(
            resume_line("http://h/uploads/k?a=1&b=2", "it's.png"),
            r"image-store upload --resume 'http://h/uploads/k?a=1&b=2' 'it'\''s.png'"
        );
    }
}
