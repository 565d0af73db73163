//! Whether the daemon does its work.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::Service;

/// Whether samples are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Not yet: the probe is being attached.
    Starting,
    /// Samples are taken.
    Sampling,
    /// Somebody has switched sampling off, which is as it should be: why, in a sentence.
    Off(String),
    /// No samples are taken that should be: why, in a sentence.
    Failed(String),
}

impl Health {
    /// Why no samples are taken, if so.
    pub(super) fn idle(&self) -> Option<&str> {
        match self {
            Health::Sampling => None,
            Health::Starting => Some("the daemon is starting and takes no samples yet"),
            Health::Off(reason) | Health::Failed(reason) => Some(reason),
        }
    }
}

/// Says no more than this, since it is open to everybody.
pub(super) async fn healthz(State(service): State<Arc<Service>>) -> Response {
    match *service.shared.health.borrow() {
        Health::Sampling | Health::Off(_) => (StatusCode::OK, "ok\n").into_response(),
        Health::Starting | Health::Failed(_) => (StatusCode::SERVICE_UNAVAILABLE, "not ok\n").into_response(),
    }
}
