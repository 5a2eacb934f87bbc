//! Requests to the service and to S3: who is shown the key, how long silence may last, what counts as success.

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
use super::options::UploadOptions;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Times the stall timeout: what is sent whole may take the other side a while, a large object's completion minutes.
const ANSWER_PATIENCE: u32 = 10;

/// An address of the service's.
#[derive(Clone, Debug)]
pub struct Link {
    pub url: Url,
    /// Where the service's own addresses begin, with a slash at its end.
    base: Url,
    /// Whether the API key may go there: to the service the user named, and to where it points.
    trusted: bool,
}

impl Link {
    /// What an answer from here refers to.
    ///
    /// The service does not know under which path a proxy has it: `/uploads/…` goes on from the service's own address.
    ///
    /// # Errors
    /// If that is no address.
    pub fn join(&self, reference: &str) -> Result<Link, RequestError> {
        let joined = match reference.strip_prefix('/') {
            Some(path) => self.base.join(path.trim_start_matches('/')),
            None => self.url.join(reference),
        };
        let url = joined.map_err(|error| RequestError::Unclear(format!("a link is wrong: {error}")))?;
        Ok(Link { url, base: self.base.clone(), trusted: self.trusted })
    }
}

/// A success, read to its end.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    /// # Errors
    /// Where it is not what the service answers.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, RequestError> {
        serde_json::from_slice(&self.body).map_err(|error| not_the_services(&error.to_string()))
    }

    /// A stored image.
    ///
    /// # Errors
    /// If it is not what the service answers.
    pub fn image(&self) -> Result<Image, RequestError> {
        let image: Image = self.json()?;
        let has = |field| image.get(field).is_some_and(Value::is_string);
        if has("s3_key") && has("url") { Ok(image) } else { Err(not_the_services("it names no image")) }
    }
}

/// Something else answered. Asking it again would bring the same.
fn not_the_services(why: &str) -> RequestError {
    RequestError::Unclear(format!("the answer is not image-store's: {why}; is the address right?"))
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
    /// Where the key is no header, or there is no TLS to be had.
    pub fn new(options: &UploadOptions) -> Result<Http, String> {
        // A redirected POST would arrive as a GET, and a signed PUT elsewhere is not signed: neither is followed.
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
            client: client.build().map_err(|error| format!("cannot make connections: {error}"))?,
            base: options.url.clone(),
            authorization: authorization.transpose().map_err(|_| "--api-key: cannot be sent in a header")?,
            stall_timeout: options.stall_timeout,
            retries: options.retries,
        })
    }

    /// One of the service's routes, without its leading slash.
    ///
    /// # Errors
    /// Where that is no address.
    pub fn route(&self, path: &str) -> Result<Link, RequestError> {
        Link { url: self.base.clone(), base: self.base.clone(), trusted: true }.join(path)
    }

    /// A link the user gave: trusted only where it leads to the service the user named.
    ///
    /// # Errors
    /// Where that is no address.
    pub fn given(&self, link: &str) -> Result<Link, RequestError> {
        let mut link = self.route(link)?;
        link.trusted = link.url.origin() == self.base.origin();
        link.base = base_of(&link.url).unwrap_or(link.base);
        Ok(link)
    }

    /// A call to the service without a body, or with a JSON one.
    ///
    /// # Errors
    /// Anything but a success.
    pub async fn call(&self, method: Method, link: &Link, json: Option<&Value>) -> Result<Answer, RequestError> {
        let mut request = self.request(method, link);
        if let Some(json) = json {
            request = request.header(CONTENT_TYPE, "application/json").body(json.to_string());
        }
        self.send(request, None).await.map_err(of_the_service)
    }

    /// A file to the service, with these headers.
    ///
    /// # Errors
    /// Anything but a success.
    pub async fn post(&self, link: &Link, headers: &[(&str, String)], body: FileBody) -> Result<Answer, RequestError> {
        let meter = body.meter();
        let request = self.request(Method::POST, link);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, value));
        self.send(request.body(reqwest::Body::wrap(body)), Some(&meter)).await.map_err(of_the_service)
    }

    /// A file to a presigned URL, with exactly its headers.
    ///
    /// # Errors
    /// Anything but a success.
    pub async fn put(&self, url: &str, headers: &Headers, body: FileBody) -> Result<Answer, RequestError> {
        let unclear = |what: &str| RequestError::Unclear(format!("a presigned URL's {what} is wrong"));
        let url: Url = url.parse().map_err(|_| unclear("address"))?;
        let mut request = self.client.put(url);
        for (name, value) in headers {
            let name = HeaderName::try_from(name).map_err(|_| unclear("header"))?;
            request = request.header(name, HeaderValue::try_from(value).map_err(|_| unclear("header"))?);
        }
        let meter = body.meter();
        self.send(request.body(reqwest::Body::wrap(body)), Some(&meter)).await
    }

    fn request(&self, method: Method, link: &Link) -> RequestBuilder {
        let request = self.client.request(method, link.url.clone());
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

    /// Waits for an answer as long as something moves.
    async fn watched(&self, request: RequestBuilder, meter: Option<&Meter>) -> Result<reqwest::Response, RequestError> {
        let mut answer = pin!(request.send());
        loop {
            let before = meter.map_or(0, Meter::taken);
            let sent = meter.is_none_or(Meter::is_whole);
            let patience = if sent { self.stall_timeout * ANSWER_PATIENCE } else { self.stall_timeout };
            match timeout(patience, poll_fn(|cx| answer.as_mut().poll(cx))).await {
                Ok(answer) => return answer.map_err(network),
                Err(_) if meter.is_some_and(|meter| meter.taken() > before) => {}
                Err(_) => return Err(RequestError::Stalled(patience)),
            }
        }
    }
}

/// Where the service begins that a plan's link leads to.
fn base_of(link: &Url) -> Option<Url> {
    let (before, _) = link.path().rsplit_once("/uploads/")?;
    let mut base = link.clone();
    base.set_path(&format!("{before}/"));
    base.set_query(None);
    base.set_fragment(None);
    Some(base)
}

/// A failure that the service reports itself, that may pass, or that says where to go, as it is; any other was not its own.
fn of_the_service(error: RequestError) -> RequestError {
    match error {
        RequestError::Rejected(refusal)
            if !refusal.by_service && !refusal.is_retryable() && !refusal.status.is_redirection() =>
        {
            not_the_services(&refusal.to_string())
        }
        error => error,
    }
}

/// The connection's error, or the file's that was to be sent over it.
fn network(error: reqwest::Error) -> RequestError {
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(FileError(of_file)) = inner.downcast_ref() {
            return RequestError::File(std::io::Error::new(of_file.kind(), of_file.to_string()));
        }
        source = inner.source();
    }
    RequestError::Network(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::upload::options::base_url;

    fn link(base: &str, url: &str) -> Link {
        Link { url: url.parse().unwrap(), base: base_url(base).unwrap(), trusted: true }
    }

    #[test]
    fn links_go_on_from_the_services_own_address() {
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
    fn a_plans_link_says_where_its_service_is() {
        for (url, base) in [
            ("https://h/uploads/k.png?plan=a/uploads/b", "https://h/"),
            ("https://h/up/uploads/k.png?plan=x#y", "https://h/up/"),
            ("https://h/uploads/uploads/k.png", "https://h/uploads/"),
        ] {
            assert_eq!(base_of(&url.parse().unwrap()).unwrap().as_str(), base);
        }
        assert_eq!(base_of(&"https://h/other".parse().unwrap()), None);
    }
}
