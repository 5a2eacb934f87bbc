//! The command line: flags, environment variables and subcommands.

use clap::{Parser, Subcommand};

use crate::commands::grant::GrantOptions;
#[cfg(feature = "client")]
use crate::commands::upload::UploadOptions;
use crate::config::Settings;

/// Accepts image uploads over HTTP and streams them to S3.
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
    /// Check that the service at HOST and PORT answers; exits with status 0 or 1
    Healthcheck,
    /// Abort abandoned multipart uploads and delete abandoned unverified objects, then exit
    Sweep {
        /// Minimum age of what is removed (a duration: 30m, 24h); by default 24h plus REQUEST_TIMEOUT, after which no
        /// request can continue an upload; markers of ended uploads are kept at least for UPLOAD_URL_TTL
        #[arg(long, value_name = "DURATION")]
        older_than: Option<String>,
    },
    /// Check that the bucket supports what the service requires, and remove all test objects; exits with status 1 on
    /// failure
    #[cfg(feature = "doctor")]
    Doctor {
        /// Print one JSON object per line: check, verdict (ok, warn, fail, skip), seen, fix
        #[arg(long)]
        json: bool,
    },
    /// Sign a grant, which allows a client without an API key to upload; prints the grant, or with --url a link
    Grant(Box<GrantOptions>),
    /// Upload images to a running service, through it or directly to its S3; prints one line of JSON per file
    #[cfg(feature = "client")]
    Upload(UploadOptions),
}
