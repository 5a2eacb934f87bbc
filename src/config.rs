//! Every setting, from flags and environment: read once, checked together, one struct a concern.

use std::fmt::Display;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

mod descriptors;
mod parse;
mod settings;
mod trusted_proxies;

pub use descriptors::Descriptors;
pub use parse::{absolute_url, duration, size};
pub use settings::Settings;
pub use trusted_proxies::TrustedProxies;

use crate::auth::tokens::PLAN_LIFETIME;
use crate::auth::{Keys, Secret};
use crate::format::Format;
use crate::policy::Policy;
use crate::store::s3::{Checksum, Sse};
use crate::telemetry;
use parse::{formats, number, origins, prefix};

/// S3's limit on the number of parts of one upload.
const MAX_PARTS: u64 = 10_000;
/// S3's smallest part (but for the last).
const MIN_PART_SIZE: u64 = 5 << 20;
/// S3's largest part.
const MAX_PART_SIZE: u64 = 5 << 30;
/// One PUT, and one UploadPartCopy, moves at most this much (S3 says 5 GB), and a direct upload is promoted by one copy.
const MAX_OBJECT_SIZE: u64 = 5_000_000_000;
/// Bytes.
const MIN_TOKEN_SECRET: usize = 32;
/// Where it is not set; used only as far as the system allows.
const SPILL_BUDGET: &str = "4GiB";
const SPILL_DIR: &str = "/var/tmp";

/// The settings, checked.
#[derive(Clone, Debug)]
pub struct Config {
    pub server: Server,
    pub store: Store,
    pub upload: Upload,
    pub direct: Direct,
    pub auth: Auth,
    pub policy: Policy,
    /// How long a presigned GET lives.
    pub read_url_ttl: Duration,
    /// No trailing slash.
    pub public_url: Option<String>,
    /// Origins, or a single `*`.
    pub cors_origins: Vec<String>,
    pub log_json: bool,
}

/// The HTTP server's.
#[derive(Clone, Debug)]
pub struct Server {
    pub host: IpAddr,
    pub port: u16,
    pub trusted_proxies: TrustedProxies,
    pub max_connections: usize,
    /// Connections beyond those: see [`Descriptors`].
    pub extra_connections: usize,
    pub body_idle_timeout: Duration,
    /// Bytes per second; 0: any.
    pub min_upload_rate: u64,
    pub request_timeout: Duration,
    pub shutdown_timeout: Duration,
}

/// Where images are kept.
#[derive(Clone, Debug)]
pub struct Store {
    /// None: the embedded S3.
    pub bucket: Option<String>,
    pub prefix: String,
    pub endpoint: Option<String>,
    pub public_endpoint: Option<String>,
    pub force_path_style: bool,
    pub checksum: Checksum,
    pub sse: Option<Sse>,
    pub timeout: Duration,
    /// Calls that are made at once; not a setting: see [`Descriptors`].
    pub max_calls: usize,
    pub data_dir: PathBuf,
}

/// How a stream becomes parts.
#[derive(Clone, Debug)]
pub struct Upload {
    /// Bytes.
    pub part_size: usize,
    pub part_concurrency: usize,
    /// Bytes of memory for uploads: their parts, and what their connections hold.
    pub memory_budget: u64,
    /// Bytes; 0: nothing spills.
    pub spill_budget: u64,
    pub spill_dir: PathBuf,
    /// Files that may spill at once; not a setting: see [`Descriptors`].
    pub spill_files: usize,
    /// Either of these was set: it is an error then that nothing can spill.
    pub spill_chosen: bool,
    /// How long a PutObject may go on whose request was given up; none: to its end. Not a setting, the transport's choice.
    pub patience: Option<Duration>,
}

/// Bytes that 500 connections hold beside the parts: hyper's buffers, forms' headers, their calls to the store.
const CONNECTIONS_HOLD: u64 = 40 << 20;

impl Upload {
    /// Bytes of the budget that parts may take, so that a crowd of 500 stays within the budget and the 64 MiB that the
    /// process itself may have. At least half of it: a small budget is a small service's.
    pub fn memory_for_parts(&self) -> u64 {
        self.memory_budget - CONNECTIONS_HOLD.min(self.memory_budget / 2)
    }

    /// The smallest budget that holds a part.
    pub fn min_memory_budget(&self) -> u64 {
        let part = self.part_size as u64;
        part + CONNECTIONS_HOLD.min(part)
    }
}

/// How clients upload past this process.
#[derive(Clone, Copy, Debug)]
pub struct Direct {
    /// Bytes.
    pub put_max: u64,
    pub url_ttl: Duration,
    pub complete_wait: Duration,
}

/// Who may do what.
#[derive(Clone, Debug)]
pub struct Auth {
    pub keys: Keys,
    /// Where some of them come from.
    pub keys_file: Option<PathBuf>,
    /// Reading needs no key.
    pub public_read: bool,
    /// Signs the links of plans; if it is not set, the secret is derived from the keys.
    pub token_secret: Option<Secret>,
}

/// Collects what is wrong, so that it can be told at once.
#[derive(Default)]
struct Problems(Vec<String>);

impl Problems {
    /// The value, or a stand-in that nobody sees: [`Config::new`] fails in the end.
    fn take<T: Default>(&mut self, setting: &str, value: Result<T, impl Display>) -> T {
        value.unwrap_or_else(|problem| {
            self.0.push(format!("{setting}: {problem}"));
            T::default()
        })
    }

    /// A setting that is unset, or an absolute URL.
    fn url(&mut self, setting: &str, text: Option<&str>) -> Option<String> {
        self.take(setting, text.map(absolute_url).transpose())
    }

    fn check(&mut self, holds: bool, problem: impl FnOnce() -> String) {
        if !holds {
            self.0.push(problem());
        }
    }
}

impl Config {
    /// Reads and checks every setting.
    ///
    /// # Errors
    /// One line for each thing that is wrong, all of them.
    pub fn new(settings: &Settings) -> Result<Config, Vec<String>> {
        let mut problems = Problems::default();
        let upload = Upload::read(settings, &mut problems);
        let config = Config {
            server: Server::read(settings, &mut problems),
            store: Store::read(settings, &mut problems),
            direct: Direct::read(settings, &mut problems),
            auth: Auth::read(settings, &mut problems),
            policy: read_policy(settings, upload.part_size, &mut problems),
            upload,
            read_url_ttl: problems.take("READ_URL_TTL", parse::url_ttl(&settings.read_url_ttl)),
            // Templates set these two to nothing where they are not wanted, which is harmless.
            public_url: problems.url("PUBLIC_URL", settings.public_url.as_deref().filter(|url| !url.is_empty())),
            cors_origins: problems
                .take("CORS_ALLOW_ORIGIN", origins(settings.cors_allow_origin.as_deref().unwrap_or_default())),
            log_json: problems
                .take("LOG_FORMAT", parse::one_of(&settings.log_format, &[("text", false), ("json", true)])),
        };
        problems.take("RUST_LOG", telemetry::filter().map(drop));
        config.validate(&mut problems);
        if problems.0.is_empty() { Ok(config) } else { Err(problems.0) }
    }

    /// The rules that span settings.
    fn validate(&self, problems: &mut Problems) {
        let (part_size, max) = (self.upload.part_size as u64, self.policy.max_upload_size);
        // Of a value that could not be read, that is all there is to say.
        if part_size == 0 {
            return;
        }
        problems.check(max <= MAX_PARTS.saturating_mul(part_size), || {
            format!("MAX_UPLOAD_SIZE: {max} bytes do not fit {MAX_PARTS} parts of PART_SIZE ({part_size} bytes)")
        });
        let (budget, least) = (self.upload.memory_budget, self.upload.min_memory_budget());
        problems.check(least <= budget, || {
            format!("MEMORY_BUDGET: {budget} bytes are too few for one part of PART_SIZE; it takes {least}")
        });
        let scan = self.policy.header_scan_limit as u64;
        problems.check(scan <= part_size, || {
            format!("HEADER_SCAN_LIMIT: {scan} bytes do not fit one part of PART_SIZE ({part_size} bytes)")
        });
    }
}

impl Server {
    fn read(settings: &Settings, problems: &mut Problems) -> Server {
        let unspecified = settings.host.parse().map_err(|_| "is not an IP address");
        if let Err(problem) = unspecified {
            problems.check(false, || format!("HOST: '{}' {problem}", settings.host));
        }
        let (positive, proxies) = (parse::positive, parse::networks(settings.trusted_proxies.as_deref()));
        Server {
            host: unspecified.unwrap_or(IpAddr::from([127, 0, 0, 1])),
            port: problems.take("PORT", number(&settings.port)),
            trusted_proxies: TrustedProxies::new(&problems.take("TRUSTED_PROXIES", proxies)),
            max_connections: problems.take("MAX_CONNECTIONS", positive(&settings.max_connections)),
            extra_connections: Descriptors::EXTRA_CONNECTIONS,
            body_idle_timeout: problems
                .take("BODY_IDLE_TIMEOUT", parse::positive_duration(&settings.body_idle_timeout)),
            min_upload_rate: problems.take("MIN_UPLOAD_RATE", size(&settings.min_upload_rate, 0..=u64::MAX)),
            request_timeout: problems.take("REQUEST_TIMEOUT", parse::positive_duration(&settings.request_timeout)),
            shutdown_timeout: problems.take("SHUTDOWN_TIMEOUT", duration(&settings.shutdown_timeout)),
        }
    }
}

impl Store {
    fn read(settings: &Settings, problems: &mut Problems) -> Store {
        let endpoint = settings.s3_endpoint_url.as_deref().filter(|endpoint| !is_ignored(endpoint));
        // The SDK reads this one itself, and takes anything.
        let of_all_services = std::env::var("AWS_ENDPOINT_URL").ok().filter(|_| !ignores_endpoints());
        problems.url("AWS_ENDPOINT_URL", of_all_services.as_deref());
        let checksums = [("auto", Checksum::Auto), ("crc64nvme", Checksum::Crc64Nvme), ("none", Checksum::None)];
        let kms = Sse::Kms { key_id: settings.s3_sse_kms_key_id.clone() };
        let sse = [("none", None), ("AES256", Some(Sse::Aes256)), ("aws:kms", Some(kms))];
        let store = Store {
            bucket: problems.take("S3_BUCKET", settings.s3_bucket.as_deref().map(parse::bucket).transpose()),
            prefix: problems.take("S3_PREFIX", prefix(&settings.s3_prefix)),
            endpoint: problems.url("AWS_ENDPOINT_URL_S3", endpoint),
            public_endpoint: problems.url("S3_PUBLIC_ENDPOINT_URL", settings.s3_public_endpoint_url.as_deref()),
            force_path_style: problems.take("S3_FORCE_PATH_STYLE", parse::boolean(&settings.s3_force_path_style)),
            checksum: problems.take("S3_CHECKSUM", parse::one_of(&settings.s3_checksum, &checksums)),
            sse: problems.take("S3_SSE", parse::one_of(&settings.s3_sse, &sse)),
            timeout: problems.take("S3_TIMEOUT", parse::positive_duration(&settings.s3_timeout)),
            max_calls: Descriptors::MAX_CALLS,
            data_dir: settings.data_dir.clone(),
        };
        store.check_key(settings, problems);
        if settings.s3_bucket.is_none() {
            store.check_embedded(settings, problems);
        }
        store
    }

    fn check_key(&self, settings: &Settings, problems: &mut Problems) {
        let Some(key) = &settings.s3_sse_kms_key_id else { return };
        problems.check(!key.is_empty(), || {
            "S3_SSE_KMS_KEY_ID: is empty; name a key, or unset it to use the account's own".to_owned()
        });
        problems.check(matches!(self.sse, Some(Sse::Kms { .. })), || {
            "S3_SSE_KMS_KEY_ID: is used only with S3_SSE=aws:kms".to_owned()
        });
    }

    /// Without a bucket there is the embedded S3, which has none of what these settings are about: whoever sets one of them
    /// means a bucket, and would not find the images there.
    fn check_embedded(&self, settings: &Settings, problems: &mut Problems) {
        if cfg!(not(feature = "embedded")) {
            return problems.0.push("S3_BUCKET: is required, this binary was built without the embedded S3".to_owned());
        }
        for (setting, is_set) in [
            ("AWS_ENDPOINT_URL_S3", self.endpoint.is_some()),
            ("AWS_ENDPOINT_URL", std::env::var_os("AWS_ENDPOINT_URL").is_some() && !ignores_endpoints()),
            ("S3_PUBLIC_ENDPOINT_URL", settings.s3_public_endpoint_url.is_some()),
            ("S3_FORCE_PATH_STYLE", self.force_path_style),
            ("S3_CHECKSUM", self.checksum != Checksum::Auto),
            ("S3_SSE", self.sse.is_some()),
        ] {
            problems.check(!is_set, || {
                format!("{setting}: requires S3_BUCKET; without it images are kept in the embedded S3 in DATA_DIR")
            });
        }
    }
}

fn ignores_endpoints() -> bool {
    std::env::var("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS").is_ok_and(|value| value.eq_ignore_ascii_case("true"))
}

/// Whether `endpoint` comes from the environment while that also says that endpoints are not to be taken from there.
///
/// <https://docs.aws.amazon.com/sdkref/latest/guide/feature-ss-endpoints.html>
fn is_ignored(endpoint: &str) -> bool {
    ignores_endpoints() && std::env::var("AWS_ENDPOINT_URL_S3").is_ok_and(|found| found == endpoint)
}

impl Upload {
    fn read(settings: &Settings, problems: &mut Problems) -> Upload {
        let part_size = problems.take("PART_SIZE", size(&settings.part_size, MIN_PART_SIZE..=MAX_PART_SIZE));
        let spill_budget = settings.spill_budget.as_deref().unwrap_or(SPILL_BUDGET);
        Upload {
            part_size: problems.take("PART_SIZE", usize::try_from(part_size)),
            part_concurrency: problems
                .take("PART_CONCURRENCY", parse::count(&settings.part_concurrency, 1..=MAX_PARTS as usize)),
            spill_budget: problems.take("SPILL_BUDGET", size(spill_budget, 0..=u64::MAX)),
            spill_files: Descriptors::MAX_SPILL_FILES,
            spill_dir: settings.spill_dir.clone().unwrap_or_else(|| SPILL_DIR.into()),
            spill_chosen: settings.spill_budget.is_some() || settings.spill_dir.is_some(),
            memory_budget: problems.take("MEMORY_BUDGET", size(&settings.memory_budget, 1..=u64::MAX)),
            patience: None,
        }
    }
}

impl Direct {
    fn read(settings: &Settings, problems: &mut Problems) -> Direct {
        Direct {
            put_max: problems.take("DIRECT_PUT_MAX", size(&settings.direct_put_max, 1..=MAX_OBJECT_SIZE)),
            url_ttl: problems.take("UPLOAD_URL_TTL", upload_url_ttl(&settings.upload_url_ttl)),
            complete_wait: problems.take("COMPLETE_WAIT", parse::positive_duration(&settings.complete_wait)),
        }
    }
}

impl Auth {
    fn read(settings: &Settings, problems: &mut Problems) -> Auth {
        let keys = Keys::read(settings.api_keys.as_ref(), settings.api_keys_file.as_deref());
        Auth {
            keys: keys.unwrap_or_else(|wrong| {
                problems.0.extend(wrong);
                Keys::default()
            }),
            keys_file: settings.api_keys_file.clone(),
            public_read: problems.take("PUBLIC_READ", parse::boolean(&settings.public_read)),
            token_secret: problems.take("TOKEN_SECRET", token_secret(settings.token_secret.as_ref())),
        }
    }
}

/// HS256 wants a key of at least the hash's size (RFC 7518, 3.2).
fn token_secret(secret: Option<&Secret>) -> Result<Option<Secret>, String> {
    match secret {
        Some(secret) if secret.as_bytes().len() < MIN_TOKEN_SECRET => {
            Err(format!("must have at least {MIN_TOKEN_SECRET} bytes (openssl rand -hex 32)"))
        }
        secret => Ok(secret.cloned()),
    }
}

/// The largest HEADER_SCAN_LIMIT, in bytes.
const MAX_SCAN_LIMIT: usize = 64 << 20;

/// What shows the dimensions must fit a part: `part_size` bytes.
/// A marker, which closes a PUT URL, is swept after as long as a plan may live: no URL may outlive it.
fn upload_url_ttl(text: &str) -> Result<Duration, String> {
    let ttl = parse::url_ttl(text).map_err(|problem| problem.to_string())?;
    if ttl > PLAN_LIFETIME {
        return Err(format!("'{text}' is more than 24h, after which a plan is swept"));
    }
    Ok(ttl)
}

fn read_policy(settings: &Settings, part_size: usize, problems: &mut Problems) -> Policy {
    let scan = match &settings.header_scan_limit {
        Some(limit) => {
            let limit = problems.take("HEADER_SCAN_LIMIT", size(limit, 4 << 10..=MAX_SCAN_LIMIT as u64));
            problems.take("HEADER_SCAN_LIMIT", usize::try_from(limit))
        }
        None => part_size.min(MAX_SCAN_LIMIT),
    };
    let formats: Vec<Format> = problems.take("ALLOWED_FORMATS", formats(&settings.allowed_formats));
    Policy {
        formats,
        key_format: None,
        max_upload_size: problems.take("MAX_UPLOAD_SIZE", size(&settings.max_upload_size, 1..=MAX_OBJECT_SIZE)),
        max_pixels: problems.take("MAX_PIXELS", number(&settings.max_pixels)),
        header_scan_limit: scan,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::Parser;

    fn read(arguments: &[&str]) -> Result<Config, Vec<String>> {
        let all = std::iter::once("image-store").chain(arguments.iter().copied());
        Config::new(&Cli::try_parse_from(all).unwrap().settings)
    }

    #[test]
    fn defaults_are_valid() {
        let config = read(&["--s3-bucket", "b"]).unwrap();
        assert_eq!(config.upload.part_size, 5 << 20);
        assert_eq!(config.policy.max_upload_size, 5_000_000_000);
        assert_eq!(config.policy.formats, [Format::Jpeg, Format::Png, Format::Gif, Format::Bmp]);
        assert_eq!(config.store.checksum, Checksum::Auto);
    }

    #[test]
    fn the_header_may_be_as_long_as_a_part() {
        let limit = |flags: &[&str]| read(&[&["--s3-bucket=b"], flags].concat()).unwrap().policy.header_scan_limit;
        assert_eq!(limit(&[]), 5 << 20);
        assert_eq!(limit(&["--part-size=8MiB"]), 8 << 20);
        assert_eq!(limit(&["--part-size=1GiB", "--memory-budget=2GiB"]), 64 << 20);
        assert_eq!(limit(&["--part-size=8MiB", "--header-scan-limit=1MiB"]), 1 << 20);
    }

    #[test]
    fn no_url_for_an_upload_outlives_its_plan() {
        assert!(read(&["--s3-bucket=b", "--upload-url-ttl=24h"]).is_ok());
        let problems = read(&["--s3-bucket=b", "--upload-url-ttl=25h"]).unwrap_err();
        assert!(problems.len() == 1 && problems[0].starts_with("UPLOAD_URL_TTL: '25h'"), "{problems:?}");
    }

    #[test]
    fn every_error_is_told_at_once() {
        let problems = read(&[
            "--port=http",
            "--part-size=1MiB",
            "--allowed-formats=svg",
            "--log-format=xml",
            "--host=nowhere",
            "--cors-allow-origin=example.com",
            "--s3-prefix=/a",
            "--read-url-ttl=8days",
            "--min-upload-rate=fast",
            "--trusted-proxies=10.0.0.0/8,proxy",
        ])
        .unwrap_err();
        for setting in [
            "PORT",
            "PART_SIZE",
            "ALLOWED_FORMATS",
            "LOG_FORMAT",
            "HOST",
            "CORS_ALLOW_ORIGIN",
            "S3_PREFIX",
            "READ_URL_TTL",
            "MIN_UPLOAD_RATE",
            "TRUSTED_PROXIES",
        ] {
            assert!(problems.iter().any(|line| line.starts_with(&format!("{setting}:"))), "{setting} in {problems:#?}");
        }
    }

    #[test]
    fn the_largest_file_and_the_longest_header_must_fit_the_parts() {
        assert!(read(&["--s3-bucket=b", "--part-size=5MiB", "--max-upload-size=5GB"]).is_ok());
        assert_eq!(read(&["--s3-bucket=b", "--header-scan-limit=6MiB"]).unwrap_err().len(), 1);
        assert!(read(&["--s3-bucket=b", "--header-scan-limit=6MiB", "--part-size=6MiB"]).is_ok());
        assert_eq!(read(&["--s3-bucket=b", "--max-upload-size=5000000001"]).unwrap_err().len(), 1);
    }

    /// The settings that `problems` are about.
    fn named(problems: &[String]) -> Vec<&str> {
        problems.iter().map(|problem| problem.split(':').next().unwrap()).collect()
    }

    #[test]
    fn what_only_a_bucket_has_requires_one() {
        let flags = [
            "--s3-endpoint-url=http://127.0.0.1:9000",
            "--s3-public-endpoint-url=https://s3.example",
            "--s3-force-path-style=true",
            "--s3-checksum=none",
            "--s3-sse=AES256",
        ];
        let settings =
            ["AWS_ENDPOINT_URL_S3", "S3_PUBLIC_ENDPOINT_URL", "S3_FORCE_PATH_STYLE", "S3_CHECKSUM", "S3_SSE"];
        if cfg!(feature = "embedded") {
            assert_eq!(named(&read(&flags).unwrap_err()), settings);
            assert!(read(&["--s3-checksum=auto", "--s3-sse=none", "--s3-force-path-style=false"]).is_ok());
        }
        assert!(read(&[["--s3-bucket=b"].as_slice(), &flags].concat()).is_ok());
    }

    #[test]
    fn what_is_set_to_nothing_is_an_error_where_it_would_lose_something() {
        for (flags, setting) in [
            (["--s3-bucket=", "--s3-force-path-style=true"], "S3_BUCKET"),
            (["--s3-bucket=b", "--api-keys="], "API_KEYS"),
            (["--s3-bucket=b", "--s3-endpoint-url="], "AWS_ENDPOINT_URL_S3"),
            (["--s3-bucket=b", "--s3-public-endpoint-url="], "S3_PUBLIC_ENDPOINT_URL"),
        ] {
            assert_eq!(named(&read(&flags).unwrap_err()), [setting]);
        }
        let kms = ["--s3-bucket=b", "--s3-sse=AWS:KMS", "--s3-sse-kms-key-id="];
        assert_eq!(named(&read(&kms).unwrap_err()), ["S3_SSE_KMS_KEY_ID"]);
        let nothing = read(&["--s3-bucket=b", "--cors-allow-origin=", "--public-url=", "--s3-prefix="]).unwrap();
        assert_eq!((nothing.cors_origins.len(), nothing.public_url), (0, None));
    }

    #[test]
    fn values_that_can_never_work_are_errors() {
        for (flag, setting) in [
            ("--complete-wait=0", "COMPLETE_WAIT"),
            ("--cors-allow-origin=https://a.example/", "CORS_ALLOW_ORIGIN"),
            ("--public-url=https://user:secret@a.example", "PUBLIC_URL"),
            ("--s3-endpoint-url=https://a.example?x", "AWS_ENDPOINT_URL_S3"),
            ("--s3-bucket=s3://b", "S3_BUCKET"),
            ("--s3-sse-kms-key-id=key", "S3_SSE_KMS_KEY_ID"),
            ("--read-url-ttl=8days", "READ_URL_TTL"),
            ("--part-concurrency=10001", "PART_CONCURRENCY"),
            ("--part-size=much", "PART_SIZE"),
        ] {
            let problems = read(&["--s3-bucket=b", flag]).unwrap_err();
            assert_eq!(named(&problems), [setting], "{problems:?}");
            assert!(!problems[0].contains("secret"), "{problems:?}");
        }
    }
}
