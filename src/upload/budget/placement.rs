//! Decides where the parts of an upload are placed. Pure: no I/O.
//!
//! Slow uploads use memory only while less than half of it is used. The rest is for clients that a disk would slow down.

use std::time::Duration;

/// A client that takes longer than this to fill a part is slow: a disk does not slow it down further.
pub(super) const SLOW_CLIENT: Duration = Duration::from_secs(1);

/// A kind of slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Memory,
    File,
}

/// Number of slots from which an upload borrows further ones only in memory. With two of them it fills one part while it
/// sends another one. It rather waits for one of these than for a disk.
const ENOUGH_SLOTS: usize = 2;

/// Returns the kinds of free slots in which the next part is placed, the best one first. `own` is the kind of the upload's
/// own idle slot, which is used if there is nothing better, and `in_use` the number of its other slots. `leaves_memory`:
/// the client is slow and memory is scarce.
pub(super) fn better_than(own: Option<Kind>, in_use: usize, leaves_memory: bool) -> &'static [Kind] {
    match own {
        None if in_use >= ENOUGH_SLOTS => {
            if leaves_memory {
                &[]
            } else {
                &[Kind::Memory]
            }
        }
        None if leaves_memory => &[Kind::File, Kind::Memory],
        None => &[Kind::Memory, Kind::File],
        Some(Kind::Memory) if leaves_memory => &[Kind::File],
        Some(Kind::File) if !leaves_memory => &[Kind::Memory],
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
    fn only_slow_uploads_leave_scarce_memory_and_only_others_leave_files() {
        for leaves_memory in [false, true] {
            let better = |own, in_use| better_than(own, in_use, leaves_memory);
            for in_use in 0..ENOUGH_SLOTS {
                assert_eq!(better(None, in_use)[0] == Kind::File, leaves_memory);
                assert_eq!(better(None, in_use).len(), 2, "every free slot can be used");
                assert_eq!(better(Some(Kind::Memory), in_use) == [Kind::File], leaves_memory);
                assert_eq!(better(Some(Kind::File), in_use) == [Kind::Memory], !leaves_memory);
            }
            assert_eq!(better(None, ENOUGH_SLOTS) == [Kind::Memory], !leaves_memory);
            assert!(!better(None, ENOUGH_SLOTS).contains(&Kind::File), "waiting is faster");
        }
    }
}
