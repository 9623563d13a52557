//! A question to a peer, over the connection that data takes: what its register of a VM says (S4).

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::conn::{Conn, Terms};
use super::pulse::Pulse;
use super::send::{Endpoint, conn_error, connect};
use crate::dataplane::error::{PassError, Side};
use crate::dataplane::wire::Frame;

/// Asks the agent at `endpoint` for the epoch of its register of a VM. `None`: it has no register of it. Blocks the thread until there is
/// an answer, or for a few times `patience` at most.
///
/// # Errors
/// When there is no answer: no connection, another version of the protocol, or a refusal.
pub fn ask_epoch(
    endpoint: &Endpoint,
    vm: Uuid,
    patience: Duration,
) -> Result<Option<u64>, PassError> {
    let endpoint = Endpoint {
        connect_timeout: patience,
        ..endpoint.clone()
    };
    let stream = connect(&endpoint)?;
    let never = || false;
    let terms = Terms {
        peer: endpoint.name(),
        idle: patience,
        pulse: Pulse {
            silence: patience,
            ..endpoint.pulse
        },
        stop: &never,
    };
    let conn = match endpoint.tls {
        None => Conn::plain(stream, terms),
        Some((config, name)) => Conn::client(stream, Arc::clone(&config), name, terms),
    };
    let mut conn = conn.map_err(conn_error)?;
    conn.send(&Frame::Ask { vm }, &[]).map_err(conn_error)?;
    let answer = loop {
        if let Some(frame) = conn.frame(true).map_err(conn_error)? {
            break frame;
        }
    };
    conn.close();
    match answer {
        Frame::Told { epoch } => Ok(epoch),
        Frame::Refuse(refusal) => Err(refusal.into()),
        Frame::Failed(failure) => Err(failure.into()),
        other => Err(PassError::Protocol {
            side: Side::Target,
            message: format!("a question was answered with {}", other.name()),
        }),
    }
}
