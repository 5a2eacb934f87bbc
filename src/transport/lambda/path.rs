//! Removes the base path and the stage that an API Gateway may put before the path of the service's routes.
//!
//! | sender, and the URL that was requested | the event's path |
//! |---|---|
//! | REST API, its own address (`/prod/limits`) | `/limits` |
//! | REST API, custom domain, base path `img` mapped to a stage (`/img/limits`) | `/img/limits` |
//! | REST API, custom domain mapped to no stage (`/img/prod/limits`) | `/img/prod/limits` |
//! | HTTP API, its own address, a stage other than `$default` (`/prod/limits`) | `/prod/limits` |
//! | HTTP API, custom domain, `img` mapped to a stage (`/img/limits`) | 1.0: with the mapping; 2.0: documented as without |
//!
//! All events except those of a `$default` route also contain the resource that was matched, such as `/{proxy+}`, and
//! the value of `{proxy+}`. Everything before that in the path is removed. This works for every combination above
//! without a setting.

use percent_encoding::percent_decode_str;
use std::borrow::Cow;

use super::payload::Payload;

/// Returns `path` without base path and stage. `resource` is the resource that the gateway matched.
pub(super) fn below_base<'a>(path: &'a str, resource: Option<&str>, payload: &Payload<'_>) -> &'a str {
    let matched = resource.and_then(|resource| expand(resource, payload));
    matched.and_then(|matched| matched_end(path, &matched)).unwrap_or_else(|| below_stage(path, payload))
}

/// Returns what the URL that was requested has before `below`, the result of [`below_base`] for `path`.
pub(super) fn base<'a>(path: &'a str, below: &str, payload: &'a Payload<'_>) -> &'a str {
    let requested = payload.request_context.as_ref().and_then(|context| context.path.as_deref());
    requested.unwrap_or(path).strip_suffix(below).unwrap_or_default()
}

/// Replaces the parameters in a resource by their values.
///
/// Returns `None` if it is not a path or a parameter is missing or empty. API Gateway sends no empty parameters, but
/// emulators of it do.
fn expand(resource: &str, payload: &Payload<'_>) -> Option<String> {
    let mut matched = String::new();
    for segment in resource.strip_prefix('/')?.split('/') {
        let name = segment.strip_prefix('{').and_then(|name| name.strip_suffix('}'));
        let text = match name {
            Some(name) => payload.path_parameters.as_ref()?.get(name.trim_end_matches('+'))?.as_deref()?,
            None => segment,
        };
        if name.is_some() && text.is_empty() {
            return None;
        }
        matched.push('/');
        matched.push_str(text);
    }
    Some(matched)
}

/// Returns the end of `path` that equals `matched`. Trailing slashes are ignored, and either may be percent-encoded.
fn matched_end<'a>(path: &'a str, matched: &str) -> Option<&'a str> {
    let matched = matched.trim_end_matches('/');
    let segments = matched.matches('/').count();
    if segments == 0 {
        return Some("/");
    }
    let (start, _) = path.trim_end_matches('/').rmatch_indices('/').nth(segments - 1)?;
    let end = &path[start..];
    (decoded(end.trim_end_matches('/')) == decoded(matched)).then_some(end)
}

fn decoded(text: &str) -> Cow<'_, str> {
    percent_decode_str(text).decode_utf8_lossy()
}

/// Returns `path` without the stage. The path of an HTTP API begins with its stage, unless that is `$default`.
fn below_stage<'a>(path: &'a str, payload: &Payload<'_>) -> &'a str {
    let stage = payload.request_context.as_ref().and_then(|context| context.stage.as_deref()).unwrap_or_default();
    let below = path.strip_prefix('/').and_then(|path| path.strip_prefix(stage)).filter(|_| !stage.is_empty());
    below.filter(|path| path.is_empty() || path.starts_with('/')).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn below(path: &str, resource: Option<&str>, payload: &Value) -> String {
        let payload = payload.to_string();
        below_base(path, resource, &serde_json::from_str(&payload).unwrap()).to_owned()
    }

    #[test]
    fn path_before_the_matched_resource_is_removed() {
        let proxy = |path: &str| json!({"pathParameters": {"proxy": path}, "requestContext": {"stage": "prod"}});
        let any = |path: &str, rest: &str| below(path, Some("/{proxy+}"), &proxy(rest));
        for base in ["", "/img", "/prod", "/img/prod", "/a/b/c", "/images"] {
            assert_eq!(any(&format!("{base}/limits"), "limits"), "/limits", "{base}");
            assert_eq!(any(&format!("{base}/images/a.png/url"), "images/a.png/url"), "/images/a.png/url", "{base}");
            assert_eq!(any(&format!("{base}/limits/"), "limits"), "/limits/", "{base}");
            assert_eq!(any(&format!("{base}/a%20b"), "a b"), "/a%20b", "{base}");
            let root = below(&format!("{base}/"), Some("/"), &json!({"pathParameters": null}));
            assert_eq!(root, "/", "{base}");
            let one = json!({"pathParameters": {"key": "a.png"}});
            assert_eq!(below(&format!("{base}/images/a.png"), Some("/images/{key}"), &one), "/images/a.png", "{base}");
            assert_eq!(below(&format!("{base}/limits"), Some("/limits"), &json!({})), "/limits", "{base}");
        }
        assert_eq!(below("/img", Some("/"), &json!({})), "/");
    }

    #[test]
    fn resource_that_does_not_match_leaves_the_path_unchanged() {
        let proxy = json!({"pathParameters": {"proxy": "limits"}});
        for path in ["/img/healthz", "/img/delimits", "limits", "/", ""] {
            assert_eq!(below(path, Some("/{proxy+}"), &proxy), path);
        }
        for resource in ["$default", "/{other}", "/{proxy"] {
            assert_eq!(below("/img/limits", Some(resource), &proxy), "/img/limits", "{resource}");
        }
        for parameters in [json!({"proxy": ""}), json!({"proxy": null}), json!(null)] {
            let payload = json!({"pathParameters": parameters});
            assert_eq!(below("/img/limits", Some("/{proxy+}"), &payload), "/img/limits", "{payload}");
        }
        // An encoded slash is not a separator. The text after it must not become a route.
        let encoded = json!({"pathParameters": {"proxy": "a/limits"}});
        assert_eq!(below("/img/a%2Flimits", Some("/{proxy+}"), &encoded), "/img/a%2Flimits");
    }

    #[test]
    fn stage_is_removed_from_the_path() {
        let staged = |stage: &str, path: &str| below(path, None, &json!({"requestContext": {"stage": stage}}));
        assert_eq!(staged("$default", "/limits"), "/limits");
        assert_eq!(staged("prod", "/prod/limits"), "/limits");
        assert_eq!(staged("prod", "/prod"), "");
        assert_eq!(staged("prod", "/production"), "/production");
        assert_eq!(staged("prod", "/limits"), "/limits");
        assert_eq!(staged("", ""), "");
    }
}
