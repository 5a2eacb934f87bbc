//! A store that measures its calls and limits the number of concurrent calls.

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use metrics::{Gauge, Histogram};
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;
use strum::{EnumCount, IntoStaticStr, VariantArray};
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::{
    CreatedUpload, ImageKey, Kept, KeptBytes, Leftover, Marker, Metadata, ObjectDigest, ObjectInfo, ObjectName, Part,
    Payload, PresignOptions, Presigned, PutConditions, Result, Store, StoreError, Upload, Written,
};
use crate::telemetry::metrics::{GaugeGuard, Metrics, defs};
use crate::telemetry::span;

/// The S3 operation as which a call is counted.
#[derive(Clone, Copy, EnumCount, IntoStaticStr, VariantArray)]
enum Operation {
    PutObject,
    CreateMultipartUpload,
    UploadPart,
    CompleteMultipartUpload,
    AbortMultipartUpload,
    ListMultipartUploads,
    ListParts,
    ListObjectsV2,
    HeadObject,
    GetObject,
    UploadPartCopy,
    DeleteObject,
    HeadBucket,
}

/// Measures every call to the inner store. Presigning is not measured because it sends no request, and sweeping is not
/// measured because the metrics of a sweep are not scraped.
pub struct MeteredStore {
    inner: Arc<dyn Store>,
    metrics: Metrics,
    /// Histograms of successful calls by operation. They are kept here because most calls succeed.
    ok: [Histogram; Operation::COUNT],
    in_flight: Gauge,
    /// Limits the number of concurrent calls.
    calls: Semaphore,
}

impl MeteredStore {
    /// Limits the concurrent calls to `max_calls`, because each is a connection to the store.
    ///
    /// There is no deadlock: no call waits for a permit while it holds one, and every call ends by its timeout.
    pub fn new(inner: Arc<dyn Store>, metrics: &Metrics, max_calls: usize) -> Self {
        let ok = |operation: Operation| metrics.histogram(&defs::CALL_DURATION, &[operation.into(), OK]);
        MeteredStore {
            inner,
            ok: std::array::from_fn(|index| ok(Operation::VARIANTS[index])),
            in_flight: metrics.gauge(&defs::PARTS_IN_FLIGHT, &[]),
            metrics: metrics.clone(),
            calls: Semaphore::new(max_calls.clamp(1, Semaphore::MAX_PERMITS)),
        }
    }

    async fn measure<T>(&self, operation: Operation, call: impl Future<Output = Result<T>>) -> Result<T> {
        // The semaphore is never closed.
        let _permit = self.calls.acquire().await.ok();
        let mut running = Running { metered: self, operation, began: Instant::now(), outcome: CANCELLED };
        let done = call.await;
        running.outcome = done.as_ref().map_or_else(outcome, |_| OK);
        done
    }

    fn part_in_flight(&self) -> GaugeGuard {
        GaugeGuard::new(self.in_flight.clone())
    }
}

const OK: &str = "ok";
/// The outcome of a call whose future was dropped. Whether it took effect is unknown.
const CANCELLED: &str = "cancelled";

fn outcome(error: &StoreError) -> &'static str {
    match error {
        StoreError::NotFound => "not_found",
        StoreError::NoSuchUpload => "no_such_upload",
        StoreError::Precondition => "precondition",
        StoreError::OutcomeUnknown { .. } | StoreError::Unreachable(_) => "no_answer",
        StoreError::Rejected { .. } => "refused",
        StoreError::IntegrityMismatch(_) => "differs",
    }
}

/// A call in progress.
struct Running<'a> {
    metered: &'a MeteredStore,
    operation: Operation,
    began: Instant,
    outcome: &'static str,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let Running { metered, operation, began, outcome } = self;
        let took = began.elapsed();
        span::record_call((*operation).into(), outcome, took);
        match *outcome {
            OK => metered.ok[*operation as usize].record(took),
            other => metered.metrics.histogram(&defs::CALL_DURATION, &[(*operation).into(), other]).record(took),
        }
    }
}

#[async_trait]
impl Store for MeteredStore {
    async fn put(&self, name: &ObjectName, metadata: &Metadata, body: Payload) -> Result<Written> {
        let _in_flight = self.part_in_flight();
        self.measure(Operation::PutObject, self.inner.put(name, metadata, body)).await
    }

    async fn create_upload(&self, name: &ObjectName, metadata: &Metadata) -> Result<Upload> {
        self.measure(Operation::CreateMultipartUpload, self.inner.create_upload(name, metadata)).await
    }

    async fn create_only_upload(&self, name: &ObjectName, metadata: &Metadata) -> Result<CreatedUpload> {
        self.measure(Operation::CreateMultipartUpload, self.inner.create_only_upload(name, metadata)).await
    }

    async fn upload_part(&self, upload: &Upload, number: u32, body: Payload) -> Result<Part> {
        let _in_flight = self.part_in_flight();
        self.measure(Operation::UploadPart, self.inner.upload_part(upload, number, body)).await
    }

    async fn complete_upload(&self, upload: &Upload, parts: &[Part], whole: ObjectDigest) -> Result<Written> {
        self.measure(Operation::CompleteMultipartUpload, self.inner.complete_upload(upload, parts, whole)).await
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<()> {
        self.measure(Operation::AbortMultipartUpload, self.inner.abort_upload(upload)).await
    }

    async fn list_parts(&self, upload: &Upload) -> Result<Vec<Part>> {
        self.measure(Operation::ListParts, self.inner.list_parts(upload)).await
    }

    async fn head(&self, name: &ObjectName) -> Result<ObjectInfo> {
        self.measure(Operation::HeadObject, self.inner.head(name)).await
    }

    async fn images_of(&self, id: Uuid) -> Result<Vec<ImageKey>> {
        self.measure(Operation::ListObjectsV2, self.inner.images_of(id)).await
    }

    fn honours_if_none_match(&self) -> bool {
        self.inner.honours_if_none_match()
    }

    async fn read(&self, name: &ObjectName, range: Range<u64>, etag: &str) -> Result<Bytes> {
        self.measure(Operation::GetObject, self.inner.read(name, range, etag)).await
    }

    async fn stream(&self, name: &ObjectName, etag: &str) -> Result<BoxStream<'static, Result<Bytes>>> {
        self.measure(Operation::GetObject, self.inner.stream(name, etag)).await
    }

    async fn copy_part(&self, upload: &Upload, from: &ObjectName, source: &ObjectInfo) -> Result<Part> {
        self.measure(Operation::UploadPartCopy, self.inner.copy_part(upload, from, source)).await
    }

    async fn list_kept(&self, key: &ImageKey, id: Uuid) -> Result<Vec<Kept>> {
        self.measure(Operation::ListObjectsV2, self.inner.list_kept(key, id)).await
    }

    async fn put_kept(&self, name: &ObjectName, body: Payload, crc64_before: Option<u64>) -> Result<()> {
        let _in_flight = self.part_in_flight();
        self.measure(Operation::PutObject, self.inner.put_kept(name, body, crc64_before)).await
    }

    async fn read_kept(&self, name: &ObjectName) -> Result<KeptBytes> {
        self.measure(Operation::GetObject, self.inner.read_kept(name)).await
    }

    async fn uploads_of(&self, name: &ObjectName) -> Result<Vec<Upload>> {
        self.measure(Operation::ListMultipartUploads, self.inner.uploads_of(name)).await
    }

    async fn put_marker(&self, name: &ObjectName, marker: &Marker, replaces: Option<&str>) -> Result<()> {
        self.measure(Operation::PutObject, self.inner.put_marker(name, marker, replaces)).await
    }

    async fn delete(&self, name: &ObjectName) -> Result<()> {
        self.measure(Operation::DeleteObject, self.inner.delete(name)).await
    }

    async fn ping(&self) -> Result<()> {
        self.measure(Operation::HeadBucket, self.inner.ping()).await
    }

    async fn unfinished_uploads(&self) -> Result<Vec<Leftover>> {
        self.inner.unfinished_uploads().await
    }

    async fn unverified_objects(&self) -> Result<Vec<Leftover>> {
        self.inner.unverified_objects().await
    }

    async fn remove_leftover(&self, leftover: &Leftover) -> Result<()> {
        self.inner.remove_leftover(leftover).await
    }

    async fn presign_get(&self, name: &ObjectName, options: &PresignOptions) -> Result<Presigned> {
        self.inner.presign_get(name, options).await
    }

    async fn presign_put(
        &self,
        name: &ObjectName,
        conditions: &PutConditions,
        options: &PresignOptions,
    ) -> Result<Presigned> {
        self.inner.presign_put(name, conditions, options).await
    }

    async fn presign_part(
        &self,
        upload: &Upload,
        number: u32,
        size: Option<u64>,
        options: &PresignOptions,
    ) -> Result<Presigned> {
        self.inner.presign_part(upload, number, size, options).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use crate::commands::backend::Backend;
    use crate::config::Config;
    use clap::Parser;
    use futures::FutureExt;
    use std::cell::Cell;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn number_of_concurrent_calls_is_limited() {
        let config = Config::new(&Cli::parse_from(["image-store", "--s3-bucket=b"]).settings).unwrap();
        let store = Backend::open(&config).await.unwrap().store;
        let (metered, begun) = (MeteredStore::new(store, &Metrics::new(), 2), Cell::new(0));
        let call = || {
            let (end, ended) = oneshot::channel::<()>();
            let work = async {
                begun.set(begun.get() + 1);
                Ok(ended.await.is_ok())
            };
            (end, Box::pin(metered.measure(Operation::HeadObject, work)))
        };
        let (mut calls, mut ends) = (Vec::new(), Vec::new());
        for _ in 0..4 {
            let (end, call) = call();
            ends.push(end);
            calls.push(call);
        }
        assert!(calls.iter_mut().all(|call| call.now_or_never().is_none()));
        assert_eq!(begun.get(), 2);
        drop(ends.remove(0));
        calls.remove(0).await.unwrap();
        assert!(calls.iter_mut().all(|call| call.now_or_never().is_none()));
        assert_eq!(begun.get(), 3);
        // Dropping a call releases its permit too.
        drop(calls.remove(0));
        assert!(calls.iter_mut().all(|call| call.now_or_never().is_none()));
        assert_eq!(begun.get(), 4);
    }
}
