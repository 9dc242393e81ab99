//! Paths, access, and the two ways of answering: at once, or by server-sent events.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_core::Stream;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::answer::{Count, Frame};
use crate::choice::Piece;
use crate::error::ApiError;
use crate::exchange::{App, Said};
use crate::fields::Fields;
use crate::request::{Kind, Reader, Work};

/// Every path.
pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/v1/models", get(models))
        .route("/v1/models/{*name}", get(model))
        .route("/v1/completions", post(completions))
        .route("/v1/chat/completions", post(chat))
        .route("/tokenize", post(tokenize))
        .route("/detokenize", post(detokenize))
        .method_not_allowed_fallback(async || ApiError::wrong_method())
        .route_layer(middleware::from_fn_with_state(Arc::clone(&app), authorise))
        .route("/health", get(async || ()))
        .fallback(async |uri: Uri| ApiError::no_route(uri.path()))
        .with_state(app)
}

/// Refuses requests without the key.
async fn authorise(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if let Some(key) = &app.settings.api_key {
        let shown = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
        let shown = shown.and_then(|v| v.strip_prefix("Bearer ")).map(str::trim);
        if !shown.is_some_and(|s| key.is(s)) {
            return Err(ApiError::unauthorized());
        }
    }
    Ok(next.run(request).await)
}

fn about(app: &App) -> Value {
    let mut about = json!({
        "id": app.served.name,
        "object": "model",
        "created": app.started,
        "owned_by": "antiphon",
        "max_model_len": app.served.context,
        "system_fingerprint": app.served.fingerprint,
    });
    if app.settings.prompt_embeds {
        about["hidden_size"] = json!(app.served.width());
        about["embedding_std"] = json!(app.served.embedding_std);
    }
    about
}

async fn models(State(app): State<Arc<App>>) -> Json<Value> {
    Json(json!({ "object": "list", "data": [about(&app)] }))
}

async fn model(State(app): State<Arc<App>>, Path(name): Path<String>) -> Result<Json<Value>, ApiError> {
    if name == app.served.name {
        Ok(Json(about(&app)))
    } else {
        Err(ApiError::no_model(&name, &app.served.name))
    }
}

/// The body, within the limits of length and time.
async fn body(app: &App, request: Request) -> Result<Bytes, ApiError> {
    let limit = app.settings.max_body;
    match tokio::time::timeout(app.settings.read_timeout, to_bytes(request.into_body(), limit)).await {
        Err(_) => Err(ApiError::timeout(app.settings.read_timeout.as_secs())),
        // what else can fail is a client that went away, and it reads no answer
        Ok(Err(_)) => Err(ApiError::too_large(limit)),
        Ok(Ok(bytes)) => Ok(bytes),
    }
}

async fn completions(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let body = body(&app, request).await?;
    let number = app.number();
    let work = Reader::new(&body, &app.served, &app.settings)?.completion(fallback_seed(&app, number))?;
    respond(app, work, number).await
}

async fn chat(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let body = body(&app, request).await?;
    let number = app.number();
    let work = Reader::new(&body, &app.served, &app.settings)?.chat(fallback_seed(&app, number))?;
    respond(app, work, number).await
}

/// The seed of a request that brings none.
fn fallback_seed(app: &App, number: u64) -> u64 {
    let stream = antiphon_core::Stream::new(app.settings.seed, antiphon_core::Purpose::Generate);
    stream.substream(number).next_u64()
}

/// As vLLM's: `{"prompt": "…"}` to ids.
async fn tokenize(State(app): State<Arc<App>>, request: Request) -> Result<Json<Value>, ApiError> {
    let mut f = Fields::parse(&body(&app, request).await?)?;
    f.ignore(&["model"]);
    let text: String = f.need("prompt")?;
    let begin = f.or("add_special_tokens", true)?;
    f.finish()?;
    let ids = app.served.encode(&text, begin).map_err(|e| ApiError::param("prompt", e.to_string()))?;
    Ok(Json(json!({ "count": ids.len(), "max_model_len": app.served.context, "tokens": ids })))
}

/// As vLLM's: `{"tokens": […]}` to text.
async fn detokenize(State(app): State<Arc<App>>, request: Request) -> Result<Json<Value>, ApiError> {
    let mut f = Fields::parse(&body(&app, request).await?)?;
    f.ignore(&["model"]);
    let ids: Vec<u32> = f.need("tokens")?;
    f.finish()?;
    let text = app.served.tokenizer.decode(&ids, false);
    Ok(Json(json!({ "prompt": text.map_err(|e| ApiError::param("tokens", e.to_string()))? })))
}

async fn respond(app: Arc<App>, work: Work, number: u64) -> Result<Response, ApiError> {
    let permit = app.admit(&work)?;
    if work.events {
        return Ok(events(app, work, number, permit));
    }
    let mut choices: Vec<Piece> = (0..work.count()).map(empty).collect();
    let mut prompts = vec![Vec::new(); work.prompts.len()];
    let count = app
        .exchange(&work, |said| {
            match said {
                Said::Prompt(index, scores) => prompts[index] = scores,
                Said::Piece(piece) => {
                    let choice = &mut choices[piece.index];
                    choice.text.push_str(&piece.text);
                    choice.records.extend_from_slice(&piece.records);
                    choice.finish = piece.finish;
                }
            }
            true
        })
        .await?;
    Ok(Json(frame(&app, &work, number).whole(&choices, &prompts, count)).into_response())
}

fn empty(index: usize) -> Piece {
    Piece { index, text: String::new(), records: Vec::new(), finish: None }
}

fn frame<'a>(app: &'a App, work: &'a Work, number: u64) -> Frame<'a> {
    let prefix = if work.kind == Kind::Chat { "chatcmpl" } else { "cmpl" };
    Frame { served: &app.served, work, id: format!("{prefix}-{number}"), created: unix_time() }
}

pub(crate) fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Lines of server-sent events, as they come.
struct Lines(UnboundedReceiver<String>);

impl Stream for Lines {
    type Item = Result<String, std::convert::Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx).map(|line| line.map(Ok))
    }
}

/// Answers by events. What fails after the head was sent comes as an event of its own.
fn events(app: Arc<App>, work: Work, number: u64, permit: OwnedSemaphorePermit) -> Response {
    let (lines, received) = unbounded_channel();
    tokio::spawn(async move {
        let _permit = permit;
        let frame = frame(&app, &work, number);
        let done = stream(&app, &work, &frame, &lines).await;
        match done {
            Ok(count) if work.events_usage => send(&lines, &frame.usage(count)),
            Ok(_) => true,
            Err(e) => send(&lines, &e.body()),
        };
        let _ = lines.send("data: [DONE]\n\n".to_owned());
    });
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
    (headers, Body::from_stream(Lines(received))).into_response()
}

async fn stream(
    app: &App,
    work: &Work,
    frame: &Frame<'_>,
    lines: &UnboundedSender<String>,
) -> Result<Count, ApiError> {
    if work.kind == Kind::Chat && !(0..work.n).all(|index| send(lines, &frame.role(index))) {
        return Ok(Count::default());
    }
    app.exchange(work, |said| match said {
        Said::Prompt(..) => !lines.is_closed(),
        Said::Piece(piece) => send(lines, &frame.part(piece)),
    })
    .await
}

/// False when the client is gone.
fn send(lines: &UnboundedSender<String>, event: &Value) -> bool {
    lines.send(format!("data: {event}\n\n")).is_ok()
}
