//! API keys and signed tokens: data and checks, no HTTP.

mod api_keys;
pub mod grants;
mod jwt;
pub mod tokens;

pub use api_keys::{Hash, Key, Keys, MIN_GRANTING_KEY, Scope, Secret, is_readable_by_others};
