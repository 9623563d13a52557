//! How a driver is made for a vault. The command line hands in the factory; controllers know no concrete driver.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::api::RecoveryVaultSpec;
use crate::driver::{DriverError, ReplicationDriver};

/// What the Secrets of a vault hold, by the name of the Secret and then by key.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct VaultSecrets {
    by_name: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
}

impl VaultSecrets {
    /// Takes in what a Secret holds.
    pub fn insert(&mut self, secret: impl Into<String>, data: BTreeMap<String, Vec<u8>>) {
        self.by_name.insert(secret.into(), data);
    }

    /// The bytes of a key of a Secret.
    #[must_use]
    pub fn get(&self, secret: &str, key: &str) -> Option<&[u8]> {
        self.by_name.get(secret)?.get(key).map(Vec::as_slice)
    }
}

impl fmt::Debug for VaultSecrets {
    /// The names of Secrets and of their keys; never what they hold.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self
            .by_name
            .iter()
            .map(|(name, data)| (name, data.keys().collect::<Vec<_>>()));
        f.debug_map().entries(names).finish()
    }
}

/// All that a driver is made from.
#[derive(Clone, Debug)]
pub struct DriverInput {
    /// Namespace of the vault.
    pub namespace: String,
    /// Name of the vault.
    pub name: String,
    /// What a person said of it.
    pub spec: RecoveryVaultSpec,
    /// What its Secrets hold now.
    pub secrets: VaultSecrets,
}

/// Makes drivers.
pub trait DriverFactory: Send + Sync {
    /// Makes the driver of a vault. It is made anew when the vault's spec or one of its Secrets changes.
    ///
    /// # Errors
    /// When the spec or the Secrets cannot be used; the message names the field or the key, and what to do.
    fn build(&self, input: &DriverInput) -> Result<Arc<dyn ReplicationDriver>, DriverError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let mut secrets = VaultSecrets::default();
        secrets.insert(
            "tls",
            BTreeMap::from([("tls.key".to_owned(), b"hush".to_vec())]),
        );
        assert_eq!(format!("{secrets:?}"), r#"{"tls": ["tls.key"]}"#);
        assert_eq!(secrets.get("tls", "tls.key"), Some(b"hush".as_slice()));
    }
}
