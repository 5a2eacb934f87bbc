//! API keys and signed tokens: data and checks, no HTTP.

mod api_keys;
pub mod tokens;

pub use api_keys::{Key, Keys, Scope, Secret};
