//! An S3 in this process, on a local folder: what `make run` and the tests use.
//!
//! s3s speaks the protocol and verifies signatures, s3s-fs keeps the files, and `bucket` makes up for where s3s-fs
//! differs from AWS. CORS is answered as by a bucket that is configured for direct uploads.

use http::{HeaderName, HeaderValue, Method, header};
use hyper::server::conn::http1::Builder;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower::Layer;
use tower_http::cors::{AllowHeaders, AllowOrigin, Cors, CorsLayer};

use self::bucket::Bucket;
use self::disk::{BUCKET, Disk};
use self::keys::Keys;
use super::s3::{Checksum, S3Options};

mod bucket;
mod disk;
mod keys;
mod locks;
mod uploads;

/// How long requests under way may take to end when the store is stopped.
const STOP_WAIT: Duration = Duration::from_secs(10);
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const PREFLIGHT_AGE: Duration = Duration::from_secs(3_600);
/// After a failed accept, which is nearly always a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where the embedded store lies and listens.
#[derive(Clone, Debug)]
pub struct EmbeddedOptions {
    /// Made where it does not exist. One process at a time.
    pub data_dir: PathBuf,
    /// Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Origins of pages that may use presigned URLs; `*` is any.
    pub cors_origins: Vec<String>,
}

/// A running embedded store. Dropping it stops it without waiting; [`Embedded::stop`] waits.
pub struct Embedded {
    /// How this process reaches it: `http://<address>:<port>`.
    pub endpoint: String,
    pub bucket: String,
    pub access_key: String,
    pub secret_key: String,
    stopped: CancellationToken,
    server: JoinHandle<()>,
    /// Let go when the store is gone.
    _lock: File,
}

impl Embedded {
    /// Opens the folder and listens.
    ///
    /// # Errors
    /// `WouldBlock` where another process uses the folder; else what the folder or the address is refused with.
    pub async fn start(options: EmbeddedOptions) -> io::Result<Embedded> {
        fs::create_dir_all(&options.data_dir)?;
        let lock = keys::lock(&options.data_dir)?;
        let keys = Keys::load(&options.data_dir)?;
        let disk = Disk::open(&options.data_dir)?;
        let files = FileSystem::new(&disk.root).map_err(|error| io::Error::other(format!("{error:?}")))?;
        let mut builder = S3ServiceBuilder::new(Bucket::new(files, disk));
        builder.set_auth(SimpleAuth::from_single(keys.access_key.clone(), keys.secret_key.clone()));
        let service = cors(&options.cors_origins)?.layer(builder.build());

        let listener = TcpListener::bind(options.listen).await?;
        let endpoint = format!("http://{}", reachable(listener.local_addr()?));
        let stopped = CancellationToken::new();
        let server = tokio::spawn(serve(listener, service, stopped.clone()));
        let (access_key, secret_key) = (keys.access_key, keys.secret_key);
        Ok(Embedded { endpoint, bucket: BUCKET.to_owned(), access_key, secret_key, stopped, server, _lock: lock })
    }

    /// How to connect to it from this process.
    pub fn s3_options(&self, prefix: &str, attempt_timeout: Duration) -> S3Options {
        S3Options {
            bucket: self.bucket.clone(),
            prefix: prefix.to_owned(),
            endpoint: Some(self.endpoint.clone()),
            public_endpoint: None,
            credentials: Some((self.access_key.clone(), self.secret_key.clone())),
            region: Some("us-east-1".to_owned()),
            force_path_style: true,
            checksum: Checksum::Crc64Nvme,
            sse: None,
            attempt_timeout,
            host_follows_request: true,
        }
    }

    /// Takes no more requests, and waits for those under way, ten seconds at most.
    pub async fn stop(mut self) {
        self.stopped.cancel();
        if let Err(error) = (&mut self.server).await {
            tracing::warn!(%error, "the embedded store did not stop well");
        }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.stopped.cancel();
    }
}

/// An unspecified address is one to listen on, not one to connect to.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

/// What a bucket that browsers upload to answers: any header may be sent, as presigned URLs sign several.
fn cors(origins: &[String]) -> io::Result<CorsLayer> {
    let origins = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        let origins: Result<Vec<_>, _> = origins.iter().map(|origin| HeaderValue::from_str(origin)).collect();
        AllowOrigin::list(origins.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?)
    };
    let checksums = ["x-amz-checksum-crc64nvme", "x-amz-checksum-sha256"].map(HeaderName::from_static);
    Ok(CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::HEAD, Method::PUT])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([header::ETAG].into_iter().chain(checksums).collect::<Vec<_>>())
        .max_age(PREFLIGHT_AGE))
}

async fn serve(listener: TcpListener, service: Cors<S3Service>, stopped: CancellationToken) {
    let connections = GracefulShutdown::new();
    let mut builder = Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => serve_connection(&builder, &connections, stream, service.clone()),
            Err(error) => {
                tracing::warn!(%error, "the embedded store could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    if tokio::time::timeout(STOP_WAIT, connections.shutdown()).await.is_err() {
        tracing::warn!("requests to the embedded store were still under way when it stopped");
    }
}

fn serve_connection(builder: &Builder, connections: &GracefulShutdown, stream: TcpStream, service: Cors<S3Service>) {
    // Small answers would else wait for the peer's delayed acknowledgement.
    let _ = stream.set_nodelay(true);
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let connection = connections.watch(connection);
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to the embedded store broke");
        }
    });
}
