//! The plan of a direct upload, the sizes of its parts, and the links that carry the plan. Pure: no I/O.

use hex::FromHex;
use serde::de::{Deserializer, Error as _, Unexpected};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::auth::tokens::PlanClaims;
use crate::error::{Error, Result};
use crate::format::Format;
use crate::policy::Policy;
use crate::store::{ImageKey, ObjectName, Part, Upload};

/// Maximum number of parts of a plan, because the answer lists all of them.
const PLAN_PARTS: u64 = 100;
/// Part sizes are multiples of this.
const PART_STEP: u64 = 1 << 20;

/// The body of `POST /uploads`: the file that a client is going to upload.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with filename, size and optionally content_type and sha256")]
#[schema(as = UploadRequest)]
pub struct UploadRequest {
    /// The file's name. Its extension, if it has one, must be of an accepted format and becomes the key's extension.
    #[schema(examples("photo.png"))]
    pub filename: String,
    /// The file's media type. If it is missing or empty (browsers leave it empty for many files), it is derived from
    /// the extension.
    #[schema(examples("image/png"))]
    pub content_type: Option<String>,
    /// The file's exact size in bytes.
    #[schema(minimum = 1, examples(482_113))]
    #[serde(deserialize_with = "whole")]
    pub size: u64,
    /// SHA-256 of the file in hexadecimal, which S3 verifies. Supported only for a single PUT.
    #[schema(
        pattern = "^[0-9a-fA-F]{64}$",
        examples("688011d168af08899c9584648230b4739852c97f9bf4201d3fd8b448084b64e3")
    )]
    pub sha256: Option<String>,
}

/// A direct upload. Its links carry all of this.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    pub key: ImageKey,
    /// Tells this plan from other uploads of its key. `None` if the key was drawn for this plan.
    pub id: Option<Uuid>,
    /// Exact size in bytes.
    pub size: u64,
    /// The declared format. The format of the bytes is detected later.
    pub format: Format,
    pub method: UploadMethod,
}

/// How the bytes reach S3.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UploadMethod {
    Put {
        sha256: Option<[u8; 32]>,
    },
    Multipart {
        upload_id: String,
        /// Size in bytes of every part except the last.
        part_size: u64,
    },
}

/// A request that was checked, before a multipart upload is created for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidatedRequest {
    pub key: ImageKey,
    pub size: u64,
    pub format: Format,
    pub sha256: Option<[u8; 32]>,
}

impl UploadRequest {
    /// Checks the wish by the policy and gives it a key: a fresh one, unless it is `fixed`.
    pub fn check(&self, policy: &Policy, fixed: Option<ImageKey>) -> Result<ValidatedRequest> {
        let (drawn, format) = draw_key(Some(&self.filename), self.content_type.as_deref(), policy)?;
        if self.size == 0 {
            return Err(Error::InvalidRequest("size must be at least 1 byte".to_owned()));
        }
        policy.check_size(self.size)?;
        let sha256 = self.sha256.as_deref().map(parse_sha256).transpose()?;
        Ok(ValidatedRequest { key: fixed.unwrap_or(drawn), size: self.size, format, sha256 })
    }
}

/// Returns a random key for an image of this file name and declared type, and the declared format.
///
/// The key's extension is the name's, if it has one, otherwise the declared format's. If no type is declared, a policy for
/// one key determines the format.
pub fn draw_key(filename: Option<&str>, content_type: Option<&str>, policy: &Policy) -> Result<(ImageKey, Format)> {
    let named = filename.map(|name| policy.check_name(name)).transpose()?.flatten();
    let declared = content_type.filter(|declared| !declared.is_empty());
    let declared = declared.map(|declared| declared_format(declared, policy)).transpose()?;
    let implied = || policy.byte_formats().find(|format| policy.key_format == Some(*format));
    let format = declared.or_else(implied).or(named.map(|(format, _)| format));
    let format = format.filter(|format| policy.allows_bytes(*format)).ok_or_else(|| policy.invalid_type(None))?;
    let extension = named.map_or(format.extensions()[0], |(_, extension)| extension);
    Ok((ImageKey::random(extension), format))
}

/// Deserializes an integer. JSON has one type of number, so `5.0` is an integer too.
fn whole<'de, D: Deserializer<'de>>(number: D) -> Result<u64, D::Error> {
    let number = serde_json::Number::deserialize(number)?;
    let float = number.as_f64().unwrap_or(f64::NAN);
    let text = (float.fract() == 0.0).then(|| format!("{float:.0}"));
    let whole = number.as_u64().or_else(|| text?.parse().ok());
    whole.ok_or_else(|| D::Error::invalid_value(Unexpected::Float(float), &"a whole number of bytes, 0 or more"))
}

fn declared_format(content_type: &str, policy: &Policy) -> Result<Format> {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let format = Format::from_content_type(essence).filter(|format| policy.allows_bytes(*format));
    format.ok_or_else(|| policy.invalid_type(None))
}

/// Returns the part size for a file of `size` bytes: `least`, or a larger size so that there are at most 100 parts.
pub fn part_size(size: u64, least: u64) -> u64 {
    size.div_ceil(PLAN_PARTS).next_multiple_of(PART_STEP).max(least)
}

/// Returns the sizes of the parts of a file, in order.
pub fn part_sizes(size: u64, part_size: u64) -> impl ExactSizeIterator<Item = u64> {
    let count = usize::try_from(size.div_ceil(part_size)).unwrap_or(usize::MAX);
    (0..count).map(move |index| part_size.min(size - index as u64 * part_size))
}

/// The difference between the parts that S3 has and those of a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Numbers of planned parts that are missing or have another size.
    pub missing: Vec<u32>,
    /// Numbers of parts that are not in the plan.
    pub unexpected: Vec<u32>,
}

/// Compares the parts that S3 has with those of a plan.
pub fn compare(held: &[Part], size: u64, part_size: u64) -> Comparison {
    let planned: Vec<(u32, u64)> = (1..).zip(part_sizes(size, part_size)).collect();
    let is_held = |(number, size): &(u32, u64)| held.iter().any(|part| part.number == *number && part.size == *size);
    Comparison {
        missing: planned.iter().filter(|part| !is_held(part)).map(|(number, _)| *number).collect(),
        unexpected: held.iter().map(|part| part.number).filter(|number| *number as usize > planned.len()).collect(),
    }
}

/// The query of the links of a plan.
#[derive(Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Query {
    /// The plan, signed by the service. It permits completing, reading the status of and aborting this upload, and
    /// expires after one day.
    #[param(min_length = 1, example = "eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl")]
    pub plan: String,
}

/// The expected properties of an uploaded object.
///
/// For an S3 event there are none, and none are required. Events reach the service only as a Lambda function, so the
/// store is AWS, which checked the signed length and SHA-256 of a PUT before it created the object. The object of an
/// upload in parts is created only by a complete request, which first checks the parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// The ID of the upload that has sent the object ([`ObjectInfo::origin`](crate::store::ObjectInfo::origin)). `None` if there
    /// is no other upload of the key.
    pub origin: Option<Uuid>,
    /// Size in bytes.
    pub size: Option<u64>,
    /// Maximum size in bytes, if the size was not declared.
    pub max_size: Option<u64>,
    pub sha256: Option<[u8; 32]>,
}

impl Plan {
    /// Returns the plan that a token carries. It is not checked again, because the service signed it.
    ///
    /// # Errors
    /// Returns [`Error::InvalidToken`] (401 `invalid_token`) if a release with another plan format signed it.
    pub fn from_claims(claims: PlanClaims) -> Result<Plan> {
        let other = || Error::InvalidToken(Some("the plan in the token has an unknown format".into()));
        let sha256 = claims.sha256.as_deref().map(parse_sha256).transpose().map_err(|_| other())?;
        let method = match (claims.upload, claims.part_size) {
            (None, None) => UploadMethod::Put { sha256 },
            (Some(upload_id), Some(part_size)) if part_size > 0 => UploadMethod::Multipart { upload_id, part_size },
            _ => return Err(other()),
        };
        let key = ImageKey::parse(&claims.key).ok_or_else(other)?;
        let id = claims.jti.as_deref().map(Uuid::try_parse).transpose().map_err(|_| other())?;
        let format = Format::from_content_type(&claims.content_type).ok_or_else(other)?;
        Ok(Plan { key, id, size: claims.size, format, method })
    }

    pub fn claims(&self) -> PlanClaims {
        let (sha256, upload, part_size) = match &self.method {
            UploadMethod::Put { sha256 } => (sha256.as_ref().map(hex::encode), None, None),
            UploadMethod::Multipart { upload_id, part_size } => (None, Some(upload_id.clone()), Some(*part_size)),
        };
        let content_type = self.format.content_type().to_owned();
        let (key, jti) = (self.key.to_string(), self.id.map(|id| id.to_string()));
        PlanClaims { key, jti, size: self.size, content_type, sha256, upload, part_size }
    }

    /// Returns the name of the object that the client uploads.
    pub fn incoming(&self) -> ObjectName {
        ObjectName::Incoming(self.key.clone())
    }

    /// Returns the name of the final image.
    pub fn image(&self) -> ObjectName {
        ObjectName::Image(self.key.clone())
    }

    /// Returns the multipart upload and its part size. `None` if the plan is a single PUT.
    pub fn upload(&self) -> Option<(Upload, u64)> {
        match &self.method {
            UploadMethod::Put { .. } => None,
            UploadMethod::Multipart { upload_id, part_size } => {
                Some((Upload { name: self.incoming(), id: upload_id.clone() }, *part_size))
            }
        }
    }

    /// Returns the expected properties of the object under `incoming/`.
    pub fn expected(&self) -> Expected {
        let sha256 = match self.method {
            UploadMethod::Put { sha256 } => sha256,
            UploadMethod::Multipart { .. } => None,
        };
        Expected { origin: self.id, size: Some(self.size), max_size: None, sha256 }
    }

    /// Returns the links that carry the plan as `token`.
    pub fn links(&self, base: Option<&str>, token: &str) -> UploadLinks {
        // A token contains only characters that need no escaping in a query (RFC 7515, 2: base64url and dots).
        let upload = format!("{}/uploads/{}", base.unwrap_or_default(), self.key);
        UploadLinks {
            complete_url: format!("{upload}/complete?plan={token}"),
            status_url: format!("{upload}?plan={token}"),
            abort_url: format!("{upload}?plan={token}"),
        }
    }
}

/// The links of a plan. They are relative references unless the service's address is known (`PUBLIC_URL`).
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = UploadLinks)]
pub struct UploadLinks {
    /// Completes the upload (POST), after all bytes were sent.
    #[schema(
        format = "uri-reference",
        examples(
            "/uploads/0c6f1c1e-5d0b-4f6e-9d3a-1f2e3d4c5b6a.png/complete?plan=eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl"
        )
    )]
    pub complete_url: String,
    /// Returns the status of the upload (GET).
    #[schema(
        format = "uri-reference",
        examples("/uploads/0c6f1c1e-5d0b-4f6e-9d3a-1f2e3d4c5b6a.png?plan=eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl")
    )]
    pub status_url: String,
    /// Aborts the upload and removes its data (DELETE).
    #[schema(
        format = "uri-reference",
        examples("/uploads/0c6f1c1e-5d0b-4f6e-9d3a-1f2e3d4c5b6a.png?plan=eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl")
    )]
    pub abort_url: String,
}

fn parse_sha256(text: &str) -> Result<[u8; 32]> {
    let bad = |_| Error::InvalidRequest("sha256 must be 64 hexadecimal digits".to_owned());
    <[u8; 32]>::from_hex(text).map_err(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn policy() -> Policy {
        Policy {
            formats: vec![Format::Jpeg, Format::Png],
            key_format: None,
            max_upload_size: 5_000_000_000,
            max_pixels: 0,
            header_scan_limit: 1 << 20,
        }
    }

    fn wish(filename: &str, content_type: Option<&str>, size: u64) -> UploadRequest {
        UploadRequest {
            filename: filename.to_owned(),
            content_type: content_type.map(str::to_owned),
            size,
            sha256: None,
        }
    }

    #[test]
    fn plan_has_at_most_100_parts() {
        assert_eq!(part_size(100 * MIB + 1, 5 * MIB), 5 * MIB);
        assert_eq!(part_size(500 * MIB, 5 * MIB), 5 * MIB);
        assert_eq!(part_size(500 * MIB + 1, 5 * MIB), 6 * MIB);
        assert_eq!(part_size(5_000_000_000, 5 * MIB), 48 * MIB);
        assert_eq!(part_size(MIB, 64 * MIB), 64 * MIB);
        for size in [100 * MIB + 1, 500 * MIB, 500 * MIB + 1, 4_999_999_999, 5_000_000_000] {
            let part = part_size(size, 5 * MIB);
            let sizes: Vec<u64> = part_sizes(size, part).collect();
            assert!(sizes.len() <= 100);
            assert_eq!(sizes.iter().sum::<u64>(), size);
            assert!(sizes[..sizes.len() - 1].iter().all(|each| *each == part));
            assert!((1..=part).contains(sizes.last().unwrap()));
        }
    }

    #[test]
    fn parts_are_compared_by_number_and_size() {
        let part = |number, size| Part { number, size, etag: None, crc64: None };
        let sizes = (12 * MIB, 5 * MIB);
        let whole = [part(1, 5 * MIB), part(2, 5 * MIB), part(3, 2 * MIB)];
        assert_eq!(compare(&whole, sizes.0, sizes.1), Comparison::default());
        assert_eq!(compare(&whole[..2], sizes.0, sizes.1).missing, [3]);
        assert_eq!(compare(&[part(1, 5 * MIB - 1), part(3, 2 * MIB)], sizes.0, sizes.1).missing, [1, 2]);
        assert_eq!(compare(&[&whole[..], &[part(4, 1)]].concat(), sizes.0, sizes.1).unexpected, [4]);
    }

    #[test]
    fn file_name_and_declared_type_must_both_be_allowed() {
        let policy = policy();
        let ok = |wish: UploadRequest| {
            wish.check(&policy, None).map(|draft| (draft.key.extension().to_owned(), draft.format)).unwrap()
        };
        assert_eq!(ok(wish("a.JPEG", None, 1)), ("jpeg".to_owned(), Format::Jpeg));
        assert_eq!(ok(wish("a.png", Some("image/jpeg"), 1)), ("png".to_owned(), Format::Jpeg));
        assert_eq!(ok(wish("photo", Some("image/jpg"), 1)), ("jpg".to_owned(), Format::Jpeg));
        assert_eq!(ok(wish("photo.jfif", Some(""), 1)), ("jpg".to_owned(), Format::Jpeg));
        for bad in [
            wish("a.svg", None, 1),
            wish("a.png", Some("text/html"), 1),
            wish("a.gif", None, 1),
            wish("a", None, 1),
            wish("a", Some(""), 1),
        ] {
            assert_eq!(bad.check(&policy, None).unwrap_err().code(), "invalid_file_type", "{bad:?}");
        }
        assert_eq!(wish("a.png", None, 0).check(&policy, None).unwrap_err().code(), "invalid_request");
        assert_eq!(wish("a.png", None, 5_000_000_001).check(&policy, None).unwrap_err().code(), "payload_too_large");
    }

    #[test]
    fn a_plan_for_a_fixed_key_is_of_the_key_s_format() {
        let key = ImageKey::random("jpg");
        let policy = policy().within(None, None, key.format());
        let planned = |wish: UploadRequest| wish.check(&policy, Some(key.clone()));
        for right in [("a.jpg", None), ("a.png", None), ("a", None), ("a.png", Some("image/jpeg")), ("", Some(""))] {
            let planned = planned(wish(right.0, right.1, 1)).unwrap();
            assert_eq!((&planned.key, planned.format), (&key, Format::Jpeg), "{right:?}");
        }
        for wrong in [("a.jpg", Some("image/png")), ("a.svg", None), ("a.gif", Some("image/jpeg"))] {
            let Err(Error::InvalidFileType { accepted, .. }) = planned(wish(wrong.0, wrong.1, 1)) else {
                panic!("{wrong:?}")
            };
            assert_eq!(accepted, ["jpeg"], "{wrong:?}");
        }
    }

    #[test]
    fn token_contains_the_whole_plan() {
        let methods = [
            UploadMethod::Put { sha256: None },
            UploadMethod::Put { sha256: Some([0xab; 32]) },
            UploadMethod::Multipart { upload_id: "a/b+c=&%".to_owned(), part_size: 5 * MIB },
        ];
        for method in methods {
            for id in [None, Some(Uuid::new_v4())] {
                let (key, method) = (ImageKey::random("png"), method.clone());
                let plan = Plan { key, id, size: 12 * MIB, format: Format::Jpeg, method };
                let claims = serde_json::to_string(&plan.claims()).unwrap();
                assert_eq!(Plan::from_claims(serde_json::from_str(&claims).unwrap()).unwrap(), plan);
            }
        }
    }

    #[test]
    fn plan_of_another_release_is_an_invalid_token() {
        let plan = Plan {
            key: ImageKey::random("png"),
            id: None,
            size: 1,
            format: Format::Png,
            method: UploadMethod::Put { sha256: None },
        };
        let error_code = |change: fn(&mut PlanClaims)| {
            let mut claims = plan.claims();
            change(&mut claims);
            Plan::from_claims(claims).unwrap_err().code()
        };
        let changes: [fn(&mut PlanClaims); 7] = [
            |claims| claims.key = "x".to_owned(),
            |claims| claims.jti = Some("1".to_owned()),
            |claims| claims.content_type = "text/html".to_owned(),
            |claims| claims.sha256 = Some("é".repeat(32)),
            |claims| claims.upload = Some("a".to_owned()),
            |claims| claims.part_size = Some(5),
            |claims| (claims.upload, claims.part_size) = (Some("a".to_owned()), Some(0)),
        ];
        assert!(changes.into_iter().all(|change| error_code(change) == "invalid_token"));
    }
}
