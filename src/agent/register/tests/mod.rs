//! The register: a whole move, each refusal, and a world of hosts, operators, crashes and late orders.

use std::collections::BTreeMap;

use jiff::Timestamp;
use uuid::Uuid;

use super::*;
use crate::agent::api::{
    Boot, Claim, Command, CommitRecord, DeliverMode, DiskDefinition, DiskShape, FenceRecord,
    ManifestSource, OrderResult, PeerAddress, PowerSwitch, StartRecord, StepId, StopProof,
    StopRecord,
};

mod claims;
mod commits;
mod fences;
mod host;
mod sessions;
mod steps;
mod stops;
mod world;
