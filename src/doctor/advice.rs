//! What an error of the store's means, and what to do about it.

use std::error::Error;

use crate::config::Config;
use crate::store::StoreError;
use crate::store::s3::Sse;

/// The error, with its root cause where S3 named none itself.
pub fn told(error: &StoreError) -> String {
    match error {
        StoreError::NoAnswer { source, .. } => format!("{error}: {}", root(source.as_ref())),
        StoreError::Refused { code, source, .. } if code == "InvalidCall" => {
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
pub fn fix(config: &Config, error: &StoreError, permission: &str) -> String {
    match error {
        StoreError::NoAnswer { .. } => reach(config),
        StoreError::Refused { code, .. } if is_denied(code) => format!("allow {permission}{}", key_permission(config)),
        StoreError::Refused { code, .. } => of_code(code).to_owned(),
        _ => "look what answers for the store, and try again".to_owned(),
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
        "NotImplemented" | "InvalidRequest" | "InvalidArgument" | "501" => {
            "the store does not know what this call asks for: try S3_CHECKSUM=none, and S3_SSE=none"
        }
        "SlowDown" | "InternalError" | "ServiceUnavailable" | "500" | "502" | "503" | "504" => {
            "the store is in trouble or overloaded: try again"
        }
        _ => "look the code up in the store's documentation",
    }
}

/// No answer, or none that could be read.
fn reach(config: &Config) -> String {
    match &config.store.endpoint {
        Some(endpoint) => format!(
            "see that AWS_ENDPOINT_URL_S3 ({endpoint}) is an S3 and can be reached from here (where the bucket is no host \
             name: S3_FORCE_PATH_STYLE=true)"
        ),
        None => {
            "see that S3 can be reached from here; set AWS_REGION, or AWS_ENDPOINT_URL_S3 for another store".to_owned()
        }
    }
}

/// With a KMS key, S3 refuses what the key does not allow by the same code.
fn key_permission(config: &Config) -> &'static str {
    match config.store.sse {
        Some(Sse::Kms { .. }) => ", and kms:GenerateDataKey and kms:Decrypt on the key",
        _ => "",
    }
}
