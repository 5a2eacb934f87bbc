//! Files that lie in the binary, and how they are answered.

use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::response::{IntoResponse, Response};
use crc_fast::{CrcAlgorithm, Digest};
use headers::{ETag, HeaderMapExt, IfNoneMatch};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use crate::error::{Error, Result};

pub struct Asset {
    pub name: &'static str,
    pub content_type: &'static str,
    pub bytes: &'static [u8],
    /// Compressed so, if at all: every browser takes gzip.
    pub encoding: Option<&'static str>,
}

pub const CSS: &str = "text/css; charset=utf-8";
pub const JS: &str = "text/javascript; charset=utf-8";
pub const SVG: &str = "image/svg+xml";

/// Asked again each time, and nearly always answered with 304.
pub const FRESH: (HeaderName, HeaderValue) = (header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));

/// One tag for all assets of a page: a module of one release never meets a module of another in a browser's cache.
pub fn tag_all(assets: &[Asset]) -> String {
    tag(assets.iter().map(|asset| asset.bytes))
}

/// One tag for all of `contents`.
pub fn tag<'a>(contents: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
    contents.into_iter().for_each(|content| digest.update(content));
    format!("\"{:016x}\"", digest.finalize())
}

/// 304 for a client that has what `tag` is of.
pub fn not_modified(tag: &str, headers: &HeaderMap) -> Option<Response> {
    let known: IfNoneMatch = headers.typed_get()?;
    let tagged: ETag = tag.parse().ok()?;
    (!known.precondition_passes(&tagged))
        .then(|| (StatusCode::NOT_MODIFIED, [FRESH], [(header::ETAG, tag)]).into_response())
}

/// The asset a path names; `tag` is that of all of them.
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
    // For an icon that is opened by itself: SVG is a document, too.
    let policy = [(header::CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'")];
    let content_type = [(header::CONTENT_TYPE, asset.content_type)];
    let etag = [(header::ETAG, tag)];
    let mut response = ([FRESH], etag, policy, content_type, asset.bytes).into_response();
    if let Some(encoding) = asset.encoding {
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
    }
    Ok(response)
}
