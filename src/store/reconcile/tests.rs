//! Tests with many effects, an in-memory store and a paused clock.

use tokio::runtime::Handle;

use super::*;
use crate::store::CustomMetadata;
use crate::store::tests::memory::{Faults, Memory, Shared};

fn image() -> ObjectName {
    ObjectName::Image(ImageKey::random("png"))
}

fn reconciler() -> (Shared, Reconciler) {
    let objects = Shared::new(1, Faults::None);
    (objects.clone(), Reconciler::new(Arc::new(Memory::new(&objects, 0))))
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
    assert_eq!(objects.calls().heads, MAX_WATCHED, "each is checked once");
    objects.lay(names);
    tokio::time::sleep(FIRST_DELAY * 2).await;
    assert_eq!(objects.count(), 0, "objects that have appeared since are deleted by the second check");
    assert_eq!(objects.calls().most_running, CONCURRENT_CHECKS);
    assert_eq!(Handle::current().metrics().num_alive_tasks(), 1);

    let before = objects.calls().heads;
    reconciler.conclude().await;
    assert_eq!(objects.calls().heads, before + MAX_WATCHED, "each is checked once more");
    tokio::task::yield_now().await;
    assert_eq!(Handle::current().metrics().num_alive_tasks(), 0);
}

#[tokio::test(start_paused = true)]
async fn effects_are_watched_for_17_minutes() {
    let (objects, reconciler) = reconciler();
    reconciler.watch(LateEffect::Object(image()));
    tokio::time::sleep(Duration::from_secs(16 * 60)).await;
    assert_eq!(objects.calls().heads, MAX_CHECKS as usize - 1);
    tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
    assert_eq!(objects.calls().heads, MAX_CHECKS as usize);
}

/// An upload with parts under the same key is another client's.
#[tokio::test(start_paused = true)]
async fn only_empty_uploads_of_a_promotion_are_aborted() {
    let (objects, reconciler) = reconciler();
    let (store, name) = (Memory::new(&objects, 0), image());
    objects.lay_parts(&name, b"streamed by another client", None);
    store.create_upload(&name, &Metadata::unverified("image/png", CustomMetadata::new())).await.unwrap();
    assert_eq!(objects.open_uploads(&name), 2);
    reconciler.watch(LateEffect::Promotions(name.key().clone()));
    reconciler.conclude().await;
    let left = store.uploads_of(&name).await.unwrap();
    assert_eq!(left.iter().map(|upload| &*upload.id).collect::<Vec<_>>(), ["plan0"]);
}

/// Another process is promoting the object while this one stops: its upload, which is empty yet, is not aborted, and those
/// of this process are aborted as soon as the image exists.
#[tokio::test(start_paused = true)]
async fn last_check_waits_for_the_promotion_of_another_process() {
    let (objects, reconciler) = reconciler();
    let (store, name) = (Memory::new(&objects, 0), image());
    objects.lay([ObjectName::Incoming(name.key().clone())]);
    store.create_upload(&name, &Metadata::unverified("image/png", CustomMetadata::new())).await.unwrap();
    reconciler.watch(LateEffect::Promotions(name.key().clone()));
    let began = Instant::now();
    let promoted = async {
        tokio::time::sleep(FIRST_DELAY / 2).await;
        assert_eq!(objects.open_uploads(&name), 1);
        objects.lay([name.clone()]);
    };
    tokio::join!(reconciler.conclude(), promoted);
    assert_eq!((objects.open_uploads(&name), began.elapsed()), (0, FIRST_DELAY));
}

#[test]
fn check_in_progress_does_not_delay_the_last_one() {
    let (mut queue, now) = (Queue::default(), Instant::now());
    assert!(queue.add(Watched::new(LateEffect::Object(image()), Duration::ZERO, now), now).is_ok());
    let (serial, _, concluding) = queue.take_due(now).unwrap();
    queue.conclude(now);
    assert_eq!((concluding, queue.left().count()), (false, 1));
    queue.looked(serial, Some(Watched::new(LateEffect::Object(image()), FIRST_DELAY * 512, now)), now);
    assert_eq!(queue.next_due(), Some(now + FIRST_DELAY));
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
