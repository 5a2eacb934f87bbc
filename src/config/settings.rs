//! Flags and environment as given: text, and what `--help` says of it.

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

use crate::auth::Secret;

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
        /// Only what is older than this (a duration: 30m, 24h); markers of ended uploads also not before UPLOAD_URL_TTL
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
    /// Upload images to a running service, through it or straight to its S3; prints a line of JSON for each
    #[cfg(feature = "client")]
    Upload(crate::client::UploadOptions),
}

/// Settings as given: text. [`super::Config::new`] reads it, so that every error is told at once.
///
/// Sizes take `KiB`, `MiB`, `GiB` (or `KB`, `MB`, `GB`; bare: bytes), durations `s`, `m`, `h` (bare: seconds).
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Settings")]
pub struct Settings {
    /// Address to listen on
    #[arg(long, env = "HOST", global = true, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub host: String,
    /// Port to listen on; 0 takes a free one
    #[arg(long, env = "PORT", global = true, value_name = "PORT", default_value = "8080")]
    pub port: String,
    /// Where clients reach this service; makes the links of a direct upload's plan absolute (unset: they are relative)
    #[arg(long, env = "PUBLIC_URL", global = true, value_name = "URL")]
    pub public_url: Option<String>,
    /// Origins whose pages may call this service, comma-separated, or * (unset: none)
    #[arg(long, env = "CORS_ALLOW_ORIGIN", global = true, value_name = "ORIGINS")]
    pub cors_allow_origin: Option<String>,
    /// Proxies whose Forwarded or X-Forwarded-* headers are believed: addresses or networks, comma-separated (unset: none)
    #[arg(long, env = "TRUSTED_PROXIES", global = true, value_name = "NETWORKS")]
    pub trusted_proxies: Option<String>,
    /// Connections served at once; beyond them only /healthz is answered
    #[arg(long, env = "MAX_CONNECTIONS", global = true, value_name = "COUNT", default_value = "1024")]
    pub max_connections: String,
    /// A request's body may pause this long (duration)
    #[arg(long, env = "BODY_IDLE_TIMEOUT", global = true, value_name = "DURATION", default_value = "30s")]
    pub body_idle_timeout: String,
    /// A request's body must arrive at least so fast on average, in bytes per second; 0: at any rate (size)
    #[arg(long, env = "MIN_UPLOAD_RATE", global = true, value_name = "SIZE", default_value = "1KiB")]
    pub min_upload_rate: String,
    /// A request may take this long in all (duration)
    #[arg(long, env = "REQUEST_TIMEOUT", global = true, value_name = "DURATION", default_value = "1h")]
    pub request_timeout: String,
    /// What is in flight at SIGTERM may take this long to finish; then it is aborted (duration)
    #[arg(long, env = "SHUTDOWN_TIMEOUT", global = true, value_name = "DURATION", default_value = "25s")]
    pub shutdown_timeout: String,
    /// API keys with every scope, comma-separated (unset, and API_KEYS_FILE too: nobody needs a key)
    #[arg(long, env = "API_KEYS", global = true, value_name = "KEYS", hide_env_values = true)]
    pub api_keys: Option<Secret>,
    /// File of API keys, a line for each: its name, its SHA-256 in hex, its scopes (upload,delete,read)
    #[arg(long, env = "API_KEYS_FILE", global = true, value_name = "FILE")]
    pub api_keys_file: Option<PathBuf>,
    /// Signs the links of direct uploads, at least 32 bytes (unset: derived from the API keys, so that a new key voids open links)
    #[arg(long, env = "TOKEN_SECRET", global = true, value_name = "SECRET", hide_env_values = true)]
    pub token_secret: Option<Secret>,
    /// Images are read without a key, also where there are keys: true or false
    #[arg(long, env = "PUBLIC_READ", global = true, value_name = "BOOL", default_value = "false")]
    pub public_read: String,
    /// Log lines as text or json
    #[arg(long, env = "LOG_FORMAT", global = true, value_name = "FORMAT", default_value = "text")]
    pub log_format: String,

    /// Bucket to keep images in (unset: an embedded S3 on DATA_DIR)
    #[arg(long, env = "S3_BUCKET", global = true, value_name = "BUCKET")]
    pub s3_bucket: Option<String>,
    /// Prefix of every object's key, like a/b/; never part of an s3_key
    #[arg(long, env = "S3_PREFIX", global = true, value_name = "PREFIX", default_value = "")]
    pub s3_prefix: String,
    /// An S3 other than AWS; credentials and region come from the SDK's own AWS_* variables
    #[arg(long, env = "AWS_ENDPOINT_URL_S3", global = true, value_name = "URL")]
    pub s3_endpoint_url: Option<String>,
    /// What presigned URLs point at, where clients reach S3 by another name than this service does
    #[arg(long, env = "S3_PUBLIC_ENDPOINT_URL", global = true, value_name = "URL")]
    pub s3_public_endpoint_url: Option<String>,
    /// Address the bucket in the path and not in the host name: true or false
    #[arg(long, env = "S3_FORCE_PATH_STYLE", global = true, value_name = "BOOL", default_value = "false")]
    pub s3_force_path_style: String,
    /// Checksum S3 verifies: auto (crc64nvme unless an endpoint other than AWS's is configured), crc64nvme or none
    #[arg(long, env = "S3_CHECKSUM", global = true, value_name = "KIND", default_value = "auto")]
    pub s3_checksum: String,
    /// Server-side encryption asked for: none (the bucket's default), AES256 or aws:kms
    #[arg(long, env = "S3_SSE", global = true, value_name = "KIND", default_value = "none")]
    pub s3_sse: String,
    /// The KMS key for S3_SSE=aws:kms (unset: the account's own)
    #[arg(long, env = "S3_SSE_KMS_KEY_ID", global = true, value_name = "KEY")]
    pub s3_sse_kms_key_id: Option<String>,
    /// One try of one S3 call may take this long; completing an upload four times as long (duration)
    #[arg(long, env = "S3_TIMEOUT", global = true, value_name = "DURATION", default_value = "60s")]
    pub s3_timeout: String,
    /// Folder of the embedded S3: its objects and its credentials
    #[arg(long, env = "DATA_DIR", global = true, value_name = "FOLDER", default_value = "data")]
    pub data_dir: PathBuf,

    /// Size of the parts a file is sent in, 5 MiB to 5 GiB (size)
    #[arg(long, env = "PART_SIZE", global = true, value_name = "SIZE", default_value = "5MiB")]
    pub part_size: String,
    /// Parts of one upload on their way to S3 at once
    #[arg(long, env = "PART_CONCURRENCY", global = true, value_name = "COUNT", default_value = "4")]
    pub part_concurrency: String,
    /// What all uploads together may hold in memory; each needs a part of it to be admitted (size)
    #[arg(long, env = "MEMORY_BUDGET", global = true, value_name = "SIZE", default_value = "256MiB")]
    pub memory_budget: String,
    /// What may lie on disk of uploads that find no memory; 0: they are told 503 (size; unset: 4GiB)
    #[arg(long, env = "SPILL_BUDGET", global = true, value_name = "SIZE")]
    pub spill_budget: Option<String>,
    /// Folder for what spills, on a disk; its files have no names and end with the process (unset: /var/tmp)
    #[arg(long, env = "SPILL_DIR", global = true, value_name = "FOLDER")]
    pub spill_dir: Option<PathBuf>,
    /// The largest image taken, at most 5 GB (size)
    #[arg(long, env = "MAX_UPLOAD_SIZE", global = true, value_name = "SIZE", default_value = "5GB")]
    pub max_upload_size: String,
    /// Width times height an image may have; 0: any
    #[arg(long, env = "MAX_PIXELS", global = true, value_name = "COUNT", default_value = "268435456")]
    pub max_pixels: String,
    /// An image must show its dimensions within this much of its beginning (size; unset: PART_SIZE, at most 64MiB)
    #[arg(long, env = "HEADER_SCAN_LIMIT", global = true, value_name = "SIZE")]
    pub header_scan_limit: Option<String>,
    /// Formats taken, comma-separated: jpg, jpeg, png, gif, bmp, webp, avif, heic, tiff
    #[arg(
        long,
        env = "ALLOWED_FORMATS",
        global = true,
        value_name = "FORMATS",
        default_value = "jpg,jpeg,png,gif,bmp"
    )]
    pub allowed_formats: String,
    /// The largest file planned as a single presigned PUT; larger ones are planned in parts (size)
    #[arg(long, env = "DIRECT_PUT_MAX", global = true, value_name = "SIZE", default_value = "100MiB")]
    pub direct_put_max: String,
    /// How long the URLs of a direct upload's plan work; a transfer that has begun may take longer (duration)
    #[arg(long, env = "UPLOAD_URL_TTL", global = true, value_name = "DURATION", default_value = "15m")]
    pub upload_url_ttl: String,
    /// Completing a direct upload answers 202 when it takes longer than this (duration)
    #[arg(long, env = "COMPLETE_WAIT", global = true, value_name = "DURATION", default_value = "25s")]
    pub complete_wait: String,
    /// How long a link to an image works, at most 7 days (duration)
    #[arg(long, env = "READ_URL_TTL", global = true, value_name = "DURATION", default_value = "1h")]
    pub read_url_ttl: String,
}
