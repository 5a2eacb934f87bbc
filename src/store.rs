//! The interface to S3: the calls that the service makes, and their parameters and results.

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use uuid::Uuid;

use crate::error::{BoxError, Error};
use crate::format::ImageInfo;

#[cfg(feature = "embedded")]
pub mod embedded;
pub mod limits;
pub mod metered;
mod name;
pub mod reconcile;
pub mod s3;
pub mod scratch;
#[cfg(test)]
pub(crate) mod tests;

pub use name::{INCOMING, ImageKey, Kept, ObjectName};

/// The media type of markers: empty objects that replace an object under `incoming/` ([`Marker`]).
pub const MARKER_TYPE: &str = "application/x-image-store-marker";

/// Metadata that the issuer of a grant has attached to an image, by name.
pub type CustomMetadata = BTreeMap<String, String>;

/// The metadata of an object: its content type and, after verification, its dimensions (user metadata).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    pub content_type: String,
    /// Width and height in pixels.
    pub dimensions: Option<(u32, u32)>,
    pub custom: CustomMetadata,
    /// Whether a grant fixed the key and the image was streamed, so that there may be plans of direct uploads for the same
    /// key. A delete must end them.
    pub may_be_planned: bool,
    /// The ID of the upload that creates the object: of a resumable upload, or of a direct upload whose key was fixed
    /// beforehand. It tells uploads of one key apart.
    pub origin: Option<Uuid>,
}

impl Metadata {
    /// Of an object whose bytes have not been looked at.
    pub fn unverified(content_type: &str, custom: CustomMetadata) -> Self {
        Metadata {
            content_type: content_type.to_owned(),
            dimensions: None,
            custom,
            may_be_planned: false,
            origin: None,
        }
    }

    pub fn verified(info: ImageInfo, custom: CustomMetadata) -> Self {
        let content_type = info.format.content_type().to_owned();
        Metadata {
            content_type,
            dimensions: Some((info.width, info.height)),
            custom,
            may_be_planned: false,
            origin: None,
        }
    }
}

/// The bytes of one object or part and their CRC64NVME. Cheap to clone, so that a request can be retried.
#[derive(Clone, Debug)]
pub struct Payload {
    pub content: Content,
    /// Bytes.
    pub len: u64,
    pub crc64: u64,
}

/// The storage of a payload's bytes.
#[derive(Clone, Debug)]
pub enum Content {
    Memory(Bytes),
    /// A file, which is read while it is sent.
    File(Arc<dyn ReadAt>),
}

/// Bytes that are being read. `Sync`, because bodies of requests must be.
pub type Reading = Pin<Box<dyn Future<Output = io::Result<Bytes>> + Send + Sync>>;

/// Bytes that can be read at any offset, more than once.
pub trait ReadAt: fmt::Debug + Send + Sync {
    /// Returns exactly `len` bytes, starting at `offset`.
    fn read_at(&self, offset: u64, len: usize) -> Reading;
}

/// An unfinished multipart upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    pub name: ObjectName,
    /// S3's `UploadId`. It is never logged, because anyone who knows it can continue the upload.
    pub id: String,
}

/// A newly created upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedUpload {
    pub upload: Upload,
    /// Whether further uploads of the name may have been created, because the answer to an earlier attempt was lost.
    pub perhaps_others: bool,
}

/// A part that S3 has received. Part numbers start at 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub number: u32,
    /// Bytes.
    pub size: u64,
    /// `None` if the store does not report it, as [`Store::list_parts`] of some stores.
    pub etag: Option<String>,
    /// `None` unless this process sent the part.
    pub crc64: Option<u64>,
}

/// The size in bytes of a whole object and, if known, its CRC64NVME.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectDigest {
    pub size: u64,
    pub crc64: Option<u64>,
}

/// The properties of an object as HeadObject reports them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Bytes.
    pub size: u64,
    /// Opaque, including the quotes.
    pub etag: Option<String>,
    pub content_type: Option<String>,
    /// Width and height in pixels, from the object's metadata.
    pub dimensions: Option<(u32, u32)>,
    /// CRC64NVME of the whole object, if the store keeps it.
    pub crc64: Option<u64>,
    /// The same as the object's own metadata has it: of every object that the service wrote by a single PUT.
    pub noted_crc64: Option<u64>,
    /// SHA-256 of the whole object, where the store keeps it.
    pub sha256: Option<[u8; 32]>,
    pub last_modified: Option<SystemTime>,
    pub custom: CustomMetadata,
    /// As [`Metadata::may_be_planned`].
    pub may_be_planned: bool,
    /// As [`Metadata::origin`].
    pub origin: Option<Uuid>,
    /// Set if the object is a marker.
    pub marker: Option<Marker>,
}

impl ObjectInfo {
    /// Returns the CRC64NVME of the whole object, if it is known without reading the object.
    pub fn known_crc64(&self) -> Option<u64> {
        self.crc64.or(self.noted_crc64)
    }
}

/// The bytes that an unfinished resumable upload keeps apart from its parts ([`Kept`]).
pub struct KeptBytes {
    /// CRC64NVME of the bytes that this object contains.
    pub crc64: Option<u64>,
    /// CRC64NVME of all bytes of the file before them, if it was known when they were stored.
    pub crc64_before: Option<u64>,
    pub bytes: BoxStream<'static, Result<Bytes>>,
}

/// How an object came to exist that a call was to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// The store confirmed the call.
    Now,
    /// It was found after a call whose answer did not say whether it had created the object. It has the size that was sent
    /// and, if both are known, the checksum.
    Found(Box<ObjectInfo>),
}

/// The reason why no object can be uploaded under a name in `incoming/` any more. Only the text of an error depends on
/// it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Marker {
    /// The object was promoted to an image, or an equal image existed already. Contains the object's
    /// [origin](ObjectInfo::origin), whose uploads are answered with the image.
    Spent(Option<Uuid>),
    /// The upload was aborted, or its image was deleted.
    Withdrawn,
    /// The object was not an allowed image. Contains the code of the error.
    Rejected(String),
}

/// A URL that permits one kind of request to S3 until `expires_at`.
#[derive(Clone, Debug)]
pub struct Presigned {
    pub url: String,
    /// The exact headers that the client must send, except `host`.
    pub headers: Vec<(String, String)>,
    pub expires_at: SystemTime,
}

/// The signed conditions of a presigned PUT.
#[derive(Clone, Debug)]
pub struct PutConditions {
    /// Exact Content-Length in bytes.
    pub size: u64,
    pub content_type: String,
    pub sha256: Option<[u8; 32]>,
    /// To be kept with the object.
    pub custom: CustomMetadata,
    /// As [`Metadata::origin`], to be kept with the object.
    pub origin: Option<Uuid>,
}

/// How a URL is presigned.
#[derive(Clone, Debug)]
pub struct PresignOptions {
    pub ttl: Duration,
    /// The URL at which the client reaches the service: scheme, authority and optionally a path, without a trailing
    /// slash. Only the embedded store uses it, because clients reach it through the service. If it is `None`, the URLs
    /// of the embedded store are relative.
    pub base: Option<String>,
}

/// An unfinished upload or an unverified object that a sweep may remove.
#[derive(Clone, Debug)]
pub struct Leftover {
    /// The object's key in the bucket, including the prefix.
    pub object_key: String,
    /// The ID of the multipart upload. `None` for an object under `incoming/`.
    pub upload_id: Option<String>,
    /// Whether it is an empty object, such as a [`Marker`].
    pub is_empty: bool,
    /// When the upload was created or the object was written.
    pub since: SystemTime,
}

/// An error of a call to the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("no such object")]
    NotFound,
    #[error("no such multipart upload")]
    NoSuchUpload,
    /// A condition (If-Match, If-None-Match, CopySourceIfMatch) did not hold.
    #[error("precondition failed")]
    Precondition,
    /// The store did not answer in time, or its answer was lost. The call may have taken effect.
    #[error("{operation}: no answer from the store")]
    OutcomeUnknown {
        operation: &'static str,
        #[source]
        source: BoxError,
    },
    /// The outcome of a call is unknown, and the store did not answer the check for its object (HeadObject) either.
    #[error("{0}; it did not answer the check either")]
    Unreachable(#[source] Box<StoreError>),
    #[error("{operation}: the store rejected the request ({code})")]
    Rejected {
        operation: &'static str,
        /// S3's error code, or the HTTP status if there is no code.
        code: String,
        #[source]
        source: BoxError,
    },
    /// The stored data differs from the data that was sent.
    #[error("the stored data differs from the data that was sent: {0}")]
    IntegrityMismatch(String),
}

impl StoreError {
    /// Returns the store's error that `error` was created from, if any.
    pub fn behind(error: &Error) -> Option<&StoreError> {
        match error {
            Error::Storage(source) | Error::OutcomeUnknown(source) => source.downcast_ref(),
            _ => None,
        }
    }

    /// Converts the error for a request that names the object. A missing object is the client's 404. All other errors
    /// are the service's.
    pub fn or_not_found(self) -> Error {
        match self {
            StoreError::NotFound => Error::NotFound,
            other => other.into(),
        }
    }

    /// Whether the store does not support the request. Stores report this with different codes.
    pub fn is_unsupported(&self) -> bool {
        const CODES: [&str; 6] =
            ["NotImplemented", "InvalidRequest", "InvalidArgument", "EntityTooSmall", "501", "400"];
        matches!(self, StoreError::Rejected { code, .. } if CODES.contains(&&**code))
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        Error::Storage(Box::new(error))
    }
}

pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// The S3 calls that the service makes.
///
/// Every call is retried internally if that is safe, and ends within the configured timeouts. A call may be dropped at
/// any await. Whether it takes effect is then unknown, as after [`StoreError::OutcomeUnknown`].
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Writes a whole object (PutObject with If-None-Match: *). The payload's CRC64NVME is also stored in the object's
    /// metadata, because not every store keeps a checksum.
    ///
    /// If the answer leaves the outcome open (it was lost, or the object exists), the object is checked first. If it
    /// has the same size and checksum, the call succeeds. Returns [`StoreError::Precondition`] if another object
    /// exists, and [`StoreError::Unreachable`] if the store does not answer that check either.
    ///
    /// An attempt whose outcome is unknown is not repeated: it could take effect after the object was deleted.
    async fn put(&self, name: &ObjectName, metadata: &Metadata, body: Payload) -> Result<Written>;

    /// Creates a multipart upload (CreateMultipartUpload).
    async fn create_upload(&self, name: &ObjectName, metadata: &Metadata) -> Result<Upload>;

    /// Like [`Store::create_upload`], but also returns whether there may be further uploads, for
    /// [`reconcile::Reconciler::create_upload`].
    async fn create_only_upload(&self, name: &ObjectName, metadata: &Metadata) -> Result<CreatedUpload> {
        let upload = self.create_upload(name, metadata).await?;
        Ok(CreatedUpload { upload, perhaps_others: false })
    }

    /// Sends one part (UploadPart). `number` starts at 1.
    async fn upload_part(&self, upload: &Upload, number: u32, body: Payload) -> Result<Part>;

    /// Creates the object from the parts, in order (CompleteMultipartUpload).
    ///
    /// If the answer leaves the outcome open (it was lost, there is no such upload, or the object exists), the object
    /// is checked first. If it has the same size and, if both are known, the same checksum, the call succeeds. So a
    /// second call succeeds too. If that object is from another upload, this upload is aborted.
    async fn complete_upload(&self, upload: &Upload, parts: &[Part], whole: ObjectDigest) -> Result<Written>;

    /// Removes the upload and its parts (AbortMultipartUpload). Succeeds if the upload does not exist.
    async fn abort_upload(&self, upload: &Upload) -> Result<()>;

    /// Returns the parts that S3 has received, in order of their numbers (ListParts, all pages).
    async fn list_parts(&self, upload: &Upload) -> Result<Vec<Part>>;

    /// Returns the properties of an object (HeadObject, checksum mode on), or [`StoreError::NotFound`].
    async fn head(&self, name: &ObjectName) -> Result<ObjectInfo>;

    /// Like [`Store::head`], but returns `None` if the object does not exist.
    async fn find(&self, name: &ObjectName) -> Result<Option<ObjectInfo>> {
        match self.head(name).await {
            Ok(found) => Ok(Some(found)),
            Err(StoreError::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the images whose keys have this UUID, of any format (ListObjectsV2).
    async fn images_of(&self, id: Uuid) -> Result<Vec<ImageKey>>;

    /// Whether the store is known to honour If-None-Match on PutObject and CompleteMultipartUpload.
    fn honours_if_none_match(&self) -> bool;

    /// Returns bytes of an object (ranged GetObject with If-Match), fewer if the object ends earlier.
    ///
    /// Returns [`StoreError::Precondition`] if the object no longer has this ETag.
    async fn read(&self, name: &ObjectName, range: Range<u64>, etag: &str) -> Result<Bytes>;

    /// Returns the bytes of a whole object as a stream (GetObject with If-Match), for readers that do not buffer them.
    ///
    /// Returns [`StoreError::Precondition`] if the object no longer has this ETag.
    async fn stream(&self, name: &ObjectName, etag: &str) -> Result<BoxStream<'static, Result<Bytes>>>;

    /// Copies a whole object inside the store, as part 1 of an upload (UploadPartCopy with CopySourceIfMatch).
    ///
    /// The part has the content that `source`, a HEAD of `from`, describes, even on stores that ignore the condition.
    /// Returns [`StoreError::Precondition`] if `from` has changed since, and [`StoreError::NotFound`] if it was
    /// removed.
    async fn copy_part(&self, upload: &Upload, from: &ObjectName, source: &ObjectInfo) -> Result<Part>;

    /// Returns what an unfinished resumable upload keeps apart from its parts (ListObjectsV2, all pages).
    async fn list_kept(&self, key: &ImageKey, id: Uuid) -> Result<Vec<Kept>>;

    /// Writes or replaces an object that a resumable upload keeps apart from its parts (PutObject). The object also contains
    /// the CRC64NVME of all bytes of the file before these.
    ///
    /// Unlike [`Store::put`] it has no condition, and an attempt whose outcome is unknown is repeated: whoever writes this
    /// name writes the same bytes.
    async fn put_kept(&self, name: &ObjectName, body: Payload, crc64_before: Option<u64>) -> Result<()>;

    /// Reads an object that [`Store::put_kept`] has written (GetObject).
    async fn read_kept(&self, name: &ObjectName) -> Result<KeptBytes>;

    /// Returns the unfinished multipart uploads of exactly this object (ListMultipartUploads, all pages).
    async fn uploads_of(&self, name: &ObjectName) -> Result<Vec<Upload>>;

    /// Replaces an object under `incoming/` with a marker (PutObject). Presigned PUTs of that name no longer work then,
    /// because they sign `If-None-Match: *`.
    ///
    /// If `replaces` is an ETag, the object must still have it (If-Match). Otherwise returns
    /// [`StoreError::Precondition`].
    async fn put_marker(&self, name: &ObjectName, marker: &Marker, replaces: Option<&str>) -> Result<()>;

    /// Deletes an object (DeleteObject). Succeeds if the object does not exist.
    async fn delete(&self, name: &ObjectName) -> Result<()>;

    /// Checks that the bucket is reachable (HeadBucket). Never writes.
    async fn ping(&self) -> Result<()>;

    /// Returns the unfinished multipart uploads below the prefix (ListMultipartUploads, all pages).
    async fn unfinished_uploads(&self) -> Result<Vec<Leftover>>;

    /// Returns the objects under `incoming/` below the prefix (ListObjectsV2, all pages).
    async fn unverified_objects(&self) -> Result<Vec<Leftover>>;

    /// Returns everything that a sweep checks: [`Store::unfinished_uploads`], then [`Store::unverified_objects`].
    async fn leftovers(&self) -> Result<Vec<Leftover>> {
        let mut found = self.unfinished_uploads().await?;
        found.extend(self.unverified_objects().await?);
        Ok(found)
    }

    /// Aborts or deletes a leftover.
    async fn remove_leftover(&self, leftover: &Leftover) -> Result<()>;

    /// Returns a URL for reading an object (presigned GetObject).
    async fn presign_get(&self, name: &ObjectName, options: &PresignOptions) -> Result<Presigned>;

    /// Returns a URL for writing an object once (presigned PutObject with If-None-Match: *).
    async fn presign_put(
        &self,
        name: &ObjectName,
        conditions: &PutConditions,
        options: &PresignOptions,
    ) -> Result<Presigned>;

    /// Returns a URL for sending one part (presigned UploadPart), of exactly `size` bytes if it is known.
    async fn presign_part(
        &self,
        upload: &Upload,
        number: u32,
        size: Option<u64>,
        options: &PresignOptions,
    ) -> Result<Presigned>;
}
