//! What a direct upload is to be, its arithmetic, and the links that carry it. Pure: no I/O.

use serde::de::{Deserializer, Error as _, Unexpected};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use utoipa::{IntoParams, ToSchema};

use crate::auth::tokens::PlanClaims;
use crate::error::{Error, Result};
use crate::format::Format;
use crate::policy::Policy;
use crate::store::{ImageKey, ObjectName, Part, Upload};

/// A plan's answer holds all its parts, so there are at most this many of them.
const PLAN_PARTS: u64 = 100;
/// Part sizes are whole multiples of this.
const PART_STEP: u64 = 1 << 20;

/// `POST /uploads`: what a client wants to send.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with filename, size and optionally content_type and sha256")]
#[schema(as = UploadRequest)]
pub struct UploadRequest {
    /// The file's name; its extension, where it has one, becomes the key's and must be of a format that is taken.
    #[schema(examples("photo.png"))]
    pub filename: String,
    /// The file's media type. Without one, or with an empty one as browsers give it for many files, it follows the
    /// extension.
    #[schema(examples("image/png"))]
    pub content_type: Option<String>,
    /// Bytes, exactly.
    #[schema(minimum = 1, examples(482_113))]
    #[serde(deserialize_with = "whole")]
    pub size: u64,
    /// SHA-256 of the file in hexadecimal, which S3 then checks; only for a single PUT.
    #[schema(
        pattern = "^[0-9a-fA-F]{64}$",
        examples("688011d168af08899c9584648230b4739852c97f9bf4201d3fd8b448084b64e3")
    )]
    pub sha256: Option<String>,
}

/// A direct upload: everything its links carry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    pub key: ImageKey,
    /// Bytes, exactly.
    pub size: u64,
    /// What was declared; what the bytes are is seen later.
    pub format: Format,
    pub door: UploadMethod,
}

/// How the bytes reach S3.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UploadMethod {
    Put {
        sha256: Option<[u8; 32]>,
    },
    Multipart {
        upload_id: String,
        /// Bytes of every part but the last.
        part_size: u64,
    },
}

/// What a wish comes to, before there is an upload id.
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

/// A fresh key for an image of which the file's name and declared type are known, and the format it is declared to have.
///
/// The key's extension is the name's, if it has one, else the declared format's. A policy for one key says the format itself
/// if no type is declared.
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

/// JSON has one kind of number: `5.0` is a whole one, too.
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

/// The part size for a file of `size` bytes: `least`, or larger so that there are at most 100 parts.
pub fn part_size(size: u64, least: u64) -> u64 {
    size.div_ceil(PLAN_PARTS).next_multiple_of(PART_STEP).max(least)
}

/// The sizes of the parts of a file, in order.
pub fn part_sizes(size: u64, part_size: u64) -> impl ExactSizeIterator<Item = u64> {
    let count = usize::try_from(size.div_ceil(part_size)).unwrap_or(usize::MAX);
    (0..count).map(move |index| part_size.min(size - index as u64 * part_size))
}

/// How what S3 holds compares with a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Numbers of planned parts that are not there, or not in their size.
    pub missing: Vec<u32>,
    /// Numbers of parts that are there and not planned.
    pub unexpected: Vec<u32>,
}

/// Compares the parts S3 holds with those of a plan.
pub fn compare(held: &[Part], size: u64, part_size: u64) -> Comparison {
    let planned: Vec<(u32, u64)> = (1..).zip(part_sizes(size, part_size)).collect();
    let is_held = |(number, size): &(u32, u64)| held.iter().any(|part| part.number == *number && part.size == *size);
    Comparison {
        missing: planned.iter().filter(|part| !is_held(part)).map(|(number, _)| *number).collect(),
        unexpected: held.iter().map(|part| part.number).filter(|number| *number as usize > planned.len()).collect(),
    }
}

/// The query of a plan's links.
#[derive(Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Query {
    /// The plan, signed by the service. Whoever has it may go on with this upload; good for a day.
    #[param(min_length = 1, example = "eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl")]
    pub plan: String,
}

/// What is known of an upload besides its key.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expected {
    /// Bytes.
    pub size: Option<u64>,
    pub sha256: Option<[u8; 32]>,
}

impl Plan {
    /// The plan that a token carries. The service has signed it, so nothing of it is checked again.
    ///
    /// # Errors
    /// 401 `invalid_token` if it was signed by a release that wrote plans in another way.
    pub fn from_claims(claims: PlanClaims) -> Result<Plan> {
        let other = || Error::InvalidToken(Some("its plan cannot be read".into()));
        let sha256 = claims.sha256.as_deref().map(parse_sha256).transpose().map_err(|_| other())?;
        let door = match (claims.upload, claims.part_size) {
            (None, None) => UploadMethod::Put { sha256 },
            (Some(upload_id), Some(part_size)) if part_size > 0 => UploadMethod::Multipart { upload_id, part_size },
            _ => return Err(other()),
        };
        let key = ImageKey::parse(&claims.key).ok_or_else(other)?;
        let format = Format::from_content_type(&claims.content_type).ok_or_else(other)?;
        Ok(Plan { key, size: claims.size, format, door })
    }

    pub fn claims(&self) -> PlanClaims {
        let (sha256, upload, part_size) = match &self.door {
            UploadMethod::Put { sha256 } => (sha256.as_ref().map(|sha256| hex(sha256)), None, None),
            UploadMethod::Multipart { upload_id, part_size } => (None, Some(upload_id.clone()), Some(*part_size)),
        };
        let content_type = self.format.content_type().to_owned();
        PlanClaims { key: self.key.to_string(), size: self.size, content_type, sha256, upload, part_size }
    }

    /// Where the bytes arrive.
    pub fn incoming(&self) -> ObjectName {
        ObjectName::Incoming(self.key.clone())
    }

    /// Where the image will be.
    pub fn image(&self) -> ObjectName {
        ObjectName::Image(self.key.clone())
    }

    /// The multipart upload, where the plan is one.
    pub fn upload(&self) -> Option<(Upload, u64)> {
        match &self.door {
            UploadMethod::Put { .. } => None,
            UploadMethod::Multipart { upload_id, part_size } => {
                Some((Upload { name: self.incoming(), id: upload_id.clone() }, *part_size))
            }
        }
    }

    /// What the object under `incoming/` must be.
    pub fn expected(&self) -> Expected {
        let sha256 = match self.door {
            UploadMethod::Put { sha256 } => sha256,
            UploadMethod::Multipart { .. } => None,
        };
        Expected { size: Some(self.size), sha256 }
    }

    /// The links that carry the plan, as `token`.
    pub fn links(&self, base: Option<&str>, token: &str) -> UploadLinks {
        // A token has no character that a query would have to escape (RFC 7515, 2: base64url and dots).
        let upload = format!("{}/uploads/{}", base.unwrap_or_default(), self.key);
        UploadLinks {
            complete_url: format!("{upload}/complete?plan={token}"),
            status_url: format!("{upload}?plan={token}"),
            abort_url: format!("{upload}?plan={token}"),
        }
    }
}

/// A plan's links: relative references, unless the service knows its own address (`PUBLIC_URL`).
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = UploadLinks)]
pub struct UploadLinks {
    /// POST here when everything is sent.
    #[schema(
        format = "uri-reference",
        examples(
            "/uploads/0c6f1c1e-5d0b-4f6e-9d3a-1f2e3d4c5b6a.png/complete?plan=eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl"
        )
    )]
    pub complete_url: String,
    /// GET here to see what has arrived.
    #[schema(
        format = "uri-reference",
        examples("/uploads/0c6f1c1e-5d0b-4f6e-9d3a-1f2e3d4c5b6a.png?plan=eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl")
    )]
    pub status_url: String,
    /// DELETE here to leave nothing.
    #[schema(
        format = "uri-reference",
        examples("/uploads/0c6f1c1e-5d0b-4f6e-9d3a-1f2e3d4c5b6a.png?plan=eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl")
    )]
    pub abort_url: String,
}

fn parse_sha256(text: &str) -> Result<[u8; 32]> {
    let bad = || Error::InvalidRequest("sha256 must be 64 hexadecimal digits".to_owned());
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(bad());
    }
    let mut sha256 = [0; 32];
    for (byte, at) in sha256.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| bad())?;
    }
    Ok(sha256)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
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
    fn a_plan_has_at_most_a_hundred_parts() {
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
    fn the_name_and_the_declared_type_must_both_be_allowed() {
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
    fn a_token_carries_the_whole_plan() {
        let doors = [
            UploadMethod::Put { sha256: None },
            UploadMethod::Put { sha256: Some([0xab; 32]) },
            UploadMethod::Multipart { upload_id: "a/b+c=&%".to_owned(), part_size: 5 * MIB },
        ];
        for door in doors {
            let plan = Plan { key: ImageKey::random("png"), size: 12 * MIB, format: Format::Jpeg, door };
            let claims = serde_json::to_string(&plan.claims()).unwrap();
            assert_eq!(Plan::from_claims(serde_json::from_str(&claims).unwrap()).unwrap(), plan);
        }
    }

    #[test]
    fn a_plan_of_another_release_is_refused() {
        let plan = Plan {
            key: ImageKey::random("png"),
            size: 1,
            format: Format::Png,
            door: UploadMethod::Put { sha256: None },
        };
        let refused = |change: fn(&mut PlanClaims)| {
            let mut claims = plan.claims();
            change(&mut claims);
            Plan::from_claims(claims).unwrap_err().code()
        };
        let changes: [fn(&mut PlanClaims); 6] = [
            |claims| claims.key = "x".to_owned(),
            |claims| claims.content_type = "text/html".to_owned(),
            |claims| claims.sha256 = Some("é".repeat(32)),
            |claims| claims.upload = Some("a".to_owned()),
            |claims| claims.part_size = Some(5),
            |claims| (claims.upload, claims.part_size) = (Some("a".to_owned()), Some(0)),
        ];
        assert!(changes.into_iter().all(|change| refused(change) == "invalid_token"));
    }
}
