//! Decides where the parts of an upload are placed. Pure: no I/O.

use std::time::Duration;

/// A client that takes longer than this to fill a part is slow: a disk does not slow it down further.
pub(super) const SLOW_CLIENT: Duration = Duration::from_secs(1);

/// A kind of slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Memory,
    File,
}

/// Returns the kinds of free slots that are better than the upload's own idle slot, the best one first.
pub(super) fn better_than(own: Option<Kind>, client_is_slow: bool, memory_is_scarce: bool) -> &'static [Kind] {
    match own {
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
    fn only_slow_uploads_leave_scarce_memory_and_only_fast_ones_leave_files() {
        for (client_is_slow, memory_is_scarce) in [(false, false), (false, true), (true, false), (true, true)] {
            let better = |own| better_than(own, client_is_slow, memory_is_scarce);
            assert_eq!(better(None), [Kind::Memory, Kind::File]);
            assert_eq!(better(Some(Kind::Memory)) == [Kind::File], client_is_slow && memory_is_scarce);
            assert_eq!(better(Some(Kind::File)) == [Kind::Memory], !client_is_slow);
        }
    }
}
