//! The whole service in this process, over real HTTP: server, router, SDK and embedded S3.

use clap::Parser;
use hyper_util::service::TowerToHyperService;
use image_store::cli::Cli;
use image_store::commands::backend;
use image_store::config::Config;
use image_store::server::App;
use image_store::store::embedded::Embedded;
use image_store::store::s3::{S3Options, S3Store};
use image_store::store::{ImageKey, MARKER_TYPE, Store};
use image_store::transport::http;
use image_store::upload::spill::Spill;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tower::ServiceBuilder;

use super::faults::Faults;
use super::{Drained, Server, serve};

/// A running service. [`TestApp::end`] stops it and checks the store for leftovers.
pub struct TestApp {
    /// `http://127.0.0.1:<port>`.
    pub url: String,
    pub client: reqwest::Client,
    pub app: App,
    /// The embedded store without the proxy of the faults. Its URLs are relative to a service's address.
    pub store: Arc<dyn Store>,
    /// The proxy in front of the embedded store, if the service was started behind one.
    pub faults: Option<Faults>,
    pub sdk: aws_sdk_s3::Client,
    pub bucket: String,
    embedded: Embedded,
    /// Serves the embedded store to callers that connect to it.
    _socket: Option<Server>,
    server: JoinHandle<bool>,
    /// `None` after it was used to stop the service.
    stop: Option<oneshot::Sender<()>>,
    data: TempDir,
    unchecked: Unchecked,
}

/// Fails a test that drops its service without [`TestApp::end`]: nothing would have checked what it left.
struct Unchecked(bool);

impl Drop for Unchecked {
    fn drop(&mut self) {
        assert!(!self.0 || std::thread::panicking(), "TestApp::end was not called");
    }
}

impl TestApp {
    pub async fn start() -> Self {
        TestApp::with(&[]).await
    }

    /// Starts the service with flags as on the command line.
    pub async fn with(flags: &[&str]) -> Self {
        TestApp::launch(flags, false).await
    }

    /// Starts the service behind a proxy that can break its calls to the store.
    pub async fn behind_faults(flags: &[&str]) -> Self {
        TestApp::launch(flags, true).await
    }

    async fn launch(flags: &[&str], faulty: bool) -> Self {
        let data = TempDir::new().unwrap();
        let timeout = flags.iter().all(|flag| !flag.starts_with("--s3-timeout")).then_some("--s3-timeout=2s");
        let all = ["image-store", "--cors-allow-origin=http://page.example"].into_iter().chain(timeout);
        let cli = Cli::try_parse_from(all.chain(flags.iter().copied())).unwrap();
        let config = Config::new(&cli.settings).unwrap();
        let embedded = Embedded::open(data.path()).unwrap();
        let in_process = embedded.s3_options(&config.store.prefix, config.store.timeout);
        let (mut options, mut socket, mut faults) = (in_process.clone(), None, None);
        if faulty {
            let service = ServiceBuilder::new().map_request(Drained::of).service(embedded.service());
            let served = socket.insert(serve(TowerToHyperService::new(service)).await);
            let between = faults.insert(Faults::before(&served.endpoint).await);
            options = S3Options {
                endpoint: Some(between.endpoint.clone()),
                public_endpoint: config.store.public_endpoint.clone(),
                http_client: None,
                mount: None,
                ..options
            };
        }
        let spill = (config.upload.spill_budget > 0).then(|| Spill::open(data.path()).unwrap());
        let app = App::new(config.clone(), Arc::new(S3Store::connect(options).await), spill)
            .with_store_routes(backend::client_routes(&embedded));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        let ended = async move { drop(stopped.await) };
        TestApp {
            url,
            client: reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap(),
            server: tokio::spawn(http::serve(listener, app.clone(), config.server, ended)),
            app,
            sdk: sdk(&embedded),
            bucket: embedded.bucket.clone(),
            store: Arc::new(S3Store::connect(in_process).await),
            faults,
            embedded,
            _socket: socket,
            stop: Some(stop),
            data,
            unchecked: Unchecked(true),
        }
    }

    /// Starts a second service on the same store, without the faults. Returns its address. It runs until the test ends.
    pub async fn another(&self) -> String {
        let config = self.app.config.clone();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let app = App::new(config.clone(), Arc::clone(&self.store), None)
            .with_store_routes(backend::client_routes(&self.embedded));
        tokio::spawn(http::serve(listener, app, config.server, std::future::pending()));
        url
    }

    /// Starts a service on any store and returns its URL. It runs until the test ends.
    pub async fn serve(store: Arc<dyn Store>) -> String {
        TestApp::serve_with(store, &[]).await
    }

    /// Like [`TestApp::serve`], with flags as on the command line.
    pub async fn serve_with(store: Arc<dyn Store>, flags: &[&str]) -> String {
        let all = ["image-store"].into_iter().chain(flags.iter().copied());
        let config = Config::new(&Cli::parse_from(all).settings).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let app = App::new(config.clone(), store, None);
        tokio::spawn(http::serve(listener, app, config.server, std::future::pending()));
        url
    }

    /// Returns the proxy of [`TestApp::behind_faults`].
    pub fn faults(&self) -> &Faults {
        self.faults.as_ref().expect("started behind faults")
    }

    pub fn address(&self) -> &str {
        self.url.strip_prefix("http://").unwrap()
    }

    pub fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    /// Uploads a file as curl's `-F file=@name` does.
    pub async fn upload(&self, name: &str, bytes: Vec<u8>) -> reqwest::Response {
        let part = reqwest::multipart::Part::bytes(bytes).file_name(name.to_owned());
        let form = reqwest::multipart::Form::new().part("file", part);
        self.client.post(self.at("/upload-image")).multipart(form).send().await.unwrap()
    }

    /// Waits until no upload is open, including clean-up.
    pub async fn settled(&self) {
        until("uploads are over", || self.app.uploads.open() == 0).await;
    }

    /// Waits until all uploads are over and hold nothing. Files of spilled parts are closed on other threads.
    pub async fn released(&self) {
        self.settled().await;
        until("everything reserved is released", || self.app.uploads.used() == (0, 0)).await;
    }

    /// Returns the folder of the embedded store.
    pub fn data_dir(&self) -> &Path {
        self.data.path()
    }

    /// Returns the embedded store's access key and secret key.
    pub fn credentials(&self) -> (String, String) {
        (self.embedded.access_key.clone(), self.embedded.secret_key.clone())
    }

    /// Returns the keys of all objects under any prefix, except the markers of uploads that are over.
    pub async fn objects(&self) -> BTreeSet<String> {
        let listed = self.sdk.list_objects_v2().bucket(&self.bucket).send().await.unwrap();
        let mut keys = BTreeSet::new();
        for key in listed.contents().iter().map(|object| object.key().unwrap()) {
            let head = self.sdk.head_object().bucket(&self.bucket).key(key).send().await.unwrap();
            if head.content_type() != Some(MARKER_TYPE) && !key.ends_with(".same") {
                keys.insert(key.to_owned());
            } else {
                assert!(key.contains("incoming/") && head.content_length() == Some(0), "{key} must be a marker");
            }
        }
        keys
    }

    /// Returns the value of a gauge without labels.
    pub fn scrape(&self, gauge: &str) -> f64 {
        let text = self.app.scrape();
        let line = text.lines().find_map(|line| line.strip_prefix(gauge)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {gauge} in {text}")).parse().unwrap()
    }

    /// Sends several requests that call the store, so that everything that is not blocked can proceed.
    pub async fn go_round(&self) {
        for _ in 0..20 {
            let missing = self.at(&format!("/images/{}", ImageKey::random("png")));
            assert_eq!(self.client.head(missing).send().await.unwrap().status(), 404);
        }
    }

    /// Stops the service without waiting for it. [`TestApp::end`] stops it as well and waits.
    pub fn stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            stop.send(()).unwrap();
        }
    }

    /// Stops the service. Panics if the store contains an unfinished upload, or objects other than `expected`.
    pub async fn end(mut self, expected: &[&str]) {
        self.unchecked.0 = false;
        self.settled().await;
        self.app.uploads.reconciler().conclude().await;
        let leftovers = self.store.leftovers().await.unwrap();
        let open: Vec<_> = leftovers.iter().filter(|leftover| leftover.upload_id.is_some()).collect();
        assert!(open.is_empty(), "unfinished uploads are left: {open:?}");
        let expected: BTreeSet<String> = expected.iter().map(|key| (*key).to_owned()).collect();
        assert_eq!(self.objects().await, expected, "objects in the store");
        self.stop();
        drop(self.client);
        let clean =
            tokio::time::timeout(Duration::from_secs(30), self.server).await.expect("the server stops").unwrap();
        assert!(clean, "clean-up must be complete when the server stops");
    }
}

fn sdk(embedded: &Embedded) -> aws_sdk_s3::Client {
    use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
    let credentials = Credentials::new(&embedded.access_key, &embedded.secret_key, None, None, "tests");
    let options = embedded.s3_options("", Duration::from_secs(20));
    let mut config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(credentials)
        .endpoint_url(options.endpoint.unwrap())
        .force_path_style(true);
    config.set_http_client(options.http_client);
    aws_sdk_s3::Client::from_conf(config.build())
}

/// Waits for a condition. Panics if it is not true within 5 s.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !holds() {
        assert!(Instant::now() < deadline, "not within 5 s: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Reads a file of `tests/fixtures`.
pub fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Builds a PNG of exactly `size` bytes: a small image followed by pseudo-random bytes.
pub fn png(size: usize) -> Vec<u8> {
    let mut bytes = fixture("plain.png");
    assert!(size >= bytes.len(), "a PNG has at least {} bytes", bytes.len());
    let mut state = 1_u32;
    bytes.resize_with(size, || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    });
    bytes
}
