//! Resumable uploads over HTTP: tus 1.0 and the IETF's draft, on the same addresses.

mod creation;
mod grants;
mod ietf;
mod interrupted;
mod processes;
mod tus;

use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::Value;

use crate::support::app::TestApp;

const MIB: usize = 1 << 20;
/// The default part size.
const PART: usize = 5 * MIB;

/// An upload, as a tus client sees it.
struct Upload {
    client: Client,
    /// The address that the service returned.
    url: String,
}

/// Creates an upload for a PNG of `length` bytes.
async fn create(app: &TestApp, length: usize) -> Upload {
    create_at(app, &app.at("/files"), length).await
}

async fn create_at(app: &TestApp, url: &str, length: usize) -> Upload {
    let request = tus(app, Method::POST, url).header("upload-length", length).header("upload-metadata", PNG);
    Upload::of(app, &expect(request, 201).await)
}

/// `filename a.png`.
const PNG: &str = "filename YS5wbmc=";

fn tus(app: &TestApp, method: Method, url: &str) -> RequestBuilder {
    app.client.request(method, url).header("tus-resumable", "1.0.0")
}

/// Sends the request and asserts the status of the response.
async fn expect(request: RequestBuilder, status: u16) -> Response {
    let response = request.send().await.unwrap();
    let found = response.status().as_u16();
    if found != status {
        panic!("{found} instead of {status}: {}", response.text().await.unwrap());
    }
    response
}

/// Sends the request, which must be rejected with this status and code. Returns the body.
async fn rejected(request: RequestBuilder, status: u16, code: &str) -> Value {
    let body: Value = expect(request, status).await.json().await.unwrap();
    assert_eq!(body["code"], code, "{body}");
    body
}

/// Returns the only value of a header.
fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    let values: Vec<_> = response.headers().get_all(name).iter().collect();
    assert_eq!(values.len(), 1, "{name}: {:?}", response.headers());
    values[0].to_str().unwrap()
}

impl Upload {
    fn of(app: &TestApp, created: &Response) -> Upload {
        Upload { client: app.client.clone(), url: header(created, "location").to_owned() }
    }

    /// The same upload at the address of another service.
    fn at(&self, url: &str) -> Upload {
        let path = &self.url[self.url.find("/files/").unwrap()..];
        Upload { client: self.client.clone(), url: format!("{url}{path}") }
    }

    fn key(&self) -> &str {
        let (_, rest) = self.url.split_once("/files/").unwrap();
        rest.split_once('?').unwrap().0
    }

    fn request(&self, method: Method) -> RequestBuilder {
        self.client.request(method, &self.url).header("tus-resumable", "1.0.0")
    }

    fn patch(&self, offset: usize, bytes: &[u8]) -> RequestBuilder {
        let request = self.request(Method::PATCH).header("content-type", "application/offset+octet-stream");
        request.header("upload-offset", offset).body(bytes.to_vec())
    }

    /// Appends bytes, which must be accepted.
    async fn append(&self, offset: usize, bytes: &[u8]) -> Response {
        let response = expect(self.patch(offset, bytes), 204).await;
        assert_eq!(header(&response, "upload-offset"), (offset + bytes.len()).to_string());
        response
    }

    async fn offset(&self) -> usize {
        let response = expect(self.request(Method::HEAD), 200).await;
        header(&response, "upload-offset").parse().unwrap()
    }

    /// Returns the JSON of the stored image.
    async fn image(&self) -> Value {
        expect(self.request(Method::GET), 200).await.json().await.unwrap()
    }

    /// Asserts that the upload is complete and its image has these bytes.
    async fn check(&self, bytes: &[u8]) -> Value {
        let image = self.image().await;
        assert_eq!((image["s3_key"].as_str(), image["size"].as_u64()), (Some(self.key()), Some(bytes.len() as u64)));
        let url = image["url"].as_str().unwrap();
        let read = self.client.get(url).send().await.unwrap().bytes().await.unwrap();
        assert!(read == bytes, "the stored bytes differ");
        image
    }

    /// Asserts that the upload no longer exists. Cancelling it again changes nothing.
    async fn check_gone(&self) {
        for request in [self.request(Method::GET), self.patch(0, b"x")] {
            rejected(request, 410, "upload_gone").await;
        }
        expect(self.request(Method::HEAD), 410).await;
        expect(self.request(Method::DELETE), 204).await;
    }
}
