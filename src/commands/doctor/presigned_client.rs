//! Sends requests as clients do: to the public endpoint, with a presigned URL and no credentials.

use bytes::Bytes;
use reqwest::header::{CONTENT_LENGTH, HOST, HeaderMap, ORIGIN};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, StatusCode, Url};
use std::time::Duration;

use super::hints::root_cause;
use super::report::Finding;
use crate::config::Config;
use crate::store::Presigned;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

pub struct PresignedClient {
    client: Client,
}

/// An answer with any status.
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    /// Describes the answer by its status and, if the body contains one, S3's error code.
    pub fn describe(&self) -> String {
        let body = String::from_utf8_lossy(&self.body);
        let code = body.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
        code.map_or_else(|| self.status.to_string(), |(code, _)| format!("{} {code}", self.status.as_u16()))
    }
}

/// Returns the signed headers that a client must set, without those that every HTTP client sends automatically.
pub fn set_by_client(signed: &Presigned) -> impl Iterator<Item = (&str, &str)> {
    let automatic = [CONTENT_LENGTH.as_str(), HOST.as_str()];
    let headers = signed.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    headers.filter(move |(name, _)| !automatic.contains(name))
}

/// Returns `scheme://host:port` of a presigned URL. The rest of the URL is a secret.
pub fn origin(signed: &Presigned) -> String {
    Url::parse(&signed.url).map_or_else(|_| String::new(), |url| url.origin().ascii_serialization())
}

impl PresignedClient {
    pub fn new(config: &Config) -> Result<PresignedClient, String> {
        let client =
            Client::builder().redirect(Policy::none()).connect_timeout(CONNECT_TIMEOUT).timeout(config.store.timeout);
        Ok(PresignedClient {
            client: client.build().map_err(|error| format!("cannot create an HTTP client: {error}"))?,
        })
    }

    pub async fn put(&self, signed: &Presigned, body: &'static [u8]) -> Result<Reply, Finding> {
        let request = self.client.put(&signed.url).body(Bytes::from_static(body));
        let request = set_by_client(signed).fold(request, |request, (name, value)| request.header(name, value));
        read(request, signed).await
    }

    pub async fn get(&self, signed: &Presigned) -> Result<Reply, Finding> {
        read(self.client.get(&signed.url), signed).await
    }

    /// Sends a GET like a page of `origin`.
    pub async fn get_from(&self, origin: &str, signed: &Presigned) -> Result<Reply, Finding> {
        read(self.client.get(&signed.url).header(ORIGIN, origin), signed).await
    }

    /// Sends a preflight request, as a browser does before a request from a page of another origin.
    pub async fn preflight(&self, signed: &Presigned, headers: &[(&str, &str)]) -> Result<Reply, Finding> {
        let request = self.client.request(Method::OPTIONS, &signed.url);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        read(request, signed).await
    }
}

async fn read(request: reqwest::RequestBuilder, signed: &Presigned) -> Result<Reply, Finding> {
    let unreachable = |error: reqwest::Error| {
        // The text of the error would contain the URL.
        let cause = error.without_url();
        let fix =
            "set S3_PUBLIC_ENDPOINT_URL to the address at which clients reach the store, or allow connections to it";
        Finding::fail(format!("no answer from {}: {}", origin(signed), root_cause(&cause)), fix)
    };
    let answer = request.send().await.map_err(unreachable)?;
    let (status, headers) = (answer.status(), answer.headers().clone());
    Ok(Reply { status, headers, body: answer.bytes().await.map_err(unreachable)? })
}
