//! The service's answers, with the fields that the client uses.

use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// `GET /limits`.
#[derive(Debug, Deserialize)]
pub struct Limits {
    /// Bytes.
    max_stream_size: u64,
    upload_methods: Vec<String>,
}

impl Limits {
    /// Returns whether the service accepts a file of this size as a form.
    pub fn streams(&self, size: u64) -> bool {
        size <= self.max_stream_size && self.upload_methods.iter().any(|method| method == "form")
    }
}

/// `POST /uploads`.
#[derive(Debug, Deserialize)]
pub struct Plan {
    #[serde(flatten)]
    pub method: UploadMethod,
    pub status_url: String,
    pub complete_url: String,
}

/// How the bytes are sent to S3.
#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum UploadMethod {
    Put { url: String, headers: Headers },
    Multipart { parts: Vec<Part> },
}

/// The exact headers to send with a presigned URL.
pub type Headers = BTreeMap<String, String>;

/// A part of a plan, or of its status.
#[derive(Clone, Debug, Deserialize)]
pub struct Part {
    pub part_number: u32,
    /// Bytes.
    pub size: u64,
    /// `None` if the part has arrived.
    pub url: Option<String>,
    #[serde(default)]
    pub headers: Headers,
    /// The store's ETag of a part that has arrived.
    pub etag: Option<String>,
}

/// `GET status_url`.
#[derive(Debug, Deserialize)]
pub struct Status {
    pub state: Progress,
    /// The planned size in bytes.
    pub size: u64,
    /// The parts, if the upload is multipart and S3 still has it.
    pub parts: Option<Vec<Part>>,
    pub complete_url: String,
}

/// The progress of a direct upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Progress {
    Waiting,
    Uploading,
    Verifying,
    Complete,
}

/// A stored image, which is printed as the service returned it.
pub type Image = Map<String, Value>;
