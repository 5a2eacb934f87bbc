//! Opens the configured store: a bucket, or the embedded S3 if no bucket is set.

use axum::Router;
use std::error::Error;
use std::sync::Arc;

use crate::config::{self, Config};
use crate::store::Store;
use crate::store::s3::{S3Options, S3Store};

#[cfg(feature = "embedded")]
use crate::commands::sweep::{safe_age, sweep};
#[cfg(feature = "embedded")]
use crate::store::embedded::{Embedded, MOUNT};
#[cfg(feature = "embedded")]
use futures::future::BoxFuture;
#[cfg(feature = "embedded")]
use std::{io, time::Duration};

/// The store in use. For the embedded S3, it includes the server.
pub struct Backend {
    pub store: Arc<dyn Store>,
    /// The same store, for the calls that only the operator's commands use.
    pub s3: Arc<S3Store>,
    /// Describes the store, for messages.
    pub place: String,
    #[cfg(feature = "embedded")]
    embedded: Option<(Embedded, tokio::task::JoinHandle<()>)>,
}

impl Backend {
    /// Opens the store, without a call to the bucket.
    ///
    /// # Errors
    /// Returns an error if the embedded S3 cannot use its folder.
    pub async fn open(config: &Config) -> Result<Self, Box<dyn Error>> {
        match &config.store.bucket {
            Some(bucket) => Ok(Backend::bucket(bucket, &config.store).await),
            None => Backend::embedded(config).await,
        }
    }

    async fn bucket(bucket: &str, config: &config::Store) -> Self {
        let options = S3Options {
            bucket: bucket.to_owned(),
            prefix: config.prefix.clone(),
            endpoint: config.endpoint.clone(),
            public_endpoint: config.public_endpoint.clone(),
            credentials: None,
            region: None,
            force_path_style: config.force_path_style,
            checksum: config.checksum,
            sse: config.sse.clone(),
            attempt_timeout: config.timeout,
            http_client: None,
            mount: None,
        };
        let s3 = Arc::new(S3Store::connect(options).await);
        Backend {
            store: Arc::clone(&s3) as Arc<dyn Store>,
            s3,
            place: format!("s3://{bucket}/{}", config.prefix),
            #[cfg(feature = "embedded")]
            embedded: None,
        }
    }

    pub fn is_embedded(&self) -> bool {
        #[cfg(feature = "embedded")]
        return self.embedded.is_some();
        #[cfg(not(feature = "embedded"))]
        return false;
    }
}

#[cfg(not(feature = "embedded"))]
impl Backend {
    async fn embedded(_: &Config) -> Result<Self, Box<dyn Error>> {
        Err("this binary was built without the embedded S3: set S3_BUCKET".into())
    }

    pub fn client_routes(&self) -> Router {
        Router::new()
    }

    pub fn close(self) {}
}

#[cfg(feature = "embedded")]
impl Backend {
    async fn embedded(config: &Config) -> Result<Self, Box<dyn Error>> {
        let age = safe_age(config.server.request_timeout);
        let config = &config.store;
        let place = format!("the embedded S3 in {}", config.data_dir.display());
        let embedded = Embedded::open(&config.data_dir).map_err(|error| format!("cannot open {place}: {error}"))?;
        let s3 = Arc::new(S3Store::connect(embedded.s3_options(&config.prefix, config.timeout)).await);
        let store = Arc::clone(&s3) as Arc<dyn Store>;
        let sweeper = tokio::spawn(sweep_now_and_then(Arc::clone(&store), embedded.sweeper(), age));
        Ok(Backend { store, s3, place, embedded: Some((embedded, sweeper)) })
    }

    /// Returns the routes by which clients reach the embedded S3. There are none for a bucket.
    pub fn client_routes(&self) -> Router {
        self.embedded.as_ref().map_or_else(Router::new, |(embedded, _)| client_routes(embedded))
    }

    /// Stops the background task.
    pub fn close(self) {
        if let Some((_, sweeper)) = self.embedded {
            sweeper.abort();
        }
    }
}

/// Returns the routes for presigned URLs of the embedded S3.
#[cfg(feature = "embedded")]
pub fn client_routes(embedded: &Embedded) -> Router {
    Router::new().route_service(&format!("{MOUNT}/{{*object}}"), embedded.client_service())
}

/// Sweeps every hour, as lifecycle rules do for a bucket on AWS.
#[cfg(feature = "embedded")]
async fn sweep_now_and_then(
    store: Arc<dyn Store>,
    sweep_files: impl Fn(Duration) -> BoxFuture<'static, io::Result<()>>,
    age: Duration,
) {
    let mut hourly = tokio::time::interval(Duration::from_secs(3600));
    loop {
        hourly.tick().await;
        // Presigned URLs of uploads expire within this age at the latest.
        sweep(store.as_ref(), age, age).await;
        if let Err(error) = sweep_files(age).await {
            tracing::warn!(%error, "old temporary files of the embedded store could not be removed");
        }
    }
}
