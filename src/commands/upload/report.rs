//! The output: a line for each file on stdout, everything else on stderr. The line is for people if stdout is a terminal,
//! otherwise JSON.

use bytesize::ByteSize;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value};
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use super::api::Image;
use super::error::RequestError;

const STYLE: &str = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";

/// The form of the lines on stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// For people. Failures are on stderr only.
    Text,
    Json,
}

impl Style {
    pub fn choose(json: bool) -> Style {
        if json || !io::stdout().is_terminal() { Style::Json } else { Style::Text }
    }
}

/// The progress and the result of one file.
pub struct Report {
    /// Draws on stderr if that is a terminal.
    pub bar: ProgressBar,
    name: String,
    style: Style,
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

    pub fn unreadable(error: &io::Error) -> Failure {
        Failure::new("unreadable_file", error.to_string())
    }

    pub fn interrupted() -> Failure {
        Failure::new("interrupted", "interrupted")
    }
}

impl Report {
    pub fn new(name: &str, size: u64, style: Style) -> Report {
        let short = Path::new(name).file_name().unwrap_or_default().to_string_lossy().into_owned();
        let bar = ProgressBar::new(size).with_message(short);
        if let Ok(style) = ProgressStyle::with_template(STYLE) {
            bar.set_style(style);
        }
        Report { bar, name: name.to_owned(), style }
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

    /// Prints the stored image. `address` is its address at the service, which does not expire like the `url` of the
    /// response.
    pub fn stored(&self, mut image: Image, address: &str) {
        self.bar.finish_and_clear();
        match self.style {
            Style::Text => print(&text(&self.name, &image, address)),
            Style::Json => {
                image.insert("file".to_owned(), self.name.as_str().into());
                print_json(image);
            }
        }
    }

    pub fn failed(&self, failure: Failure, status_url: Option<&str>) {
        self.bar.finish_and_clear();
        self.print_status(&failure.error);
        if self.style == Style::Json {
            let mut line = Map::new();
            line.insert("file".to_owned(), self.name.as_str().into());
            line.insert("error".to_owned(), failure.error.into());
            line.extend(failure.code.map(|code| ("code".to_owned(), code.into())));
            line.extend(status_url.map(|url| ("status_url".to_owned(), url.into())));
            print_json(line);
        }
        if let Some(url) = status_url {
            self.resumable(url);
        }
    }
}

fn print_json(line: Map<String, Value>) {
    print(&Value::Object(line).to_string());
}

fn print(line: &str) {
    // If stdout is closed, the upload is stored nevertheless.
    let _ = writeln!(io::stdout(), "{line}");
}

/// Returns the line for people: name, size, dimensions, address. Control characters would control the terminal.
fn text(name: &str, image: &Image, address: &str) -> String {
    let number = |field| image.get(field).and_then(Value::as_u64).unwrap_or_default();
    let (size, width, height) = (ByteSize(number("size")), number("width"), number("height"));
    let line = format!("{name}  {size}  {width} x {height}  {address}");
    line.chars().map(|character| if character.is_control() { '?' } else { character }).collect()
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
    use super::*;
    use serde_json::json;

    #[test]
    fn text_line_has_no_control_characters() {
        let Value::Object(image) = json!({ "size": 1_572_864, "width": 640, "height": 480 }) else { unreachable!() };
        let line = text("a\u{1b}[2Jb\n.png", &image, "http://h/images/k.png");
        assert_eq!(line, "a?[2Jb?.png  1.5 MiB  640 x 480  http://h/images/k.png");
    }

    #[test]
    fn resume_command_is_quoted_for_the_shell() {
        assert_eq!(
            resume_line("http://h/uploads/k?a=1&b=2", "it's.png"),
            r"image-store upload --resume 'http://h/uploads/k?a=1&b=2' 'it'\''s.png'"
        );
    }
}
