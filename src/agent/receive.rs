//! Takes data from peers: a thread a connection, let in by certificate (TLS), by its name, and then by register (S9).

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use super::api::{Power, RefusalKind, StepId};
use super::definitions;
use super::host::{Host, lock};
use super::register::{self, SessionRequest};
use super::strangers::{Stranger, Strangers};
use super::tls;
use crate::dataplane::{self, Admission, Admitted, Hello, Peer, ServeOptions, Served};

/// Connections at once; more are closed at once, so that a flood costs little.
const MOST_CONNECTIONS: usize = 256;
/// Of those, connections that have not been let in yet: in all, and from one address.
const MOST_STRANGERS: (usize, usize) = (64, 16);
/// How long the hypervisor is waited for before a session is turned away.
const PATIENCE: Duration = Duration::from_secs(3);
/// The same before a peer that asks is answered: it waits no longer than that itself, and must hear of the register in time.
const BEFORE_A_START: Duration = Duration::from_secs(1);

/// Listens until the agent ends.
pub(crate) fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address)
        .map_err(|error| anyhow::anyhow!("data.listen {address}: {error}"))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Accepts connections until the agent ends.
pub(crate) async fn serve(host: Arc<Host>, listener: TcpListener) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let open = Arc::new(AtomicUsize::new(0));
    let strangers = Strangers::new(MOST_STRANGERS.0, MOST_STRANGERS.1);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = host.shutdown.cancelled() => return Ok(()),
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a data connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        if open.load(Ordering::Relaxed) >= MOST_CONNECTIONS {
            tracing::warn!(%from, "too many data connections; this one is closed");
            continue;
        }
        let Some(stranger) = strangers.come(from.ip()) else {
            tracing::warn!(%from, "too many data connections that have not said who they are; this one is closed");
            continue;
        };
        let stream = stream
            .into_std()
            .and_then(|stream| stream.set_nonblocking(false).map(|()| stream));
        let Ok(stream) = stream else { continue };
        let (host, open) = (Arc::clone(&host), Arc::clone(&open));
        open.fetch_add(1, Ordering::Relaxed);
        let counted = Counted(open);
        tokio::task::spawn_blocking(move || {
            let _counted = counted;
            one(&host, stream, from, stranger);
        });
    }
}

/// One of the open connections, also when it ends in a panic.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn one(host: &Arc<Host>, stream: TcpStream, from: SocketAddr, stranger: Stranger) {
    let options = ServeOptions {
        tls: Some(host.identity.configs().data),
        ..ServeOptions::default()
    };
    match dataplane::serve_connection(
        stream,
        &Door {
            host: Arc::clone(host),
            stranger: Mutex::new(Some(stranger)),
        },
        &options,
    ) {
        Served::Told => {}
        Served::Whole(_) => tracing::info!(%from, "a pass was received whole"),
        Served::Refused(refusal) => {
            tracing::info!(%from, reason = %refusal.message, "a pass was turned away");
        }
        Served::Failed(failure) => {
            tracing::warn!(%from, reason = %failure.message, "a pass failed here");
        }
        Served::Disconnected(why) => {
            tracing::info!(%from, %why, "a data connection ended before its pass was whole");
        }
    }
}

/// Judges who may write.
struct Door {
    host: Arc<Host>,
    /// Its place among those that are not known, until it is.
    stranger: Mutex<Option<Stranger>>,
}

fn refused(kind: dataplane::RefusalKind, message: impl Into<String>) -> dataplane::Refusal {
    dataplane::Refusal {
        kind,
        message: message.into(),
        needed: 0,
        available: 0,
    }
}

impl Door {
    /// The names in the certificate of an agent that may send data here.
    fn let_in(&self, peer: &Peer) -> Result<Vec<String>, dataplane::Refusal> {
        let names = peer
            .certificates
            .first()
            .map(tls::names)
            .unwrap_or_default();
        let allowed = &self.host.config.tls.allowed_agents;
        if !names.iter().any(|name| allowed.contains(name)) {
            tracing::warn!(
                ?names,
                "a data session was refused: none of its names is in tls.allowedAgents"
            );
            let shown = names.first().map_or("none", String::as_str);
            return Err(refused(
                dataplane::RefusalKind::Denied,
                format!(
                    "the name in the certificate ({shown}) is not in tls.allowedAgents of the agent on {}",
                    self.host.config.host
                ),
            ));
        }
        *lock(&self.stranger) = None;
        Ok(names)
    }

    /// S9: nothing is written to disks under a guest, whatever the register says of who may run. One that outlived a `stateDir` that was lost, or put
    /// back, runs beside a register that knows nothing of it.
    async fn nothing_runs(&self, vm: Uuid) -> Result<(), dataplane::Refusal> {
        let silent = || (Power::Unknown, Some("it does not answer".to_owned()));
        let asked = tokio::time::timeout(PATIENCE, self.host.power(vm)).await;
        let message = match asked.unwrap_or_else(|_| silent()) {
            (Power::Off | Power::ShutDown, _) => return Ok(()),
            (Power::Running | Power::Paused, _) => {
                "a guest runs on these disks, and nothing is written under it".to_owned()
            }
            (Power::Unknown, why) => format!(
                "whether a guest runs on these disks is not known ({}), and nothing is written under one",
                why.unwrap_or_default()
            ),
        };
        let of_this_host = format!("{}: {message}", self.host.config.host);
        Err(refused(dataplane::RefusalKind::Busy, of_this_host))
    }

    /// S3: whoever asks is about to start the guest, and here it may run without a right to: it outlived a `stateDir` that was lost, or somebody started
    /// it by hand. A hypervisor that hangs is silent, and hinders nobody.
    async fn none_runs_unasked(&self, vm: Uuid) -> Result<(), dataplane::Refusal> {
        let asked = tokio::time::timeout(BEFORE_A_START, self.host.power(vm)).await;
        let (power, why) = match asked {
            Ok((Power::Off | Power::ShutDown, _)) | Err(_) => return Ok(()),
            Ok(seen) => seen,
        };
        let why = why.map_or_else(String::new, |why| format!(" ({why})"));
        Err(refused(
            dataplane::RefusalKind::Busy,
            format!("the power of its guest there is {power:?}{why}"),
        ))
    }
}

impl Admission for Door {
    fn epoch(&self, vm: Uuid, peer: &Peer) -> Result<Option<u64>, dataplane::Refusal> {
        self.let_in(peer)?;
        let register = self.host.known(vm).and_then(|vm| vm.register());
        if !register::may_run(register.as_ref()) {
            tokio::runtime::Handle::current().block_on(self.none_runs_unasked(vm))?;
        }
        Ok(register.map(|register| register.epoch))
    }

    fn admit(&self, hello: &Hello, peer: &Peer) -> Result<Admitted, dataplane::Refusal> {
        let names = self.let_in(peer)?;
        let Some(vm) = self.host.known(hello.vm) else {
            return Err(refused(
                dataplane::RefusalKind::UnknownVm,
                "this host does not know the VM: enroll it first",
            ));
        };
        let definition = self.host.definitions.get(hello.vm);
        if let Some(shared) = definition.and_then(|known| self.host.definitions.shared(&known)) {
            return Err(refused(dataplane::RefusalKind::Shape, shared));
        }
        let volume = tokio::runtime::Handle::current()
            .block_on(self.host.volume(&vm))
            .map_err(|failed| refused(dataplane::RefusalKind::Internal, failed.message))?;
        tokio::runtime::Handle::current().block_on(self.nothing_runs(hello.vm))?;
        let id = StepId {
            epoch: hello.epoch,
            step: hello.step,
        };
        // S9: judged, written down and opened under the one lock of the register, so that nothing changes in between.
        let admitted = self.host.change_now(&vm, |register| {
            let next = register::admit_session(
                register,
                SessionRequest {
                    vm: hello.vm,
                    id,
                    names: &names,
                },
                Timestamp::now(),
            )?;
            let session = volume
                .gate
                .open_session(hello.epoch)
                .map_err(|why| definitions::refusal(RefusalKind::Busy, why.to_string()))?;
            Ok((
                next,
                Admitted {
                    set: Arc::clone(&volume.set),
                    session,
                },
            ))
        });
        let admitted = admitted.map_err(|refusal| {
            let kind = match refusal.kind {
                RefusalKind::NoRegister => dataplane::RefusalKind::UnknownVm,
                RefusalKind::NotAllowed => dataplane::RefusalKind::Denied,
                RefusalKind::Stale => dataplane::RefusalKind::Stale,
                RefusalKind::Busy => dataplane::RefusalKind::Busy,
                RefusalKind::Storage => dataplane::RefusalKind::Internal,
                _ => dataplane::RefusalKind::Fenced,
            };
            refused(kind, refusal.message)
        })?;
        tracing::info!(vm = %hello.vm, epoch = hello.epoch, step = hello.step, pass = %hello.pass, from = ?names, session = admitted.session.number(), "data session opened");
        Ok(admitted)
    }
}
