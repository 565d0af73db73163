//! The files of the page, which are part of the program.

use axum::http::header;
use axum::response::IntoResponse;

use super::policy;
use super::reply::typed;

pub(super) async fn page() -> impl IntoResponse {
    let page = typed("text/html; charset=utf-8", include_str!("page/index.html"));
    ([(header::CONTENT_SECURITY_POLICY, policy::PAGE)], page)
}

pub(super) async fn style() -> impl IntoResponse {
    typed("text/css; charset=utf-8", include_str!("page/page.css"))
}

pub(super) async fn script() -> impl IntoResponse {
    typed("text/javascript; charset=utf-8", include_str!("page/page.js"))
}

pub(super) async fn graph() -> impl IntoResponse {
    typed("text/javascript; charset=utf-8", include_str!("page/graph.js"))
}

pub(super) async fn icon() -> impl IntoResponse {
    typed("image/svg+xml", include_str!("page/icon.svg"))
}
