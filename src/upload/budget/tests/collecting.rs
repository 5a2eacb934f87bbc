//! Parts in files whose last bytes are collected in memory.

use super::super::super::parts::PartCutter;
use super::super::super::spill::SpillFile;
use super::super::buffer::COLLECTED;
use super::*;
use crate::crc64;

#[tokio::test]
async fn checksum_of_a_part_is_that_of_the_bytes_that_were_written() {
    let mut buffer = now(&mut admit(&budget(1, 1), None).unwrap()).unwrap();
    let spill = Spill::open(&std::env::temp_dir()).unwrap();
    buffer.guard.slot = Some(PartSlot::File(Arc::new(SpillFile::full(&spill))));
    let mut cutter = PartCutter::new(buffer);
    assert!(matches!(cutter.fill(&mut Bytes::from_static(b"lost")).await, Err(Error::OverCapacity(Some(_)))));
    assert_eq!((cutter.len(), cutter.crc64()), (0, crc64::checksum(b"")));
}

/// Returns a buffer in a file, of a part that is larger than the bytes that are collected, while `free` bytes of memory are
/// free. Returns the budget, too, and what must be kept meanwhile.
async fn in_file_with_free_memory(free: usize) -> (Arc<Budget>, [Reservation; 2], Buffer) {
    let part = 4 * COLLECTED;
    let spill = Spill::open(&std::env::temp_dir()).unwrap();
    let budget = Budget::new((part + free) as u64, Some((part as u64, spill)), part, 1);
    let memory = budget.admit(None).await.unwrap().unwrap();
    let mut file = budget.admit(None).await.unwrap().unwrap();
    let buffer = file.next().await;
    assert!(matches!(buffer.guard.slot, Some(PartSlot::File(_))));
    (budget, [memory, file], buffer)
}

#[tokio::test]
async fn small_pieces_are_collected_before_they_are_written_to_a_file() {
    for (free, collected) in [(COLLECTED - STEP, 0), (COLLECTED, COLLECTED as u64)] {
        let (budget, kept, mut buffer) = in_file_with_free_memory(free).await;
        let (before, mut expected) = (budget.used().0, Vec::new());
        let sizes = [1, 1000, COLLECTED - 1001, 1, COLLECTED - 1, COLLECTED, 10_000, 10_000];
        for (size, value) in sizes.into_iter().zip(1..) {
            buffer.append(Bytes::from(vec![value; size])).await.unwrap();
            expected.resize(expected.len() + size, value);
        }
        assert_eq!(budget.used().0 - before, collected);
        assert_eq!((buffer.len(), buffer.data.len()), (expected.len(), if collected > 0 { 20_000 } else { 0 }));
        for limit in [1, expected.len() - 20_000, expected.len() - 1, usize::MAX] {
            assert!(buffer.peek(limit).await.unwrap().as_ref() == &expected[..limit.min(expected.len())]);
        }
        let Content::File(part) = buffer.freeze() else { panic!("it is in a file") };
        for at in (0..expected.len()).step_by(10_000) {
            for len in [1, 32 << 10, expected.len()] {
                let len = len.min(expected.len() - at);
                assert!(part.read_at(at as u64, len).await.unwrap() == expected[at..at + len], "{at} {len}");
            }
        }
        drop((part, kept));
        until_used(&budget, (0, 0)).await;
    }
}

#[tokio::test]
async fn memory_for_collecting_is_at_most_the_slot_and_a_quarter_of_all() {
    let spill = Spill::open(&std::env::temp_dir()).unwrap();
    let budget = Budget::new(16 * COLLECTED as u64, Some((1 << 30, spill)), 9 * COLLECTED, 1);
    let memory = budget.admit(None).await.unwrap().unwrap();
    let mut kept = Vec::new();
    let whole = u64::MAX;
    for (expected, collected) in
        [(10_000, 3 * STEP), (whole, COLLECTED), (whole, COLLECTED), (whole, COLLECTED), (whole, 0)]
    {
        // Takes the memory that is left, so that the slot is a file.
        let rest: Vec<_> = std::iter::from_fn(|| budget.memory.try_reserve(STEP)).collect();
        let mut reservation = budget.admit(Some(expected)).await.unwrap().unwrap();
        drop(rest);
        let (before, mut buffer) = (budget.used().0, reservation.next().await);
        assert!(matches!(buffer.guard.slot, Some(PartSlot::File(_))));
        buffer.append(Bytes::from_static(b"abc")).await.unwrap();
        assert_eq!(budget.used().0 - before, collected as u64);
        kept.push((reservation, buffer));
    }
    drop((memory, kept));
    until_used(&budget, (0, 0)).await;
}

#[tokio::test(start_paused = true)]
async fn part_that_has_left_memory_collects_pieces_and_is_read_as_one() {
    let part = 4 * COLLECTED;
    let spill = Spill::open(&std::env::temp_dir()).unwrap();
    let budget = Budget::new((part + COLLECTED) as u64, Some((part as u64, spill)), part, 1);
    let mut slow = budget.admit(None).await.unwrap().unwrap();
    let (mut buffer, leaves) = leaves_memory(&mut slow, 1_100).await;
    assert!(leaves);
    buffer.append(Bytes::from_static(b"abc")).await.unwrap();
    assert_eq!((budget.used(), &buffer.data[..]), ((COLLECTED as u64, part as u64), &b"abc"[..]));
    let expected = [&[1; STEP][..], b"abc"].concat();
    assert!(buffer.peek(part).await.unwrap().as_ref() == expected);
    let Content::File(file) = buffer.freeze() else { panic!("it is in a file") };
    for _ in 0..2 {
        assert!(file.read_at(0, expected.len()).await.unwrap() == expected);
    }
}

#[tokio::test]
async fn memory_for_collecting_is_free_when_nothing_is_collected() {
    let (budget, _kept, mut buffer) = in_file_with_free_memory(COLLECTED).await;
    buffer.append(Bytes::from_static(b"abc")).await.unwrap();
    let readers = budget.readers.try_acquire_many(CONCURRENT_PEEKS as u32).unwrap();
    let peek = buffer.peek(3).now_or_never().expect("nothing is read from the file");
    assert_eq!(peek.unwrap().as_ref(), b"abc");
    drop(readers);
    let before = budget.used().0;
    buffer.append(Bytes::from(vec![1; COLLECTED])).await.unwrap();
    let part = buffer.freeze();
    assert_eq!(before - budget.used().0, COLLECTED as u64);
    assert!(bytes(&part).await[..3] == *b"abc");
}

#[tokio::test]
async fn collected_bytes_stay_in_the_part_if_they_cannot_be_written() {
    let (_budget, _kept, mut buffer) = in_file_with_free_memory(COLLECTED).await;
    let spill = Spill::open(&std::env::temp_dir()).unwrap();
    buffer.guard.slot = Some(PartSlot::File(Arc::new(SpillFile::full(&spill))));
    let mut cutter = PartCutter::new(buffer);
    cutter.fill(&mut Bytes::from(vec![1; COLLECTED - 1])).await.unwrap();
    for _ in 0..2 {
        assert!(matches!(cutter.fill(&mut Bytes::from_static(b"23")).await, Err(Error::OverCapacity(Some(_)))));
    }
    let (part, expected) = (cutter.cut(), vec![1; COLLECTED - 1]);
    assert_eq!((part.len, part.crc64), (expected.len() as u64, crc64::checksum(&expected)));
    let Content::File(file) = part.content else { panic!("it is in a file") };
    assert!(file.read_at(0, expected.len()).await.unwrap() == expected);
}
