//! S3 notifications: direct uploads are promoted even if their clients never call complete.
//!
//! S3 delivers notifications at least once, in any order, and several in one event. Lambda repeats an event whose
//! invocation failed. So the invocation succeeds if another attempt would not change the result: if the source does not
//! exist any more, if the object is rejected, or if the key is not one of this service.

use futures::StreamExt;
use futures::stream;
use lambda_runtime::Diagnostic;
use percent_encoding::percent_decode_str;
use serde::Serialize;
use std::error::Error as _;
use tokio::time::{Instant, timeout_at};

use super::failure;
use super::payload::Created;
use crate::direct::plan::Expected;
use crate::direct::promote::Verified;
use crate::direct::promotions::{self, Trigger};
use crate::error::Error;
use crate::server::App;
use crate::store::{INCOMING, ImageKey};
use crate::upload::timer::UploadMethod;

/// The number of an event's objects for each result.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Promoted {
    pub promoted: usize,
    pub refused: usize,
    /// Objects that do not exist any more, markers, and objects that do not belong to this service.
    pub skipped: usize,
}

/// Number of objects of one event that are promoted at once. An object that takes all of the invocation's time must not
/// use up the time of the others, in this invocation and whenever the event is repeated.
const CONCURRENT_PROMOTIONS: usize = 16;

/// Promotes every object of an event. The failure of one object does not affect the others.
pub async fn promote_all(app: &App, created: Vec<Created>, ends: Instant) -> Result<Promoted, Diagnostic> {
    let (mut done, mut failed, all) = (Promoted::default(), 0, created.len());
    let mut outcomes =
        stream::iter(created).map(|object| outcome(app, object, ends)).buffer_unordered(CONCURRENT_PROMOTIONS);
    while let Some(outcome) = outcomes.next().await {
        match outcome {
            Outcome::Promoted => done.promoted += 1,
            Outcome::Refused => done.refused += 1,
            Outcome::Skipped => done.skipped += 1,
            Outcome::Failed => failed += 1,
        }
    }
    if failed > 0 {
        return Err(failure(
            "PromotionFailed",
            format!("{failed} of {all} objects could not be promoted and must be retried"),
        ));
    }
    Ok(done)
}

enum Outcome {
    Promoted,
    Refused,
    /// There is nothing to promote.
    Skipped,
    /// The promotion failed for a reason that may be temporary.
    Failed,
}

async fn outcome(app: &App, object: Created, ends: Instant) -> Outcome {
    // An empty object is the marker at the end of a promotion, because no plan is for an empty file.
    if object.size == Some(0) {
        return Outcome::Skipped;
    }
    match target(&object.encoded_key, &app.config.store.prefix) {
        Target::Upload(key) => promote_one(app, &key, ends).await,
        Target::Other => {
            tracing::debug!(key = object.encoded_key, "ignored an event for an object that is not a direct upload");
            Outcome::Skipped
        }
        Target::Outside => {
            tracing::warn!(key = object.encoded_key, "ignored an event for an object outside S3_PREFIX and incoming/");
            Outcome::Skipped
        }
    }
}

async fn promote_one(app: &App, key: &ImageKey, ends: Instant) -> Outcome {
    // No client receives the result here. A rejected object is left for complete, or for the lifecycle rule.
    let began = Instant::now().into_std();
    let promotion = app.verifier.promote(key, Expected::default(), &|| false);
    let verified = timeout_at(ends, promotion).await.unwrap_or(Err(Error::Deadline));
    promotions::count(&app.metrics, Trigger::Event, UploadMethod::Direct, began, verified.as_ref());
    let error = match verified {
        Ok(Verified { image, .. }) => {
            tracing::info!(s3_key = %key, size = image.size, "promoted");
            return Outcome::Promoted;
        }
        Err(error) => error,
    };
    match error {
        // The object was deleted, withdrawn or promoted in the meantime.
        Error::NotFound | Error::UploadOver { .. } => {
            tracing::info!(s3_key = %key, "nothing to promote: the object no longer exists");
            Outcome::Skipped
        }
        Error::ChangedMeanwhile => failed(key, &error),
        error if error.status().is_client_error() => {
            tracing::info!(s3_key = %key, code = error.code(), detail = %error, "promotion rejected");
            Outcome::Refused
        }
        error => failed(key, &error),
    }
}

fn failed(key: &ImageKey, error: &Error) -> Outcome {
    tracing::error!(s3_key = %key, code = error.code(), cause = error.source(), "promotion failed");
    Outcome::Failed
}

/// The kind of object that an event's key names.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    Upload(ImageKey),
    /// Another object under `incoming/`, of this service or not.
    Other,
    /// An object elsewhere: the notification is configured for other objects too.
    Outside,
}

fn target(encoded: &str, prefix: &str) -> Target {
    let spaced = encoded.replace('+', " ");
    let object_key = percent_decode_str(&spaced).decode_utf8_lossy();
    let Some(name) = object_key.strip_prefix(prefix).and_then(|key| key.strip_prefix(INCOMING)) else {
        return Target::Outside;
    };
    ImageKey::parse(name).map_or(Target::Other, Target::Upload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_keys_are_decoded_and_classified() {
        let id = "0b0e7f5c-6c1e-4a53-9d0c-0d5a4a0a9d11.png";
        let upload = || Target::Upload(ImageKey::parse(id).unwrap());
        assert_eq!(target(&format!("incoming/{id}"), ""), upload());
        assert_eq!(target(&format!("a%21/b%28/incoming/{id}"), "a!/b(/"), upload());
        assert_eq!(target(&format!("a%2Fincoming%2F{}", id.replace('-', "%2D")), "a/"), upload());
        for other in ["incoming/cat+photo.png", "incoming/%FF.png", "incoming/", &format!("incoming/{id}.0.5.tail")] {
            assert_eq!(target(other, ""), Target::Other, "{other}");
        }
        for outside in [id, "x/incoming/a", "%FF/incoming/a"] {
            assert_eq!(target(outside, ""), Target::Outside, "{outside}");
        }
    }
}
