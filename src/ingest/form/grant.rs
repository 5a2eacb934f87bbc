//! Searches a form for a grant, for a client that has not been authorized yet.

use super::Form;
use crate::error::Result;

/// Maximum number of bytes before the field `grant`, including the headers of fields. Nothing is reserved for the client
/// yet.
const MAX_BEFORE_GRANT: usize = 64 * 1024;
/// Maximum size of a grant, in bytes, as in a path. Nothing is reserved for it either.
const MAX_GRANT: usize = 8 * 1024;

impl Form {
    /// Skips to the field `grant` and returns its value. Returns `None` if the file comes first, if the form ends, or
    /// if the other fields exceed [`MAX_BEFORE_GRANT`]. [`Form::find_file`] continues at that position.
    pub(in crate::ingest) async fn find_grant(&mut self) -> Result<Option<String>> {
        while let Some(part) = self.next_part().await? {
            if part.is_file() {
                self.found = Some(part);
                return Ok(None);
            }
            let is_grant = part.is_grant();
            match self.value_before_grant(is_grant).await? {
                // An empty field is an input that was left empty.
                Some(value) if is_grant && !value.trim_ascii().is_empty() => {
                    return Ok(Some(String::from_utf8_lossy(value.trim_ascii()).into_owned()));
                }
                Some(_) => {}
                None => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Reads a field to its end, and returns its value, which is empty unless `wanted`, and cut off after one byte more than a
    /// grant may have. Returns `None` if [`MAX_BEFORE_GRANT`] is exceeded.
    async fn value_before_grant(&mut self, wanted: bool) -> Result<Option<Vec<u8>>> {
        let mut value = Vec::new();
        loop {
            if self.fields.total_size() > MAX_BEFORE_GRANT {
                return Ok(None);
            }
            let Some(chunk) = self.chunk().await? else { return Ok(Some(value)) };
            self.fields.size += chunk.len();
            if wanted {
                let rest = MAX_GRANT + 1 - value.len();
                value.extend_from_slice(&chunk[..chunk.len().min(rest)]);
            }
        }
    }
}
