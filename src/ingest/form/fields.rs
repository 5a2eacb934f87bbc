//! The number, names and sizes of a form's parts, which are limited.

use http::HeaderMap;

use super::head::HEADER_LIMIT;
use crate::error::{Error, Result};

/// Maximum number of fields besides the file.
const MAX_FIELDS: usize = 64;

/// Maximum number of bytes in all fields besides the file.
const MAX_FIELDS_SIZE: usize = 1024 * 1024;

/// Maximum number of characters of a field's name that are stored.
const MAX_NAME: usize = 100;

#[derive(Default)]
pub(super) struct Fields {
    count: usize,
    /// Each name once.
    pub(super) names: Vec<String>,
    /// Bytes of data in the parts besides the file.
    pub(super) size: usize,
    /// Bytes of all parts' headers.
    headers_size: usize,
}

impl Fields {
    /// Returns the number of bytes of headers and data so far.
    pub(super) fn total_size(&self) -> usize {
        self.size + self.headers_size
    }

    /// Adds a part. [`super::parts`] limits the size of its headers only together with the boundary's line.
    pub(super) fn add(&mut self, headers: &HeaderMap, name: Option<&str>) -> Result<()> {
        // ": " and the line's end.
        let size: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        if size > HEADER_LIMIT {
            return malformed(format!("the headers of a part exceed the limit of {HEADER_LIMIT} bytes"));
        }
        self.headers_size += size;
        self.count += 1;
        if self.count > MAX_FIELDS + 1 {
            return malformed(format!("more than {MAX_FIELDS} fields besides the file"));
        }
        let name: Option<String> = name.map(|name| name.chars().take(MAX_NAME).collect());
        self.names.extend(name.filter(|name| !self.names.contains(name)));
        Ok(())
    }

    /// Adds data of a part besides the file.
    pub(super) fn add_data(&mut self, bytes: usize) -> Result<()> {
        self.size += bytes;
        if self.size > MAX_FIELDS_SIZE {
            return malformed(format!("more than {MAX_FIELDS_SIZE} bytes besides the file"));
        }
        Ok(())
    }
}

fn malformed(reason: String) -> Result<()> {
    Err(Error::MalformedForm(reason))
}
