//! The context of the checks: the configuration, the store and the test objects.

use bytes::Bytes;
use tokio::sync::OnceCell;

use super::hints::{describe, fix};
use super::presigned_client::PresignedClient;
use super::report::{Finding, Outcome};
use crate::commands::backend::Backend;
use crate::config::Config;
use crate::store::s3::S3Store;
use crate::store::s3::inspect::Greeting;
use crate::store::scratch::Scratch;
use crate::store::{
    self, CustomMetadata, Metadata, ObjectInfo, ObjectName, Payload, PresignOptions, Store, StoreError, Upload,
};
use crate::upload::parts::payload;

/// The content of test objects, which is not an image in any format.
pub const SAMPLE: &[u8] = b"image-store doctor checks this bucket with this object and removes it at once\n";
/// A different content of a different size.
pub const LONGER: &[u8] = b"image-store doctor checks this bucket with this object too and removes it at once\n";

/// The permissions that most calls require.
pub const PUT: &str = "s3:PutObject";
pub const GET: &str = "s3:GetObject";
pub const ABORT: &str = "s3:AbortMultipartUpload";
pub const LIST_PARTS: &str = "s3:ListMultipartUploadParts";

pub struct Context<'a> {
    pub config: &'a Config,
    pub store: &'a dyn Store,
    pub s3: &'a S3Store,
    pub is_embedded: bool,
    /// The base URL for clients of the embedded store.
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

    /// Returns the bucket's answer to HeadBucket. The request is sent once.
    pub async fn greeting(&self) -> &Greeting {
        self.greeting.get_or_init(|| self.s3.greet()).await
    }

    /// Returns the bucket's versioning state. The request is sent once.
    pub async fn versioning(&self) -> Result<Option<&str>, &StoreError> {
        self.versioning.get_or_init(|| self.s3.versioning()).await.as_ref().map(Option::as_deref)
    }

    /// Puts an object with [`SAMPLE`] under the name of an image.
    pub async fn put_sample(&self) -> Result<ObjectName, Finding> {
        self.put(self.scratch.image(), &verified()).await
    }

    /// Puts an object with [`SAMPLE`] under the name of a direct upload that is not yet verified.
    pub async fn put_incoming(&self) -> Result<ObjectName, Finding> {
        self.put(self.scratch.incoming(), &unverified()).await
    }

    async fn put(&self, name: ObjectName, metadata: &Metadata) -> Result<ObjectName, Finding> {
        let put = self.store.put(&name, metadata, content(SAMPLE)).await;
        put.map(|_| name).map_err(self.failed(PUT))
    }

    /// Returns the answer of HEAD for an object that exists.
    pub async fn find(&self, name: &ObjectName) -> Result<ObjectInfo, Finding> {
        self.store.head(name).await.map_err(self.failed(GET))
    }

    /// Without the permission, S3 answers 403 for a missing key.
    pub async fn exists(&self, name: &ObjectName) -> Result<bool, Finding> {
        let found = self.store.find(name).await.map_err(self.failed_on_bucket("s3:ListBucket"));
        found.map(|found| found.is_some())
    }

    /// Creates a multipart upload.
    pub async fn create(&self, name: &ObjectName, metadata: &Metadata) -> Result<Upload, Finding> {
        self.scratch.upload(self.store, name, metadata).await.map_err(self.failed(PUT))
    }

    /// Reports a call whose condition is not met: `seen` if it was rejected, or else the `accepted` finding.
    pub fn rejected<T>(&self, result: store::Result<T>, seen: &str, accepted: Finding) -> Outcome {
        match result {
            Err(StoreError::Precondition) => Ok(seen.to_owned()),
            Err(error) => Err(self.failed(PUT)(error)),
            Ok(_) => Err(accepted),
        }
    }

    /// Returns a function that reports the failure of a call that requires `action` on the objects under the prefix.
    pub fn failed(&self, action: &str) -> impl Fn(StoreError) -> Finding {
        let permission = format!("{action} on the objects {}*", self.config.store.prefix);
        move |error| self.refusal(&error, &permission)
    }

    /// Returns a function that reports the failure of a call that requires `action` on the bucket.
    pub fn failed_on_bucket(&self, action: &str) -> impl Fn(StoreError) -> Finding {
        let permission = format!("{action} on the bucket");
        move |error| self.refusal(&error, &permission)
    }

    /// Reports the failure of a call that requires `permission`.
    pub fn refusal(&self, error: &StoreError, permission: &str) -> Finding {
        Finding::fail(describe(error), fix(self.config, self.s3, error, permission))
    }

    /// Returns the options with which the plans of direct uploads are signed.
    pub fn presigning(&self) -> PresignOptions {
        PresignOptions { ttl: self.config.direct.url_ttl, base: self.base.clone() }
    }

    /// Removes everything that the checks created.
    pub async fn clean_up(&self) -> Outcome {
        let left = self.scratch.clear(self.store, &self.config.store.prefix).await;
        if left.is_empty() {
            return Ok(format!("nothing is left behind{}", self.except_old_versions()));
        }
        let left: Vec<String> = left.iter().map(|(key, error)| format!("{key} ({})", describe(error))).collect();
        let fix =
            "allow s3:DeleteObject, s3:AbortMultipartUpload and s3:ListBucketMultipartUploads; remove these by hand";
        Err(Finding::fail(format!("could not remove {}", left.join(", ")), fix))
    }

    /// Old versions remain, because only deleting a version itself removes it. If the versioning state was not
    /// requested, no object was created.
    fn except_old_versions(&self) -> &'static str {
        match self.versioning.get() {
            Some(Ok(Some(_))) => ", except old versions of deleted objects, which this bucket keeps",
            Some(Err(_)) => ", unless the bucket keeps old versions of deleted objects",
            Some(Ok(None)) | None => "",
        }
    }
}

pub fn content(bytes: &'static [u8]) -> Payload {
    payload(Bytes::from_static(bytes))
}

/// The metadata of a verified image.
pub fn verified() -> Metadata {
    Metadata { dimensions: Some((640, 480)), ..Metadata::unverified("image/png", CustomMetadata::new()) }
}

/// The metadata of a direct upload that is not yet verified.
pub fn unverified() -> Metadata {
    Metadata::unverified("image/jpeg", CustomMetadata::new())
}
