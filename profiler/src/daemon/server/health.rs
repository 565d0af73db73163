//! Whether the daemon does its work.

use std::sync::Arc;

use axum::extract;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::Service;
use crate::daemon::sampler::State;

/// Says no more than this, since it is open to everybody.
pub(super) async fn healthz(extract::State(service): extract::State<Arc<Service>>) -> Response {
    match *service.shared.state.borrow() {
        State::Sampling | State::SwitchedOff(_) => (StatusCode::OK, "ok\n").into_response(),
        State::Starting | State::Failed(_) => (StatusCode::SERVICE_UNAVAILABLE, "not ok\n").into_response(),
    }
}
