//! The calls that carry images, without the SDK's orchestrator.
//!
//! For every call, the SDK puts a configuration together, resolves an endpoint, and passes through dozens of
//! interceptors. That took more than half of the time of a small upload. So the first attempt of these calls is signed
//! here, and sent over the SDK's connections. If it does not simply succeed, the SDK makes the call, and gets the result
//! of the first attempt as that of its own ([`FirstAttempt`]). So errors, retries and their quota are the SDK's.

use aws_credential_types::Credentials;
use aws_sdk_s3::config::http::{HttpRequest, HttpResponse};
use aws_sdk_s3::config::{Builder, HttpClient, RuntimeComponents};
use aws_sdk_s3::primitives::SdkBody;
use aws_smithy_runtime_api::client::connection::CaptureSmithyConnection;
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::result::ConnectorError;
use http_body_util::BodyExt;
use parking_lot::Mutex;
use percent_encoding::{CONTROLS, percent_encode};
use std::borrow::Cow;
use std::env;
use std::sync::Arc;
use std::time::SystemTime;
use uuid::Uuid;

use super::call::Call;
use super::errors::rejected;
use super::route::{Route, SDK_HEADERS, TRACE_ID};
use super::signer::{Signer, UNSIGNED_PAYLOAD, canonical_query};
use super::{S3Store, body, trace};
use crate::error::BoxError;
use crate::store::{Payload, Result};

/// The state of a call after [`S3Store::send_first`].
pub(super) enum Sent {
    Accepted(Box<HttpResponse>),
    /// The SDK has to make the call, with this configuration.
    Unfinished(Box<Builder>),
}

impl S3Store {
    /// Makes the first attempt of a call, if the SDK would not do anything else in it.
    pub(super) async fn send_first(&self, call: &Call<'_>, payload: &Payload) -> Result<Sent> {
        // Only successes of the SDK refill its quota for retries.
        if !self.retry_quota.is_full() {
            return Ok(Sent::Unfinished(Box::default()));
        }
        let Some((route, credentials)) = self.route(&self.own_route, call.operation).await? else {
            return Ok(Sent::Unfinished(Box::default()));
        };
        let (time, id) = (route.signing_time(SystemTime::now()), Uuid::new_v4());
        let request = self.request(call, &route, &credentials, time, id, body::of(payload));
        let mut request = request.map_err(|error| rejected(call.operation, error))?;
        let connection = CaptureSmithyConnection::new();
        request.add_extension(connection.clone());
        let sent = tokio::time::timeout(self.attempt_timeout, exchange(&route.connector, request)).await;
        match sent.unwrap_or_else(|late| Err(ConnectorError::timeout(late.into()))) {
            Ok(response) if is_plain_success(&response) => Ok(Sent::Accepted(Box::new(response))),
            result => {
                self.own_route.forget();
                let (result, connector) = (Arc::new(Mutex::new(Some(result))), route.connector.clone());
                let rest = Builder::default().http_client(FirstAttempt { result, connection, connector });
                Ok(Sent::Unfinished(Box::new(rest)))
            }
        }
    }

    /// Returns the request that the SDK would send in its first attempt.
    pub(super) fn request(
        &self,
        call: &Call<'_>,
        route: &Route,
        credentials: &Credentials,
        time: SystemTime,
        id: Uuid,
        body: SdkBody,
    ) -> Result<HttpRequest, BoxError> {
        let signer = Signer::new(&self.signing_keys, credentials, &route.region, time);
        let [sdk_request, agent, x_agent] = &route.sdk_headers;
        let [sdk_request_name, agent_name, x_agent_name] = SDK_HEADERS;
        let mut signed = vec![
            ("host", &*route.host),
            ("x-amz-content-sha256", UNSIGNED_PAYLOAD),
            ("x-amz-date", &signer.date),
            (x_agent_name, x_agent),
        ];
        signed.extend(call.headers.iter().map(|(name, value)| (&**name, &**value)));
        signed.extend(credentials.session_token().map(|token| ("x-amz-security-token", token)));
        signed.sort_unstable();
        let (path, query) = (route.path(call.name), canonical_query(call.query.clone()));
        let authorization = signer.authorization(call.method, &path, &query, &signed);

        let mut request = HttpRequest::new(body);
        request.set_method(call.method)?;
        request.set_uri([&route.origin, &*path, "?", &query].concat())?;
        // Those in `signed`, without `host`, and those that are not signed.
        let headers = request.headers_mut();
        for (name, value) in &call.headers {
            headers.try_insert(name.clone(), value.clone())?;
        }
        headers.try_insert("x-amz-content-sha256", UNSIGNED_PAYLOAD)?;
        headers.try_insert("x-amz-date", signer.date)?;
        headers.try_insert(x_agent_name, x_agent.clone())?;
        if let Some(token) = credentials.session_token() {
            headers.try_insert("x-amz-security-token", token.to_owned())?;
        }
        headers.try_insert("authorization", authorization)?;
        headers.try_insert(agent_name, agent.clone())?;
        headers.try_insert(sdk_request_name, sdk_request.clone())?;
        headers.try_insert("amz-sdk-invocation-id", id.to_string())?;
        if let Some(trace) = route.has_trace_id.then(|| env::var("_X_AMZN_TRACE_ID").ok()).flatten() {
            headers.try_insert(TRACE_ID, Cow::from(percent_encode(trace.as_bytes(), CONTROLS)).into_owned())?;
        }
        trace::add_to(headers)?;
        Ok(request)
    }
}

/// Sends a request, and reads the body of a success, after which its connection can be used again.
async fn exchange(connector: &SharedHttpConnector, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
    let mut response = connector.call(request).await?;
    if response.status().is_success() {
        let body = response.take_body().collect().await.map_err(ConnectorError::io)?;
        *response.body_mut() = SdkBody::from(body.to_bytes());
    }
    Ok(response)
}

/// Whether a response is a success without a body. A body may contain an error.
fn is_plain_success(response: &HttpResponse) -> bool {
    response.status().is_success() && response.body().bytes().is_some_and(<[u8]>::is_empty)
}

/// The HTTP client for the rest of a call. It answers the SDK's first attempt with the result of the one that was made,
/// and sends later ones.
#[derive(Clone, Debug)]
struct FirstAttempt {
    result: Arc<Mutex<Option<Result<HttpResponse, ConnectorError>>>>,
    /// The connection it was sent on. After some errors, the SDK does not use it again.
    connection: CaptureSmithyConnection,
    connector: SharedHttpConnector,
}

impl HttpClient for FirstAttempt {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for FirstAttempt {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let Some(result) = self.result.lock().take() else { return self.connector.call(request) };
        if let Some(capture) = request.extension::<CaptureSmithyConnection>() {
            let connection = self.connection.clone();
            capture.set_connection_retriever(move || connection.get());
        }
        HttpConnectorFuture::ready(result)
    }
}
