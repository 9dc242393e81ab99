//! Errors in OpenAI's shape, so that its clients raise the exceptions that their users expect.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// An answer that is an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    /// OpenAI's class, such as `invalid_request_error`.
    pub(crate) kind: &'static str,
    /// A stable word for programs.
    pub(crate) code: Option<&'static str>,
    /// The parameter at fault.
    pub(crate) param: Option<String>,
    pub(crate) message: String,
    /// Seconds after which a retry may succeed.
    pub(crate) retry_after: Option<u64>,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, code: None, param: None, message: message.into(), retry_after: None }
    }

    /// A parameter that cannot be used.
    pub(crate) fn param(param: &str, message: impl Into<String>) -> Self {
        let message = format!("{param}: {}", message.into());
        Self { param: Some(param.to_owned()), ..Self::bad_request(message) }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message)
    }

    /// Prompt and answer do not fit.
    pub(crate) fn context(param: &str, prompt: usize, max_tokens: usize, context: usize) -> Self {
        let message = format!(
            "this model reads {context} tokens, and the request needs {} ({prompt} in the prompt, {max_tokens} to \
             generate); shorten the prompt or lower max_tokens",
            prompt.saturating_add(max_tokens)
        );
        Self { code: Some("context_length_exceeded"), ..Self::param(param, message) }
    }

    pub(crate) fn unauthorized() -> Self {
        let message = "a valid API key is needed, as `Authorization: Bearer KEY`";
        let error = Self::new(StatusCode::UNAUTHORIZED, "authentication_error", message);
        Self { code: Some("invalid_api_key"), ..error }
    }

    pub(crate) fn no_model(found: &str, served: &str) -> Self {
        let message = format!("no model `{found}` here; this server has `{served}`");
        let error = Self::new(StatusCode::NOT_FOUND, "invalid_request_error", message);
        Self { code: Some("model_not_found"), param: Some("model".into()), ..error }
    }

    pub(crate) fn no_route(path: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", format!("no such path: {path}"))
    }

    pub(crate) fn wrong_method() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", "this path has another method")
    }

    pub(crate) fn too_large(limit: usize) -> Self {
        let message = format!("the body is longer than {limit} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", message)
    }

    /// Every place in the queue is taken.
    pub(crate) fn busy(limit: usize) -> Self {
        let message =
            format!("{limit} sequences are waiting or running, and there is no room for this request");
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message);
        Self { code: Some("queue_full"), retry_after: Some(1), ..error }
    }

    pub(crate) fn timeout(seconds: u64) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "timeout_error", format!("no answer within {seconds} s"))
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message)
    }

    pub(crate) fn body(&self) -> Value {
        json!({ "error": { "message": self.message, "type": self.kind, "param": self.param, "code": self.code } })
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
