//! How the process divides its limit of open file descriptors among their users.
//!
//! Connections, calls to the store and spilled parts each use file descriptors, and clients decide how many are
//! requested. Each kind has a share of its own. When one kind uses up its share, the others keep theirs, so admitted
//! uploads continue.

use super::Config;

/// The maximum number of open file descriptors of each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptors {
    /// Connections from clients.
    pub connections: usize,
    /// Connections above that limit, on which only `/healthz` is answered.
    pub extra_connections: usize,
    /// Calls to the store.
    pub calls: usize,
    /// Parts that are stored in files.
    pub spill_files: usize,
}

impl Descriptors {
    /// A larger number would not answer health checks any sooner.
    pub(super) const EXTRA_CONNECTIONS: usize = 32;
    /// High enough that calls wait for the store and not for each other, if there are enough descriptors.
    pub(super) const MAX_CALLS: usize = 4096;
    pub(super) const MAX_SPILL_FILES: usize = 4096;

    /// Descriptors that one call may have open: its connection, and one more, because a connection that is being opened
    /// for a call is kept even if another one becomes free in the meantime. In the embedded store they are the call's
    /// files.
    const PER_CALL: usize = 2;

    /// Divides `limit` descriptors: half for connections, a quarter for calls, an eighth for spilled parts. The last
    /// eighth remains for the listener, the standard streams and name lookups.
    pub fn share(limit: u64, embedded: bool) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let extra_connections = Self::EXTRA_CONNECTIONS.min(limit / 16).max(1);
        Descriptors {
            connections: ((limit / 2).saturating_sub(extra_connections) / Self::per_connection(embedded)).max(1),
            extra_connections,
            calls: (limit / 4 / Self::PER_CALL).clamp(1, Self::MAX_CALLS),
            spill_files: (limit / 8).min(Self::MAX_SPILL_FILES),
        }
    }

    /// Returns the number of descriptors that one connection may use: its socket and, with the embedded store, the file
    /// that its request reads or writes. Extra connections do not use the store.
    const fn per_connection(embedded: bool) -> usize {
        if embedded { 2 } else { 1 }
    }
}

impl Config {
    /// Reduces the limits in the configuration to fit `limit` open descriptors. Returns a warning if that reduces
    /// `MAX_CONNECTIONS`.
    pub fn keep_to_descriptors(&mut self, limit: u64) -> Option<String> {
        let shares = Descriptors::share(limit, self.store.bucket.is_none());
        let configured = self.server.max_connections;
        self.server.max_connections = configured.min(shares.connections);
        self.server.extra_connections = shares.extra_connections;
        self.store.max_calls = shares.calls;
        self.upload.spill_files = shares.spill_files;
        (shares.connections < configured).then(|| {
            let served = shares.connections;
            format!(
                "MAX_CONNECTIONS={configured} exceeds what the limit of {limit} open files (ulimit -Hn) allows: \
                 {served} connections are served at once"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::Parser;

    fn sum(shares: Descriptors, embedded: bool) -> usize {
        let Descriptors { connections, extra_connections, calls, spill_files } = shares;
        connections * Descriptors::per_connection(embedded)
            + extra_connections
            + calls * Descriptors::PER_CALL
            + spill_files
    }

    #[test]
    fn shares_leave_an_eighth_of_the_limit() {
        for limit in [64, 256, 512, 1024, 4096, 1 << 20, u64::MAX] {
            for embedded in [false, true] {
                let shares = Descriptors::share(limit, embedded);
                assert!(sum(shares, embedded) as u64 <= limit - limit / 8, "{limit}: {shares:?}");
            }
        }
        let small = Descriptors { connections: 224, extra_connections: 32, calls: 64, spill_files: 64 };
        assert_eq!(Descriptors::share(512, false), small);
        assert_eq!(Descriptors::share(512, true), Descriptors { connections: 112, ..small });
    }

    #[test]
    fn system_limit_overrides_max_connections() {
        let read = || Config::new(&Cli::parse_from(["image-store", "--s3-bucket=b"]).settings).unwrap();
        let mut config = read();
        assert!(config.keep_to_descriptors(512).unwrap().contains("224 connections"));
        assert_eq!((config.server.max_connections, config.store.max_calls, config.upload.spill_files), (224, 64, 64));
        let mut config = read();
        assert_eq!(config.keep_to_descriptors(4096), None);
        assert_eq!(config.server.max_connections, 1024);
    }
}
