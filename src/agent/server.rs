//! The control API: HTTP/1.1 over mutual TLS.
//!
//! Every certificate of the CA gets a connection; only the names in `tls.allowedOperators` get an answer (403 else, with
//! the name in the log). Every request has a deadline and a bounded body.

use std::io::{Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use serde::Deserialize;
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use uuid::Uuid;

use super::api::{MAX_BODY, MAX_CONSOLE, OperationState, Order, Refusal, RefusalKind};
use super::definitions::refusal;
use super::host::Host;
use super::strangers::{Stranger, Strangers};
use super::{inventory, orders, tls};

/// Connections at once.
const MOST_CONNECTIONS: usize = 512;
/// Of those, connections that have not shown a certificate yet: in all, and from one address.
const MOST_STRANGERS: (usize, usize) = (256, 64);
/// How long a TLS handshake, and the head of a request, may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a request may take in all: longer than a newer order waits for the one before it.
const REQUEST: Duration = Duration::from_secs(18);

/// The names in the peer's certificate.
#[derive(Clone, Debug)]
struct PeerNames(Arc<Vec<String>>);

/// Binds the control API's address.
pub(crate) async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|error| anyhow::anyhow!("control.listen {address}: {error}"))
}

/// Serves until the agent ends.
pub(crate) async fn serve(host: Arc<Host>, listener: TcpListener) -> anyhow::Result<()> {
    let router = router(Arc::clone(&host));
    let open = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let strangers = Strangers::new(MOST_STRANGERS.0, MOST_STRANGERS.1);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = host.shutdown.cancelled() => return Ok(()),
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a control connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        let Some(stranger) = strangers.come(from.ip()) else {
            tracing::warn!(%from, "too many control connections that have not shown a certificate; this one is closed");
            continue;
        };
        let Ok(permit) = Arc::clone(&open).try_acquire_owned() else {
            tracing::warn!(%from, "too many control connections; this one is closed");
            continue;
        };
        let (host, router) = (Arc::clone(&host), router.clone());
        tokio::spawn(async move {
            let shutdown = host.shutdown.clone();
            tokio::select! {
                () = connection(&host, router, stream, from, stranger) => {}
                () = shutdown.cancelled() => {}
            }
            drop(permit);
        });
    }
}

async fn connection(
    host: &Arc<Host>,
    router: Router,
    stream: TcpStream,
    from: SocketAddr,
    stranger: Stranger,
) {
    // Small answers should not wait for more to come.
    let _ = stream.set_nodelay(true);
    let acceptor = TlsAcceptor::from(host.identity.configs().control);
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::warn!(%from, %error, "a control connection was refused"),
        Err(_) => return tracing::warn!(%from, "a control connection took too long to shake hands"),
    };
    drop(stranger);
    let names = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first())
        .map(tls::names)
        .unwrap_or_default();
    let service = router.layer(axum::Extension(PeerNames(Arc::new(names))));
    let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_mins(1))
        .max_buf_size(64 * 1024);
    if let Err(error) = builder
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
        .await
    {
        tracing::debug!(%from, %error, "a control connection ended");
    }
}

fn router(host: Arc<Host>) -> Router {
    Router::new()
        .route("/v1/state", get(state))
        .route("/v1/vms/{vm}/orders", post(order))
        .route("/v1/vms/{vm}/console", get(console))
        .route("/healthz", get(|| async { "ok" }))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(Arc::clone(&host), guard))
        .with_state(host)
}

/// Who may ask, and for how long.
async fn guard(State(host): State<Arc<Host>>, request: Request, next: Next) -> Response {
    let names = request
        .extensions()
        .get::<PeerNames>()
        .map(|names| Arc::clone(&names.0))
        .unwrap_or_default();
    if !names
        .iter()
        .any(|name| host.config.tls.allowed_operators.contains(name))
    {
        tracing::warn!(
            ?names,
            path = request.uri().path(),
            "refused: none of the names is in tls.allowedOperators"
        );
        let shown = names.first().map_or("none", String::as_str);
        return refuse(&refusal(
            RefusalKind::NotAllowed,
            format!(
                "the name in the certificate ({shown}) is not in tls.allowedOperators of this agent"
            ),
        ));
    }
    match tokio::time::timeout(REQUEST, next.run(request)).await {
        Ok(response) => response,
        Err(_) => (
            StatusCode::GATEWAY_TIMEOUT,
            "the agent did not answer in time",
        )
            .into_response(),
    }
}

#[derive(Deserialize)]
struct Only {
    #[serde(default)]
    vms: Option<String>,
}

async fn state(State(host): State<Arc<Host>>, Query(only): Query<Only>) -> Response {
    let only: Option<Result<Vec<Uuid>, _>> =
        only.vms.map(|vms| vms.split(',').map(str::parse).collect());
    match only.transpose() {
        Ok(only) => json(StatusCode::OK, &inventory::read(&host, only).await),
        Err(_) => refuse(&refusal(
            RefusalKind::Invalid,
            "vms: UUIDs with commas between them",
        )),
    }
}

async fn order(
    State(host): State<Arc<Host>>,
    Path(vm): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let Ok(vm) = vm.parse::<Uuid>() else {
        return refuse(&refusal(
            RefusalKind::Invalid,
            "the VM in the path is not a UUID",
        ));
    };
    if !headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"))
    {
        return refuse(&refusal(
            RefusalKind::Invalid,
            "the body must be application/json",
        ));
    }
    let order: Order = match serde_json::from_slice(&body) {
        Ok(order) => order,
        Err(wrong) => {
            return refuse(&refusal(
                RefusalKind::Invalid,
                format!("the order cannot be read: {wrong}"),
            ));
        }
    };
    if order.vm != vm {
        return refuse(&refusal(
            RefusalKind::Invalid,
            "the VM in the order is not the one in the path",
        ));
    }
    // A task of its own: an order that has been admitted is begun, whether its giver waits or not.
    let taken = tokio::spawn(async move { orders::take(&host, order).await }).await;
    match taken {
        Ok(Ok(answer)) if answer.operation.state == OperationState::Running => {
            json(StatusCode::ACCEPTED, &answer)
        }
        Ok(Ok(answer)) => json(StatusCode::OK, &answer),
        Ok(Err(refusal)) => refuse(&refusal),
        Err(failed) => refuse(&refusal(
            RefusalKind::Storage,
            format!("the agent failed at this order: {failed}"),
        )),
    }
}

#[derive(Deserialize)]
struct Tail {
    #[serde(default)]
    tail: Option<u64>,
}

async fn console(
    State(host): State<Arc<Host>>,
    Path(vm): Path<String>,
    Query(tail): Query<Tail>,
) -> Response {
    let guest = vm.parse::<Uuid>().ok().and_then(|vm| host.guest(vm).ok());
    let Some((_, guest)) = guest else {
        return refuse(&refusal(
            RefusalKind::NoDefinition,
            "this host has no definition of the VM",
        ));
    };
    let path = host.hypervisor.console(&guest);
    let tail = tail.tail.unwrap_or(64 * 1024).min(MAX_CONSOLE);
    let read = tokio::task::spawn_blocking(move || {
        let mut file = std::fs::File::open(&path)?;
        let length = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(length.saturating_sub(tail)))?;
        let mut text = Vec::new();
        file.take(tail).read_to_end(&mut text)?;
        std::io::Result::Ok(text)
    })
    .await;
    match read {
        Ok(Ok(text)) => {
            ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
        }
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {
            ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], "").into_response()
        }
        Ok(Err(error)) => refuse(&refusal(
            RefusalKind::Storage,
            format!("the console cannot be read: {error}"),
        )),
        Err(failed) => refuse(&refusal(RefusalKind::Storage, failed.to_string())),
    }
}

fn refuse(refusal: &Refusal) -> Response {
    let status = match refusal.kind {
        RefusalKind::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
        RefusalKind::NotAllowed => StatusCode::FORBIDDEN,
        RefusalKind::NoRegister | RefusalKind::NoDefinition => StatusCode::NOT_FOUND,
        RefusalKind::Storage => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::CONFLICT,
    };
    json(status, refusal)
}

fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => (status, [(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
