use super::*;
use crate::store::Content;
use bytes::Bytes;
use futures::FutureExt;

mod model;

const PART: usize = 2 * STEP;

fn budget(parts: u64, at_once: usize) -> Arc<Budget> {
    Budget::new(parts * PART as u64, None, PART, at_once)
}

fn spilling(parts: u64, files: u64, at_once: usize) -> Arc<Budget> {
    let spill = Spill::open(&std::env::temp_dir()).unwrap();
    Budget::new(parts * PART as u64, Some((files * PART as u64, spill)), PART, at_once)
}

fn admit(budget: &Arc<Budget>, expected: Option<u64>) -> Option<Reservation> {
    budget.admit(expected).now_or_never().unwrap().unwrap()
}

fn now(share: &mut Reservation) -> Option<Buffer> {
    share.next().now_or_never()
}

/// Once it has waited as long as it likes.
async fn later(share: &mut Reservation) -> Option<Buffer> {
    tokio::time::timeout(Duration::from_secs(60), share.next()).await.ok()
}

fn bytes(content: &Content) -> Bytes {
    match content {
        Content::Memory(bytes) => bytes.clone(),
        Content::File(file) => file.read_at(0, PART).unwrap(),
    }
}

#[test]
fn a_part_s_memory_is_used_again_once_its_last_clone_is_gone() {
    let mut share = admit(&budget(4, 4), None).unwrap();
    let mut buffer = now(&mut share).unwrap();
    buffer.append(Bytes::from(vec![1; PART])).now_or_never().unwrap().unwrap();
    let address = buffer.as_ref().as_ptr();
    let content = buffer.freeze();
    let clone = content.clone();
    drop(content);
    assert_ne!(now(&mut share).unwrap().as_ref().as_ptr(), address, "the clone still reads it");
    drop(clone);
    let again = [now(&mut share).unwrap(), now(&mut share).unwrap()];
    assert!(again.iter().any(|buffer| buffer.as_ref().as_ptr() == address));
}

#[test]
fn uploads_are_admitted_while_there_is_room_for_a_part_of_each() {
    let budget = budget(2, 4);
    let first = admit(&budget, None).unwrap();
    let mut small = admit(&budget, Some(10)).unwrap();
    assert!(admit(&budget, None).is_none());
    assert_eq!(budget.used().0, (PART + STEP) as u64);
    drop(first);
    assert!(admit(&budget, None).is_some());
    assert_eq!(now(&mut small).unwrap().data.capacity(), 10);
    drop(small);
    assert_eq!(budget.used().0, 0);
}

#[tokio::test(start_paused = true)]
async fn an_upload_borrows_what_is_free_and_goes_on_with_its_own_where_nothing_is() {
    let budget = budget(3, 4);
    let (mut one, mut other) = (admit(&budget, None).unwrap(), admit(&budget, None).unwrap());
    let first = now(&mut one).unwrap();
    let second = now(&mut one).unwrap();
    assert!(later(&mut one).await.is_none(), "the rest is the other's");
    let others = now(&mut other).unwrap();
    assert!(later(&mut other).await.is_none());
    drop(first);
    assert!(now(&mut other).is_some(), "it keeps one room and gives the other back");
    drop(second);
    assert!(now(&mut one).is_some());
    drop(others);
}

#[test]
fn a_slow_upload_holds_one_room() {
    let budget = budget(3, 4);
    let mut slow = admit(&budget, None).unwrap();
    let on_its_way = now(&mut slow).unwrap().freeze();
    let filling = now(&mut slow).unwrap();
    assert_eq!(budget.used().0, 2 * PART as u64);
    drop(on_its_way);
    assert_eq!(budget.used().0, PART as u64, "what it borrowed is charged no longer than needed");
    drop(filling);
    assert_eq!(budget.used().0, PART as u64);
    drop(slow);
    assert_eq!(budget.used().0, 0);
}

#[tokio::test(start_paused = true)]
async fn no_upload_holds_more_parts_than_it_may() {
    let mut share = admit(&budget(10, 2), None).unwrap();
    let held = [now(&mut share).unwrap(), now(&mut share).unwrap()];
    assert!(later(&mut share).await.is_none());
    drop(held);
    assert!(now(&mut share).is_some());
}

#[tokio::test]
async fn a_buffer_that_comes_back_wakes_its_upload() {
    let mut share = admit(&budget(1, 4), None).unwrap();
    let own = share.next().await;
    let waiting = tokio::spawn(async move { share.next().await.len() });
    tokio::task::yield_now().await;
    drop(own);
    assert_eq!(waiting.await.unwrap(), 0);
}

#[test]
fn a_room_stays_charged_while_a_part_in_it_is_on_its_way() {
    let budget = budget(2, 4);
    let mut share = admit(&budget, None).unwrap();
    let part = now(&mut share).unwrap().freeze();
    drop(share);
    assert_eq!(budget.used().0, PART as u64);
    drop(part);
    assert_eq!(budget.used().0, 0);
}

#[tokio::test]
async fn where_memory_is_taken_parts_are_kept_in_files_and_refused_where_those_are_too() {
    let budget = spilling(1, 2, 4);
    let first = budget.admit(None).await.unwrap().unwrap();
    let mut spilled = budget.admit(None).await.unwrap().unwrap();
    assert_eq!(budget.used(), (PART as u64, PART as u64));
    let mut buffer = spilled.next().await;
    for piece in [&[1_u8; STEP][..], &[2; STEP]] {
        buffer.append(Bytes::copy_from_slice(piece)).await.unwrap();
    }
    let part = buffer.freeze();
    assert!(matches!(part, Content::File(_)));
    assert!(bytes(&part) == [[1; STEP], [2; STEP]].concat());
    let second = spilled.next().await;
    assert_eq!(budget.used(), (PART as u64, 2 * PART as u64));
    assert!(budget.admit(None).await.unwrap().is_none());
    drop((part, second));
    assert_eq!(budget.used(), (PART as u64, PART as u64));
    // When memory is free again the upload goes back to it.
    drop(first);
    assert!(matches!(spilled.next().await.freeze(), Content::Memory(_)));
    assert_eq!(budget.used(), (PART as u64, 0));
}

#[tokio::test]
async fn what_is_free_shows_without_being_taken() {
    let budget = spilling(1, 1, 4);
    assert!(budget.has_free(None) && budget.has_free(Some(1)));
    assert_eq!(budget.used(), (0, 0));
    let _memory = budget.admit(None).await.unwrap().unwrap();
    assert!(budget.has_free(None), "a file");
    let file = budget.admit(Some(1)).await.unwrap().unwrap();
    assert!(!budget.has_free(None) && budget.has_free(Some(STEP as u64)));
    drop(file);
    let _file = budget.admit(None).await.unwrap().unwrap();
    assert!(!budget.has_free(Some(1)));
}

#[tokio::test]
async fn where_no_more_files_may_be_open_bytes_are_of_no_use() {
    let spill = Spill::open(&std::env::temp_dir()).unwrap().limited_to(1);
    let budget = Budget::new(PART as u64, Some((10 * PART as u64, spill)), PART, 4);
    let _memory = budget.admit(None).await.unwrap().unwrap();
    let file = budget.admit(Some(1)).await.unwrap().unwrap();
    assert!(!budget.has_free(Some(1)) && budget.admit(Some(1)).await.unwrap().is_none());
    assert_eq!(budget.used().1, STEP as u64, "nothing is charged for a file there is not");
    drop(file);
    assert!(budget.has_free(Some(1)));
}

#[tokio::test]
async fn a_part_s_first_bytes_can_be_looked_at_wherever_it_is() {
    let budget = spilling(1, 1, 4);
    let mut shares = Vec::new();
    for file in [false, true] {
        let mut share = budget.admit(None).await.unwrap().unwrap();
        let mut buffer = share.next().await;
        buffer.append(Bytes::from(vec![7; STEP])).await.unwrap();
        assert_eq!(matches!(buffer.place.room, Some(PartSlot::File { .. })), file);
        for (limit, len) in [(0, 0), (10, 10), (PART, STEP)] {
            assert_eq!(buffer.peek(limit).await.unwrap().as_ref(), vec![7; len]);
        }
        shares.push(share);
    }
}

#[tokio::test]
async fn only_so_many_files_are_looked_at_at_once() {
    let budget = spilling(1, 1, 1);
    let _memory = budget.admit(None).await.unwrap().unwrap();
    let mut share = budget.admit(None).await.unwrap().unwrap();
    let mut buffer = share.next().await;
    buffer.append(Bytes::from_static(b"abc")).await.unwrap();
    let mut peeks = Vec::new();
    for _ in 0..CONCURRENT_PEEKS {
        peeks.push(buffer.peek(3).await.unwrap());
    }
    assert!(buffer.peek(3).now_or_never().is_none());
    drop(peeks);
    assert_eq!(buffer.peek(3).await.unwrap().as_ref(), b"abc");
}

#[tokio::test]
async fn an_admitted_upload_goes_on_though_the_disk_is_full() {
    let folder = tempfile::tempdir().unwrap();
    let spill = Spill::open(folder.path()).unwrap();
    let budget = Budget::new(PART as u64, Some((10 * PART as u64, spill)), PART, 4);
    let mut share = budget.admit(None).await.unwrap().unwrap();
    drop(folder);
    assert!(budget.admit(None).await.is_err());
    let own = share.next().await;
    assert!(share.next().now_or_never().is_none());
    drop(own);
    assert_eq!(share.next().await.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_third_buffer_is_taken_where_the_store_takes_its_time() {
    let mut share = admit(&budget(10, 4), None).unwrap();
    let (first, _second) = (now(&mut share).unwrap(), now(&mut share).unwrap());
    let began = tokio::time::Instant::now();
    tokio::spawn(async move {
        sleep(2).await;
        drop(first);
    });
    let _again = share.next().await;
    assert_eq!(began.elapsed(), Duration::from_millis(2), "a store that is near gives one back");
    let _third = share.next().await;
    assert!(began.elapsed() >= Duration::from_millis(2) + SLOT_WAIT);
    assert!(began.elapsed() <= Duration::from_millis(4) + SLOT_WAIT);
    let before = tokio::time::Instant::now();
    let _fourth = share.next().await;
    assert_eq!(before.elapsed(), Duration::ZERO, "it is not waited for again");
}

#[tokio::test(start_paused = true)]
async fn where_memory_is_scarce_slow_uploads_move_to_files_and_fast_ones_from_them() {
    let budget = spilling(2, 4, 4);
    let mut slow = budget.admit(None).await.unwrap().unwrap();
    let _other = budget.admit(None).await.unwrap().unwrap();
    let mut fast = budget.admit(None).await.unwrap().unwrap();
    let in_file = |buffer: Buffer| matches!(buffer.freeze(), Content::File(_));
    let next = async |share: &mut Reservation| {
        share.filled();
        in_file(share.next().await)
    };
    assert!(!next(&mut slow).await, "it was there first");
    assert!(next(&mut fast).await);
    fast.filled();
    sleep(2_000).await;
    assert!(next(&mut slow).await);
    sleep(2_000).await;
    assert!(next(&mut slow).await, "it stays there while it is slow");
    // That was the store's time, and there is room in memory.
    assert!(!in_file(fast.next().await));
    drop(fast);
    assert!(!next(&mut slow).await, "it is not slow for ever");
}

async fn sleep(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}
