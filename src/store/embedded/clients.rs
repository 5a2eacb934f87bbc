//! Access for clients: presigned URLs under [`MOUNT`] only.
//!
//! A URL is signed for [`HOST`] and the bucket's own path. Both are restored here before the signature is checked. A
//! client may therefore reach the service by any host name, scheme and path prefix, and a proxy may change them.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Version, header};
use http_body_util::BodyExt;
use s3s::service::S3Service;
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};
use std::convert::Infallible;
use std::time::Duration;
use tower::util::BoxCloneSyncService;
use tower::{ServiceBuilder, service_fn};
use tower_http::cors::{AllowHeaders, Any, CorsLayer};
use tower_http::set_header::SetResponseHeaderLayer;

use super::{HOST, MOUNT};
use crate::error::BoxError;

/// How long a browser may cache the response to a preflight request.
const PREFLIGHT_AGE: Duration = Duration::from_secs(3_600);
/// The methods that URLs are presigned for.
const METHODS: [Method; 3] = [Method::GET, Method::HEAD, Method::PUT];

pub(super) fn service<B>(store: S3Service) -> BoxCloneSyncService<Request<B>, Response<s3s::Body>, Infallible>
where
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let service = service_fn(move |request| answer(store.clone(), request));
    let set = SetResponseHeaderLayer::overriding;
    let layers = ServiceBuilder::new()
        // Objects from clients are served from the service's own origin, so browsers must not execute them.
        .layer(set(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")))
        .layer(set(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox")))
        .layer(cors());
    BoxCloneSyncService::new(layers.service(service))
}

async fn answer<B>(store: S3Service, request: Request<B>) -> Result<Response<s3s::Body>, Infallible>
where
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let rejected = match restore_signed(request) {
        Ok(request) => match store.call(request).await {
            Ok(response) => return Ok(response),
            Err(error) => S3Error::with_source(S3ErrorCode::InternalError, error.into()),
        },
        Err(rejected) => rejected,
    };
    // Serialising a few lines of XML cannot fail.
    Ok(rejected.to_http_response().unwrap_or_default())
}

/// Returns the request as it was signed.
///
/// # Errors
/// Returns `MethodNotAllowed` for other methods, and `AccessDenied` if the request is not presigned or has headers that
/// are not signed.
fn restore_signed<B>(request: Request<B>) -> S3Result<Request<s3s::Body>>
where
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let (mut parts, body) = request.into_parts();
    if !METHODS.contains(&parts.method) {
        return Err(s3_error!(MethodNotAllowed));
    }
    let signed = signed_headers(parts.uri.query().unwrap_or_default());
    let signed = signed.ok_or_else(|| s3_error!(AccessDenied, "Only presigned URLs are accepted here"))?;
    check_headers(&parts.headers, &signed)?;
    let path = parts.uri.path_and_query().and_then(|path| path.as_str().strip_prefix(MOUNT));
    parts.uri = path.and_then(|path| path.parse().ok()).ok_or_else(|| s3_error!(InvalidURI))?;
    parts.version = Version::HTTP_11;
    parts.headers.insert(header::HOST, HeaderValue::from_static(HOST));
    // This header may be for a proxy in front of the service. The signature is in the query.
    parts.headers.remove(header::AUTHORIZATION);
    Ok(Request::from_parts(parts, s3s::Body::http_body_unsync(body.map_err(Into::into))))
}

/// Returns the names of the headers that a presigned query signs. `None` if the query is not presigned.
fn signed_headers(query: &str) -> Option<Vec<String>> {
    let value = |parameter| form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == parameter);
    value("X-Amz-Signature")?;
    let (_, names) = value("X-Amz-SignedHeaders")?;
    Some(names.split(';').map(str::to_owned).collect())
}

/// Checks that every header with a meaning for S3 is signed. Otherwise the holder of a presigned PUT for one key could
/// copy another object with it (`x-amz-copy-source`). AWS also rejects unsigned headers.
fn check_headers(headers: &HeaderMap, signed: &[String]) -> S3Result<()> {
    let names = headers.keys().map(HeaderName::as_str);
    if let Some(name) = names.filter(|name| name.starts_with("x-amz-")).find(|name| !signed.iter().any(|it| it == name))
    {
        return Err(s3_error!(AccessDenied, "There were headers present in the request which were not signed: {name}"));
    }
    let authorization = headers.get(header::AUTHORIZATION);
    if authorization.is_some_and(|value| value.as_bytes().starts_with(b"AWS")) {
        return Err(s3_error!(AccessDenied, "Only presigned URLs are accepted here"));
    }
    Ok(())
}

/// Returns the CORS configuration of a bucket that browsers upload to. Any origin is allowed, because the URL itself is
/// the permission and cookies are not used.
fn cors() -> CorsLayer {
    let checksums = ["x-amz-checksum-crc64nvme", "x-amz-checksum-sha256"].map(HeaderName::from_static);
    CorsLayer::new()
        .allow_origin(Any)
        .allow_methods(METHODS)
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([header::ETAG].into_iter().chain(checksums).collect::<Vec<_>>())
        .max_age(PREFLIGHT_AGE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Empty;

    const SIGNED: &str =
        "/_store/images/a%20b?X-Amz-SignedHeaders=content-length%3Bhost%3Bx-amz-checksum-sha256&X-Amz-Signature=0";

    fn restore(method: Method, uri: &str, headers: &[(&str, &str)]) -> Result<Request<s3s::Body>, S3ErrorCode> {
        let mut request = Request::builder().method(method).uri(uri).header("host", "images.example");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        restore_signed(request.body(Empty::<Bytes>::new()).unwrap()).map_err(|error| error.code().clone())
    }

    #[test]
    fn presigned_request_is_restored_as_signed() {
        let headers = [("x-amz-checksum-sha256", "s"), ("authorization", "Basic eDp5"), ("x-forwarded-for", "a")];
        let request = restore(Method::PUT, SIGNED, &headers).unwrap();
        assert_eq!(request.uri(), &SIGNED["/_store".len()..]);
        assert_eq!(request.headers()["host"], HOST);
        assert!(!request.headers().contains_key("authorization"));
        let absolute = format!("http://elsewhere.example{SIGNED}");
        assert_eq!(restore(Method::GET, &absolute, &[]).unwrap().uri(), &SIGNED["/_store".len()..]);
    }

    #[test]
    fn unsigned_headers_and_requests_are_denied() {
        for name in ["x-amz-copy-source", "x-amz-meta-width", "x-amz-content-sha256"] {
            assert_eq!(restore(Method::PUT, SIGNED, &[(name, "x")]).unwrap_err(), S3ErrorCode::AccessDenied, "{name}");
        }
        let by_header = [("authorization", "AWS4-HMAC-SHA256 Credential=a")];
        assert_eq!(restore(Method::PUT, SIGNED, &by_header).unwrap_err(), S3ErrorCode::AccessDenied);
        for query in ["", "?X-Amz-Signature=0", "?X-Amz-SignedHeaders=host"] {
            let uri = format!("/_store/images/a{query}");
            assert_eq!(restore(Method::GET, &uri, &by_header).unwrap_err(), S3ErrorCode::AccessDenied, "{query}");
            assert_eq!(restore(Method::GET, &uri, &[]).unwrap_err(), S3ErrorCode::AccessDenied, "{query}");
        }
        for method in [Method::POST, Method::DELETE] {
            assert_eq!(restore(method, SIGNED, &[]).unwrap_err(), S3ErrorCode::MethodNotAllowed);
        }
    }
}
