//! The commands that describe the program and its configuration.

use serde_json::Value;
use std::process::{Command, Output};

use super::process::binary;

/// Runs the program with these arguments and variables only.
fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_image-store"))
        .args(arguments)
        .env_clear()
        .envs(variables.iter().copied())
        .output()
        .unwrap()
}

/// Returns the output of a command that succeeds.
fn text(arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let output = run(arguments, variables);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn version_names_the_commit() {
    let version = text(&["--version"], &[]);
    let commit = version.trim_end().strip_prefix(concat!("image-store ", env!("CARGO_PKG_VERSION"), " (")).unwrap();
    let commit = commit.strip_suffix(')').unwrap();
    assert!(commit == "unknown" || commit.bytes().all(|byte| byte.is_ascii_hexdigit()), "{version}");
}

#[test]
fn config_shows_values_and_sources_but_no_secrets() {
    let secret = "hunter2-hunter2-hunter2-hunter2-hunter2";
    let variables = [
        ("PORT", "9000"),
        ("API_KEYS", secret),
        ("TOKEN_SECRET", secret),
        ("PART_SIZE", "8MiB"),
        ("CORS_ALLOW_ORIGIN", ""),
        ("RUST_LOG", "debug"),
    ];
    let printed = text(&["config", "--json", "--s3-bucket=photos", "--part-size=16MiB"], &variables);
    assert!(!printed.contains("hunter2"), "{printed}");
    let lines: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (name, value, source) in [
        ("HOST", Some("127.0.0.1"), "default"),
        ("PORT", Some("9000"), "environment"),
        ("S3_BUCKET", Some("photos"), "flag"),
        ("PART_SIZE", Some("16MiB"), "flag"),
        ("HEADER_SCAN_LIMIT", Some("16MiB"), "default"),
        ("SPILL_BUDGET", Some("4GiB"), "default"),
        ("API_KEYS", Some("(hidden)"), "environment"),
        ("TOKEN_SECRET", Some("(hidden)"), "environment"),
        ("API_KEYS_FILE", None, "unset"),
        ("CORS_ALLOW_ORIGIN", Some(""), "environment"),
        ("RUST_LOG", Some("debug"), "environment"),
    ] {
        let line =
            lines.iter().find(|line| line["setting"] == name).unwrap_or_else(|| panic!("no {name} in {printed}"));
        assert_eq!((line["value"].as_str(), line["source"].as_str()), (value, Some(source)), "{line}");
    }
    let flag = lines.iter().find(|line| line["setting"] == "AWS_ENDPOINT_URL_S3").unwrap()["flag"].clone();
    assert_eq!(flag, "--s3-endpoint-url");

    let table = text(&["config"], &variables);
    let row = |name: &str| table.lines().find(|line| line.split_whitespace().next() == Some(name)).unwrap().to_owned();
    assert_eq!(row("PORT").split_whitespace().collect::<Vec<_>>(), ["PORT", "9000", "environment"]);
    assert_eq!(row("S3_BUCKET").split_whitespace().collect::<Vec<_>>(), ["S3_BUCKET", "-", "unset"]);
    assert_eq!(table.lines().count(), lines.len());
}

#[test]
fn config_reports_errors_like_serve() {
    let output = run(&["config"], &[("PORT", "http")]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
    let stderr = String::from_utf8(output.stderr).unwrap();
    let expected = "image-store: invalid configuration:\n  PORT: 'http' is not a whole number between 0 and 65535\n";
    assert_eq!(stderr, expected);
}

#[test]
fn help_of_a_command_shows_only_the_settings_that_it_uses() {
    for (command, shown, hidden) in [
        ("serve", &["--port", "--s3-bucket", "--memory-budget"][..], &["--older-than"][..]),
        ("sweep", &["--older-than", "--s3-bucket", "--upload-url-ttl"], &["--port", "--memory-budget"]),
        ("doctor", &["--json", "--s3-bucket", "--cors-allow-origin"], &["--port", "--api-keys"]),
        ("healthcheck", &["--host", "--port"], &["--s3-bucket"]),
        ("grant", &["--expires-in"], &["--port", "--s3-bucket"]),
        ("upload", &["--direct", "--json"], &["--port", "--s3-bucket"]),
    ] {
        let help = text(&[command, "--help"], &[]);
        let is_shown = |flag: &&str| help.split_whitespace().any(|word| word == *flag);
        assert!(shown.iter().all(is_shown) && !hidden.iter().any(is_shown), "{command}: {help}");
    }
    // A setting that a command does not use is accepted nevertheless.
    assert!(run(&["completions", "bash", "--port=1"], &[]).status.success());
}

#[test]
fn short_help_is_shorter() {
    let lines = |arguments: &[&str]| text(arguments, &[]).lines().count();
    assert!(2 * lines(&["-h"]) < lines(&["--help"]));
    assert!(2 * lines(&["serve", "-h"]) < lines(&["serve", "--help"]));
}

#[test]
fn completions_are_printed_for_every_shell() {
    for (shell, mark) in [
        ("bash", "complete -F _image__store"),
        ("zsh", "#compdef image-store"),
        ("fish", "complete -c image-store"),
        ("powershell", "Register-ArgumentCompleter"),
        ("elvish", "edit:completion"),
    ] {
        let script = text(&["completions", shell], &[]);
        assert!(script.contains(mark) && script.contains("s3-bucket"), "{shell}: {script}");
    }
    let wrong = run(&["completions", "csh"], &[]);
    assert_eq!(wrong.status.code(), Some(2));
}

#[test]
fn manual_pages_describe_the_program_and_its_commands() {
    let page = text(&["man"], &[]);
    for part in [".TH image-store 1", ".SH NAME", "\\-\\-s3\\-bucket", "image\\-store\\-sweep(1)"] {
        assert!(page.contains(part), "{part} in {page}");
    }
    let page = text(&["man", "upload"], &[]);
    assert!(page.contains("\\-\\-direct") && !page.contains("\\-\\-memory\\-budget"), "{page}");
    let wrong = run(&["man", "dance"], &[]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("'dance' is not a command; use one of serve"));
}

#[test]
fn invalid_duration_of_sweep_is_quoted() {
    let output = binary().args(["sweep", "--older-than=soon"]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("'soon' is not a duration like 30s"), "{stderr}");
}
