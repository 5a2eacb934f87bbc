//! `GET /uploaded`: the page that a browser shows after it has sent a form without a script.
//!
//! The page's address carries what it shows, in a token. It is valid as long as the link in the JSON response of the same
//! upload, and leads to nothing else.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde::{Deserialize, Serialize};
use std::time::{Duration, SystemTime};

use super::ServiceBase;
use crate::auth::tokens::UploadClaims;
use crate::direct::presign::rfc3339;
use crate::error::{Error, Result};
use crate::server::App;
use crate::server::html;
use crate::server::middleware::access_log::{field, record_field};
use crate::store::{ImageKey, ObjectName, PresignOptions};

const PAGE: &str = include_str!("../../../web/uploaded.html");

/// What the page shows, as stored in its address.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Uploaded {
    key: String,
    #[serde(rename = "type")]
    content_type: String,
    size: u64,
    width: u32,
    height: u32,
    /// When the page and its link expire, in seconds since 1970.
    until: u64,
}

impl UploadClaims for Uploaded {
    const AUDIENCE: &str = "image-store/uploaded";
}

#[derive(Deserialize)]
pub struct ImageQuery {
    image: String,
}

impl Uploaded {
    /// `ttl` is the lifetime of the page and its link.
    pub fn new(key: String, content_type: String, size: u64, (width, height): (u32, u32), ttl: Duration) -> Self {
        Uploaded { key, content_type, size, width, height, until: seconds(SystemTime::now() + ttl) }
    }

    /// Redirects to the page, so that reloading it does not send the form again. The API key named `kid` has stored the
    /// image.
    pub fn see_other(self, app: &App, kid: Option<&str>) -> Result<Response> {
        let token = app.tokens.sign(self, kid)?;
        // Relative, so that it is correct behind any proxy.
        Ok((StatusCode::SEE_OTHER, [(header::LOCATION, format!("./uploaded?image={token}"))]).into_response())
    }
}

/// `GET /uploaded`.
pub async fn page(
    State(app): State<App>,
    ServiceBase(base): ServiceBase,
    query: Result<Query<ImageQuery>, QueryRejection>,
) -> Result<Response> {
    let Query(ImageQuery { image }) = query.map_err(|_| Error::NotFound)?;
    let (uploaded, _): (Uploaded, _) = app.tokens.read(&image).map_err(|_| Error::NotFound)?;
    let key = ImageKey::parse(&uploaded.key).ok_or(Error::NotFound)?;
    record_field(field::S3_KEY, key.as_str());
    let left =
        uploaded.until.checked_sub(seconds(SystemTime::now())).filter(|left| *left > 0).ok_or(Error::NotFound)?;
    let options = PresignOptions { ttl: Duration::from_secs(left), base };
    let link = app.store.presign_get(&ObjectName::Image(key), &options).await.map_err(Error::from)?;
    Ok(html::page(
        "Image uploaded",
        PAGE,
        &[
            ("url", &link.url),
            ("s3_key", &uploaded.key),
            ("content_type", &uploaded.content_type),
            ("size", &uploaded.size.to_string()),
            ("width", &uploaded.width.to_string()),
            ("height", &uploaded.height.to_string()),
            ("expires_at", &rfc3339(link.expires_at)),
        ],
    ))
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}
