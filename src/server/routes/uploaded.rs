//! `GET /uploaded`: the page that a browser shows after it has sent a form without a script.
//!
//! The page's address carries what it shows, in a token. It is valid as long as the link in the JSON response of the same
//! upload, and leads to nothing else.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use bytesize::ByteSize;
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
            ("size", &size(uploaded.size)),
            ("width", &uploaded.width.to_string()),
            ("height", &uploaded.height.to_string()),
            ("expires_at", &date(link.expires_at)),
        ],
    ))
}

/// Returns a size for people.
fn size(bytes: u64) -> String {
    if bytes < 1000 { format!("{bytes} bytes") } else { ByteSize(bytes).display().si().to_string() }
}

/// Returns a time for people, whose time zone is unknown: `2026-11-26 14:05 UTC`.
fn date(time: SystemTime) -> String {
    let text = rfc3339(time);
    let minutes = text.rsplit_once(':').map_or(&*text, |(minutes, _)| minutes);
    format!("{} UTC", minutes.replace('T', " "))
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_for_people() {
        assert_eq!([size(999), size(4_723_712)], ["999 bytes", "4.7 MB"]);
        assert_eq!(date(SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_701_959)), "2026-11-26 14:05 UTC");
    }
}
