//! The store over S3. This file and its folder are the only place that knows the SDK.
//!
//! The SDK's own protections are replaced where they cost or break: it would hash every body again, add checksum
//! trailers that other stores refuse, and end a request whose peer is silent for five seconds. Here the CRC64NVME that
//! came with the bytes is sent along, bodies go out as `UNSIGNED-PAYLOAD`, and every attempt has a timeout. The calls that
//! carry images do without its orchestrator (`send`).

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::Builder;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::config::retry::TokenBucket;
use aws_sdk_s3::operation::put_object::PutObjectError;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumMode, ChecksumType, CompletedMultipartUpload};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};
use std::ops::Range;
use std::time::Duration;
use uuid::Uuid;

use self::attempts::{Attempts, UnknownOutcome};
use self::call::Call;
use self::copy::CopyFacts;
pub use self::copy::{CopyProtection, TriedCopy};
use self::credentials::CurrentCredentials;
pub(crate) use self::errors::is_outcome_unknown;
use self::errors::{classify, of_upload, rejected};
pub use self::options::{Checksum, S3Options, Sse};
use self::options::{client_config, is_aws, timeouts};
use self::route::KnownRoute;
use self::send::Sent;
use self::signer::SigningKeys;
use super::{
    CreatedUpload, ImageKey, Kept, KeptBytes, Leftover, Marker, Metadata, ObjectDigest, ObjectInfo, ObjectName, Part,
    Payload, PresignOptions, Presigned, PutConditions, Result, Store, StoreError, Upload, Written,
};
use crate::crc64;

mod attempts;
mod body;
mod call;
mod convert;
mod copy;
mod credentials;
mod errors;
pub mod inspect;
mod marker;
mod options;
mod presign;
mod route;
mod send;
mod signer;
mod sweep;
#[cfg(test)]
mod tests;
mod trace;

/// Complete and UploadPartCopy move up to 5 GB inside the store before they answer.
const SLOW_CALL_FACTOR: u32 = 4;
/// The header with the CRC64NVME of a body.
const CHECKSUM: &str = "x-amz-checksum-crc64nvme";
/// The SDK's content type for bodies without one.
const OCTET_STREAM: &str = "application/octet-stream";
/// All but the unreserved characters (RFC 3986): what a signature wants encoded.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// One bucket of an S3.
#[derive(Debug)]
pub struct S3Store {
    client: Client,
    bucket: String,
    prefix: String,
    /// In effect; None: AWS by region.
    endpoint: Option<String>,
    mount: Option<&'static str>,
    /// In effect: never [`Checksum::Auto`].
    checksum: Checksum,
    sse: Option<Sse>,
    attempt_timeout: Duration,
    in_use: CurrentCredentials,
    copy_facts: Mutex<CopyFacts>,
    own_route: KnownRoute,
    /// For presigned URLs. `None` if clients use the same endpoint.
    public_route: Option<KnownRoute>,
    signing_keys: SigningKeys,
    /// What the SDK's retries may use up.
    retry_quota: TokenBucket,
}

impl S3Store {
    /// Reads the environment and the profile; sends nothing.
    ///
    /// Unlike the SDK's default chain it does not ask the instance's metadata service for a region.
    pub async fn connect(options: S3Options) -> S3Store {
        let (in_use, retry_quota) = (CurrentCredentials::default(), TokenBucket::default());
        let (config, endpoint) = client_config(&options, &in_use, &retry_quota).await;
        S3Store {
            client: Client::from_conf(config.build()),
            bucket: options.bucket,
            prefix: options.prefix,
            checksum: options.checksum.resolve(endpoint.as_deref()),
            endpoint,
            mount: options.mount,
            sse: options.sse,
            attempt_timeout: options.attempt_timeout,
            in_use,
            copy_facts: Mutex::default(),
            own_route: KnownRoute::default(),
            public_route: options.public_endpoint.map(KnownRoute::to),
            signing_keys: SigningKeys::default(),
            retry_quota,
        }
    }

    /// Whether this is AWS's own S3, which holds to every condition.
    pub fn is_aws(&self) -> bool {
        self.endpoint.as_deref().is_none_or(is_aws)
    }

    fn key(&self, name: &ObjectName) -> String {
        name.object_key(&self.prefix)
    }

    /// The checksum header's value, where checksums are on.
    fn crc64(&self, crc64: u64) -> Option<String> {
        (self.checksum == Checksum::Crc64Nvme).then(|| crc64::to_base64(crc64))
    }

    /// Whether parts of `name` come from this process, and so with a checksum.
    ///
    /// The clients of a direct upload send none, and S3 refuses parts without the checksum their upload was created with.
    fn parts_have_checksums(&self, name: &ObjectName) -> bool {
        self.checksum == Checksum::Crc64Nvme && matches!(name, ObjectName::Image(_))
    }

    fn slow_call(&self) -> Builder {
        aws_sdk_s3::Config::builder().timeout_config(timeouts(self.attempt_timeout * SLOW_CALL_FACTOR))
    }

    fn put_call<'a>(&self, name: &'a ObjectName, metadata: &Metadata, body: &Payload) -> Call<'a> {
        let user_metadata = convert::user_metadata(metadata, Some(body.crc64));
        Call::put_object(name, &metadata.content_type, body.len, user_metadata, self.sse.as_ref())
            .with(CHECKSUM, self.crc64(body.crc64))
            .with("if-none-match", Some("*".to_owned()))
    }

    fn kept_call<'a>(&self, name: &'a ObjectName, body: &Payload, crc64_before: Option<u64>) -> Call<'a> {
        let metadata = convert::kept_metadata(body.crc64, crc64_before);
        Call::put_object(name, OCTET_STREAM, body.len, metadata, self.sse.as_ref())
            .with(CHECKSUM, self.crc64(body.crc64))
    }

    fn part_call<'a>(&self, upload: &'a Upload, number: u32, body: &Payload) -> Call<'a> {
        let crc64 = self.crc64(body.crc64).filter(|_| self.parts_have_checksums(&upload.name));
        Call::upload_part(upload, number, Some(body.len))
            .with("content-type", Some(OCTET_STREAM.to_owned()))
            .with(CHECKSUM, crc64)
    }

    async fn send_put(&self, name: &ObjectName, metadata: &Metadata, body: &Payload) -> Result<()> {
        let never = UnknownOutcome::<PutObjectError>::never_retried();
        self.put_object(&self.put_call(name, metadata, body), body, |rest| rest.retry_classifier(never)).await
    }

    /// `retries` changes which failed attempts are repeated.
    async fn put_object(
        &self,
        call: &Call<'_>,
        body: &Payload,
        retries: impl FnOnce(Builder) -> Builder,
    ) -> Result<()> {
        let rest = match self.send_first(call, body).await? {
            Sent::Accepted(_) => return Ok(()),
            Sent::Unfinished(rest) => retries(*rest),
        };
        let put = self.client.put_object().bucket(&self.bucket).key(self.key(call.name)).body(body::retryable(body));
        let put = call.complete(put.customize().disable_payload_signing().config_override(rest));
        put.send().await.map(drop).map_err(|error| classify("PutObject", error))
    }

    async fn send_create(&self, name: &ObjectName, metadata: &Metadata) -> Result<CreatedUpload> {
        let checksums = self.parts_have_checksums(name);
        let call = self.client.create_multipart_upload().bucket(&self.bucket).key(self.key(name));
        let call = call
            .content_type(&metadata.content_type)
            .set_metadata(Some(convert::user_metadata(metadata, None)))
            .set_server_side_encryption(self.sse.as_ref().map(Sse::algorithm))
            .set_ssekms_key_id(self.sse.as_ref().and_then(Sse::key_id))
            .set_checksum_algorithm(checksums.then_some(ChecksumAlgorithm::Crc64Nvme))
            .set_checksum_type(checksums.then_some(ChecksumType::FullObject));
        let attempts = Attempts::watch();
        let created = call.customize().interceptor(attempts.clone()).send().await;
        let created = created.map_err(|error| attempts.classify("CreateMultipartUpload", error))?;
        // As good as no answer: there may be an upload.
        let no_id =
            || StoreError::OutcomeUnknown { operation: "CreateMultipartUpload", source: "no upload id in it".into() };
        let id = created.upload_id.ok_or_else(no_id)?;
        Ok(CreatedUpload { upload: Upload { name: name.clone(), id }, perhaps_others: attempts.unanswered() })
    }

    async fn send_complete(&self, upload: &Upload, parts: &[Part], whole: ObjectDigest) -> Result<()> {
        let checksums = self.parts_have_checksums(&upload.name);
        let parts = parts.iter().map(|part| convert::completed_part(part, checksums)).collect();
        let crc64 = whole.crc64.filter(|_| checksums);
        let call = self.client.complete_multipart_upload().bucket(&self.bucket).key(self.key(&upload.name));
        let call = call
            .upload_id(&upload.id)
            .multipart_upload(CompletedMultipartUpload::builder().set_parts(Some(parts)).build())
            .set_checksum_type(crc64.map(|_| ChecksumType::FullObject))
            .set_checksum_crc64_nvme(crc64.map(crc64::to_base64))
            // Also under `incoming/`: a Complete that lands after an abort must not replace the marker.
            .if_none_match("*")
            .mpu_object_size(convert::length(whole.size));
        let attempts = Attempts::watch();
        let call = call.customize().config_override(self.slow_call()).interceptor(attempts.clone());
        call.send().await.map(drop).map_err(|error| attempts.classify("CompleteMultipartUpload", error))
    }

    /// After an answer that leaves the effect open: success if the object is there as it was sent, else that answer.
    ///
    /// A retry whose first answer was lost finds its own object (412) or its upload gone (404). If there is no answer to this
    /// check either, the error says so.
    async fn look(&self, name: &ObjectName, whole: ObjectDigest, error: StoreError) -> Result<Box<ObjectInfo>> {
        let is_answer = matches!(error, StoreError::Precondition | StoreError::NoSuchUpload);
        match self.head(name).await {
            Ok(found) if found.size == whole.size && agree(found.known_crc64(), whole.crc64) => Ok(Box::new(found)),
            Err(silence) if is_outcome_unknown(&silence) && !is_answer => Err(StoreError::Unreachable(Box::new(error))),
            _ => Err(error),
        }
    }
}

fn header(response: &HttpResponse, name: &str) -> Option<String> {
    response.headers().get(name).map(str::to_owned)
}

/// Whether two checksums are the same, as far as both are known.
fn agree(one: Option<u64>, other: Option<u64>) -> bool {
    one.zip(other).is_none_or(|(one, other)| one == other)
}

/// The first `limit` bytes of a body: a store may send the whole object in spite of the range.
async fn read_at_most(mut body: ByteStream, limit: usize) -> Result<Bytes> {
    let mut read = BytesMut::new();
    while read.len() < limit {
        match body.next().await {
            Some(Ok(bytes)) => read.extend_from_slice(&bytes),
            Some(Err(error)) => {
                return Err(StoreError::OutcomeUnknown { operation: "GetObject", source: error.into() });
            }
            None => break,
        }
    }
    read.truncate(limit);
    Ok(read.freeze())
}

/// The chunks of a body. Each has to arrive within `timeout`, because the SDK's timeouts end with the headers.
fn chunks(body: ByteStream, timeout: Duration) -> BoxStream<'static, Result<Bytes>> {
    let read = move |mut body: ByteStream| async move {
        let next = tokio::time::timeout(timeout, body.next()).await;
        let lost = |source| StoreError::OutcomeUnknown { operation: "GetObject", source };
        let next = next.map_err(|late| lost(late.into()))?;
        next.transpose().map(|bytes| bytes.map(|bytes| (bytes, body))).map_err(|error| lost(error.into()))
    };
    futures::stream::try_unfold(body, read).boxed()
}

#[async_trait]
impl Store for S3Store {
    async fn put(&self, name: &ObjectName, metadata: &Metadata, body: Payload) -> Result<Written> {
        let whole = ObjectDigest { size: body.len, crc64: Some(body.crc64) };
        match self.send_put(name, metadata, &body).await {
            Err(error) if is_outcome_unknown(&error) => self.look(name, whole, error).await.map(Written::Found),
            done => done.map(|()| Written::Now),
        }
    }

    async fn create_upload(&self, name: &ObjectName, metadata: &Metadata) -> Result<Upload> {
        self.send_create(name, metadata).await.map(|created| created.upload)
    }

    async fn create_only_upload(&self, name: &ObjectName, metadata: &Metadata) -> Result<CreatedUpload> {
        self.send_create(name, metadata).await
    }

    async fn upload_part(&self, upload: &Upload, number: u32, body: Payload) -> Result<Part> {
        let call = self.part_call(upload, number, &body);
        let (etag, taken) = match self.send_first(&call, &body).await? {
            Sent::Accepted(response) => (header(&response, "etag"), header(&response, CHECKSUM)),
            Sent::Unfinished(rest) => {
                let part = self.client.upload_part().bucket(&self.bucket).key(self.key(&upload.name));
                let part = part.upload_id(&upload.id).part_number(convert::part_number(number));
                let part = part.body(body::retryable(&body)).customize().disable_payload_signing();
                let sent = call.complete(part.config_override(*rest)).send().await;
                let sent = sent.map_err(|error| of_upload(classify("UploadPart", error)))?;
                (sent.e_tag, sent.checksum_crc64_nvme)
            }
        };
        // What S3 says it took, where it says so: the review compares it with what was sent.
        let taken = taken.as_deref().and_then(crc64::from_base64);
        Ok(Part { number, size: body.len, etag, crc64: taken.or(Some(body.crc64)) })
    }

    async fn complete_upload(&self, upload: &Upload, parts: &[Part], whole: ObjectDigest) -> Result<Written> {
        match self.send_complete(upload, parts, whole).await {
            Err(error) if is_outcome_unknown(&error) => {
                let over = matches!(error, StoreError::NoSuchUpload);
                let found = self.look(&upload.name, whole, error).await?;
                // The object may be another upload's, and this one still open. An upload that made it is gone.
                if !over && let Err(error) = self.abort_upload(upload).await {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(s3_key = %upload.name.key(), error, "an upload that was not needed is left to the sweep");
                }
                Ok(Written::Found(found))
            }
            done => done.map(|()| Written::Now).map_err(of_upload),
        }
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<()> {
        self.abort(&self.key(&upload.name), &upload.id).await
    }

    async fn list_parts(&self, upload: &Upload) -> Result<Vec<Part>> {
        let call = self.client.list_parts().bucket(&self.bucket).key(self.key(&upload.name)).upload_id(&upload.id);
        let mut listed = call.into_paginator().items().send();
        let mut parts = Vec::new();
        while let Some(part) = listed.next().await {
            let part = part.map_err(|error| of_upload(classify("ListParts", error)))?;
            parts.push(convert::listed_part(&part));
        }
        parts.sort_by_key(|part| part.number);
        Ok(parts)
    }

    async fn head(&self, name: &ObjectName) -> Result<ObjectInfo> {
        let call = self.client.head_object().bucket(&self.bucket).key(self.key(name));
        let head = call.checksum_mode(ChecksumMode::Enabled).send().await;
        Ok(convert::object_info(&head.map_err(|error| classify("HeadObject", error))?))
    }

    async fn images_of(&self, id: Uuid) -> Result<Vec<ImageKey>> {
        self.list_images_of(id).await
    }

    /// AWS does, and so does the embedded store. Nothing is known of another one.
    fn honours_if_none_match(&self) -> bool {
        self.is_aws() || self.mount.is_some()
    }

    async fn read(&self, name: &ObjectName, range: Range<u64>, etag: &str) -> Result<Bytes> {
        let Some(last) = range.end.checked_sub(1).filter(|last| *last >= range.start) else {
            return Ok(Bytes::new());
        };
        let limit = usize::try_from(range.end - range.start).map_err(|error| rejected("GetObject", error))?;
        let call = self.client.get_object().bucket(&self.bucket).key(self.key(name)).if_match(etag);
        let body = match call.range(format!("bytes={}-{last}", range.start)).send().await {
            // For stores that ignore the condition.
            Ok(object) if object.e_tag.as_deref().is_some_and(|now| now != etag) => {
                return Err(StoreError::Precondition);
            }
            Ok(object) => object.body,
            Err(error) => match classify("GetObject", error) {
                // The object ends before the range begins.
                StoreError::Rejected { code, .. } if code == "InvalidRange" || code == "416" => return Ok(Bytes::new()),
                error => return Err(error),
            },
        };
        // The SDK's timeouts end with the headers.
        let read = tokio::time::timeout(self.attempt_timeout, read_at_most(body, limit)).await;
        read.unwrap_or_else(|late| Err(StoreError::OutcomeUnknown { operation: "GetObject", source: late.into() }))
    }

    async fn stream(&self, name: &ObjectName, etag: &str) -> Result<BoxStream<'static, Result<Bytes>>> {
        let call = self.client.get_object().bucket(&self.bucket).key(self.key(name)).if_match(etag);
        let object = call.send().await.map_err(|error| classify("GetObject", error))?;
        if object.e_tag.as_deref().is_some_and(|now| now != etag) {
            return Err(StoreError::Precondition);
        }
        Ok(chunks(object.body, self.attempt_timeout))
    }

    async fn copy_part(&self, upload: &Upload, from: &ObjectName, source: &ObjectInfo) -> Result<Part> {
        self.copy_whole(upload, from, source).await
    }

    async fn list_kept(&self, key: &ImageKey, id: Uuid) -> Result<Vec<Kept>> {
        self.list_kept_of(key, id).await
    }

    async fn put_kept(&self, name: &ObjectName, body: Payload, crc64_before: Option<u64>) -> Result<()> {
        self.put_object(&self.kept_call(name, &body, crc64_before), &body, |rest| rest).await
    }

    async fn read_kept(&self, name: &ObjectName) -> Result<KeptBytes> {
        let call = self.client.get_object().bucket(&self.bucket).key(self.key(name));
        let object = call.send().await.map_err(|error| classify("GetObject", error))?;
        let (crc64, crc64_before) = convert::kept_crc64(object.metadata.as_ref());
        Ok(KeptBytes { crc64, crc64_before, bytes: chunks(object.body, self.attempt_timeout) })
    }

    async fn uploads_of(&self, name: &ObjectName) -> Result<Vec<Upload>> {
        let key = self.key(name);
        let found = self.multipart_uploads(&key).await?;
        let ours = found.into_iter().filter(|upload| upload.key() == Some(&*key));
        Ok(ours.filter_map(|upload| Some(Upload { name: name.clone(), id: upload.upload_id? })).collect())
    }

    async fn put_marker(&self, name: &ObjectName, marker: &Marker, replaces: Option<&str>) -> Result<()> {
        self.close_address(name, marker, replaces).await
    }

    async fn delete(&self, name: &ObjectName) -> Result<()> {
        self.delete_key(&self.key(name)).await
    }

    async fn ping(&self) -> Result<()> {
        let sent = self.client.head_bucket().bucket(&self.bucket).send().await;
        match sent.map(drop).map_err(|error| classify("HeadBucket", error)) {
            // Without a body HEAD cannot name the bucket as what is missing.
            Err(StoreError::NotFound) => Err(rejected("HeadBucket", "there is no such bucket")),
            answer => answer,
        }
    }

    async fn unfinished_uploads(&self) -> Result<Vec<Leftover>> {
        self.list_unfinished_uploads().await
    }

    async fn unverified_objects(&self) -> Result<Vec<Leftover>> {
        self.list_unverified_objects().await
    }

    async fn remove_leftover(&self, leftover: &Leftover) -> Result<()> {
        self.drop_leftover(leftover).await
    }

    async fn presign_get(&self, name: &ObjectName, options: &PresignOptions) -> Result<Presigned> {
        self.get_url(name, options).await
    }

    async fn presign_put(
        &self,
        name: &ObjectName,
        conditions: &PutConditions,
        options: &PresignOptions,
    ) -> Result<Presigned> {
        self.put_url(name, conditions, options).await
    }

    async fn presign_part(
        &self,
        upload: &Upload,
        number: u32,
        size: Option<u64>,
        options: &PresignOptions,
    ) -> Result<Presigned> {
        self.part_url(upload, number, size, options).await
    }
}
