//! Calls that only the operator's commands need: the bucket's region, clock, versioning and lifecycle rules.

use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::types::{ExpirationStatus, LifecycleExpiration, LifecycleRuleFilter, NoncurrentVersionExpiration};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::SystemTime;

use super::errors::classify;
use super::{Checksum, S3Store};
use crate::error::BoxError;
use crate::store::{Result, StoreError};

/// The result of a request for the bucket.
#[derive(Debug)]
pub struct Greeting {
    pub outcome: Result<()>,
    pub headers: AnswerHeaders,
}

/// Information from the headers of a response, including an error response.
#[derive(Clone, Debug, Default)]
pub struct AnswerHeaders {
    /// When the response was sent by the store's clock (in whole seconds), and when it was received by this machine's
    /// clock.
    pub sent_and_received: Option<(SystemTime, SystemTime)>,
    /// The bucket's region, if the store reports it.
    pub region: Option<String>,
}

/// An enabled rule of the bucket's lifecycle configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LifecycleRule {
    /// Prefix of the keys to which the rule applies.
    pub prefix: String,
    /// Whether the rule applies only to some of these objects, by their tags or sizes.
    pub narrowed: bool,
    pub aborts_uploads_after_days: Option<i32>,
    pub expires: Option<Expires>,
    /// For a versioned bucket. `None` if the rule keeps a number of newer versions for longer.
    pub expires_old_versions_after_days: Option<i32>,
}

/// When a rule deletes objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expires {
    AfterDays(i32),
    /// On that day all existing objects, and later objects when they are created.
    On(SystemTime),
}

impl S3Store {
    /// Returns the region for which requests are signed.
    pub fn region(&self) -> &str {
        self.client.config().region().map(AsRef::as_ref).unwrap_or_default()
    }

    /// Returns the checksum that is sent, never [`Checksum::Auto`].
    pub fn checksum(&self) -> Checksum {
        self.checksum
    }

    /// Returns the prefix of all keys.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Returns the configured endpoint. `None` for AWS's endpoint of the region.
    pub fn endpoint(&self) -> Option<&str> {
        self.endpoint.as_deref()
    }

    /// Requests the bucket (HeadBucket).
    ///
    /// An error response to HEAD has no body that contains the reason. After an error, ListObjectsV2 is called to find
    /// it.
    pub async fn greet(&self) -> Greeting {
        let last = LastHeaders::default();
        let call = self.client.head_bucket().bucket(&self.bucket).customize().interceptor(last.clone());
        let outcome = match call.send().await.map_err(|error| classify("HeadBucket", error)) {
            Ok(_) => Ok(()),
            Err(unknown @ StoreError::OutcomeUnknown { .. }) => Err(unknown),
            Err(rejected) => Err(self.reason().await.unwrap_or(rejected)),
        };
        Greeting { outcome, headers: last.get() }
    }

    async fn reason(&self) -> Option<StoreError> {
        let call = self.client.list_objects_v2().bucket(&self.bucket).max_keys(1);
        match classify("ListObjectsV2", call.send().await.err()?) {
            // S3 would return NoSuchBucket. A plain 404 may come from a server that is not an S3.
            missing @ StoreError::NotFound => Some(StoreError::Rejected {
                operation: "ListObjectsV2",
                code: "404".to_owned(),
                source: missing.into(),
            }),
            error => Some(error),
        }
    }

    /// Returns the bucket's versioning (GetBucketVersioning): `Enabled`, `Suspended`, or `None` if it was never
    /// enabled.
    ///
    /// # Errors
    /// Returns `AccessDenied` if the credentials do not permit the call.
    pub async fn versioning(&self) -> Result<Option<String>> {
        let response = self.client.get_bucket_versioning().bucket(&self.bucket).send().await;
        match response.map_err(|error| classify("GetBucketVersioning", error)) {
            Ok(found) => Ok(found.status.map(|status| status.as_str().to_owned())),
            // A store that does not implement versioning keeps no versions.
            Err(StoreError::Rejected { code, .. }) if matches!(code.as_str(), "NotImplemented" | "501") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the enabled lifecycle rules (GetBucketLifecycleConfiguration).
    ///
    /// # Errors
    /// Returns `AccessDenied` if the credentials do not permit the call, and `NotImplemented` (or a status) if the
    /// store does not support lifecycle rules.
    pub async fn lifecycle(&self) -> Result<Vec<LifecycleRule>> {
        let response = self.client.get_bucket_lifecycle_configuration().bucket(&self.bucket).send().await;
        match response.map_err(|error| classify("GetBucketLifecycleConfiguration", error)) {
            Ok(found) => {
                let enabled = found.rules().iter().filter(|rule| rule.status == ExpirationStatus::Enabled);
                Ok(enabled.map(lifecycle_rule).collect())
            }
            Err(StoreError::Rejected { code, .. }) if code == "NoSuchLifecycleConfiguration" => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

fn lifecycle_rule(rule: &aws_sdk_s3::types::LifecycleRule) -> LifecycleRule {
    let filter = rule.filter();
    // The prefix of the rule itself is the older form, which some stores still return.
    #[expect(deprecated, reason = "the store chooses the form of its response")]
    let prefix = filter.and_then(filter_prefix).or(rule.prefix());
    LifecycleRule {
        prefix: prefix.unwrap_or_default().to_owned(),
        narrowed: filter.is_some_and(is_narrowed),
        aborts_uploads_after_days: rule
            .abort_incomplete_multipart_upload()
            .and_then(|abort| abort.days_after_initiation),
        expires: rule.expiration().and_then(expires),
        expires_old_versions_after_days: rule.noncurrent_version_expiration().and_then(expires_old_versions),
    }
}

fn expires(expiration: &LifecycleExpiration) -> Option<Expires> {
    let on = || expiration.date.and_then(|date| SystemTime::try_from(date).ok());
    expiration.days.map(Expires::AfterDays).or_else(|| on().map(Expires::On))
}

fn expires_old_versions(expiration: &NoncurrentVersionExpiration) -> Option<i32> {
    expiration.noncurrent_days.filter(|_| expiration.newer_noncurrent_versions.unwrap_or_default() == 0)
}

fn filter_prefix(filter: &LifecycleRuleFilter) -> Option<&str> {
    filter.prefix().or_else(|| filter.and()?.prefix())
}

fn is_narrowed(filter: &LifecycleRuleFilter) -> bool {
    let sized = |min: Option<i64>, max: Option<i64>| min.is_some() || max.is_some();
    filter.tag().is_some()
        || sized(filter.object_size_greater_than(), filter.object_size_less_than())
        || filter.and().is_some_and(|and| {
            !and.tags().is_empty() || sized(and.object_size_greater_than(), and.object_size_less_than())
        })
}

/// An interceptor that keeps the headers of the last response.
#[derive(Clone, Debug, Default)]
struct LastHeaders(Arc<Mutex<AnswerHeaders>>);

impl LastHeaders {
    fn get(&self) -> AnswerHeaders {
        self.0.lock().clone()
    }
}

impl Intercept for LastHeaders {
    fn name(&self) -> &'static str {
        "LastHeaders"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let headers = context.response().headers();
        let sent = headers.get("date").and_then(|date| httpdate::parse_http_date(date).ok());
        *self.0.lock() = AnswerHeaders {
            sent_and_received: sent.map(|sent| (sent, SystemTime::now())),
            region: headers.get("x-amz-bucket-region").map(str::to_owned),
        };
        Ok(())
    }
}
