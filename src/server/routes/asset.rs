//! Files that are embedded in the binary, and the responses that contain them.

use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::response::{IntoResponse, Response};
use headers::{ETag, HeaderMapExt, IfNoneMatch};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use std::sync::LazyLock;

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
/// For URLs that contain the version of their content.
const IMMUTABLE: (HeaderName, HeaderValue) =
    (header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable"));

/// The files of a page. Their URLs contain one version for all of them, so that a browser's cache never mixes the modules
/// of different releases, and never has to ask for a file again.
pub struct Assets {
    files: &'static [Asset],
    version: LazyLock<String>,
}

impl Assets {
    pub const fn new(files: &'static [Asset], version: fn() -> String) -> Self {
        Assets { files, version: LazyLock::new(version) }
    }

    /// Returns `html` with the version in its links to `folder`.
    pub fn versioned(&self, html: &str, folder: &str) -> String {
        html.replace(&format!("\"{folder}/"), &format!("\"{folder}/{}/", *self.version))
    }

    /// Returns the file that the path names.
    ///
    /// Another version gets the same file, but it is revalidated on each use: the page may come from a replica with another
    /// release, or name no version (`latest`).
    pub fn answer(&self, path: Result<Path<(String, String)>, PathRejection>, headers: &HeaderMap) -> Result<Response> {
        let Path((version, name)) = path.map_err(|_| Error::NoRoute)?;
        let file = self.files.iter().find(|file| file.name == name).ok_or(Error::NoRoute)?;
        let tag = format!("\"{}\"", *self.version);
        if let Some(response) = not_modified(&tag, headers) {
            return Ok(response);
        }
        let caching = if version == *self.version { IMMUTABLE } else { FRESH };
        // This applies if an icon is opened on its own, because an SVG file is a document.
        let policy = [(header::CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'")];
        let content_type = [(header::CONTENT_TYPE, file.content_type)];
        let mut response = ([caching], [(header::ETAG, tag)], policy, content_type, file.bytes).into_response();
        if let Some(encoding) = file.encoding {
            response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
        }
        Ok(response)
    }
}

/// Returns a version for the content of all of `files`.
pub fn version(files: &[Asset]) -> String {
    digest(files.iter().map(|file| file.bytes))
}

/// Returns an ETag for `content`. It is weak, because the content is also sent compressed (RFC 9110, 8.8.1).
pub fn tag(content: &[u8]) -> String {
    format!("W/\"{}\"", digest([content]))
}

fn digest<'a>(contents: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut digest = crc64::digest();
    contents.into_iter().for_each(|content| digest.update(content));
    format!("{:016x}", digest.finalize())
}

/// Returns 304 if the client already has the content with this `tag`, otherwise `None`.
pub fn not_modified(tag: &str, headers: &HeaderMap) -> Option<Response> {
    let known: IfNoneMatch = headers.typed_get()?;
    let tagged: ETag = tag.parse().ok()?;
    // As in a 200 that may be compressed (RFC 9110, 15.4.5).
    let headers = [(header::ETAG, tag), (header::VARY, "accept-encoding")];
    (!known.precondition_passes(&tagged)).then(|| (StatusCode::NOT_MODIFIED, [FRESH], headers).into_response())
}
