//! The QMP client: the codec (pure) and a session on a guest's monitor (tokio).
//!
//! A session is short: connect, a few commands, close. QEMU serves one client of a monitor at a time. When that client goes away it
//! forgets what it has not yet executed (*tried*: a guest stays stopped although `cont` had been sent), so nothing may rest on commands
//! whose answers were not seen; and the answer to the command that was under way goes to the next client (*tried*), so every session has
//! numbers of its own and passes over what it did not ask.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, sleep, timeout_at};
use uuid::Uuid;

use super::commands::Command;
use crate::agent::hypervisor::HypervisorError;

/// Longest message that is read, bytes. All nodes and bitmaps of a guest with many disks are far below.
const MAX_MESSAGE: u64 = 16 << 20;
/// How often a monitor that is busy with another client is tried again.
const CONNECT_PAUSE: Duration = Duration::from_millis(20);

/// A message of QEMU.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// The first one.
    Greeting,
    /// The answer to the command with this number.
    Return {
        /// Number of the command.
        id: Option<String>,
        /// What it returned.
        value: Value,
    },
    /// The refusal of the command with this number.
    Error {
        /// Number of the command; none when it could not even be read.
        id: Option<String>,
        /// QEMU's words.
        description: String,
    },
    /// Something happened.
    Event {
        /// Its name.
        name: String,
    },
}

#[derive(Deserialize)]
struct WireMessage {
    #[serde(rename = "QMP")]
    greeting: Option<Value>,
    #[serde(rename = "return")]
    value: Option<Value>,
    error: Option<WireError>,
    event: Option<String>,
    id: Option<String>,
}

#[derive(Deserialize)]
struct WireError {
    desc: String,
}

/// Reads one line.
///
/// # Errors
/// What is wrong with it.
pub fn parse(line: &[u8]) -> Result<Message, String> {
    let message: WireMessage =
        serde_json::from_slice(line).map_err(|error| format!("QMP: {error}"))?;
    match message {
        WireMessage {
            event: Some(name), ..
        } => Ok(Message::Event { name }),
        WireMessage {
            error: Some(error),
            id,
            ..
        } => Ok(Message::Error {
            id,
            description: error.desc,
        }),
        WireMessage {
            value: Some(value),
            id,
            ..
        } => Ok(Message::Return { id, value }),
        WireMessage {
            greeting: Some(_), ..
        } => Ok(Message::Greeting),
        _ => Err("QMP: a message of no known kind".into()),
    }
}

/// The number of a command: that of its session, and its own.
fn number(session: Uuid, command: u64) -> String {
    format!("{session}/{command}")
}

/// The lines of `commands` of a session, numbered from `first`.
#[must_use]
pub fn encode(commands: &[Command], session: Uuid, first: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (command, id) in commands.iter().zip(first..) {
        let mut line = json!({"execute": command.name, "id": number(session, id)});
        if !command.arguments.is_null() {
            line["arguments"] = command.arguments.clone();
        }
        bytes.extend_from_slice(line.to_string().as_bytes());
        bytes.push(b'\n');
    }
    bytes
}

/// What one command answered: its value, or QEMU's words.
pub type Reply = Result<Value, String>;

/// Stops an agent in the middle, as if it had been killed: after so many commands (the handshake not counted) every session fails and
/// nothing more is sent. For tests.
#[derive(Debug, Clone)]
pub struct Failpoint {
    left: Arc<AtomicI64>,
    hang_up: Arc<AtomicBool>,
}

impl Default for Failpoint {
    fn default() -> Self {
        Self {
            left: Arc::new(AtomicI64::new(i64::MAX)),
            hang_up: Arc::default(),
        }
    }
}

impl Failpoint {
    /// Allows `commands` more commands.
    pub fn stop_after(&self, commands: i64) {
        self.left.store(commands, Ordering::SeqCst);
    }

    /// Allows `commands` more commands; the write that holds the one after them is still made as a whole, and its answers are not
    /// waited for.
    pub fn hang_up_after(&self, commands: i64) {
        self.hang_up.store(true, Ordering::SeqCst);
        self.stop_after(commands);
    }

    /// Has it struck?
    #[must_use]
    pub fn struck(&self) -> bool {
        self.left.load(Ordering::SeqCst) < 0
    }

    /// How many of `wanted` commands may be sent.
    fn take(&self, wanted: usize) -> usize {
        let wanted_signed = i64::try_from(wanted).unwrap_or(i64::MAX);
        let left = self.left.load(Ordering::SeqCst);
        if left == i64::MAX {
            return wanted;
        }
        self.left.store(
            if left >= wanted_signed {
                left - wanted_signed
            } else {
                -1
            },
            Ordering::SeqCst,
        );
        usize::try_from(left.clamp(0, wanted_signed)).unwrap_or(0)
    }
}

/// A connection to a monitor, ready for commands.
#[derive(Debug)]
pub struct Session {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    id: Uuid,
    next: u64,
    failpoint: Failpoint,
}

fn silent(what: impl std::fmt::Display) -> HypervisorError {
    HypervisorError::Silent(what.to_string())
}

impl Session {
    /// Connects and negotiates within `patience`.
    ///
    /// # Errors
    /// `Silent`: whoever does not answer has an unknown state (S3).
    pub async fn open(
        path: &Path,
        patience: Duration,
        failpoint: &Failpoint,
    ) -> Result<Self, HypervisorError> {
        if failpoint.struck() {
            return Err(silent("failpoint"));
        }
        let deadline = Instant::now() + patience;
        let stream = loop {
            match timeout_at(deadline, UnixStream::connect(path)).await {
                Ok(Ok(stream)) => break stream,
                // The queue of the socket is full while QEMU is busy or frozen.
                Ok(Err(error))
                    if error.kind() == std::io::ErrorKind::WouldBlock
                        && Instant::now() < deadline =>
                {
                    sleep(CONNECT_PAUSE).await;
                }
                Ok(Err(error)) => return Err(silent(format!("{}: {error}", path.display()))),
                Err(_) => {
                    return Err(silent(format!(
                        "no connection to the monitor within {} s",
                        patience.as_secs_f32()
                    )));
                }
            }
        };
        let (reader, writer) = stream.into_split();
        let mut session = Self {
            reader: BufReader::new(reader),
            writer,
            id: Uuid::new_v4(),
            next: 0,
            failpoint: Failpoint::default(),
        };
        // What comes before the greeting was meant for somebody else.
        while session.message(deadline).await? != Message::Greeting {}
        session
            .exchange(&[Command::bare("qmp_capabilities")], deadline)
            .await?
            .remove(0)
            .map_err(HypervisorError::Protocol)?;
        session.failpoint = failpoint.clone();
        Ok(session)
    }

    /// Sends all commands in one write and returns their answers, in order. QEMU executes each of them, whatever became of those before.
    ///
    /// # Errors
    /// `Silent` when an answer is missing after `patience`, and then the outcome of every command is unknown.
    pub async fn run(
        &mut self,
        commands: &[Command],
        patience: Duration,
    ) -> Result<Vec<Reply>, HypervisorError> {
        let deadline = Instant::now() + patience;
        let allowed = self.failpoint.take(commands.len());
        if allowed < commands.len() && self.failpoint.hang_up.load(Ordering::SeqCst) {
            let bytes = encode(commands, self.id, self.next);
            let _ = timeout_at(deadline, self.writer.write_all(&bytes)).await;
            return Err(silent("failpoint"));
        }
        let replies = self.exchange(&commands[..allowed], deadline).await?;
        if allowed < commands.len() {
            return Err(silent("failpoint"));
        }
        Ok(replies)
    }

    /// One command that must succeed.
    ///
    /// # Errors
    /// `Refused` with QEMU's words; `Silent`.
    pub async fn one(
        &mut self,
        command: Command,
        patience: Duration,
    ) -> Result<Value, HypervisorError> {
        let name = command.name;
        self.run(&[command], patience)
            .await?
            .remove(0)
            .map_err(|message| HypervisorError::Refused {
                command: name.into(),
                message,
            })
    }

    /// Commands that must all succeed; returns the first refusal otherwise.
    ///
    /// # Errors
    /// `Refused` with QEMU's words; `Silent`.
    pub async fn all(
        &mut self,
        commands: &[Command],
        patience: Duration,
    ) -> Result<Vec<Value>, HypervisorError> {
        let replies = self.run(commands, patience).await?;
        replies
            .into_iter()
            .zip(commands)
            .map(|(reply, command)| {
                reply.map_err(|message| HypervisorError::Refused {
                    command: command.name.into(),
                    message,
                })
            })
            .collect()
    }

    async fn exchange(
        &mut self,
        commands: &[Command],
        deadline: Instant,
    ) -> Result<Vec<Reply>, HypervisorError> {
        let first = self.next;
        self.next += commands.len() as u64;
        let bytes = encode(commands, self.id, first);
        match timeout_at(deadline, self.writer.write_all(&bytes)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(silent(format!("the monitor: {error}"))),
            Err(_) => return Err(silent("the monitor takes no commands")),
        }
        let mut replies = Vec::with_capacity(commands.len());
        while replies.len() < commands.len() {
            let expected = number(self.id, first + replies.len() as u64);
            match self.message(deadline).await? {
                Message::Return {
                    id: Some(id),
                    value,
                } if id == expected => replies.push(Ok(value)),
                Message::Error {
                    id: Some(id),
                    description,
                } if id == expected => replies.push(Err(description)),
                Message::Error {
                    id: None,
                    description,
                } => return Err(HypervisorError::Protocol(description)),
                Message::Event { name } => tracing::debug!(event = name, "QMP event"),
                // The answer to a command of a session that went away.
                other => tracing::debug!(?other, "an answer to somebody else"),
            }
        }
        Ok(replies)
    }

    async fn message(&mut self, deadline: Instant) -> Result<Message, HypervisorError> {
        let mut line = Vec::new();
        let mut limited = (&mut self.reader).take(MAX_MESSAGE);
        match timeout_at(deadline, limited.read_until(b'\n', &mut line)).await {
            Ok(Ok(_)) if line.ends_with(b"\n") => parse(&line).map_err(HypervisorError::Protocol),
            Ok(Ok(length)) if length as u64 >= MAX_MESSAGE => Err(HypervisorError::Protocol(
                "a QMP message is too long".into(),
            )),
            Ok(Ok(_)) => Err(silent("the monitor closed the connection")),
            Ok(Err(error)) => Err(silent(format!("the monitor: {error}"))),
            Err(_) => Err(silent("no answer of the monitor in time")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_of_all_kinds() {
        assert_eq!(
            parse(br#"{"QMP": {"version": {}, "capabilities": ["oob"]}}"#),
            Ok(Message::Greeting)
        );
        assert_eq!(
            parse(br#"{"return": {}, "id": "a/3"}"#),
            Ok(Message::Return {
                id: Some("a/3".into()),
                value: json!({})
            })
        );
        let error = parse(br#"{"id": "a/4", "error": {"class": "GenericError", "desc": "no"}}"#);
        assert_eq!(
            error,
            Ok(Message::Error {
                id: Some("a/4".into()),
                description: "no".into()
            })
        );
        let event = parse(br#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP", "data": {"error": {}}}"#);
        assert_eq!(
            event,
            Ok(Message::Event {
                name: "STOP".into()
            })
        );
        assert!(parse(b"{}").is_err());
        assert!(parse(b"").is_err());
    }

    #[test]
    fn commands_are_one_line_each() {
        let text = encode(
            &[
                Command::bare("stop"),
                Command::new("quit", json!({"a": "x\ny"})),
            ],
            Uuid::nil(),
            7,
        );
        let lines: Vec<_> = text.split(|byte| *byte == b'\n').collect();
        assert_eq!(lines.len(), 3);
        let second: Value = serde_json::from_slice(lines[1]).unwrap();
        assert_eq!(
            second,
            json!({"execute": "quit", "id": format!("{}/8", Uuid::nil()), "arguments": {"a": "x\ny"}})
        );
    }

    #[test]
    fn a_failpoint_lets_so_many_through_and_then_none() {
        let point = Failpoint::default();
        assert_eq!(point.take(5), 5);
        point.stop_after(4);
        assert_eq!(point.take(3), 3);
        assert!(!point.struck());
        assert_eq!(point.take(3), 1);
        assert!(point.struck());
        assert_eq!(point.take(1), 0);
    }

    #[tokio::test]
    async fn answers_to_a_session_that_went_away_are_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qmp.sock");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            let stale = b"{\"return\": {\"status\": \"stale\"}, \"id\": \"another/1\"}\n";
            stream.write_all(stale).await.unwrap();
            stream.write_all(b"{\"QMP\": {}}\n").await.unwrap();
            for _ in 0..2 {
                let mut line = String::new();
                stream.read_line(&mut line).await.unwrap();
                let id = serde_json::from_str::<Value>(&line).unwrap()["id"].clone();
                stream.write_all(stale).await.unwrap();
                let answer = json!({"return": {"status": "fresh"}, "id": id}).to_string() + "\n";
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let patience = Duration::from_secs(10);
        let mut session = Session::open(&path, patience, &Failpoint::default())
            .await
            .unwrap();
        let answer = session
            .one(Command::bare("query-status"), patience)
            .await
            .unwrap();
        assert_eq!(answer, json!({"status": "fresh"}));
        server.await.unwrap();
    }

    proptest! {
        #[test]
        fn garbage_is_an_error_and_never_a_panic(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&line);
        }
    }
}
