//! The service without its transport: state, routes and the middleware of every request.

mod html;
pub mod json;
pub mod middleware;
pub mod openapi;
pub mod readiness;
pub mod request;
pub mod response;
mod router;
pub mod routes;
mod state;

pub use state::App;
