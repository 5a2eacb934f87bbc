//! `image-store doctor`: checks that the bucket supports what the service requires.
//!
//! The checks use the store as the service does, and presigned URLs as a client does. They create test objects under
//! random keys like the service's, which are removed in any case. The test objects are not images, so they are not
//! promoted if the bucket sends events for objects under `incoming/`.

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
mod versioning;

use self::check::CHECKS;
use self::context::Context;
use self::report::{Finding, Report, Verdict};
use crate::commands::backend::Backend;
use crate::config::Config;

/// The exit status that shells report for a process that was interrupted.
const INTERRUPTED: u8 = 130;
/// How long a running check may continue after an interrupt. Otherwise a request that is on its way to the store could
/// create an object after the clean-up.
const GRACE: Duration = Duration::from_secs(3);

/// Runs all checks and prints a line for each. Stops when `stop` resolves. The test objects are removed in either case.
///
/// Exits with 0 if no check failed, 1 if a check failed, and 130 if it was stopped.
///
/// # Errors
/// Returns an error if TLS cannot be initialised, or if no port is available for clients of the embedded store.
pub async fn doctor(
    config: &Config,
    backend: &Backend,
    json: bool,
    stop: impl Future<Output = ()>,
) -> Result<ExitCode, String> {
    let (base, _server) = serve_clients(backend).await.map_err(|error| error.to_string())?.unzip();
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

/// Serves presigned URLs of the embedded store. They normally lead to the service, which cannot run at the same time.
/// Returns the base URL and a guard that stops the server when it is dropped.
async fn serve_clients(backend: &Backend) -> std::io::Result<Option<(String, DropGuard)>> {
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
            Some(needed) => Err(Finding::skip(format!("requires the check {needed}, which did not succeed"))),
            None => (check.run)(context).await,
        };
        if report.add(check.name, outcome) >= Verdict::Skip {
            broken.push(check.name);
        }
    }
}
