//! Uploads in parts whose size is unknown until all parts were sent, as Uppy's S3 plugin makes them.
//!
//! The protocol is that of Uppy's Companion: the client requests one URL for each part, and reports the parts when it
//! completes the upload. The URLs sign no length, so the size is checked in ListParts before the parts are joined. From
//! then on the upload is a direct upload like others.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::layout::{DirectUpload, Layout, ReportedPart, UploadInParts};
use super::plan::Expected;
use crate::auth::tokens::UploadClaims;
use crate::error::{Error, Result};
use crate::store::limits::{MAX_PARTS, MIN_PART_SIZE};
use crate::store::{ImageKey, ObjectName, Upload};

/// An upload that was started. The `uploadId` of the client carries all of this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompanionUpload {
    pub upload: Upload,
    /// Tells this upload from others of its key. `None` if the key was drawn for this upload.
    pub id: Option<Uuid>,
    /// Maximum size of the image in bytes.
    pub max_size: u64,
}

/// A [`CompanionUpload`] as stored in a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompanionClaims {
    /// The `s3_key`.
    key: String,
    /// As [`PlanClaims::jti`](crate::auth::tokens::PlanClaims::jti).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    jti: Option<String>,
    /// The ID of the multipart upload in S3.
    upload: String,
    max_size: u64,
}

impl UploadClaims for CompanionClaims {
    const AUDIENCE: &str = "image-store/companion";
}

impl CompanionUpload {
    /// Returns the upload that a token carries. It is not checked again, because the service signed it.
    ///
    /// # Errors
    /// Returns [`Error::InvalidToken`] (401 `invalid_token`) if the key or the ID is not valid.
    pub fn from_claims(claims: CompanionClaims) -> Result<Self> {
        let other = || Error::InvalidToken(Some("the upload in the token has an unknown format".into()));
        let key = ImageKey::parse(&claims.key).ok_or_else(other)?;
        let id = claims.jti.as_deref().map(Uuid::try_parse).transpose().map_err(|_| other())?;
        let upload = Upload { name: ObjectName::Incoming(key), id: claims.upload };
        Ok(CompanionUpload { upload, id, max_size: claims.max_size })
    }

    pub fn claims(&self) -> CompanionClaims {
        let (Upload { name, id: upload }, jti) = (&self.upload, self.id.map(|id| id.to_string()));
        CompanionClaims { key: name.key().to_string(), jti, upload: upload.clone(), max_size: self.max_size }
    }

    pub fn key(&self) -> &ImageKey {
        self.upload.name.key()
    }

    /// Returns the name of the final image.
    pub fn image(&self) -> ObjectName {
        ObjectName::Image(self.key().clone())
    }

    /// Returns the number of parts of the largest allowed image.
    pub fn max_parts(&self) -> u32 {
        let parts = self.max_size.div_ceil(MIN_PART_SIZE).clamp(1, MAX_PARTS.into());
        u32::try_from(parts).unwrap_or(MAX_PARTS)
    }

    /// Returns the upload as complete and abort see it. `parts` are those that the client reports.
    pub fn direct_upload(&self, parts: Vec<ReportedPart>) -> DirectUpload {
        let layout = Layout::Reported { parts: parts.into(), max_size: self.max_size };
        DirectUpload {
            key: self.key().clone(),
            parts: Some(UploadInParts { upload: self.upload.clone(), layout }),
            expected: Expected { origin: self.id, max_size: Some(self.max_size), ..Expected::default() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_contains_the_whole_upload() {
        let name = ObjectName::Incoming(ImageKey::random("png"));
        let drawn = CompanionUpload { upload: Upload { name, id: "a/b+c=&%".to_owned() }, id: None, max_size: 7 };
        let fixed = CompanionUpload { id: Some(Uuid::new_v4()), ..drawn.clone() };
        for upload in [drawn, fixed] {
            let claims = serde_json::to_string(&upload.claims()).unwrap();
            assert_eq!(CompanionUpload::from_claims(serde_json::from_str(&claims).unwrap()).unwrap(), upload);
            for other in [
                CompanionClaims { key: "x".to_owned(), ..upload.claims() },
                CompanionClaims { jti: Some("x".to_owned()), ..upload.claims() },
            ] {
                assert_eq!(CompanionUpload::from_claims(other).unwrap_err().code(), "invalid_token");
            }
        }
    }

    #[test]
    fn number_of_parts_follows_from_the_size_limit() {
        let parts = |max_size| {
            let name = ObjectName::Incoming(ImageKey::random("png"));
            CompanionUpload { upload: Upload { name, id: String::new() }, id: None, max_size }.max_parts()
        };
        assert_eq!(parts(1), 1);
        assert_eq!(parts(MIN_PART_SIZE), 1);
        assert_eq!(parts(MIN_PART_SIZE + 1), 2);
        assert_eq!(parts(5_000_000_000), 954);
        assert_eq!(parts(u64::MAX), MAX_PARTS);
    }
}
