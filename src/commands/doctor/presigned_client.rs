//! Requests as clients send them: over the public endpoint, with nothing but a presigned URL.

use bytes::Bytes;
use reqwest::header::{CONTENT_LENGTH, HOST, HeaderMap, ORIGIN};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, StatusCode, Url};
use std::time::Duration;

use super::hints::root;
use super::report::Finding;
use crate::config::Config;
use crate::store::Presigned;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

pub struct PresignedClient {
    client: Client,
}

/// What came back, whatever its status.
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    /// The status, and S3's code where the body holds one.
    pub fn told(&self) -> String {
        let body = String::from_utf8_lossy(&self.body);
        let code = body.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
        code.map_or_else(|| self.status.to_string(), |(code, _)| format!("{} {code}", self.status.as_u16()))
    }
}

/// The headers a client sets itself: those that were signed, but for what every HTTP client sends by its own.
pub fn set_by_client(signed: &Presigned) -> impl Iterator<Item = (&str, &str)> {
    let own = [CONTENT_LENGTH.as_str(), HOST.as_str()];
    let headers = signed.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    headers.filter(move |(name, _)| !own.contains(name))
}

/// `scheme://host:port` of a presigned URL: the rest of it is a secret.
pub fn origin(signed: &Presigned) -> String {
    Url::parse(&signed.url).map_or_else(|_| String::new(), |url| url.origin().ascii_serialization())
}

impl PresignedClient {
    pub fn new(config: &Config) -> Result<PresignedClient, String> {
        let client =
            Client::builder().redirect(Policy::none()).connect_timeout(CONNECT_TIMEOUT).timeout(config.store.timeout);
        Ok(PresignedClient { client: client.build().map_err(|error| format!("cannot make connections: {error}"))? })
    }

    pub async fn put(&self, signed: &Presigned, body: &'static [u8]) -> Result<Reply, Finding> {
        let request = self.client.put(&signed.url).body(Bytes::from_static(body));
        let request = set_by_client(signed).fold(request, |request, (name, value)| request.header(name, value));
        read(request, signed).await
    }

    pub async fn get(&self, signed: &Presigned) -> Result<Reply, Finding> {
        read(self.client.get(&signed.url), signed).await
    }

    /// As a page of `origin` reads it.
    pub async fn get_from(&self, origin: &str, signed: &Presigned) -> Result<Reply, Finding> {
        read(self.client.get(&signed.url).header(ORIGIN, origin), signed).await
    }

    /// Asks as a browser does before it sends from another origin's page.
    pub async fn preflight(&self, signed: &Presigned, asked: &[(&str, &str)]) -> Result<Reply, Finding> {
        let request = self.client.request(Method::OPTIONS, &signed.url);
        let request = asked.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        read(request, signed).await
    }
}

async fn read(request: reqwest::RequestBuilder, signed: &Presigned) -> Result<Reply, Finding> {
    let unreachable = |error: reqwest::Error| {
        // Its own text would hold the URL.
        let cause = error.without_url();
        let fix = "set S3_PUBLIC_ENDPOINT_URL to where clients reach the store, or open the way there";
        Finding::fail(format!("no answer from {}: {}", origin(signed), root(&cause)), fix)
    };
    let answer = request.send().await.map_err(unreachable)?;
    let (status, headers) = (answer.status(), answer.headers().clone());
    Ok(Reply { status, headers, body: answer.bytes().await.map_err(unreachable)? })
}
