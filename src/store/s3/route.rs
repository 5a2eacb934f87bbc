//! Where and how the SDK sends calls on the objects of the bucket.
//!
//! Endpoint, region, kind of signature, credentials and connections are the SDK's. It prepares one call up to the point
//! where it would be sent. [`Route`] contains what another call has in common with it. If the prepared call contains
//! anything unknown, such as another kind of session, there is no route, and the SDK signs and sends all calls.

use aws_credential_types::Credentials;
use aws_sdk_s3::config::http::HttpRequest;
use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextRef;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{ConfigBag, HttpClient, Intercept, RuntimeComponents};
use aws_smithy_runtime_api::client::http::{HttpConnectorSettings, SharedHttpConnector};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::errors::classify;
use super::signer::{parse_date, region_of};
use super::{CHECKSUM, S3Store};
use crate::error::BoxError;
use crate::store::{ImageKey, ObjectName, Result};

/// The headers of the SDK that are the same in the first attempt of every call.
pub(super) const SDK_HEADERS: [&str; 3] = ["amz-sdk-request", "user-agent", "x-amz-user-agent"];
/// The other headers that a prepared call may have.
const OTHER_HEADERS: [&str; 11] = [
    "amz-sdk-invocation-id",
    "authorization",
    "content-length",
    "content-type",
    "traceparent",
    "tracestate",
    CHECKSUM,
    "x-amz-content-sha256",
    "x-amz-date",
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
    /// Returns the route of a call that was prepared for `name` just before `now`. `None` if it contains anything unknown.
    fn of(call: &HttpRequest, name: &ObjectName, connector: SharedHttpConnector, now: SystemTime) -> Option<Route> {
        let headers = call.headers();
        if !headers.iter().all(|(name, _)| SDK_HEADERS.contains(&name) || OTHER_HEADERS.contains(&name)) {
            return None;
        }
        let base = call.uri().strip_suffix("?x-id=PutObject")?.strip_suffix(&name.object_key(""))?;
        let (scheme, rest) = base.split_once("://")?;
        let (authority, folder) = rest.split_at(rest.find('/')?);
        let default_port = if scheme == "https" { ":443" } else { ":80" };
        let [request, agent, x_agent] = SDK_HEADERS.map(|name| headers.get(name).map(str::to_owned));
        let signed_at = parse_date(headers.get("x-amz-date")?)?;
        let skew = |ahead: SystemTime, behind| {
            ahead.duration_since(behind).ok().filter(|skew| *skew >= MIN_SKEW).unwrap_or_default()
        };
        Some(Route {
            origin: format!("{scheme}://{authority}"),
            host: authority.strip_suffix(default_port).unwrap_or(authority).to_owned(),
            folder: folder.to_owned(),
            region: region_of(headers.get("authorization")?)?.to_owned(),
            sdk_headers: [request?, agent?, x_agent?],
            has_trace_id: headers.contains_key(TRACE_ID),
            skew: (skew(signed_at, now), skew(now, signed_at)),
            connector,
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
    ) -> Result<Option<(Arc<Route>, Arc<Credentials>)>> {
        let route = known.route.lock().clone();
        if let Some((route, credentials)) = route.zip(self.in_use.get(SystemTime::now())) {
            return Ok(route.map(|route| (route, credentials)));
        }
        let unsent = Unsent { name: ObjectName::Image(ImageKey::random("png")), route: Arc::default() };
        // The user agent says whether there is a checksum.
        let call = self.client.put_object().bucket(&self.bucket).key(self.key(&unsent.name));
        let call = call.set_checksum_crc64_nvme(self.crc64(0)).customize();
        let mut call = call.disable_payload_signing().interceptor(unsent.clone());
        if let Some(endpoint) = &known.endpoint {
            call = call.config_override(aws_sdk_s3::Config::builder().endpoint_url(endpoint));
        }
        let sent = call.send().await;
        let Some(route) = unsent.route.lock().take() else {
            return sent.map(|_| None).map_err(|error| classify(operation, error));
        };
        *known.route.lock() = Some(route.clone());
        Ok(route.zip(self.in_use.get(SystemTime::now())))
    }
}

/// Looks at a call that the SDK has prepared for `name`, and prevents that it is sent.
#[derive(Clone, Debug)]
struct Unsent {
    name: ObjectName,
    /// `None` if the call could not be prepared.
    route: Arc<Mutex<Option<Option<Arc<Route>>>>>,
}

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
        let timeouts = config.load::<TimeoutConfig>();
        let mut settings = HttpConnectorSettings::builder();
        settings.set_connect_timeout(timeouts.and_then(TimeoutConfig::connect_timeout));
        settings.set_read_timeout(timeouts.and_then(TimeoutConfig::read_timeout));
        let connector = components.http_client().map(|client| client.http_connector(&settings.build(), components));
        let route =
            connector.and_then(|connector| Route::of(context.request(), &self.name, connector, SystemTime::now()));
        *self.route.lock() = Some(route.map(Arc::new));
        Err("the call was only prepared".into())
    }
}
