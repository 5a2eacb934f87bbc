//! Checks whether the bucket keeps old versions of deleted objects.

use super::context::Context;
use super::hints::{describe, is_denied};
use super::report::{Finding, Outcome};
use crate::store::StoreError;
use crate::store::s3::inspect::LifecycleRule;

const BY_HAND: &str = "check the bucket's versioning by hand";

pub async fn versioning(context: &Context<'_>) -> Outcome {
    match context.versioning().await {
        Ok(None) => Ok("off: deleted objects do not remain as old versions".to_owned()),
        Ok(Some(state)) => {
            // If the rules cannot be read, the check `lifecycle` reports it.
            let rules = context.s3.lifecycle().await.unwrap_or_default();
            judge(state, &rules, &context.config.store.prefix)
        }
        Err(StoreError::Rejected { code, .. }) if is_denied(code) => Err(Finding::warn(
            "no permission to read the versioning state (AccessDenied): old versions of deleted objects may remain",
            format!("allow s3:GetBucketVersioning on the bucket, or {BY_HAND}"),
        )),
        Err(error) => Err(Finding::warn(describe(error), BY_HAND)),
    }
}

fn judge(state: &str, rules: &[LifecycleRule], prefix: &str) -> Outcome {
    let mut all = rules.iter().filter(|rule| !rule.narrowed && prefix.starts_with(&rule.prefix));
    if let Some(days) = all.find_map(|rule| rule.expires_old_versions_after_days) {
        return Ok(format!("{state}; old versions are removed after {days} d"));
    }
    Err(Finding::warn(
        format!("{state}: old versions of deleted objects, including doctor's test objects, remain and cost storage"),
        format!(
            "unless this is intended, add a lifecycle rule on '{prefix}*' with NoncurrentVersionExpiration after 1 day"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_must_remove_old_versions_under_the_whole_prefix() {
        let rule = |prefix: &str, days| LifecycleRule {
            prefix: prefix.to_owned(),
            expires_old_versions_after_days: days,
            ..LifecycleRule::default()
        };
        assert!(judge("Enabled", &[rule("b/", Some(1)), rule("", Some(2))], "a/").unwrap().contains("after 2 d"));
        let narrowed = LifecycleRule { narrowed: true, ..rule("", Some(1)) };
        for rule in [rule("b/", Some(1)), rule("a/incoming/", Some(1)), rule("", None), narrowed] {
            let fix = judge("Enabled", std::slice::from_ref(&rule), "a/").unwrap_err().to_string();
            assert!(fix.contains("'a/*' with NoncurrentVersionExpiration"), "{rule:?}: {fix}");
        }
    }
}
