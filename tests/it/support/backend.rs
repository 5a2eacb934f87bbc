//! The S3s that the tests run against. Each test has its own prefix in the bucket.

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use http::{HeaderValue, Method};
use hyper_util::service::TowerToHyperService;
use image_store::store::Store;
use image_store::store::embedded::Embedded;
use image_store::store::s3::{Checksum, S3Options, S3Store};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tower::ServiceBuilder;
use tower_http::cors::{AllowHeaders, CorsLayer};
use uuid::Uuid;

use super::strict::Strict;
use super::{Drained, Server, serve};

const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(20);

/// An S3 and a store on it.
///
/// End a test with [`Backend::check_clean`].
pub struct Backend {
    pub store: Arc<dyn Store>,
    /// The options with which [`Backend::store`] is connected.
    pub options: S3Options,
    pub endpoint: String,
    pub kind: Kind,
}

pub enum Kind {
    /// The embedded S3, served on its own port.
    Embedded {
        _server: Server,
        data_dir: TempDir,
    },
    Strict(Strict),
    /// An S3 named by the environment.
    External {
        /// Whether the store enforces every condition and checksum.
        exact: bool,
    },
}

impl Backend {
    /// Starts the embedded S3, called over a connection.
    pub async fn embedded() -> Backend {
        Backend::serve_embedded(|options| options.http_client = None).await
    }

    /// Starts the embedded S3, called in the process as the service does. Its URLs are used over a connection.
    pub async fn in_process() -> Backend {
        Backend::serve_embedded(|options| options.public_endpoint.clone_from(&options.endpoint)).await
    }

    async fn serve_embedded(change: impl FnOnce(&mut S3Options)) -> Backend {
        let data_dir = tempfile::tempdir().unwrap();
        let embedded = Embedded::open(data_dir.path()).unwrap();
        let served = ServiceBuilder::new().map_request(Drained::of).layer(cors()).service(embedded.service());
        let server = serve(TowerToHyperService::new(served)).await;
        let mut options = embedded.s3_options(&prefix(), ATTEMPT_TIMEOUT);
        (options.endpoint, options.mount) = (Some(server.endpoint.clone()), None);
        change(&mut options);
        Backend::connect(options, Kind::Embedded { _server: server, data_dir }).await
    }

    pub async fn strict() -> Backend {
        let strict = Strict::start().await;
        Backend::connect(strict.options(&prefix()), Kind::Strict(strict)).await
    }

    /// Connects to the S3 at `TEST_S3_ENDPOINT` with its bucket `TEST_S3_BUCKET`. Credentials and region are those of
    /// the SDK.
    ///
    /// Set `TEST_S3_CHECKSUM=crc64nvme` if it supports that checksum, and `TEST_S3_EXACT=1` if it also enforces every
    /// condition. Returns `None` if `TEST_S3_ENDPOINT` is not set.
    pub async fn external() -> Option<Backend> {
        let set = |name| std::env::var(name).ok();
        let needed = |name| set(name).unwrap_or_else(|| panic!("TEST_S3_ENDPOINT is set, but {name} is not"));
        let Some(endpoint) = set("TEST_S3_ENDPOINT") else {
            eprintln!("skipped: TEST_S3_ENDPOINT is not set");
            return None;
        };
        let crc64 = set("TEST_S3_CHECKSUM").is_some_and(|name| name == "crc64nvme");
        let exact = set("TEST_S3_EXACT").is_some_and(|exact| exact == "1");
        let options = S3Options {
            bucket: needed("TEST_S3_BUCKET"),
            prefix: prefix(),
            endpoint: Some(endpoint),
            public_endpoint: None,
            credentials: Some((needed("AWS_ACCESS_KEY_ID"), needed("AWS_SECRET_ACCESS_KEY"))),
            region: set("AWS_REGION"),
            force_path_style: true,
            checksum: if crc64 { Checksum::Crc64Nvme } else { Checksum::None },
            sse: None,
            attempt_timeout: ATTEMPT_TIMEOUT,
            http_client: None,
            mount: None,
        };
        Some(Backend::connect(options, Kind::External { exact }).await)
    }

    async fn connect(options: S3Options, kind: Kind) -> Backend {
        let endpoint = options.endpoint.clone().unwrap();
        Backend { store: Arc::new(S3Store::connect(options.clone()).await), options, endpoint, kind }
    }

    /// Connects a second store to the same bucket by another endpoint, for example that of [`super::faults::Faults`].
    pub async fn store_at(&self, endpoint: &str) -> Arc<dyn Store> {
        let endpoint = Some(endpoint.to_owned());
        self.store_with(|options| (options.endpoint, options.http_client) = (endpoint, None)).await
    }

    /// Connects a second store to the same bucket with other options.
    pub async fn store_with(&self, change: impl FnOnce(&mut S3Options)) -> Arc<dyn Store> {
        let mut options = self.options.clone();
        change(&mut options);
        Arc::new(S3Store::connect(options).await)
    }

    /// Returns whether the store enforces every condition and checksum. A store named by the environment may not.
    pub fn is_exact(&self) -> bool {
        !matches!(self.kind, Kind::External { exact: false })
    }

    /// Returns whether the store compares `x-amz-mp-object-size` with the object that Complete creates. SeaweedFS
    /// ignores it.
    pub fn compares_object_size(&self) -> bool {
        !matches!(self.kind, Kind::External { .. })
    }

    pub fn strict_s3(&self) -> &Strict {
        let Kind::Strict(strict) = &self.kind else { panic!("not the strict S3") };
        strict
    }

    /// Returns the keys under the prefix, without the prefix.
    pub async fn objects(&self) -> Vec<String> {
        let call = self.client().list_objects_v2().bucket(&self.options.bucket).prefix(&self.options.prefix);
        let mut pages = call.into_paginator().send();
        let mut keys = Vec::new();
        while let Some(page) = pages.next().await {
            keys.extend(page.unwrap().contents().iter().map(|object| object.key().unwrap().to_owned()));
        }
        keys.iter().map(|key| key.strip_prefix(&self.options.prefix).unwrap().to_owned()).collect()
    }

    /// Returns the number of unfinished uploads under the prefix.
    pub async fn open_uploads(&self) -> usize {
        let call = self.client().list_multipart_uploads().bucket(&self.options.bucket).prefix(&self.options.prefix);
        call.send().await.unwrap().uploads().len()
    }

    /// Asserts that nothing is left under the prefix: no object, no unfinished upload, and no file of the embedded
    /// store.
    pub async fn check_clean(&self) {
        assert_eq!(self.objects().await, Vec::<String>::new(), "objects are left");
        assert_eq!(self.open_uploads().await, 0, "uploads are left");
        match &self.kind {
            Kind::Embedded { data_dir, .. } => {
                assert_eq!(stray_files(data_dir.path()), Vec::<String>::new(), "files are left");
            }
            Kind::Strict(strict) => {
                assert_eq!(
                    (strict.objects(), strict.open_uploads()),
                    (vec![], vec![]),
                    "something is left outside the prefix"
                );
            }
            Kind::External { .. } => {}
        }
    }

    /// Returns an SDK client, for calls that the store does not have.
    pub fn client(&self) -> Client {
        let (access_key, secret_key) = self.options.credentials.clone().unwrap();
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(self.options.region.clone().unwrap_or_else(|| "us-east-1".to_owned())))
            .endpoint_url(&self.endpoint)
            .force_path_style(true)
            .credentials_provider(Credentials::new(access_key, secret_key, None, None, "tests"));
        Client::from_conf(config.build())
    }
}

/// Returns the CORS rules of a bucket that one page may use.
fn cors() -> CorsLayer {
    CorsLayer::new()
        .allow_origin(HeaderValue::from_static("https://pages.example"))
        .allow_methods([Method::GET, Method::HEAD, Method::PUT])
        .allow_headers(AllowHeaders::mirror_request())
}

/// Returns every file in a data folder except the store's lock and credentials.
pub fn stray_files(data_dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![data_dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => found.push(path.strip_prefix(data_dir).unwrap().display().to_string()),
            }
        }
    }
    found.retain(|path| path != "lock" && path != "credentials.json");
    found.sort();
    found
}

fn prefix() -> String {
    format!("t-{}/", &Uuid::new_v4().simple().to_string()[..8])
}
