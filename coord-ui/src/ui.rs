//! The page as routes of a web server.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, HeaderName, HeaderValue, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use coord_api::ConfigCenter;
use coord_core::Client;

use crate::answer::Refusal;
use crate::options::UiOptions;
use crate::parts::Parts;
use crate::{assets, change, stream};

/// Nothing of anybody else's is loaded, run or asked, and nobody frames the page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src 'self' data:; base-uri 'self'; form-action 'none'; frame-ancestors 'none'";

/// The operator's page over a store. Cheap to clone.
///
/// It does nothing while nobody looks. What somebody looks at is watched, and read again when it
/// changes, at most twice a second: lists once for all who look at them, the instances or ids of
/// one service and a document for each viewer. What takes long to read is read less often, so that
/// reading never takes more than a fifth of the time. Nothing is kept for a viewer that does not
/// read.
#[derive(Clone)]
pub struct Ui {
    parts: Arc<Parts>,
}

impl Ui {
    /// The page over the store of this client, and this config centre over it. No I/O.
    pub fn new(client: &Client, config: Arc<dyn ConfigCenter>, options: UiOptions) -> Self {
        Ui { parts: Arc::new(Parts::new(client, config, options)) }
    }

    /// The routes, for a server of one's own: at its root, or nested wherever it is wanted. Put
    /// what asks who is there in front of it: whoever reaches it reads all that is not secret.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/", get(assets::page))
            .route("/assets/{name}", get(assets::asset))
            .route("/api/stream", get(stream::stream_of))
            .route("/api/version", get(change::version))
            .route("/api/diff", get(change::diff))
            .route("/api/config", post(change::set))
            .route("/api/rollback", post(change::rollback))
            .route("/api/end", post(change::end))
            .layer(from_fn_with_state(Arc::clone(&self.parts), guard))
            .with_state(Arc::clone(&self.parts))
    }
}

/// Answers those who ask by a name that is ours, and tells browsers what they may do with it.
async fn guard(State(parts): State<Arc<Parts>>, request: Request, next: Next) -> Response {
    let host = request.uri().host().or_else(|| request.headers().get(HOST)?.to_str().ok());
    let is_ours = parts.hosts.as_ref().is_none_or(|hosts| host.is_some_and(|host| is_one_of(host, hosts)));
    let mut response = match is_ours {
        true => next.run(request).await,
        false => Refusal::Forbidden("This page is not known by that name.").into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(
        HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static("same-origin"),
    );
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Whether a host is an address, `localhost`, or one of these names; its port does not count.
fn is_one_of(host: &str, names: &[String]) -> bool {
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let is = |known: &str| name.eq_ignore_ascii_case(known);
    name.parse::<IpAddr>().is_ok() || is("localhost") || names.iter().any(|known| is(known))
}

impl fmt::Debug for Ui {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ui").field("client", &self.parts.client.name()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_somebody_elses_is_not_ours() {
        let names = ["ops.example".to_owned()];
        for host in
            ["127.0.0.1:8080", "10.0.0.1", "[::1]:80", "[::1]", "localhost:1", "LOCALHOST", "ops.example:443"]
        {
            assert!(is_one_of(host, &names), "{host}");
        }
        for host in ["evil.example", "127.0.0.1.evil.example:80", "ops.example.evil", "", "[evil]:1"] {
            assert!(!is_one_of(host, &names), "{host}");
        }
    }
}
