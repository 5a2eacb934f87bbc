//! Keys that are fixed before an upload's bytes are known: by a grant, or by an Idempotency-Key.
//!
//! Such a key makes one image. Whoever sends the same bytes again gets the same image, whoever sends other bytes is rejected,
//! and nothing that may have been written is undone: it may be another attempt's success.

use futures::TryStreamExt;
use uuid::Uuid;

use super::digest::{Stored, StreamDigest};
use crate::error::{Error, Result};
use crate::format::Format;
use crate::policy::Policy;
use crate::store::{ImageKey, ObjectInfo, ObjectName, Store, StoreError};

/// What fixes an upload's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FixedKey {
    /// The whole key: the upload is for exactly that image.
    Image(ImageKey),
    /// The key's UUID, made of an Idempotency-Key. The extension follows the bytes.
    Idempotent(Uuid),
}

impl FixedKey {
    /// The key for an image of this format.
    ///
    /// # Errors
    /// 400 `invalid_file_type` if the key is one of another format.
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

    /// What is there already under `key`, which is [`FixedKey::of`].
    ///
    /// # Errors
    /// 422 `idempotency_key_reused` if an image of another format is there.
    pub async fn find(&self, store: &dyn Store, key: &ImageKey) -> Result<Option<ObjectInfo>> {
        if let FixedKey::Idempotent(id) = self {
            let there = store.images_of(*id).await.map_err(Error::from)?;
            if there.is_empty() {
                return Ok(None);
            }
            if !there.contains(key) {
                return Err(Error::IdempotencyKeyReused);
            }
        }
        store.find(&ObjectName::Image(key.clone())).await.map_err(Error::from)
    }

    /// What it means to the client that its upload failed like this.
    pub fn explain(&self, error: Error) -> Error {
        match (self, error) {
            (FixedKey::Idempotent(_), Error::AlreadyExists) => Error::IdempotencyKeyReused,
            (_, error) => error,
        }
    }
}

/// Whether the object that is there, which `found` describes, is the one that was sent.
///
/// # Errors
/// 409 `already_exists` if it is not, 503 `outcome_unknown` if that cannot be seen now.
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

/// Reads the whole object once, and keeps nothing of it.
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
    fn a_key_takes_its_own_format_only() {
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
    fn other_bytes_under_an_idempotency_key_are_a_reuse_of_it() {
        let explained = |fixed: FixedKey| fixed.explain(Error::AlreadyExists).code();
        assert_eq!(explained(FixedKey::Image(ImageKey::random("png"))), "already_exists");
        assert_eq!(explained(FixedKey::Idempotent(Uuid::new_v4())), "idempotency_key_reused");
    }
}
