//! Sends requests to the service and to S3: which hosts receive the API key, when a connection counts as stalled, and
//! what counts as success.

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, RequestBuilder, StatusCode, Url};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::error::Error;
use std::future::poll_fn;
use std::pin::pin;
use std::time::Duration;
use tokio::time::timeout;

use super::api::{Headers, Image};
use super::body::{FileBody, FileError, Meter};
use super::error::{ErrorBody, RequestError};
use super::options::{UploadOptions, base_url};
use crate::server::request::{X_BASE_URL, without_grant};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The factor by which the timeout for an answer exceeds the stall timeout, because completing a large object may take
/// minutes.
const ANSWER_TIMEOUT_FACTOR: u32 = 10;

/// A URL of the service.
#[derive(Clone, Debug)]
pub struct Link {
    pub url: Url,
    /// The base URL of the service, with a trailing slash.
    base: Url,
    /// Whether the API key may be sent to this URL: only to the service that the user named, and to URLs from its
    /// answers.
    trusted: bool,
}

impl Link {
    /// Resolves a reference from an answer of this URL.
    ///
    /// The service does not know the path prefix of a proxy, so `/uploads/…` is resolved relative to the service's base
    /// URL.
    ///
    /// # Errors
    /// Returns an error if the reference is not a valid URL.
    pub fn join(&self, reference: &str) -> Result<Link, RequestError> {
        let joined = match reference.strip_prefix('/') {
            Some(path) => self.base.join(path.trim_start_matches('/')),
            None => self.url.join(reference),
        };
        let url =
            joined.map_err(|error| RequestError::Unclear(format!("the service returned an invalid link: {error}")))?;
        Ok(Link { url, base: self.base.clone(), trusted: self.trusted })
    }

    /// Returns the base URL without credentials, which is sent to the service so that its links have the same base.
    fn stated_base(&self) -> String {
        let path = self.base.path();
        format!("{}{path}", self.base.origin().ascii_serialization())
    }
}

/// A successful answer with its whole body.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    /// Parses the body.
    ///
    /// # Errors
    /// Returns an error if the body is not one that the service sends.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, RequestError> {
        serde_json::from_slice(&self.body).map_err(|error| not_image_store(&error.to_string()))
    }

    /// Parses the body as a stored image.
    ///
    /// # Errors
    /// Returns an error if the body is not one that the service sends.
    pub fn image(&self) -> Result<Image, RequestError> {
        let image: Image = self.json()?;
        let has = |field| image.get(field).is_some_and(Value::is_string);
        if has("s3_key") && has("url") { Ok(image) } else { Err(not_image_store("it contains no image")) }
    }
}

/// An answer from something other than the service. It is not retried.
fn not_image_store(why: &str) -> RequestError {
    RequestError::Unclear(format!("the answer is not from image-store: {why}; check the address of the service"))
}

/// Sends requests, one attempt each.
pub struct Http {
    client: Client,
    base: Url,
    authorization: Option<HeaderValue>,
    stall_timeout: Duration,
    pub retries: u32,
}

impl Http {
    /// # Errors
    /// Returns an error if the base URL is invalid, the key cannot be sent in a header, or TLS is not available.
    pub fn new(options: &UploadOptions) -> Result<Http, String> {
        // Redirects are not followed: a redirected POST would become a GET, and a signature is not valid for another
        // URL.
        let client = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(Policy::none())
            .user_agent(concat!("image-store/", env!("CARGO_PKG_VERSION")));
        let authorization = options.api_key.as_deref().map(|key| {
            let mut value = HeaderValue::try_from(format!("Bearer {key}"))?;
            value.set_sensitive(true);
            Ok::<_, http::header::InvalidHeaderValue>(value)
        });
        Ok(Http {
            client: client.build().map_err(|error| format!("cannot initialise the HTTP client: {error}"))?,
            base: base_url(&options.url).map_err(|problem| format!("--url (IMAGE_STORE_URL): {problem}"))?,
            authorization: authorization.transpose().map_err(|_| "--api-key: cannot be sent in a header")?,
            stall_timeout: options.stall_timeout,
            retries: options.retries,
        })
    }

    /// Returns the URL of one of the service's routes, given without its leading slash.
    ///
    /// # Errors
    /// Returns an error if the URL is invalid.
    pub fn route(&self, path: &str) -> Result<Link, RequestError> {
        Link { url: self.base.clone(), base: self.base.clone(), trusted: true }.join(path)
    }

    /// Returns a link that the user gave. It is trusted only if it has the origin of the service that the user named.
    ///
    /// # Errors
    /// Returns an error if the URL is invalid.
    pub fn given(&self, link: &str) -> Result<Link, RequestError> {
        let mut link = self.route(link)?;
        link.trusted = link.url.origin() == self.base.origin();
        link.base = base_of(&link.url).unwrap_or(link.base);
        Ok(link)
    }

    /// Returns the address of an image at the service of `link`, without credentials and without a grant in its path.
    pub fn image_address(link: &Link, s3_key: &str) -> String {
        let path = without_grant(link.base.path()).trim_end_matches('/');
        format!("{}{path}/images/{s3_key}", link.base.origin().ascii_serialization())
    }

    /// Calls the service, without a body or with a JSON body.
    ///
    /// # Errors
    /// Returns an error unless the answer is a success.
    pub async fn call(&self, method: Method, link: &Link, json: Option<&Value>) -> Result<Answer, RequestError> {
        let mut request = self.request(method, link);
        if let Some(json) = json {
            request = request.header(CONTENT_TYPE, "application/json").body(json.to_string());
        }
        self.send(request, None).await.map_err(check_origin)
    }

    /// Sends a file to the service, with these headers.
    ///
    /// # Errors
    /// Returns an error unless the answer is a success.
    pub async fn post(&self, link: &Link, headers: &[(&str, String)], body: FileBody) -> Result<Answer, RequestError> {
        self.exchange(Method::POST, link, headers, Some(body)).await
    }

    /// Calls the service with these headers, and with bytes of a file as the body if there are any.
    ///
    /// # Errors
    /// Returns an error unless the answer is a success.
    pub async fn exchange(
        &self,
        method: Method,
        link: &Link,
        headers: &[(&str, String)],
        body: Option<FileBody>,
    ) -> Result<Answer, RequestError> {
        let request = self.request(method, link);
        let mut request = headers.iter().fold(request, |request, (name, value)| request.header(*name, value));
        let meter = body.as_ref().map(FileBody::meter);
        if let Some(body) = body {
            request = request.body(reqwest::Body::wrap(body));
        }
        self.send(request, meter.as_deref()).await.map_err(check_origin)
    }

    /// Sends a file to a presigned URL, with exactly the given headers.
    ///
    /// # Errors
    /// Returns an error unless the answer is a success.
    pub async fn put(&self, url: &str, headers: &Headers, body: FileBody) -> Result<Answer, RequestError> {
        let unclear = |what: &str| RequestError::Unclear(format!("the upload plan has an invalid {what}"));
        let url: Url = url.parse().map_err(|_| unclear("URL"))?;
        let mut request = self.client.put(url);
        for (name, value) in headers {
            let name = HeaderName::try_from(name).map_err(|_| unclear("header"))?;
            request = request.header(name, HeaderValue::try_from(value).map_err(|_| unclear("header"))?);
        }
        let meter = body.meter();
        self.send(request.body(reqwest::Body::wrap(body)), Some(&meter)).await
    }

    fn request(&self, method: Method, link: &Link) -> RequestBuilder {
        let request = self.client.request(method, link.url.clone()).header(X_BASE_URL, link.stated_base());
        match &self.authorization {
            Some(authorization) if link.trusted => request.header(AUTHORIZATION, authorization),
            _ => request,
        }
    }

    async fn send(&self, request: RequestBuilder, meter: Option<&Meter>) -> Result<Answer, RequestError> {
        let answer = self.watched(request, meter).await?;
        let read = async {
            if !answer.status().is_success() {
                return Err(RequestError::Rejected(ErrorBody::read(answer).await));
            }
            let (status, headers) = (answer.status(), answer.headers().clone());
            Ok(Answer { status, headers, body: answer.bytes().await.map_err(RequestError::Network)? })
        };
        let answer =
            timeout(self.stall_timeout, read).await.map_err(|_| RequestError::Stalled(self.stall_timeout))??;
        if let Some(meter) = meter {
            meter.keep();
        }
        Ok(answer)
    }

    /// Waits for an answer. Returns [`RequestError::Stalled`] if no data is sent for the stall timeout.
    async fn watched(&self, request: RequestBuilder, meter: Option<&Meter>) -> Result<reqwest::Response, RequestError> {
        let mut answer = pin!(request.send());
        loop {
            let before = meter.map_or(0, Meter::sent);
            let all_sent = meter.is_none_or(Meter::is_whole);
            let limit = if all_sent { self.stall_timeout * ANSWER_TIMEOUT_FACTOR } else { self.stall_timeout };
            match timeout(limit, poll_fn(|cx| answer.as_mut().poll(cx))).await {
                Ok(answer) => return answer.map_err(network),
                Err(_) if meter.is_some_and(|meter| meter.sent() > before) => {}
                Err(_) => return Err(RequestError::Stalled(limit)),
            }
        }
    }
}

/// Returns the base URL of the service from the link of an upload.
fn base_of(link: &Url) -> Option<Url> {
    let before = ["/uploads/", "/files/"].iter().find_map(|route| link.path().rsplit_once(route));
    let (before, _) = before?;
    let mut base = link.clone();
    base.set_path(&format!("{before}/"));
    base.set_query(None);
    base.set_fragment(None);
    Some(base)
}

/// Replaces errors that did not come from the service. Errors of the service, retryable errors and redirects stay
/// unchanged.
fn check_origin(error: RequestError) -> RequestError {
    match error {
        RequestError::Rejected(refusal)
            if !refusal.by_service && !refusal.is_retryable() && !refusal.status.is_redirection() =>
        {
            not_image_store(&refusal.to_string())
        }
        error => error,
    }
}

/// Returns the file's error if the connection failed because of it, otherwise the connection's error.
fn network(error: reqwest::Error) -> RequestError {
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(FileError(file_error)) = inner.downcast_ref() {
            return RequestError::File(std::io::Error::new(file_error.kind(), file_error.to_string()));
        }
        source = inner.source();
    }
    RequestError::Network(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(base: &str, url: &str) -> Link {
        Link { url: url.parse().unwrap(), base: base_url(base).unwrap(), trusted: true }
    }

    #[test]
    fn links_are_resolved_relative_to_the_base_url() {
        for base in ["http://h:1", "http://h:1/a/b", "http://h:1/a/b/"] {
            let at = base.trim_end_matches('/');
            let plan = link(base, &format!("{at}/uploads"));
            for (reference, url) in [
                ("/uploads/k.png?plan=x", format!("{at}/uploads/k.png?plan=x")),
                ("//uploads/k.png", format!("{at}/uploads/k.png")),
                ("uploads/k.png?plan=x", format!("{at}/uploads/k.png?plan=x")),
                ("https://other/up/uploads/k.png", "https://other/up/uploads/k.png".to_owned()),
            ] {
                assert_eq!(plan.join(reference).unwrap().url.as_str(), url, "{reference} from {base}");
            }
        }
    }

    #[test]
    fn image_address_has_no_credentials_or_grant() {
        for (base, address) in [
            ("http://h:1", "http://h:1/images/k.png"),
            ("https://user:secret@h/up", "https://h/up/images/k.png"),
            ("https://h/g/token/", "https://h/images/k.png"),
            ("https://h/up/g/token", "https://h/up/images/k.png"),
        ] {
            assert_eq!(Http::image_address(&link(base, "http://h/"), "k.png"), address);
        }
    }

    #[test]
    fn base_url_is_derived_from_a_plan_link() {
        for (url, base) in [
            ("https://h/uploads/k.png?plan=a/uploads/b", "https://h/"),
            ("https://h/up/uploads/k.png?plan=x#y", "https://h/up/"),
            ("https://h/uploads/uploads/k.png", "https://h/uploads/"),
            ("https://h/up/files/k.png?upload=x", "https://h/up/"),
        ] {
            assert_eq!(base_of(&url.parse().unwrap()).unwrap().as_str(), base);
        }
        assert_eq!(base_of(&"https://h/other".parse().unwrap()), None);
    }
}
