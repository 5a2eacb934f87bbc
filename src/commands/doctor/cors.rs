//! Whether pages may send to the store, which a browser asks first, and read from it.

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

/// For `*`: some origin nobody thought of.
const ANY_ORIGIN: &str = "https://any.example";

pub async fn cors(context: &Context<'_>) -> Outcome {
    let origins = origins(context.config);
    if origins.is_empty() {
        return Err(Finding::skip("CORS_ALLOW_ORIGIN and PUBLIC_URL name no origin whose pages upload"));
    }
    let put = sign_put(context, &ObjectName::Incoming(ImageKey::random("png"))).await?;
    let get = sign_get(context, &context.put_sample().await?).await?;
    for origin in &origins {
        may_put(context, origin, &put).await?;
        may_get(context, origin, &get).await?;
    }
    Ok(format!("pages of {} may PUT and GET", origins.join(", ")))
}

async fn may_put(context: &Context<'_>, origin: &str, signed: &Presigned) -> Result<(), Finding> {
    let mut names: Vec<&str> = set_by_client(signed).map(|(name, _)| name).collect();
    names.sort_unstable();
    let listed = names.join(",");
    let asked =
        [("origin", origin), ("access-control-request-method", "PUT"), ("access-control-request-headers", &listed)];
    let reply = context.presigned_client.preflight(signed, &asked).await?;
    let allowed = allowed(&reply, origin, &names);
    allowed.map_err(|why| forbidden(context.config, origin, &format!("a preflight for a PUT from {origin} {why}")))
}

/// A browser sends a plain GET without asking, and keeps the answer from a page whose origin it does not allow.
async fn may_get(context: &Context<'_>, origin: &str, signed: &Presigned) -> Result<(), Finding> {
    let reply = context.presigned_client.get_from(origin, signed).await?;
    let allowed = allowed_origin(&reply, origin);
    allowed.map_err(|why| forbidden(context.config, origin, &format!("a GET from {origin} {why}")))
}

/// Where pages that upload come from: the configured origins, and the service's own upload page.
fn origins(config: &Config) -> Vec<String> {
    let mut origins = config.cors_origins.clone();
    origins.iter_mut().filter(|origin| *origin == "*").for_each(|any| ANY_ORIGIN.clone_into(any));
    let own = config.public_url.as_deref().and_then(|url| Url::parse(url).ok());
    origins.extend(own.map(|url| url.origin().ascii_serialization()).filter(|own| !config.cors_origins.contains(own)));
    origins
}

/// As the Fetch standard has browsers check a preflight's answer.
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
        return Err(format!("is answered {}", reply.told()));
    }
    match has(&reply.headers, ACCESS_CONTROL_ALLOW_ORIGIN, origin) {
        true => Ok(()),
        false => Err("does not allow the origin".to_owned()),
    }
}

fn has(headers: &HeaderMap, name: HeaderName, wanted: &str) -> bool {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    let mut listed = values.flat_map(|value| value.split(',')).map(str::trim);
    listed.any(|value| value == "*" || value.eq_ignore_ascii_case(wanted))
}

/// The service's own page also works without, for what is small enough to go through the service.
fn forbidden(config: &Config, origin: &str, seen: &str) -> Finding {
    let fix = format!("allow PUT, GET and HEAD from {origin} with all headers (*) in the bucket's CORS rules");
    let configured = origin == ANY_ORIGIN || config.cors_origins.iter().any(|configured| configured == origin);
    if configured { Finding::fail(seen, fix) } else { Finding::warn(seen, fix) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use reqwest::StatusCode;

    fn answered(status: StatusCode, headers: &[(HeaderName, &str)]) -> Result<(), String> {
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
        let reply = Reply { status, headers, body: Bytes::new() };
        allowed(&reply, "https://a.example", &["content-type", "if-none-match"])
    }

    #[test]
    fn a_preflight_is_read_as_browsers_read_it() {
        let origin = (ACCESS_CONTROL_ALLOW_ORIGIN, "https://a.example");
        let methods = (ACCESS_CONTROL_ALLOW_METHODS, "GET, PUT");
        let headers = (ACCESS_CONTROL_ALLOW_HEADERS, "If-None-Match,Content-Type");
        let all = [origin.clone(), methods.clone(), headers.clone()];
        assert_eq!(answered(StatusCode::OK, &all), Ok(()));
        let any = [ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_HEADERS];
        assert_eq!(answered(StatusCode::NO_CONTENT, &any.map(|name| (name, "*"))), Ok(()));

        assert!(answered(StatusCode::FORBIDDEN, &all).unwrap_err().contains("403"));
        let other = (ACCESS_CONTROL_ALLOW_ORIGIN, "https://b.example");
        assert!(answered(StatusCode::OK, &[other, methods.clone(), headers.clone()]).unwrap_err().contains("origin"));
        assert!(answered(StatusCode::OK, &[origin.clone(), headers]).unwrap_err().contains("PUT"));
        let few = (ACCESS_CONTROL_ALLOW_HEADERS, "content-type");
        assert!(answered(StatusCode::OK, &[origin, methods, few]).unwrap_err().contains("if-none-match"));
    }
}
