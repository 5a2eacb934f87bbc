//! A store whose calls are counted, timed, and so many at once and no more.

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
    CreatedUpload, ImageKey, Leftover, Marker, Metadata, ObjectDigest, ObjectInfo, ObjectName, Part, Payload,
    PresignOptions, Presigned, PutConditions, Result, Store, StoreError, Upload, Written,
};
use crate::telemetry::metrics::{GaugeGuard, Metrics, defs};

/// What a call is counted as: the S3 operation it is for.
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

/// Measures every call to the store inside. Presigning is none, and nobody scrapes a sweep.
pub struct MeteredStore {
    inner: Arc<dyn Store>,
    metrics: Metrics,
    /// Of the calls that succeeded, by operation: those are many.
    ok: [Histogram; Operation::COUNT],
    in_flight: Gauge,
    /// Calls that may still be made at once.
    calls: Semaphore,
}

impl MeteredStore {
    /// At most `max_calls` calls are made at once: each is a connection to the store. No call waits for another one's permit
    /// while it holds one, and calls end by their timeouts, so those that wait get their turn.
    pub fn new(inner: Arc<dyn Store>, metrics: &Metrics, max_calls: usize) -> Self {
        let ok = |operation: Operation| metrics.histogram(&defs::CALL_DURATION, &[operation.into(), OK]);
        MeteredStore {
            inner,
            ok: std::array::from_fn(|place| ok(Operation::VARIANTS[place])),
            in_flight: metrics.gauge(&defs::PARTS_IN_FLIGHT, &[]),
            metrics: metrics.clone(),
            calls: Semaphore::new(max_calls.clamp(1, Semaphore::MAX_PERMITS)),
        }
    }

    async fn measure<T>(&self, operation: Operation, call: impl Future<Output = Result<T>>) -> Result<T> {
        // It is never closed.
        let _permit = self.calls.acquire().await.ok();
        let mut running = Running { metered: self, operation, began: Instant::now(), outcome: DROPPED };
        let done = call.await;
        running.outcome = done.as_ref().map_or_else(outcome, |_| OK);
        done
    }

    fn part_in_flight(&self) -> GaugeGuard {
        GaugeGuard::new(self.in_flight.clone())
    }
}

const OK: &str = "ok";
/// A call whose future was dropped: its effect is unknown.
const DROPPED: &str = "dropped";

fn outcome(error: &StoreError) -> &'static str {
    match error {
        StoreError::NotFound => "not_found",
        StoreError::NoSuchUpload => "no_such_upload",
        StoreError::Precondition => "precondition",
        StoreError::OutcomeUnknown { .. } => "no_answer",
        StoreError::Rejected { .. } => "refused",
        StoreError::IntegrityMismatch(_) => "differs",
    }
}

/// A call under way.
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
        size: u64,
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
    async fn no_more_calls_are_made_at_once_than_may_be() {
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
        // A call that nobody waits for any more makes way, too.
        drop(calls.remove(0));
        assert!(calls.iter_mut().all(|call| call.now_or_never().is_none()));
        assert_eq!(begun.get(), 4);
    }
}
