//! A template for presigned URLs, created from a URL that the SDK has presigned.
//!
//! To presign a URL, the SDK prepares a whole call up to sending it: configuration, endpoint, identity, signature.
//! Every response of this service contains a presigned URL and a plan contains up to a hundred, so this was more than a
//! quarter of its work. Two URLs for the same bucket differ only in the key, the query and the signature. So the SDK
//! presigns the first URL. The template takes the address, the region and the kind of signature from it, and later URLs
//! are signed with the template by AWS's own signer.
//!
//! If the first URL contains anything unknown (another algorithm, another kind of session), there is no template, and
//! the SDK presigns all URLs.

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PercentEncodingMode, SignableBody, SignableRequest, SignatureLocation, SigningSettings, UriPathNormalizationMode,
    sign,
};
use aws_sigv4::sign::v4::SigningParams;
use std::time::{Duration, SystemTime};

use super::errors::rejected;
use crate::store::{ObjectName, Result};

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const SERVICE: &str = "s3";
/// Other query parameters that may be in a URL: those of the signature and of the call.
const OTHER_PARAMETERS: [&str; 7] =
    ["X-Amz-Date", "X-Amz-Expires", "X-Amz-Signature", "X-Amz-Security-Token", "x-id", "partNumber", "uploadId"];

/// The address of the bucket's objects and the region for which requests are signed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PresignTemplate {
    /// The URL up to the prefix, before [`ObjectName::object_key`].
    base: String,
    region: String,
}

/// A request to sign. It must not be logged, because its query may contain an upload ID.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) method: &'a str,
    pub(super) name: &'a ObjectName,
    /// Percent-encoded.
    pub(super) query: &'a str,
    pub(super) headers: &'a [(String, String)],
}

impl PresignTemplate {
    /// Creates a template from a URL that was presigned for `name`. `None` if the URL contains anything unknown.
    pub(super) fn of(url: &str, name: &ObjectName) -> Option<PresignTemplate> {
        let (address, query) = url.split_once('?')?;
        let base = address.strip_suffix(&name.object_key(""))?.to_owned();
        let (mut algorithm, mut region) = (false, None);
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match (&*key, &*value) {
                ("X-Amz-Algorithm", ALGORITHM) => algorithm = true,
                ("X-Amz-Credential", scope) => region = region_of(scope).map(str::to_owned),
                ("X-Amz-SignedHeaders", "host" | "content-length;host") => {}
                (other, _) if OTHER_PARAMETERS.contains(&other) => {}
                _ => return None,
            }
        }
        algorithm.then_some(PresignTemplate { base, region: region? })
    }

    /// Returns the presigned URL of `call`, which is valid for `ttl` from `start`.
    pub(super) fn sign(
        &self,
        credentials: Credentials,
        call: Call<'_>,
        start: SystemTime,
        ttl: Duration,
    ) -> Result<String> {
        let url = format!("{}{}?{}", self.base, call.name.object_key(""), call.query);
        let headers = call.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let request = SignableRequest::new(call.method, &url, headers, SignableBody::UnsignedPayload);
        let identity = credentials.into();
        let params = SigningParams::builder().identity(&identity).region(&self.region).name(SERVICE);
        let params = params.time(start).settings(settings(ttl)).build().map_err(|error| rejected("presign", error))?;
        let signed = sign(request.map_err(|error| rejected("presign", error))?, &params.into());
        let (instructions, _) = signed.map_err(|error| rejected("presign", error))?.into_parts();
        let mut request = http::Request::get(&url).body(()).map_err(|error| rejected("presign", error))?;
        instructions.apply_to_request_http1x(&mut request);
        Ok(request.uri().to_string())
    }
}

/// Returns the settings for S3: a key is encoded once, and `a/../b` is a valid key.
///
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>
fn settings(ttl: Duration) -> SigningSettings {
    let mut settings = SigningSettings::default();
    settings.percent_encoding_mode = PercentEncodingMode::Single;
    settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    settings.signature_location = SignatureLocation::QueryParams;
    settings.expires_in = Some(ttl);
    settings
}

/// Returns the region of a scope `<access key>/<day>/<region>/s3/aws4_request`.
fn region_of(scope: &str) -> Option<&str> {
    let mut parts = scope.rsplit('/');
    let (end, service, region) = (parts.next()?, parts.next()?, parts.next()?);
    (end == "aws4_request" && service == SERVICE).then_some(region)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ImageKey;
    use aws_sdk_s3::config::{BehaviorVersion, Region};
    use aws_sdk_s3::presigning::PresigningConfig;
    use std::time::UNIX_EPOCH;

    fn client(endpoint: Option<&str>, force_path_style: bool, credentials: Credentials) -> aws_sdk_s3::Client {
        let mut config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-north-1"))
            .credentials_provider(credentials)
            .force_path_style(force_path_style);
        config.set_endpoint_url(endpoint.map(str::to_owned));
        aws_sdk_s3::Client::from_conf(config.build())
    }

    /// Compares the SDK's URLs for an object and for part 7 of its upload with those of a template from another URL.
    async fn compare(client: &aws_sdk_s3::Client, credentials: &Credentials, prefix: &str) {
        let (start, ttl) = (UNIX_EPOCH + Duration::from_secs(1_700_000_000), Duration::from_secs(900));
        let window = || PresigningConfig::builder().start_time(start).expires_in(ttl).build().unwrap();
        let get = async |name: &ObjectName| {
            let call = client.get_object().bucket("b").key(name.object_key(prefix));
            call.presigned(window()).await.unwrap().uri().to_owned()
        };
        let (first, key) = (ObjectName::Incoming(ImageKey::random("heic")), ImageKey::random("png"));
        let presign_template = PresignTemplate::of(&get(&first).await, &first).unwrap();
        let sign = |call| presign_template.sign(credentials.clone(), call, start, ttl).unwrap();

        let image = ObjectName::Image(key.clone());
        let call = Call { method: "GET", name: &image, query: "x-id=GetObject", headers: &[] };
        assert_eq!(sign(call), get(&image).await);

        let incoming = ObjectName::Incoming(key);
        let part = client.upload_part().bucket("b").key(incoming.object_key(prefix)).upload_id("a+b/c=~d e");
        let part = part.part_number(7).content_length(5 << 20).presigned(window()).await.unwrap();
        let headers: Vec<_> = part.headers().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        assert_eq!(headers, [("content-length".to_owned(), "5242880".to_owned())]);
        let query = "x-id=UploadPart&partNumber=7&uploadId=a%2Bb%2Fc%3D~d%20e";
        assert_eq!(sign(Call { method: "PUT", name: &incoming, query, headers: &headers }), part.uri());
    }

    #[tokio::test]
    async fn template_urls_equal_those_of_the_sdk() {
        for token in [None, Some("to/ken+=".to_owned())] {
            let credentials = Credentials::new("AKID", "secret", token, None, "test");
            for (endpoint, path_style) in [
                (None, false),
                (None, true),
                (Some("http://127.0.0.1:9000"), true),
                (Some("https://s3.example"), false),
            ] {
                let client = client(endpoint, path_style, credentials.clone());
                for prefix in ["", "a b/\u{fc}+/"] {
                    compare(&client, &credentials, prefix).await;
                }
            }
        }
    }

    const SCOPE: &str = "AKID%2F20261124%2Feu-north-1%2Fs3%2Faws4_request";

    fn read(name: &ObjectName, address: &str, query: &str) -> Option<PresignTemplate> {
        PresignTemplate::of(&format!("{address}{}?x-id=GetObject&{query}", name.object_key("")), name)
    }

    #[test]
    fn template_contains_the_base_and_region_of_a_url() {
        let key = ImageKey::random("png");
        let query = format!(
            "X-Amz-Algorithm={ALGORITHM}&X-Amz-Credential={SCOPE}&X-Amz-SignedHeaders=host&X-Amz-Security-Token=t"
        );
        for name in [ObjectName::Image(key.clone()), ObjectName::Incoming(key)] {
            for base in ["https://b.s3.eu-north-1.amazonaws.com/", "http://127.0.0.1:9000/b/a%20b/c/"] {
                let presign_template = read(&name, base, &query);
                assert_eq!(
                    presign_template,
                    Some(PresignTemplate { base: base.to_owned(), region: "eu-north-1".to_owned() })
                );
            }
        }
    }

    #[test]
    fn url_with_unknown_parameters_gives_no_template() {
        let name = ObjectName::Image(ImageKey::random("png"));
        for query in [
            String::new(),
            format!("X-Amz-Credential={SCOPE}"),
            format!("X-Amz-Algorithm={ALGORITHM}&X-Amz-Credential={SCOPE}&X-Amz-SignedHeaders=host%3Bx-amz-acl"),
            format!("X-Amz-Algorithm=AWS4-ECDSA-P256-SHA256&X-Amz-Credential={SCOPE}"),
            format!("X-Amz-Algorithm={ALGORITHM}&X-Amz-Credential=AKID%2F20261124%2Feu%2Fs3express%2Faws4_request"),
            format!("X-Amz-Algorithm={ALGORITHM}&X-Amz-Credential={SCOPE}&X-Amz-S3session-Token=t"),
        ] {
            assert_eq!(read(&name, "https://b.s3.amazonaws.com/", &query), None, "{query}");
        }
        assert_eq!(PresignTemplate::of("https://b.s3.amazonaws.com/another?x-id=GetObject", &name), None);
    }
}
