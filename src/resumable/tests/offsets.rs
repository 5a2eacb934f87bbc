//! The arithmetic of offsets, parts and lengths.

use super::super::finish::are_all;
use super::super::resolve::{Open, check_length};
use super::super::transfer::joined;
use super::*;
use crate::store::Part;
use crate::upload::parts;

fn upload(length: Option<u64>) -> ResumableUpload {
    ResumableUpload {
        key: ImageKey::random("png"),
        id: Uuid::new_v4(),
        upload_id: Some("id".to_owned()),
        length,
        part_size: 10,
        max_size: 100,
        is_fixed_key: false,
        tus_metadata: None,
    }
}

fn parts_of(sizes: &[(u32, u64)]) -> Vec<Part> {
    sizes.iter().map(|(number, size)| Part { number: *number, size: *size, etag: None, crc64: None }).collect()
}

fn tail(base: u64, len: u64) -> Kept {
    Kept::Tail { base, len }
}

fn open(parts: &[(u32, u64)], kept: &[Kept]) -> Open {
    Open::new(&upload(None), parts_of(parts), kept.to_vec())
}

#[test]
fn offset_is_the_end_of_the_full_parts_or_of_the_last_tail() {
    for (parts, kept, offset, tail_at, base) in [
        (&[][..], &[][..], 0, None, 0),
        (&[(1, 9)], &[], 0, None, 0),
        (&[(1, 10)], &[], 10, None, 10),
        (&[(1, 10), (2, 9)], &[], 10, None, 10),
        (&[(1, 10), (2, 10)], &[], 20, None, 20),
        // A part after a gap does not count.
        (&[(2, 10)], &[], 0, None, 0),
        (&[(1, 10), (3, 10)], &[], 10, None, 10),
        (&[(1, 10), (2, 1), (3, 10)], &[], 10, None, 10),
        // A tail counts if it ends after the parts.
        (&[], &[tail(0, 1)], 1, Some((0, 1)), 0),
        (&[(1, 10)], &[tail(0, 9)], 10, None, 10),
        (&[(1, 10)], &[tail(10, 1)], 11, Some((10, 1)), 10),
        (&[(1, 10)], &[tail(0, 9), tail(10, 1), tail(10, 9)], 19, Some((10, 9)), 10),
        (&[(1, 10), (2, 10)], &[tail(10, 9)], 20, None, 20),
        (&[(1, 10), (2, 10)], &[tail(20, 5), tail(10, 9)], 25, Some((20, 5)), 20),
        // All parts before a tail are stored, even if the list does not show them yet.
        (&[(1, 10)], &[tail(20, 1)], 21, Some((20, 1)), 20),
        // These are not written.
        (&[], &[tail(5, 1)], 0, None, 0),
        (&[], &[tail(0, 10)], 0, None, 0),
    ] {
        let open = open(parts, kept);
        assert_eq!((open.offset, open.tail, open.base(10)), (offset, tail_at, base), "{parts:?} {kept:?}");
    }
}

#[test]
fn length_is_that_of_the_creation_or_the_least_one_that_was_said() {
    assert_eq!(open(&[], &[]).length, None);
    assert_eq!(open(&[], &[Kept::Length(7), Kept::Length(5), tail(0, 9)]).length, Some(5));
    assert_eq!(Open::new(&upload(Some(8)), Vec::new(), vec![Kept::Length(5)]).length, Some(8));
}

#[test]
fn request_is_checked_before_its_body() {
    let code = |length: Option<u64>, append: Append| {
        let upload = upload(length);
        let open = Open::new(&upload, parts_of(&[(1, 10)]), vec![tail(10, 5)]);
        open.check(&upload, &append).map_or_else(|error| error.code(), |()| "fine")
    };
    let append = Append { offset: 15, ..Append::default() };
    assert_eq!(code(None, append), "fine");
    for offset in [0, 10, 14, 16] {
        assert_eq!(code(None, Append { offset, ..append }), "offset_mismatch", "{offset}");
    }
    let content = |more| Append { content_length: Some(more), ..append };
    for (length, more, expected) in [
        (None, 85, "fine"),
        (None, 86, "payload_too_large"),
        (None, u64::MAX, "payload_too_large"),
        (Some(20), 4, "fine"),
        (Some(20), 5, "fine"),
        (Some(20), 6, "inconsistent_length"),
        (Some(20), u64::MAX, "inconsistent_length"),
    ] {
        assert_eq!(code(length, content(more)), expected, "{length:?} {more}");
    }
    for (length, more, expected) in [
        (Some(20), Some(4), "inconsistent_length"),
        (Some(20), Some(5), "fine"),
        (Some(20), None, "fine"),
        (None, Some(4), "fine"),
    ] {
        let append = Append { completes: true, content_length: more, ..append };
        assert_eq!(code(length, append), expected, "{length:?} {more:?}");
    }
    for (length, said, expected) in [
        (Some(20), 20, "fine"),
        (Some(20), 19, "inconsistent_length"),
        (Some(20), 21, "inconsistent_length"),
        (None, 14, "inconsistent_length"),
        (None, 15, "fine"),
        (None, 100, "fine"),
        (None, 101, "payload_too_large"),
        (None, 0, "no_file"),
    ] {
        assert_eq!(code(length, Append { length: Some(said), ..append }), expected, "{length:?} {said}");
    }
    let both = Append { length: Some(20), content_length: Some(6), ..append };
    assert_eq!(code(None, both), "inconsistent_length");
}

#[test]
fn length_of_a_new_file_is_within_the_limit() {
    let code = |length| check_length(length, 100).map_or_else(|error| error.code(), |()| "fine");
    for (length, expected) in
        [(None, "fine"), (Some(0), "no_file"), (Some(1), "fine"), (Some(100), "fine"), (Some(101), "payload_too_large")]
    {
        assert_eq!(code(length), expected, "{length:?}");
    }
}

#[test]
fn parts_are_all_only_if_they_make_up_the_file() {
    for (sizes, size, expected) in [
        (&[(1, 10), (2, 10), (3, 5)][..], 25, true),
        (&[(1, 10), (2, 10)], 20, true),
        (&[(1, 1)], 1, true),
        (&[(1, 10), (2, 10)], 19, false),
        (&[(1, 10), (2, 10)], 21, false),
        (&[(1, 10), (3, 5)], 15, false),
        (&[(1, 5), (2, 10)], 15, false),
        (&[(1, 10), (2, 5), (3, 5)], 20, false),
        (&[(2, 10)], 10, false),
        (&[], 0, true),
    ] {
        assert_eq!(are_all(&parts_of(sizes), 10, size), expected, "{sizes:?} {size}");
    }
}

#[test]
fn checksum_of_parts_is_known_if_all_of_theirs_are() {
    let bytes = file(15);
    let part = |number: u32, from: usize, to: usize| {
        let crc64 = Some(parts_crc64(&bytes[from..to]));
        Part { number, size: (to - from) as u64, etag: None, crc64 }
    };
    let all = [part(1, 0, 48), part(2, 48, 96), part(3, 96, 120)];
    assert_eq!(joined(all.iter(), 120), Some(parts_crc64(&bytes)));
    assert_eq!(joined(all[..2].iter(), 96), Some(parts_crc64(&bytes[..96])));
    assert_eq!(joined(all[..2].iter(), 120), None);
    assert_eq!(joined([].iter(), 0), Some(0), "nothing has the checksum of nothing");
    let unknown = Part { crc64: None, ..all[1].clone() };
    assert_eq!(joined([&all[0], &unknown].into_iter(), 96), None);
    assert_eq!(parts::join([(0, 0), (5, 7)]).crc64, Some(7));
}
