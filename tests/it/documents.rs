//! Holds README.md, docs/ and deploy/ to the code: settings, error codes, metrics, and links between pages.
//! `tests/e2e/documents.py` runs their commands.

use clap::{Arg, Command, CommandFactory};
use image_store::cli::Cli;
use image_store::error::Error;
use image_store::telemetry::metrics::METRICS;
use regex::Regex;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Variables of the documented commands that are no settings of the service.
const OTHER_VARIABLES: [&str; 7] = [
    "RUST_LOG",
    "API_KEY",
    "IMAGE_STORE_API_KEY",
    "IMAGE_STORE_COMMIT",
    "IMAGE_STORE_URL",
    "LAMBDA_TARGET",
    "CARGO_TARGET_DIR",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Returns the names of the files in a folder that have one of the extensions.
fn files(folder: &str, extensions: &[&str]) -> Vec<String> {
    let entries = fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path());
    let wanted = |path: &PathBuf| path.extension().is_some_and(|found| extensions.iter().any(|each| found == *each));
    entries.filter(wanted).map(|path| path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned()).collect()
}

fn pages() -> Vec<String> {
    let mut pages = files("docs", &["md"]);
    assert!(pages.len() >= 10, "{pages:?}");
    let others =
        ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "examples/README.md", "loadtest/README.md"];
    pages.extend(others.map(str::to_owned));
    pages
}

/// Returns the settings: the name of the variable, and its default.
fn settings() -> BTreeMap<String, Option<String>> {
    let command = Cli::command();
    let arguments = command.get_arguments().filter_map(|argument| {
        let default = argument.get_default_values().first().and_then(|value| value.to_str());
        Some((argument.get_env()?.to_str()?.to_owned(), default.filter(|value| !value.is_empty()).map(str::to_owned)))
    });
    arguments.collect()
}

fn matches<'a>(pattern: &str, text: &'a str) -> Vec<&'a str> {
    let pattern = Regex::new(pattern).unwrap();
    pattern.captures_iter(text).map(|found| found.get(1).unwrap().as_str()).collect()
}

#[test]
fn configuration_page_documents_all_settings() {
    let page = read("docs/configuration.md");
    let row = Regex::new(r"(?m)^\| `([A-Z0-9_]+)` \| (?:`(.+?)`|–) \| .+ \|$").unwrap();
    let documented: Vec<(&str, Option<&str>)> = row
        .captures_iter(&page)
        .map(|found| (found.get(1).unwrap().as_str(), found.get(2).map(|default| default.as_str())))
        .collect();
    let settings = settings();
    for (name, default) in &settings {
        let rows: Vec<_> = documented.iter().filter(|(documented, _)| documented == name).collect();
        assert_eq!(rows.len(), 1, "{name} has {} rows", rows.len());
        // Settings without a default of their own can have one that follows from others.
        assert!(default.is_none() || rows[0].1 == default.as_deref(), "{name}: {:?}, not {default:?}", rows[0].1);
    }
    let unknown: Vec<_> = documented.iter().filter(|(name, _)| !settings.contains_key(*name)).collect();
    assert_eq!(unknown, [&("RUST_LOG", Some("info"))]);
}

/// Returns the options and arguments of a command: their form, and the cell of their default in the table.
fn options(command: &Command) -> Vec<(String, Option<String>, &Arg)> {
    let own = command.get_arguments().filter(|argument| !argument.is_global_set() && argument.get_id() != "help");
    let default = |argument: &Arg| {
        let value = argument.get_default_values().first().filter(|_| argument.get_action().takes_values());
        let required = argument.is_required_set().then(|| "required".to_owned());
        value.map(|value| format!("`{}`", value.display())).or(required)
    };
    own.map(|argument| (argument.to_string(), default(argument), argument)).collect()
}

#[test]
fn cli_page_documents_all_commands_and_options() {
    let page = read("docs/cli.md");
    let sections: Vec<(&str, &str)> =
        page.split("\n## ").skip(1).map(|section| section.split_once('\n').unwrap()).collect();
    let mut program = Cli::command();
    // Also determines how arguments are written in the help.
    program.build();
    let commands: Vec<&Command> = program.get_subcommands().filter(|command| command.get_name() != "help").collect();
    let names: BTreeSet<&str> = commands.iter().map(|command| command.get_name()).collect();
    assert_eq!(sections.iter().map(|(name, _)| *name).collect::<BTreeSet<_>>(), names);
    let row = Regex::new(r"(?m)^\| `([-<\[].+?)` \| (.+?) \| (.+) \|$").unwrap();
    for command in commands {
        let name = command.get_name();
        assert!(page.contains(&format!("`image-store {name}`")), "{name} is not in the table of commands");
        let (_, section) = sections.iter().find(|(heading, _)| *heading == name).unwrap();
        let documented: Vec<[&str; 3]> = row.captures_iter(section).map(|row| row.extract().1).collect();
        let options = options(command);
        let forms: Vec<&str> = options.iter().map(|(form, ..)| form.as_str()).collect();
        assert_eq!(documented.iter().map(|[form, ..]| *form).collect::<Vec<_>>(), forms, "{name}");
        for ([form, default, description], (_, expected, argument)) in documented.into_iter().zip(&options) {
            assert!(expected.as_deref().is_none_or(|expected| expected == default), "{name} {form}: {default}");
            let variable = argument.get_env().and_then(|name| name.to_str());
            assert!(variable.is_none_or(|name| description.contains(name)), "{name} {form}: {description}");
        }
    }
}

#[test]
fn troubleshooting_page_explains_all_error_codes() {
    let page = read("docs/troubleshooting.md");
    let mut statuses = "";
    let mut explained = BTreeMap::new();
    for line in page.lines() {
        if let Some(heading) = line.strip_prefix("### ") {
            statuses = heading;
        } else if let Some(code) = line.strip_prefix("#### `").and_then(|code| code.strip_suffix('`')) {
            assert!(explained.insert(code, statuses).is_none(), "{code} is explained twice");
        }
    }
    for error in Error::examples() {
        let heading = explained.get(error.code()).unwrap_or_else(|| panic!("{} is not explained", error.code()));
        assert!(heading.contains(error.status().as_str()), "{} is below {heading}", error.code());
    }
    let codes: BTreeSet<_> = Error::examples().iter().map(Error::code).collect();
    assert_eq!(explained.into_keys().collect::<BTreeSet<_>>(), codes);
}

#[test]
fn api_page_lists_all_error_codes() {
    let page = read("docs/api.md");
    for error in Error::examples() {
        let (code, status) = (format!("`{}`", error.code()), error.status());
        let listed = |line: &str| {
            let cells: Vec<&str> = line.split('|').collect();
            cells.len() > 2 && cells[1].contains(status.as_str()) && cells[2].contains(&code)
        };
        assert!(page.lines().any(listed), "{code} is not in a row of {status}");
    }
}

/// Returns the anchors of a page's headings, as GitHub makes them.
fn anchors(page: &str) -> BTreeSet<String> {
    let heading = |line: &str| {
        let text = line.strip_prefix('#')?.trim_start_matches('#').trim().to_lowercase();
        let kept = text.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
        Some(kept.map(|c| if c == ' ' { '-' } else { c }).collect())
    };
    // Every second piece is a fenced block, in which a line that starts with # is no heading.
    page.split("\n```").step_by(2).flat_map(str::lines).filter_map(heading).collect()
}

#[test]
fn links_between_pages_lead_somewhere() {
    let mut links = 0;
    for page in pages() {
        let text = read(&page);
        for link in matches(r"\]\(([^)\s]+)\)", &text).into_iter().filter(|link| !link.contains("://")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => page.clone(),
                file => resolve(Path::new(&page).parent().unwrap(), file),
            };
            assert!(root().join(&target).exists(), "{page}: {link}");
            assert!(anchor.is_empty() || anchors(&read(&target)).contains(anchor), "{page}: {link}");
            links += 1;
        }
    }
    assert!(links > 50, "{links}");
}

/// Returns the path of `file`, as a page in `folder` names it, from the root of the repository.
fn resolve(folder: &Path, file: &str) -> String {
    let mut path = folder.to_owned();
    for part in Path::new(file) {
        if part == ".." { assert!(path.pop(), "{file}") } else { path.push(part) }
    }
    path.to_str().unwrap().to_owned()
}

/// The metrics and the labels in the dashboard, the alerts and the pages exist.
#[test]
fn documented_metrics_exist() {
    let labels: BTreeMap<&str, &[&str]> = METRICS.iter().map(|metric| (metric.name, metric.labels)).collect();
    let mut sources: Vec<String> = pages();
    sources.extend(["deploy/grafana.json", "deploy/alerts.yaml", "tests/e2e/alerts.test.yaml"].map(str::to_owned));
    let used = Regex::new(r"\b(image_store_[a-z0-9_]+|process_[a-z_]+)(\{[^}]*\})?").unwrap();
    let label = Regex::new(r#"([a-z_]+)\s*(?:=~|!=|!~|=)\s*\\?""#).unwrap();
    let mut found = 0;
    for source in sources {
        for used in used.captures_iter(&read(&source)) {
            let name = &used[1];
            let known = |name: &str| labels.get(name).copied();
            let base = ["_bucket", "_count", "_sum"].iter().find_map(|suffix| name.strip_suffix(suffix));
            let defined = known(name).or_else(|| base.and_then(known));
            let defined = defined.unwrap_or_else(|| panic!("{source}: {name} does not exist"));
            for label in used.get(2).into_iter().flat_map(|labels| label.captures_iter(labels.as_str())) {
                let common = ["job", "instance", "le"].contains(&&label[1]);
                assert!(common || defined.contains(&&label[1]), "{source}: {name} has no label {}", &label[1]);
            }
            found += 1;
        }
    }
    assert!(found > 80, "{found}");
}

/// Metrics that the dashboard does not show, because an address space of terabytes is no sign of anything.
const NOT_IN_DASHBOARD: [&str; 1] = ["process_virtual_memory_bytes"];

#[test]
fn dashboard_shows_all_metrics() {
    let dashboard = read("deploy/grafana.json");
    for metric in &METRICS {
        let is_shown =
            Regex::new(&format!(r"\b{}(_bucket|_count|_sum)?\{{", metric.name)).unwrap().is_match(&dashboard);
        assert_ne!(is_shown, NOT_IN_DASHBOARD.contains(&metric.name), "{}", metric.name);
    }
}

/// The variables that are set in deploy/ and in the commands of the pages are settings.
#[test]
fn documented_variables_are_settings() {
    let settings = settings();
    let mut sources = [files("docs", &["md"]), files("deploy", &["yaml", "service"])].concat();
    sources.extend(["README.md", "SECURITY.md", "deploy/Containerfile"].map(str::to_owned));
    let mut found = BTreeSet::new();
    for source in &sources {
        let text = read(source);
        for name in matches(r"(?m)(?:^|[\s`(])([A-Z][A-Z0-9]*_[A-Z0-9_]+)(?:=|: )", &text) {
            let known = settings.contains_key(name) || name.starts_with("AWS_") || OTHER_VARIABLES.contains(&name);
            assert!(known, "{source}: {name} is not a setting");
            found.insert(name.to_owned());
        }
    }
    assert!(found.len() > 20, "{found:?}");
}

#[test]
fn readme_is_at_most_150_lines() {
    assert!(read("README.md").lines().count() <= 150);
}
