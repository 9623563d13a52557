//! The server around the service: TLS, HTTP/1.1, the faults that concern connections, time and the state file.

mod store;
mod tls;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::{Mutex, MutexGuard};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Time};
use crate::seed::Seed;
use crate::service::{Outcome, Service};
use crate::settings::Settings;
use crate::wire::{Request, Response};
use store::Store;
use tls::Authority;

/// Bodies are small; a larger one is a mistake of the client.
const MAX_BODY: usize = 4 * 1024 * 1024;

/// How an emulator is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// The address; port 0 takes any.
    pub listen: SocketAddr,
    /// What the vault holds at first; without meaning when the state file exists.
    pub seed: Seed,
    /// How the service behaves.
    pub settings: Settings,
    /// Whose time it is.
    pub time: Time,
    /// The state file; its CA is kept beside it.
    pub state: Option<PathBuf>,
    /// Where the CA's certificate is written.
    pub ca_out: Option<PathBuf>,
    /// Names and addresses in the certificate, beside `localhost` and the loopback addresses.
    pub names: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            seed: Seed::default(),
            settings: Settings::default(),
            time: Time::Real { speed: 1 },
            state: None,
            ca_out: None,
            names: Vec::new(),
        }
    }
}

impl Options {
    /// With that vault and a clock that a test moves.
    #[must_use]
    pub fn manual(seed: Seed) -> Self {
        Self {
            seed,
            time: Time::Manual { start: None },
            ..Self::default()
        }
    }
}

/// A running emulator; it stops when it is dropped.
#[derive(Debug)]
pub struct Emulator {
    /// Where it listens.
    pub address: SocketAddr,
    /// The same as a URL without a slash at its end: the endpoint of the resource manager and of the tokens.
    pub url: String,
    /// The certificate of its CA, in PEM.
    pub ca_pem: String,
    /// The service, to be looked at and changed.
    pub service: Arc<Mutex<Service>>,
    /// Its clock.
    pub clock: Arc<Clock>,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    service: Arc<Mutex<Service>>,
    clock: Arc<Clock>,
    store: Option<Store>,
    /// How many jobs there were when the state was last saved.
    jobs_saved: AtomicUsize,
    stop: CancellationToken,
}

impl Emulator {
    /// Starts an emulator on the current tokio runtime.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let store = options.state.clone().map(Store);
        let saved = store.as_ref().map(Store::read).transpose()?.flatten();
        let restored = saved
            .map(|saved| Service::restore(&saved, options.settings.clone()))
            .transpose()
            .context("the state file cannot be understood")?;
        let least = restored.as_ref().map(Service::time);
        let clock = Arc::new(Clock::new(options.time, least));
        let mut service =
            restored.unwrap_or_else(|| Service::new(&options.seed, options.settings, clock.now()));
        match options.time {
            Time::Real { speed } => {
                service.strict_time = speed == 1;
                service.token_scale = speed.max(1);
            }
            Time::Manual { .. } => {}
        }
        let authority = authority(options.state.as_ref())?;
        if let Some(path) = &options.ca_out {
            store::write(path, authority.certificate.as_bytes(), 0o644)?;
        }
        let mut names = options.names;
        names.extend(["localhost", "127.0.0.1", "::1"].map(String::from));
        if !options.listen.ip().is_unspecified() {
            names.push(options.listen.ip().to_string());
        }
        names.sort();
        names.dedup();
        let acceptor = TlsAcceptor::from(authority.server(&names)?);
        let listener = TcpListener::bind(options.listen)
            .await
            .with_context(|| format!("the emulator cannot listen on {}", options.listen))?;
        let address = listener.local_addr()?;
        let service = Arc::new(Mutex::new(service));
        let shared = Arc::new(Shared {
            service: Arc::clone(&service),
            clock: Arc::clone(&clock),
            store,
            jobs_saved: AtomicUsize::new(0),
            stop: CancellationToken::new(),
        });
        shared.save()?;
        let accepting = tokio::spawn(accept(listener, acceptor, Arc::clone(&shared)));
        Ok(Self {
            address,
            url: format!("https://{address}"),
            ca_pem: authority.certificate,
            service,
            clock,
            shared,
            accepting: Some(accepting),
        })
    }

    /// The service with everything done that is due by now.
    pub fn now(&self) -> MutexGuard<'_, Service> {
        let mut service = self.service.lock();
        service.advance(self.clock.now());
        service
    }

    /// Moves a test's clock and lets everything happen that is due by then.
    pub fn advance(&self, by: Duration) {
        self.clock.advance(by);
        drop(self.now());
    }

    /// The URL of the vault.
    #[must_use]
    pub fn vault_url(&self) -> String {
        format!("{}{}", self.url, self.service.lock().vault().path())
    }

    /// Stops it; when this returns, its port is free and its state is saved.
    pub async fn stop(mut self) {
        self.shared.stop.cancel();
        if let Some(accepting) = self.accepting.take() {
            // It ends by itself once it is told to.
            let _ = accepting.await;
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.shared.stop.cancel();
        // What only time has changed is not on disk yet; that it changed is derived again after a restart.
        if let Err(error) = self.shared.save() {
            tracing::warn!(%error, "the state was not saved");
        }
    }
}

/// The CA beside the state file, or a new one.
fn authority(state: Option<&PathBuf>) -> anyhow::Result<Authority> {
    let Some(state) = state else {
        return Authority::make();
    };
    let certificate = Store(state.with_extension("ca.pem"));
    let key = Store(state.with_extension("ca.key"));
    let text = |store: &Store| -> anyhow::Result<Option<String>> {
        Ok(store.read()?.map(String::from_utf8).transpose()?)
    };
    if let (Some(certificate), Some(key)) = (text(&certificate)?, text(&key)?) {
        return Ok(Authority { certificate, key });
    }
    let made = Authority::make()?;
    key.write(made.key.as_bytes())?;
    certificate.write(made.certificate.as_bytes())?;
    Ok(made)
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shared.stop.cancelled() => return,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (acceptor, shared) = (acceptor.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            let stop = shared.stop.clone();
            tokio::select! {
                () = connection(stream, acceptor, shared) => {}
                () = stop.cancelled() => {}
            }
        });
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let stream = match acceptor.accept(stream).await {
        Ok(stream) => stream,
        Err(error) => return tracing::debug!(%error, "no TLS connection was made"),
    };
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        // A task of its own: a request that is there acts, whether its client waits for it or not.
        let served = tokio::spawn(async move { shared.serve(request).await });
        async move { served.await.unwrap_or(Err(Unanswered::Dropped)) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_mins(1))
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended");
    }
}

/// An answer that is not to be: hyper closes the connection of an error.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    #[error("the connection is dropped on purpose")]
    Dropped,
    #[error("the body cannot be read")]
    Body(#[from] hyper::Error),
    #[error("the state cannot be saved")]
    State,
}

impl Shared {
    fn save(&self) -> anyhow::Result<()> {
        let Some(store) = &self.store else {
            return Ok(());
        };
        // The lock is held over the write, so that an older state never overwrites a newer one.
        let service = self.service.lock();
        store.write(&service.save()?)
    }

    async fn serve(
        &self,
        request: hyper::Request<Incoming>,
    ) -> Result<hyper::Response<Full>, Unanswered> {
        let request = read(request).await?;
        let reads = request.method == "GET";
        if let Some(response) = self.time(&request) {
            return Ok(full(response));
        }
        let outcome = self.service.lock().submit(&request, self.clock.now());
        let outcome = match outcome {
            Outcome::Later { millis } => {
                tokio::select! {
                    () = self.clock.sleep(millis) => {}
                    () = self.stop.cancelled() => return Err(Unanswered::Dropped),
                }
                let now = self.clock.now();
                let mut service = self.service.lock();
                Outcome::Answer(service.handle_with(&request, now, Some("delay"), false))
            }
            other => other,
        };
        let jobs = self.service.lock().state.jobs.len();
        if !reads || self.jobs_saved.swap(jobs, Ordering::Relaxed) != jobs {
            // An answer that is given stands: it is on disk first. A job that time alone has made would have another name after a restart.
            self.save().map_err(|error| {
                tracing::error!(%error, "the state was not saved");
                Unanswered::State
            })?;
        }
        if let Outcome::Silence { millis } = outcome {
            tokio::select! {
                () = self.clock.sleep(millis) => {}
                () = self.stop.cancelled() => {}
            }
        }
        match outcome {
            Outcome::Answer(response) => Ok(full(response)),
            Outcome::Dropped | Outcome::Silence { .. } | Outcome::Later { .. } => {
                Err(Unanswered::Dropped)
            }
        }
    }

    /// `POST /_emulator/time`: the service has no clock, so that this is the server's to do.
    fn time(&self, request: &Request) -> Option<Response> {
        if request.method != "POST" || request.path != "/_emulator/time" {
            return None;
        }
        let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let millis = body["advanceMillis"].as_u64().unwrap_or(0);
        let moved = self.clock.advance(Duration::from_millis(millis));
        self.service.lock().advance(self.clock.now());
        Some(Response::json(
            if moved { 200 } else { 409 },
            &serde_json::json!({ "moved": moved, "now": self.clock.now().to_string() }),
        ))
    }
}

async fn read(request: hyper::Request<Incoming>) -> Result<Request, Unanswered> {
    let (parts, mut incoming) = request.into_parts();
    let mut body = Vec::new();
    while let Some(frame) =
        std::future::poll_fn(|context| std::pin::Pin::new(&mut incoming).poll_frame(context)).await
    {
        if let Ok(data) = frame?.into_data() {
            body.extend_from_slice(&data);
        }
        if body.len() > MAX_BODY {
            return Err(Unanswered::Dropped);
        }
    }
    Ok(Request {
        method: parts.method.as_str().to_owned(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: (parts.headers.iter())
            .map(|(name, value)| {
                let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
                (name.as_str().to_owned(), value)
            })
            .collect(),
        body,
    })
}

/// A body that is there at once.
struct Full(Option<Bytes>);

impl Body for Full {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        std::task::Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

fn full(response: Response) -> hyper::Response<Full> {
    let body = (!response.body.is_empty()).then(|| Bytes::from(response.body));
    let mut answer = hyper::Response::new(Full(body));
    *answer.status_mut() = hyper::StatusCode::from_u16(response.status)
        .unwrap_or(hyper::StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in response.headers {
        let name = hyper::header::HeaderName::from_bytes(name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, value.parse()) {
            answer.headers_mut().append(name, value);
        }
    }
    answer
}
