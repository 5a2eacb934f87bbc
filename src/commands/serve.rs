//! `image-store serve`, as an HTTP server or as a Lambda function.

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use super::backend::Backend;
use super::{Outcome, probe, stop_signal};
use crate::auth::{MIN_GRANTING_KEY, is_readable_by_others};
use crate::config::{self, Config};
use crate::server::App;
use crate::transport;
use crate::upload::spill::{Spill, Unusable};

/// At the end, what calls whose answers were lost may have done is looked for once more, for this long.
const LAST_LOOKS: Duration = Duration::from_secs(5);

/// A function's first invocation has the little processor time there is for itself.
const PROBE_DELAY: Duration = Duration::from_secs(1);

/// Answers the invocations of a Lambda function.
///
/// # Errors
/// If the Runtime API cannot be reached.
pub async fn function(config: Config, backend: &Backend) -> Outcome {
    warn_of_keys(&config.auth);
    probe::start(Arc::clone(&backend.s3), PROBE_DELAY);
    let app = App::new(config, Arc::clone(&backend.store), None);
    transport::lambda::serve(app).await.map_err(|error| -> Box<dyn Error> { error })?;
    Ok(ExitCode::SUCCESS)
}

/// Serves HTTP until SIGTERM or SIGINT.
///
/// # Errors
/// If the address or the spill folder cannot be used.
pub async fn serve(mut config: Config, backend: &Backend) -> Outcome {
    if let Some(warning) = config.keep_to_descriptors(raise_file_limit()) {
        tracing::warn!("{warning}");
    }
    let server = config.server.clone();
    let spill = open_spill(&config.upload)?;
    let listener = transport::http::listen((server.host, server.port).into())
        .map_err(|error| format!("cannot listen on {}:{}: {error}", server.host, server.port))?;
    let address = listener.local_addr()?;
    println!("image-store listens on http://{address}, images go to {}", backend.place);
    if backend.is_embedded() {
        let sample = "tests/fixtures/plain.jpg";
        let file = if Path::new(sample).exists() { sample } else { "photo.jpg" };
        println!("try it:  curl -F file=@{file} http://{address}/upload-image");
    }
    if config.auth.keys.is_empty() && !address.ip().is_loopback() {
        tracing::warn!("anybody who reaches this address may upload, read and delete: set API_KEYS or API_KEYS_FILE");
    }
    warn_of_keys(&config.auth);
    if !backend.is_embedded() {
        probe::start(Arc::clone(&backend.s3), Duration::ZERO);
    }
    let app = App::new(config, Arc::clone(&backend.store), spill).with_store_routes(backend.client_routes());
    let clean = transport::http::serve(listener, app.clone(), server, stop_signal()?).await;
    // Not a reason to call the end unclean: nothing says that anything is there.
    let _ = tokio::time::timeout(LAST_LOOKS, app.uploads.reconciler().conclude()).await;
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What is wrong with the keys, and no reason not to start.
fn warn_of_keys(auth: &config::Auth) {
    for key in auth.keys.iter().filter(|key| key.is_short()) {
        let name = key.name();
        tracing::warn!("API_KEYS: {name} has fewer than {MIN_GRANTING_KEY} characters: it cannot sign grants");
    }
    if let Some(file) = auth.keys_file.as_deref().filter(|file| is_readable_by_others(file)) {
        let file = file.display();
        tracing::warn!("API_KEYS_FILE: others may read {file}, and whoever can may sign grants: chmod 600 it");
    }
}

/// Raises the soft limit of open files to the hard one, and returns it. The usual soft limit of 1,024 is for programs that use
/// select(2).
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

/// None where nothing is to spill, or nothing can and nobody asked for it.
fn open_spill(config: &config::Upload) -> Result<Option<Spill>, Unusable> {
    match Spill::configured(config.spill_budget, &config.spill_dir) {
        Err(unusable) if !config.spill_chosen => {
            tracing::warn!("uploads that find no memory are told 503: {unusable}");
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
    fn where_nothing_can_spill_only_those_who_asked_for_it_are_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(opened(&[], folder.path()).unwrap().is_some());
        assert!(opened(&[], &file).unwrap().is_none());
        assert!(opened(&["--spill-budget=0"], &file).unwrap().is_none());
        for chosen in ["--spill-budget=1GiB", "--spill-dir=anywhere"] {
            let told = opened(&[chosen], &file).unwrap_err().to_string();
            assert!(told.starts_with("SPILL_DIR: ") && told.contains("SPILL_BUDGET=0"), "{told}");
        }
        let memory = Path::new("/dev/shm");
        if memory.exists() {
            assert!(opened(&[], memory).unwrap().is_none());
            assert!(opened(&["--spill-budget=1GiB"], memory).unwrap_err().why.contains("tmpfs"));
        }
    }
}
