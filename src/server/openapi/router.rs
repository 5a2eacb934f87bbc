//! Routes that carry their description, which is built when the document is first requested. Building all descriptions
//! takes longer than building the routes, and on Lambda it would delay every cold start.

use axum::Router;
use axum::routing::{MethodFilter, MethodRouter};
use utoipa::openapi::{HttpMethod, OpenApi};
use utoipa_axum::PathItemExt;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};

use crate::server::App;

/// Builds a description when it is called.
pub type Describe = Box<dyn FnOnce() -> OpenApi + Send>;

/// Routes, and what builds their description.
pub struct DescribedRouter {
    routes: Router<App>,
    describe: Describe,
}

impl DescribedRouter {
    pub fn new(routes: Router<App>, describe: impl FnOnce() -> OpenApi + Send + 'static) -> Self {
        DescribedRouter { routes, describe: Box::new(describe) }
    }

    /// Adds `other` routes and their description.
    pub fn merge(self, other: Self) -> Self {
        let routes = self.routes.merge(other.routes);
        DescribedRouter::new(routes, || (self.describe)().merge_from((other.describe)()))
    }

    /// Adds a route without a description.
    pub fn route(self, path: &str, method: MethodRouter<App>) -> Self {
        self.map_routes(|routes| routes.route(path, method))
    }

    pub fn map_routes(self, change: impl FnOnce(Router<App>) -> Router<App>) -> Self {
        DescribedRouter { routes: change(self.routes), ..self }
    }

    /// Changes the description of the routes so far.
    pub fn map_description(self, change: impl FnOnce(&mut OpenApi) + Send + 'static) -> Self {
        DescribedRouter::new(self.routes, || {
            let mut description = (self.describe)();
            change(&mut description);
            description
        })
    }

    pub fn into_parts(self) -> (Router<App>, Describe) {
        (self.routes, self.describe)
    }
}

/// Returns the routes of handlers, `routes!(module::handler, …)`, with the paths and methods that their
/// `#[utoipa::path(…)]` declares.
macro_rules! routes {
    ($($module:ident::$handler:ident),+ $(,)?) => {
        utoipa_axum::paste! {
            $crate::server::openapi::router::DescribedRouter::new(
                axum::Router::new()$(.route(
                    &<$module::[<__path_ $handler>] as utoipa::Path>::path(),
                    $crate::server::openapi::router::on::<$module::[<__path_ $handler>], _, _>($module::$handler),
                ))+,
                || $crate::server::openapi::router::describe([$(utoipa_axum::routes!($module::$handler)),+]),
            )
        }
    };
}
pub(crate) use routes;

/// Returns the route of a handler for the methods of its declaration.
pub fn on<P, H, T>(handler: H) -> MethodRouter<App>
where
    P: utoipa::Path,
    H: axum::handler::Handler<T, App>,
    T: 'static,
{
    let filters = P::methods().into_iter().map(|method: HttpMethod| method.to_method_filter());
    filters.reduce(MethodFilter::or).map_or_else(MethodRouter::new, |filter| axum::routing::on(filter, handler))
}

/// Returns the description of handlers.
pub fn describe<const N: usize>(handlers: [UtoipaMethodRouter<App>; N]) -> OpenApi {
    handlers.into_iter().fold(OpenApiRouter::default(), OpenApiRouter::routes).into_openapi()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn descriptions_are_built_only_on_request() {
        let built = Arc::new(AtomicUsize::new(0));
        let described = || {
            let built = Arc::clone(&built);
            DescribedRouter::new(Router::new(), move || {
                built.fetch_add(1, Ordering::Relaxed);
                OpenApi::default()
            })
        };
        let changed = Arc::clone(&built);
        let routes = described().merge(described()).map_description(move |_| {
            changed.fetch_add(1, Ordering::Relaxed);
        });
        let (_, describe) = routes.into_parts();
        assert_eq!(built.load(Ordering::Relaxed), 0);
        describe();
        assert_eq!(built.load(Ordering::Relaxed), 3);
    }
}
