//! The command line: flags, environment variables and subcommands.

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use std::time::Duration;

use crate::commands::grant::GrantOptions;
#[cfg(feature = "client")]
use crate::commands::upload::UploadOptions;
use crate::config::{self, Settings};

mod groups;

/// The version, with the commit that was built.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("IMAGE_STORE_COMMIT"), ")");

/// Accepts image uploads over HTTP and streams them to S3.
#[derive(Debug, Parser)]
#[command(name = "image-store", version = VERSION, about, args_override_self = true, max_term_width = 110)]
pub struct Cli {
    #[command(flatten)]
    pub settings: Settings,
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve HTTP (the default)
    Serve,
    /// Check that the service at HOST and PORT answers; exits with status 0 or 1
    Healthcheck,
    /// Abort abandoned multipart uploads and delete abandoned unverified objects, then exit
    Sweep {
        /// Minimum age of what is removed (a duration: 30m, 24h); by default 24h plus REQUEST_TIMEOUT, after which no
        /// request can continue an upload; markers of ended uploads are kept at least for UPLOAD_URL_TTL
        #[arg(long, value_name = "DURATION", value_parser = config::duration)]
        older_than: Option<Duration>,
    },
    /// Check that the bucket supports what the service requires, and remove all test objects; exits with status 1 on
    /// failure
    #[cfg(feature = "doctor")]
    Doctor {
        /// Print one JSON object per line: check, verdict (ok, warn, fail, skip), seen, fix
        #[arg(long)]
        json: bool,
    },
    /// Check all settings, and print their values and where each one comes from; secrets are not shown
    Config {
        /// Print one JSON object per line: setting, flag, value, source (flag, environment, default, unset)
        #[arg(long)]
        json: bool,
    },
    /// Sign a grant, which allows a client without an API key to upload; prints the grant, or with --url a link
    Grant(Box<GrantOptions>),
    /// Upload images to a running service, through it or directly to its S3
    #[cfg(feature = "client")]
    Upload(UploadOptions),
    /// Print a script that completes commands and flags in a shell
    #[cfg(feature = "manual")]
    Completions {
        #[arg(value_name = "SHELL")]
        shell: clap_complete::Shell,
    },
    /// Print the manual page of the program, or of one of its commands
    #[cfg(feature = "manual")]
    Man {
        /// Command to describe (unset: the program)
        #[arg(value_name = "COMMAND")]
        command: Option<String>,
    },
}

impl Cli {
    /// Parses the arguments of the process. Ends the process if they are invalid, or if they request the help or the
    /// version.
    ///
    /// The matches are returned too, because only they show where a value comes from.
    pub fn read() -> (Cli, ArgMatches) {
        let matches = command().get_matches();
        let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
        (cli, matches)
    }
}

/// Returns the definition of the command line, with the help of each subcommand arranged.
pub fn command() -> clap::Command {
    groups::arrange(Cli::command())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definition_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn settings_are_accepted_before_and_after_every_subcommand() {
        for arguments in [
            ["image-store", "--port=1", "serve"],
            ["image-store", "serve", "--port=1"],
            ["image-store", "--port=1", "healthcheck"],
            ["image-store", "sweep", "--port=1"],
        ] {
            let matches = command().try_get_matches_from(arguments).unwrap();
            assert_eq!(Cli::from_arg_matches(&matches).unwrap().settings.port, "1", "{arguments:?}");
        }
    }
}
