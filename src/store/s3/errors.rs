//! What the SDK's errors mean to the rest of the service.

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use crate::store::StoreError;

/// Turns a failed call of the S3 operation `operation` into the store's error.
///
/// A missing bucket is also a 404, but it is the operator's mistake and not a missing object.
pub(super) fn classify<E>(operation: &'static str, error: SdkError<E, HttpResponse>) -> StoreError
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let service = match error {
        SdkError::ServiceError(service) => service,
        SdkError::ConstructionFailure(_) => {
            return StoreError::Rejected { operation, code: "InvalidCall".to_owned(), source: error.into() };
        }
        // Timeouts, broken connections and answers that cannot be read: the call may have had its effect.
        _ => return StoreError::OutcomeUnknown { operation, source: error.into() },
    };
    let status = service.raw().status().as_u16();
    match (status, service.err().code()) {
        // Done, it seems, but its answer was cut short or is not XML as S3 writes it.
        (200..=299, None) => StoreError::OutcomeUnknown { operation, source: service.into_err().into() },
        (_, Some("NoSuchUpload")) => StoreError::NoSuchUpload,
        (404, None | Some("NoSuchKey" | "NotFound")) => StoreError::NotFound,
        (412, _) | (_, Some("PreconditionFailed" | "ConditionalRequestConflict")) => StoreError::Precondition,
        (_, code) => StoreError::Rejected {
            operation,
            code: code.map_or_else(|| status.to_string(), str::to_owned),
            source: service.into_err().into(),
        },
    }
}

/// Ceph RGW says of an upload that is over that its key is not there.
pub(super) fn of_upload(error: StoreError) -> StoreError {
    match error {
        StoreError::NotFound => StoreError::NoSuchUpload,
        error => error,
    }
}

/// For calls whose arguments cannot be built, and for what is wrong with an answer.
pub(super) fn rejected(operation: &'static str, source: impl Into<crate::error::BoxError>) -> StoreError {
    StoreError::Rejected { operation, code: "InvalidCall".to_owned(), source: source.into() }
}

/// Whether a call that failed like this may have had its effect.
///
/// AWS answers `InternalError` also after it has begun; its retry then finds the upload gone (NoSuchUpload) or the object
/// there (Precondition). 502 and 504 are a gateway's, which does not know.
pub(crate) fn is_outcome_unknown(error: &StoreError) -> bool {
    match error {
        StoreError::OutcomeUnknown { .. } | StoreError::NoSuchUpload | StoreError::Precondition => true,
        StoreError::Rejected { code, .. } => is_open_code(code),
        StoreError::NotFound | StoreError::IntegrityMismatch(_) => false,
    }
}

/// The same of one attempt, by its status (None: no answer) and S3's error code.
pub(super) fn is_open(status: Option<u16>, code: Option<&str>) -> bool {
    match (status, code) {
        (None | Some(200..=299), None) => true,
        (_, Some(code)) => is_open_code(code),
        (Some(status), None) => is_open_code(&status.to_string()),
    }
}

fn is_open_code(code: &str) -> bool {
    matches!(code, "InternalError" | "ServiceUnavailable" | "500" | "502" | "503" | "504")
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_s3::error::ErrorMetadata;
    use aws_sdk_s3::operation::head_object::HeadObjectError;
    use aws_sdk_s3::primitives::SdkBody;

    fn answered(status: u16, code: Option<&str>) -> StoreError {
        let mut metadata = ErrorMetadata::builder();
        if let Some(code) = code {
            metadata = metadata.code(code);
        }
        let raw = HttpResponse::new(status.try_into().unwrap(), SdkBody::empty());
        classify("HeadObject", SdkError::service_error(HeadObjectError::generic(metadata.build()), raw))
    }

    #[test]
    fn statuses_and_codes_have_their_meaning() {
        assert!(matches!(answered(404, None), StoreError::NotFound));
        assert!(matches!(answered(404, Some("NoSuchKey")), StoreError::NotFound));
        assert!(matches!(answered(404, Some("NoSuchUpload")), StoreError::NoSuchUpload));
        assert!(matches!(answered(412, None), StoreError::Precondition));
        assert!(matches!(answered(409, Some("ConditionalRequestConflict")), StoreError::Precondition));
    }

    #[test]
    fn a_refusal_keeps_its_code_or_else_its_status() {
        let code = |error| match error {
            StoreError::Rejected { code, .. } => code,
            other => panic!("{other:?}"),
        };
        assert_eq!(code(answered(403, None)), "403");
        assert_eq!(code(answered(403, Some("AccessDenied"))), "AccessDenied");
        assert_eq!(code(answered(404, Some("NoSuchBucket"))), "NoSuchBucket");
        assert_eq!(code(answered(503, Some("SlowDown"))), "SlowDown");
    }

    #[test]
    fn an_attempt_is_open_without_an_answer_and_after_a_server_s_error() {
        for (status, code) in [(None, None), (Some(200), None), (Some(200), Some("InternalError")), (Some(504), None)] {
            assert!(is_open(status, code), "{status:?} {code:?}");
        }
        for (status, code) in [(Some(412), None), (Some(503), Some("SlowDown")), (Some(403), Some("AccessDenied"))] {
            assert!(!is_open(status, code), "{status:?} {code:?}");
        }
    }

    #[test]
    fn a_lost_answer_leaves_the_effect_open() {
        let error: SdkError<HeadObjectError, HttpResponse> = SdkError::timeout_error("too slow");
        assert!(matches!(classify("HeadObject", error), StoreError::OutcomeUnknown { operation: "HeadObject", .. }));
        assert!(matches!(answered(200, None), StoreError::OutcomeUnknown { .. }));
        assert!(matches!(answered(200, Some("InternalError")), StoreError::Rejected { .. }));
        for open in
            [answered(200, None), answered(200, Some("InternalError")), answered(504, None), answered(412, None)]
        {
            assert!(is_outcome_unknown(&open), "{open:?}");
        }
        for settled in [answered(400, Some("InvalidRequest")), answered(403, None), answered(503, Some("SlowDown"))] {
            assert!(!is_outcome_unknown(&settled), "{settled:?}");
        }
    }
}
