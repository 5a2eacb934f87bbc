//! What is signed and sent without the SDK's orchestrator, compared with the SDK.

use aws_credential_types::Credentials;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::{HttpRequest, HttpResponse};
use aws_sdk_s3::config::{HttpClient, RuntimeComponents, SharedCredentialsProvider, SharedHttpClient};
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::SdkBody;
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::result::ConnectorError;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use uuid::Uuid;

use super::call::Call;
use super::credentials::RecordingProvider;
use super::presign::signed_url;
use super::signer::{Signer, parse_date};
use super::{Checksum, S3Options, S3Store, Sse, body, convert};
use crate::crc64;
use crate::store::{Content, CustomMetadata, ImageKey, Metadata, ObjectName, Payload, Store, StoreError, Upload};

const SLOW_DOWN: &str = "<Error><Code>SlowDown</Code><Message>Reduce your rate.</Message></Error>";
const SKEWED: &str = "<Error><Code>RequestTimeTooSkewed</Code><Message>Too skewed.</Message></Error>";
const HOUR: Duration = Duration::from_secs(3_600);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Recorded {
    method: String,
    path: String,
    /// Sorted.
    query: Vec<(String, String)>,
    headers: BTreeMap<String, String>,
}

impl Recorded {
    fn of(request: &HttpRequest) -> Self {
        let (path, query) = split(request.uri());
        let headers = request.headers().iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Recorded { method: request.method().to_owned(), path, query, headers }
    }

    fn signed_at(&self) -> SystemTime {
        parse_date(&self.headers["x-amz-date"]).unwrap()
    }
}

/// Splits a URL into its address and the sorted parameters of its query.
fn split(url: &str) -> (String, Vec<(String, String)>) {
    let (path, query) = url.split_once('?').unwrap();
    let mut query: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    query.sort();
    (path.to_owned(), query)
}

/// An answer to one request: status, headers and body, or `None` if there is no answer.
type Answer = Option<(u16, Vec<(&'static str, String)>, &'static str)>;

/// An S3 that records requests. It sends the given answers, and then successes.
#[derive(Clone, Debug, Default)]
struct Recorder {
    requests: Arc<Mutex<Vec<Recorded>>>,
    answers: Arc<Mutex<VecDeque<Answer>>>,
}

impl Recorder {
    fn taken(&self) -> Vec<Recorded> {
        std::mem::take(&mut self.requests.lock())
    }

    fn answer(&self, answers: impl IntoIterator<Item = Answer>) {
        self.answers.lock().extend(answers);
    }
}

impl HttpClient for Recorder {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Recorder {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        self.requests.lock().push(Recorded::of(&request));
        let answer = self.answers.lock().pop_front();
        HttpConnectorFuture::ready(match answer.unwrap_or(Some((200, Vec::new(), ""))) {
            Some((status, headers, body)) => {
                let mut response = HttpResponse::new(status.try_into().unwrap(), SdkBody::from(body));
                for (name, value) in headers {
                    response.headers_mut().insert(name, value);
                }
                Ok(response)
            }
            None => Err(ConnectorError::io("the connection broke".into())),
        })
    }
}

/// A store before the recorder, with temporary credentials if there is a token.
async fn connect(recorder: &Recorder, token: Option<&str>, change: impl FnOnce(&mut S3Options)) -> S3Store {
    let mut options = S3Options {
        bucket: "b".to_owned(),
        prefix: "p/".to_owned(),
        endpoint: Some("http://127.0.0.1:9000".to_owned()),
        public_endpoint: None,
        credentials: Some(("unused".to_owned(), "unused".to_owned())),
        region: Some("eu-north-1".to_owned()),
        force_path_style: true,
        checksum: Checksum::None,
        sse: None,
        attempt_timeout: Duration::from_secs(5),
        http_client: Some(SharedHttpClient::new(recorder.clone())),
        mount: None,
    };
    change(&mut options);
    let mut store = S3Store::connect(options).await;
    let credentials = Credentials::new("AKID", "secret", token.map(str::to_owned), None, "test");
    let (inner, in_use) = (SharedCredentialsProvider::new(credentials), store.in_use.clone());
    let config = store.client.config().to_builder().credentials_provider(RecordingProvider { inner, in_use });
    store.client = Client::from_conf(config.build());
    store
}

/// Stores with every kind of address, credentials and settings.
async fn stores(recorder: &Recorder) -> Vec<S3Store> {
    let mut stores = Vec::new();
    for token in [None, Some(""), Some("to/ken+=")] {
        for (endpoint, path_style) in [
            (None, false),
            (None, true),
            (Some("http://127.0.0.1:9000"), true),
            (Some("https://s3.example:443"), false),
        ] {
            for (prefix, checksum, sse) in [
                ("", Checksum::None, None),
                ("a b/\u{fc}+/", Checksum::Crc64Nvme, Some(Sse::Kms { key_id: Some("a  key".to_owned()) })),
                ("p/", Checksum::Crc64Nvme, Some(Sse::Aes256)),
            ] {
                let change = |options: &mut S3Options| {
                    options.endpoint = endpoint.map(str::to_owned);
                    options.force_path_style = path_style;
                    (options.prefix, options.checksum, options.sse) = (prefix.to_owned(), checksum, sse);
                };
                stores.push(connect(recorder, token, change).await);
            }
        }
    }
    stores
}

fn payload() -> Payload {
    Payload { content: Content::Memory(Bytes::from_static(b"bytes")), len: 5, crc64: crc64::checksum(b"bytes") }
}

fn metadata() -> Metadata {
    let custom = CustomMetadata::from([("owner".to_owned(), "\u{fc}".to_owned())]);
    Metadata { dimensions: Some((3, 2)), may_be_planned: true, ..Metadata::unverified("image/png", custom) }
}

fn image() -> ObjectName {
    ObjectName::Image(ImageKey::random("png"))
}

/// Compares the request that the SDK has just sent with the first attempt of `call`.
async fn compare(store: &S3Store, recorder: &Recorder, call: &Call<'_>) {
    let [sdk]: [Recorded; 1] = recorder.taken().try_into().unwrap();
    let (route, credentials) = store.route(&store.own_route, call.operation).await.unwrap().unwrap();
    let id = Uuid::try_parse(&sdk.headers["amz-sdk-invocation-id"]).unwrap();
    let request = store.request(call, &route, &credentials, sdk.signed_at(), id, body::of(&payload())).unwrap();
    assert_eq!(Recorded::of(&request), sdk);
    assert!(recorder.taken().is_empty(), "the SDK only prepares a call");
}

#[tokio::test]
async fn first_put_object_equals_that_of_the_sdk() {
    let recorder = Recorder::default();
    for store in stores(&recorder).await {
        let (name, metadata, body) = (image(), metadata(), payload());
        let call = store.client.put_object().bucket("b").key(store.key(&name));
        let call = call
            .content_type("image/png")
            .set_metadata(Some(convert::user_metadata(&metadata, Some(body.crc64))))
            .set_server_side_encryption(store.sse.as_ref().map(Sse::algorithm))
            .set_ssekms_key_id(store.sse.as_ref().and_then(Sse::key_id))
            .content_length(5)
            .set_checksum_crc64_nvme(store.crc64(body.crc64))
            .if_none_match("*")
            .body(body::retryable(&body));
        call.customize().disable_payload_signing().send().await.unwrap();
        compare(&store, &recorder, &store.put_call(&name, &metadata, &body)).await;
    }
}

#[tokio::test]
async fn first_upload_part_equals_that_of_the_sdk() {
    let recorder = Recorder::default();
    for store in stores(&recorder).await {
        let (upload, body) = (Upload { name: image(), id: "a+b/c=~d e".to_owned() }, payload());
        let call = store.client.upload_part().bucket("b").key(store.key(&upload.name)).upload_id(&upload.id);
        let call = call
            .part_number(7)
            .content_length(5)
            .set_checksum_crc64_nvme(store.crc64(body.crc64))
            .body(body::retryable(&body));
        call.customize().disable_payload_signing().send().await.unwrap();
        compare(&store, &recorder, &store.part_call(&upload, 7, &body)).await;
    }
}

#[tokio::test]
async fn presigned_urls_equal_those_of_the_sdk() {
    let recorder = Recorder::default();
    for store in stores(&recorder).await {
        let (start, ttl) = (UNIX_EPOCH + Duration::from_secs(1_700_000_000), Duration::from_secs(900));
        let window = || PresigningConfig::builder().start_time(start).expires_in(ttl).build().unwrap();
        let (route, credentials) = store.route(&store.own_route, "GetObject").await.unwrap().unwrap();
        let signer = Signer::new(&store.signing_keys, &credentials, &route.region, start);
        let compare = |call: &Call<'_>, sdk: aws_sdk_s3::presigning::PresignedRequest| {
            assert_eq!(split(&signed_url(call, &route, &signer, ttl)), split(sdk.uri()));
            let headers: BTreeMap<_, _> = call.headers.iter().map(|(name, value)| (&**name, &**value)).collect();
            assert_eq!(headers, sdk.headers().collect());
        };
        let (name, upload) = (image(), Upload { name: image(), id: "a+b/c=~d e".to_owned() });
        let get = store.client.get_object().bucket("b").key(store.key(&name));
        compare(&Call::get_object(&name), get.presigned(window()).await.unwrap());
        let part = store.client.upload_part().bucket("b").key(store.key(&upload.name)).upload_id(&upload.id);
        let part = part.part_number(7).content_length(5 << 20);
        compare(&Call::upload_part(&upload, 7, Some(5 << 20)), part.presigned(window()).await.unwrap());
        let custom = convert::unverified_metadata(&metadata().custom, Some(Uuid::new_v4()));
        let put = store.client.put_object().bucket("b").key(store.key(&name)).content_type("image/png");
        let put = put
            .content_length(5)
            .set_metadata(Some(custom.clone()))
            .set_server_side_encryption(store.sse.as_ref().map(Sse::algorithm))
            .set_ssekms_key_id(store.sse.as_ref().and_then(Sse::key_id));
        let call = Call::put_object(&name, "image/png", 5, custom, store.sse.as_ref());
        compare(&call, put.presigned(window()).await.unwrap());
    }
    assert!(recorder.taken().is_empty());
}

#[tokio::test]
async fn accepted_first_attempt_is_the_only_one() {
    let recorder = Recorder::default();
    let store = connect(&recorder, None, |options| options.checksum = Checksum::Crc64Nvme).await;
    let upload = Upload { name: image(), id: "id".to_owned() };
    store.put(&upload.name, &metadata(), payload()).await.unwrap();
    let kept = crc64::to_base64(77);
    let headers = vec![("etag", "\"e\"".to_owned()), ("x-amz-checksum-crc64nvme", kept)];
    recorder.answer([Some((200, headers, ""))]);
    let part = store.upload_part(&upload, 7, payload()).await.unwrap();
    assert_eq!((part.number, part.size, part.etag.as_deref(), part.crc64), (7, 5, Some("\"e\""), Some(77)));
    let sent = recorder.taken();
    assert_eq!(sent.len(), 2);
    assert!(sent.iter().all(|request| request.headers["amz-sdk-request"] == "attempt=1; max=3"), "{sent:?}");
}

#[tokio::test(start_paused = true)]
async fn sdk_repeats_attempts_after_the_first() {
    let recorder = Recorder::default();
    let store = connect(&recorder, None, |_| ()).await;
    let slow_down = || Some((503, Vec::new(), SLOW_DOWN));
    recorder.answer([slow_down()]);
    store.put(&image(), &metadata(), payload()).await.unwrap();
    assert!(store.retry_quota.is_full(), "a retry that succeeds costs nothing");
    recorder.taken();

    recorder.answer([slow_down(), slow_down()]);
    store.put(&image(), &metadata(), payload()).await.unwrap();
    let sent = recorder.taken();
    let attempts: Vec<&str> = sent.iter().map(|request| &*request.headers["amz-sdk-request"]).collect();
    assert_eq!(attempts, ["attempt=1; max=3", "attempt=2; max=3", "attempt=3; max=3"]);
    // All are the same call.
    assert_eq!(sent[0].path, sent[2].path);
    assert_eq!(sent[0].headers["x-amz-meta-width"], sent[2].headers["x-amz-meta-width"]);

    recorder.answer([None, None, None]);
    let upload = Upload { name: image(), id: "id".to_owned() };
    let error = store.upload_part(&upload, 1, payload()).await.unwrap_err();
    assert!(matches!(error, StoreError::OutcomeUnknown { operation: "UploadPart", .. }), "{error:?}");
    assert_eq!(recorder.taken().len(), 3);
    assert!(!store.retry_quota.is_full());
    for _ in 0..20 {
        store.upload_part(&upload, 1, payload()).await.unwrap();
    }
    assert!(store.retry_quota.is_full(), "successes refill the quota");
}

#[tokio::test(start_paused = true)]
async fn put_object_with_unknown_outcome_is_not_repeated() {
    let recorder = Recorder::default();
    let store = connect(&recorder, None, |_| ()).await;
    for answer in [None, Some((500, Vec::new(), "")), Some((200, Vec::new(), SLOW_DOWN))] {
        recorder.answer([answer.clone()]);
        let result = store.send_put(&image(), &metadata(), &payload()).await;
        // A success may contain an error, which is rejected for certain if its code is.
        let repeated = matches!(answer, Some((200, ..)));
        assert_eq!((result.is_ok(), recorder.taken().len()), (repeated, 1 + usize::from(repeated)), "{answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn rejection_has_the_code_of_its_only_attempt() {
    let recorder = Recorder::default();
    let store = connect(&recorder, None, |_| ()).await;
    let denied = "<Error><Code>AccessDenied</Code><Message>No.</Message></Error>";
    recorder.answer([Some((403, Vec::new(), denied)), Some((412, Vec::new(), ""))]);
    let error = store.send_put(&image(), &metadata(), &payload()).await.unwrap_err();
    assert!(matches!(&error, StoreError::Rejected { operation: "PutObject", code, .. } if code == "AccessDenied"));
    let error = store.send_put(&image(), &metadata(), &payload()).await.unwrap_err();
    assert!(matches!(error, StoreError::Precondition), "{error:?}");
    assert_eq!(recorder.taken().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn first_attempt_has_the_corrected_clock_of_the_sdk() {
    let recorder = Recorder::default();
    let store = connect(&recorder, None, |_| ()).await;
    let later = httpdate::fmt_http_date(SystemTime::now() + HOUR);
    recorder.answer([Some((403, vec![("date", later)], SKEWED))]);
    store.put(&image(), &metadata(), payload()).await.unwrap();
    store.put(&image(), &metadata(), payload()).await.unwrap();
    let ahead = |request: &Recorded| request.signed_at() > SystemTime::now() + HOUR / 2;
    assert_eq!(recorder.taken().iter().map(ahead).collect::<Vec<_>>(), [false, true, true]);
}

#[tokio::test]
async fn sdk_sends_calls_that_need_another_kind_of_session() {
    const SESSION: &str = "<CreateSessionResult><Credentials><SessionToken>t</SessionToken><SecretAccessKey>s\
        </SecretAccessKey><AccessKeyId>a</AccessKeyId><Expiration>2100-01-01T00:00:00Z</Expiration></Credentials>\
        </CreateSessionResult>";
    let recorder = Recorder::default();
    let change = |options: &mut S3Options| {
        (options.endpoint, options.force_path_style) = (None, false);
        options.bucket = "b--eun1-az1--x-s3".to_owned();
    };
    let store = connect(&recorder, None, change).await;
    recorder.answer([Some((200, Vec::new(), SESSION))]);
    store.put(&image(), &metadata(), payload()).await.unwrap();
    assert!(store.route(&store.own_route, "PutObject").await.unwrap().is_none());
    let [_, put] = recorder.taken().try_into().unwrap();
    assert_eq!((&*put.headers["x-amz-s3session-token"], &*put.headers["x-amz-meta-width"]), ("t", "3"));
}
