//! Connections: accepted, timed, ended in order.

use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use antiphon_model::NetError;
use antiphon_model::pool::PoolRoom;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::engine::Engine;
use crate::exchange::App;
use crate::model::Served;
use crate::routes;
use crate::settings::Settings;

/// Rows whose logits exist at once.
const HEAD_ROWS: usize = 64;

/// A server that cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address is taken, or not ours.
    #[error("{address}: {source}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// An address that others can reach, without a key.
    #[error("{address} can be reached from other machines: give --api-key-file, or listen on 127.0.0.1")]
    Open {
        /// The address asked for.
        address: SocketAddr,
    },
    /// A limit below what one sequence needs.
    #[error(
        "{what} of {found}: one sequence may take {needed} (the context of the model); raise it, or lower --context"
    )]
    Room {
        /// Which limit.
        what: &'static str,
        /// Its value.
        found: usize,
        /// What it has to be at least.
        needed: usize,
    },
    /// The device has not enough memory.
    #[error(transparent)]
    Net(#[from] NetError),
    /// No thread, or no event loop.
    #[error("the server's threads cannot start: {0}")]
    Threads(#[source] std::io::Error),
}

/// A server at work. Dropping it stops it without waiting for open requests.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
}

impl Running {
    /// Serves `served` at `address` (port 0 takes a free one).
    ///
    /// # Errors
    /// An address that cannot be had or would be open to all, or limits that hold no sequence.
    pub fn start(served: Served, settings: Settings, address: SocketAddr) -> Result<Self, ServeError> {
        if settings.api_key.is_none() && !address.ip().is_loopback() {
            return Err(ServeError::Open { address });
        }
        let needed = served.device.net.limits().max_len;
        for (what, found) in
            [("--batch-tokens", settings.batch_tokens), ("--cache-tokens", settings.cache_tokens)]
        {
            if found < needed {
                return Err(ServeError::Room { what, found, needed });
            }
        }
        let room = PoolRoom {
            step_rows: settings.batch_tokens.max(settings.batch),
            sequences: settings.batch,
            positions: settings.cache_tokens,
            head_rows: HEAD_ROWS,
        };
        let engine = Engine::new(Arc::clone(&served.device), room)?;
        let listen = |source| ServeError::Listen { address, source };
        let listener = std::net::TcpListener::bind(address).map_err(listen)?;
        listener.set_nonblocking(true).map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let (jobs, received) = mpsc::channel();
        let app = Arc::new(App {
            served,
            queue: Arc::new(Semaphore::new(settings.queue)),
            settings,
            jobs,
            counter: AtomicU64::new(0),
            started: routes::unix_time(),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("serve")
            .enable_all()
            .build()
            .map_err(ServeError::Threads)?;
        let (stop, stopped) = watch::channel(false);
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.to_owned()).spawn(work).map_err(ServeError::Threads)
        };
        let engine = spawn("engine", Box::new(move || engine.run(&received)))?;
        let accept = spawn(
            "accept",
            Box::new(move || {
                runtime.block_on(accept(listener, app, stopped));
                runtime.shutdown_timeout(Duration::from_secs(1));
            }),
        )?;
        Ok(Self { address, stop, threads: vec![accept, engine] })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more requests, finishes those that are open, and returns.
    pub fn stop(self) {
        self.stop.send_replace(true);
        for thread in self.threads {
            // a panic of the server has been printed by its thread
            let _ = thread.join();
        }
    }
}

async fn accept(listener: std::net::TcpListener, app: Arc<App>, mut stopped: watch::Receiver<bool>) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    let connections = Arc::new(Semaphore::new(app.settings.connections));
    let read_timeout = app.settings.read_timeout;
    let router = routes::router(app);
    let graceful = GracefulShutdown::new();
    loop {
        let permit = tokio::select! {
            permit = Arc::clone(&connections).acquire_owned() => permit,
            _ = stopped.wait_for(|s| *s) => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.wait_for(|s| *s) => break,
        };
        let Ok((stream, _)) = accepted else {
            // out of file descriptors, most likely: others have to end first
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(read_timeout)
            .serve_connection(TokioIo::new(stream), service(&router));
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            let _permit = permit;
            // a connection that breaks is the client's affair
            let _ = connection.await;
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

type Service = TowerToHyperService<axum::routing::RouterIntoService<hyper::body::Incoming>>;

fn service(router: &Router) -> Service {
    TowerToHyperService::new(router.clone().into_service())
}
