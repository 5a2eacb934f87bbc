//! The embedded store: an S3 implementation inside this process, on a local folder. `make run` and the tests use it.
//!
//! s3s implements the protocol and verifies signatures. `bucket` implements S3's operations on files (`disk`). The
//! service's own calls reach the store without a connection (`in_process`). Clients use presigned URLs under [`MOUNT`]
//! on the service's port (`clients`).

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Request, Response};
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tower::util::BoxCloneSyncService;

use self::bucket::{BUCKET, Bucket};
use self::disk::Disk;
use self::in_process::InProcess;
use self::keys::Keys;
use super::s3::{Checksum, S3Options};
use crate::error::BoxError;

mod body;
mod bucket;
mod clients;
mod conditions;
mod disk;
mod file;
mod in_process;
mod keys;

/// The path on the service's own port under which clients reach the store.
pub const MOUNT: &str = "/_store";
/// The host for which every request is signed, independent of the host names under which clients reach the service.
const HOST: &str = "store.internal";

/// An open embedded store. The folder is locked for other processes until the last user of the store is dropped.
pub struct Embedded {
    pub bucket: String,
    pub access_key: String,
    pub secret_key: String,
    disk: Arc<Disk>,
    service: S3Service,
}

impl Embedded {
    /// Opens the folder, and creates it if it does not exist.
    ///
    /// # Errors
    /// Returns `WouldBlock` if another process uses the folder, and another error if the folder cannot be used.
    pub fn open(data_dir: &Path) -> io::Result<Embedded> {
        let disk = Arc::new(Disk::open(data_dir)?);
        let Keys { access_key, secret_key } = Keys::load(data_dir)?;
        let mut builder = S3ServiceBuilder::new(Bucket(Arc::clone(&disk)));
        builder.set_auth(SimpleAuth::from_single(access_key.clone(), secret_key.clone()));
        Ok(Embedded { bucket: BUCKET.to_owned(), access_key, secret_key, disk, service: builder.build() })
    }

    /// What removes from the folder what failed work has left there, if it is older than the given age.
    pub fn sweeper(&self) -> impl Fn(Duration) -> BoxFuture<'static, io::Result<()>> + Send + Sync + use<> {
        let disk = Arc::clone(&self.disk);
        move |age| {
            let disk = Arc::clone(&disk);
            let swept = tokio::task::spawn_blocking(move || disk.sweep(age));
            async move { swept.await.map_err(io::Error::other)? }.boxed()
        }
    }

    /// Returns the options with which the service itself uses the store: calls stay inside the process, and presigned
    /// URLs point to [`MOUNT`].
    pub fn s3_options(&self, prefix: &str, attempt_timeout: Duration) -> S3Options {
        S3Options {
            bucket: self.bucket.clone(),
            prefix: prefix.to_owned(),
            endpoint: Some(format!("http://{HOST}")),
            public_endpoint: None,
            credentials: Some((self.access_key.clone(), self.secret_key.clone())),
            region: Some("us-east-1".to_owned()),
            force_path_style: true,
            checksum: Checksum::Crc64Nvme,
            sse: None,
            attempt_timeout,
            http_client: Some(InProcess::client(self.service())),
            mount: Some(MOUNT),
        }
    }

    /// Returns the S3 service, which checks the signature of every request.
    pub fn service(&self) -> S3Service {
        self.service.clone()
    }

    /// Returns the service for paths below [`MOUNT`]. It accepts only presigned requests.
    pub fn client_service<B>(&self) -> BoxCloneSyncService<Request<B>, Response<s3s::Body>, Infallible>
    where
        B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        clients::service(self.service())
    }
}
