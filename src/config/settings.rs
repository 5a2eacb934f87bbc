//! The settings as text, from flags and environment variables, and their help texts.

use clap::Args;
use std::path::PathBuf;

use crate::auth::Secret;

/// The settings as text. [`super::Config::new`] parses them, so that all errors are reported together.
///
/// Sizes have a unit (`KiB`, `MiB`, `GiB`, `KB`, `MB`, `GB`) or are in bytes. Durations have a unit (`s`, `m`, `h`,
/// `d`) or are in seconds.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Settings")]
pub struct Settings {
    /// Address to listen on
    #[arg(long, env = "HOST", global = true, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub host: String,
    /// Port to listen on; 0 selects a free port
    #[arg(long, env = "PORT", global = true, value_name = "PORT", default_value = "8080")]
    pub port: String,
    /// Public base URL of this service; makes the links in upload plans absolute (unset: relative links)
    #[arg(long, env = "PUBLIC_URL", global = true, value_name = "URL")]
    pub public_url: Option<String>,
    /// Origins whose pages may call this service (CORS), comma-separated, or * for all (unset: none)
    #[arg(long, env = "CORS_ALLOW_ORIGIN", global = true, value_name = "ORIGINS")]
    pub cors_allow_origin: Option<String>,
    /// Proxies whose Forwarded or X-Forwarded-* headers are trusted: addresses or networks, comma-separated (unset:
    /// none)
    #[arg(long, env = "TRUSTED_PROXIES", global = true, value_name = "NETWORKS")]
    pub trusted_proxies: Option<String>,
    /// Maximum number of connections served at once; on further connections, only /healthz is answered
    #[arg(long, env = "MAX_CONNECTIONS", global = true, value_name = "COUNT", default_value = "1024")]
    pub max_connections: String,
    /// Maximum pause between two chunks of a request body (duration)
    #[arg(long, env = "BODY_IDLE_TIMEOUT", global = true, value_name = "DURATION", default_value = "30s")]
    pub body_idle_timeout: String,
    /// Minimum average rate of a request body, in bytes per second; 0 disables the check (size)
    #[arg(long, env = "MIN_UPLOAD_RATE", global = true, value_name = "SIZE", default_value = "1KiB")]
    pub min_upload_rate: String,
    /// Maximum total duration of a request (duration)
    #[arg(long, env = "REQUEST_TIMEOUT", global = true, value_name = "DURATION", default_value = "1h")]
    pub request_timeout: String,
    /// Time for requests in flight to finish after SIGTERM, before they are aborted (duration)
    #[arg(long, env = "SHUTDOWN_TIMEOUT", global = true, value_name = "DURATION", default_value = "25s")]
    pub shutdown_timeout: String,
    /// API keys with every scope, comma-separated (API_KEYS and API_KEYS_FILE both unset: no key is required)
    #[arg(long, env = "API_KEYS", global = true, value_name = "KEYS", hide_env_values = true)]
    pub api_keys: Option<Secret>,
    /// File with one API key per line: its name, its SHA-256 in hex, its scopes (upload,delete,read)
    #[arg(long, env = "API_KEYS_FILE", global = true, value_name = "FILE")]
    pub api_keys_file: Option<PathBuf>,
    /// Secret that signs the links of upload plans, at least 32 bytes (unset: derived from the API keys, so that a new
    /// key invalidates the links of open plans)
    #[arg(long, env = "TOKEN_SECRET", global = true, value_name = "SECRET", hide_env_values = true)]
    pub token_secret: Option<Secret>,
    /// Allow reading images without a key, even if API keys are configured: true or false
    #[arg(long, env = "PUBLIC_READ", global = true, value_name = "BOOL", default_value = "false")]
    pub public_read: String,
    /// Log format: text or json
    #[arg(long, env = "LOG_FORMAT", global = true, value_name = "FORMAT", default_value = "text")]
    pub log_format: String,

    /// Bucket that stores the images (unset: the embedded S3 in DATA_DIR)
    #[arg(long, env = "S3_BUCKET", global = true, value_name = "BUCKET")]
    pub s3_bucket: Option<String>,
    /// Prefix of every object's key, for example a/b/; not part of an s3_key
    #[arg(long, env = "S3_PREFIX", global = true, value_name = "PREFIX", default_value = "")]
    pub s3_prefix: String,
    /// Endpoint of an S3 other than AWS; credentials and region come from the SDK's own AWS_* variables
    #[arg(long, env = "AWS_ENDPOINT_URL_S3", global = true, value_name = "URL")]
    pub s3_endpoint_url: Option<String>,
    /// Endpoint in presigned URLs, if clients reach S3 at another address than this service does
    #[arg(long, env = "S3_PUBLIC_ENDPOINT_URL", global = true, value_name = "URL")]
    pub s3_public_endpoint_url: Option<String>,
    /// Put the bucket into the path and not into the host name: true or false
    #[arg(long, env = "S3_FORCE_PATH_STYLE", global = true, value_name = "BOOL", default_value = "false")]
    pub s3_force_path_style: String,
    /// Checksum that S3 verifies: auto (crc64nvme unless an endpoint other than AWS's is configured), crc64nvme or none
    #[arg(long, env = "S3_CHECKSUM", global = true, value_name = "KIND", default_value = "auto")]
    pub s3_checksum: String,
    /// Server-side encryption to request: none (the bucket's default applies), AES256 or aws:kms
    #[arg(long, env = "S3_SSE", global = true, value_name = "KIND", default_value = "none")]
    pub s3_sse: String,
    /// KMS key for S3_SSE=aws:kms (unset: the account's own key)
    #[arg(long, env = "S3_SSE_KMS_KEY_ID", global = true, value_name = "KEY")]
    pub s3_sse_kms_key_id: Option<String>,
    /// Timeout of one attempt of an S3 call; four times as long for completing an upload (duration)
    #[arg(long, env = "S3_TIMEOUT", global = true, value_name = "DURATION", default_value = "60s")]
    pub s3_timeout: String,
    /// Folder of the embedded S3, with its objects and its credentials
    #[arg(long, env = "DATA_DIR", global = true, value_name = "FOLDER", default_value = "data")]
    pub data_dir: PathBuf,

    /// Size of the parts in which a file is sent to S3, 5 MiB to 5 GiB (size)
    #[arg(long, env = "PART_SIZE", global = true, value_name = "SIZE", default_value = "5MiB")]
    pub part_size: String,
    /// Number of parts of one upload that are sent to S3 at once
    #[arg(long, env = "PART_CONCURRENCY", global = true, value_name = "COUNT", default_value = "4")]
    pub part_concurrency: String,
    /// Memory limit for all uploads together; each must reserve one part of it to be admitted (size)
    #[arg(long, env = "MEMORY_BUDGET", global = true, value_name = "SIZE", default_value = "256MiB")]
    pub memory_budget: String,
    /// Disk space for uploads when MEMORY_BUDGET is used up; 0: such uploads are rejected with 503 (size; unset: 4GiB)
    #[arg(long, env = "SPILL_BUDGET", global = true, value_name = "SIZE")]
    pub spill_budget: Option<String>,
    /// Folder on a disk for parts that spill; the files have no names and are freed when the process ends (unset:
    /// /var/tmp)
    #[arg(long, env = "SPILL_DIR", global = true, value_name = "FOLDER")]
    pub spill_dir: Option<PathBuf>,
    /// Maximum size of an image, at most 5 GB (size)
    #[arg(long, env = "MAX_UPLOAD_SIZE", global = true, value_name = "SIZE", default_value = "5GB")]
    pub max_upload_size: String,
    /// Maximum number of pixels of an image (width times height); 0 disables the check
    #[arg(long, env = "MAX_PIXELS", global = true, value_name = "COUNT", default_value = "268435456")]
    pub max_pixels: String,
    /// Number of bytes at the start of an image that must contain its dimensions (size; unset: PART_SIZE, at most
    /// 64MiB)
    #[arg(long, env = "HEADER_SCAN_LIMIT", global = true, value_name = "SIZE")]
    pub header_scan_limit: Option<String>,
    /// Accepted formats, comma-separated: jpg, jpeg, png, gif, bmp, webp, avif, heic, tiff
    #[arg(
        long,
        env = "ALLOWED_FORMATS",
        global = true,
        value_name = "FORMATS",
        default_value = "jpg,jpeg,png,gif,bmp"
    )]
    pub allowed_formats: String,
    /// Maximum size of a direct upload with a single presigned PUT; larger files are planned in parts (size)
    #[arg(long, env = "DIRECT_PUT_MAX", global = true, value_name = "SIZE", default_value = "100MiB")]
    pub direct_put_max: String,
    /// Lifetime of the presigned URLs in an upload plan; a transfer that has begun may take longer (duration)
    #[arg(long, env = "UPLOAD_URL_TTL", global = true, value_name = "DURATION", default_value = "15m")]
    pub upload_url_ttl: String,
    /// Time after which a request that completes a direct upload is answered with 202 (duration)
    #[arg(long, env = "COMPLETE_WAIT", global = true, value_name = "DURATION", default_value = "25s")]
    pub complete_wait: String,
    /// Lifetime of a link to an image, at most 7 days (duration)
    #[arg(long, env = "READ_URL_TTL", global = true, value_name = "DURATION", default_value = "1h")]
    pub read_url_ttl: String,
}
