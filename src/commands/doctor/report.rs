//! The report: one line for each check.

use serde::Serialize;
use std::fmt;
use std::io::Write;
use std::process::ExitCode;

/// The result of a check, from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, strum::Display)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Verdict {
    Ok,
    /// The service works, but with a limitation.
    Warn,
    /// The check did not run.
    Skip,
    #[strum(serialize = "FAIL")]
    Fail,
}

/// What a check found, and how to fix it.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    verdict: Verdict,
    seen: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

/// A description of what was found if the check succeeded, otherwise the finding.
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

/// Prints lines as text or as JSON, and counts the verdicts.
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

    /// Prints the summary, in text output only.
    pub fn end(&self, place: &str) {
        if !self.json {
            let count = |kind| self.verdicts.iter().filter(|verdict| **verdict == kind).count();
            let [ok, warn, skip, fail] = [Verdict::Ok, Verdict::Warn, Verdict::Skip, Verdict::Fail].map(count);
            print(&format!("{place}: {ok} ok, {warn} warnings, {skip} skipped, {fail} failed"));
        }
    }

    pub fn code(&self) -> ExitCode {
        if self.verdicts.contains(&Verdict::Fail) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}

/// Prints a line and ignores errors. If the reader has closed the pipe (`| head`), the checks continue so that they
/// clean up. `println!` would panic.
fn print(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
