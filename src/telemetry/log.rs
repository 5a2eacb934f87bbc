//! The log on standard error: text, or one flat JSON object per line.

use serde_json::{Map, Value};
use std::fmt::{self, Debug};
use std::io::{self, IsTerminal, Write};
use std::panic::{self, PanicHookInfo};
use std::time::SystemTime;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// These crates log whole requests, including presigned queries and upload ids.
const SILENT: [&str; 7] = [
    "s3s=off",
    // Logs the access key.
    "aws_config=warn",
    // Logs the internals of the error when there are no credentials. The call that requires them reports that error.
    "aws_config::meta=error",
    "aws_smithy_runtime=warn",
    // Logs an error for a call that was dropped before it had a connection.
    "aws_smithy_runtime::client::http::connection_poisoning=off",
    "aws_runtime=warn",
    "aws_sigv4=warn",
];

const DEFAULT_FILTER: &str = "info";

/// Returns the log filter of `RUST_LOG`, or `info` if it is unset or empty.
///
/// # Errors
/// Returns the text of an error, without the setting's name, if the value is invalid.
pub fn filter() -> Result<EnvFilter, String> {
    let text = filter_text();
    text.parse().map_err(|error| format!("'{text}' is not a filter like info or image_store=debug ({error})"))
}

/// Returns the text of the log filter.
pub fn filter_text() -> String {
    let text = std::env::var(EnvFilter::DEFAULT_ENV).ok().filter(|text| !text.trim().is_empty());
    text.unwrap_or_else(|| DEFAULT_FILTER.to_owned())
}

/// Logs to standard error, filtered by `RUST_LOG`.
pub fn init(json: bool) {
    let filter = filter().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let filter = SILENT.iter().filter_map(|directive| directive.parse().ok()).fold(filter, EnvFilter::add_directive);
    let registry = tracing_subscriber::registry().with(filter);
    let colors = !json && io::stderr().is_terminal();
    let writer = move || OneLine { out: io::stderr(), colors };
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_target(false).with_ansi(colors);
    if json {
        registry.with(layer.event_format(FlatJson).fmt_fields(JsonFields::new())).init();
        panic::set_hook(Box::new(log_panic));
    } else {
        registry.with(layer).init();
    }
}

/// Writes each event as one line. Events contain texts that clients and stores have sent, which could otherwise look like
/// further events.
struct OneLine<W> {
    out: W,
    /// Whether events contain the escape sequences of a terminal.
    colors: bool,
}

impl<W> OneLine<W> {
    fn must_escape(&self, byte: u8) -> bool {
        byte.is_ascii_control() && byte != b'\t' && !(self.colors && byte == b'\x1b')
    }
}

impl<W: Write> Write for OneLine<W> {
    /// `event` is a whole event.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let line = event.strip_suffix(b"\n").unwrap_or(event);
        if line.iter().any(|byte| self.must_escape(*byte)) {
            let escape = |byte: &u8| if self.must_escape(*byte) { byte.escape_ascii().collect() } else { vec![*byte] };
            let escaped: Vec<u8> = line.iter().flat_map(escape).chain([b'\n']).collect();
            self.out.write_all(&escaped)?;
        } else {
            self.out.write_all(event)?;
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Returns a line of the log in JSON, for messages that are written without the log and its filter.
pub fn json_line(level: &str, message: &str) -> String {
    Value::Object(line(level, message)).to_string()
}

fn line(level: &str, message: &str) -> Map<String, Value> {
    let mut line = Map::new();
    line.insert("timestamp".to_owned(), humantime::format_rfc3339_micros(SystemTime::now()).to_string().into());
    line.insert("level".to_owned(), level.into());
    line.insert("message".to_owned(), message.into());
    line
}

/// Logs a panic, which would otherwise be several lines of text.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let location = panic.location().map(ToString::to_string);
    tracing::error!(location, "panic: {}", panic.payload_as_str().unwrap_or("of another type"));
}

/// Formats an event as one JSON object: its own fields, and those of the spans around it.
struct FlatJson;

impl<S, N> FormatEvent<S, N> for FlatJson
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = line(event.metadata().level().as_str(), "");
        event.record(&mut FieldsOf(&mut line));
        for span in context.event_scope().into_iter().flatten() {
            let extensions = span.extensions();
            let fields = extensions.get::<FormattedFields<N>>().map_or("", |fields| fields.fields.as_str());
            // An inner field takes precedence over one of the same name further out.
            for (name, value) in serde_json::from_str::<Map<String, Value>>(fields).unwrap_or_default() {
                line.entry(name).or_insert(value);
            }
        }
        writeln!(writer, "{}", Value::Object(line))
    }
}

/// Adds the fields of an event to an object.
struct FieldsOf<'a>(&'a mut Map<String, Value>);

impl FieldsOf<'_> {
    fn add(&mut self, field: &Field, value: impl Into<Value>) {
        // These repeat the metadata of messages that were logged with the crate `log`.
        if !field.name().starts_with("log.") {
            self.0.insert(field.name().to_owned(), value.into());
        }
    }
}

impl Visit for FieldsOf<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.add(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use std::sync::Arc;
    use tracing_subscriber::fmt::MakeWriter;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Written {
        type Writer = Written;

        fn make_writer(&self) -> Written {
            self.clone()
        }
    }

    /// Returns the lines that `work` logs, without their timestamps.
    fn logged(work: impl FnOnce()) -> Vec<Value> {
        let written = Written::default();
        let layer = tracing_subscriber::fmt::layer().with_writer(written.clone());
        let layer = layer.event_format(FlatJson).fmt_fields(JsonFields::new());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), work);
        let text = String::from_utf8(written.0.lock().clone()).unwrap();
        let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        for line in &mut lines {
            let time = line.as_object_mut().unwrap().remove("timestamp").expect("a timestamp");
            humantime::parse_rfc3339(time.as_str().unwrap()).unwrap();
        }
        lines
    }

    #[test]
    fn json_lines_are_flat_objects() {
        let lines = logged(|| {
            let outer = tracing::info_span!("request", request_id = "r", route = "/a", late = tracing::field::Empty);
            let _outer = outer.enter();
            outer.record("late", true);
            let _inner = tracing::info_span!("call", route = "inner", part = 3).entered();
            let error = io::Error::other("a \"quoted\"\nline");
            tracing::warn!(
                status = 200_u64,
                below = -1,
                ratio = 0.5,
                error = &error as &dyn std::error::Error,
                "{}!",
                "done"
            );
        });
        let expected = serde_json::json!({
            "level": "WARN", "message": "done!", "status": 200, "below": -1, "ratio": 0.5,
            "error": "a \"quoted\"\nline", "route": "inner", "part": 3, "request_id": "r", "late": true,
        });
        assert_eq!(lines, [expected]);
    }

    #[test]
    fn event_is_one_line_of_printable_text() {
        for (event, colors, line) in [
            ("INFO a\u{e9}\tb\n", false, "INFO a\u{e9}\tb\n"),
            ("INFO a\nINFO b\r\x1b[0m\x07\n", false, "INFO a\\nINFO b\\r\\x1b[0m\\x07\n"),
            ("\x1b[32mINFO\x1b[0m a\n\n", true, "\x1b[32mINFO\x1b[0m a\\n\n"),
        ] {
            let mut written = OneLine { out: Vec::new(), colors };
            written.write_all(event.as_bytes()).unwrap();
            assert_eq!(String::from_utf8(written.out).unwrap(), line);
        }
    }

    #[test]
    fn messages_without_the_log_have_the_same_form() {
        let line: Value = serde_json::from_str(&json_line("ERROR", "two\nlines")).unwrap();
        assert_eq!((&line["level"], &line["message"]), (&"ERROR".into(), &"two\nlines".into()));
        humantime::parse_rfc3339(line["timestamp"].as_str().unwrap()).unwrap();
    }
}
