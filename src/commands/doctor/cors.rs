//! Checks that the bucket's CORS rules allow pages to upload to the store and to read from it.

use reqwest::Url;
use reqwest::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, HeaderMap, HeaderName,
};

use super::context::Context;
use super::presigned::{sign_get, sign_put};
use super::presigned_client::{Reply, set_by_client};
use super::report::{Finding, Outcome};
use crate::config::Config;
use crate::store::{ImageKey, ObjectName, Presigned};

/// An arbitrary origin, to check `*`.
const ANY_ORIGIN: &str = "https://any.example";

pub async fn cors(context: &Context<'_>) -> Outcome {
    let origins = origins(context.config);
    if origins.is_empty() {
        return Err(Finding::skip("neither CORS_ALLOW_ORIGIN nor PUBLIC_URL is set, so there is no origin to check"));
    }
    let put = sign_put(context, &ObjectName::Incoming(ImageKey::random("png"))).await?;
    let get = sign_get(context, &context.put_sample().await?).await?;
    for origin in &origins {
        check(context, origin, &put, &get).await?;
    }
    Ok(format!("pages from {} may PUT and GET", origins.join(", ")))
}

async fn check(context: &Context<'_>, origin: &str, put: &Presigned, get: &Presigned) -> Result<(), Finding> {
    let forbidden = |request| {
        move |why| forbidden(context.config, origin, &format!("the answer to a {request} from {origin} {why}"))
    };
    let mut names: Vec<&str> = set_by_client(put).map(|(name, _)| name).collect();
    names.sort_unstable();
    let listed = names.join(",");
    let headers =
        [("origin", origin), ("access-control-request-method", "PUT"), ("access-control-request-headers", &listed)];
    let reply = context.presigned_client.preflight(put, &headers).await?;
    allowed(&reply, origin, &names).map_err(forbidden("preflight for a PUT"))?;
    // A browser sends a plain GET without a preflight, and withholds the answer from a page whose origin is not allowed.
    let reply = context.presigned_client.get_from(origin, get).await?;
    allowed_origin(&reply, origin).map_err(forbidden("GET"))
}

/// Returns the origins of pages that upload: the configured origins and that of the service's own page.
fn origins(config: &Config) -> Vec<String> {
    let mut origins = config.cors_origins.clone();
    origins.iter_mut().filter(|origin| *origin == "*").for_each(|any| ANY_ORIGIN.clone_into(any));
    let own = config.public_url.as_deref().and_then(|url| Url::parse(url).ok());
    origins.extend(own.map(|url| url.origin().ascii_serialization()).filter(|own| !config.cors_origins.contains(own)));
    origins
}

/// Checks the answer to a preflight as the Fetch standard requires of browsers.
fn allowed(reply: &Reply, origin: &str, names: &[&str]) -> Result<(), String> {
    allowed_origin(reply, origin)?;
    if !has(&reply.headers, ACCESS_CONTROL_ALLOW_METHODS, "PUT") {
        return Err("does not allow PUT".to_owned());
    }
    let missing = names.iter().find(|name| !has(&reply.headers, ACCESS_CONTROL_ALLOW_HEADERS, name));
    missing.map_or(Ok(()), |name| Err(format!("does not allow the header {name}")))
}

fn allowed_origin(reply: &Reply, origin: &str) -> Result<(), String> {
    if !reply.status.is_success() {
        return Err(format!("has status {}", reply.describe()));
    }
    match has(&reply.headers, ACCESS_CONTROL_ALLOW_ORIGIN, origin) {
        true => Ok(()),
        false => Err("does not allow the origin".to_owned()),
    }
}

/// Returns whether a comma-separated header contains `expected` or `*`.
fn has(headers: &HeaderMap, name: HeaderName, expected: &str) -> bool {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    let mut listed = values.flat_map(|value| value.split(',')).map(str::trim);
    listed.any(|value| value == "*" || value.eq_ignore_ascii_case(expected))
}

/// A missing rule is only a warning for the service's own page, which then still uploads small files through the
/// service.
fn forbidden(config: &Config, origin: &str, seen: &str) -> Finding {
    let fix = format!("in the bucket's CORS rules, allow PUT, GET and HEAD from {origin} with all headers (*)");
    let configured = origin == ANY_ORIGIN || config.cors_origins.iter().any(|configured| configured == origin);
    if configured { Finding::fail(seen, fix) } else { Finding::warn(seen, fix) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use reqwest::StatusCode;

    fn preflight(status: StatusCode, headers: &[(HeaderName, &str)]) -> Result<(), String> {
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
        let reply = Reply { status, headers, body: Bytes::new() };
        allowed(&reply, "https://a.example", &["content-type", "if-none-match"])
    }

    #[test]
    fn preflight_is_checked_like_in_browsers() {
        let origin = (ACCESS_CONTROL_ALLOW_ORIGIN, "https://a.example");
        let methods = (ACCESS_CONTROL_ALLOW_METHODS, "GET, PUT");
        let headers = (ACCESS_CONTROL_ALLOW_HEADERS, "If-None-Match,Content-Type");
        let all = [origin.clone(), methods.clone(), headers.clone()];
        assert_eq!(preflight(StatusCode::OK, &all), Ok(()));
        let any = [ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_HEADERS];
        assert_eq!(preflight(StatusCode::NO_CONTENT, &any.map(|name| (name, "*"))), Ok(()));

        assert!(preflight(StatusCode::FORBIDDEN, &all).unwrap_err().contains("403"));
        let other = (ACCESS_CONTROL_ALLOW_ORIGIN, "https://b.example");
        assert!(preflight(StatusCode::OK, &[other, methods.clone(), headers.clone()]).unwrap_err().contains("origin"));
        assert!(preflight(StatusCode::OK, &[origin.clone(), headers]).unwrap_err().contains("PUT"));
        let few = (ACCESS_CONTROL_ALLOW_HEADERS, "content-type");
        assert!(preflight(StatusCode::OK, &[origin, methods, few]).unwrap_err().contains("if-none-match"));
    }
}
