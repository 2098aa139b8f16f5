//! The server that a Rust user would write by hand in an afternoon: axum's `Sse` over a tokio broadcast channel for each
//! topic. Written as its documentation suggests, with what such a user finds out: no Nagle, and lagging told in-band.

use crate::args::ServeArgs;
use crate::process::make_room;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError::Lagged;
use tokio_stream::{Stream, StreamExt};

/// Events of a topic that a subscriber may be behind.
const TOPIC_EVENTS_MAX: usize = 8_192;
/// A channel's memory is taken when it is made: with ten thousand topics the above would be gigabytes.
const SMALL_TOPIC_EVENTS_MAX: usize = 64;
/// From so many topics on they are small.
const SMALL_TOPICS_FROM: usize = 100;

type Channels = Arc<Mutex<HashMap<String, broadcast::Sender<Arc<str>>>>>;

/// Serves for ever, on so many threads.
pub(crate) fn serve(args: &ServeArgs) -> Result<(), String> {
    make_room(0, 0, 1)?;
    let mut builder = match args.workers {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = builder.worker_threads(args.workers).enable_all().build();
    let served = runtime.and_then(|runtime| runtime.block_on(listen(args.port)));
    served.map_err(|error| format!("port {}: {error}", args.port))
}

async fn listen(port: u16) -> std::io::Result<()> {
    let app = Router::new()
        .route("/subscribe/{topic}", get(subscribe))
        .route("/publish/{topic}", post(publish))
        .with_state(Channels::default());
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let listener = listener.tap_io(|socket| {
        // The connection works without it, only slower.
        let _ = socket.set_nodelay(true);
    });
    axum::serve(listener, app).await
}

async fn subscribe(
    State(topics): State<Channels>,
    Path(topic): Path<String>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let mut topics = topics.lock().unwrap_or_else(PoisonError::into_inner);
    let size = if topics.len() < SMALL_TOPICS_FROM { TOPIC_EVENTS_MAX } else { SMALL_TOPIC_EVENTS_MAX };
    let sender = topics.entry(topic).or_insert_with(|| broadcast::channel(size).0);
    let events = BroadcastStream::new(sender.subscribe()).map(|event| {
        Ok(match event {
            Ok(text) => Event::default().data(text),
            Err(Lagged(missed)) => Event::default().event("gap").data(missed.to_string()),
        })
    });
    Sse::new(events).keep_alive(KeepAlive::default())
}

async fn publish(State(topics): State<Channels>, Path(topic): Path<String>, body: String) -> StatusCode {
    let topics = topics.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(sender) = topics.get(&topic) {
        // Nobody listening is no fault.
        let _ = sender.send(body.into());
    }
    StatusCode::OK
}
