//! Keys that are fixed before the upload: by a grant or by an Idempotency-Key.
//!
//! At most one image is stored under such a key. If the same bytes are sent again, the response is the same image.
//! Other bytes are rejected. An object that may have been written is never deleted, because another attempt may have
//! succeeded with it.

use futures::TryStreamExt;
use uuid::Uuid;

use super::digest::{Stored, StreamDigest};
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

    /// Returns the existing object under `key`, which is the result of [`FixedKey::of`].
    ///
    /// # Errors
    /// Returns [`Error::IdempotencyKeyReused`] (422 `idempotency_key_reused`) if an image of another format exists.
    pub async fn find(&self, store: &dyn Store, key: &ImageKey) -> Result<Option<ObjectInfo>> {
        if let FixedKey::Idempotent(id) = self {
            let existing = store.images_of(*id).await.map_err(Error::from)?;
            if existing.is_empty() {
                return Ok(None);
            }
            if !existing.contains(key) {
                return Err(Error::IdempotencyKeyReused);
            }
        }
        store.find(&ObjectName::Image(key.clone())).await.map_err(Error::from)
    }

    /// Converts the error of an upload to the error for the client.
    pub fn explain(&self, error: Error) -> Error {
        match (self, error) {
            (FixedKey::Idempotent(_), Error::AlreadyExists) => Error::IdempotencyKeyReused,
            (_, error) => error,
        }
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
    let crc64 = match found.known_crc64() {
        Some(crc64) => crc64,
        None => read_crc64(store, name, found).await.map_err(|error| Error::OutcomeUnknown(error.into()))?,
    };
    if crc64 == sent.crc64 { Ok(()) } else { Err(Error::AlreadyExists) }
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
