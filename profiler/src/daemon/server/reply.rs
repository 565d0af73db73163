//! Answers, and refusals in words.

use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// An answer of a type.
pub(super) fn typed<T: IntoResponse>(content_type: &'static str, content: T) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, content_type)], content)
}

/// An answer in JSON.
pub(super) fn json(value: &impl Serialize) -> Result<Response, Refusal> {
    let text = serde_json::to_vec(value)
        .map_err(|error| Refusal::internal(format!("the answer cannot be written as JSON: {error}")))?;
    Ok(typed("application/json", text).into_response())
}

/// Why there is no answer: a status, and a sentence for whoever asked.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    sentence: String,
    header: Option<(HeaderName, &'static str)>,
}

impl Refusal {
    fn new(status: StatusCode, sentence: impl Into<String>) -> Refusal {
        Refusal { status, sentence: sentence.into(), header: None }
    }

    /// The question cannot be understood.
    pub(super) fn bad(sentence: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, sentence)
    }

    /// There is nothing of what was asked for.
    pub(super) fn not_found(sentence: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::NOT_FOUND, sentence)
    }

    /// Not now.
    pub(super) fn unavailable(sentence: impl Into<String>) -> Refusal {
        Refusal { header: Some((header::RETRY_AFTER, "5")), ..Refusal::new(StatusCode::SERVICE_UNAVAILABLE, sentence) }
    }

    /// Too much is asked for.
    pub(super) fn too_large(sentence: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, sentence)
    }

    /// Our own failure.
    pub(super) fn internal(sentence: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, sentence)
    }

    /// Whoever asks has not said who they are.
    pub(super) fn unknown() -> Refusal {
        let sentence = "this needs the token: as `Authorization: Bearer TOKEN`, or as the password with any user name";
        let header = Some((header::WWW_AUTHENTICATE, "Basic realm=\"luaflame\", charset=\"UTF-8\""));
        Refusal { header, ..Refusal::new(StatusCode::UNAUTHORIZED, sentence) }
    }

    /// Whoever asks may not.
    pub(super) fn forbidden(sentence: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::FORBIDDEN, sentence)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response =
            (self.status, typed("text/plain; charset=utf-8", self.sentence + "\n").into_response()).into_response();
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, axum::http::HeaderValue::from_static(value));
        }
        response
    }
}
