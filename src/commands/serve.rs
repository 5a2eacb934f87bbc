//! `image-store serve`, as an HTTP server or as a Lambda function.

use futures::future::OptionFuture;
use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use super::backend::Backend;
use super::probe::Probe;
use super::{Outcome, probe, stop_signal};
use crate::auth::{MIN_GRANTING_KEY, is_readable_by_others};
use crate::config::{self, Config};
use crate::server::App;
use crate::telemetry::log;
use crate::transport;
use crate::upload::spill::{Spill, Unusable};

/// How long the service looks for objects of calls with unknown outcome before it exits.
const RECONCILE_TIMEOUT: Duration = Duration::from_secs(5);

/// Delays the probe of a function, so that the first invocation does not share the processor with it. This probe writes
/// nothing, because otherwise every cold start would write, and the function may be frozen in the middle of the test.
const PROBE_DELAY: Duration = Duration::from_secs(1);

/// Handles the invocations of a Lambda function.
///
/// # Errors
/// Returns an error if the Runtime API cannot be reached.
pub async fn function(config: Config, backend: &Backend) -> Outcome {
    warn_of_keys(&config.auth);
    probe::look(Arc::clone(&backend.s3), PROBE_DELAY);
    let app = App::new(config, Arc::clone(&backend.store), None);
    transport::lambda::serve(app).await.map_err(|error| -> Box<dyn Error> { error })?;
    Ok(ExitCode::SUCCESS)
}

/// Serves HTTP until SIGTERM or SIGINT.
///
/// # Errors
/// Returns an error if the address or the spill folder cannot be used.
pub async fn serve(mut config: Config, backend: &Backend) -> Outcome {
    if let Some(warning) = config.keep_to_descriptors(raise_file_limit()) {
        tracing::warn!("{warning}");
    }
    let server = config.server.clone();
    let spill = open_spill(&config.upload)?;
    let listener = transport::http::listen((server.host, server.port).into())
        .map_err(|error| format!("cannot listen on {}:{}: {error}", server.host, server.port))?;
    let address = listener.local_addr()?;
    greet(address, backend, config.log_json);
    if config.auth.keys.is_empty() && !address.ip().is_loopback() {
        tracing::warn!(
            "no API keys are configured: everyone who can reach this address may upload, read and delete images; \
             set API_KEYS or API_KEYS_FILE"
        );
    }
    warn_of_keys(&config.auth);
    let app = App::new(config, Arc::clone(&backend.store), spill).with_store_routes(backend.client_routes());
    let reconciler = app.uploads.reconciler().clone();
    let probe = (!backend.is_embedded()).then(|| probe::start(Arc::clone(&backend.s3), reconciler.clone()));
    let clean = transport::http::serve(listener, app.clone(), server, stop_signal()?).await;
    OptionFuture::from(probe.map(Probe::end)).await;
    // If this times out, the shutdown is still clean, because late effects are only a possibility. The log says which.
    let _ = tokio::time::timeout(RECONCILE_TIMEOUT, reconciler.conclude()).await;
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints the address on the standard output: as a line of the log if that is JSON, so that a container whose two outputs
/// are collected together prints nothing else.
fn greet(address: SocketAddr, backend: &Backend, json: bool) {
    let listens = format!("image-store listens on http://{address}, images are stored in {}", backend.place);
    if json {
        return println!("{}", log::json_line("INFO", &listens));
    }
    println!("{listens}");
    if backend.is_embedded() {
        let sample = "tests/fixtures/plain.jpg";
        let file = if Path::new(sample).exists() { sample } else { "photo.jpg" };
        println!("try it:  curl -F file=@{file} http://{address}/upload-image");
    }
}

/// Warns of weak or readable API keys. The service starts nevertheless.
fn warn_of_keys(auth: &config::Auth) {
    for key in auth.keys.iter().filter(|key| key.is_short()) {
        let name = key.name();
        tracing::warn!("API_KEYS: {name} has fewer than {MIN_GRANTING_KEY} characters, so it cannot sign grants");
    }
    if let Some(file) = auth.keys_file.as_deref().filter(|file| is_readable_by_others(file)) {
        let file = file.display();
        tracing::warn!("API_KEYS_FILE: other users can read {file}, and with it sign grants; run chmod 600 on it");
    }
}

/// Raises the soft limit of open files to the hard limit, and returns it. The usual soft limit of 1,024 exists for
/// programs that use select(2).
fn raise_file_limit() -> u64 {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    let before = limit.current;
    limit.current = limit.maximum;
    match setrlimit(Resource::Nofile, limit) {
        Ok(()) => limit.maximum.unwrap_or(u64::MAX),
        Err(error) => {
            tracing::warn!(%error, "the limit of open files could not be raised");
            before.unwrap_or(u64::MAX)
        }
    }
}

/// Opens the spill folder. Returns `None` if spilling is disabled, or if the folder cannot be used and was not set
/// explicitly.
fn open_spill(config: &config::Upload) -> Result<Option<Spill>, Unusable> {
    match Spill::configured(config.spill_budget, &config.spill_dir) {
        Err(unusable) if !config.spill_chosen => {
            tracing::warn!("uploads are rejected with 503 when the memory budget is used up: {unusable}");
            Ok(None)
        }
        opened => opened,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::Parser;

    fn opened(flags: &[&str], folder: &Path) -> Result<Option<Spill>, Unusable> {
        let all = ["image-store", "--s3-bucket=b"].into_iter().chain(flags.iter().copied());
        let mut upload = Config::new(&Cli::parse_from(all).settings).unwrap().upload;
        upload.spill_dir = folder.to_owned();
        open_spill(&upload)
    }

    #[test]
    fn unusable_spill_folder_is_an_error_only_if_configured() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(opened(&[], folder.path()).unwrap().is_some());
        assert!(opened(&[], &file).unwrap().is_none());
        assert!(opened(&["--spill-budget=0"], &file).unwrap().is_none());
        for chosen in ["--spill-budget=1GiB", "--spill-dir=anywhere"] {
            let message = opened(&[chosen], &file).unwrap_err().to_string();
            assert!(message.starts_with("SPILL_DIR: ") && message.contains("SPILL_BUDGET=0"), "{message}");
        }
        let memory = Path::new("/dev/shm");
        if memory.exists() {
            assert!(opened(&[], memory).unwrap().is_none());
            assert!(opened(&["--spill-budget=1GiB"], memory).unwrap_err().why.contains("tmpfs"));
        }
    }
}
