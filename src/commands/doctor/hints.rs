//! What an error of the store's means, and what to do about it.

use std::error::Error;

use crate::config::Config;
use crate::store::StoreError;
use crate::store::s3::{Checksum, S3Store, Sse};

/// The error, with its root cause where S3 named none itself.
pub fn told(error: &StoreError) -> String {
    match error {
        StoreError::OutcomeUnknown { source, .. } => format!("{error}: {}", root(source.as_ref())),
        StoreError::Rejected { code, source, .. } if code == "InvalidCall" => {
            format!("{error}: {}", root(source.as_ref()))
        }
        _ => error.to_string(),
    }
}

/// What an error comes from in the end, on one line.
pub fn root(mut error: &dyn Error) -> String {
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What to do about an error met by a call that takes `permission` (one or more of S3's actions, and on what).
pub fn fix(config: &Config, s3: &S3Store, error: &StoreError, permission: &str) -> String {
    match error {
        StoreError::OutcomeUnknown { source, .. } => reach(s3.endpoint(), &root(source.as_ref())),
        StoreError::Rejected { code, .. } if is_denied(code) => format!("allow {permission}{}", key_permission(config)),
        StoreError::Rejected { code, .. } if is_unknown_request(code) => without_extras(config, s3),
        StoreError::Rejected { code, .. } => of_code(code).to_owned(),
        _ => "look what answers for the store, and try again".to_owned(),
    }
}

/// The store does not know something about the call.
fn is_unknown_request(code: &str) -> bool {
    matches!(code, "NotImplemented" | "InvalidRequest" | "InvalidArgument" | "501")
}

/// Only what is sent can be what it does not know.
fn without_extras(config: &Config, s3: &S3Store) -> String {
    let extras = [
        (s3.checksum() != Checksum::None).then_some("S3_CHECKSUM=none"),
        config.store.sse.is_some().then_some("S3_SSE=none"),
    ];
    let extras: Vec<&str> = extras.into_iter().flatten().collect();
    match extras[..] {
        [] => "the store does not offer this call, or not like this: see its documentation, or use another".to_owned(),
        _ => format!("the store does not know what this call asks for: try {}", extras.join(", then ")),
    }
}

/// HEAD has no body to hold a code.
pub fn is_denied(code: &str) -> bool {
    matches!(code, "AccessDenied" | "403")
}

fn of_code(code: &str) -> &'static str {
    match code {
        "InvalidAccessKeyId" | "NotSignedUp" => {
            "the store does not know AWS_ACCESS_KEY_ID: correct it, or AWS_ENDPOINT_URL_S3"
        }
        "SignatureDoesNotMatch" => {
            "AWS_SECRET_ACCESS_KEY does not belong to the access key (or what stands between changes requests): correct it"
        }
        "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired" => {
            "get new temporary credentials; AWS_SESSION_TOKEN belongs to them"
        }
        "NoSuchBucket" | "404" => "make the bucket, or correct S3_BUCKET (and AWS_ENDPOINT_URL_S3)",
        "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException" | "301" => {
            "set AWS_REGION to the bucket's region"
        }
        "RequestTimeTooSkewed" => "set this machine's clock (NTP)",
        code if code.starts_with("KMS.") => {
            "see that the key S3_SSE_KMS_KEY_ID is there, enabled, and in the bucket's region"
        }
        "SlowDown" | "InternalError" | "ServiceUnavailable" | "500" | "502" | "503" | "504" => {
            "the store is in trouble or overloaded: try again"
        }
        _ => "look the code up in the store's documentation",
    }
}

/// No answer, or none that could be read; `cause` is what it comes from in the end.
fn reach(endpoint: Option<&str>, cause: &str) -> String {
    let Some(endpoint) = endpoint else {
        return "see that S3 can be reached from here; set AWS_REGION, or AWS_ENDPOINT_URL_S3 for another store"
            .to_owned();
    };
    // The bucket is a part of the host name, which only some stores' DNS has.
    if cause.contains("lookup") || cause.contains("resolve") {
        return format!(
            "set S3_FORCE_PATH_STYLE=true if the bucket is no host name below {endpoint}; else correct the endpoint"
        );
    }
    format!(
        "see that the endpoint {endpoint} is an S3 and can be reached from here (it comes from AWS_ENDPOINT_URL_S3, \
         AWS_ENDPOINT_URL or the profile's endpoint_url)"
    )
}

/// With a KMS key, S3 refuses what the key does not allow by the same code.
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
    fn a_name_that_is_not_found_may_be_the_bucket_s() {
        let unknown = "failed to lookup address information: Name or service not known";
        assert!(reach(Some("http://s3.local:9000"), unknown).contains("S3_FORCE_PATH_STYLE=true"));
        let refused = reach(Some("http://s3.local:9000"), "Connection refused (os error 111)");
        assert!(refused.contains("http://s3.local:9000") && !refused.contains("S3_FORCE_PATH_STYLE"), "{refused}");
        assert!(reach(None, unknown).contains("AWS_REGION"));
    }
}
