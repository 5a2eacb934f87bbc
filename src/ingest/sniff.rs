//! Type and dimensions from leading bytes.
