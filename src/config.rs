//! All settings, from flags and environment variables. They are parsed once and validated together ([`Config::new`]);
//! each concern has its own struct.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

mod descriptors;
mod parse;
mod read;
mod settings;
mod trusted_proxies;

pub use descriptors::Descriptors;
pub use parse::{absolute_url, duration, size};
pub use settings::Settings;
pub use trusted_proxies::TrustedProxies;

use crate::auth::{Keys, Secret};
use crate::policy::Policy;
use crate::store::s3::{Checksum, Sse};

/// The validated settings.
#[derive(Clone, Debug)]
pub struct Config {
    pub server: Server,
    pub store: Store,
    pub upload: Upload,
    pub direct: Direct,
    pub auth: Auth,
    pub policy: Policy,
    /// Lifetime of a presigned GET.
    pub read_url_ttl: Duration,
    /// Has no trailing slash.
    pub public_url: Option<String>,
    /// A list of origins, or a single `*`.
    pub cors_origins: Vec<String>,
    pub log_json: bool,
}

/// Settings of the HTTP server.
#[derive(Clone, Debug)]
pub struct Server {
    pub host: IpAddr,
    pub port: u16,
    pub trusted_proxies: TrustedProxies,
    pub max_connections: usize,
    /// Connections above that limit: see [`Descriptors`].
    pub extra_connections: usize,
    pub body_idle_timeout: Duration,
    /// Bytes per second; 0 disables the check.
    pub min_upload_rate: u64,
    pub request_timeout: Duration,
    pub shutdown_timeout: Duration,
}

/// Settings of the store.
#[derive(Clone, Debug)]
pub struct Store {
    /// `None` selects the embedded S3.
    pub bucket: Option<String>,
    pub prefix: String,
    pub endpoint: Option<String>,
    pub public_endpoint: Option<String>,
    pub force_path_style: bool,
    pub checksum: Checksum,
    pub sse: Option<Sse>,
    pub timeout: Duration,
    /// Maximum number of concurrent calls. It is not a setting: see [`Descriptors`].
    pub max_calls: usize,
    pub data_dir: PathBuf,
}

/// Settings of uploads through the service.
#[derive(Clone, Debug)]
pub struct Upload {
    /// Bytes.
    pub part_size: usize,
    pub part_concurrency: usize,
    /// Bytes of memory for uploads: their parts and the buffers of their connections.
    pub memory_budget: u64,
    /// Bytes; 0 disables spilling.
    pub spill_budget: u64,
    pub spill_dir: PathBuf,
    /// Maximum number of spilled files at once. It is not a setting: see [`Descriptors`].
    pub spill_files: usize,
    /// Whether the spill budget or folder was set explicitly. If so, an unusable spill folder is an error.
    pub spill_chosen: bool,
    /// How long a PutObject may continue after its request was cancelled; `None` means until it ends. It is not a
    /// setting but chosen by the transport.
    pub patience: Option<Duration>,
}

/// Bytes that 500 connections use in addition to the parts: hyper's buffers, headers of forms, and calls to the store.
const CONNECTIONS_HOLD: u64 = 40 << 20;

impl Upload {
    /// Returns the bytes of the memory budget that are available for parts. The rest is for connections, so that 500
    /// clients stay within the budget plus the 64 MiB of the process itself. Parts get at least half of the budget,
    /// because a small budget means a small service with fewer connections.
    pub fn memory_for_parts(&self) -> u64 {
        self.memory_budget - CONNECTIONS_HOLD.min(self.memory_budget / 2)
    }

    /// Returns the smallest memory budget that can hold one part.
    pub fn min_memory_budget(&self) -> u64 {
        let part = self.part_size as u64;
        part + CONNECTIONS_HOLD.min(part)
    }
}

/// Settings of direct uploads, which clients send to the store themselves.
#[derive(Clone, Copy, Debug)]
pub struct Direct {
    /// Bytes.
    pub put_max: u64,
    pub url_ttl: Duration,
    pub complete_wait: Duration,
}

/// Settings of authentication.
#[derive(Clone, Debug)]
pub struct Auth {
    pub keys: Keys,
    /// The file from which some of the keys were read.
    pub keys_file: Option<PathBuf>,
    /// Whether images can be read without a key.
    pub public_read: bool,
    /// Signs the links of plans. If it is not set, the secret is derived from the keys.
    pub token_secret: Option<Secret>,
}
