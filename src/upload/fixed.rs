//! Keys that are fixed before the upload: by a grant or by an Idempotency-Key.
//!
//! At most one image is stored under such a key. If the same bytes are sent again, the response is the same image.
//! Other bytes are rejected. An object that may have been written is never deleted, because another attempt may have
//! succeeded with it.

use futures::TryStreamExt;
use std::future::Future;
use uuid::Uuid;

use super::digest::{Stored, StreamDigest};
use super::turns::{Place, Turns, create_new};
use crate::error::{Error, Result};
use crate::format::Format;
use crate::policy::Policy;
use crate::store::{ImageKey, ObjectInfo, ObjectName, Store, StoreError};

/// The fixed part of an upload's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FixedKey {
    /// The whole key, because the upload is for exactly that image.
    Image(ImageKey),
    /// The key's UUID, derived from an Idempotency-Key. The extension depends on the detected format.
    Idempotent(Uuid),
}

impl FixedKey {
    /// Returns the key for an image of this format.
    ///
    /// # Errors
    /// Returns [`Error::InvalidFileType`] (400 `invalid_file_type`) if the key has the extension of another format.
    pub fn of(&self, format: Format, policy: &Policy) -> Result<ImageKey> {
        match self {
            FixedKey::Image(key) => {
                let named = Format::from_extension(key.extension()).map(|(named, _)| named);
                let fits = named == Some(format);
                if fits { Ok(key.clone()) } else { Err(policy.invalid_type(Some(format.name()))) }
            }
            FixedKey::Idempotent(id) => Ok(ImageKey::derived(*id, format.extensions()[0])),
        }
    }

    /// Converts the error of an upload to the error for the client.
    pub fn explain(&self, error: Error) -> Error {
        match (self, error) {
            (FixedKey::Idempotent(_), Error::AlreadyExists) => Error::IdempotencyKeyReused,
            (_, error) => error,
        }
    }
}

/// An upload under a fixed key, from before the check for an existing image until the outcome of its write is known.
pub struct FixedUpload {
    key: ImageKey,
    fixed: FixedKey,
    place: Place,
}

impl FixedUpload {
    /// Begins an upload under `key`, which is the result of [`FixedKey::of`].
    pub(super) fn begin(fixed: &FixedKey, key: ImageKey, turns: &Turns) -> Self {
        FixedUpload { place: turns.join(&key), fixed: fixed.clone(), key }
    }

    /// Returns the name of the image.
    pub fn name(&self) -> ObjectName {
        ObjectName::Image(self.key.clone())
    }

    /// Returns the existing object.
    ///
    /// # Errors
    /// Returns [`Error::IdempotencyKeyReused`] (422 `idempotency_key_reused`) if an image of another format exists.
    pub async fn find(&self, store: &dyn Store) -> Result<Option<ObjectInfo>> {
        if !self.may_exist(store).await? {
            return Ok(None);
        }
        store.find(&self.name()).await.map_err(Error::from)
    }

    /// Whether the object may exist.
    async fn may_exist(&self, store: &dyn Store) -> Result<bool> {
        let FixedKey::Idempotent(id) = self.fixed else { return Ok(true) };
        let existing = store.images_of(id).await.map_err(Error::from)?;
        let exists = existing.contains(&self.key);
        if exists || existing.is_empty() { Ok(exists) } else { Err(Error::IdempotencyKeyReused) }
    }

    /// Creates the object with `write` unless it exists, in turn with other uploads of this process.
    ///
    /// `is_late`: the upload may have taken long. An image of another format may then have been stored meanwhile.
    ///
    /// # Errors
    /// Returns [`Error::IdempotencyKeyReused`] (422 `idempotency_key_reused`) if an image of another format exists. Nothing
    /// was written then.
    pub(super) async fn create<T>(
        &self,
        store: &dyn Store,
        is_late: bool,
        write: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<Result<T, StoreError>> {
        let _turn = self.place.turn(!store.honours_if_none_match()).await;
        if is_late || self.place.has_other_keys() {
            self.may_exist(store).await?;
        }
        Ok(create_new(store, &self.name(), write).await)
    }
}

/// Checks that the existing object, which `found` describes, has the same content as the upload `sent`.
///
/// # Errors
/// Returns [`Error::AlreadyExists`] (409 `already_exists`) if the content differs, and [`Error::OutcomeUnknown`] (503
/// `outcome_unknown`) if the object cannot be read.
pub async fn check_same(store: &dyn Store, name: &ObjectName, found: &ObjectInfo, sent: Stored) -> Result<()> {
    if found.size != sent.size {
        return Err(Error::AlreadyExists);
    }
    let crc64 = crc64_of(store, name, found).await.map_err(|error| Error::OutcomeUnknown(error.into()))?;
    if crc64 == sent.crc64 { Ok(()) } else { Err(Error::AlreadyExists) }
}

/// Returns the CRC64NVME of the object that `found` describes. If it is not known, the whole object is read.
pub async fn crc64_of(store: &dyn Store, name: &ObjectName, found: &ObjectInfo) -> Result<u64, StoreError> {
    match found.known_crc64() {
        Some(crc64) => Ok(crc64),
        None => read_crc64(store, name, found).await,
    }
}

/// Reads the whole object and returns its CRC64NVME.
async fn read_crc64(store: &dyn Store, name: &ObjectName, found: &ObjectInfo) -> Result<u64, StoreError> {
    let etag = found.etag.as_deref().ok_or(StoreError::Precondition)?;
    let mut chunks = store.stream(name, etag).await?;
    let mut digest = StreamDigest::default();
    while let Some(chunk) = chunks.try_next().await? {
        digest.update(&chunk);
    }
    let read = digest.finish();
    if read.size == found.size { Ok(read.crc64) } else { Err(StoreError::Precondition) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_key_accepts_only_its_own_format() {
        let policy = Policy {
            formats: Format::ALL.to_vec(),
            max_upload_size: 1,
            max_pixels: 1,
            header_scan_limit: 1,
            key_format: None,
        };
        let id = Uuid::new_v4();
        for (extension, format) in [("jpg", Format::Jpeg), ("jpeg", Format::Jpeg), ("heif", Format::Heic)] {
            let key = ImageKey::derived(id, extension);
            let fixed = FixedKey::Image(key.clone());
            assert_eq!(fixed.of(format, &policy).unwrap(), key);
            for other in Format::ALL.into_iter().filter(|other| *other != format) {
                let rejected = fixed.of(other, &policy).unwrap_err();
                assert!(
                    matches!(rejected, Error::InvalidFileType { detected: Some(detected), .. } if detected == other.name())
                );
            }
        }
        for format in Format::ALL {
            let key = FixedKey::Idempotent(id).of(format, &policy).unwrap();
            assert_eq!(key, ImageKey::derived(id, format.extensions()[0]));
            assert_eq!(ImageKey::parse(key.as_str()), Some(key));
        }
    }

    #[test]
    fn other_bytes_are_reported_as_idempotency_key_reuse() {
        let explained = |fixed: FixedKey| fixed.explain(Error::AlreadyExists).code();
        assert_eq!(explained(FixedKey::Image(ImageKey::random("png"))), "already_exists");
        assert_eq!(explained(FixedKey::Idempotent(Uuid::new_v4())), "idempotency_key_reused");
    }
}
