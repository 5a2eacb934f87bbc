use super::quota::STEP;
use super::slots::PartSlot;
use super::*;
use crate::store::Content;
use bytes::Bytes;
use futures::FutureExt;
use std::time::Duration;

mod collecting;
mod model;

const PART: usize = 2 * STEP;

fn budget(parts: u64, max_parts: usize) -> Arc<Budget> {
    Budget::new(parts * PART as u64, None, PART, max_parts)
}

fn spilling(parts: u64, files: u64, max_parts: usize) -> Arc<Budget> {
    let spill = Spill::open(&std::env::temp_dir()).unwrap();
    Budget::new(parts * PART as u64, Some((files * PART as u64, spill)), PART, max_parts)
}

fn admit(budget: &Arc<Budget>, expected: Option<u64>) -> Option<Reservation> {
    budget.admit(expected).now_or_never().unwrap().unwrap()
}

fn now(reservation: &mut Reservation) -> Option<Buffer> {
    reservation.next().now_or_never()
}

/// The next buffer, or `None` if there is none within a minute.
async fn later(reservation: &mut Reservation) -> Option<Buffer> {
    tokio::time::timeout(Duration::from_secs(60), reservation.next()).await.ok()
}

/// Waits until these bytes of memory and of files are used. A file is closed on another thread.
async fn until_used(budget: &Budget, bytes: (u64, u64)) {
    while budget.used() != bytes {
        tokio::task::yield_now().await;
    }
}

async fn bytes(content: &Content) -> Bytes {
    match content {
        Content::Memory(bytes) => bytes.clone(),
        Content::File(file) => file.read_at(0, PART).await.unwrap(),
    }
}

#[test]
fn buffer_is_reused_after_the_last_clone_is_dropped() {
    let mut reservation = admit(&budget(4, 4), None).unwrap();
    let mut buffer = now(&mut reservation).unwrap();
    buffer.append(Bytes::from(vec![1; PART])).now_or_never().unwrap().unwrap();
    let address = buffer.as_ref().as_ptr();
    let content = buffer.freeze();
    let clone = content.clone();
    drop(content);
    assert_ne!(now(&mut reservation).unwrap().as_ref().as_ptr(), address, "the clone still reads it");
    drop(clone);
    let again = [now(&mut reservation).unwrap(), now(&mut reservation).unwrap()];
    assert!(again.iter().any(|buffer| buffer.as_ref().as_ptr() == address));
}

#[test]
fn uploads_are_admitted_while_each_gets_a_slot() {
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
async fn upload_borrows_from_the_first_half_and_otherwise_waits_for_its_own() {
    let budget = budget(4, 4);
    let (mut one, mut other) = (admit(&budget, None).unwrap(), admit(&budget, None).unwrap());
    let first = now(&mut one).unwrap();
    let second = now(&mut one).unwrap();
    assert!(later(&mut one).await.is_none(), "the remaining slot is for a new upload");
    let others = now(&mut other).unwrap();
    assert!(later(&mut other).await.is_none());
    assert!(admit(&budget, None).is_some());
    drop(first);
    assert!(now(&mut other).is_some(), "the first upload keeps one slot and releases the other");
    drop(second);
    assert!(now(&mut one).is_some());
    drop(others);
}

#[test]
fn second_slot_of_a_fast_upload_may_be_in_the_third_quarter() {
    let budget = budget(8, 4);
    let mut uploads: Vec<_> = (0..5).map(|_| admit(&budget, None).unwrap()).collect();
    let firsts: Vec<_> = uploads.iter_mut().map(|upload| now(upload).unwrap()).collect();
    let second = now(&mut uploads[0]).expect("more than a quarter is free");
    assert!(now(&mut uploads[0]).is_none(), "it has enough");
    assert!(now(&mut uploads[1]).is_none(), "the last quarter is for new uploads");
    drop((firsts, second));
}

#[test]
fn budget_for_one_part_admits_one_whatever_its_size() {
    for part in [STEP - 1, STEP + 1, 6_000_000] {
        let budget = Budget::new(part as u64, None, part, 1);
        assert!(admit(&budget, None).is_some(), "{part}");
        assert_eq!(budget.used().0, 0);
    }
}

#[test]
fn slow_upload_holds_one_slot() {
    let budget = budget(3, 4);
    let mut slow = admit(&budget, None).unwrap();
    let being_sent = now(&mut slow).unwrap().freeze();
    let filling = now(&mut slow).unwrap();
    assert_eq!(budget.used().0, 2 * PART as u64);
    drop(being_sent);
    assert_eq!(budget.used().0, PART as u64, "the borrowed slot is released when it is empty");
    drop(filling);
    assert_eq!(budget.used().0, PART as u64);
    drop(slow);
    assert_eq!(budget.used().0, 0);
}

#[tokio::test(start_paused = true)]
async fn upload_holds_at_most_its_maximum_of_parts() {
    let mut reservation = admit(&budget(10, 2), None).unwrap();
    let held = [now(&mut reservation).unwrap(), now(&mut reservation).unwrap()];
    assert!(later(&mut reservation).await.is_none());
    drop(held);
    assert!(now(&mut reservation).is_some());
}

#[tokio::test]
async fn released_buffer_wakes_its_upload() {
    let mut reservation = admit(&budget(1, 4), None).unwrap();
    let own = reservation.next().await;
    let waiting = tokio::spawn(async move { reservation.next().await.len() });
    tokio::task::yield_now().await;
    drop(own);
    assert_eq!(waiting.await.unwrap(), 0);
}

#[test]
fn slot_stays_charged_while_its_part_is_being_sent() {
    let budget = budget(2, 4);
    let mut reservation = admit(&budget, None).unwrap();
    let part = now(&mut reservation).unwrap().freeze();
    drop(reservation);
    assert_eq!(budget.used().0, PART as u64);
    drop(part);
    assert_eq!(budget.used().0, 0);
}

#[tokio::test]
async fn uploads_spill_to_files_until_both_budgets_are_used_up() {
    let budget = spilling(1, 2, 4);
    let first = budget.admit(None).await.unwrap().unwrap();
    let mut spilled = budget.admit(None).await.unwrap().unwrap();
    until_used(&budget, (PART as u64, PART as u64)).await;
    let mut buffer = spilled.next().await;
    for piece in [&[1_u8; STEP][..], &[2; STEP]] {
        buffer.append(Bytes::copy_from_slice(piece)).await.unwrap();
    }
    let part = buffer.freeze();
    assert!(matches!(part, Content::File(_)));
    assert!(bytes(&part).await == [[1; STEP], [2; STEP]].concat());
    let second = spilled.next().await;
    assert_eq!(budget.used(), (PART as u64, 2 * PART as u64));
    assert!(budget.admit(None).await.unwrap().is_none());
    drop((part, second));
    until_used(&budget, (PART as u64, PART as u64)).await;
    // When memory is free again, the upload uses it again.
    drop(first);
    assert!(matches!(spilled.next().await.freeze(), Content::Memory(_)));
    until_used(&budget, (PART as u64, 0)).await;
}

#[tokio::test]
async fn has_free_reserves_nothing() {
    let budget = spilling(1, 1, 4);
    assert!(budget.has_free(None) && budget.has_free(Some(1)));
    until_used(&budget, (0, 0)).await;
    let _memory = budget.admit(None).await.unwrap().unwrap();
    assert!(budget.has_free(None), "a file is free");
    let file = budget.admit(Some(1)).await.unwrap().unwrap();
    assert!(!budget.has_free(None) && budget.has_free(Some(STEP as u64)));
    drop(file);
    until_used(&budget, (PART as u64, 0)).await;
    let _file = budget.admit(None).await.unwrap().unwrap();
    assert!(!budget.has_free(Some(1)));
}

#[tokio::test]
async fn upload_is_rejected_when_the_file_limit_is_reached() {
    let spill = Spill::open(&std::env::temp_dir()).unwrap().limited_to(1);
    let budget = Budget::new(PART as u64, Some((10 * PART as u64, spill)), PART, 4);
    let _memory = budget.admit(None).await.unwrap().unwrap();
    let file = budget.admit(Some(1)).await.unwrap().unwrap();
    assert!(!budget.has_free(Some(1)) && budget.admit(Some(1)).await.unwrap().is_none());
    assert_eq!(budget.used().1, STEP as u64, "nothing is charged for a file that was not created");
    drop(file);
    until_used(&budget, (PART as u64, 0)).await;
    assert!(budget.has_free(Some(1)));
}

#[tokio::test]
async fn peek_reads_parts_in_memory_and_in_files() {
    let budget = spilling(1, 1, 4);
    let mut reservations = Vec::new();
    for file in [false, true] {
        let mut reservation = budget.admit(None).await.unwrap().unwrap();
        let mut buffer = reservation.next().await;
        buffer.append(Bytes::from(vec![7; STEP])).await.unwrap();
        assert_eq!(matches!(buffer.guard.slot, Some(PartSlot::File(_))), file);
        for (limit, len) in [(0, 0), (10, 10), (PART, STEP)] {
            assert_eq!(buffer.peek(limit).await.unwrap().as_ref(), vec![7; len]);
        }
        reservations.push(reservation);
    }
}

#[tokio::test]
async fn concurrent_peeks_of_files_are_limited() {
    let budget = spilling(1, 1, 1);
    let _memory = budget.admit(None).await.unwrap().unwrap();
    let mut reservation = budget.admit(None).await.unwrap().unwrap();
    let mut buffer = reservation.next().await;
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
async fn admitted_upload_continues_when_the_disk_is_full() {
    let folder = tempfile::tempdir().unwrap();
    let spill = Spill::open(folder.path()).unwrap();
    let budget = Budget::new(PART as u64, Some((10 * PART as u64, spill)), PART, 4);
    let mut reservation = budget.admit(None).await.unwrap().unwrap();
    drop(folder);
    assert!(budget.admit(None).await.is_err());
    let own = reservation.next().await;
    assert!(reservation.next().now_or_never().is_none());
    drop(own);
    assert_eq!(reservation.next().await.len(), 0);
}

#[test]
fn no_buffer_is_waited_for_while_memory_is_free() {
    let mut reservation = admit(&budget(10, 4), None).unwrap();
    let four = [(); 4].map(|()| now(&mut reservation).expect("no wait"));
    assert!(now(&mut reservation).is_none(), "an upload has at most four");
    drop(four);
    assert!(now(&mut reservation).is_some());
}

#[tokio::test(start_paused = true)]
async fn slow_uploads_move_to_files_when_memory_is_scarce() {
    let budget = spilling(3, 4, 4);
    let mut slow = budget.admit(None).await.unwrap().unwrap();
    let _others = [budget.admit(None).await.unwrap().unwrap(), budget.admit(None).await.unwrap().unwrap()];
    let mut fast = budget.admit(None).await.unwrap().unwrap();
    let in_file = |buffer: Buffer| matches!(buffer.freeze(), Content::File(_));
    let next = async |reservation: &mut Reservation| {
        reservation.filled();
        in_file(reservation.next().await)
    };
    assert!(!next(&mut slow).await, "memory was free when it was admitted");
    assert!(next(&mut fast).await);
    fast.filled();
    sleep(2_000).await;
    assert!(next(&mut slow).await);
    sleep(2_000).await;
    assert!(next(&mut slow).await, "it stays in files while it is slow and memory is scarce");
    // The delay was after `filled`, so it is the store's, and memory is free.
    assert!(!in_file(fast.next().await));
    drop(fast);
    assert!(!next(&mut slow).await, "it is not slow any more");
}

#[tokio::test(start_paused = true)]
async fn slow_uploads_leave_room_for_new_ones_while_they_send() {
    let budget = spilling(2, 10, 4);
    let mut slow = Vec::new();
    for _ in 0..8 {
        slow.push(budget.admit(None).await.unwrap().unwrap());
    }
    let mut sending = Vec::new();
    for upload in &mut slow {
        sending.push(upload.next().await);
        sleep(2_000).await;
        upload.filled();
    }
    for upload in &mut slow {
        assert!(later(upload).await.is_none(), "it waits for its own part");
    }
    assert_eq!(budget.used(), (2 * PART as u64, 6 * PART as u64));
    assert!(budget.admit(None).await.unwrap().is_some());
    drop(sending);
    for upload in &mut slow {
        assert!(upload.next().await.is_empty());
    }
}

/// Fills half a part within `fills` milliseconds, and checks whether it leaves memory.
async fn leaves_memory(reservation: &mut Reservation, fills: u64) -> (Buffer, bool) {
    let mut buffer = reservation.next().await;
    buffer.append(Bytes::from(vec![1; STEP])).await.unwrap();
    sleep(fills).await;
    buffer.leave_scarce_memory().await.unwrap();
    let leaves = matches!(buffer.guard.slot, Some(PartSlot::File(_)));
    (buffer, leaves)
}

#[tokio::test(start_paused = true)]
async fn part_of_a_slow_client_moves_to_a_file_when_memory_is_scarce() {
    let budget = spilling(4, 1, 4);
    let mut others = Vec::new();
    for _ in 0..3 {
        others.push(budget.admit(None).await.unwrap().unwrap());
    }
    let mut slow = budget.admit(None).await.unwrap().unwrap();
    let (_fast_part, leaves) = leaves_memory(&mut others[0], 900).await;
    assert!(!leaves, "it is not slow");
    let (mut buffer, leaves) = leaves_memory(&mut slow, 1_100).await;
    assert!(leaves);
    assert_eq!(budget.used(), (3 * PART as u64, PART as u64));
    assert!(buffer.data.capacity() == 0, "the memory is free");
    let _new = budget.admit(None).await.unwrap().unwrap();
    buffer.append(Bytes::from(vec![2; STEP])).await.unwrap();
    assert_eq!(buffer.peek(PART).await.unwrap().as_ref(), [[1; STEP], [2; STEP]].concat());
    let part = buffer.freeze();
    assert!(matches!(part, Content::File(_)) && bytes(&part).await == [[1; STEP], [2; STEP]].concat());
    let (kept, leaves) = leaves_memory(&mut others[2], 1_100).await;
    assert!(!leaves, "no file is free");
    assert_eq!((budget.used(), kept.as_ref()), ((4 * PART as u64, PART as u64), &[1; STEP][..]));
    drop((part, slow));
    until_used(&budget, (4 * PART as u64, 0)).await;
}

#[tokio::test(start_paused = true)]
async fn part_of_a_slow_client_stays_in_memory_while_half_of_it_is_free() {
    let budget = spilling(4, 4, 4);
    let mut slow = [budget.admit(None).await.unwrap().unwrap(), budget.admit(None).await.unwrap().unwrap()];
    let (_stays, leaves) = leaves_memory(&mut slow[0], 1_100).await;
    assert!(!leaves);
    let _third = budget.admit(None).await.unwrap().unwrap();
    let (_moved, leaves) = leaves_memory(&mut slow[1], 1_100).await;
    assert!(leaves);
}

#[tokio::test(start_paused = true)]
async fn part_stays_in_memory_if_no_file_can_be_created() {
    let folder = tempfile::tempdir().unwrap();
    let spill = Spill::open(folder.path()).unwrap();
    let budget = Budget::new(PART as u64, Some((PART as u64, spill)), PART, 4);
    drop(folder);
    let mut slow = budget.admit(None).await.unwrap().unwrap();
    let (buffer, leaves) = leaves_memory(&mut slow, 1_100).await;
    assert!(!leaves && buffer.as_ref() == [1; STEP]);
    until_used(&budget, (PART as u64, 0)).await;
}

#[tokio::test]
async fn disk_is_scarce_when_half_of_the_files_exist() {
    let spill = Spill::open(&std::env::temp_dir()).unwrap().limited_to(3);
    let budget = Budget::new(PART as u64, Some((1 << 30, spill)), PART, 4);
    let mut kept = vec![budget.admit(None).await.unwrap()];
    for is_scarce in [false, true, true] {
        kept.push(budget.admit(None).await.unwrap());
        assert_eq!(budget.disk_is_scarce(), is_scarce);
    }
    assert!(Budget::new(1 << 20, None, PART, 4).disk_is_scarce());
}

async fn sleep(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}
