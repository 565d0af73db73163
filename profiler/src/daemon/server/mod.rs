//! The HTTP side of the daemon: the page, profiles to be pulled, metrics and health. `docs/daemon-http.md` lists the paths.
//!
//! Nothing here changes anything: every request is a question. What a client does, or leaves undone, costs a bounded number of
//! connections and questions at work, and never the thread that samples.

mod access;
mod connection;
mod health;
mod page;
mod policy;
mod pull;
mod query;
mod reply;
#[cfg(test)]
mod tests;
mod views;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use prometheus_client::registry::Registry;
use tokio::sync::{Semaphore, broadcast, watch};

use self::access::Access;
use self::connection::Limited;
use self::reply::{Refusal, typed};
use super::config::Listen;
use super::sampler;
use super::store::Store;
use crate::profile::window::{Identity, Window};

/// How long requests at work have to finish when the daemon ends.
const GRACE: Duration = Duration::from_secs(3);
/// How long a client may take for its TLS handshake, and for the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Most bytes of the head of a request, and most headers in it.
const HEAD_LIMIT: usize = 16 * 1024;
const HEADERS_LIMIT: usize = 64;
/// Questions to the store that are answered at once: each may hold a large profile.
const QUERIES: usize = 2;
/// Profiles that are pulled at once.
const PULLS: usize = 8;

/// What requests are answered from.
#[derive(Debug)]
pub struct Shared {
    /// What all processes did in each second.
    pub slices: broadcast::Sender<Arc<Window>>,
    /// The processes that are profiled now.
    pub processes: watch::Receiver<Vec<Arc<Identity>>>,
    /// The profiles that are stored, if they are.
    pub store: Option<Arc<Store>>,
    /// What `/metrics` tells.
    pub metrics: Arc<Registry>,
    /// Whether samples are taken.
    pub state: watch::Receiver<sampler::State>,
}

/// What handlers see.
#[derive(Debug)]
struct Service {
    shared: Arc<Shared>,
    access: Access,
    queries: Semaphore,
    pulls: Semaphore,
    /// Turns true when the daemon ends.
    stopping: watch::Receiver<bool>,
}

/// Tells whether a configuration can be served, as far as that is known without listening.
///
/// # Errors
/// When it would open the daemon to everybody, or a file that it names cannot be used.
pub fn check(config: &Listen) -> anyhow::Result<()> {
    if config.enabled { Access::of(config).map(drop) } else { Ok(()) }
}

/// A server that has its address and does not answer yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    access: Access,
}

impl Server {
    /// Checks the configuration and takes the address. From here on clients can connect, and wait.
    ///
    /// # Errors
    /// Those of [`check`], and when the address cannot be had.
    pub fn bind(config: &Listen) -> anyhow::Result<Server> {
        let access = Access::of(config)?;
        let address = config.address;
        let bound = TcpListener::bind(address).and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (address, listener) = bound.with_context(|| {
            format!(
                "{address} cannot be listened on: choose another address in [listen], or end the program that listens there"
            )
        })?;
        Ok(Server { listener, address, access })
    }

    /// The address, with the port that was found if the configuration leaves it open.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop` is done, and then for a few seconds more what has been asked.
    ///
    /// # Errors
    /// When the socket fails.
    pub async fn serve(self, shared: Arc<Shared>, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let (stopped, stopping) = watch::channel(false);
        let tls = self.access.tls.clone();
        let routes = routes(Arc::new(Service {
            shared,
            access: self.access,
            queries: Semaphore::new(QUERIES),
            pulls: Semaphore::new(PULLS),
            stopping,
        }))
        .into_make_service();
        let handle = axum_server::Handle::new();
        let mut server = axum_server::from_tcp(self.listener)
            .context("the socket cannot be used")?
            .handle(handle.clone())
            .first_request_timeout(HEAD_TIMEOUT)
            .http1_only();
        let mut http = server.http_builder().http1();
        http.header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_LIMIT).max_headers(HEADERS_LIMIT);
        let limited = Limited::default();
        let serving = async move {
            match tls {
                Some(config) => {
                    let acceptor = RustlsAcceptor::new(RustlsConfig::from_config(config));
                    server.acceptor(acceptor.handshake_timeout(HEAD_TIMEOUT).acceptor(limited)).serve(routes).await
                }
                None => server.acceptor(limited).serve(routes).await,
            }
        };
        let stop = async {
            stop.await;
            // Profiles that are being pulled end with what they have.
            stopped.send_replace(true);
            handle.graceful_shutdown(Some(GRACE));
            std::future::pending::<()>().await;
        };
        tokio::select! {
            served = serving => served.context("the server has failed"),
            () = stop => Ok(()),
        }
    }
}

fn routes(service: Arc<Service>) -> Router {
    Router::new()
        .route("/", get(page::page))
        .route("/page.css", get(page::style))
        .route("/page.js", get(page::script))
        .route("/graph.js", get(page::graph))
        .route("/icon.svg", get(page::icon))
        .route("/flame.svg", get(views::flame))
        .route("/diff.svg", get(views::diff_graph))
        .route("/api/services", get(views::services))
        .route("/api/timeline", get(views::timeline))
        .route("/api/functions", get(views::functions))
        .route("/api/diff", get(views::diff))
        .route("/debug/pprof/profile", get(pull::profile))
        .route("/metrics", get(metrics))
        // Inside of the check of who asks, unlike what follows.
        .fallback(async || Refusal::not_found("there is nothing at this address: the page is at /"))
        .layer(middleware::from_fn_with_state(Arc::clone(&service), access::only_who_may))
        .route("/healthz", get(health::healthz))
        .layer(middleware::map_response(policy::strict))
        .with_state(service)
}

async fn metrics(State(service): State<Arc<Service>>) -> Result<Response, Refusal> {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &service.shared.metrics)
        .map_err(|error| Refusal::internal(format!("the metrics cannot be written: {error}")))?;
    Ok(typed("application/openmetrics-text; version=1.0.0; charset=utf-8", text).into_response())
}
