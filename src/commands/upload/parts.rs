//! Parts of a direct upload, some at once, in rounds.
//!
//! A round sends what the last answer said was missing. Where S3 refuses one of its URLs, no further part is begun, those
//! under way end, and the next round begins with fresh URLs. Parts that arrived are never sent again.

use futures::{StreamExt, TryStreamExt};
use std::cell::{Cell, RefCell};

use super::api::Part;
use super::error::RequestError;
use super::job::Job;
use super::report::Failure;

/// Rounds in a row in which nothing arrived.
const IDLE_ROUNDS: usize = 3;

/// A part that is missing.
struct Missing {
    part: Part,
    url: String,
    /// Where in the file it begins.
    offset: u64,
}

/// Sends those of `parts` that have a URL. `refresh` asks for the parts with fresh URLs. None if the upload is over: completing
/// it reports how it ended.
///
/// # Errors
/// Where a part fails for good; the others stay where they are.
pub async fn send(
    job: &Job<'_>,
    mut parts: Vec<Part>,
    refresh: impl AsyncFn() -> Result<Option<Vec<Part>>, RequestError>,
) -> Result<(), Failure> {
    let mut idle = 0;
    loop {
        let round = Round::default();
        round.send(job, parts).await?;
        let Some(refused) = round.refused.into_inner() else { return Ok(()) };
        idle = if round.arrived.get() == 0 { idle + 1 } else { 0 };
        if idle == IDLE_ROUNDS {
            return Err(refused.into());
        }
        job.report.print_status(&format!("{refused}; asking for fresh URLs"));
        let Some(fresh) = refresh().await? else { return Ok(()) };
        parts = fresh;
    }
}

#[derive(Default)]
struct Round {
    arrived: Cell<usize>,
    /// The first URL that was refused.
    refused: RefCell<Option<RequestError>>,
}

impl Round {
    async fn send(&self, job: &Job<'_>, parts: Vec<Part>) -> Result<(), Failure> {
        let (missing, held) = missing(parts, job.size)?;
        job.report.bar.set_position(held);
        let sending = futures::stream::iter(missing.iter().map(|part| self.send_part(job, part)));
        sending.buffer_unordered(job.parallel).try_collect().await
    }

    async fn send_part(&self, job: &Job<'_>, missing: &Missing) -> Result<(), Failure> {
        if self.refused.borrow().is_some() {
            return Ok(());
        }
        let Missing { part, url, offset } = missing;
        let attempt = async || job.http.put(url, &part.headers, job.read(*offset, part.size).await?).await;
        match job.retry(&format!("part {}", part.part_number), RequestError::is_retryable, attempt).await {
            Ok(_) => self.arrived.set(self.arrived.get() + 1),
            Err(error) if error.asks_for_status() => {
                self.refused.borrow_mut().get_or_insert(error);
            }
            Err(error) => {
                return Err(Failure { error: format!("part {}: {error}", part.part_number), ..error.into() });
            }
        }
        Ok(())
    }
}

/// The parts to send, and how many bytes have arrived. The parts follow each other, so their sizes say where they begin.
fn missing(mut parts: Vec<Part>, size: u64) -> Result<(Vec<Missing>, u64), Failure> {
    parts.sort_unstable_by_key(|part| part.part_number);
    let (mut offset, mut held, mut missing) = (0_u64, 0, Vec::new());
    for mut part in parts {
        let begin = offset;
        offset = offset.saturating_add(part.size);
        match part.url.take() {
            Some(url) => missing.push(Missing { part, url, offset: begin }),
            None => held += part.size,
        }
    }
    // Whatever the plan says, it is not of this file.
    let of_this_file = offset == size;
    of_this_file
        .then_some((missing, held))
        .ok_or_else(|| Failure::new("other_file", "the plan's parts are not this file's"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(part_number: u32, size: u64, url: Option<&str>) -> Part {
        Part { part_number, size, url: url.map(str::to_owned), headers: Default::default(), etag: None }
    }

    #[test]
    fn parts_without_a_url_have_arrived() {
        let parts = vec![part(3, 2, Some("c")), part(1, 5, None), part(2, 5, Some("b"))];
        let (missing, held) = missing(parts, 12).unwrap();
        let missing: Vec<_> = missing.iter().map(|missing| (missing.part.part_number, missing.offset)).collect();
        assert_eq!((missing, held), (vec![(2, 5), (3, 10)], 5));
    }

    #[test]
    fn parts_of_another_file_are_refused() {
        assert!(missing(vec![part(1, 5, Some("a"))], 6).is_err());
        assert!(missing(vec![part(1, u64::MAX, Some("a")), part(2, 5, Some("b"))], 6).is_err());
    }
}
