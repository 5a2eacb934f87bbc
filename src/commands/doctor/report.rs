//! What the checks found, a line for each.

use serde::Serialize;
use std::fmt;
use std::io::Write;
use std::process::ExitCode;

/// How a check ended; the later, the worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Ok,
    /// The service works, but less well than it could.
    Warn,
    /// Not tried.
    Skip,
    Fail,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Skip => "skip",
            Verdict::Fail => "FAIL",
        })
    }
}

/// What was seen.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    verdict: Verdict,
    seen: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

/// What was seen where all is as it should be, else the finding.
pub type Outcome = Result<String, Finding>;

impl Finding {
    pub fn warn(seen: impl Into<String>, fix: impl Into<String>) -> Finding {
        Finding { verdict: Verdict::Warn, seen: seen.into(), fix: Some(fix.into()) }
    }

    pub fn fail(seen: impl Into<String>, fix: impl Into<String>) -> Finding {
        Finding { verdict: Verdict::Fail, seen: seen.into(), fix: Some(fix.into()) }
    }

    pub fn skip(why: impl Into<String>) -> Finding {
        Finding { verdict: Verdict::Skip, seen: why.into(), fix: None }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.seen)?;
        self.fix.as_ref().map_or(Ok(()), |fix| write!(f, "\n      fix: {fix}"))
    }
}

/// A line of the report.
#[derive(Serialize)]
struct Line<'a> {
    check: &'a str,
    #[serde(flatten)]
    finding: &'a Finding,
}

/// Prints lines as they come, for people or for scripts, and counts.
pub struct Report {
    json: bool,
    verdicts: Vec<Verdict>,
}

impl Report {
    pub fn new(json: bool) -> Report {
        Report { json, verdicts: Vec::new() }
    }

    pub fn add(&mut self, check: &str, outcome: Outcome) -> Verdict {
        let ok = |seen| Finding { verdict: Verdict::Ok, seen, fix: None };
        let finding = outcome.map_or_else(|finding| finding, ok);
        if self.json {
            print(&serde_json::to_string(&Line { check, finding: &finding }).unwrap_or_default());
        } else {
            print(&format!("{:<5} {check:<14} {finding}", finding.verdict));
        }
        self.verdicts.push(finding.verdict);
        finding.verdict
    }

    /// The last line, for people: the verdicts in numbers.
    pub fn end(&self, place: &str) {
        if !self.json {
            let count = |wanted| self.verdicts.iter().filter(|verdict| **verdict == wanted).count();
            let [ok, warn, skip, fail] = [Verdict::Ok, Verdict::Warn, Verdict::Skip, Verdict::Fail].map(count);
            print(&format!("{place}: {ok} ok, {warn} to look at, {skip} skipped, {fail} failed"));
        }
    }

    pub fn code(&self) -> ExitCode {
        if self.verdicts.contains(&Verdict::Fail) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}

/// Where nobody reads any more (`| head`) the checks go on, so that they clean up; `println!` would panic.
fn print(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
