//! `POST /grants`: creates a grant, which allows a client without an API key to upload.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;
use utoipa::ToSchema;

use crate::auth::grants::{Claims, DEFAULT_LIFETIME, MAX_LIFETIME};
use crate::direct::plan::draw_key;
use crate::direct::presign::rfc3339;
use crate::error::{Error, Result};
use crate::format::Format;
use crate::policy::Policy;
use crate::server::App;
use crate::server::json::JsonBody;
use crate::server::middleware::access_log::{field, record_field};
use crate::server::middleware::authority::Authority;
use crate::server::openapi::{GRANTS, answers};
use crate::store::ImageKey;

/// The limits of a grant. All fields are optional.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(
    deny_unknown_fields,
    expecting = "an object with expires_in, max_size, formats, filename, content_type and metadata, all optional"
)]
pub struct GrantRequest {
    /// Seconds until the grant expires. The default is 900, the maximum is one day.
    #[schema(minimum = 1, maximum = 86_400, examples(900))]
    pub expires_in: Option<u64>,
    /// Maximum size of an image in bytes. The service's own limit still applies.
    #[schema(minimum = 1, examples(10_000_000))]
    pub max_size: Option<u64>,
    /// The allowed image formats. Formats that the service does not accept are ignored.
    #[schema(min_items = 1, examples("jpeg"))]
    pub formats: Option<Vec<String>>,
    /// The name of the only file that the grant allows. With this or `content_type`, the image's key is drawn now.
    #[schema(examples("photo.png"))]
    pub filename: Option<String>,
    /// The media type of the only file that the grant allows.
    #[schema(examples("image/png"))]
    pub content_type: Option<String>,
    /// Stored with every image that is uploaded with the grant, and returned with it. At most 1 KiB of JSON.
    #[schema(examples("4711"))]
    pub metadata: Option<BTreeMap<String, String>>,
}

/// A grant.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Grant)]
pub struct NewGrant {
    /// The token. Send it as `Authorization: Bearer`, as a form field `grant` before `file`, or in the path.
    #[schema(examples("eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl"))]
    pub grant: String,
    /// The URL of the upload page with this grant. It is also the base URL of all upload routes with this grant.
    #[schema(format = "uri-reference", examples("/g/eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl/"))]
    pub url: String,
    /// When the grant expires (RFC 3339).
    #[schema(format = DateTime, examples("2026-11-22T12:15:00Z"))]
    pub expires_at: String,
    /// The key of the image, if the grant is for exactly one image.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = ImageKey, required = false)]
    pub s3_key: Option<String>,
}

/// Signs a grant with the API key of the request.
///
/// Nothing is stored. A backend can also sign grants itself, with the SHA-256 of its API key and any JSON Web Token
/// library.
#[utoipa::path(post, path = "/grants", tag = GRANTS, operation_id = "create_grant", request_body = GrantRequest,
    responses((status = 201, description = "The grant.", body = NewGrant), answers::Grant))]
pub async fn grant(
    State(app): State<App>,
    authority: Authority,
    JsonBody(request): JsonBody<GrantRequest>,
) -> Result<(StatusCode, Json<NewGrant>)> {
    let claims = request.claims(&app.policy)?;
    let (token, grant) = app.authorities.grants().mint(claims, authority.key_name().unwrap_or_default())?;
    if let Some(key) = &grant.key {
        record_field(field::S3_KEY, key.as_str());
    }
    let answer = NewGrant {
        url: format!("{}/g/{token}/", app.config.public_url.as_deref().unwrap_or_default()),
        grant: token,
        expires_at: rfc3339(grant.expires_at),
        s3_key: grant.key,
    };
    Ok((StatusCode::CREATED, Json(answer)))
}

impl GrantRequest {
    fn claims(self, policy: &Policy) -> Result<Claims> {
        let lifetime = self.expires_in.map_or(DEFAULT_LIFETIME, Duration::from_secs);
        if lifetime.is_zero() || lifetime > MAX_LIFETIME {
            let most = MAX_LIFETIME.as_secs();
            return Err(Error::InvalidRequest(format!("expires_in must be between 1 and {most} seconds")));
        }
        if self.max_size == Some(0) {
            return Err(Error::InvalidRequest("max_size must be at least 1 byte".to_owned()));
        }
        let formats = self.formats.as_deref().map(|names| accepted(names, policy)).transpose()?;
        let key = self.draw_key(&policy.within(None, formats.as_deref(), None))?;
        Ok(Claims {
            max_size: self.max_size,
            formats: formats.map(|formats| formats.into_iter().map(|format| format.name().to_owned()).collect()),
            key: key.map(|key| key.to_string()),
            metadata: self.metadata.unwrap_or_default(),
            ..Claims::lasting(lifetime)
        })
    }

    /// Draws the image's key, if the grant is for exactly one image. The rule is the same as for plans.
    fn draw_key(&self, policy: &Policy) -> Result<Option<ImageKey>> {
        if self.filename.is_none() && self.content_type.is_none() {
            return Ok(None);
        }
        draw_key(self.filename.as_deref(), self.content_type.as_deref(), policy).map(|(key, _)| Some(key))
    }
}

/// Returns the formats with these names. The service must accept at least one of them.
fn accepted(names: &[String], policy: &Policy) -> Result<Vec<Format>> {
    let known = |name: &String| {
        let format = Format::from_extension(name).map(|(format, _)| format);
        format.ok_or_else(|| Error::InvalidRequest(format!("formats: '{name}' is not a known image format")))
    };
    let mut formats: Vec<Format> = names.iter().map(known).collect::<Result<_>>()?;
    formats.sort_unstable();
    formats.dedup();
    if formats.iter().any(|format| policy.allows(*format)) { Ok(formats) } else { Err(policy.invalid_type(None)) }
}
