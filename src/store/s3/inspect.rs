//! What an operator asks of a bucket and the service does not: its region, its clock, its versions, its lifecycle rules.

use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::types::{ExpirationStatus, LifecycleExpiration, LifecycleRuleFilter, NoncurrentVersionExpiration};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use super::errors::classify;
use super::{Checksum, S3Store};
use crate::error::BoxError;
use crate::store::{Result, StoreError};

/// How the bucket answered to being asked for.
#[derive(Debug)]
pub struct Greeting {
    pub outcome: Result<()>,
    pub headers: AnswerHeaders,
}

/// What an answer says beside its content, also where it is a refusal.
#[derive(Clone, Debug, Default)]
pub struct AnswerHeaders {
    /// When it was sent by the store's clock (in whole seconds), and when it came by ours.
    pub sent_and_received: Option<(SystemTime, SystemTime)>,
    /// The bucket's region, where the store tells.
    pub region: Option<String>,
}

/// An enabled rule of the bucket's lifecycle configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LifecycleRule {
    /// Of the keys it is about.
    pub prefix: String,
    /// Whether it is about some of those only, by their tags or sizes.
    pub narrowed: bool,
    pub aborts_uploads_after_days: Option<i32>,
    pub expires: Option<Expires>,
    /// Of a versioned bucket, where it keeps none of them for longer.
    pub expires_old_versions_after_days: Option<i32>,
}

/// When a rule deletes objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expires {
    AfterDays(i32),
    /// All there are on that day, and from then on what is new.
    On(SystemTime),
}

impl S3Store {
    /// The region requests are signed for.
    pub fn region(&self) -> &str {
        self.client.config().region().map(AsRef::as_ref).unwrap_or_default()
    }

    /// The checksum that is sent, never [`Checksum::Auto`].
    pub fn checksum(&self) -> Checksum {
        self.checksum
    }

    /// Before every key.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Where requests go; None: AWS by region.
    pub fn endpoint(&self) -> Option<&str> {
        self.endpoint.as_deref()
    }

    /// Asks for the bucket (HeadBucket).
    ///
    /// A refusal of HEAD has no body to say why, so what refuses is asked once more (ListObjectsV2).
    pub async fn greet(&self) -> Greeting {
        let kept = Kept::default();
        let call = self.client.head_bucket().bucket(&self.bucket).customize().interceptor(kept.clone());
        let outcome = match call.send().await.map_err(|error| classify("HeadBucket", error)) {
            Ok(_) => Ok(()),
            Err(silent @ StoreError::OutcomeUnknown { .. }) => Err(silent),
            Err(refusal) => Err(self.reason().await.unwrap_or(refusal)),
        };
        Greeting { outcome, headers: kept.get() }
    }

    async fn reason(&self) -> Option<StoreError> {
        let call = self.client.list_objects_v2().bucket(&self.bucket).max_keys(1);
        match classify("ListObjectsV2", call.send().await.err()?) {
            // Not in S3's words, which name the bucket: it may not be one.
            missing @ StoreError::NotFound => Some(StoreError::Rejected {
                operation: "ListObjectsV2",
                code: "404".to_owned(),
                source: missing.into(),
            }),
            error => Some(error),
        }
    }

    /// Whether objects have versions (GetBucketVersioning): `Enabled`, `Suspended`, or none where they never had any.
    ///
    /// # Errors
    /// `AccessDenied` where it may not be seen.
    pub async fn versioning(&self) -> Result<Option<String>> {
        let asked = self.client.get_bucket_versioning().bucket(&self.bucket).send().await;
        match asked.map_err(|error| classify("GetBucketVersioning", error)) {
            Ok(found) => Ok(found.status.map(|status| status.as_str().to_owned())),
            // A store that does not know versions keeps none.
            Err(StoreError::Rejected { code, .. }) if matches!(code.as_str(), "NotImplemented" | "501") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The enabled lifecycle rules (GetBucketLifecycleConfiguration).
    ///
    /// # Errors
    /// `AccessDenied` where they may not be seen, `NotImplemented` (or a status) where the store has no such rules.
    pub async fn lifecycle(&self) -> Result<Vec<LifecycleRule>> {
        let asked = self.client.get_bucket_lifecycle_configuration().bucket(&self.bucket).send().await;
        match asked.map_err(|error| classify("GetBucketLifecycleConfiguration", error)) {
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
    // The rule's own prefix is the older form, which other stores still answer.
    #[expect(deprecated, reason = "what is read is not ours to choose")]
    let prefix = filter.and_then(filter_prefix).or(rule.prefix());
    LifecycleRule {
        prefix: prefix.unwrap_or_default().to_owned(),
        narrowed: filter.is_some_and(is_narrowed),
        aborts_uploads_after_days: rule
            .abort_incomplete_multipart_upload()
            .and_then(|abort| abort.days_after_initiation),
        expires: rule.expiration().and_then(expires),
        expires_old_versions_after_days: rule.noncurrent_version_expiration().and_then(old_versions_go_after),
    }
}

fn expires(expiration: &LifecycleExpiration) -> Option<Expires> {
    let on = || expiration.date.and_then(|date| SystemTime::try_from(date).ok());
    expiration.days.map(Expires::AfterDays).or_else(|| on().map(Expires::On))
}

fn old_versions_go_after(expiration: &NoncurrentVersionExpiration) -> Option<i32> {
    expiration.noncurrent_days.filter(|_| expiration.newer_noncurrent_versions.unwrap_or_default() == 0)
}

fn filter_prefix(filter: &LifecycleRuleFilter) -> Option<&str> {
    filter.prefix().or_else(|| filter.and()?.prefix())
}

fn is_narrowed(filter: &LifecycleRuleFilter) -> bool {
    let sized = |least: Option<i64>, most: Option<i64>| least.is_some() || most.is_some();
    filter.tag().is_some()
        || sized(filter.object_size_greater_than(), filter.object_size_less_than())
        || filter.and().is_some_and(|and| {
            !and.tags().is_empty() || sized(and.object_size_greater_than(), and.object_size_less_than())
        })
}

/// Keeps the headers of the last answer that passes.
#[derive(Clone, Debug, Default)]
struct Kept(Arc<Mutex<AnswerHeaders>>);

impl Kept {
    fn get(&self) -> AnswerHeaders {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Intercept for Kept {
    fn name(&self) -> &'static str {
        "Kept"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let headers = context.response().headers();
        let sent = headers.get("date").and_then(|date| httpdate::parse_http_date(date).ok());
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = AnswerHeaders {
            sent_and_received: sent.map(|sent| (sent, SystemTime::now())),
            region: headers.get("x-amz-bucket-region").map(str::to_owned),
        };
        Ok(())
    }
}
