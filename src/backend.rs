//! Which store the configuration means: a bucket, or the embedded S3 where none is named.

use std::error::Error;
use std::sync::Arc;

use crate::config::{self, Config};
use crate::store::Store;
use crate::store::s3::{S3Options, S3Store};

#[cfg(feature = "embedded")]
use crate::store::embedded::{Embedded, EmbeddedOptions};

/// The store in use and, where it is in this process, the server behind it.
pub struct Backend {
    pub store: Arc<dyn Store>,
    /// The same, for what only an operator asks.
    pub s3: Arc<S3Store>,
    /// For people: where images go.
    pub place: String,
    #[cfg(feature = "embedded")]
    embedded: Option<(Embedded, tokio::task::JoinHandle<()>)>,
}

impl Backend {
    /// Opens the store. Makes no call to a bucket; starts the embedded S3 where that is meant.
    ///
    /// # Errors
    /// Where the embedded S3 cannot have its folder or its port.
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
            host_follows_request: false,
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

    pub async fn close(self) {}
}

#[cfg(feature = "embedded")]
impl Backend {
    async fn embedded(config: &Config) -> Result<Self, Box<dyn Error>> {
        let store = &config.store;
        let options = EmbeddedOptions {
            data_dir: store.data_dir.clone(),
            listen: (config.server.host, store.embedded_port).into(),
            // The upload page's own origin is a client's business (its host name, a proxy's port), so any may be one. It
            // gives nothing away: a presigned URL is the permission, and no cookie ever goes with it.
            cors_origins: vec!["*".to_owned()],
        };
        let embedded = Embedded::start(options).await.map_err(|error| {
            let (dir, port) = (store.data_dir.display(), store.embedded_port);
            format!("cannot start the embedded S3 (DATA_DIR={dir}, EMBEDDED_S3_PORT={port}): {error}")
        })?;
        let options = embedded.s3_options(&store.prefix, store.timeout);
        let place = format!("the embedded S3 in {} ({})", store.data_dir.display(), embedded.endpoint);
        let s3 = Arc::new(S3Store::connect(options).await);
        let store = Arc::clone(&s3) as Arc<dyn Store>;
        let sweeper = tokio::spawn(sweep_now_and_then(Arc::clone(&store)));
        Ok(Backend { store, s3, place, embedded: Some((embedded, sweeper)) })
    }

    /// Stops the embedded S3, once nothing uses it any more.
    pub async fn close(self) {
        if let Some((embedded, sweeper)) = self.embedded {
            sweeper.abort();
            embedded.stop().await;
        }
    }
}

/// What lifecycle rules do for a bucket on AWS.
#[cfg(feature = "embedded")]
async fn sweep_now_and_then(store: Arc<dyn Store>) {
    let mut hourly = tokio::time::interval(std::time::Duration::from_secs(3600));
    loop {
        hourly.tick().await;
        crate::sweep::sweep(store.as_ref(), crate::sweep::AGE).await;
    }
}
