//! From a request's body to one checked image: its bytes, its type, its dimensions.

pub mod form;
pub mod sniff;
