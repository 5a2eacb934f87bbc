//! What the tests of several modules share.

pub(crate) mod memory;
pub(crate) mod schedule;
