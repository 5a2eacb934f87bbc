//! `image-store config`: prints the settings in force, and where each of them comes from.

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};
use serde_json::json;
use std::io::{self, Write};
use std::process::ExitCode;

use super::Outcome;
use crate::config::{Config, size_text};
use crate::telemetry::log;

/// What is shown instead of a secret.
const HIDDEN: &str = "(hidden)";

/// A setting as it is shown.
struct Setting {
    /// The name of its environment variable.
    name: String,
    flag: Option<String>,
    value: Option<String>,
    source: &'static str,
}

/// Prints all settings, in the order of the help.
///
/// # Errors
/// Returns an error if the output cannot be written.
pub fn config(command: &Command, matches: &ArgMatches, config: &Config, json: bool) -> Outcome {
    let settings = command.get_arguments().filter(|arg| arg.is_global_set());
    let mut settings: Vec<Setting> = settings.filter_map(|arg| Setting::read(arg, matches, config)).collect();
    settings.push(log_filter());
    let mut out = io::stdout().lock();
    for setting in &settings {
        if json {
            writeln!(out, "{}", setting.json())?;
        } else {
            let value = setting.value.as_deref().unwrap_or("-");
            writeln!(out, "{:<22} {value:<24} {}", setting.name, setting.source)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Setting {
    fn read(arg: &Arg, matches: &ArgMatches, config: &Config) -> Option<Setting> {
        let id = arg.get_id().as_str();
        let given = matches.get_raw(id).and_then(Iterator::last).map(|value| value.to_string_lossy().into_owned());
        let is_secret = given.is_some() && arg.is_hide_env_values_set();
        let value = if is_secret { Some(HIDDEN.to_owned()) } else { given.or_else(|| derived(id, config)) };
        Some(Setting {
            name: arg.get_env()?.to_string_lossy().into_owned(),
            flag: arg.get_long().map(|flag| format!("--{flag}")),
            source: match matches.value_source(id) {
                Some(ValueSource::CommandLine) => "flag",
                Some(ValueSource::EnvVariable) => "environment",
                None if value.is_none() => "unset",
                _ => "default",
            },
            value,
        })
    }

    fn json(&self) -> serde_json::Value {
        json!({ "setting": self.name, "flag": self.flag, "value": self.value, "source": self.source })
    }
}

/// Returns the value of a setting without a fixed default.
fn derived(id: &str, config: &Config) -> Option<String> {
    match id {
        "header_scan_limit" => Some(size_text(config.policy.header_scan_limit as u64)),
        "spill_budget" => Some(size_text(config.upload.spill_budget)),
        "spill_dir" => Some(config.upload.spill_dir.display().to_string()),
        _ => None,
    }
}

/// Returns the log filter, which has no flag.
fn log_filter() -> Setting {
    let value = log::filter_text();
    let source = if std::env::var("RUST_LOG").is_ok_and(|text| text == value) { "environment" } else { "default" };
    Setting { name: "RUST_LOG".to_owned(), flag: None, value: Some(value), source }
}
