//! What is examined, and what every check needs for that.

use bytes::Bytes;
use tokio::sync::OnceCell;

use super::hints::{fix, told};
use super::presigned_client::PresignedClient;
use super::report::{Finding, Outcome};
use super::scratch::Scratch;
use crate::commands::backend::Backend;
use crate::config::Config;
use crate::store::s3::S3Store;
use crate::store::s3::inspect::Greeting;
use crate::store::{self, CustomMetadata, Metadata, ObjectName, PresignOptions, Store, StoreError};
use crate::upload::parts::payload;

/// The content of what is put: no image, in no format.
pub const SAMPLE: &[u8] = b"image-store doctor looks whether this bucket works; it removes this at once\n";
/// Another content, of another size.
pub const LONGER: &[u8] = b"image-store doctor looks whether this bucket works; it removes this at once, too\n";

pub struct Context<'a> {
    pub config: &'a Config,
    pub store: &'a dyn Store,
    pub s3: &'a S3Store,
    pub is_embedded: bool,
    /// Where the embedded store's clients are answered.
    base: Option<String>,
    pub presigned_client: PresignedClient,
    pub scratch: Scratch,
    greeting: OnceCell<Greeting>,
    versioning: OnceCell<store::Result<Option<String>>>,
}

impl<'a> Context<'a> {
    pub fn new(config: &'a Config, backend: &'a Backend, base: Option<String>) -> Result<Context<'a>, String> {
        Ok(Context {
            config,
            store: backend.store.as_ref(),
            s3: backend.s3.as_ref(),
            is_embedded: backend.is_embedded(),
            base,
            presigned_client: PresignedClient::new(config)?,
            scratch: Scratch::default(),
            greeting: OnceCell::new(),
            versioning: OnceCell::new(),
        })
    }

    /// How the bucket answers; asked once.
    pub async fn greeting(&self) -> &Greeting {
        self.greeting.get_or_init(|| self.s3.greet()).await
    }

    /// Whether the bucket keeps old versions; asked once.
    pub async fn versioning(&self) -> Result<Option<&str>, &StoreError> {
        self.versioning.get_or_init(|| self.s3.versioning()).await.as_ref().map(Option::as_deref)
    }

    /// A whole object under a final name.
    pub async fn put_sample(&self) -> Result<ObjectName, Finding> {
        let name = self.scratch.image();
        let put = self.store.put(&name, &verified(), payload(Bytes::from_static(SAMPLE))).await;
        put.map(|_| name).map_err(self.failed("s3:PutObject"))
    }

    /// For calls that take a permission on the objects below the prefix.
    pub fn failed(&self, action: &str) -> impl Fn(StoreError) -> Finding {
        let permission = format!("{action} on the objects {}*", self.config.store.prefix);
        move |error| self.refusal(&error, &permission)
    }

    /// For calls that take a permission on the bucket.
    pub fn failed_on_bucket(&self, action: &str) -> impl Fn(StoreError) -> Finding {
        let permission = format!("{action} on the bucket");
        move |error| self.refusal(&error, &permission)
    }

    /// A call did not do what it must, which takes `permission`.
    pub fn refusal(&self, error: &StoreError, permission: &str) -> Finding {
        Finding::fail(told(error), fix(self.config, self.s3, error, permission))
    }

    /// As the plans of direct uploads sign.
    pub fn presigning(&self) -> PresignOptions {
        PresignOptions { ttl: self.config.direct.url_ttl, base: self.base.clone() }
    }

    /// Removes what the checks made.
    pub async fn clean_up(&self) -> Outcome {
        let left = self.scratch.clear(self.store, &self.config.store.prefix).await;
        if left.is_empty() {
            return Ok(format!("nothing is left behind{}", self.but_versions()));
        }
        let left: Vec<String> = left.iter().map(|(key, error)| format!("{key} ({})", told(error))).collect();
        let fix = "allow s3:DeleteObject, s3:AbortMultipartUpload and s3:ListBucketMultipartUploads, and remove these";
        Err(Finding::fail(format!("could not remove {}", left.join(", ")), fix))
    }

    /// Only a version's own deletion removes it. Where nobody asked, nothing was made.
    fn but_versions(&self) -> &'static str {
        match self.versioning.get() {
            Some(Ok(Some(_))) => " but old versions, which this bucket keeps of what is deleted",
            Some(Err(_)) => ", unless the bucket keeps old versions of what is deleted",
            Some(Ok(None)) | None => "",
        }
    }
}

/// What a verified image says of itself.
pub fn verified() -> Metadata {
    Metadata { dimensions: Some((640, 480)), ..Metadata::unverified("image/png", CustomMetadata::new()) }
}

/// What a direct upload says of itself.
pub fn unverified() -> Metadata {
    Metadata::unverified("image/jpeg", CustomMetadata::new())
}
