//! S3's notifications: direct uploads become images also where their clients never say that they are done.
//!
//! They come at least once, in any order, several in an event, and Lambda repeats an event whose invocation failed. So
//! what another try cannot change is a success: a source that is gone, an object that is refused, a key that is not ours.

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

/// What became of an event's objects, in numbers.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Promoted {
    pub promoted: usize,
    pub refused: usize,
    /// Already gone, a marker, or none of the service's.
    pub skipped: usize,
}

/// Objects of one event that are promoted at once. One that takes all the time there is must not use up that of the others,
/// here and whenever the event is repeated.
const AT_ONCE: usize = 16;

/// Promotes every object of an event, whatever becomes of the others.
pub async fn promote_all(app: &App, created: Vec<Created>, ends: Instant) -> Result<Promoted, Diagnostic> {
    let (mut done, mut failed, all) = (Promoted::default(), 0, created.len());
    let mut outcomes = stream::iter(created).map(|object| outcome(app, object, ends)).buffer_unordered(AT_ONCE);
    while let Some(outcome) = outcomes.next().await {
        match outcome {
            Outcome::Promoted => done.promoted += 1,
            Outcome::Refused => done.refused += 1,
            Outcome::Skipped => done.skipped += 1,
            Outcome::Failed => failed += 1,
        }
    }
    if failed > 0 {
        return Err(failure("PromotionFailed", format!("{failed} of {all} objects: to be tried again")));
    }
    Ok(done)
}

enum Outcome {
    Promoted,
    Refused,
    /// There is nothing to promote.
    Skipped,
    /// For reasons that may pass.
    Failed,
}

async fn outcome(app: &App, object: Created, ends: Instant) -> Outcome {
    // A marker, and so the end of a promotion: no plan is for an empty file.
    if object.size == Some(0) {
        return Outcome::Skipped;
    }
    match target(&object.encoded_key, &app.config.store.prefix) {
        Target::Upload(key) => promote_one(app, &key, ends).await,
        Target::Other => {
            tracing::debug!(key = object.encoded_key, "an event names an object that is not a direct upload");
            Outcome::Skipped
        }
        Target::Outside => {
            tracing::warn!(key = object.encoded_key, "an event names an object outside of S3_PREFIX and incoming/");
            Outcome::Skipped
        }
    }
}

async fn promote_one(app: &App, key: &ImageKey, ends: Instant) -> Outcome {
    // Nobody hears the verdict here: what is refused stays for complete, or for the lifecycle rule.
    let began = Instant::now().into_std();
    let promotion = app.verifier.promote(key, Expected::default(), &|| false);
    let verified = timeout_at(ends, promotion).await.unwrap_or(Err(Error::Deadline));
    promotions::count(&app.metrics, Trigger::Event, began, verified.as_ref());
    let error = match verified {
        Ok(Verified { image, .. }) => {
            tracing::info!(s3_key = %key, size = image.size, "promoted");
            return Outcome::Promoted;
        }
        Err(error) => error,
    };
    match error {
        // Deleted, withdrawn or promoted since.
        Error::NotFound | Error::UploadOver { .. } => {
            tracing::info!(s3_key = %key, "nothing to promote: it is gone");
            Outcome::Skipped
        }
        Error::ChangedMeanwhile => failed(key, &error),
        error if error.status().is_client_error() => {
            tracing::info!(s3_key = %key, code = error.code(), detail = %error, "refused");
            Outcome::Refused
        }
        error => failed(key, &error),
    }
}

fn failed(key: &ImageKey, error: &Error) -> Outcome {
    tracing::error!(s3_key = %key, code = error.code(), cause = error.source(), "not promoted");
    Outcome::Failed
}

/// What an event's key means.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    Upload(ImageKey),
    /// Something else of the service's own, or of another's, under `incoming/`.
    Other,
    /// The notification is configured for other objects too.
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
    fn keys_are_decoded_and_must_be_ours() {
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
