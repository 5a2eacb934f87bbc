//! Where and how the SDK sends calls on the objects of the bucket.
//!
//! Endpoint, region, kind of signature, credentials and connections are the SDK's. It prepares one call up to the point
//! where it would be sent. [`Route`] contains what another call has in common with it. If the prepared call contains
//! anything unknown, such as another kind of session, there is no route, and the SDK signs and sends all calls.

use aws_credential_types::Credentials;
use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextRef;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{ConfigBag, HttpClient, Intercept, RuntimeComponents};
use aws_smithy_runtime_api::client::http::{HttpConnectorSettings, SharedHttpConnector};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::S3Store;
use super::errors::classify;
use super::signer::{parse_date, region_of};
use crate::error::BoxError;
use crate::store::{ImageKey, ObjectName, Result};

/// The headers of the SDK that are the same in the first attempt of every call.
pub(super) const SDK_HEADERS: [&str; 3] = ["amz-sdk-request", "user-agent", "x-amz-user-agent"];
/// The other headers that a prepared call may have.
const OTHER_HEADERS: [&str; 8] = [
    "amz-sdk-invocation-id",
    "content-length",
    "content-type",
    "traceparent",
    "tracestate",
    "x-amz-content-sha256",
    "x-amz-security-token",
    TRACE_ID,
];
/// AWS X-Ray's trace of an invocation, which the SDK adds in Lambda functions.
pub(super) const TRACE_ID: &str = "x-amzn-trace-id";
/// A smaller difference between the SDK's clock and this machine's is rounding.
const MIN_SKEW: Duration = Duration::from_secs(2);

/// What calls on the objects of the bucket have in common.
#[derive(Debug)]
pub(super) struct Route {
    /// Scheme and authority.
    pub(super) origin: String,
    /// The value of the header `host`.
    pub(super) host: String,
    /// The path up to [`ObjectName::object_key`] without a prefix.
    folder: String,
    pub(super) region: String,
    /// The values of [`SDK_HEADERS`].
    pub(super) sdk_headers: [String; SDK_HEADERS.len()],
    /// Whether the SDK adds [`TRACE_ID`].
    pub(super) has_trace_id: bool,
    /// How far the SDK's clock is ahead, and how far it is behind: it corrects its clock by the dates of responses.
    skew: (Duration, Duration),
    pub(super) connector: SharedHttpConnector,
}

impl Route {
    /// Returns the route of a call that was prepared for `name`. `None` if it contains anything unknown.
    fn of(prepared: &Prepared, name: &ObjectName) -> Option<Route> {
        let value = |wanted| prepared.headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
        let known = |name: &str| SDK_HEADERS.contains(&name) || OTHER_HEADERS.contains(&name);
        let is_signature = |name: &str| name == "authorization" || name == "x-amz-date";
        if !prepared.headers.iter().all(|(name, _)| known(name) || is_signature(name)) {
            return None;
        }
        let base = prepared.uri.strip_suffix("?x-id=PutObject")?.strip_suffix(&name.object_key(""))?;
        let (scheme, rest) = base.split_once("://")?;
        let (authority, folder) = rest.split_at(rest.find('/')?);
        let default_port = if scheme == "https" { ":443" } else { ":80" };
        let [request, agent, x_agent] = SDK_HEADERS.map(|name| value(name).map(str::to_owned));
        let signed_at = parse_date(value("x-amz-date")?)?;
        let skew = |ahead: SystemTime, behind| {
            ahead.duration_since(behind).ok().filter(|skew| *skew >= MIN_SKEW).unwrap_or_default()
        };
        Some(Route {
            origin: format!("{scheme}://{authority}"),
            host: authority.strip_suffix(default_port).unwrap_or(authority).to_owned(),
            folder: folder.to_owned(),
            region: region_of(value("authorization")?)?.to_owned(),
            sdk_headers: [request?, agent?, x_agent?],
            has_trace_id: value(TRACE_ID).is_some(),
            skew: (skew(signed_at, prepared.at), skew(prepared.at, signed_at)),
            connector: prepared.connector.clone()?,
        })
    }

    /// Returns the path of an object.
    pub(super) fn path(&self, name: &ObjectName) -> String {
        name.object_key(&self.folder)
    }

    /// Returns the SDK's time, for which it would sign a call now.
    pub(super) fn signing_time(&self, now: SystemTime) -> SystemTime {
        let (ahead, behind) = self.skew;
        now + ahead - behind
    }
}

/// The route to one endpoint. It is determined by the first call.
#[derive(Debug, Default)]
pub(super) struct KnownRoute {
    /// Instead of the client's own.
    endpoint: Option<String>,
    /// `None` before the first call; `Some(None)` if the SDK has to sign all calls.
    route: Mutex<Option<Option<Arc<Route>>>>,
}

impl KnownRoute {
    pub(super) fn to(endpoint: String) -> Self {
        KnownRoute { endpoint: Some(endpoint), ..KnownRoute::default() }
    }

    pub(super) fn endpoint(&self) -> Option<&str> {
        self.endpoint.as_deref()
    }

    /// Lets the SDK prepare another call, for example with a corrected clock.
    pub(super) fn forget(&self) {
        *self.route.lock() = None;
    }
}

impl S3Store {
    /// Returns how to send a call, and the credentials to sign it with. `None` if the SDK has to sign it.
    ///
    /// # Errors
    /// Returns the SDK's error if it has no credentials.
    pub(super) async fn route(
        &self,
        known: &KnownRoute,
        operation: &'static str,
    ) -> Result<Option<(Arc<Route>, Credentials)>> {
        let route = known.route.lock().clone();
        if let Some((route, credentials)) = route.zip(self.in_use.get(SystemTime::now())) {
            return Ok(route.map(|route| (route, credentials)));
        }
        let (name, prepared) = (ObjectName::Image(ImageKey::random("png")), Unsent::default());
        let call = self.client.put_object().bucket(&self.bucket).key(self.key(&name)).customize();
        let mut call = call.disable_payload_signing().interceptor(prepared.clone());
        if let Some(endpoint) = &known.endpoint {
            call = call.config_override(aws_sdk_s3::Config::builder().endpoint_url(endpoint));
        }
        let sent = call.send().await;
        let Some(prepared) = prepared.0.lock().take() else {
            return sent.map(|_| None).map_err(|error| classify(operation, error));
        };
        let route = Route::of(&prepared, &name).map(Arc::new);
        *known.route.lock() = Some(route.clone());
        Ok(route.zip(self.in_use.get(SystemTime::now())))
    }
}

/// A call that the SDK has prepared.
#[derive(Debug)]
struct Prepared {
    uri: String,
    headers: Vec<(String, String)>,
    at: SystemTime,
    connector: Option<SharedHttpConnector>,
}

/// Keeps a call that the SDK has prepared, and prevents that it is sent.
#[derive(Clone, Debug, Default)]
struct Unsent(Arc<Mutex<Option<Prepared>>>);

impl Intercept for Unsent {
    fn name(&self) -> &'static str {
        "Unsent"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let mut settings = HttpConnectorSettings::builder();
        settings.set_connect_timeout(config.load::<TimeoutConfig>().and_then(TimeoutConfig::connect_timeout));
        settings.set_read_timeout(config.load::<TimeoutConfig>().and_then(TimeoutConfig::read_timeout));
        let (request, settings) = (context.request(), settings.build());
        *self.0.lock() = Some(Prepared {
            uri: request.uri().to_owned(),
            headers: request.headers().iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            at: SystemTime::now(),
            connector: components.http_client().map(|client| client.http_connector(&settings, components)),
        });
        Err("the call was only prepared".into())
    }
}
