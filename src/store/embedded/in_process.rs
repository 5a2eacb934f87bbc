//! The SDK's HTTP client for a store in this process: requests are passed to the store without a connection.
//!
//! Requests are signed and their signatures are checked as over a connection. Dropping a call has the same effect as a
//! connection that breaks.

use aws_sdk_s3::config::http::HttpRequest;
use aws_sdk_s3::config::{HttpClient, RuntimeComponents, SharedHttpClient};
use aws_sdk_s3::primitives::SdkBody;
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::ConnectorError;
use http::{HeaderValue, Method, header};
use s3s::service::S3Service;
use std::fmt;
use std::time::SystemTime;

use crate::error::BoxError;

#[derive(Clone)]
pub(super) struct InProcess(S3Service);

impl InProcess {
    pub(super) fn client(service: S3Service) -> SharedHttpClient {
        SharedHttpClient::new(InProcess(service))
    }
}

impl fmt::Debug for InProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InProcess")
    }
}

impl HttpClient for InProcess {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for InProcess {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let service = self.0.clone();
        HttpConnectorFuture::new(async move {
            let response = respond(&service, request).await;
            response.map_err(|error| ConnectorError::other(error, None))
        })
    }
}

async fn respond(service: &S3Service, request: HttpRequest) -> Result<HttpResponse, BoxError> {
    let mut request = request.try_into_http1x()?;
    let host = request.uri().authority().map(|authority| HeaderValue::from_str(authority.as_str())).transpose()?;
    if let Some(host) = host {
        request.headers_mut().entry(header::HOST).or_insert(host);
    }
    let is_head = request.method() == Method::HEAD;
    let mut response = service.call(request.map(s3s::Body::http_body_unsync)).await?;
    // As an HTTP server does: add the date, and remove the body of a response to HEAD, including that of an error.
    let date = httpdate::fmt_http_date(SystemTime::now());
    response.headers_mut().insert(header::DATE, HeaderValue::from_str(&date)?);
    let response = response.map(|body| if is_head { SdkBody::empty() } else { SdkBody::from_body_1_x(body) });
    Ok(HttpResponse::try_from(response)?)
}
