//! Tests with many effects, an in-memory store and a paused clock.

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use std::collections::HashSet;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::runtime::Handle;

use super::*;
use crate::store::{CustomMetadata, StoreError};
use crate::store::{
    ImageKey, Kept, KeptBytes, Leftover, Marker, ObjectDigest, ObjectInfo, Part, Payload, PresignOptions, Presigned,
    PutConditions, Written,
};
use uuid::Uuid;

/// A store with objects that appeared late.
#[derive(Default)]
struct Objects {
    existing: Mutex<HashSet<ObjectName>>,
    heads: AtomicUsize,
    /// The number of concurrent checks, and its maximum.
    looks: AtomicUsize,
    most_looks: AtomicUsize,
}

impl Objects {
    fn existing(&self) -> MutexGuard<'_, HashSet<ObjectName>> {
        self.existing.lock()
    }
}

#[async_trait]
impl Store for Objects {
    async fn head(&self, name: &ObjectName) -> Result<ObjectInfo> {
        self.heads.fetch_add(1, Ordering::Relaxed);
        let looks = self.looks.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_looks.fetch_max(looks, Ordering::Relaxed);
        tokio::task::yield_now().await;
        self.looks.fetch_sub(1, Ordering::Relaxed);
        let (etag, content_type, marker) = (None, None, None);
        let found = ObjectInfo {
            size: 1,
            etag,
            content_type,
            dimensions: None,
            crc64: None,
            sha256: None,
            last_modified: None,
            noted_crc64: None,
            custom: CustomMetadata::new(),
            resumable: None,
            marker,
        };
        if self.existing().contains(name) { Ok(found) } else { Err(StoreError::NotFound) }
    }

    async fn delete(&self, name: &ObjectName) -> Result<()> {
        self.existing().remove(name);
        Ok(())
    }

    async fn put(&self, _: &ObjectName, _: &Metadata, _: Payload) -> Result<Written> {
        unreachable!()
    }

    async fn create_upload(&self, _: &ObjectName, _: &Metadata) -> Result<Upload> {
        unreachable!()
    }

    async fn upload_part(&self, _: &Upload, _: u32, _: Payload) -> Result<Part> {
        unreachable!()
    }

    async fn images_of(&self, _: Uuid) -> Result<Vec<ImageKey>> {
        unreachable!()
    }

    fn honours_if_none_match(&self) -> bool {
        true
    }

    async fn complete_upload(&self, _: &Upload, _: &[Part], _: ObjectDigest) -> Result<Written> {
        unreachable!()
    }

    async fn abort_upload(&self, _: &Upload) -> Result<()> {
        unreachable!()
    }

    async fn list_parts(&self, _: &Upload) -> Result<Vec<Part>> {
        unreachable!()
    }

    async fn read(&self, _: &ObjectName, _: Range<u64>, _: &str) -> Result<Bytes> {
        unreachable!()
    }

    async fn stream(&self, _: &ObjectName, _: &str) -> Result<BoxStream<'static, Result<Bytes>>> {
        unreachable!()
    }

    async fn copy_part(&self, _: &Upload, _: &ObjectName, _: &ObjectInfo) -> Result<Part> {
        unreachable!()
    }

    async fn list_kept(&self, _: &ImageKey, _: Uuid) -> Result<Vec<Kept>> {
        unreachable!()
    }

    async fn put_kept(&self, _: &ObjectName, _: Payload, _: Option<u64>) -> Result<()> {
        unreachable!()
    }

    async fn read_kept(&self, _: &ObjectName) -> Result<KeptBytes> {
        unreachable!()
    }

    async fn uploads_of(&self, _: &ObjectName) -> Result<Vec<Upload>> {
        unreachable!()
    }

    async fn put_marker(&self, _: &ObjectName, _: &Marker, _: Option<&str>) -> Result<()> {
        unreachable!()
    }

    async fn ping(&self) -> Result<()> {
        unreachable!()
    }

    async fn unfinished_uploads(&self) -> Result<Vec<Leftover>> {
        unreachable!()
    }

    async fn unverified_objects(&self) -> Result<Vec<Leftover>> {
        unreachable!()
    }

    async fn remove_leftover(&self, _: &Leftover) -> Result<()> {
        unreachable!()
    }

    async fn presign_get(&self, _: &ObjectName, _: &PresignOptions) -> Result<Presigned> {
        unreachable!()
    }

    async fn presign_put(&self, _: &ObjectName, _: &PutConditions, _: &PresignOptions) -> Result<Presigned> {
        unreachable!()
    }

    async fn presign_part(&self, _: &Upload, _: u32, _: u64, _: &PresignOptions) -> Result<Presigned> {
        unreachable!()
    }
}

fn image() -> ObjectName {
    ObjectName::Image(ImageKey::random("png"))
}

fn reconciler() -> (Arc<Objects>, Reconciler) {
    let objects = Arc::new(Objects::default());
    (Arc::clone(&objects), Reconciler::new(objects))
}

#[tokio::test(start_paused = true)]
async fn one_task_undoes_a_hundred_thousand_effects() {
    let (objects, reconciler) = reconciler();
    let names: Vec<ObjectName> = (0..MAX_WATCHED).map(|_| image()).collect();
    for name in &names {
        reconciler.watch(LateEffect::Object(name.clone()));
    }
    assert_eq!(Handle::current().metrics().num_alive_tasks(), 1);
    // One more than the maximum.
    reconciler.watch(LateEffect::Object(image()));

    tokio::time::sleep(FIRST_DELAY * 3 / 2).await;
    assert_eq!(objects.heads.load(Ordering::Relaxed), MAX_WATCHED, "each is checked once");
    objects.existing().extend(names);
    tokio::time::sleep(FIRST_DELAY * 2).await;
    assert_eq!(objects.existing().len(), 0, "objects that have appeared since are deleted by the second check");
    assert_eq!(objects.most_looks.load(Ordering::Relaxed), CONCURRENT_CHECKS);
    assert_eq!(Handle::current().metrics().num_alive_tasks(), 1);

    let before = objects.heads.load(Ordering::Relaxed);
    reconciler.conclude().await;
    assert_eq!(objects.heads.load(Ordering::Relaxed), before + MAX_WATCHED, "each is checked once more");
    tokio::task::yield_now().await;
    assert_eq!(Handle::current().metrics().num_alive_tasks(), 0);
}

#[tokio::test(start_paused = true)]
async fn effects_are_watched_for_17_minutes() {
    let (objects, reconciler) = reconciler();
    reconciler.watch(LateEffect::Object(image()));
    tokio::time::sleep(Duration::from_secs(16 * 60)).await;
    assert_eq!(objects.heads.load(Ordering::Relaxed), MAX_CHECKS as usize - 1);
    tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
    assert_eq!(objects.heads.load(Ordering::Relaxed), MAX_CHECKS as usize);
}

#[test]
fn full_queue_is_logged_once_a_minute() {
    let (mut queue, start) = (Queue::default(), Instant::now());
    let mut add = |at: u64| {
        let now = start + Duration::from_secs(at);
        queue.add(Watched::new(LateEffect::Object(image()), FIRST_DELAY, now), now).err().map(|full| full.unwatched)
    };
    assert!((0..MAX_WATCHED).all(|_| add(0).is_none()));
    assert_eq!([0, 1, 59, 60, 61].map(&mut add), [Some(Some(1)), Some(None), Some(None), Some(Some(3)), Some(None)]);
}
