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

pub fn root<'a>(mut error: &'a (dyn Error + 'static)) -> &'a dyn Error {
    while let Some(source) = error.source() {
        error = source;
    }
    error
}

/// What to do about an error met by a call that takes `permission` (one or more of S3's actions, and on what).
pub fn fix(config: &Config, error: &StoreError, permission: &str) -> String {
    let code = match error {
        StoreError::NoAnswer { .. } => return reach(config),
        StoreError::Refused { code, .. } => code.as_str(),
        _ => "",
    };
    match code {
        "AccessDenied" | "AllAccessDisabled" | "403" => format!("allow {permission}{}", key_permission(config)),
        "InvalidAccessKeyId" => "the store does not know AWS_ACCESS_KEY_ID: correct it, or the endpoint".to_owned(),
        "SignatureDoesNotMatch" => "AWS_SECRET_ACCESS_KEY does not belong to the access key: correct it (else: what \
            stands between changes requests)"
            .to_owned(),
        "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired" => {
            "get new temporary credentials (AWS_SESSION_TOKEN belongs to them)".to_owned()
        }
        "NoSuchBucket" | "404" => "make the bucket, or correct S3_BUCKET (and AWS_ENDPOINT_URL_S3)".to_owned(),
        "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException" | "301" | "400" => {
            "set AWS_REGION to the bucket's region".to_owned()
        }
        "RequestTimeTooSkewed" => "set this machine's clock".to_owned(),
        "SlowDown" | "InternalError" | "ServiceUnavailable" | "500" | "502" | "503" | "504" => {
            "the store is in trouble or overloaded: try again".to_owned()
        }
        "NotImplemented" | "InvalidRequest" | "InvalidArgument" | "501" => {
            "the store does not know what this call asks for: try S3_CHECKSUM=none, and S3_SSE=none".to_owned()
        }
        _ => "look the code up in the store's documentation".to_owned(),
    }
}

fn reach(config: &Config) -> String {
    match &config.store.endpoint {
        Some(endpoint) => format!(
            "correct AWS_ENDPOINT_URL_S3 ({endpoint}), or open the way there (S3_FORCE_PATH_STYLE=true where the bucket is no host name)"
        ),
        None => "open the way from here to S3 (or set AWS_REGION, or AWS_ENDPOINT_URL_S3 for another store)".to_owned(),
    }
}

/// With a KMS key, S3 refuses what the key does not allow by the same code.
fn key_permission(config: &Config) -> &'static str {
    match config.store.sse {
        Some(Sse::Kms { .. }) => ", and kms:GenerateDataKey and kms:Decrypt on the key",
        _ => "",
    }
}
