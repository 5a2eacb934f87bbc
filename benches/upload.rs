//! A whole upload in process: from a form that is sent to the router, through the SDK, to a null S3 on the loopback
//! interface. Also the plan of a direct upload, and single calls compared with those of the SDK.

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region, RequestChecksumCalculation};
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use axum::body::Body;
use axum::{Router, http};
use bytes::Bytes;
use clap::Parser;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures::stream;
use http::Request;
use http_body_util::{BodyExt, Full};
use image_store::cli::Cli;
use image_store::config::Config;
use image_store::server::App;
use image_store::store::s3::{Checksum, S3Options, S3Store};
use image_store::store::{Content, CustomMetadata, ImageKey, Metadata, ObjectName, Payload, PresignOptions, Store};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tower::ServiceExt;

mod form;

/// Bytes in one read, and length of the block that a long image repeats.
const CHUNK: usize = 64 << 10;

/// Connects to a null S3 that is started for it, also by the SDK alone.
async fn connect() -> (Arc<S3Store>, Client) {
    let listener = null_s3::listen(([127, 0, 0, 1], 0).into()).expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    std::thread::spawn(move || null_s3::serve(&listener, null_s3::Faults::default()));
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(&endpoint)
        .force_path_style(true)
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "bench"))
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired);
    let options = S3Options {
        bucket: "null".to_owned(),
        prefix: String::new(),
        endpoint: Some(endpoint),
        public_endpoint: None,
        credentials: Some(("test".to_owned(), "test".to_owned())),
        region: Some("us-east-1".to_owned()),
        force_path_style: true,
        checksum: Checksum::Crc64Nvme,
        sse: None,
        attempt_timeout: Duration::from_secs(60),
        http_client: None,
        mount: None,
    };
    (Arc::new(S3Store::connect(options).await), Client::from_conf(config.build()))
}

fn router(store: &Arc<S3Store>) -> Router {
    let cli = Cli::try_parse_from(["image-store", "--s3-bucket=null"]).expect("settings");
    let config = Config::new(&cli.settings).expect("a configuration");
    App::new(config, Arc::clone(store) as Arc<dyn Store>, None).router()
}

/// Uploads an image of `size` bytes, which consists of `first` and of repetitions of `block`.
async fn upload(router: Router, size: usize, first: Bytes, block: Bytes) {
    let rest = size - first.len();
    let image = (0..rest).step_by(block.len()).map(move |at| block.slice(..block.len().min(rest - at)));
    let whole = [Bytes::from(form::head()), first].into_iter().chain(image).chain([Bytes::from(form::tail())]);
    let body = Body::from_stream(stream::iter(whole.map(Ok::<_, Infallible>)));
    let request = Request::post("/upload-image").header("content-type", form::content_type()).body(body);
    send(router, request.expect("a request")).await;
}

/// Requests the plan of a direct upload in 100 parts, each with a URL.
async fn plan(router: Router) {
    let upload = r#"{"filename":"a.png","content_type":"image/png","size":5000000000}"#;
    let request = Request::post("/uploads").header("content-type", "application/json").body(Body::from(upload));
    send(router, request.expect("a request")).await;
}

async fn send(router: Router, request: Request<Body>) {
    let response = router.oneshot(request).await.expect("a response");
    let status = response.status();
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    assert!(status.is_success(), "{status}: {body:?}");
}

/// Signs URLs, and sends an image as one object, both also by the SDK.
fn calls(criterion: &mut Criterion, runtime: &Runtime, store: &S3Store, sdk: &Client) {
    let (key, ttl) = (ImageKey::random("png"), Duration::from_secs(900));
    let (name, options) = (ObjectName::Image(key.clone()), PresignOptions { ttl, base: None });
    // An object is written only if it does not exist.
    let new_key = || ImageKey::random("png");
    let mut group = criterion.benchmark_group("presign");
    group.bench_function("GET", |bencher| {
        bencher.iter(|| runtime.block_on(store.presign_get(&name, &options)).expect("a URL"));
    });
    group.bench_function("GET by the SDK", |bencher| {
        let window = || PresigningConfig::expires_in(ttl).expect("a window");
        let get = || sdk.get_object().bucket("null").key(key.to_string()).presigned(window());
        bencher.iter(|| runtime.block_on(get()).expect("a URL"));
    });
    group.finish();
    let bytes = Bytes::from(form::image(64 << 10));
    let (metadata, len) = (Metadata::unverified("image/png", CustomMetadata::new()), bytes.len() as u64);
    criterion.bench_function("PutObject of 64 KiB", |bencher| {
        let body = || Payload { content: Content::Memory(bytes.clone()), len, crc64: 0 };
        let put = || async { store.put(&ObjectName::Image(new_key()), &metadata, body()).await };
        bencher.iter(|| runtime.block_on(put()).expect("an object"));
    });
    criterion.bench_function("PutObject of 64 KiB by the SDK", |bencher| {
        let body = || ByteStream::new(SdkBody::from_body_1_x(Full::new(bytes.clone())));
        let put = || sdk.put_object().bucket("null").key(new_key().to_string()).content_type("image/png").body(body());
        let put = || put().if_none_match("*").checksum_crc64_nvme("AAAAAAAAAAA=").customize().disable_payload_signing();
        bencher.iter(|| runtime.block_on(put().send()).expect("an object"));
    });
}

fn bench(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let (store, sdk) = runtime.block_on(connect());
    calls(criterion, &runtime, &store, &sdk);
    let router = router(&store);
    let image = Bytes::from(form::image(2 * CHUNK));
    let (first, block) = (image.slice(..CHUNK), image.slice(CHUNK..));
    let mut group = criterion.benchmark_group("upload");
    group.sample_size(10);
    for (name, size) in [("64 KiB", 64 << 10), ("1 MiB", 1 << 20), ("64 MiB", 64 << 20), ("1 GiB", 1 << 30)] {
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let upload = upload(router.clone(), size, first.clone(), block.clone());
                runtime.block_on(runtime.spawn(upload)).expect("an upload");
            });
        });
    }
    group.finish();
    criterion.bench_function("plan of 100 parts", |bencher| {
        bencher.iter(|| runtime.block_on(runtime.spawn(plan(router.clone()))).expect("a plan"));
    });
}

criterion_group!(benches, bench);
criterion_main!(benches);
