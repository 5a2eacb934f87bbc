//! Checks that the bucket's lifecycle rules remove leftovers, and nothing else.

use super::context::Context;
use super::hints::{describe, is_denied};
use super::report::{Finding, Outcome};
use crate::store::s3::inspect::{Expires, LifecycleRule};
use crate::store::{INCOMING, StoreError};

const SWEEP: &str = "run `image-store sweep` regularly";

pub async fn lifecycle(context: &Context<'_>) -> Outcome {
    if context.is_embedded {
        return Ok("not needed: the service sweeps the embedded S3 every hour".to_owned());
    }
    match context.s3.lifecycle().await {
        Ok(rules) => judge(&rules, &context.config.store.prefix),
        Err(error) => Err(unreadable(&error)),
    }
}

/// Reports that the rules could not be read, as a warning because the service works without them.
fn unreadable(error: &StoreError) -> Finding {
    match error {
        StoreError::Rejected { code, .. } if is_denied(code) => Finding::warn(
            "no permission to read the lifecycle rules (AccessDenied)",
            "allow s3:GetLifecycleConfiguration on the bucket, or check the rules by hand",
        ),
        StoreError::Rejected { code, .. } if matches!(code.as_str(), "NotImplemented" | "501") => {
            Finding::warn("the store does not support lifecycle rules", SWEEP)
        }
        error => Finding::warn(describe(error), format!("check the lifecycle rules by hand, or {SWEEP}")),
    }
}

fn judge(rules: &[LifecycleRule], prefix: &str) -> Outcome {
    let incoming = format!("{prefix}{INCOMING}");
    let covers = |rule: &LifecycleRule, keys: &str| keys.starts_with(&rule.prefix);
    let mut of_images = rules.iter().filter(|rule| covers(rule, prefix));
    if let Some((rule, when)) = of_images.find_map(|rule| rule.expires.map(|when| (rule, when))) {
        let narrowed = if rule.narrowed { " with certain tags or sizes" } else { "" };
        return Err(Finding::warn(
            format!("a lifecycle rule deletes images {} (it applies to '{}*'{narrowed})", time(when), rule.prefix),
            format!("unless this is intended, restrict the rule to {incoming}"),
        ));
    }
    let whole = || rules.iter().filter(|rule| !rule.narrowed);
    let aborts = whole().filter(|rule| covers(rule, prefix)).find_map(|rule| rule.aborts_uploads_after_days);
    let expires = whole().filter(|rule| covers(rule, &incoming)).find_map(|rule| days(rule.expires?));
    match (aborts, expires) {
        (Some(aborts), Some(expires)) => {
            Ok(format!("incomplete uploads are aborted after {aborts} d, {incoming} expires after {expires} d"))
        }
        (None, None) => Err(missing(&format!("{}, and {}", abort_rule(prefix), expiry_rule(&incoming)))),
        (None, _) => Err(missing(&abort_rule(prefix))),
        (_, None) => Err(missing(&expiry_rule(&incoming))),
    }
}

/// A rule with a date does not count, because leftovers may arise every day.
fn days(expires: Expires) -> Option<i32> {
    match expires {
        Expires::AfterDays(days) => Some(days),
        Expires::On(_) => None,
    }
}

fn time(expires: Expires) -> String {
    match expires {
        Expires::AfterDays(days) => format!("after {days} days"),
        Expires::On(date) => format!("on {}", humantime::format_rfc3339_seconds(date)),
    }
}

fn abort_rule(prefix: &str) -> String {
    let on = if prefix.is_empty() { String::new() } else { format!(" on {prefix}") };
    format!("abort incomplete multipart uploads{on} after 1 day")
}

fn expiry_rule(incoming: &str) -> String {
    format!("expire {incoming} after 1 day")
}

fn missing(rules: &str) -> Finding {
    let seen = "leftovers of killed processes and abandoned upload plans are not removed automatically";
    Finding::warn(seen, format!("add lifecycle rules: {rules}; or {SWEEP}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};

    fn rule(prefix: &str, aborts: Option<i32>, expires: Option<i32>) -> LifecycleRule {
        LifecycleRule {
            prefix: prefix.to_owned(),
            narrowed: false,
            aborts_uploads_after_days: aborts,
            expires: expires.map(Expires::AfterDays),
            ..LifecycleRule::default()
        }
    }

    fn fix(rules: &[LifecycleRule]) -> String {
        judge(rules, "a/").unwrap_err().to_string()
    }

    #[test]
    fn both_lifecycle_rules_are_required() {
        let (abort, expire) = (rule("", Some(1), None), rule("a/incoming/", None, Some(1)));
        assert!(judge(&[abort.clone(), expire.clone()], "a/").is_ok());
        assert!(fix(&[]).contains("abort") && fix(&[]).contains("expire"));
        assert!(fix(std::slice::from_ref(&abort)).contains("expire a/incoming/"));
        assert!(fix(std::slice::from_ref(&expire)).contains("abort incomplete"));
        assert!(fix(&[rule("b/", Some(1), None), expire.clone()]).contains("abort"), "another prefix");
        assert!(fix(&[LifecycleRule { narrowed: true, ..abort }, expire]).contains("abort"), "some objects only");
    }

    #[test]
    fn rule_that_deletes_images_is_a_warning() {
        let rules = [rule("", Some(1), None), rule("a/", None, Some(30))];
        assert!(fix(&rules).contains("deletes images after 30 days"), "{}", fix(&rules));
        assert!(judge(&[rule("", Some(1), None), rule("a/incoming/", None, Some(2))], "a/").is_ok());
    }

    #[test]
    fn rule_with_a_date_is_no_expiry_of_incoming() {
        let on = Some(Expires::On(SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000)));
        let dated = |prefix| [rule("", Some(1), None), LifecycleRule { expires: on, ..rule(prefix, None, None) }];
        assert!(fix(&dated("a/")).contains("deletes images on 2030-03-17T"), "{}", fix(&dated("a/")));
        assert!(fix(&dated("a/incoming/")).contains("expire a/incoming/ after 1 day"));
    }
}
