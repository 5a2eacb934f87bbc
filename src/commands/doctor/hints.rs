//! Hints: what an error from the store means, and how to fix it.

use std::error::Error;

use crate::config::Config;
use crate::store::StoreError;
use crate::store::s3::{Checksum, S3Store, Sse};

/// The hint for answers that do not come from a working store.
pub const CHECK_PROXY: &str = "check that the endpoint is the store itself, without a proxy or a cache in front of it";

/// Describes an error. If S3 gave no reason, the description includes the root cause.
pub fn describe(error: &StoreError) -> String {
    match error {
        StoreError::OutcomeUnknown { .. } | StoreError::Unreachable(_) => format!("{error}: {}", root_cause(error)),
        StoreError::Rejected { code, source, .. } if code == "InvalidCall" => {
            format!("{error}: {}", root_cause(source.as_ref()))
        }
        _ => error.to_string(),
    }
}

/// Returns the root cause of an error, on one line.
pub fn root_cause(mut error: &dyn Error) -> String {
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Returns how to fix the error of a call that requires `permission` (one or more of S3's actions, and a resource).
pub fn fix(config: &Config, s3: &S3Store, error: &StoreError, permission: &str) -> String {
    match error {
        StoreError::OutcomeUnknown { .. } | StoreError::Unreachable(_) => {
            fix_unreachable(s3.endpoint(), &root_cause(error))
        }
        StoreError::Rejected { code, .. } if is_denied(code) => format!("allow {permission}{}", key_permission(config)),
        StoreError::Rejected { code, .. } if is_unsupported(code) => fix_unsupported(config, s3),
        StoreError::Rejected { code, .. } => fix_code(code).to_owned(),
        _ => "check that the endpoint is the store and not a proxy or a cache, and try again".to_owned(),
    }
}

/// Returns whether the store does not support something in the call.
fn is_unsupported(code: &str) -> bool {
    matches!(code, "NotImplemented" | "InvalidRequest" | "InvalidArgument" | "501")
}

/// Suggests turning off the optional features that the call uses. Only features that are in use can be unsupported.
fn fix_unsupported(config: &Config, s3: &S3Store) -> String {
    let extras = [
        (s3.checksum() != Checksum::None).then_some("S3_CHECKSUM=none"),
        config.store.sse.is_some().then_some("S3_SSE=none"),
    ];
    let extras: Vec<&str> = extras.into_iter().flatten().collect();
    match extras[..] {
        [] => "the store does not support this call, or not in this form: see its documentation, or use another store"
            .to_owned(),
        _ => format!("the store does not support an option of this call: try {}", extras.join(", then ")),
    }
}

/// Returns whether permission was denied. The answer to HEAD has no body with an error code, only a status.
pub fn is_denied(code: &str) -> bool {
    matches!(code, "AccessDenied" | "403")
}

fn fix_code(code: &str) -> &'static str {
    match code {
        "InvalidAccessKeyId" | "NotSignedUp" => {
            "the store does not know AWS_ACCESS_KEY_ID: correct it or AWS_ENDPOINT_URL_S3"
        }
        "SignatureDoesNotMatch" => {
            "AWS_SECRET_ACCESS_KEY does not match the access key: correct it (or fix a proxy that changes requests)"
        }
        "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired" => {
            "get new temporary credentials, including AWS_SESSION_TOKEN"
        }
        "NoSuchBucket" | "404" => "create the bucket, or correct S3_BUCKET (and AWS_ENDPOINT_URL_S3)",
        "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException" | "301" => {
            "set AWS_REGION to the bucket's region"
        }
        "RequestTimeTooSkewed" => "synchronise this machine's clock (NTP)",
        code if code.starts_with("KMS.") => {
            "check that the key S3_SSE_KMS_KEY_ID exists, is enabled, and is in the bucket's region"
        }
        "SlowDown" | "InternalError" | "ServiceUnavailable" | "500" | "502" | "503" | "504" => {
            "the store is overloaded or has an internal error: try again"
        }
        _ => "look the code up in the store's documentation",
    }
}

/// Returns how to fix a missing or unreadable answer. `cause` is the root cause.
fn fix_unreachable(endpoint: Option<&str>, cause: &str) -> String {
    let Some(endpoint) = endpoint else {
        return "check that this machine can reach S3; set AWS_REGION, or AWS_ENDPOINT_URL_S3 for another store"
            .to_owned();
    };
    // The bucket is a part of the host name, and only some stores have such names in DNS.
    if cause.contains("lookup") || cause.contains("resolve") {
        return format!(
            "set S3_FORCE_PATH_STYLE=true if the bucket is not a host name below {endpoint}, or correct the endpoint"
        );
    }
    format!(
        "check that the endpoint {endpoint} is an S3 and that this machine can reach it (it comes from \
         AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL or the profile's endpoint_url)"
    )
}

/// With a KMS key, S3 reports missing permissions on the key by the same error code.
fn key_permission(config: &Config) -> &'static str {
    match config.store.sse {
        Some(Sse::Kms { .. }) => ", and kms:GenerateDataKey and kms:Decrypt on the key",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_dns_lookup_suggests_path_style() {
        let unknown = "failed to lookup address information: Name or service not known";
        assert!(fix_unreachable(Some("http://s3.local:9000"), unknown).contains("S3_FORCE_PATH_STYLE=true"));
        let refused = fix_unreachable(Some("http://s3.local:9000"), "Connection refused (os error 111)");
        assert!(refused.contains("http://s3.local:9000") && !refused.contains("S3_FORCE_PATH_STYLE"), "{refused}");
        assert!(fix_unreachable(None, unknown).contains("AWS_REGION"));
    }
}
