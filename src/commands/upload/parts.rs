//! Sends the parts of a direct upload, several at once, in rounds.
//!
//! A round sends the parts that the last answer reported as missing. If S3 rejects one of the URLs, no further part is
//! started, parts in flight finish, and the next round begins with new URLs. Parts that have arrived are not sent
//! again.

use futures::{StreamExt, TryStreamExt};
use std::cell::{Cell, RefCell};

use super::api::Part;
use super::error::RequestError;
use super::job::Job;
use super::report::Failure;

/// Maximum number of consecutive rounds in which no part arrives.
const MAX_IDLE_ROUNDS: usize = 3;

/// A part that has not arrived.
struct Missing {
    part: Part,
    url: String,
    /// Offset of the part in the file.
    offset: u64,
}

/// Sends those of `parts` that have a URL. `refresh` requests the parts with new URLs, and returns `None` if the upload
/// has ended. Completing the upload then reports how it ended.
///
/// # Errors
/// Returns an error if a part fails permanently. Parts that have arrived remain in the store.
pub async fn send(
    job: &Job<'_>,
    mut parts: Vec<Part>,
    refresh: impl AsyncFn() -> Result<Option<Vec<Part>>, RequestError>,
) -> Result<(), Failure> {
    let mut idle = 0;
    loop {
        let round = Round::default();
        round.send(job, parts).await?;
        let Some(rejected) = round.rejected.into_inner() else { return Ok(()) };
        idle = if round.arrived.get() == 0 { idle + 1 } else { 0 };
        if idle == MAX_IDLE_ROUNDS {
            return Err(rejected.into());
        }
        job.report.print_status(&format!("{rejected}; requesting new URLs"));
        let Some(refreshed) = refresh().await? else { return Ok(()) };
        parts = refreshed;
    }
}

#[derive(Default)]
struct Round {
    arrived: Cell<usize>,
    /// The error of the first URL that was rejected.
    rejected: RefCell<Option<RequestError>>,
}

impl Round {
    async fn send(&self, job: &Job<'_>, parts: Vec<Part>) -> Result<(), Failure> {
        let (missing, arrived) = missing(parts, job.size)?;
        job.report.bar.set_position(arrived);
        let sending = futures::stream::iter(missing.iter().map(|part| self.send_part(job, part)));
        sending.buffer_unordered(job.parallel).try_collect().await
    }

    async fn send_part(&self, job: &Job<'_>, missing: &Missing) -> Result<(), Failure> {
        if self.rejected.borrow().is_some() {
            return Ok(());
        }
        let Missing { part, url, offset } = missing;
        let attempt = async || job.http.put(url, &part.headers, job.read(*offset, part.size).await?).await;
        match job.retry(&format!("part {}", part.part_number), RequestError::is_retryable, attempt).await {
            Ok(_) => self.arrived.set(self.arrived.get() + 1),
            Err(error) if error.asks_for_status() => {
                self.rejected.borrow_mut().get_or_insert(error);
            }
            Err(error) => {
                return Err(Failure { error: format!("part {}: {error}", part.part_number), ..error.into() });
            }
        }
        Ok(())
    }
}

/// Returns the parts to send, and how many bytes have arrived. The parts are contiguous, so their sizes determine the
/// offsets.
fn missing(mut parts: Vec<Part>, size: u64) -> Result<(Vec<Missing>, u64), Failure> {
    parts.sort_unstable_by_key(|part| part.part_number);
    let (mut offset, mut arrived, mut missing) = (0_u64, 0, Vec::new());
    for mut part in parts {
        let begin = offset;
        offset = offset.saturating_add(part.size);
        match part.url.take() {
            Some(url) => missing.push(Missing { part, url, offset: begin }),
            None => arrived += part.size,
        }
    }
    let is_this_file = offset == size;
    is_this_file
        .then_some((missing, arrived))
        .ok_or_else(|| Failure::new("other_file", "the parts of the upload plan do not match the size of this file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(part_number: u32, size: u64, url: Option<&str>) -> Part {
        Part { part_number, size, url: url.map(str::to_owned), headers: Default::default(), etag: None }
    }

    #[test]
    fn parts_without_url_have_arrived() {
        let parts = vec![part(3, 2, Some("c")), part(1, 5, None), part(2, 5, Some("b"))];
        let (missing, arrived) = missing(parts, 12).unwrap();
        let missing: Vec<_> = missing.iter().map(|missing| (missing.part.part_number, missing.offset)).collect();
        assert_eq!((missing, arrived), (vec![(2, 5), (3, 10)], 5));
    }

    #[test]
    fn parts_of_another_file_are_rejected() {
        assert!(missing(vec![part(1, 5, Some("a"))], 6).is_err());
        assert!(missing(vec![part(1, u64::MAX, Some("a")), part(2, 5, Some("b"))], 6).is_err());
    }
}
