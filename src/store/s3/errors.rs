//! Converts the SDK's errors into [`StoreError`].

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use crate::store::StoreError;

/// Converts the error of a call of the S3 operation `operation`.
///
/// A missing bucket is also a 404, but it is a configuration error and not a missing object.
pub(super) fn classify<E>(operation: &'static str, error: SdkError<E, HttpResponse>) -> StoreError
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let service = match error {
        SdkError::ServiceError(service) => service,
        SdkError::ConstructionFailure(_) => {
            return StoreError::Rejected { operation, code: "InvalidCall".to_owned(), source: error.into() };
        }
        // Timeouts, broken connections and unreadable responses: the call may have taken effect.
        _ => return StoreError::OutcomeUnknown { operation, source: error.into() },
    };
    let status = service.raw().status().as_u16();
    match (status, service.err().code()) {
        // The status is a success, but the response was truncated or is not valid S3 XML.
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

/// Converts the error of a call on an upload: Ceph RGW returns NoSuchKey for an upload that has ended.
pub(super) fn of_upload(error: StoreError) -> StoreError {
    match error {
        StoreError::NotFound => StoreError::NoSuchUpload,
        error => error,
    }
}

/// Returns the error for a call whose arguments are invalid, or for an invalid response.
pub(super) fn rejected(operation: &'static str, source: impl Into<crate::error::BoxError>) -> StoreError {
    StoreError::Rejected { operation, code: "InvalidCall".to_owned(), source: source.into() }
}

/// Whether a call that failed with `error` may have taken effect.
///
/// AWS may return `InternalError` after it has begun the operation. A retry then fails because the upload does not
/// exist any more (NoSuchUpload) or the object exists (Precondition). 502 and 504 come from a gateway, which does not
/// know the outcome.
pub(crate) fn is_outcome_unknown(error: &StoreError) -> bool {
    match error {
        StoreError::OutcomeUnknown { .. }
        | StoreError::Unreachable(_)
        | StoreError::NoSuchUpload
        | StoreError::Precondition => true,
        StoreError::Rejected { code, .. } => is_unknown_outcome_code(code),
        StoreError::NotFound | StoreError::IntegrityMismatch(_) => false,
    }
}

/// Whether one failed attempt may have taken effect, by its status (`None` if there was no response) and S3's error
/// code.
pub(super) fn is_attempt_outcome_unknown(status: Option<u16>, code: Option<&str>) -> bool {
    match (status, code) {
        (None | Some(200..=299), None) => true,
        (_, Some(code)) => is_unknown_outcome_code(code),
        (Some(status), None) => is_unknown_outcome_code(&status.to_string()),
    }
}

fn is_unknown_outcome_code(code: &str) -> bool {
    matches!(code, "InternalError" | "ServiceUnavailable" | "500" | "502" | "503" | "504")
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_s3::error::ErrorMetadata;
    use aws_sdk_s3::operation::head_object::HeadObjectError;
    use aws_sdk_s3::primitives::SdkBody;

    fn response(status: u16, code: Option<&str>) -> StoreError {
        let mut metadata = ErrorMetadata::builder();
        if let Some(code) = code {
            metadata = metadata.code(code);
        }
        let raw = HttpResponse::new(status.try_into().unwrap(), SdkBody::empty());
        classify("HeadObject", SdkError::service_error(HeadObjectError::generic(metadata.build()), raw))
    }

    #[test]
    fn statuses_and_codes_are_classified() {
        assert!(matches!(response(404, None), StoreError::NotFound));
        assert!(matches!(response(404, Some("NoSuchKey")), StoreError::NotFound));
        assert!(matches!(response(404, Some("NoSuchUpload")), StoreError::NoSuchUpload));
        assert!(matches!(response(412, None), StoreError::Precondition));
        assert!(matches!(response(409, Some("ConditionalRequestConflict")), StoreError::Precondition));
    }

    #[test]
    fn rejection_keeps_its_code_or_status() {
        let code = |error| match error {
            StoreError::Rejected { code, .. } => code,
            other => panic!("{other:?}"),
        };
        assert_eq!(code(response(403, None)), "403");
        assert_eq!(code(response(403, Some("AccessDenied"))), "AccessDenied");
        assert_eq!(code(response(404, Some("NoSuchBucket"))), "NoSuchBucket");
        assert_eq!(code(response(503, Some("SlowDown"))), "SlowDown");
    }

    #[test]
    fn attempt_outcome_is_unknown_without_response_or_after_5xx() {
        for (status, code) in [(None, None), (Some(200), None), (Some(200), Some("InternalError")), (Some(504), None)] {
            assert!(is_attempt_outcome_unknown(status, code), "{status:?} {code:?}");
        }
        for (status, code) in [(Some(412), None), (Some(503), Some("SlowDown")), (Some(403), Some("AccessDenied"))] {
            assert!(!is_attempt_outcome_unknown(status, code), "{status:?} {code:?}");
        }
    }

    #[test]
    fn call_outcome_is_unknown_after_a_lost_response() {
        let error: SdkError<HeadObjectError, HttpResponse> = SdkError::timeout_error("too slow");
        assert!(matches!(classify("HeadObject", error), StoreError::OutcomeUnknown { operation: "HeadObject", .. }));
        assert!(matches!(response(200, None), StoreError::OutcomeUnknown { .. }));
        assert!(matches!(response(200, Some("InternalError")), StoreError::Rejected { .. }));
        for unknown in
            [response(200, None), response(200, Some("InternalError")), response(504, None), response(412, None)]
        {
            assert!(is_outcome_unknown(&unknown), "{unknown:?}");
        }
        for known in [response(400, Some("InvalidRequest")), response(403, None), response(503, Some("SlowDown"))] {
            assert!(!is_outcome_unknown(&known), "{known:?}");
        }
    }
}
