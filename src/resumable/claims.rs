//! A resumable upload as its token contains it.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::auth::tokens::UploadClaims;
use crate::error::{Error, Result};
use crate::store::{ImageKey, Kept, ObjectName, Upload};

/// A resumable upload, as stored in the token of its address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResumableClaims {
    /// The `s3_key`.
    pub key: String,
    /// The ID of this upload, which is also in the image's metadata.
    pub jti: String,
    /// The ID of the multipart upload in S3. Missing if the whole file came with the request that created the upload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload: Option<String>,
    /// The length of the file in bytes, if it was known at the creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    /// Size in bytes of every part except the last.
    pub part_size: u64,
    /// Maximum length of the file in bytes.
    pub max_size: u64,
    /// Whether the key was fixed beforehand, so that others may upload under it too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fixed: bool,
    /// `Upload-Metadata` of the request that has created the upload, if it was one of tus. tus requires that it is returned
    /// with the state of the upload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<String>,
}

impl UploadClaims for ResumableClaims {
    const AUDIENCE: &str = "image-store/resumable";
}

/// A resumable upload that was created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResumableUpload {
    pub key: ImageKey,
    /// The ID of this upload (the token's `jti`), which is also in the image's metadata.
    pub id: Uuid,
    /// The ID of the multipart upload in S3. `None` if the whole file came with the request that created the upload.
    pub upload_id: Option<String>,
    /// The length of the file in bytes, if it was known at the creation.
    pub length: Option<u64>,
    /// Size in bytes of every part except the last.
    pub part_size: u64,
    /// Maximum length of the file in bytes.
    pub max_size: u64,
    /// Whether the key was fixed beforehand, so that others may upload under it too.
    pub is_fixed_key: bool,
    /// `Upload-Metadata` of the request that has created the upload, if it was one of tus.
    pub tus_metadata: Option<String>,
}

impl ResumableUpload {
    /// Returns the upload that a token carries. It is not checked again, because the service signed it.
    ///
    /// # Errors
    /// Returns [`Error::InvalidToken`] (401 `invalid_token`) if a release with another format signed it.
    pub fn from_claims(claims: ResumableClaims) -> Result<ResumableUpload> {
        let other = || Error::InvalidToken(Some("the upload in the token has an unknown format".into()));
        let ResumableClaims { key, jti, upload, length, part_size, max_size, fixed, metadata } = claims;
        if part_size == 0 {
            return Err(other());
        }
        Ok(ResumableUpload {
            key: ImageKey::parse(&key).ok_or_else(other)?,
            id: Uuid::try_parse(&jti).map_err(|_| other())?,
            upload_id: upload,
            length,
            part_size,
            max_size,
            is_fixed_key: fixed,
            tus_metadata: metadata,
        })
    }

    pub fn claims(&self) -> ResumableClaims {
        ResumableClaims {
            key: self.key.to_string(),
            jti: self.id.to_string(),
            upload: self.upload_id.clone(),
            length: self.length,
            part_size: self.part_size,
            max_size: self.max_size,
            fixed: self.is_fixed_key,
            metadata: self.tus_metadata.clone(),
        }
    }

    /// Returns the name of the image.
    pub fn image(&self) -> ObjectName {
        ObjectName::Image(self.key.clone())
    }

    /// Returns the multipart upload. `None` if there never was one.
    pub(super) fn multipart(&self) -> Option<Upload> {
        self.upload_id.clone().map(|id| Upload { name: self.image(), id })
    }

    /// Returns the name of an object that the upload keeps apart from its parts.
    pub(super) fn kept(&self, kept: Kept) -> ObjectName {
        ObjectName::Resumable { key: self.key.clone(), id: self.id, kept }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_contain_the_whole_upload() {
        let upload = ResumableUpload {
            key: ImageKey::random("png"),
            id: Uuid::new_v4(),
            upload_id: Some("an/id".to_owned()),
            length: Some(7),
            part_size: 5 << 20,
            max_size: 9,
            is_fixed_key: true,
            tus_metadata: Some("filename YS5qcGc=,\"".to_owned()),
        };
        let least = ResumableUpload {
            upload_id: None,
            length: None,
            is_fixed_key: false,
            tus_metadata: None,
            ..upload.clone()
        };
        for upload in [upload, least] {
            let json = serde_json::to_string(&upload.claims()).unwrap();
            assert_eq!(ResumableUpload::from_claims(serde_json::from_str(&json).unwrap()).unwrap(), upload);
        }
    }

    #[test]
    fn other_claims_are_rejected() {
        let claims = ResumableClaims {
            key: ImageKey::random("png").to_string(),
            jti: Uuid::new_v4().to_string(),
            upload: None,
            length: None,
            part_size: 1,
            max_size: 1,
            fixed: false,
            metadata: None,
        };
        assert!(ResumableUpload::from_claims(claims.clone()).is_ok());
        for wrong in [
            ResumableClaims { key: "a.png".to_owned(), ..claims.clone() },
            ResumableClaims { jti: "1".to_owned(), ..claims.clone() },
            ResumableClaims { part_size: 0, ..claims },
        ] {
            let rejected = ResumableUpload::from_claims(wrong).unwrap_err();
            assert_eq!(rejected.code(), "invalid_token");
        }
    }
}
