//! URLs that let their holder make one request to S3.

use aws_sdk_s3::client::customize::CustomizableOperation;
use aws_sdk_s3::presigning::{PresignedRequest, PresigningConfig};
use http::header;
use percent_encoding::utf8_percent_encode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::convert::{custom_metadata, length, part_number, sha256_to_base64};
use super::errors::{classify, rejected};
use super::presign_template::{Call, PresignTemplate};
use super::{RESERVED, S3Store, Sse};
use crate::store::{ObjectName, PresignOptions, Presigned, PutConditions, Result, Upload};

impl S3Store {
    pub(super) async fn get_url(&self, name: &ObjectName, options: &PresignOptions) -> Result<Presigned> {
        let call = Call { method: "GET", name, query: "x-id=GetObject", headers: &[] };
        let start = this_second()?;
        if let Some(signed) = self.sign(call, start, options) {
            return signed;
        }
        let call = self.client.get_object().bucket(&self.bucket).key(self.key(name)).customize();
        let (window, expires_at) = self.window(start, options)?;
        let request = self.addressed(call).presigned(window).await;
        let request = request.map_err(|error| classify("GetObject", error))?;
        self.learn(&request, name);
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
            .set_metadata(Some(custom_metadata(&conditions.custom).into_iter().collect()))
            .set_checksum_sha256(conditions.sha256.as_ref().map(sha256_to_base64))
            .set_server_side_encryption(self.sse.as_ref().map(Sse::algorithm))
            .set_ssekms_key_id(self.sse.as_ref().and_then(Sse::key_id))
            .if_none_match("*");
        let (window, expires_at) = self.window(this_second()?, options)?;
        let request = self.addressed(call.customize()).presigned(window).await;
        Ok(self.presigned(request.map_err(|error| classify("PutObject", error))?, expires_at, options))
    }

    pub(super) async fn part_url(
        &self,
        upload: &Upload,
        number: u32,
        size: u64,
        options: &PresignOptions,
    ) -> Result<Presigned> {
        let query =
            format!("x-id=UploadPart&partNumber={number}&uploadId={}", utf8_percent_encode(&upload.id, RESERVED));
        let headers = [(header::CONTENT_LENGTH.to_string(), size.to_string())];
        let call = Call { method: "PUT", name: &upload.name, query: &query, headers: &headers };
        let start = this_second()?;
        if let Some(signed) = self.sign(call, start, options) {
            return signed;
        }
        let call = self.client.upload_part().bucket(&self.bucket).key(self.key(&upload.name)).upload_id(&upload.id);
        let call = call.part_number(part_number(number)).content_length(length(size));
        let (window, expires_at) = self.window(start, options)?;
        let request = self.addressed(call.customize()).presigned(window).await;
        let request = request.map_err(|error| classify("UploadPart", error))?;
        self.learn(&request, &upload.name);
        Ok(self.presigned(request, expires_at, options))
    }

    /// Signs after the pattern of an earlier URL. None where there is no pattern, or no credentials are known to be good: the
    /// SDK finds out.
    fn sign(&self, call: Call<'_>, start: SystemTime, options: &PresignOptions) -> Option<Result<Presigned>> {
        let presign_template = self.presign_template.get()?.as_ref()?;
        let credentials = self.in_use.get(start)?;
        let ttl = whole_seconds(options);
        let expires_at = earlier(start + ttl, credentials.expiry());
        let signed = presign_template.sign(credentials, call, start, ttl);
        Some(signed.map(|url| Presigned {
            url: self.for_client(&url, options),
            headers: call.headers.to_vec(),
            expires_at,
        }))
    }

    /// Takes a URL of the SDK's for the pattern of those to come.
    fn learn(&self, request: &PresignedRequest, name: &ObjectName) {
        self.presign_template.get_or_init(|| PresignTemplate::of(request.uri(), name));
    }

    /// From `start` on, and when that ends, as far as the credentials are known before the SDK signs.
    fn window(&self, start: SystemTime, options: &PresignOptions) -> Result<(PresigningConfig, SystemTime)> {
        let ttl = whole_seconds(options);
        let window = PresigningConfig::builder().start_time(start).expires_in(ttl).build();
        let known = self.in_use.get(start).and_then(|credentials| credentials.expiry());
        Ok((window.map_err(|error| rejected("presign", error))?, earlier(start + ttl, known)))
    }

    /// The credentials are read once more after signing, which may have taken others. Of two kinds in turn either may have
    /// signed, and the end that comes first holds for both.
    fn presigned(&self, request: PresignedRequest, expires_at: SystemTime, options: &PresignOptions) -> Presigned {
        Presigned {
            url: self.for_client(request.uri(), options),
            headers: request.headers().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            expires_at: earlier(expires_at, self.in_use.end()),
        }
    }

    /// Where a URL leads that was signed for the endpoint: elsewhere if the store is reached through the service.
    fn for_client(&self, url: &str, options: &PresignOptions) -> String {
        match (self.mount, self.endpoint.as_deref().and_then(|endpoint| url.strip_prefix(endpoint))) {
            (Some(mount), Some(path)) => format!("{}{mount}{path}", options.base.as_deref().unwrap_or_default()),
            _ => url.to_owned(),
        }
    }

    /// Signs for where the holder of the URL reaches the store, if that is not where this process does.
    fn addressed<T, E, B>(&self, call: CustomizableOperation<T, E, B>) -> CustomizableOperation<T, E, B> {
        // Setting it to none would override, too: with AWS's own address.
        match &self.public_endpoint {
            Some(endpoint) => call.config_override(aws_sdk_s3::Config::builder().endpoint_url(endpoint)),
            None => call,
        }
    }
}

/// A URL ends with the credentials that signed it, if they end first.
fn earlier(planned: SystemTime, credentials_end: Option<SystemTime>) -> SystemTime {
    credentials_end.map_or(planned, |end| end.min(planned))
}

/// Now, as a signature's date has it: without fractions of a second.
fn this_second() -> Result<SystemTime> {
    let now = UNIX_EPOCH.elapsed().map_err(|error| rejected("presign", error))?;
    Ok(UNIX_EPOCH + Duration::from_secs(now.as_secs()))
}

/// How long a URL works: a signature has whole seconds here, too.
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
    async fn later_urls_are_signed_after_the_first_one_and_part_urls_too() {
        let store = store(Some("https://images.example"), None).await;
        let (first, name) = (ObjectName::Image(ImageKey::random("png")), ObjectName::Incoming(ImageKey::random("png")));
        let options = reached_by(Some("https://elsewhere.example"));
        let get = |name| Call { method: "GET", name, query: "x-id=GetObject", headers: &[] };
        let now = this_second().unwrap();
        assert!(store.sign(get(&name), now, &options).is_none());
        store.get_url(&first, &options).await.unwrap();
        assert!(store.sign(get(&name), now, &options).is_some());
        let upload = Upload { name: name.clone(), id: "an/id".to_owned() };
        for url in [
            store.get_url(&name, &options).await.unwrap().url,
            store.part_url(&upload, 2, 7, &options).await.unwrap().url,
        ] {
            let key = name.key();
            assert!(url.starts_with(&format!("https://images.example/b/p/incoming/{key}?")), "{url}");
        }
    }

    #[tokio::test]
    async fn a_mounted_store_is_reached_where_the_client_reached_the_service() {
        let store = store(None, Some("/_store")).await;
        let name = ObjectName::Image(ImageKey::random("png"));
        let conditions = PutConditions {
            size: 1,
            content_type: "image/png".to_owned(),
            sha256: None,
            custom: CustomMetadata::new(),
        };
        for base in [Some("http://one.example:8080"), None, Some("https://two.example/images")] {
            let (options, start) = (reached_by(base), format!("{}/_store/b/p/", base.unwrap_or_default()));
            let get = store.get_url(&name, &options).await.unwrap().url;
            let put = store.put_url(&name, &conditions, &options).await.unwrap().url;
            assert!(get.starts_with(&start) && put.starts_with(&start), "{get} {put}");
        }
    }

    #[tokio::test]
    async fn a_url_ends_with_the_credentials_that_sign_it_and_those_that_end_now_sign_none() {
        let store = store(None, None).await;
        let name = ObjectName::Image(ImageKey::random("png"));
        store.get_url(&name, &reached_by(None)).await.unwrap();
        let now = SystemTime::now();
        let ending = |end| aws_credential_types::Credentials::new("ENDING", "secret", None, Some(end), "test");
        let end = now + Duration::from_secs(30);
        store.in_use.note(ending(end), now);
        let signed = store.get_url(&name, &reached_by(None)).await.unwrap();
        assert!(signed.url.contains("ENDING"), "{}", signed.url);
        assert_eq!(signed.expires_at, end);
        store.in_use.note(ending(now + Duration::from_secs(5)), now);
        assert!(store.get_url(&name, &reached_by(None)).await.unwrap().url.contains("AKID"), "the SDK's");
    }
}
