//! The command line: flags, environment variables and subcommands.

use clap::{Parser, Subcommand};

use crate::commands::grant::GrantOptions;
#[cfg(feature = "client")]
use crate::commands::upload::UploadOptions;
use crate::config::Settings;

/// Takes images over HTTP and keeps them in S3, as a stream.
#[derive(Debug, Parser)]
#[command(name = "image-store", version, about, next_line_help = true, args_override_self = true, max_term_width = 110)]
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
    /// Ask the service at HOST and PORT whether it answers; exits with 0 or 1
    Healthcheck,
    /// Abort multipart uploads and delete unverified objects that were left behind, then exit
    Sweep {
        /// Only what is older than this (a duration: 30m, 24h)
        #[arg(long, value_name = "DURATION", default_value = "24h")]
        older_than: String,
    },
    /// Check that the bucket does what the service needs of it, and leave nothing there; exits with 1 where it does not
    #[cfg(feature = "doctor")]
    Doctor {
        /// Print an object of JSON a line: check, verdict (ok, warn, fail, skip), seen, fix
        #[arg(long)]
        json: bool,
    },
    /// Sign a grant: the right to upload, for a client that is to have no key; prints the grant, or with --url a link
    Grant(Box<GrantOptions>),
    /// Upload images to a running service, through it or straight to its S3; prints a line of JSON for each
    #[cfg(feature = "client")]
    Upload(UploadOptions),
}
