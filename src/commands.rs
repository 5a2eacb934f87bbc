//! The subcommands of the binary, one module each.

use std::error::Error;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

pub mod backend;
pub mod config;
#[cfg(feature = "doctor")]
pub mod doctor;
pub mod grant;
pub mod healthcheck;
#[cfg(feature = "manual")]
pub mod manual;
pub mod probe;
pub mod serve;
pub mod sweep;
#[cfg(feature = "client")]
pub mod upload;

/// The result of a command: its exit status, or an error to print.
pub type Outcome = Result<ExitCode, Box<dyn Error>>;

/// Resolves at SIGTERM or SIGINT.
///
/// # Errors
/// Returns an error if the signal handlers cannot be installed.
pub fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
}
