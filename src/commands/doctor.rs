//! `image-store doctor`: whether the bucket does what the service needs of it.
//!
//! Every check uses the store as the service does, and presigned URLs as a client does. It works on objects of its own,
//! under random keys like the service's, which are removed whatever happens. What it puts is no image: where the
//! bucket's events promote what arrives under `incoming/`, they leave it alone.

use std::net::Ipv4Addr;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

mod bucket;
mod check;
mod context;
mod cors;
mod hints;
mod lifecycle;
mod local;
mod multipart;
mod objects;
mod presigned;
mod presigned_client;
mod report;
mod scratch;
mod versioning;

use self::check::CHECKS;
use self::context::Context;
use self::report::{Finding, Report, Verdict};
use crate::commands::backend::Backend;
use crate::config::Config;

/// What a shell reports of a process that was interrupted.
const INTERRUPTED: u8 = 130;
/// How long a check may go on after that: what is on its way to the store would else be made after it was removed.
const GRACE: Duration = Duration::from_secs(3);

/// Runs every check and prints a line for each; stops when `stop` resolves. What was made is removed in either case.
///
/// Exits with 0 where nothing failed, 1 where something did, 130 where it was stopped.
///
/// # Errors
/// If there is no TLS, or no port for the embedded store's clients.
pub async fn doctor(
    config: &Config,
    backend: &Backend,
    json: bool,
    stop: impl Future<Output = ()>,
) -> Result<ExitCode, String> {
    let (base, _served) = answer_clients(backend).await.map_err(|error| error.to_string())?.unzip();
    let context = Context::new(config, backend, base)?;
    let mut report = Report::new(json);
    let stopping = CancellationToken::new();
    {
        let mut checks = pin!(examine(&context, &mut report, &stopping));
        tokio::select! {
            () = &mut checks => {}
            () = stop => {
                stopping.cancel();
                let _ = tokio::time::timeout(GRACE, checks).await;
            }
        }
    }
    report.add("cleanup", context.clean_up().await);
    report.end(&backend.place);
    Ok(if stopping.is_cancelled() { ExitCode::from(INTERRUPTED) } else { report.code() })
}

/// Presigned URLs of the embedded store lead to the service, which does not run beside doctor: so doctor answers them
/// itself, at the address that it returns, until what it returns is dropped.
async fn answer_clients(backend: &Backend) -> std::io::Result<Option<(String, DropGuard)>> {
    if !backend.is_embedded() {
        return Ok(None);
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let base = format!("http://{}", listener.local_addr()?);
    let (stopped, routes) = (CancellationToken::new(), backend.client_routes());
    let serving = stopped.clone().run_until_cancelled_owned(async { axum::serve(listener, routes).await });
    tokio::spawn(serving);
    Ok(Some((base, stopped.drop_guard())))
}

async fn examine(context: &Context<'_>, report: &mut Report, stopping: &CancellationToken) {
    let mut broken: Vec<&str> = Vec::new();
    for check in CHECKS {
        if stopping.is_cancelled() {
            return;
        }
        let missing = check.needs.iter().find(|needed| broken.contains(needed));
        let outcome = match missing {
            Some(needed) => Err(Finding::skip(format!("needs {needed}"))),
            None => (check.run)(context).await,
        };
        if report.add(check.name, outcome) >= Verdict::Skip {
            broken.push(check.name);
        }
    }
}
