//! Whether what is deleted stays in the bucket as an old version.

use super::context::Context;
use super::hints::{is_denied, told};
use super::report::{Finding, Outcome};
use crate::store::StoreError;
use crate::store::s3::inspect::LifecycleRule;

const BY_HAND: &str = "look at the bucket's versioning by hand";

pub async fn versioning(context: &Context<'_>) -> Outcome {
    match context.versioning().await {
        Ok(None) => Ok("off: what is deleted is gone".to_owned()),
        Ok(Some(state)) => {
            // Where the rules cannot be seen, `lifecycle` says so.
            let rules = context.s3.lifecycle().await.unwrap_or_default();
            judge(state, &rules, &context.config.store.prefix)
        }
        Err(StoreError::Rejected { code, .. }) if is_denied(code) => Err(Finding::warn(
            "cannot be seen (AccessDenied): old versions of what is deleted may stay",
            format!("allow s3:GetBucketVersioning on the bucket, or {BY_HAND}"),
        )),
        Err(error) => Err(Finding::warn(told(error), BY_HAND)),
    }
}

fn judge(state: &str, rules: &[LifecycleRule], prefix: &str) -> Outcome {
    let mut all = rules.iter().filter(|rule| !rule.narrowed && prefix.starts_with(&rule.prefix));
    if let Some(days) = all.find_map(|rule| rule.expires_old_versions_after_days) {
        return Ok(format!("{state}; old versions are removed after {days} d"));
    }
    Err(Finding::warn(
        format!("{state}: old versions of what is deleted, also of what doctor removes, stay and are paid for"),
        format!(
            "if that is not meant, add a lifecycle rule on '{prefix}*' with NoncurrentVersionExpiration after 1 day"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_versions_must_go_from_below_the_whole_prefix() {
        let rule = |prefix: &str, days| LifecycleRule {
            prefix: prefix.to_owned(),
            expires_old_versions_after_days: days,
            ..LifecycleRule::default()
        };
        assert!(judge("Enabled", &[rule("b/", Some(1)), rule("", Some(2))], "a/").unwrap().contains("after 2 d"));
        let narrowed = LifecycleRule { narrowed: true, ..rule("", Some(1)) };
        for few in [rule("b/", Some(1)), rule("a/incoming/", Some(1)), rule("", None), narrowed] {
            let fix = judge("Enabled", std::slice::from_ref(&few), "a/").unwrap_err().to_string();
            assert!(fix.contains("'a/*' with NoncurrentVersionExpiration"), "{few:?}: {fix}");
        }
    }
}
