//! A direct upload as complete and abort see it, and the parts that it must consist of.

use crc_fast::{CrcAlgorithm, checksum};
use std::sync::Arc;

use super::plan::{Expected, Plan, compare};
use crate::error::{Error, Result};
use crate::store::limits::MIN_PART_SIZE;
use crate::store::{ImageKey, ObjectName, Part, Upload};
use crate::upload::timer::UploadMethod;

/// A direct upload that is to be completed or aborted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectUpload {
    pub key: ImageKey,
    /// `None` if the client sends a single PUT.
    pub parts: Option<UploadInParts>,
    pub expected: Expected,
}

/// A multipart upload under `incoming/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadInParts {
    pub upload: Upload,
    pub layout: Layout,
}

/// The parts that an upload must consist of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// The sizes were declared before the upload.
    Planned { size: u64, part_size: u64 },
    /// The client chooses the sizes, and reports its parts when it has sent all of them.
    Reported { parts: Arc<[ReportedPart]>, max_size: u64 },
}

/// A part that a client reports as sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportedPart {
    number: u32,
    /// A checksum of the ETag, because promotions keep many of these in memory.
    etag: u64,
}

impl From<&Plan> for DirectUpload {
    fn from(plan: &Plan) -> Self {
        let layout = |part_size| Layout::Planned { size: plan.size, part_size };
        DirectUpload {
            key: plan.key.clone(),
            parts: plan.upload().map(|(upload, part_size)| UploadInParts { upload, layout: layout(part_size) }),
            expected: plan.expected(),
        }
    }
}

impl DirectUpload {
    /// Returns the name of the object that the client uploads.
    pub fn incoming(&self) -> ObjectName {
        ObjectName::Incoming(self.key.clone())
    }

    /// Returns the name of the final image.
    pub fn image(&self) -> ObjectName {
        ObjectName::Image(self.key.clone())
    }

    /// Returns the upload method as which the image is counted.
    pub fn method(&self) -> UploadMethod {
        match &self.parts {
            Some(UploadInParts { layout: Layout::Reported { .. }, .. }) => UploadMethod::Companion,
            _ => UploadMethod::Direct,
        }
    }
}

impl Layout {
    /// Checks the parts that S3 has, and returns the size of the object that they make up.
    ///
    /// # Errors
    /// Returns 409 `parts_missing` or `parts_unexpected` if these are other parts, and 413 `payload_too_large` or a 400
    /// error if no allowed image can consist of them.
    pub fn check(&self, held: &[Part]) -> Result<u64> {
        match self {
            Layout::Planned { size, part_size } => {
                let found = compare(held, *size, *part_size);
                check_numbers(found.missing, found.unexpected)?;
                Ok(*size)
            }
            Layout::Reported { parts, max_size } => {
                check_reported(parts, held)?;
                check_sizes(held, *max_size)
            }
        }
    }
}

fn check_numbers(missing: Vec<u32>, unexpected: Vec<u32>) -> Result<()> {
    if !missing.is_empty() {
        return Err(Error::PartsMissing { parts: missing });
    }
    if !unexpected.is_empty() {
        return Err(Error::PartsUnexpected { parts: unexpected });
    }
    Ok(())
}

/// Checks that S3 has exactly the reported parts. Otherwise a list that lacks the last part would make a truncated image.
fn check_reported(reported: &[ReportedPart], held: &[Part]) -> Result<()> {
    let mut numbers: Vec<u32> = reported.iter().map(|part| part.number).collect();
    numbers.sort_unstable();
    if numbers.is_empty() || !numbers.iter().copied().eq((1..).take(numbers.len())) {
        return Err(Error::InvalidRequest(
            "parts must contain every part of the upload once, from number 1".to_owned(),
        ));
    }
    let is_held = |reported: &&ReportedPart| held.iter().any(|part| reported.is(part));
    let mut missing: Vec<u32> = reported.iter().filter(|part| !is_held(part)).map(|reported| reported.number).collect();
    missing.sort_unstable();
    let is_reported = |number: &u32| numbers.binary_search(number).is_ok();
    check_numbers(missing, held.iter().map(|part| part.number).filter(|number| !is_reported(number)).collect())
}

fn check_sizes(held: &[Part], max_size: u64) -> Result<u64> {
    let size = held.iter().map(|part| part.size).sum();
    if size > max_size {
        return Err(Error::PayloadTooLarge { limit: max_size });
    }
    if size == 0 {
        return Err(Error::NoFile { fields: None });
    }
    let (_, all_but_last) = held.split_last().unzip();
    if let Some(small) = all_but_last.unwrap_or_default().iter().find(|part| part.size < MIN_PART_SIZE) {
        let number = small.number;
        return Err(Error::InvalidRequest(format!(
            "part {number} has fewer than {MIN_PART_SIZE} bytes, which only the last part may have"
        )));
    }
    Ok(size)
}

impl ReportedPart {
    /// Clients send the ETag with or without its quotes.
    pub fn new(number: u32, etag: &str) -> Self {
        ReportedPart { number, etag: checksum(CrcAlgorithm::Crc64Nvme, etag.trim_matches('"').as_bytes()) }
    }

    /// Whether this may be the part that S3 has. Not every store reports the ETags of parts.
    fn is(&self, held: &Part) -> bool {
        let is_etag = |etag: &str| *self == ReportedPart::new(held.number, etag);
        held.number == self.number && held.etag.as_deref().is_none_or(is_etag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(sizes: &[u64]) -> Vec<Part> {
        let part = |(number, size): (u32, &u64)| Part { number, size: *size, etag: Some(etag(number)), crc64: None };
        (1..).zip(sizes).map(part).collect()
    }

    fn etag(number: u32) -> String {
        format!("\"etag-{number}\"")
    }

    fn reported(numbers: &[u32]) -> Arc<[ReportedPart]> {
        numbers.iter().map(|number| ReportedPart::new(*number, &etag(*number))).collect()
    }

    fn code(parts: Arc<[ReportedPart]>, held: &[Part]) -> &'static str {
        let checked = Layout::Reported { parts, max_size: 3 * MIN_PART_SIZE }.check(held);
        checked.map_or_else(|error| error.code(), |_| "ok")
    }

    #[test]
    fn size_is_the_sum_of_the_held_parts() {
        let layout = Layout::Reported { parts: reported(&[2, 1]), max_size: 2 * MIN_PART_SIZE };
        assert_eq!(layout.check(&held(&[MIN_PART_SIZE, 7])).unwrap(), MIN_PART_SIZE + 7);
        assert_eq!(layout.check(&held(&[MIN_PART_SIZE, MIN_PART_SIZE])).unwrap(), 2 * MIN_PART_SIZE);
        assert_eq!(code(reported(&[1]), &held(&[1])), "ok");
    }

    #[test]
    fn held_parts_must_be_the_reported_ones() {
        let two = held(&[MIN_PART_SIZE, 7]);
        assert_eq!(code(reported(&[1, 2]), &two), "ok");
        assert_eq!(code(reported(&[1, 2, 3]), &two), "parts_missing");
        assert_eq!(code(reported(&[1]), &two), "parts_unexpected");
        assert_eq!(code(reported(&[1, 2]), &two[1..]), "parts_missing");
        assert_eq!(code(reported(&[1]), &[]), "parts_missing");
        for bad in [&[][..], &[2], &[1, 1], &[1, 3], &[0, 1]] {
            assert_eq!(code(reported(bad), &two), "invalid_request", "{bad:?}");
        }
    }

    #[test]
    fn etags_are_compared_without_quotes_if_known() {
        let part = |etag: &str| Arc::from([ReportedPart::new(1, etag)]);
        let mut held = held(&[7]);
        assert_eq!(code(part("etag-1"), &held), "ok");
        assert_eq!(code(part("etag-2"), &held), "parts_missing");
        held[0].etag = None;
        assert_eq!(code(part("etag-2"), &held), "ok");
    }

    #[test]
    fn sizes_have_limits() {
        let sized = |sizes: &[u64]| code(reported(&[1, 2]), &held(sizes));
        assert_eq!(sized(&[2 * MIN_PART_SIZE, MIN_PART_SIZE]), "ok");
        assert_eq!(sized(&[2 * MIN_PART_SIZE, MIN_PART_SIZE + 1]), "payload_too_large");
        assert_eq!(sized(&[MIN_PART_SIZE - 1, MIN_PART_SIZE]), "invalid_request");
        assert_eq!(code(reported(&[1]), &held(&[0])), "no_file");
    }
}
