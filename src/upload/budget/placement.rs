//! Decides where the parts of an upload are placed. Pure: no I/O.
//!
//! The parts of slow uploads use memory only while less than half of it is used. The rest is for clients that a disk would
//! slow down.
//!
//! New uploads would be rejected without a slot, while those that have one can wait for their own calls. So uploads borrow
//! further slots only while half of the memory or half of the disk space is free. Only the second slot of a fast upload
//! may be in the third quarter of the memory: with two of them it fills one part while it sends another one.

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

/// What the placement of a part depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Situation {
    /// The kind of the upload's own idle slot, which is used if there is nothing better.
    pub(super) own: Option<Kind>,
    /// Number of the upload's other slots.
    pub(super) in_use: usize,
    /// Whether more than half of the memory is used.
    pub(super) memory_is_scarce: bool,
    /// Whether less than a quarter of the memory would be free after the part.
    pub(super) memory_is_short: bool,
    /// Whether more than half of the disk space or of the files is used. True without a disk.
    pub(super) disk_is_scarce: bool,
    pub(super) client_is_slow: bool,
}

/// Returns the kinds of free slots in which the next part is placed, the best one first.
pub(super) fn better_than_own(at: Situation) -> &'static [Kind] {
    let leaves_memory = at.client_is_slow && at.memory_is_scarce;
    match at.own {
        Some(Kind::Memory) if leaves_memory => &[Kind::File],
        Some(Kind::File) if !leaves_memory => &[Kind::Memory],
        Some(_) => &[],
        None => {
            let has_room = !at.memory_is_scarce || !at.disk_is_scarce;
            let is_second = at.in_use < ENOUGH_SLOTS;
            let memory = !leaves_memory && (has_room || is_second && !at.memory_is_short);
            match (memory, is_second && has_room) {
                (true, true) => &[Kind::Memory, Kind::File],
                (true, false) => &[Kind::Memory],
                (false, true) => &[Kind::File],
                (false, false) => &[],
            }
        }
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

    /// Every situation of an upload whose idle slot is `own`.
    fn situations(own: Option<Kind>) -> impl Iterator<Item = Situation> {
        let levels = [(false, false), (true, false), (true, true)];
        (0..=ENOUGH_SLOTS).flat_map(move |in_use| {
            levels.into_iter().flat_map(move |(memory_is_scarce, memory_is_short)| {
                [false, true].into_iter().flat_map(move |disk_is_scarce| {
                    [false, true].map(|client_is_slow| Situation {
                        own,
                        in_use,
                        memory_is_scarce,
                        memory_is_short,
                        disk_is_scarce,
                        client_is_slow,
                    })
                })
            })
        })
    }

    #[test]
    fn only_slow_uploads_leave_scarce_memory_and_only_others_leave_files() {
        for (memory, file) in situations(Some(Kind::Memory)).zip(situations(Some(Kind::File))) {
            let leaves_memory = memory.client_is_slow && memory.memory_is_scarce;
            assert_eq!(better_than_own(memory) == [Kind::File], leaves_memory, "{memory:?}");
            assert_eq!(better_than_own(file) == [Kind::Memory], !leaves_memory, "{file:?}");
        }
    }

    #[test]
    fn borrowed_slots_leave_room_for_new_uploads_and_memory_for_fast_ones() {
        for at in situations(None) {
            let better = better_than_own(at);
            let (memory, file) = (better.contains(&Kind::Memory), better.contains(&Kind::File));
            if at.client_is_slow && at.memory_is_scarce {
                assert!(!memory, "{at:?}");
            }
            if at.in_use >= ENOUGH_SLOTS {
                assert!(!file, "waiting is faster than a disk: {at:?}");
            }
            if at.memory_is_scarce && at.disk_is_scarce {
                assert!(!file && !(memory && (at.memory_is_short || at.in_use >= ENOUGH_SLOTS)), "{at:?}");
            } else if at.in_use < ENOUGH_SLOTS {
                assert!(file, "{at:?}");
            }
            if !at.client_is_slow && at.in_use < ENOUGH_SLOTS && !at.memory_is_short {
                assert_eq!(better[0], Kind::Memory, "{at:?}");
            }
        }
    }
}
