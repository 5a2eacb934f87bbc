//! Decides where the next part of an upload is placed. Pure: no I/O.

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

#[cfg(test)]
mod tests {
    use super::*;

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
