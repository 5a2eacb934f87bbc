//! The groups of settings in the help texts, and which commands use which settings.
//!
//! Every command accepts every setting, because all commands run in the service's own environment. The help of a command
//! shows only the settings that it uses.

use clap::{Arg, Command};

/// Settings under one heading. They are named by their fields in [`crate::config::Settings`].
struct Group {
    heading: &'static str,
    settings: &'static [&'static str],
}

const SERVER: Group = Group {
    heading: "Server",
    settings: &[
        "host",
        "port",
        "public_url",
        "cors_allow_origin",
        "trusted_proxies",
        "max_connections",
        "body_idle_timeout",
        "min_upload_rate",
        "request_timeout",
        "shutdown_timeout",
    ],
};
const ACCESS: Group =
    Group { heading: "Access", settings: &["api_keys", "api_keys_file", "token_secret", "public_read"] };
const LOG: Group = Group { heading: "Log", settings: &["log_format"] };
const STORE: Group = Group {
    heading: "Store",
    settings: &[
        "s3_bucket",
        "s3_prefix",
        "s3_endpoint_url",
        "s3_public_endpoint_url",
        "s3_force_path_style",
        "s3_checksum",
        "s3_sse",
        "s3_sse_kms_key_id",
        "s3_timeout",
        "data_dir",
    ],
};
const MEMORY: Group = Group {
    heading: "Memory and disk",
    settings: &["part_size", "part_concurrency", "memory_budget", "spill_budget", "spill_dir"],
};
const IMAGES: Group =
    Group { heading: "Images", settings: &["max_upload_size", "max_pixels", "header_scan_limit", "allowed_formats"] };
const LINKS: Group = Group {
    heading: "Direct uploads and links",
    settings: &["direct_put_max", "upload_url_ttl", "complete_wait", "read_url_ttl"],
};
const GROUPS: [&Group; 7] = [&SERVER, &ACCESS, &LOG, &STORE, &MEMORY, &IMAGES, &LINKS];

/// The settings that most installations change. `-h` shows only these.
const COMMON: [&str; 11] = [
    "host",
    "port",
    "public_url",
    "api_keys",
    "api_keys_file",
    "log_format",
    "s3_bucket",
    "s3_prefix",
    "s3_endpoint_url",
    "data_dir",
    "max_upload_size",
];

/// Settings that `doctor` uses besides those of the store.
const OF_DOCTOR: [&str; 5] = ["cors_allow_origin", "public_url", "spill_budget", "spill_dir", "upload_url_ttl"];

/// Puts the settings into their groups, and hides those that a command does not use from its help.
pub fn arrange(command: Command) -> Command {
    let command = command.mut_args(|arg| if arg.is_global_set() { grouped(arg) } else { arg });
    let settings: Vec<Arg> = command.get_arguments().filter(|arg| arg.is_global_set()).cloned().collect();
    command.mut_subcommands(|subcommand| {
        let is_hidden = |arg: &Arg| !is_used(subcommand.get_name(), arg.get_id().as_str());
        let settings: Vec<Arg> = settings.iter().map(|arg| arg.clone().hide(is_hidden(arg))).collect();
        subcommand.args(settings)
    })
}

fn grouped(setting: Arg) -> Arg {
    let name = setting.get_id().as_str();
    let group = GROUPS.iter().find(|group| group.settings.contains(&name));
    let is_common = COMMON.contains(&name);
    setting.help_heading(group.map(|group| group.heading)).hide_short_help(!is_common)
}

fn is_used(command: &str, setting: &str) -> bool {
    let of_store = || STORE.settings.contains(&setting) || LOG.settings.contains(&setting);
    match command {
        "serve" | "config" => true,
        "sweep" => of_store() || setting == "upload_url_ttl",
        "doctor" => of_store() || OF_DOCTOR.contains(&setting),
        "healthcheck" => ["host", "port"].contains(&setting),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::CommandFactory;

    #[test]
    fn every_setting_is_in_one_group() {
        let command = Cli::command();
        let settings = command.get_arguments().filter(|arg| arg.is_global_set());
        let mut defined: Vec<&str> = settings.map(|arg| arg.get_id().as_str()).collect();
        let mut grouped: Vec<&str> = GROUPS.iter().flat_map(|group| group.settings).copied().collect();
        for name in COMMON.iter().chain(&OF_DOCTOR) {
            assert!(defined.contains(name), "{name}");
        }
        defined.sort_unstable();
        grouped.sort_unstable();
        assert_eq!(defined, grouped);
    }
}
