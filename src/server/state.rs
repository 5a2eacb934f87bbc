//! What every handler shares.

use axum::Router;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::middleware::authority::Authorities;
use super::readiness::Readiness;
use crate::auth::tokens::Tokens;
use crate::config::Config;
use crate::direct::Promotions;
use crate::direct::verify::Verifier;
use crate::policy::Policy;
use crate::store::metered::MeteredStore;
use crate::store::{PresignOptions, Store};
use crate::telemetry::Metrics;
use crate::telemetry::metrics::defs;
use crate::upload::UploadManager;
use crate::upload::spill::Spill;

/// Everything a handler needs. Cheap to clone.
#[derive(Clone)]
pub struct App {
    pub config: Arc<Config>,
    pub policy: Arc<Policy>,
    pub store: Arc<dyn Store>,
    pub uploads: UploadManager,
    pub verifier: Verifier,
    pub promotions: Promotions,
    pub tokens: Tokens,
    pub authorities: Authorities,
    pub readiness: Readiness,
    pub metrics: Metrics,
    draining: Arc<AtomicBool>,
    /// Of a store that is reached through the service; else none.
    pub(super) store_routes: Router,
}

impl App {
    pub fn new(config: Config, store: Arc<dyn Store>, spill: Option<Spill>) -> Self {
        let metrics = Metrics::new();
        // Not behind the limit of calls: a service that is busy is ready.
        let readiness = Readiness::new(Arc::clone(&store));
        let store: Arc<dyn Store> = Arc::new(MeteredStore::new(store, &metrics, config.store.max_calls));
        let policy = Arc::new(config.policy.clone());
        let uploads = UploadManager::new(Arc::clone(&store), &config.upload, spill);
        let tasks = uploads.tasks().clone();
        let budget = Arc::clone(uploads.budget());
        let verifier = Verifier::new(Arc::clone(&store), Arc::clone(&policy), budget, tasks.clone());
        let tokens = Tokens::new(config.auth.keys.clone(), config.auth.token_secret.as_ref());
        App {
            promotions: Promotions::new(verifier.clone(), tasks, metrics.clone()),
            verifier,
            policy,
            uploads,
            tokens,
            authorities: Authorities::new(config.auth.keys.clone(), metrics.clone()),
            config: Arc::new(config),
            readiness,
            store,
            metrics,
            draining: Arc::default(),
            store_routes: Router::new(),
        }
    }

    /// Serves `routes` too: clients' way to a store in this process. What holds for the service's own routes (CORS, headers, the
    /// deadline) does not hold for them.
    #[must_use]
    pub fn with_store_routes(mut self, routes: Router) -> Self {
        self.store_routes = routes;
        self
    }

    /// All metrics in Prometheus' text format, those that are only known now among them.
    pub fn scrape(&self) -> String {
        let (used, limit) = (self.uploads.used(), self.uploads.limits());
        for (budget, used, limit) in [("memory", used.0, limit.0), ("spill", used.1, limit.1)] {
            self.metrics.gauge(&defs::BUDGET_USED, &[budget]).set(used as f64);
            self.metrics.gauge(&defs::BUDGET_LIMIT, &[budget]).set(limit as f64);
        }
        self.metrics.gauge(&defs::UPLOADS_OPEN, &[]).set(self.uploads.open() as f64);
        self.metrics.render()
    }

    /// From now on [`App::is_draining`]: readiness says no, so that nobody is sent here any more.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// How links to an image are signed for a client that reached the service at `base`.
    pub fn read_link(&self, base: Option<String>) -> PresignOptions {
        PresignOptions { ttl: self.config.read_url_ttl, base }
    }
}
