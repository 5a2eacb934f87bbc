//! The narrow door to S3: the calls the service makes and the values they take.

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use uuid::Uuid;

use crate::error::{BoxError, Error};
use crate::format::ImageInfo;

#[cfg(feature = "embedded")]
pub mod embedded;
pub mod metered;
mod name;
pub mod reconcile;
pub mod s3;
#[cfg(test)]
pub(crate) mod tests;

pub use name::{INCOMING, ImageKey, ObjectName};

/// The media type of the empty objects that close an address under `incoming/` ([`Marker`]).
pub const MARKER_TYPE: &str = "application/x-image-store-marker";

/// What a grant's issuer wants to be kept with an image, by name.
pub type CustomMetadata = BTreeMap<String, String>;

/// What an object says of itself: its content type and, once verified, its dimensions (user metadata).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    pub content_type: String,
    /// Width and height in pixels.
    pub dimensions: Option<(u32, u32)>,
    pub custom: CustomMetadata,
}

impl Metadata {
    /// Of an object whose bytes have not been looked at.
    pub fn unverified(content_type: &str, custom: CustomMetadata) -> Self {
        Metadata { content_type: content_type.to_owned(), dimensions: None, custom }
    }

    pub fn verified(info: ImageInfo, custom: CustomMetadata) -> Self {
        let content_type = info.format.content_type().to_owned();
        Metadata { content_type, dimensions: Some((info.width, info.height)), custom }
    }
}

/// The bytes of one object or part and their CRC64NVME. Cheap to clone, so a request can be sent again.
#[derive(Clone, Debug)]
pub struct Payload {
    pub content: Content,
    /// Bytes.
    pub len: u64,
    pub crc64: u64,
}

/// Where a payload's bytes are.
#[derive(Clone, Debug)]
pub enum Content {
    Memory(Bytes),
    /// In a file; read while it is sent.
    File(Arc<dyn ReadAt>),
}

/// Bytes that can be read from any place, more than once.
pub trait ReadAt: fmt::Debug + Send + Sync {
    /// `len` bytes from `offset` on, all of them. Blocks.
    fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes>;
}

/// An unfinished multipart upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    pub name: ObjectName,
    /// S3's `UploadId`. Whoever knows it can go on with the upload: never logged.
    pub id: String,
}

/// An upload that was created, perhaps not alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedUpload {
    pub upload: Upload,
    /// Whether the answer to an earlier attempt was lost, so that another upload of the name may have been created.
    pub perhaps_others: bool,
}

/// A part S3 has taken. Part numbers count from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub number: u32,
    /// Bytes.
    pub size: u64,
    /// Where the store says it ([`Store::list_parts`] of some stores does not).
    pub etag: Option<String>,
    /// Known for parts this service sent.
    pub crc64: Option<u64>,
}

/// A whole object's size in bytes and, where known, its CRC64NVME.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectDigest {
    pub size: u64,
    pub crc64: Option<u64>,
}

/// What HEAD says of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Bytes.
    pub size: u64,
    /// Opaque, with its quotes.
    pub etag: Option<String>,
    pub content_type: Option<String>,
    /// Width and height in pixels, from the object's metadata.
    pub dimensions: Option<(u32, u32)>,
    /// Of the whole object, where the store keeps it.
    pub crc64: Option<u64>,
    /// The same as the object's own metadata has it: of every object that the service wrote by a single PUT.
    pub noted_crc64: Option<u64>,
    /// SHA-256 of the whole object, where the store keeps it.
    pub sha256: Option<[u8; 32]>,
    pub last_modified: Option<SystemTime>,
    pub custom: CustomMetadata,
    /// Set if the object is a marker and no upload.
    pub marker: Option<Marker>,
}

impl ObjectInfo {
    /// The CRC64NVME of the whole object, as far as it is known without reading the object.
    pub fn known_crc64(&self) -> Option<u64> {
        self.crc64.or(self.noted_crc64)
    }
}

/// How an object came to be there that a call was to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// By this call: the store said so.
    Now,
    /// It was there when the call's answer left that open. It has the size that was sent and, if both are known, the checksum.
    Found(Box<ObjectInfo>),
}

/// Why nothing can arrive under an address in `incoming/` any more. It is for the answer's text: no decision rests on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Marker {
    /// The image was made of what was there.
    Spent,
    /// The upload was aborted, or its image deleted.
    Withdrawn,
    /// What was there is not an allowed image: the error's code.
    Rejected(String),
}

/// A URL that lets its holder make one kind of request to S3 until `expires_at`.
#[derive(Clone, Debug)]
pub struct Presigned {
    pub url: String,
    /// Exactly the headers the client must send, `host` excepted.
    pub headers: Vec<(String, String)>,
    pub expires_at: SystemTime,
}

/// What a presigned PUT is bound to.
#[derive(Clone, Debug)]
pub struct PutConditions {
    /// Exact Content-Length in bytes.
    pub size: u64,
    pub content_type: String,
    pub sha256: Option<[u8; 32]>,
    /// To be kept with the object.
    pub custom: CustomMetadata,
}

/// How a URL is presigned.
#[derive(Clone, Debug)]
pub struct PresignOptions {
    pub ttl: Duration,
    /// Where the client reaches the service: scheme, authority and any path, without a trailing slash. Only the embedded store
    /// uses it, because it is reached through the service; without it such a URL is relative.
    pub base: Option<String>,
}

/// An unfinished upload or an unverified object, as a sweep sees it.
#[derive(Clone, Debug)]
pub struct Leftover {
    /// The object's key in the bucket, prefix and all.
    pub object_key: String,
    /// The multipart upload, or none for an object under `incoming/`.
    pub upload_id: Option<String>,
    /// When it was started or written.
    pub since: SystemTime,
}

/// What a store call can end with besides success.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("no such object")]
    NotFound,
    #[error("no such multipart upload")]
    NoSuchUpload,
    /// A condition (If-Match, If-None-Match, CopySourceIfMatch) did not hold.
    #[error("precondition failed")]
    Precondition,
    /// The store did not answer in time, or its answer was lost: the call may have had its effect.
    #[error("{operation}: no answer from the store")]
    OutcomeUnknown {
        operation: &'static str,
        #[source]
        source: BoxError,
    },
    #[error("{operation}: the store refused ({code})")]
    Rejected {
        operation: &'static str,
        /// S3's error code, or the HTTP status where there is none.
        code: String,
        #[source]
        source: BoxError,
    },
    /// What the store holds is not what was sent.
    #[error("the store's copy differs: {0}")]
    IntegrityMismatch(String),
}

impl StoreError {
    /// The error of the store that `error` was made of, if it was made of one.
    pub fn behind(error: &Error) -> Option<&StoreError> {
        match error {
            Error::Storage(source) => source.downcast_ref(),
            _ => None,
        }
    }

    /// The answer if the client has named the object, so that a missing one is its 404. Everything else is the service's error.
    pub fn or_not_found(self) -> Error {
        match self {
            StoreError::NotFound => Error::NotFound,
            other => other.into(),
        }
    }

    /// Whether the store does not do what it was asked for, in any of the ways in which stores say so.
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

/// The S3 calls the service makes, and no more.
///
/// Every call is retried inside where that is safe, ends within the configured timeouts, and may be dropped at any await:
/// then its effect is unknown, as with [`StoreError::OutcomeUnknown`].
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Writes a whole object (PutObject with If-None-Match: *).
    ///
    /// The payload's CRC64NVME is kept in the object's metadata, too: not every store keeps a checksum.
    ///
    /// Where the answer leaves the effect open (lost, or the object is there), this looks before it fails: an object of
    /// the same size and checksum is the one that was sent. [`StoreError::Precondition`] where another object is there.
    async fn put(&self, name: &ObjectName, metadata: &Metadata, body: Payload) -> Result<Written>;

    /// Starts a multipart upload (CreateMultipartUpload).
    async fn create_upload(&self, name: &ObjectName, metadata: &Metadata) -> Result<Upload>;

    /// As [`Store::create_upload`], and says whether there may be others; for [`reconcile::Reconciler::create_upload`].
    async fn create_only_upload(&self, name: &ObjectName, metadata: &Metadata) -> Result<CreatedUpload> {
        let upload = self.create_upload(name, metadata).await?;
        Ok(CreatedUpload { upload, perhaps_others: false })
    }

    /// Sends one part (UploadPart). `number` counts from 1.
    async fn upload_part(&self, upload: &Upload, number: u32, body: Payload) -> Result<Part>;

    /// Makes the object of the parts, in order (CompleteMultipartUpload).
    ///
    /// Where the answer leaves the effect open (lost, no such upload, or the object is there), this looks before it fails:
    /// an object of the same size and, where both are known, checksum is a success. So a second call succeeds too. If that
    /// object is another upload's, this upload is aborted.
    async fn complete_upload(&self, upload: &Upload, parts: &[Part], whole: ObjectDigest) -> Result<Written>;

    /// Drops the upload and its parts (AbortMultipartUpload). An upload that is gone already is a success.
    async fn abort_upload(&self, upload: &Upload) -> Result<()>;

    /// The parts S3 holds, in order of their numbers (ListParts, all pages).
    async fn list_parts(&self, upload: &Upload) -> Result<Vec<Part>>;

    /// What S3 says of an object (HeadObject, checksum mode on); [`StoreError::NotFound`].
    async fn head(&self, name: &ObjectName) -> Result<ObjectInfo>;

    /// The images whose keys have this UUID, of whatever format (ListObjectsV2).
    async fn images_of(&self, id: Uuid) -> Result<Vec<ImageKey>>;

    /// Whether the store is known to make no object where one is (If-None-Match on Put and Complete).
    fn honours_if_none_match(&self) -> bool;

    /// Bytes of an object (ranged GetObject with If-Match); fewer where it ends earlier.
    ///
    /// [`StoreError::Precondition`] where the object is not `etag` any more.
    async fn read(&self, name: &ObjectName, range: Range<u64>, etag: &str) -> Result<Bytes>;

    /// The bytes of a whole object, as they come (GetObject with If-Match), for readers that keep none of them.
    ///
    /// [`StoreError::Precondition`] if the object is not `etag` any more.
    async fn stream(&self, name: &ObjectName, etag: &str) -> Result<BoxStream<'static, Result<Bytes>>>;

    /// Copies a whole object on the server, as part 1 of an upload (UploadPartCopy with CopySourceIfMatch).
    ///
    /// The part is what `source`, a HEAD of `from`, describes, also on stores that ignore the condition:
    /// [`StoreError::Precondition`] if `from` has changed since, [`StoreError::NotFound`] if it is gone.
    async fn copy_part(&self, upload: &Upload, from: &ObjectName, source: &ObjectInfo) -> Result<Part>;

    /// The unfinished multipart uploads of exactly this object (ListMultipartUploads, all pages).
    async fn uploads_of(&self, name: &ObjectName) -> Result<Vec<Upload>>;

    /// Replaces what lies under an address in `incoming/` by a marker (PutObject), so that no presigned PUT works there
    /// any more: those sign `If-None-Match: *`.
    ///
    /// With `replaces`, an ETag, only if the object is still that one (If-Match): else [`StoreError::Precondition`].
    async fn put_marker(&self, name: &ObjectName, marker: &Marker, replaces: Option<&str>) -> Result<()>;

    /// Deletes (DeleteObject). An object that is not there is a success.
    async fn delete(&self, name: &ObjectName) -> Result<()>;

    /// Whether the bucket answers (HeadBucket). Never writes.
    async fn ping(&self) -> Result<()>;

    /// Unfinished multipart uploads below the prefix (ListMultipartUploads, all pages).
    async fn unfinished_uploads(&self) -> Result<Vec<Leftover>>;

    /// Objects under `incoming/` below the prefix (ListObjectsV2, all pages).
    async fn unverified_objects(&self) -> Result<Vec<Leftover>>;

    /// All that a sweep looks at: [`Store::unfinished_uploads`], then [`Store::unverified_objects`].
    async fn leftovers(&self) -> Result<Vec<Leftover>> {
        let mut found = self.unfinished_uploads().await?;
        found.extend(self.unverified_objects().await?);
        Ok(found)
    }

    /// Removes one of them.
    async fn remove_leftover(&self, leftover: &Leftover) -> Result<()>;

    /// A URL that reads an object (presigned GetObject).
    async fn presign_get(&self, name: &ObjectName, options: &PresignOptions) -> Result<Presigned>;

    /// A URL that writes an object, once (presigned PutObject with If-None-Match: *).
    async fn presign_put(
        &self,
        name: &ObjectName,
        conditions: &PutConditions,
        options: &PresignOptions,
    ) -> Result<Presigned>;

    /// A URL that sends one part of exactly `size` bytes (presigned UploadPart).
    async fn presign_part(
        &self,
        upload: &Upload,
        number: u32,
        size: u64,
        options: &PresignOptions,
    ) -> Result<Presigned>;
}
