//! The options for a bucket, and the SDK's configuration for it.

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_sdk_s3::config::retry::{RetryPartition, TokenBucket};
use aws_sdk_s3::config::{
    Builder, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation, SharedCredentialsProvider,
    SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_sdk_s3::types::ServerSideEncryption;
use aws_types::service_config::ServiceConfigKey;
use std::time::Duration;
use url::Url;

use super::credentials::{CurrentCredentials, RecordingProvider};
use super::trace::Traced;

const CONNECT_TIMEOUT: Duration = Duration::from_millis(3_100);
const ATTEMPTS: u32 = 3;
/// Used if neither the options, the environment nor the profile contain a region. Stores other than AWS expect this
/// one.
const DEFAULT_REGION: &str = "us-east-1";

/// The bucket, and how to connect to it.
#[derive(Clone, Debug)]
pub struct S3Options {
    pub bucket: String,
    /// Prefix of every key: empty, or for example `a/b/`.
    pub prefix: String,
    /// `http(s)://host[:port]`. If `None`, the SDK's rules apply (`AWS_ENDPOINT_URL_S3`, then the AWS endpoint of the
    /// region).
    pub endpoint: Option<String>,
    /// The endpoint for clients with presigned URLs, if it differs from the endpoint of this process.
    pub public_endpoint: Option<String>,
    /// Access key and secret key. If `None`, the SDK's default chain applies.
    pub credentials: Option<(String, String)>,
    pub region: Option<String>,
    /// Whether the bucket is in the path instead of in the host name.
    pub force_path_style: bool,
    pub checksum: Checksum,
    pub sse: Option<Sse>,
    /// Timeout of one attempt of a call.
    pub attempt_timeout: Duration,
    /// The client that sends the requests. If `None`, the SDK's own client is used.
    pub http_client: Option<SharedHttpClient>,
    /// The path of this service under which clients with presigned URLs reach the store. If it is set, URLs are signed
    /// for the endpoint, but point to [`crate::store::PresignOptions::base`] and this path.
    pub mount: Option<&'static str>,
}

/// The checksum that is sent with bodies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// [`Checksum::Crc64Nvme`] for AWS, [`Checksum::None`] for other endpoints, which may reject it.
    #[default]
    Auto,
    Crc64Nvme,
    /// For stores that support none of AWS's checksums.
    None,
}

/// Encryption at rest, requested for every object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sse {
    Aes256,
    /// With the bucket's default key if `key_id` is `None`.
    Kms {
        key_id: Option<String>,
    },
}

impl Sse {
    pub(super) fn algorithm(&self) -> ServerSideEncryption {
        match self {
            Sse::Aes256 => ServerSideEncryption::Aes256,
            Sse::Kms { .. } => ServerSideEncryption::AwsKms,
        }
    }

    pub(super) fn key_id(&self) -> Option<String> {
        match self {
            Sse::Aes256 => None,
            Sse::Kms { key_id } => key_id.clone(),
        }
    }
}

pub(super) fn timeouts(attempt: Duration) -> TimeoutConfig {
    TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).operation_attempt_timeout(attempt).build()
}

impl Checksum {
    /// Returns the checksum that is sent to a store at `endpoint` (`None`: the AWS endpoint of the region).
    pub(super) fn resolve(self, endpoint: Option<&str>) -> Checksum {
        match self {
            Checksum::Auto if endpoint.is_none_or(is_aws) => Checksum::Crc64Nvme,
            Checksum::Auto => Checksum::None,
            chosen => chosen,
        }
    }
}

/// The domains of AWS's partitions, to recognise configured AWS endpoints such as those of a VPC.
const AWS_DOMAINS: [&str; 4] = [".amazonaws.com", ".amazonaws.com.cn", ".amazonaws.eu", ".api.aws"];

/// Whether an endpoint is one of AWS's own.
pub(super) fn is_aws(endpoint: &str) -> bool {
    let url = Url::parse(endpoint).ok();
    url.as_ref().and_then(Url::host_str).is_some_and(|host| AWS_DOMAINS.iter().any(|domain| host.ends_with(domain)))
}

/// Returns the endpoint from the environment and the profile, by the SDK's own rules. `None` if neither contains one.
///
/// The order is `AWS_ENDPOINT_URL_S3`, the profile's `services` section, `AWS_ENDPOINT_URL`, the profile's
/// `endpoint_url`. `AWS_IGNORE_CONFIGURED_ENDPOINT_URLS` disables all of them.
/// <https://docs.aws.amazon.com/sdkref/latest/guide/feature-ss-endpoints.html>
fn configured_endpoint(shared: &SdkConfig) -> Option<String> {
    let key = ServiceConfigKey::builder().service_id("S3").env("AWS_ENDPOINT_URL").profile("endpoint_url");
    let of_s3 = shared.service_config().zip(key.build().ok()).and_then(|(config, key)| config.load_config(key));
    of_s3.or_else(|| shared.endpoint_url().map(str::to_owned))
}

/// Returns the SDK's configuration and its endpoint. Reads the environment and the profile, but sends no requests.
pub(super) async fn client_config(
    options: &S3Options,
    in_use: &CurrentCredentials,
    retry_quota: &TokenBucket,
) -> (Builder, Option<String>) {
    let region = RegionProviderChain::first_try(options.region.clone().map(Region::new))
        .or_else(EnvironmentVariableRegionProvider::new())
        .or_else(ProfileFileRegionProvider::new())
        .or_else(DEFAULT_REGION);
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .region(region)
        .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
        .timeout_config(timeouts(options.attempt_timeout))
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    if let Some((access_key, secret_key)) = &options.credentials {
        loader = loader.credentials_provider(Credentials::new(access_key, secret_key, None, None, "image-store"));
    }
    if let Some(http_client) = &options.http_client {
        loader = loader.http_client(http_client.clone());
    }
    let shared = loader.load().await;
    let quota = RetryPartition::custom("image-store").token_bucket(retry_quota.clone()).build();
    let config = Builder::from(&shared).force_path_style(options.force_path_style);
    let mut config = config.retry_partition(quota).interceptor(Traced);
    let endpoint = options.endpoint.clone().or_else(|| configured_endpoint(&shared));
    if let Some(endpoint) = &endpoint {
        config = config.endpoint_url(endpoint);
    }
    if let Some(inner) = shared.credentials_provider() {
        let provider = RecordingProvider { inner, in_use: in_use.clone() };
        config = config.credentials_provider(SharedCredentialsProvider::new(provider));
    }
    (config, endpoint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn automatic_checksum_is_crc64nvme_only_for_aws() {
        for aws in [
            None,
            Some("https://s3.eu-north-1.amazonaws.com"),
            Some("https://vpce-1.s3.cn-north-1.vpce.amazonaws.com.cn"),
        ] {
            assert_eq!(Checksum::Auto.resolve(aws), Checksum::Crc64Nvme, "{aws:?}");
        }
        for other in ["http://127.0.0.1:9000", "https://amazonaws.com.example", "https://notamazonaws.com"] {
            assert_eq!(Checksum::Auto.resolve(Some(other)), Checksum::None, "{other}");
            assert_eq!(Checksum::Crc64Nvme.resolve(Some(other)), Checksum::Crc64Nvme, "{other}");
        }
        assert_eq!(Checksum::None.resolve(None), Checksum::None);
    }
}
