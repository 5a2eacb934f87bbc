//! Decides whether an image is the one that an upload has sent.
//!
//! Under a key that was fixed beforehand, several plans may exist, and images may be streamed too. Only one of them becomes the
//! image. The others are answered with it if they have sent the same bytes. Otherwise they are rejected: an image that may be
//! another one is never the answer.
//!
//! An object under `incoming/` and the image that was made of it have the ID of their plan as their
//! [origin](ObjectInfo::origin). The presigned PUT signs it, so no client can choose another one. If the origins differ, the
//! contents decide. That is known as long as the object is there. So the marker that replaces it says which plan's bytes the
//! image has ([`Marker::Spent`]), and every further request of this plan gets the same answer.

use super::plan::Expected;
use super::verify::Verifier;
use crate::error::{Error, Result};
use crate::store::{ImageKey, Marker, ObjectInfo, ObjectName, StoreError};
use crate::upload::Stored;
use crate::upload::fixed::{check_same, crc64_of};

/// What is known about an image without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// It has the bytes that the upload has sent.
    Same,
    /// The contents decide.
    Undecided,
    /// It is another upload's image. Nothing shows that its bytes are those of this upload.
    Other,
}

impl Expected {
    /// Whether the object was sent by another upload of the same key.
    pub(super) fn is_of_another(&self, object: &ObjectInfo) -> bool {
        self.origin.is_some() && object.origin != self.origin
    }

    /// Compares an image with what was expected. `arrived` describes what is under `incoming/`.
    pub fn compare(&self, image: &ObjectInfo, arrived: Option<&ObjectInfo>) -> Match {
        let marker = arrived.and_then(|arrived| arrived.marker.as_ref());
        let Some(origin) = self.origin else {
            // No other upload has this key, unless the plan is older than the IDs.
            return if matches!(marker, Some(Marker::Rejected(_))) { Match::Other } else { Match::Same };
        };
        let is_spent = matches!(marker, Some(Marker::Spent(spent)) if *spent == self.origin);
        let has_arrived = || arrived.is_some_and(|arrived| arrived.marker.is_none() && !self.is_of_another(arrived));
        let has_digest = || self.sha256.is_some() && self.size == Some(image.size);
        match image.origin == Some(origin) || is_spent {
            true => Match::Same,
            false if has_arrived() || has_digest() => Match::Undecided,
            false => Match::Other,
        }
    }
}

impl Verifier {
    /// Returns the image as the answer to the upload that expects it, after replacing the object under `incoming/` with a marker.
    /// Returns `None` if that object changed meanwhile.
    ///
    /// # Errors
    /// Returns [`Error::AlreadyExists`] (409 `already_exists`) if the image is another one.
    pub(super) async fn answer_with(
        &self,
        image: ObjectInfo,
        mut arrived: Option<ObjectInfo>,
        key: &ImageKey,
        expected: Expected,
    ) -> Result<Option<ObjectInfo>> {
        if let Some(object) = arrived.as_mut().filter(|object| object.marker.is_none()) {
            let Some(is_same) = self.has_content_of(&image, object, key).await? else { return Ok(None) };
            let marker = match is_same {
                true => Marker::Spent(object.origin),
                false => Marker::Rejected(Error::AlreadyExists.code().to_owned()),
            };
            let incoming = ObjectName::Incoming(key.clone());
            self.close(&incoming, &marker, object.etag.as_deref().unwrap_or_default()).await;
            object.marker = Some(marker);
        }
        let is_sent = match expected.compare(&image, arrived.as_ref()) {
            Match::Same => true,
            Match::Undecided => self.has_sha256(&image, key, expected).await?,
            Match::Other => false,
        };
        if is_sent { Ok(Some(image)) } else { Err(Error::AlreadyExists) }
    }

    /// Whether the image has the same content as the object under `incoming/`. `None` if the object changed meanwhile.
    async fn has_content_of(&self, image: &ObjectInfo, object: &ObjectInfo, key: &ImageKey) -> Result<Option<bool>> {
        if image.size != object.size {
            return Ok(Some(false));
        }
        match (image.origin, object.origin) {
            (Some(of_image), Some(of_object)) if of_image == of_object => return Ok(Some(true)),
            (None, None) => {
                let crc64 = image.known_crc64().zip(object.known_crc64());
                return Ok(Some(crc64.is_none_or(|(image, object)| image == object)));
            }
            _ => {}
        }
        let _turn = self.sniffs.acquire().await;
        let crc64 = match crc64_of(self.store.as_ref(), &ObjectName::Incoming(key.clone()), object).await {
            Ok(crc64) => crc64,
            Err(StoreError::Precondition | StoreError::NotFound) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let sent = Stored { size: object.size, crc64 };
        match check_same(self.store.as_ref(), &ObjectName::Image(key.clone()), image, sent).await {
            Ok(()) => Ok(Some(true)),
            Err(Error::AlreadyExists) => Ok(Some(false)),
            Err(error) => Err(error),
        }
    }

    /// Whether the image has the SHA-256 that was declared. Not every store records it, so it is remembered here: everyone
    /// who has the link of the plan can ask again and again.
    async fn has_sha256(&self, image: &ObjectInfo, key: &ImageKey, expected: Expected) -> Result<bool> {
        let etag = image.etag.as_deref().unwrap_or_default();
        if let Some(known) = self.digests.get(key, etag) {
            return Ok(Some(known) == expected.sha256);
        }
        let _turn = self.sniffs.acquire().await;
        let found = self.sha256(&ObjectName::Image(key.clone()), image, etag).await?;
        self.digests.add(key, etag, found);
        Ok(Some(found) == expected.sha256)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::CustomMetadata;
    use uuid::Uuid;

    const MINE: Uuid = Uuid::from_u128(1);
    const OTHER: Uuid = Uuid::from_u128(2);

    fn object(origin: Option<Uuid>, marker: Option<Marker>) -> ObjectInfo {
        ObjectInfo {
            size: 7,
            etag: None,
            content_type: None,
            dimensions: None,
            crc64: None,
            noted_crc64: None,
            sha256: None,
            last_modified: None,
            custom: CustomMetadata::new(),
            may_be_planned: false,
            origin,
            marker,
        }
    }

    #[test]
    fn image_without_proof_is_another_one() {
        let planned = Expected { origin: Some(MINE), size: Some(7), ..Expected::default() };
        let with_digest = |size| Expected { size: Some(size), sha256: Some([1; 32]), ..planned };
        let drawn = Expected { origin: None, ..planned };
        let marker = |marker| Some(object(None, Some(marker)));
        let rejected = || marker(Marker::Rejected("already_exists".to_owned()));
        for (expected, image, arrived, is) in [
            (planned, Some(MINE), None, Match::Same),
            (planned, Some(MINE), marker(Marker::Withdrawn), Match::Same),
            (planned, Some(OTHER), marker(Marker::Spent(Some(MINE))), Match::Same),
            (planned, None, marker(Marker::Spent(Some(MINE))), Match::Same),
            (planned, None, Some(object(Some(MINE), None)), Match::Undecided),
            (with_digest(7), Some(OTHER), None, Match::Undecided),
            (with_digest(8), Some(OTHER), None, Match::Other),
            (planned, Some(OTHER), Some(object(Some(OTHER), None)), Match::Other),
            (planned, None, Some(object(None, None)), Match::Other),
            (planned, None, None, Match::Other),
            (planned, None, marker(Marker::Spent(None)), Match::Other),
            (planned, Some(OTHER), marker(Marker::Spent(Some(OTHER))), Match::Other),
            (planned, None, rejected(), Match::Other),
            (drawn, None, None, Match::Same),
            (drawn, Some(OTHER), Some(object(Some(OTHER), None)), Match::Same),
            (drawn, None, rejected(), Match::Other),
        ] {
            assert_eq!(
                expected.compare(&object(image, None), arrived.as_ref()),
                is,
                "{expected:?} {image:?} {arrived:?}"
            );
        }
    }
}
