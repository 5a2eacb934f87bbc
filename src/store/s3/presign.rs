//! Presigned URLs, each of which permits one kind of request to S3.

use aws_sdk_s3::client::customize::CustomizableOperation;
use aws_sdk_s3::presigning::{PresignedRequest, PresigningConfig};
use percent_encoding::utf8_percent_encode;
use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::call::Call;
use super::convert::{part_number, sha256_to_base64, unverified_metadata};
use super::errors::{classify, rejected};
use super::route::{KnownRoute, Route};
use super::signer::{ALGORITHM, Signer, canonical_query, names};
use super::{RESERVED, S3Store};
use crate::store::{ObjectName, PresignOptions, Presigned, PutConditions, Result, Upload};

impl S3Store {
    pub(super) async fn get_url(&self, name: &ObjectName, options: &PresignOptions) -> Result<Presigned> {
        let call = Call::get_object(name);
        if let Some(signed) = self.sign(&call, options).await? {
            return Ok(signed);
        }
        let get = self.client.get_object().bucket(&self.bucket).key(self.key(name)).customize();
        let (window, expires_at) = self.window(options)?;
        let request = self.addressed(call.complete(get)).presigned(window).await;
        Ok(self.presigned(request.map_err(|error| classify("GetObject", error))?, expires_at, options))
    }

    pub(super) async fn put_url(
        &self,
        name: &ObjectName,
        conditions: &PutConditions,
        options: &PresignOptions,
    ) -> Result<Presigned> {
        let PutConditions { size, content_type, sha256, custom, origin } = conditions;
        let metadata = unverified_metadata(custom, *origin);
        let call = Call::put_object(name, content_type, *size, metadata, self.sse.as_ref())
            .with("x-amz-checksum-sha256", sha256.as_ref().map(sha256_to_base64))
            .with("if-none-match", Some("*".to_owned()));
        if let Some(signed) = self.sign(&call, options).await? {
            return Ok(signed);
        }
        let put = self.client.put_object().bucket(&self.bucket).key(self.key(name)).customize();
        let (window, expires_at) = self.window(options)?;
        let request = self.addressed(call.complete(put)).presigned(window).await;
        Ok(self.presigned(request.map_err(|error| classify("PutObject", error))?, expires_at, options))
    }

    pub(super) async fn part_url(
        &self,
        upload: &Upload,
        number: u32,
        size: Option<u64>,
        options: &PresignOptions,
    ) -> Result<Presigned> {
        let call = Call::upload_part(upload, number, size);
        if let Some(signed) = self.sign(&call, options).await? {
            return Ok(signed);
        }
        let part = self.client.upload_part().bucket(&self.bucket).key(self.key(&upload.name)).upload_id(&upload.id);
        let part = part.part_number(part_number(number)).customize();
        let (window, expires_at) = self.window(options)?;
        let request = self.addressed(call.complete(part)).presigned(window).await;
        Ok(self.presigned(request.map_err(|error| classify("UploadPart", error))?, expires_at, options))
    }

    /// Signs a URL. `None` if the SDK must sign it.
    async fn sign(&self, call: &Call<'_>, options: &PresignOptions) -> Result<Option<Presigned>> {
        let route = self.public_route.as_ref().unwrap_or(&self.own_route);
        let Some((route, credentials)) = self.route(route, call.operation).await? else { return Ok(None) };
        let (start, ttl) = (current_second()?, whole_seconds(options));
        let signer = Signer::new(&self.signing_keys, &credentials, &route.region, start);
        Ok(Some(Presigned {
            url: self.for_client(&signed_url(call, &route, &signer, ttl), options),
            headers: call.headers.iter().map(|(name, value)| (name.to_string(), value.clone())).collect(),
            expires_at: earlier_of(start + ttl, credentials.expiry()),
        }))
    }

    /// Returns the validity period from now, and its end as far as the credentials are known before the SDK signs.
    fn window(&self, options: &PresignOptions) -> Result<(PresigningConfig, SystemTime)> {
        let (start, ttl) = (current_second()?, whole_seconds(options));
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

    /// Sets the endpoint for which the SDK signs the URL, if clients use another endpoint than this process.
    fn addressed<T, E, B>(&self, call: CustomizableOperation<T, E, B>) -> CustomizableOperation<T, E, B> {
        // Setting it to `None` would override the endpoint with that of AWS.
        match self.public_route.as_ref().and_then(KnownRoute::endpoint) {
            Some(endpoint) => call.config_override(aws_sdk_s3::Config::builder().endpoint_url(endpoint)),
            None => call,
        }
    }
}

/// Returns the URL with which clients may make `call` for `ttl`.
pub(super) fn signed_url(call: &Call<'_>, route: &Route, signer: &Signer<'_>, ttl: Duration) -> String {
    let mut headers = vec![("host", &*route.host)];
    headers.extend(call.headers.iter().map(|(name, value)| (&**name, &**value)));
    headers.sort_unstable();
    let names = names(&headers);
    let encoded = |value: &str| Cow::Owned(utf8_percent_encode(value, RESERVED).to_string());
    let mut query = call.query.clone();
    query.extend([
        ("X-Amz-Algorithm", Cow::Borrowed(ALGORITHM)),
        ("X-Amz-Credential", encoded(&signer.credential())),
        ("X-Amz-Date", Cow::Borrowed(&*signer.date)),
        ("X-Amz-Expires", ttl.as_secs().to_string().into()),
        ("X-Amz-SignedHeaders", encoded(&names)),
    ]);
    query.extend(signer.credentials.session_token().map(|token| ("X-Amz-Security-Token", encoded(token))));
    let (path, query) = (route.path(call.name), canonical_query(query));
    let signature = signer.signature(call.method, &path, &query, &headers, &names);
    [&route.origin, &*path, "?", &query, "&X-Amz-Signature=", &signature].concat()
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
    async fn urls_have_the_public_endpoint() {
        let store = store(Some("https://images.example"), None).await;
        let (name, options) =
            (ObjectName::Incoming(ImageKey::random("png")), reached_by(Some("https://elsewhere.example")));
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
