//! Identifiers that look random and are not: the same seed and the same requests give the same ids.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The source of every id of one emulator.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Ids {
    seed: u64,
    count: u64,
}

impl Ids {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, count: 0 }
    }

    fn hash(&mut self) -> blake3::Hash {
        self.count += 1;
        let mut text = self.seed.to_le_bytes().to_vec();
        text.extend(self.count.to_le_bytes());
        blake3::hash(&text)
    }

    /// A fresh id.
    pub(crate) fn next(&mut self) -> String {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&self.hash().as_bytes()[..16]);
        uuid::Builder::from_random_bytes(bytes)
            .into_uuid()
            .to_string()
    }

    /// A fresh bearer token.
    pub(crate) fn token(&mut self) -> String {
        format!("emulated.{}.{}", self.hash().to_hex(), self.count)
    }
}

/// The id that belongs to a name: VMs and providers keep theirs from seed to seed.
pub(crate) fn named(kind: &str, name: &str) -> String {
    let mut bytes = [0; 16];
    let hash = blake3::hash(format!("{kind}\0{}", name.to_ascii_lowercase()).as_bytes());
    bytes.copy_from_slice(&hash.as_bytes()[..16]);
    Uuid::from_bytes(*uuid::Builder::from_random_bytes(bytes).as_uuid().as_bytes()).to_string()
}
