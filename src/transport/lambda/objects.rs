//! S3's notifications: direct uploads become images also where their clients never say that they are done.
//!
//! They come at least once, in any order, several in an event, and Lambda repeats an event whose invocation failed. So
//! what another try cannot change is a success: a source that is gone, an object that is refused, a key that is not ours.

use lambda_runtime::Diagnostic;
use percent_encoding::percent_decode_str;
use serde::Serialize;
use std::error::Error as _;
use tokio::time::Instant;

use super::event::Created;
use super::{failure, within};
use crate::app::App;
use crate::direct::plan::Expected;
use crate::direct::promote::Verified;
use crate::error::Error;
use crate::store::{INCOMING, ImageKey};
use crate::telemetry::metrics::Trigger;

/// What became of an event's objects, in numbers.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Promoted {
    pub promoted: usize,
    pub refused: usize,
    /// Already gone, or none of the service's.
    pub skipped: usize,
}

/// Promotes every object of an event, also behind one that fails.
pub async fn promote_all(app: &App, created: &[Created], ends: Instant) -> Result<Promoted, Diagnostic> {
    let mut done = Promoted::default();
    let mut failed = 0;
    for object in created {
        let Some(key) = key(&object.encoded_key, &app.config.store.prefix) else {
            tracing::warn!(key = object.encoded_key, "an event names an object that is not a direct upload");
            done.skipped += 1;
            continue;
        };
        match promote_one(app, &key, ends).await {
            Outcome::Promoted => done.promoted += 1,
            Outcome::Refused => done.refused += 1,
            Outcome::Gone => done.skipped += 1,
            Outcome::Failed => failed += 1,
        }
    }
    if failed > 0 {
        return Err(failure("PromotionFailed", format!("{failed} of {} objects: to be tried again", created.len())));
    }
    Ok(done)
}

enum Outcome {
    Promoted,
    Refused,
    Gone,
    /// For reasons that may pass.
    Failed,
}

async fn promote_one(app: &App, key: &ImageKey, ends: Instant) -> Outcome {
    // Nobody hears the verdict here: what is refused stays for complete, or for the lifecycle rule.
    let began = Instant::now().into_std();
    let promotion = app.verifier.promote(key, Expected::default(), &|| false);
    let verified = within(ends, promotion).await.unwrap_or(Err(Error::Deadline));
    app.metrics.promotion(Trigger::Event, began, verified.as_ref());
    let error = match verified {
        Ok(Verified { image, .. }) => {
            tracing::info!(s3_key = %key, size = image.size, "promoted");
            return Outcome::Promoted;
        }
        Err(error) => error,
    };
    match error {
        // A marker's own event says this, too.
        Error::NotFound | Error::UploadOver { .. } => {
            tracing::info!(s3_key = %key, "nothing to promote: it is gone");
            Outcome::Gone
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

/// The key of the direct upload that an event's key means.
fn key(encoded: &str, prefix: &str) -> Option<ImageKey> {
    let spaced = encoded.replace('+', " ");
    let object_key = percent_decode_str(&spaced).decode_utf8().ok()?;
    ImageKey::parse(object_key.strip_prefix(prefix)?.strip_prefix(INCOMING)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_decoded_and_must_be_ours() {
        let id = "0b0e7f5c-6c1e-4a53-9d0c-0d5a4a0a9d11.png";
        let ours = Some(id.to_owned());
        let read = |encoded: &str, prefix| key(encoded, prefix).map(|key| key.to_string());
        assert_eq!(read(&format!("incoming/{id}"), ""), ours);
        assert_eq!(read(&format!("a%21/b%28/incoming/{id}"), "a!/b(/"), ours);
        assert_eq!(read(&format!("a%2Fincoming%2F{}", id.replace('-', "%2D")), "a/"), ours);
        for other in [id, "incoming/cat+photo.png", "incoming/%FF.png", "incoming/", "x/incoming/a"] {
            assert_eq!(read(other, ""), None, "{other}");
        }
    }
}
