//! An in-memory S3 that behaves as AWS documents, over real HTTP and with SigV4. It rejects everything that AWS
//! rejects.
//!
//! Lists return two entries a page, so that every reader of a list must request further pages.

use crc_fast::{CrcAlgorithm, Digest};
use futures::TryStreamExt;
use image_store::store::s3::{Checksum, S3Options};
use s3s::auth::SimpleAuth;
use s3s::dto::*;
use s3s::service::S3ServiceBuilder;
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};
use tokio::sync::watch;

use super::{Server, serve};

const BUCKET: &str = "strict";
const KEYS: (&str, &str) = ("STRICTACCESSKEY", "strict-secret-key");
const SMALLEST_PART: usize = 5 * 1024 * 1024;
const PAGE: usize = 2;

/// Differences of other stores from AWS. Each was observed on a real store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Quirk {
    /// Ceph RGW ignores `x-amz-copy-source-if-match` and reads `x-amz-copy-if-match`.
    CephCopyCondition,
    /// moto ignores the condition of a copy under either name.
    NoCopyCondition,
    /// Garage does not copy sources under 5 MiB as a part.
    NoSmallCopies,
    /// Ceph RGW answers ListParts of an upload that is over with NoSuchKey.
    ListPartsNoSuchKey,
    /// Ceph RGW and moto neither check nor keep a SHA-256 that was signed into a presigned PUT.
    NoSha256,
    /// Garage ignores If-Match on Put.
    NoIfMatch,
    /// Garage ignores If-None-Match on Put and on Complete.
    NoIfNoneMatch,
    /// moto keeps no CRC64NVME of a multipart upload, older stores none at all.
    NoCrc64,
    /// SeaweedFS lists no parts of an upload while it processes a Complete whose object already exists. Here that lasts
    /// until [`Strict::answer_completes`] is called.
    PartsHiddenByComplete,
    /// With SSE-KMS, ETags are not MD5s, so a part never has the ETag of its source.
    OpaqueEtags,
}

/// The running S3.
pub struct Strict {
    pub endpoint: String,
    bucket: Bucket,
    _server: Server,
}

/// An object, as the tests see it.
#[derive(Clone)]
pub struct Stored {
    pub bytes: Vec<u8>,
    pub content_type: Option<String>,
    pub metadata: HashMap<String, String>,
    pub etag: String,
    pub sha256: Option<String>,
    modified: SystemTime,
}

#[derive(Clone, Default)]
struct Bucket(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Stored>,
    uploads: BTreeMap<String, Unfinished>,
    /// The keys and ETags of completed uploads, so that a second Complete succeeds.
    completed: HashMap<String, (String, String)>,
    calls: HashMap<&'static str, usize>,
    serial: usize,
    quirks: HashSet<Quirk>,
    /// The IDs of uploads whose Complete is held.
    completing: HashSet<String>,
    completes_answered: watch::Sender<bool>,
}

#[derive(Clone)]
struct Unfinished {
    key: String,
    content_type: Option<String>,
    metadata: HashMap<String, String>,
    /// Whether it was created with CRC64NVME over the full object.
    checksum: bool,
    initiated: SystemTime,
    parts: BTreeMap<i32, PartData>,
}

#[derive(Clone)]
struct PartData {
    bytes: Vec<u8>,
    etag: String,
}

impl Strict {
    pub async fn start() -> Strict {
        let bucket = Bucket::default();
        let mut builder = S3ServiceBuilder::new(bucket.clone());
        builder.set_auth(SimpleAuth::from_single(KEYS.0, KEYS.1));
        let server = serve(builder.build()).await;
        Strict { endpoint: server.endpoint.clone(), bucket, _server: server }
    }

    pub fn options(&self, prefix: &str) -> S3Options {
        S3Options {
            bucket: BUCKET.to_owned(),
            prefix: prefix.to_owned(),
            endpoint: Some(self.endpoint.clone()),
            public_endpoint: None,
            credentials: Some((KEYS.0.to_owned(), KEYS.1.to_owned())),
            region: Some("us-east-1".to_owned()),
            force_path_style: true,
            checksum: Checksum::Crc64Nvme,
            sse: None,
            attempt_timeout: Duration::from_secs(20),
            http_client: None,
            mount: None,
        }
    }

    /// Enables a quirk.
    pub fn take_up(&self, quirk: Quirk) {
        self.bucket.state().quirks.insert(quirk);
    }

    /// Ends the effect of [`Quirk::PartsHiddenByComplete`].
    pub fn answer_completes(&self) {
        self.bucket.state().completes_answered.send_replace(true);
    }

    /// Returns the keys of all objects, in order.
    pub fn objects(&self) -> Vec<String> {
        self.bucket.state().objects.keys().cloned().collect()
    }

    pub fn object(&self, key: &str) -> Option<Stored> {
        self.bucket.state().objects.get(key).cloned()
    }

    /// Returns the keys of all unfinished uploads.
    pub fn open_uploads(&self) -> Vec<String> {
        self.bucket.state().uploads.values().map(|upload| upload.key.clone()).collect()
    }

    /// Returns how many calls of an operation (`PutObject`, `UploadPart`, …) passed the signature check.
    pub fn calls(&self, operation: &str) -> usize {
        self.bucket.state().calls.get(operation).copied().unwrap_or_default()
    }
}

impl Bucket {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Counts a call. Returns the state if the call is for the only bucket.
    fn called(&self, operation: &'static str, bucket: &str) -> S3Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        *state.calls.entry(operation).or_default() += 1;
        if bucket == BUCKET { Ok(state) } else { Err(s3_error!(NoSuchBucket)) }
    }

    /// Returns the object's ETag, and the signal that the answer must wait for.
    fn complete(&self, input: &CompleteMultipartUploadInput) -> S3Result<(String, Option<watch::Receiver<bool>>)> {
        let mut state = self.called("CompleteMultipartUpload", &input.bucket)?;
        state.check_new(&input.key, only_new(input.if_none_match.as_ref()))?;
        let etag = match state.completed.get(&input.upload_id).filter(|(key, _)| *key == input.key) {
            Some((_, etag)) => etag.clone(),
            None => complete(&mut state, input)?,
        };
        let hidden = state.has(Quirk::PartsHiddenByComplete);
        if hidden {
            state.completing.insert(input.upload_id.clone());
        }
        Ok((etag, hidden.then(|| state.completes_answered.subscribe())))
    }
}

impl State {
    fn has(&self, quirk: Quirk) -> bool {
        self.quirks.contains(&quirk)
    }

    /// Returns the ETag of an object or a part that arrived in one piece: its MD5.
    fn etag(&mut self, bytes: &[u8]) -> String {
        if self.has(Quirk::OpaqueEtags) { self.unique() } else { md5(bytes) }
    }

    /// Returns a text that was never returned before.
    fn unique(&mut self) -> String {
        self.serial += 1;
        format!("{:032x}", self.serial)
    }

    fn check_match(&self, key: &str, condition: Option<&ETagCondition>) -> S3Result<()> {
        let ignored = condition.is_none() || self.has(Quirk::NoIfMatch);
        if !ignored && !matches(&self.found(key)?.etag, condition) {
            return Err(s3_error!(PreconditionFailed));
        }
        Ok(())
    }

    fn found(&self, key: &str) -> S3Result<&Stored> {
        self.objects.get(key).ok_or_else(|| s3_error!(NoSuchKey))
    }

    fn check_new(&self, key: &str, only_new: bool) -> S3Result<()> {
        if only_new && !self.has(Quirk::NoIfNoneMatch) && self.objects.contains_key(key) {
            return Err(s3_error!(PreconditionFailed, "At least one of the pre-conditions you specified did not hold"));
        }
        Ok(())
    }

    fn upload(&mut self, id: &str, key: &str) -> S3Result<&mut Unfinished> {
        let upload = self.uploads.get_mut(id).filter(|upload| upload.key == key);
        upload.ok_or_else(|| s3_error!(NoSuchUpload))
    }
}

fn md5(bytes: &[u8]) -> String {
    let digest = s3s::crypto::Checksum::finalize({
        let mut hash = s3s::crypto::Md5::default();
        s3s::crypto::Checksum::update(&mut hash, bytes);
        hash
    });
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the big-endian CRC64NVME in base64.
fn crc64(bytes: &[u8]) -> String {
    let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
    digest.update(bytes);
    base64(&digest.finalize().to_be_bytes())
}

fn sha256(bytes: &[u8]) -> String {
    base64(
        s3s::crypto::Checksum::finalize({
            let mut hash = s3s::crypto::Sha256::default();
            s3s::crypto::Checksum::update(&mut hash, bytes);
            hash
        })
        .as_ref(),
    )
}

fn base64(bytes: &[u8]) -> String {
    base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes)
}

/// Returns the whole body, if it has the announced length.
async fn read(body: Option<StreamingBlob>, length: Option<i64>) -> S3Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(mut body) = body {
        while let Some(chunk) = body.try_next().await.map_err(|_| s3_error!(IncompleteBody))? {
            bytes.extend_from_slice(&chunk);
        }
    }
    if length.is_some_and(|length| length != bytes.len() as i64) {
        return Err(s3_error!(IncompleteBody));
    }
    Ok(bytes)
}

fn check_digest(name: &str, sent: Option<&String>, is: impl FnOnce() -> String) -> S3Result<()> {
    match sent {
        Some(sent) if *sent != is() => Err(s3_error!(BadDigest, "The {} you specified did not match", name)),
        _ => Ok(()),
    }
}

fn only_new(condition: Option<&ETagCondition>) -> bool {
    condition.is_some_and(ETagCondition::is_any)
}

fn matches(etag: &str, condition: Option<&ETagCondition>) -> bool {
    condition.and_then(ETagCondition::as_etag).is_none_or(|expected| expected.value() == etag)
}

#[async_trait::async_trait]
impl S3 for Bucket {
    async fn head_bucket(&self, req: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        drop(self.called("HeadBucket", &req.input.bucket)?);
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn put_object(&self, req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let input = req.input;
        let only_new = only_new(input.if_none_match.as_ref());
        self.called("PutObject", &input.bucket)?.check_new(&input.key, only_new)?;
        let bytes = read(input.body, input.content_length).await?;
        check_digest("CRC64NVME", input.checksum_crc64nvme.as_ref(), || crc64(&bytes))?;
        let mut state = self.state();
        let sent_sha256 = input.checksum_sha256.filter(|_| !state.has(Quirk::NoSha256));
        check_digest("SHA256", sent_sha256.as_ref(), || sha256(&bytes))?;
        state.check_new(&input.key, only_new)?;
        state.check_match(&input.key, input.if_match.as_ref())?;
        let etag = state.etag(&bytes);
        let stored = Stored {
            bytes,
            content_type: input.content_type,
            metadata: input.metadata.unwrap_or_default(),
            etag: etag.clone(),
            sha256: sent_sha256,
            modified: SystemTime::now(),
        };
        state.objects.insert(input.key, stored);
        Ok(S3Response::new(PutObjectOutput { e_tag: Some(ETag::Strong(etag)), ..Default::default() }))
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let state = self.called("HeadObject", &req.input.bucket)?;
        let found = state.found(&req.input.key)?;
        let enabled = req.input.checksum_mode.is_some();
        Ok(S3Response::new(HeadObjectOutput {
            content_length: Some(found.bytes.len() as i64),
            content_type: found.content_type.clone(),
            metadata: Some(found.metadata.clone()),
            e_tag: Some(ETag::Strong(found.etag.clone())),
            last_modified: Some(found.modified.into()),
            checksum_crc64nvme: (enabled && found.sha256.is_none() && !state.has(Quirk::NoCrc64))
                .then(|| crc64(&found.bytes)),
            checksum_sha256: found.sha256.clone().filter(|_| enabled),
            ..Default::default()
        }))
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let state = self.called("GetObject", &req.input.bucket)?;
        let found = state.found(&req.input.key)?;
        if !matches(&found.etag, req.input.if_match.as_ref()) {
            return Err(s3_error!(PreconditionFailed));
        }
        let size = found.bytes.len() as u64;
        let range = req.input.range.map(|range| range.check(size)).transpose()?;
        let content_range = range.as_ref().map(|range| format!("bytes {}-{}/{size}", range.start, range.end - 1));
        let range = range.unwrap_or(0..size);
        let bytes = found.bytes[range.start as usize..range.end as usize].to_vec();
        Ok(S3Response::new(GetObjectOutput {
            content_length: Some(bytes.len() as i64),
            content_range,
            content_type: found.content_type.clone(),
            metadata: Some(found.metadata.clone()),
            e_tag: Some(ETag::Strong(found.etag.clone())),
            last_modified: Some(found.modified.into()),
            body: Some(StreamingBlob::from(s3s::Body::from(bytes))),
            ..Default::default()
        }))
    }

    async fn delete_object(&self, req: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.called("DeleteObject", &req.input.bucket)?.objects.remove(&req.input.key);
        Ok(S3Response::with_status(DeleteObjectOutput::default(), http::StatusCode::NO_CONTENT))
    }

    async fn upload_part_copy(
        &self,
        req: S3Request<UploadPartCopyInput>,
    ) -> S3Result<S3Response<UploadPartCopyOutput>> {
        let input = req.input;
        let mut state = self.called("UploadPartCopy", &input.bucket)?;
        let CopySource::Bucket { bucket, key, .. } = &input.copy_source else {
            return Err(s3_error!(NotImplemented));
        };
        if **bucket != *BUCKET {
            return Err(s3_error!(NoSuchBucket));
        }
        let source = state.found(key)?.clone();
        let ceph = req.headers.get("x-amz-copy-if-match").and_then(|value| value.to_str().ok());
        let holds = if state.has(Quirk::CephCopyCondition) {
            ceph.is_none_or(|etag| etag.trim_matches('"') == source.etag)
        } else {
            state.has(Quirk::NoCopyCondition) || matches(&source.etag, input.copy_source_if_match.as_ref())
        };
        if !holds {
            return Err(s3_error!(PreconditionFailed));
        }
        if state.has(Quirk::NoSmallCopies) && source.bytes.len() < SMALLEST_PART {
            return Err(s3_error!(EntityTooSmall, "The source of a part is too small"));
        }
        let etag = state.etag(&source.bytes);
        let checksum = crc64(&source.bytes);
        let upload = state.upload(&input.upload_id, &input.key)?;
        let checksum = upload.checksum.then_some(checksum);
        upload.parts.insert(input.part_number, PartData { bytes: source.bytes, etag: etag.clone() });
        let result =
            CopyPartResult { e_tag: Some(ETag::Strong(etag)), checksum_crc64nvme: checksum, ..Default::default() };
        Ok(S3Response::new(UploadPartCopyOutput { copy_part_result: Some(result), ..Default::default() }))
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let input = req.input;
        let mut state = self.called("CreateMultipartUpload", &input.bucket)?;
        let algorithm = input.checksum_algorithm.as_ref().map(ChecksumAlgorithm::as_str);
        if algorithm.is_some_and(|algorithm| algorithm != ChecksumAlgorithm::CRC64NVME) {
            return Err(s3_error!(NotImplemented, "The strict S3 supports only CRC64NVME"));
        }
        let kind = input.checksum_type.as_ref().map(ChecksumType::as_str);
        if kind.is_some_and(|kind| kind != ChecksumType::FULL_OBJECT || algorithm.is_none()) {
            return Err(s3_error!(InvalidRequest, "CRC64NVME requires the full object"));
        }
        let id = format!("upload-{}", state.unique());
        let upload = Unfinished {
            key: input.key.clone(),
            content_type: input.content_type,
            metadata: input.metadata.unwrap_or_default(),
            checksum: algorithm.is_some(),
            initiated: SystemTime::now(),
            parts: BTreeMap::new(),
        };
        state.uploads.insert(id.clone(), upload);
        Ok(S3Response::new(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id),
            ..Default::default()
        }))
    }

    async fn upload_part(&self, req: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        let input = req.input;
        let checksum = self.called("UploadPart", &input.bucket)?.upload(&input.upload_id, &input.key)?.checksum;
        if !(1..=10_000).contains(&input.part_number) {
            return Err(s3_error!(InvalidArgument));
        }
        if checksum != input.checksum_crc64nvme.is_some() {
            return Err(s3_error!(InvalidRequest, "Checksum Type mismatch occurred"));
        }
        let bytes = read(input.body, input.content_length).await?;
        check_digest("CRC64NVME", input.checksum_crc64nvme.as_ref(), || crc64(&bytes))?;
        let mut state = self.state();
        let etag = state.etag(&bytes);
        let part = PartData { bytes, etag: etag.clone() };
        state.upload(&input.upload_id, &input.key)?.parts.insert(input.part_number, part);
        Ok(S3Response::new(UploadPartOutput { e_tag: Some(ETag::Strong(etag)), ..Default::default() }))
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let input = req.input;
        let (etag, answered) = self.complete(&input)?;
        if let Some(mut answered) = answered {
            answered.wait_for(|answered| *answered).await.map_err(|_| s3_error!(InternalError))?;
            self.state().completing.remove(&input.upload_id);
        }
        Ok(S3Response::new(CompleteMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: Some(ETag::Strong(etag)),
            ..Default::default()
        }))
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let mut state = self.called("AbortMultipartUpload", &req.input.bucket)?;
        state.upload(&req.input.upload_id, &req.input.key)?;
        state.uploads.remove(&req.input.upload_id);
        Ok(S3Response::with_status(AbortMultipartUploadOutput::default(), http::StatusCode::NO_CONTENT))
    }

    async fn list_parts(&self, req: S3Request<ListPartsInput>) -> S3Result<S3Response<ListPartsOutput>> {
        let input = req.input;
        let mut state = self.called("ListParts", &input.bucket)?;
        let (no_such_key, no_crc64) = (state.has(Quirk::ListPartsNoSuchKey), state.has(Quirk::NoCrc64));
        if state.completing.contains(&input.upload_id) {
            let (parts, is_truncated) = (Some(Vec::new()), Some(false));
            return Ok(S3Response::new(ListPartsOutput { parts, is_truncated, ..Default::default() }));
        }
        let upload = match state.upload(&input.upload_id, &input.key) {
            Err(_) if no_such_key => return Err(s3_error!(NoSuchKey)),
            upload => upload?,
        };
        let after = input.part_number_marker.unwrap_or_default();
        let checksum = upload.checksum;
        let listed = upload.parts.range(after + 1..).map(|(number, part)| Part {
            part_number: Some(*number),
            size: Some(part.bytes.len() as i64),
            e_tag: Some(ETag::Strong(part.etag.clone())),
            checksum_crc64nvme: (checksum && !no_crc64).then(|| crc64(&part.bytes)),
            ..Default::default()
        });
        let (parts, truncated) = page(listed);
        Ok(S3Response::new(ListPartsOutput {
            is_truncated: Some(truncated),
            next_part_number_marker: parts.last().and_then(|part: &Part| part.part_number),
            parts: Some(parts),
            ..Default::default()
        }))
    }

    async fn list_multipart_uploads(
        &self,
        req: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        let input = req.input;
        let state = self.called("ListMultipartUploads", &input.bucket)?;
        let prefix = input.prefix.unwrap_or_default();
        let mut found: Vec<_> = state.uploads.iter().map(|(id, upload)| (&upload.key, id, upload.initiated)).collect();
        found.sort();
        let after = input.key_marker.map(|key| (key, input.upload_id_marker.unwrap_or_default()));
        let listed = found.into_iter().filter(|(key, id, _)| {
            key.starts_with(&prefix) && after.as_ref().is_none_or(|(after, after_id)| (*key, *id) > (after, after_id))
        });
        let (uploads, truncated) = page(listed.map(|(key, id, initiated)| MultipartUpload {
            key: Some(key.clone()),
            upload_id: Some(id.clone()),
            initiated: Some(initiated.into()),
            ..Default::default()
        }));
        let last = uploads.last().filter(|_| truncated).cloned();
        Ok(S3Response::new(ListMultipartUploadsOutput {
            is_truncated: Some(truncated),
            next_key_marker: last.as_ref().and_then(|last| last.key.clone()),
            next_upload_id_marker: last.and_then(|last| last.upload_id),
            uploads: Some(uploads),
            ..Default::default()
        }))
    }

    async fn list_objects_v2(&self, req: S3Request<ListObjectsV2Input>) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = req.input;
        let state = self.called("ListObjectsV2", &input.bucket)?;
        let prefix = input.prefix.unwrap_or_default();
        let after = input.continuation_token.unwrap_or_default();
        let found = state.objects.iter().filter(|(key, _)| key.starts_with(&prefix) && **key > after);
        let (contents, truncated) = page(found.map(|(key, stored)| Object {
            key: Some(key.clone()),
            size: Some(stored.bytes.len() as i64),
            last_modified: Some(stored.modified.into()),
            ..Default::default()
        }));
        Ok(S3Response::new(ListObjectsV2Output {
            is_truncated: Some(truncated),
            next_continuation_token: contents.last().filter(|_| truncated).and_then(|object| object.key.clone()),
            contents: Some(contents),
            ..Default::default()
        }))
    }
}

fn page<T>(listed: impl Iterator<Item = T>) -> (Vec<T>, bool) {
    let mut entries: Vec<T> = listed.take(PAGE + 1).collect();
    let truncated = entries.len() > PAGE;
    entries.truncate(PAGE);
    (entries, truncated)
}

/// Checks everything that AWS checks, and only then creates the object and removes the upload.
fn complete(state: &mut State, input: &CompleteMultipartUploadInput) -> S3Result<String> {
    let upload = state.upload(&input.upload_id, &input.key)?.clone();
    let named = input.multipart_upload.as_ref().and_then(|upload| upload.parts.as_deref()).unwrap_or_default();
    let bytes = joined(&upload, named)?;
    if input.mpu_object_size.is_some_and(|size| size != bytes.len() as i64) {
        return Err(s3_error!(InvalidRequest, "The provided 'x-amz-mp-object-size' header value does not match"));
    }
    let full = input.checksum_type.as_ref().is_none_or(|kind| kind.as_str() == ChecksumType::FULL_OBJECT);
    if !full || (input.checksum_crc64nvme.is_some() && !upload.checksum) {
        return Err(s3_error!(InvalidRequest, "The upload was created with another checksum"));
    }
    check_digest("CRC64NVME", input.checksum_crc64nvme.as_ref(), || crc64(&bytes))?;
    let etag = format!("{}-{}", state.unique(), named.len());
    let stored = Stored {
        bytes,
        content_type: upload.content_type,
        metadata: upload.metadata,
        etag: etag.clone(),
        sha256: None,
        modified: SystemTime::now(),
    };
    state.objects.insert(input.key.clone(), stored);
    state.uploads.remove(&input.upload_id);
    state.completed.insert(input.upload_id.clone(), (input.key.clone(), etag.clone()));
    Ok(etag)
}

fn joined(upload: &Unfinished, named: &[CompletedPart]) -> S3Result<Vec<u8>> {
    if named.is_empty() {
        return Err(s3_error!(MalformedXML));
    }
    let (mut bytes, mut before) = (Vec::new(), 0);
    for (index, name) in named.iter().enumerate() {
        let number = name.part_number.ok_or_else(|| s3_error!(MalformedXML))?;
        if number <= before {
            return Err(s3_error!(InvalidPartOrder));
        }
        before = number;
        let part = upload.parts.get(&number).ok_or_else(|| s3_error!(InvalidPart))?;
        if name.e_tag.as_ref().map(ETag::value) != Some(&part.etag) {
            return Err(s3_error!(InvalidPart));
        }
        if name.checksum_crc64nvme.as_ref().is_some_and(|sent| *sent != crc64(&part.bytes)) {
            return Err(s3_error!(InvalidPart));
        }
        if index + 1 < named.len() && part.bytes.len() < SMALLEST_PART {
            return Err(s3_error!(EntityTooSmall));
        }
        bytes.extend_from_slice(&part.bytes);
    }
    Ok(bytes)
}
