//! Files that are embedded in the binary, and the responses that contain them.

use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::response::{IntoResponse, Response};
use headers::{ETag, HeaderMapExt, IfNoneMatch};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use crate::crc64;
use crate::error::{Error, Result};

pub struct Asset {
    pub name: &'static str,
    pub content_type: &'static str,
    pub bytes: &'static [u8],
    /// The content coding of `bytes`, if they are compressed. All browsers support gzip.
    pub encoding: Option<&'static str>,
}

pub const CSS: &str = "text/css; charset=utf-8";
pub const JS: &str = "text/javascript; charset=utf-8";
pub const SVG: &str = "image/svg+xml";

/// Makes browsers revalidate the file on each use. The response is nearly always 304.
pub const FRESH: (HeaderName, HeaderValue) = (header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));

/// Returns one tag for all assets of a page, so that a browser's cache never mixes modules of different releases.
pub fn tag_all(assets: &[Asset]) -> String {
    tag(assets.iter().map(|asset| asset.bytes))
}

/// Returns one tag for all of `contents`.
pub fn tag<'a>(contents: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut digest = crc64::digest();
    contents.into_iter().for_each(|content| digest.update(content));
    format!("\"{:016x}\"", digest.finalize())
}

/// Returns 304 if the client already has the content with this `tag`, otherwise `None`.
pub fn not_modified(tag: &str, headers: &HeaderMap) -> Option<Response> {
    let known: IfNoneMatch = headers.typed_get()?;
    let tagged: ETag = tag.parse().ok()?;
    (!known.precondition_passes(&tagged))
        .then(|| (StatusCode::NOT_MODIFIED, [FRESH], [(header::ETAG, tag)]).into_response())
}

/// Returns the response with the asset that the path names. `tag` is that of all assets.
pub fn answer(
    assets: &[Asset],
    tag: &str,
    file: Result<Path<String>, PathRejection>,
    headers: &HeaderMap,
) -> Result<Response> {
    let asset =
        file.ok().and_then(|Path(file)| assets.iter().find(|asset| asset.name == file)).ok_or(Error::NoRoute)?;
    if let Some(response) = not_modified(tag, headers) {
        return Ok(response);
    }
    // This applies if an icon is opened on its own, because an SVG file is a document.
    let policy = [(header::CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'")];
    let content_type = [(header::CONTENT_TYPE, asset.content_type)];
    let etag = [(header::ETAG, tag)];
    let mut response = ([FRESH], etag, policy, content_type, asset.bytes).into_response();
    if let Some(encoding) = asset.encoding {
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
    }
    Ok(response)
}
