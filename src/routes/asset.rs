//! Files that lie in the binary, and how they are answered.

use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::response::{IntoResponse, Response};
use crc_fast::{CrcAlgorithm, Digest};
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
pub fn tag(assets: &[Asset]) -> String {
    let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
    assets.iter().for_each(|asset| digest.update(asset.bytes));
    format!("\"{:016x}\"", digest.finalize())
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
    let etag = [(header::ETAG, tag)];
    let known = headers.get(header::IF_NONE_MATCH).and_then(|tags| tags.to_str().ok());
    if known.is_some_and(|tags| tags.contains(tag)) {
        return Ok((StatusCode::NOT_MODIFIED, [FRESH], etag).into_response());
    }
    // For an icon that is opened by itself: SVG is a document, too.
    let policy = [(header::CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'")];
    let content_type = [(header::CONTENT_TYPE, asset.content_type)];
    let mut response = ([FRESH], etag, policy, content_type, asset.bytes).into_response();
    if let Some(encoding) = asset.encoding {
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
    }
    Ok(response)
}
