//! Whether the bucket removes what is left behind, and nothing else.

use super::context::Context;
use super::hints::{is_denied, told};
use super::report::{Finding, Outcome};
use crate::store::s3::inspect::{Expires, LifecycleRule};
use crate::store::{INCOMING, StoreError};

const SWEEP: &str = "run `image-store sweep` now and then";

pub async fn lifecycle(context: &Context<'_>) -> Outcome {
    if context.is_embedded {
        return Ok("no rules here; the service itself sweeps the embedded S3 every hour".to_owned());
    }
    match context.s3.lifecycle().await {
        Ok(rules) => judge(&rules, &context.config.store.prefix),
        Err(error) => Err(unseen(&error)),
    }
}

/// None of this stops the service.
fn unseen(error: &StoreError) -> Finding {
    match error {
        StoreError::Rejected { code, .. } if is_denied(code) => Finding::warn(
            "the rules cannot be seen (AccessDenied)",
            "allow s3:GetLifecycleConfiguration on the bucket, or look at them by hand",
        ),
        StoreError::Rejected { code, .. } if matches!(code.as_str(), "NotImplemented" | "501") => {
            Finding::warn("the store has no lifecycle rules", SWEEP)
        }
        error => Finding::warn(told(error), format!("look at the rules by hand, or {SWEEP}")),
    }
}

fn judge(rules: &[LifecycleRule], prefix: &str) -> Outcome {
    let incoming = format!("{prefix}{INCOMING}");
    let covers = |rule: &LifecycleRule, keys: &str| keys.starts_with(&rule.prefix);
    let mut of_images = rules.iter().filter(|rule| covers(rule, prefix));
    if let Some((rule, when)) = of_images.find_map(|rule| rule.expires.map(|when| (rule, when))) {
        let narrowed = if rule.narrowed { ", those with its tags or sizes" } else { "" };
        return Err(Finding::warn(
            format!("a rule deletes images {} (it is about '{}*'{narrowed})", told_when(when), rule.prefix),
            format!("if that is not meant, restrict it to {incoming}"),
        ));
    }
    let whole = || rules.iter().filter(|rule| !rule.narrowed);
    let aborts = whole().filter(|rule| covers(rule, prefix)).find_map(|rule| rule.aborts_uploads_after_days);
    let expires = whole().filter(|rule| covers(rule, &incoming)).find_map(|rule| days(rule.expires?));
    match (aborts, expires) {
        (Some(aborts), Some(expires)) => {
            Ok(format!("uploads are aborted after {aborts} d, {incoming} expires after {expires} d"))
        }
        (None, None) => Err(missing(&format!("{}, and {}", abort_rule(prefix), expiry_rule(&incoming)))),
        (None, _) => Err(missing(&abort_rule(prefix))),
        (_, None) => Err(missing(&expiry_rule(&incoming))),
    }
}

/// A day in the calendar is none for what comes and goes every day.
fn days(expires: Expires) -> Option<i32> {
    match expires {
        Expires::AfterDays(days) => Some(days),
        Expires::On(_) => None,
    }
}

fn told_when(expires: Expires) -> String {
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
    let seen = "what a killed process or an abandoned plan leaves is not removed";
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
    fn both_rules_are_wanted() {
        let (abort, expire) = (rule("", Some(1), None), rule("a/incoming/", None, Some(1)));
        assert!(judge(&[abort.clone(), expire.clone()], "a/").is_ok());
        assert!(fix(&[]).contains("abort") && fix(&[]).contains("expire"));
        assert!(fix(std::slice::from_ref(&abort)).contains("expire a/incoming/"));
        assert!(fix(std::slice::from_ref(&expire)).contains("abort incomplete"));
        assert!(fix(&[rule("b/", Some(1), None), expire.clone()]).contains("abort"), "another prefix");
        assert!(fix(&[LifecycleRule { narrowed: true, ..abort }, expire]).contains("abort"), "some objects only");
    }

    #[test]
    fn a_rule_that_deletes_images_is_told() {
        let rules = [rule("", Some(1), None), rule("a/", None, Some(30))];
        assert!(fix(&rules).contains("deletes images after 30 days"), "{}", fix(&rules));
        assert!(judge(&[rule("", Some(1), None), rule("a/incoming/", None, Some(2))], "a/").is_ok());
    }

    #[test]
    fn a_date_deletes_images_and_keeps_no_folder_empty() {
        let on = Some(Expires::On(SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000)));
        let dated = |prefix| [rule("", Some(1), None), LifecycleRule { expires: on, ..rule(prefix, None, None) }];
        assert!(fix(&dated("a/")).contains("deletes images on 2030-03-17T"), "{}", fix(&dated("a/")));
        assert!(fix(&dated("a/incoming/")).contains("expire a/incoming/ after 1 day"));
    }
}
