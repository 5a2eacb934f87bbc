//! Finds out how far an upload is.

use std::time::Duration;

use super::{Append, FinishedImage, ResumableUpload, Service, interrupted};
use crate::error::{Error, Result};
use crate::store::{Kept, Part, StoreError};

/// How long a store may need to show an image after its upload has ended.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The state of an upload.
pub(super) enum Resolved {
    Open(Open),
    Complete(Box<FinishedImage>),
}

/// An upload that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Open {
    /// Number of bytes that are stored.
    pub(super) offset: u64,
    /// The length of the file in bytes, if it is known.
    pub(super) length: Option<u64>,
    /// The parts that the store has, in order of their numbers.
    pub(super) parts: Vec<Part>,
    /// Base and length of the tail that reaches up to the offset. `None` if the parts do.
    pub(super) tail: Option<(u64, u64)>,
    /// Everything that is kept apart from the parts.
    pub(super) kept: Vec<Kept>,
}

impl Open {
    /// A part counts only if it is full and all parts before it count. Other parts are sent again.
    pub(super) fn new(upload: &ResumableUpload, parts: Vec<Part>, kept: Vec<Kept>) -> Self {
        let numbered = (1..).zip(&parts);
        let full = numbered.take_while(|(number, part)| part.number == *number && part.size == upload.part_size);
        let stored = full.count() as u64 * upload.part_size;
        let tails = kept.iter().filter_map(|kept| match *kept {
            Kept::Tail { base, len } if base % upload.part_size == 0 && len < upload.part_size => Some((base, len)),
            _ => None,
        });
        let tail = tails.max_by_key(|(base, len)| base + len).filter(|(base, len)| base + len > stored);
        let lengths = kept.iter().filter_map(|kept| if let Kept::Length(length) = kept { Some(*length) } else { None });
        let length = upload.length.or(lengths.min());
        Open { offset: tail.map_or(stored, |(base, len)| base + len), length, parts, tail, kept }
    }

    /// Returns the offset of the first byte that is not in a part.
    pub(super) fn base(&self, part_size: u64) -> u64 {
        self.tail.map_or(self.offset / part_size * part_size, |(base, _)| base)
    }

    /// Checks what is known of a request before its body.
    pub(super) fn check(&self, upload: &ResumableUpload, append: &Append) -> Result<()> {
        if append.offset != self.offset {
            return Err(Error::OffsetMismatch { offset: self.offset, provided: append.offset });
        }
        check_length(append.length, upload.max_size)?;
        let length = self.length.or(append.length);
        let end = append.content_length.map(|more| self.offset.saturating_add(more));
        match length {
            Some(length) if append.length.is_some_and(|said| said != length) || length < self.offset => {
                Err(Error::InconsistentLength { length })
            }
            Some(length) if end.is_some_and(|end| end > length || (append.completes && end < length)) => {
                Err(Error::InconsistentLength { length })
            }
            None if end.is_some_and(|end| end > upload.max_size) => {
                Err(Error::PayloadTooLarge { limit: upload.max_size })
            }
            _ => Ok(()),
        }
    }
}

/// Checks the length of a file, if it is known.
pub(super) fn check_length(length: Option<u64>, max_size: u64) -> Result<()> {
    match length {
        Some(0) => Err(Error::NoFile { fields: None }),
        Some(length) if length > max_size => Err(Error::PayloadTooLarge { limit: max_size }),
        _ => Ok(()),
    }
}

impl Service {
    /// Finds out how far the upload is, with two calls unless it has ended.
    pub(super) async fn resolve(&self, upload: &ResumableUpload) -> Result<Resolved> {
        let Some(multipart) = upload.multipart() else {
            return self.ended(upload, StoreError::NoSuchUpload).await.map(Resolved::Complete);
        };
        // The tails first: one that is removed after this list is covered by parts that the next list has.
        let kept = self.store.list_kept(&upload.key, upload.id).await.map_err(interrupted)?;
        match self.store.list_parts(&multipart).await {
            // SeaweedFS lists no parts before its response to the upload's Complete, when the image exists already.
            Ok(parts) if parts.is_empty() && !self.store.honours_if_none_match() => {
                let image = self.find_own_image(upload).await?;
                Ok(image.map_or_else(|| Resolved::Open(Open::new(upload, parts, kept)), Resolved::Complete))
            }
            Ok(parts) => Ok(Resolved::Open(Open::new(upload, parts, kept))),
            Err(error) => self.ended(upload, error).await.map(Resolved::Complete),
        }
    }

    /// Returns the image of an upload whose parts could not be listed or sent because of `error`. Not every store reports the
    /// end of an upload in the same way.
    ///
    /// # Errors
    /// Returns [`Error::UploadGone`] if the upload has ended without an image.
    pub(super) async fn ended(&self, upload: &ResumableUpload, error: StoreError) -> Result<Box<FinishedImage>> {
        let is_over = matches!(error, StoreError::NoSuchUpload);
        match self.find_image(upload).await {
            Ok(Some(image)) => return Ok(image),
            // The upload may still exist, and can then be compared with the image of another one.
            Ok(None) | Err(Error::AlreadyExists) if !is_over => return Err(interrupted(error)),
            Ok(None) => {}
            Err(error) => return Err(error),
        }
        tokio::time::sleep(LOOK_AGAIN).await;
        self.find_image(upload).await?.ok_or(Error::UploadGone)
    }

    /// Returns the image if this upload has created it.
    async fn find_own_image(&self, upload: &ResumableUpload) -> Result<Option<Box<FinishedImage>>> {
        match self.find_image(upload).await {
            Err(Error::AlreadyExists) => Ok(None),
            found => found,
        }
    }

    /// Returns the image of an upload that has ended.
    ///
    /// # Errors
    /// Returns [`Error::AlreadyExists`] if another upload has created the image, unless it is known to consist of the same bytes.
    pub(super) async fn find_image(&self, upload: &ResumableUpload) -> Result<Option<Box<FinishedImage>>> {
        let Some(object) = self.store.find(&upload.image()).await.map_err(interrupted)? else { return Ok(None) };
        if object.origin != Some(upload.id) {
            let kept = self.store.list_kept(&upload.key, upload.id).await.map_err(interrupted)?;
            if !kept.contains(&Kept::same_as(object.etag.as_deref())) {
                return Err(Error::AlreadyExists);
            }
        }
        let (key, crc64) = (upload.key.clone(), object.known_crc64());
        Ok(Some(Box::new(FinishedImage { key, object, info: None, crc64, is_new: false })))
    }
}
