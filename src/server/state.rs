//! The state that all handlers share.

use axum::Router;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::middleware::authority::Authorities;
use super::readiness::Readiness;
use crate::auth::tokens::Tokens;
use crate::config::Config;
use crate::direct::Promotions;
use crate::direct::verify::Verifier;
use crate::policy::Policy;
use crate::resumable::ResumableUploads;
use crate::store::metered::MeteredStore;
use crate::store::{PresignOptions, Store};
use crate::telemetry::Metrics;
use crate::telemetry::metrics::defs;
use crate::upload::UploadManager;
use crate::upload::spill::Spill;

/// Everything a handler needs. Cheap to clone, which happens several times for each request.
#[derive(Clone)]
pub struct App {
    shared: Arc<SharedState>,
    /// The routes of the embedded store, which clients reach through the service. Empty for other stores.
    pub(super) store_routes: Router,
}

/// What the clones of an [`App`] share.
pub struct SharedState {
    pub config: Config,
    pub policy: Arc<Policy>,
    pub store: Arc<dyn Store>,
    pub uploads: UploadManager,
    pub resumable: ResumableUploads,
    pub verifier: Verifier,
    pub promotions: Promotions,
    pub tokens: Tokens,
    pub authorities: Authorities,
    pub readiness: Readiness,
    pub metrics: Metrics,
    draining: AtomicBool,
}

impl Deref for App {
    type Target = SharedState;

    fn deref(&self) -> &SharedState {
        &self.shared
    }
}

impl App {
    pub fn new(config: Config, store: Arc<dyn Store>, spill: Option<Spill>) -> Self {
        let metrics = Metrics::new();
        // Readiness checks are not subject to the limit of concurrent calls: a busy service is ready.
        let readiness = Readiness::new(Arc::clone(&store));
        let store: Arc<dyn Store> = Arc::new(MeteredStore::new(store, &metrics, config.store.max_calls));
        let policy = Arc::new(config.policy.clone());
        let uploads = UploadManager::new(Arc::clone(&store), &config.upload, spill);
        let tasks = uploads.tasks().clone();
        let budget = Arc::clone(uploads.budget());
        let reconciler = uploads.reconciler().clone();
        let (checks, turns) = (Arc::clone(&policy), uploads.turns().clone());
        let verifier = Verifier::new(Arc::clone(&store), reconciler, checks, budget, tasks.clone(), turns);
        let resumable =
            ResumableUploads::new(Arc::clone(&store), uploads.clone(), Arc::clone(&policy), config.upload.part_size);
        let tokens = Tokens::new(config.auth.keys.clone(), config.auth.token_secret.as_ref());
        let shared = SharedState {
            promotions: Promotions::new(verifier.clone(), tasks, metrics.clone()),
            verifier,
            policy,
            uploads,
            resumable,
            tokens,
            authorities: Authorities::new(config.auth.keys.clone(), metrics.clone()),
            config,
            readiness,
            store,
            metrics,
            draining: AtomicBool::default(),
        };
        App { shared: Arc::new(shared), store_routes: Router::new() }
    }

    /// Adds `routes`, through which clients reach a store in this process. The service's CORS rules, security headers
    /// and deadline do not apply to them.
    #[must_use]
    pub fn with_store_routes(mut self, routes: Router) -> Self {
        self.store_routes = routes;
        self
    }

    /// Returns all metrics in Prometheus' text format. Gauges are updated first.
    pub fn scrape(&self) -> String {
        let (used, limit) = (self.uploads.used(), self.uploads.limits());
        for (budget, used, limit) in [("memory", used.0, limit.0), ("spill", used.1, limit.1)] {
            self.metrics.gauge(&defs::BUDGET_USED, &[budget]).set(used as f64);
            self.metrics.gauge(&defs::BUDGET_LIMIT, &[budget]).set(limit as f64);
        }
        self.metrics.gauge(&defs::UPLOADS_OPEN, &[]).set(self.uploads.open() as f64);
        self.metrics.render()
    }

    /// Starts draining: from now on `/readyz` returns 503, so that load balancers send no more requests.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Returns the options of links to an image, for a client that reached the service at `base`.
    pub fn read_link(&self, base: Option<String>) -> PresignOptions {
        PresignOptions { ttl: self.config.read_url_ttl, base }
    }
}
