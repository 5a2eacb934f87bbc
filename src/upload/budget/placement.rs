//! Decides where the parts of an upload are placed. Pure: no I/O.
//!
//! Slow uploads use memory only while less than half of it is used, and new uploads, whose client may be slow, only while
//! less than three quarters are. The rest is for clients that have proven fast, and for files that are smaller than a part.

use std::time::Duration;

use super::quota::ByteQuota;

/// Quarters of the memory in use at which it is scarce for slow uploads, and for new ones.
const SLOW_UPLOADS: u64 = 2;
const NEW_UPLOADS: u64 = 3;

/// A client that takes longer than this to fill a part is slow: a disk does not slow it down further.
pub(super) const SLOW_CLIENT: Duration = Duration::from_secs(1);

/// A kind of slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Memory,
    File,
}

/// Whether slow uploads leave the memory to others.
pub(super) fn is_scarce(memory: &ByteQuota) -> bool {
    memory.uses_more_than(SLOW_UPLOADS)
}

/// Whether new uploads leave the memory to others.
pub(super) fn is_very_scarce(memory: &ByteQuota) -> bool {
    memory.uses_more_than(NEW_UPLOADS)
}

/// Returns the kinds of slots in which a new upload begins, the best one first.
pub(super) fn of_new_upload(is_whole_part: bool, memory_is_very_scarce: bool) -> [Kind; 2] {
    if is_whole_part && memory_is_very_scarce { [Kind::File, Kind::Memory] } else { [Kind::Memory, Kind::File] }
}

/// Number of slots from which an upload borrows further ones only in memory. With two of them it fills one part while it
/// sends another one. A third part would arrive sooner in memory that is released soon than in a file that is free now.
const ENOUGH_SLOTS: usize = 2;

/// Returns the kinds of free slots in which the next part is placed, the best one first. `own` is the kind of the upload's
/// own idle slot, which is used if there is nothing better, and `in_use` the number of its other slots.
pub(super) fn better_than(
    own: Option<Kind>,
    in_use: usize,
    client_is_slow: bool,
    memory_is_scarce: bool,
) -> &'static [Kind] {
    match own {
        None if in_use >= ENOUGH_SLOTS => &[Kind::Memory],
        None if client_is_slow && memory_is_scarce => &[Kind::File, Kind::Memory],
        None => &[Kind::Memory, Kind::File],
        Some(Kind::Memory) if client_is_slow && memory_is_scarce => &[Kind::File],
        Some(Kind::File) if !client_is_slow => &[Kind::Memory],
        Some(_) => &[],
    }
}

/// Whether a part that has been filling for `filling` leaves memory before it is full.
pub(super) fn leaves_memory(filling: Duration, memory_is_scarce: bool) -> bool {
    memory_is_scarce && filling >= SLOW_CLIENT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_long_filling_parts_leave_scarce_memory() {
        for memory_is_scarce in [false, true] {
            assert!(!leaves_memory(SLOW_CLIENT - Duration::from_millis(1), memory_is_scarce));
            assert_eq!(leaves_memory(SLOW_CLIENT, memory_is_scarce), memory_is_scarce);
        }
    }

    #[test]
    fn only_new_uploads_of_whole_parts_do_not_begin_in_scarce_memory() {
        for (is_whole_part, memory_is_scarce) in [(false, false), (false, true), (true, false), (true, true)] {
            let [first, second] = of_new_upload(is_whole_part, memory_is_scarce);
            assert_eq!(first == Kind::File, is_whole_part && memory_is_scarce);
            assert_ne!(first, second, "every free slot can be used");
        }
    }

    #[test]
    fn only_slow_uploads_leave_scarce_memory_and_only_fast_ones_leave_files() {
        for (client_is_slow, memory_is_scarce) in [(false, false), (false, true), (true, false), (true, true)] {
            let better = |own, in_use| better_than(own, in_use, client_is_slow, memory_is_scarce);
            let leaves_memory = client_is_slow && memory_is_scarce;
            for in_use in 0..ENOUGH_SLOTS {
                assert_eq!(better(None, in_use)[0] == Kind::File, leaves_memory);
                assert_eq!(better(None, in_use).len(), 2, "every free slot can be used");
                assert_eq!(better(Some(Kind::Memory), in_use) == [Kind::File], leaves_memory);
                assert_eq!(better(Some(Kind::File), in_use) == [Kind::Memory], !client_is_slow);
            }
            assert_eq!(better(None, ENOUGH_SLOTS), [Kind::Memory], "a file would be slower than waiting");
        }
    }
}
