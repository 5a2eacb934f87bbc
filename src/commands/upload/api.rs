//! What the service answers, as far as a client needs it.

use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// `GET /limits`.
#[derive(Debug, Deserialize)]
pub struct Limits {
    /// Bytes.
    max_stream_size: u64,
    doors: Vec<String>,
}

impl Limits {
    /// Whether the service takes a file of this size itself.
    pub fn streams(&self, size: u64) -> bool {
        size <= self.max_stream_size && self.doors.iter().any(|door| door == "form")
    }
}

/// `POST /uploads`.
#[derive(Debug, Deserialize)]
pub struct Plan {
    #[serde(flatten)]
    pub door: UploadMethod,
    pub status_url: String,
    pub complete_url: String,
}

/// How the bytes go to S3.
#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum UploadMethod {
    Put { url: String, headers: Headers },
    Multipart { parts: Vec<Part> },
}

/// Exactly what to send with a presigned URL.
pub type Headers = BTreeMap<String, String>;

/// A part of a plan, or of its status.
#[derive(Clone, Debug, Deserialize)]
pub struct Part {
    pub part_number: u32,
    /// Bytes.
    pub size: u64,
    /// None where the part has arrived.
    pub url: Option<String>,
    #[serde(default)]
    pub headers: Headers,
    /// The store's, of a part that has arrived.
    pub etag: Option<String>,
}

/// `GET status_url`.
#[derive(Debug, Deserialize)]
pub struct Status {
    pub state: Progress,
    /// Bytes planned.
    pub size: u64,
    /// Where the upload is one of parts that S3 still knows.
    pub parts: Option<Vec<Part>>,
    pub complete_url: String,
}

/// How far a direct upload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Progress {
    Waiting,
    Uploading,
    Verifying,
    Complete,
}

/// A stored image: passed on as it came.
pub type Image = Map<String, Value>;
