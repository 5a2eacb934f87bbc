//! Presigned URLs, each of which permits one kind of request to S3.

use aws_sdk_s3::client::customize::CustomizableOperation;
use aws_sdk_s3::presigning::{PresignedRequest, PresigningConfig};
use http::header;
use percent_encoding::utf8_percent_encode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::convert::{length, part_number, sha256_to_base64, unverified_metadata};
use super::errors::{classify, rejected};
use super::presign_template::{Call, PresignTemplate};
use super::{RESERVED, S3Store, Sse};
use crate::store::{ObjectName, PresignOptions, Presigned, PutConditions, Result, Upload};

impl S3Store {
    pub(super) async fn get_url(&self, name: &ObjectName, options: &PresignOptions) -> Result<Presigned> {
        let call = Call { method: "GET", name, query: "x-id=GetObject", headers: &[] };
        let start = current_second()?;
        if let Some(signed) = self.sign(call, start, options) {
            return signed;
        }
        let call = self.client.get_object().bucket(&self.bucket).key(self.key(name)).customize();
        let (window, expires_at) = self.window(start, options)?;
        let request = self.addressed(call).presigned(window).await;
        let request = request.map_err(|error| classify("GetObject", error))?;
        self.init_template(&request, name);
        Ok(self.presigned(request, expires_at, options))
    }

    pub(super) async fn put_url(
        &self,
        name: &ObjectName,
        conditions: &PutConditions,
        options: &PresignOptions,
    ) -> Result<Presigned> {
        let call = self.client.put_object().bucket(&self.bucket).key(self.key(name));
        let call = call
            .content_length(length(conditions.size))
            .content_type(&conditions.content_type)
            .set_metadata(Some(unverified_metadata(&conditions.custom, conditions.origin)))
            .set_checksum_sha256(conditions.sha256.as_ref().map(sha256_to_base64))
            .set_server_side_encryption(self.sse.as_ref().map(Sse::algorithm))
            .set_ssekms_key_id(self.sse.as_ref().and_then(Sse::key_id))
            .if_none_match("*");
        let (window, expires_at) = self.window(current_second()?, options)?;
        let request = self.addressed(call.customize()).presigned(window).await;
        Ok(self.presigned(request.map_err(|error| classify("PutObject", error))?, expires_at, options))
    }

    pub(super) async fn part_url(
        &self,
        upload: &Upload,
        number: u32,
        size: Option<u64>,
        options: &PresignOptions,
    ) -> Result<Presigned> {
        let query =
            format!("x-id=UploadPart&partNumber={number}&uploadId={}", utf8_percent_encode(&upload.id, RESERVED));
        let headers: Vec<_> = size.iter().map(|size| (header::CONTENT_LENGTH.to_string(), size.to_string())).collect();
        let call = Call { method: "PUT", name: &upload.name, query: &query, headers: &headers };
        let start = current_second()?;
        if let Some(signed) = self.sign(call, start, options) {
            return signed;
        }
        let call = self.client.upload_part().bucket(&self.bucket).key(self.key(&upload.name)).upload_id(&upload.id);
        let call = call.part_number(part_number(number)).set_content_length(size.map(length));
        let (window, expires_at) = self.window(start, options)?;
        let request = self.addressed(call.customize()).presigned(window).await;
        let request = request.map_err(|error| classify("UploadPart", error))?;
        self.init_template(&request, &upload.name);
        Ok(self.presigned(request, expires_at, options))
    }

    /// Signs with the template of an earlier URL. `None` if there is no template or no usable credentials. The SDK must
    /// sign the URL then.
    fn sign(&self, call: Call<'_>, start: SystemTime, options: &PresignOptions) -> Option<Result<Presigned>> {
        let presign_template = self.presign_template.get()?.as_ref()?;
        let credentials = self.in_use.get(start)?;
        let ttl = whole_seconds(options);
        let expires_at = earlier_of(start + ttl, credentials.expiry());
        let signed = presign_template.sign(credentials, call, start, ttl);
        Some(signed.map(|url| Presigned {
            url: self.for_client(&url, options),
            headers: call.headers.to_vec(),
            expires_at,
        }))
    }

    /// Creates the template for later URLs from a URL of the SDK, if there is none yet.
    fn init_template(&self, request: &PresignedRequest, name: &ObjectName) {
        self.presign_template.get_or_init(|| PresignTemplate::of(request.uri(), name));
    }

    /// Returns the validity period from `start`, and its end as far as the credentials are known before the SDK signs.
    fn window(&self, start: SystemTime, options: &PresignOptions) -> Result<(PresigningConfig, SystemTime)> {
        let ttl = whole_seconds(options);
        let window = PresigningConfig::builder().start_time(start).expires_in(ttl).build();
        let known = self.in_use.get(start).and_then(|credentials| credentials.expiry());
        Ok((window.map_err(|error| rejected("presign", error))?, earlier_of(start + ttl, known)))
    }

    /// Returns a URL that the SDK signed.
    ///
    /// The expiry of the credentials is read again, because the SDK may have requested new ones for signing. Either of
    /// the two may have signed the URL, so the earlier expiry applies.
    fn presigned(&self, request: PresignedRequest, expires_at: SystemTime, options: &PresignOptions) -> Presigned {
        Presigned {
            url: self.for_client(request.uri(), options),
            headers: request.headers().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            expires_at: earlier_of(expires_at, self.in_use.expiry()),
        }
    }

    /// Returns the URL for the client. If clients reach the store through the service, the endpoint is replaced.
    fn for_client(&self, url: &str, options: &PresignOptions) -> String {
        match (self.mount, self.endpoint.as_deref().and_then(|endpoint| url.strip_prefix(endpoint))) {
            (Some(mount), Some(path)) => format!("{}{mount}{path}", options.base.as_deref().unwrap_or_default()),
            _ => url.to_owned(),
        }
    }

    /// Sets the endpoint for which the URL is signed, if clients use another endpoint than this process.
    fn addressed<T, E, B>(&self, call: CustomizableOperation<T, E, B>) -> CustomizableOperation<T, E, B> {
        // Setting it to `None` would override the endpoint with that of AWS.
        match &self.public_endpoint {
            Some(endpoint) => call.config_override(aws_sdk_s3::Config::builder().endpoint_url(endpoint)),
            None => call,
        }
    }
}

/// Returns the earlier of the planned end and the credentials' expiry. A URL expires with the credentials that signed
/// it.
fn earlier_of(planned: SystemTime, credentials_expiry: Option<SystemTime>) -> SystemTime {
    credentials_expiry.map_or(planned, |expiry| expiry.min(planned))
}

/// Returns the current time without fractions of a second, as in the date of a signature.
fn current_second() -> Result<SystemTime> {
    let now = UNIX_EPOCH.elapsed().map_err(|error| rejected("presign", error))?;
    Ok(UNIX_EPOCH + Duration::from_secs(now.as_secs()))
}

/// Returns the validity of a URL in whole seconds, as in a signature.
fn whole_seconds(options: &PresignOptions) -> Duration {
    Duration::from_secs(options.ttl.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::s3::{Checksum, S3Options};
    use crate::store::{CustomMetadata, ImageKey};

    async fn store(public_endpoint: Option<&str>, mount: Option<&'static str>) -> S3Store {
        S3Store::connect(S3Options {
            bucket: "b".to_owned(),
            prefix: "p/".to_owned(),
            endpoint: Some("http://127.0.0.1:9000".to_owned()),
            public_endpoint: public_endpoint.map(str::to_owned),
            credentials: Some(("AKID".to_owned(), "secret".to_owned())),
            region: Some("eu-north-1".to_owned()),
            force_path_style: true,
            checksum: Checksum::None,
            sse: None,
            attempt_timeout: Duration::from_secs(1),
            http_client: None,
            mount,
        })
        .await
    }

    fn reached_by(base: Option<&str>) -> PresignOptions {
        PresignOptions { ttl: Duration::from_secs(60), base: base.map(str::to_owned) }
    }

    #[tokio::test]
    async fn later_urls_are_signed_with_the_template() {
        let store = store(Some("https://images.example"), None).await;
        let (first, name) = (ObjectName::Image(ImageKey::random("png")), ObjectName::Incoming(ImageKey::random("png")));
        let options = reached_by(Some("https://elsewhere.example"));
        let get = |name| Call { method: "GET", name, query: "x-id=GetObject", headers: &[] };
        let now = current_second().unwrap();
        assert!(store.sign(get(&name), now, &options).is_none());
        store.get_url(&first, &options).await.unwrap();
        assert!(store.sign(get(&name), now, &options).is_some());
        let upload = Upload { name: name.clone(), id: "an/id".to_owned() };
        for url in [
            store.get_url(&name, &options).await.unwrap().url,
            store.part_url(&upload, 2, Some(7), &options).await.unwrap().url,
        ] {
            let key = name.key();
            assert!(url.starts_with(&format!("https://images.example/b/p/incoming/{key}?")), "{url}");
        }
    }

    #[tokio::test]
    async fn urls_of_a_mounted_store_begin_with_the_client_s_base() {
        let store = store(None, Some("/_store")).await;
        let name = ObjectName::Image(ImageKey::random("png"));
        let conditions = PutConditions {
            size: 1,
            content_type: "image/png".to_owned(),
            sha256: None,
            custom: CustomMetadata::new(),
            origin: None,
        };
        for base in [Some("http://one.example:8080"), None, Some("https://two.example/images")] {
            let (options, start) = (reached_by(base), format!("{}/_store/b/p/", base.unwrap_or_default()));
            let get = store.get_url(&name, &options).await.unwrap().url;
            let put = store.put_url(&name, &conditions, &options).await.unwrap().url;
            assert!(get.starts_with(&start) && put.starts_with(&start), "{get} {put}");
        }
    }

    #[tokio::test]
    async fn url_expires_with_its_credentials() {
        let store = store(None, None).await;
        let name = ObjectName::Image(ImageKey::random("png"));
        store.get_url(&name, &reached_by(None)).await.unwrap();
        let now = SystemTime::now();
        let expiring =
            |expiry| aws_credential_types::Credentials::new("EXPIRING", "secret", None, Some(expiry), "test");
        let expiry = now + Duration::from_secs(30);
        store.in_use.record(expiring(expiry), now);
        let signed = store.get_url(&name, &reached_by(None)).await.unwrap();
        assert!(signed.url.contains("EXPIRING"), "{}", signed.url);
        assert_eq!(signed.expires_at, expiry);
        // Credentials that expire very soon are not used. The SDK signs with its own.
        store.in_use.record(expiring(now + Duration::from_secs(5)), now);
        assert!(store.get_url(&name, &reached_by(None)).await.unwrap().url.contains("AKID"));
    }
}
