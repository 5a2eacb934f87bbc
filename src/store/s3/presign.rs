//! URLs that let their holder make one request to S3.

use aws_sdk_s3::client::customize::CustomizableOperation;
use aws_sdk_s3::presigning::{PresignedRequest, PresigningConfig};
use http::header;
use http::uri::{Authority, Uri};
use percent_encoding::utf8_percent_encode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::errors::{classify, refused};
use super::pattern::{Call, Pattern};
use super::values::{length, part_number, sha256_to_base64};
use super::{RESERVED, S3Store, Sse};
use crate::store::{Name, PresignOptions, Presigned, PutConditions, Result, Upload};

impl S3Store {
    pub(super) async fn get_url(&self, name: &Name, options: &PresignOptions) -> Result<Presigned> {
        let call = Call { method: "GET", name, query: "x-id=GetObject", headers: &[] };
        let start = this_second()?;
        if let Some(signed) = self.sign(call, start, options) {
            return signed;
        }
        let call = self.client.get_object().bucket(&self.bucket).key(self.key(name)).customize();
        let (window, expires_at) = self.window(start, options)?;
        let request = self.addressed(call, options).presigned(window).await;
        let request = request.map_err(|error| classify("GetObject", error))?;
        self.learn(&request, name, options);
        Ok(self.presigned(request, expires_at))
    }

    pub(super) async fn put_url(
        &self,
        name: &Name,
        conditions: &PutConditions,
        options: &PresignOptions,
    ) -> Result<Presigned> {
        let call = self.client.put_object().bucket(&self.bucket).key(self.key(name));
        let call = call
            .content_length(length(conditions.size))
            .content_type(&conditions.content_type)
            .set_checksum_sha256(conditions.sha256.as_ref().map(sha256_to_base64))
            .set_server_side_encryption(self.sse.as_ref().map(Sse::algorithm))
            .set_ssekms_key_id(self.sse.as_ref().and_then(Sse::key_id))
            .if_none_match("*");
        let (window, expires_at) = self.window(this_second()?, options)?;
        let request = self.addressed(call.customize(), options).presigned(window).await;
        Ok(self.presigned(request.map_err(|error| classify("PutObject", error))?, expires_at))
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
        let request = self.addressed(call.customize(), options).presigned(window).await;
        let request = request.map_err(|error| classify("UploadPart", error))?;
        self.learn(&request, &upload.name, options);
        Ok(self.presigned(request, expires_at))
    }

    /// Signs after the pattern of an earlier URL. None where there is no pattern, or no credentials are known to be good: the
    /// SDK finds out.
    fn sign(&self, call: Call<'_>, start: SystemTime, options: &PresignOptions) -> Option<Result<Presigned>> {
        let pattern = self.pattern.get()?.as_ref().filter(|_| !self.follows(options))?;
        let credentials = self.in_use.get(start)?;
        let ttl = whole_seconds(options);
        let expires_at = earlier(start + ttl, credentials.expiry());
        let signed = pattern.sign(credentials, call, start, ttl);
        Some(signed.map(|url| Presigned { url, headers: call.headers.to_vec(), expires_at }))
    }

    /// Takes a URL of the SDK's for the pattern of those to come.
    fn learn(&self, request: &PresignedRequest, name: &Name, options: &PresignOptions) {
        if !self.follows(options) {
            self.pattern.get_or_init(|| Pattern::of(request.uri(), name));
        }
    }

    /// From `start` on, and when that ends, as far as the credentials are known before the SDK signs.
    fn window(&self, start: SystemTime, options: &PresignOptions) -> Result<(PresigningConfig, SystemTime)> {
        let ttl = whole_seconds(options);
        let window = PresigningConfig::builder().start_time(start).expires_in(ttl).build();
        let known = self.in_use.get(start).and_then(|credentials| credentials.expiry());
        Ok((window.map_err(|error| refused("presign", error))?, earlier(start + ttl, known)))
    }

    /// Whether the URL is to have the host name of the request, so that no two need be alike.
    fn follows(&self, options: &PresignOptions) -> bool {
        self.host_follows_request && options.host.is_some()
    }

    /// The credentials are read once more after signing, which may have taken others. Of two kinds in turn either may have
    /// signed, and the end that comes first holds for both.
    fn presigned(&self, request: PresignedRequest, expires_at: SystemTime) -> Presigned {
        Presigned {
            url: request.uri().to_owned(),
            headers: request.headers().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            expires_at: earlier(expires_at, self.in_use.end()),
        }
    }

    /// Signs for where the holder of the URL reaches the store, where that is not where this process does.
    fn addressed<T, E, B>(
        &self,
        call: CustomizableOperation<T, E, B>,
        options: &PresignOptions,
    ) -> CustomizableOperation<T, E, B> {
        let followed = || {
            let host = options.host.as_deref().filter(|_| self.follows(options))?;
            with_host(self.endpoint.as_deref()?, host)
        };
        // Setting it to none would override, too: with AWS's own address.
        match self.public_endpoint.clone().or_else(followed) {
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
    let now = UNIX_EPOCH.elapsed().map_err(|error| refused("presign", error))?;
    Ok(UNIX_EPOCH + Duration::from_secs(now.as_secs()))
}

/// How long a URL works: a signature has whole seconds here, too.
fn whole_seconds(options: &PresignOptions) -> Duration {
    Duration::from_secs(options.ttl.as_secs())
}

/// `endpoint` with the host name of `host` (which may carry a port of its own) and the endpoint's port.
fn with_host(endpoint: &str, host: &str) -> Option<String> {
    let endpoint: Uri = endpoint.parse().ok()?;
    let host: Authority = host.parse().ok()?;
    if host.as_str().contains('@') || host.host().is_empty() {
        return None;
    }
    let port = endpoint.port().map(|port| format!(":{port}")).unwrap_or_default();
    Some(format!("{}://{}{port}", endpoint.scheme_str()?, host.host()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ImageKey;
    use crate::store::s3::{Checksum, S3Options};

    async fn store(public_endpoint: Option<&str>, host_follows_request: bool) -> S3Store {
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
            host_follows_request,
        })
        .await
    }

    fn reached_by(host: Option<&str>) -> PresignOptions {
        PresignOptions { ttl: Duration::from_secs(60), host: host.map(str::to_owned) }
    }

    #[tokio::test]
    async fn later_urls_are_signed_after_the_first_one_and_part_urls_too() {
        let store = store(Some("https://images.example"), false).await;
        let (first, name) = (Name::Image(ImageKey::random("png")), Name::Incoming(ImageKey::random("png")));
        let options = reached_by(Some("elsewhere.example"));
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
    async fn no_host_of_a_request_s_gets_into_another_s_url() {
        let store = store(None, true).await;
        let name = Name::Image(ImageKey::random("png"));
        for host in [Some("one.example"), None, Some("two.example"), None, Some("one.example")] {
            let url = store.get_url(&name, &reached_by(host)).await.unwrap().url;
            let host = host.unwrap_or("127.0.0.1");
            assert!(url.starts_with(&format!("http://{host}:9000/b/p/")), "{url}");
        }
    }

    #[tokio::test]
    async fn a_url_ends_with_the_credentials_that_sign_it_and_those_that_end_now_sign_none() {
        let store = store(None, false).await;
        let name = Name::Image(ImageKey::random("png"));
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

    #[test]
    fn the_host_is_the_request_s_and_the_port_the_endpoint_s() {
        let with = |host| with_host("http://127.0.0.1:9000", host);
        assert_eq!(with("box.local").as_deref(), Some("http://box.local:9000"));
        assert_eq!(with("box.local:8080").as_deref(), Some("http://box.local:9000"));
        assert_eq!(with("[::1]:8080").as_deref(), Some("http://[::1]:9000"));
    }

    #[test]
    fn what_is_no_host_name_is_not_followed() {
        for host in ["", "a b", "user@evil", "a/b"] {
            assert_eq!(with_host("http://127.0.0.1:9000", host), None, "{host}");
        }
    }
}
