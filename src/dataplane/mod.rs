//! The data plane: copies the disks of a VM between two hosts, whole or not at all.
//!
//! One pass brings the target to one point in time of the source, over all disks of the VM:
//!
//! ```text
//!   source                                                     target
//!   sources, tables                                            disks, tables, journal
//!      |  Hello: who, by which order, which pass, which disks     |
//!      |--------------------------------------------------------->| admission (agent), session number (S9)
//!      |  Welcome: what is here, what has arrived                 |
//!      |<---------------------------------------------------------|
//!      |  Compare --> <-- Digests       both hash in parallel     |   only without a trusted bitmap
//!      |  Plan: so much will be written                           |
//!      |--------------------------------------------------------->| journal reserved (S10), or a typed refusal
//!      |  Data, Zero ...                                          | pre-images, sync, write, sync, read back, table, sync
//!      |<-- Durable ----------------------------------------------|
//!      |  Finish: roots                                           | roots equal (S17): commit record, state, journal dropped
//!      |<-- Whole ------------------------------------------------|
//! ```
//!
//! Bitmaps are a hint, digests are the proof. A broken connection or a crash at any byte leaves a journal from which
//! [`VolumeSet::undo`] brings the whole old content back, and from which the next session goes on without sending again what has
//! arrived. After [`VolumeSet::seal`] there is no undo.
//!
//! | part | is | may not |
//! |---|---|---|
//! | [`blocks`], [`digest`], [`identity`], [`wire`], [`sender`], [`receiver`], [`journal`], [`rate`], [`error`] | pure: decisions and formats | touch files, sockets, clocks, randomness |
//! | [`io`] | files, through a trait that tests can crash | know of sockets |
//! | [`net`] | TCP and TLS, threads, the clock | decide |
//!
//! Everything blocks: call it from a thread that may.

pub mod blocks;
pub mod digest;
pub mod error;
pub mod identity;
pub mod io;
pub mod journal;
pub mod net;
pub mod rate;
pub mod receiver;
pub mod sender;
pub mod wire;

pub use error::{PassError, SetError, Side};
pub use identity::{Content, DiskId, Mode, Point, Roots, UsedCandidates, WhyAll};
pub use io::UndoReport;
pub use io::gate::{Barred, Gate, NotOpened, Session};
pub use io::source::{BlockSource, FileSource};
pub use io::volume_set::{DiskSpec, Lock, VolumeSet};
pub use net::{
    Admission, Admitted, Candidates, Clock, Endpoint, PassControl, PassDisk, PassOutcome,
    PassPhase, PassSpec, Peer, Progress, Pulse, ServeOptions, Served, ask_epoch, send_pass,
    serve_connection,
};
pub use wire::{Hello, Refusal, RefusalKind};
