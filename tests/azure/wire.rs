//! The way to the emulated service, without a socket: requests are handed over, delayed, lost or answered badly, and what must hold of each one
//! that is sent is looked at here, where nobody can talk around it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use azure_core::error::{Error, ErrorKind};
use azure_core::http::headers::Headers;
use azure_core::http::{AsyncRawResponse, Body, HttpClient, Request, StatusCode, Transport};
use homeward::driver::azure_site_recovery::{
    AzureSiteRecoveryDriver, Clock, Identity, Settings, SignIn,
};
use homeward_asr_emulator as emulator;
use homeward_asr_emulator::{Outcome, Seed, Service};
use jiff::{SignedDuration, Timestamp};

/// The time of a case: that of tokio, counted from a day that is always the same.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    begun: tokio::time::Instant,
}

impl Now {
    pub fn begin() -> Self {
        Self {
            begun: tokio::time::Instant::now(),
        }
    }

    pub fn now(self) -> Timestamp {
        let passed = SignedDuration::try_from(self.begun.elapsed()).unwrap();
        "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap() + passed
    }
}

/// What befalls a request on its way, beyond what the emulator does by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// No connection is made: nothing is sent.
    NoConnection,
    /// It is acted upon, and answered with an error.
    ActsAndFails(u16),
}

/// A mutation that was sent.
#[derive(Clone, Debug)]
pub struct Sent {
    pub path: String,
    /// The job that it made at once; one that acts later is told of by nobody.
    pub job: Option<String>,
    /// Nobody had pressed a button in the portal right before.
    pub alone: bool,
    at: Timestamp,
}

/// A button may have been pressed between what the driver has read and what it sends: a job that was just accepted shows nowhere.
const JUST_NOW: SignedDuration = SignedDuration::from_secs(1);

#[derive(Debug)]
pub struct Wire {
    pub now: Now,
    service: Mutex<Service>,
    identity: Identity,
    troubles: Mutex<VecDeque<Trouble>>,
    sent: Mutex<Vec<Sent>>,
    wrong: Mutex<Vec<String>>,
    /// Mutations that are on their way, whether somebody waits for their answer or not.
    on_their_way: AtomicUsize,
    /// When a button was last pressed in the portal.
    pressed: Mutex<Option<Timestamp>>,
    /// Registers were lost while something was on its way: nobody is left who could wait for it.
    pub orphaned: std::sync::atomic::AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A mutation that is on its way; it counts until it is dropped.
struct OnItsWay(Arc<Wire>);

impl Drop for OnItsWay {
    fn drop(&mut self) {
        self.0.on_their_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Wire {
    pub fn new(seed: &Seed, settings: emulator::Settings) -> Arc<Self> {
        let now = Now::begin();
        let settings = emulator::Settings {
            // No case lasts that long: a token is lost only by being revoked.
            token_lifetime: 1_000_000_000,
            ..settings
        };
        let service = Service::new(seed, settings, now.now());
        let principal = &seed.principals[0];
        let identity = Identity::ClientSecret {
            tenant_id: seed.tenant.clone(),
            client_id: principal.client_id.clone(),
            secret: principal.secrets[0].clone(),
        };
        Arc::new(Self {
            now,
            service: Mutex::new(service),
            identity,
            troubles: Mutex::default(),
            sent: Mutex::default(),
            wrong: Mutex::default(),
            on_their_way: AtomicUsize::new(0),
            pressed: Mutex::default(),
            orphaned: std::sync::atomic::AtomicBool::new(false),
        })
    }

    /// The service, with all that has happened by now.
    pub fn service(&self) -> MutexGuard<'_, Service> {
        let mut service = lock(&self.service);
        service.advance(self.now.now());
        service
    }

    /// A driver of a process of its own, which lists all anew in each look.
    pub fn driver(self: &Arc<Self>) -> Arc<AzureSiteRecoveryDriver> {
        self.driver_of(Duration::ZERO)
    }

    /// One whose looks are so far apart at least.
    pub fn driver_of(self: &Arc<Self>, shortest_pause: Duration) -> Arc<AzureSiteRecoveryDriver> {
        let vault = self.service().vault().clone();
        let now = self.now;
        let settings = Settings {
            endpoint: "https://service.test".parse().unwrap(),
            scope: "https://management.azure.com/.default".into(),
            subscription_id: vault.subscription,
            resource_group: vault.resource_group,
            vault_name: vault.name,
            fabric_name: None,
            shortest_pause,
            clock: Clock::new(move || now.now()),
        };
        let client: Arc<dyn HttpClient> = Arc::new(Client(self.clone()));
        let transport = Transport::new(client);
        let sign_in = SignIn::new(
            self.identity.clone(),
            "https://service.test",
            transport.clone(),
        );
        Arc::new(AzureSiteRecoveryDriver::new(
            settings,
            transport,
            sign_in.unwrap(),
        ))
    }

    /// The next mutation meets this.
    pub fn trouble(&self, trouble: Trouble) {
        lock(&self.troubles).push_back(trouble);
    }

    pub fn calm(&self) {
        lock(&self.troubles).clear();
        self.service().clear_faults();
        self.let_in(true);
    }

    /// Whether who signs in is let in; tokens that were given out stay good.
    pub fn let_in(&self, may: bool) {
        let Identity::ClientSecret { secret, .. } = &self.identity else {
            return;
        };
        for principal in self.service().principals_mut() {
            principal.secrets = vec![if may {
                secret.clone()
            } else {
                "another".into()
            }];
        }
    }

    pub fn sent(&self) -> Vec<Sent> {
        lock(&self.sent).clone()
    }

    pub fn wrong(&self) -> Option<String> {
        lock(&self.wrong).first().cloned()
    }

    /// A person presses a button in the portal.
    pub fn press(&self, button: &emulator::Button) -> Option<String> {
        *lock(&self.pressed) = Some(self.now.now());
        self.service().press(button, self.now.now()).ok().flatten()
    }

    /// Whether a button was ever pressed.
    pub fn was_pressed(&self) -> bool {
        lock(&self.pressed).is_some()
    }

    /// Mutations that may still take effect.
    pub fn on_their_way(&self) -> usize {
        let held = self.service().held().len();
        held + self.on_their_way.load(Ordering::Relaxed)
    }

    fn say(&self, wrong: String) {
        lock(&self.wrong).push(wrong);
    }

    /// What must hold of a mutation when it is sent.
    fn check(&self, request: &emulator::Request) {
        let before = self.on_their_way();
        // S19: a newer job that does the same is the result of a request, as far as anybody can tell. Whoever presses the button for the same while
        // the request is on its way makes one that is not.
        let last = lock(&self.sent).last().map(|sent| sent.at);
        let mistaken = (*lock(&self.pressed)).is_some_and(|pressed| Some(pressed) >= last);
        if before > 0 && !mistaken && !self.orphaned.load(Ordering::Relaxed) {
            self.say(format!(
                "S18: {} is sent while {before} requests before it may still take effect",
                request.path
            ));
        }
        if let Some(job) = request.path.strip_suffix("/cancel") {
            let mut ask = emulator::Request {
                method: "GET".into(),
                path: job.into(),
                body: Vec::new(),
                ..request.clone()
            };
            ask.headers.retain(|(name, _)| name != "content-type");
            let told = lock(&self.service).handle(&ask, self.now.now()).value();
            if stops_in(&told["properties"]["tasks"]) {
                self.say(format!(
                    "S20: {} cancels a job that has begun to stop the VM",
                    request.path
                ));
            }
        }
    }

    fn act(&self, request: &emulator::Request) -> emulator::Response {
        lock(&self.service).handle(request, self.now.now())
    }

    fn submit(&self, request: &emulator::Request) -> Outcome {
        lock(&self.service).submit(request, self.now.now())
    }

    async fn send(
        self: Arc<Self>,
        request: emulator::Request,
    ) -> azure_core::Result<AsyncRawResponse> {
        let mutates = request.method != "GET" && !signs_in(&request);
        let trouble = if mutates {
            lock(&self.troubles).pop_front()
        } else {
            None
        };
        if trouble == Some(Trouble::NoConnection) {
            return Err(Error::with_message(
                ErrorKind::Connection,
                "connection refused",
            ));
        }
        if mutates {
            self.check(&request);
        }
        if let Some(Trouble::ActsAndFails(status)) = trouble {
            self.act(&request);
            self.note(&request);
            return Ok(answer(&emulator::Response::empty(status)));
        }
        let outcome = self.submit(&request);
        if mutates {
            self.note(&request);
        }
        match outcome {
            Outcome::Answer(response) => Ok(answer(&response)),
            Outcome::Dropped | Outcome::Silence { .. } => Err(Error::with_message(
                ErrorKind::Io,
                "the connection was closed",
            )),
            Outcome::Later { millis } => {
                // It goes on though nobody may be left to hear its answer.
                let way = mutates.then(|| {
                    self.on_their_way.fetch_add(1, Ordering::Relaxed);
                    OnItsWay(self.clone())
                });
                let wire = self.clone();
                let acts = tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(millis)).await;
                    let response = wire.act(&request);
                    drop(way);
                    response
                });
                Ok(answer(&acts.await.expect("the service does not fail")))
            }
        }
    }

    /// Takes down what was sent, and what it made.
    fn note(&self, request: &emulator::Request) {
        let now = self.now.now();
        let pressed = *lock(&self.pressed);
        let job = {
            let service = lock(&self.service);
            let last = service.requests().last();
            last.filter(|record| record.acted && record.path == request.path)
                .and_then(|record| record.job.clone())
        };
        lock(&self.sent).push(Sent {
            path: request.path.clone(),
            job,
            alone: pressed.is_none_or(|pressed| now.duration_since(pressed) > JUST_NOW),
            at: now,
        });
    }
}

fn signs_in(request: &emulator::Request) -> bool {
    request.path.ends_with("/oauth2/v2.0/token")
}

fn stops_in(tasks: &serde_json::Value) -> bool {
    tasks.as_array().into_iter().flatten().any(|task| {
        let named = [
            "VmShutdownVmOnPrimary",
            "StartAzureVmFailback",
            "ShutdownVmOnAzure",
            "ShutdownAllActionGroup",
        ]
        .iter()
        .any(|name| task["name"] == *name);
        let begun = !["NotStarted", "Other"]
            .iter()
            .any(|state| task["state"] == *state);
        (named && begun)
            || stops_in(&task["customDetails"]["childTasks"])
            || stops_in(&task["groupTaskCustomDetails"]["childTasks"])
    })
}

fn answer(response: &emulator::Response) -> AsyncRawResponse {
    let mut headers = Headers::new();
    for (name, value) in &response.headers {
        headers.insert(name.to_ascii_lowercase(), value.clone());
    }
    AsyncRawResponse::from_bytes(
        StatusCode::from(response.status),
        headers,
        response.body.clone(),
    )
}

#[derive(Debug)]
struct Client(Arc<Wire>);

#[async_trait]
impl HttpClient for Client {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        let url = request.url();
        let mut told = emulator::Request {
            method: request.method().as_str().to_owned(),
            path: url.path().to_owned(),
            query: url.query().unwrap_or_default().to_owned(),
            headers: Vec::new(),
            body: match request.body() {
                Body::Bytes(bytes) => bytes.to_vec(),
                Body::SeekableStream(_) => panic!("nothing is streamed to the service"),
            },
        };
        for (name, value) in request.headers().iter() {
            told.headers
                .push((name.as_str().to_owned(), value.as_str().to_owned()));
        }
        told.headers.push(("host".into(), "service.test".into()));
        self.0.clone().send(told).await
    }
}
