//! Reads the settings: parses each, validates them together, and reports all errors together.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::parse::{self, absolute_url, duration, formats, origins, prefix, size, size_text};
use super::{Auth, Config, Descriptors, Direct, Server, Settings, Store, TrustedProxies, Upload};
use crate::auth::tokens::PLAN_LIFETIME;
use crate::auth::{Key, Keys, Scope, Secret};
use crate::policy::Policy;
use crate::store::limits::{MAX_OBJECT_SIZE, MAX_PART_SIZE, MAX_PARTS, MIN_PART_SIZE};
use crate::store::s3::{Checksum, Sse};
use crate::telemetry;

/// Bytes.
const MIN_TOKEN_SECRET: usize = 32;
/// The maximum of HEADER_SCAN_LIMIT, in bytes.
const MAX_SCAN_LIMIT: usize = 64 << 20;
/// The default, which is used only as far as the system allows.
const SPILL_BUDGET: &str = "4GiB";
const SPILL_DIR: &str = "/var/tmp";

/// Collects all errors, so that they can be reported together.
#[derive(Default)]
struct Problems(Vec<String>);

impl Problems {
    /// Returns the value. If there is an error, records it and returns a placeholder that is never used, because
    /// [`Config::new`] fails in the end.
    fn take<T: Default>(&mut self, setting: &str, value: Result<T, impl Display>) -> T {
        value.unwrap_or_else(|problem| {
            self.0.push(format!("{setting}: {problem}"));
            T::default()
        })
    }

    /// Parses an optional absolute URL.
    fn url(&mut self, setting: &str, text: Option<&str>) -> Option<String> {
        self.take(setting, text.map(absolute_url).transpose())
    }

    /// Records `problem` unless the rule about these settings `holds`. A setting whose own value is wrong breaks no
    /// further rules, because only its placeholder is known.
    fn check(&mut self, settings: &[&str], holds: bool, problem: impl FnOnce() -> String) {
        let is_wrong = |setting: &&str| self.0.iter().any(|problem| problem.split(':').next() == Some(*setting));
        if !holds && !settings.iter().any(is_wrong) {
            self.0.push(problem());
        }
    }
}

impl Config {
    /// Parses and validates all settings.
    ///
    /// # Errors
    /// Returns one line for each error.
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
            // Deployment templates set these two to an empty string when they are not used, which is harmless.
            public_url: problems.url("PUBLIC_URL", settings.public_url.as_deref().filter(|url| !url.is_empty())),
            cors_origins: problems
                .take("CORS_ALLOW_ORIGIN", origins(settings.cors_allow_origin.as_deref().unwrap_or_default())),
            log_json: problems.take("LOG_FORMAT", settings.log_json()),
        };
        problems.take("RUST_LOG", telemetry::log::filter().map(drop));
        config.validate(&mut problems);
        if problems.0.is_empty() { Ok(config) } else { Err(problems.0) }
    }

    /// Checks the rules that involve several settings.
    fn validate(&self, problems: &mut Problems) {
        let (part_size, max) = (self.upload.part_size as u64, self.policy.max_upload_size);
        let part = size_text(part_size);
        problems.check(
            &["MAX_UPLOAD_SIZE", "PART_SIZE"],
            max <= u64::from(MAX_PARTS).saturating_mul(part_size),
            || format!("MAX_UPLOAD_SIZE: {} does not fit into {MAX_PARTS} parts of PART_SIZE ({part})", size_text(max)),
        );
        let (budget, least) = (self.upload.memory_budget, self.upload.min_memory_budget());
        problems.check(&["MEMORY_BUDGET", "PART_SIZE"], least <= budget, || {
            let (budget, least) = (size_text(budget), size_text(least));
            format!(
                "MEMORY_BUDGET: {budget} is too little for one part of PART_SIZE ({part}); at least {least} is required"
            )
        });
        let scan = self.policy.header_scan_limit as u64;
        problems.check(&["HEADER_SCAN_LIMIT", "PART_SIZE"], scan <= part_size, || {
            format!("HEADER_SCAN_LIMIT: {} does not fit into one part of PART_SIZE ({part})", size_text(scan))
        });
    }
}

impl Settings {
    fn log_json(&self) -> Result<bool, String> {
        parse::one_of(&self.log_format, &[("text", false), ("json", true)])
    }

    /// Returns whether the log is in JSON, also if other settings are invalid.
    pub fn logs_json(&self) -> bool {
        self.log_json().unwrap_or(false)
    }
}

impl Server {
    fn read(settings: &Settings, problems: &mut Problems) -> Server {
        let host = problems.take("HOST", parse::address(&settings.host).map(Some));
        let proxies = parse::networks(settings.trusted_proxies.as_deref());
        Server {
            host: host.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            port: problems.take("PORT", parse::count(&settings.port, 0..=u64::from(u16::MAX))),
            trusted_proxies: TrustedProxies::new(&problems.take("TRUSTED_PROXIES", proxies)),
            max_connections: problems.take("MAX_CONNECTIONS", parse::count(&settings.max_connections, 1..=u64::MAX)),
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
        // The SDK reads this variable itself and does not validate it.
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
        problems.check(&[], !key.is_empty(), || {
            "S3_SSE_KMS_KEY_ID: is empty; set a key, or unset it to use the account's own key".to_owned()
        });
        problems.check(&["S3_SSE", "S3_SSE_KMS_KEY_ID"], matches!(self.sse, Some(Sse::Kms { .. })), || {
            "S3_SSE_KMS_KEY_ID: requires S3_SSE=aws:kms".to_owned()
        });
    }

    /// Rejects settings that have no meaning for the embedded S3, which is used if no bucket is set. An operator who
    /// sets one of them means a bucket and would not find the images there.
    fn check_embedded(&self, settings: &Settings, problems: &mut Problems) {
        if cfg!(not(feature = "embedded")) {
            return problems.0.push("S3_BUCKET: is required; this binary was built without the embedded S3".to_owned());
        }
        for (setting, is_set) in [
            ("AWS_ENDPOINT_URL_S3", self.endpoint.is_some()),
            ("AWS_ENDPOINT_URL", std::env::var_os("AWS_ENDPOINT_URL").is_some() && !ignores_endpoints()),
            ("S3_PUBLIC_ENDPOINT_URL", settings.s3_public_endpoint_url.is_some()),
            ("S3_FORCE_PATH_STYLE", self.force_path_style),
            ("S3_CHECKSUM", self.checksum != Checksum::Auto),
            ("S3_SSE", self.sse.is_some()),
        ] {
            problems.check(&[setting], !is_set, || {
                format!("{setting}: requires S3_BUCKET; without it, images are stored in the embedded S3 in DATA_DIR")
            });
        }
    }
}

fn ignores_endpoints() -> bool {
    std::env::var("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS").is_ok_and(|value| value.eq_ignore_ascii_case("true"))
}

/// Returns whether `endpoint` comes from the environment and the environment also says that such endpoints are ignored.
///
/// <https://docs.aws.amazon.com/sdkref/latest/guide/feature-ss-endpoints.html>
fn is_ignored(endpoint: &str) -> bool {
    ignores_endpoints() && std::env::var("AWS_ENDPOINT_URL_S3").is_ok_and(|found| found == endpoint)
}

impl Upload {
    fn read(settings: &Settings, problems: &mut Problems) -> Upload {
        let spill_budget = settings.spill_budget.as_deref().unwrap_or(SPILL_BUDGET);
        Upload {
            part_size: problems.take("PART_SIZE", size(&settings.part_size, MIN_PART_SIZE..=MAX_PART_SIZE)),
            part_concurrency: problems
                .take("PART_CONCURRENCY", parse::count(&settings.part_concurrency, 1..=u64::from(MAX_PARTS))),
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
        let keys = keys.unwrap_or_else(|errors| {
            problems.0.extend(errors);
            Keys::default()
        });
        let public_read = problems.take("PUBLIC_READ", parse::boolean(&settings.public_read));
        let secret = token_secret(settings.token_secret.as_ref(), &keys, public_read);
        Auth {
            token_secret: problems.take("TOKEN_SECRET", secret),
            keys_file: settings.api_keys_file.clone(),
            public_read,
            keys,
        }
    }
}

/// HS256 requires a key of at least the size of the hash (RFC 7518, section 3.2).
///
/// Without a secret it is derived from all keys. The holder of the only key can derive it too, and sign upload tokens, whose
/// holders upload and read. So the key must allow both.
fn token_secret(secret: Option<&Secret>, keys: &Keys, public_read: bool) -> Result<Option<Secret>, String> {
    let create = "create one with: openssl rand -hex 32";
    let allows_less = |key: &Key| !key.may(Scope::Upload) || !(key.may(Scope::Read) || public_read);
    match secret {
        Some(secret) if secret.as_bytes().len() < MIN_TOKEN_SECRET => {
            Err(format!("must have at least {MIN_TOKEN_SECRET} bytes; {create}"))
        }
        None if keys.only().is_some_and(allows_less) => {
            Err(format!("is required, because the only API key does not have the scopes upload and read; {create}"))
        }
        secret => Ok(secret.cloned()),
    }
}

/// The marker that closes a PUT URL is swept after the lifetime of a plan, so no URL may live longer than that.
fn upload_url_ttl(text: &str) -> Result<Duration, String> {
    let ttl = parse::url_ttl(text)?;
    if ttl > PLAN_LIFETIME {
        return Err(format!("'{text}' exceeds the limit of 24h, the lifetime of an upload plan"));
    }
    Ok(ttl)
}

/// The dimensions must be found within one part, so `part_size` is the default of HEADER_SCAN_LIMIT.
fn read_policy(settings: &Settings, part_size: usize, problems: &mut Problems) -> Policy {
    let scan = match &settings.header_scan_limit {
        Some(limit) => problems.take("HEADER_SCAN_LIMIT", size(limit, 4 << 10..=MAX_SCAN_LIMIT as u64)),
        None => part_size.min(MAX_SCAN_LIMIT),
    };
    Policy {
        formats: problems.take("ALLOWED_FORMATS", formats(&settings.allowed_formats)),
        key_format: None,
        max_upload_size: problems.take("MAX_UPLOAD_SIZE", size(&settings.max_upload_size, 1..=MAX_OBJECT_SIZE)),
        max_pixels: problems.take("MAX_PIXELS", parse::count(&settings.max_pixels, 0..=u64::MAX)),
        header_scan_limit: scan,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use crate::format::Format;
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
    fn header_scan_limit_defaults_to_part_size() {
        let limit = |flags: &[&str]| read(&[&["--s3-bucket=b"], flags].concat()).unwrap().policy.header_scan_limit;
        assert_eq!(limit(&[]), 5 << 20);
        assert_eq!(limit(&["--part-size=8MiB"]), 8 << 20);
        assert_eq!(limit(&["--part-size=1GiB", "--memory-budget=2GiB"]), 64 << 20);
        assert_eq!(limit(&["--part-size=8MiB", "--header-scan-limit=1MiB"]), 1 << 20);
    }

    #[test]
    fn upload_url_ttl_is_limited_to_24_hours() {
        assert!(read(&["--s3-bucket=b", "--upload-url-ttl=24h"]).is_ok());
        let problems = read(&["--s3-bucket=b", "--upload-url-ttl=25h"]).unwrap_err();
        assert!(problems.len() == 1 && problems[0].starts_with("UPLOAD_URL_TTL: '25h'"), "{problems:?}");
    }

    #[test]
    fn all_errors_are_reported_together() {
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
    fn max_upload_size_and_header_scan_limit_must_fit_the_parts() {
        assert!(read(&["--s3-bucket=b", "--part-size=5MiB", "--max-upload-size=5GB"]).is_ok());
        assert_eq!(read(&["--s3-bucket=b", "--header-scan-limit=6MiB"]).unwrap_err().len(), 1);
        assert!(read(&["--s3-bucket=b", "--header-scan-limit=6MiB", "--part-size=6MiB"]).is_ok());
        assert_eq!(read(&["--s3-bucket=b", "--max-upload-size=5000000001"]).unwrap_err().len(), 1);
    }

    /// The names of the settings in `problems`.
    fn named(problems: &[String]) -> Vec<&str> {
        problems.iter().map(|problem| problem.split(':').next().unwrap()).collect()
    }

    #[test]
    fn bucket_settings_require_s3_bucket() {
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
    fn empty_values_are_errors_unless_harmless() {
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
    fn consequences_of_an_error_are_not_reported() {
        for (flags, settings) in [
            (["--memory-budget=lots", "--part-size=8MiB"].as_slice(), ["MEMORY_BUDGET"].as_slice()),
            (&["--part-size=1MiB", "--memory-budget=1MiB", "--header-scan-limit=6MiB"], &["PART_SIZE"]),
            (&["--s3-sse=kms", "--s3-sse-kms-key-id=key"], &["S3_SSE"]),
            (&["--s3-sse=none", "--s3-sse-kms-key-id="], &["S3_SSE_KMS_KEY_ID"]),
            (&["--max-upload-size=6GB", "--host=nowhere"], &["HOST", "MAX_UPLOAD_SIZE"]),
        ] {
            let problems = read(&[&["--s3-bucket=b"], flags].concat()).unwrap_err();
            assert_eq!(named(&problems), settings, "{problems:?}");
        }
    }

    #[test]
    fn errors_quote_the_value_and_show_what_is_allowed() {
        for (flag, problem) in [
            ("--part-size=1MiB", "PART_SIZE: '1MiB' is not a size between 5MiB and 5GiB"),
            ("--max-upload-size=6GB", "MAX_UPLOAD_SIZE: '6GB' is not a size between 1 and 5GB"),
            (
                "--memory-budget=8MiB",
                "MEMORY_BUDGET: 8MiB is too little for one part of PART_SIZE (5MiB); at least 10MiB is required",
            ),
            ("--header-scan-limit=6MiB", "HEADER_SCAN_LIMIT: 6MiB does not fit into one part of PART_SIZE (5MiB)"),
            ("--port=70000", "PORT: '70000' is not a whole number between 0 and 65535"),
            ("--max-connections=0", "MAX_CONNECTIONS: '0' is not a whole number of at least 1"),
            ("--complete-wait=0", "COMPLETE_WAIT: '0' must be longer than 0s"),
            ("--log-format=xml", "LOG_FORMAT: 'xml' is invalid; use one of text, json"),
            (
                "--allowed-formats=svg",
                "ALLOWED_FORMATS: 'svg' is not a known image format; use jpg, jpeg, png, gif, bmp, webp, avif, heic, \
                 heif, tiff, tif",
            ),
        ] {
            assert_eq!(read(&["--s3-bucket=b", flag]).unwrap_err(), [problem]);
        }
    }

    #[test]
    fn values_that_cannot_work_are_errors() {
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

    #[test]
    fn holder_of_the_only_key_cannot_sign_more_than_it_allows() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let flag = format!("--api-keys-file={}", file.path().display());
        let line = |name: &str, digit: &str, scopes: &str| format!("{name} {} {scopes}\n", digit.repeat(64));
        let secret = "--token-secret=0123456789abcdef0123456789abcdef";
        for (keys, is_enough) in [
            (line("a", "1", "upload"), false),
            (line("a", "1", "read,delete"), false),
            (line("a", "1", "upload,read"), true),
            (line("a", "1", "upload") + &line("b", "2", "upload"), true),
        ] {
            std::fs::write(file.path(), &keys).unwrap();
            match read(&["--s3-bucket=b", &flag]) {
                Ok(_) => assert!(is_enough, "{keys}"),
                Err(problems) => {
                    assert!(!is_enough && problems[0].starts_with("TOKEN_SECRET: is required"), "{problems:?}");
                }
            }
            assert!(read(&["--s3-bucket=b", &flag, secret]).is_ok());
            let is_public = read(&["--s3-bucket=b", &flag, "--public-read=true"]);
            assert_eq!(is_public.is_ok(), keys.contains("upload"));
        }
    }
}
