//! Certificates of a world: one authority, a certificate for each agent and one for the operators.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use homeward::{
    agent::client::AgentClient,
    pki::{Authority, Usages},
};

/// Name in the operators' certificate.
pub(super) const OPERATOR: &str = "homeward-operator";

/// A certificate for the operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certificate {
    /// As it should be.
    Good,
    /// Of the right name, signed by an authority that agents do not know.
    OfAnotherAuthority,
    /// Signed by the right authority, for a name that may give no orders.
    OfAStranger,
}

/// The certificates of a world.
pub(super) struct Pki {
    folder: PathBuf,
    authority: Authority,
}

impl Pki {
    pub(super) fn create(folder: &Path) -> Result<Self> {
        let authority =
            Authority::create(folder, "Homeward playground").context("cannot make certificates")?;
        authority.issue(OPERATOR, &[], Usages::Client)?;
        Ok(Self {
            folder: folder.to_owned(),
            authority,
        })
    }

    pub(super) fn issue_agent(&self, name: &str, address: Ipv4Addr) -> Result<()> {
        self.authority
            .issue(name, &[address.to_string()], Usages::ServerAndClient)?;
        Ok(())
    }

    pub(super) fn ca(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    pub(super) fn certificate(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.pem"))
    }

    pub(super) fn key(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}-key.pem"))
    }

    /// A client with the operators' certificate.
    pub(super) fn client(&self, url: &str) -> Result<AgentClient> {
        let client = AgentClient::new(
            url,
            &read(&self.ca())?,
            &read(&self.certificate(OPERATOR))?,
            &read(&self.key(OPERATOR))?,
        )?;
        Ok(client)
    }

    /// The authority, as PEM.
    pub(super) fn authority(&self) -> Result<Vec<u8>> {
        read(&self.ca())
    }

    /// Certificate and key of the operators, as PEM.
    pub(super) fn operators(&self, which: Certificate) -> Result<[Vec<u8>; 2]> {
        const STRANGER: &str = "stranger";
        let (folder, name) = match which {
            Certificate::Good => (self.folder.clone(), OPERATOR),
            Certificate::OfAnotherAuthority => {
                let folder = self.folder.join("elsewhere");
                if !folder.exists() {
                    Authority::create(&folder, "Somebody else")?.issue(
                        OPERATOR,
                        &[],
                        Usages::Client,
                    )?;
                }
                (folder, OPERATOR)
            }
            Certificate::OfAStranger => {
                if !self.certificate(STRANGER).exists() {
                    self.authority.issue(STRANGER, &[], Usages::Client)?;
                }
                (self.folder.clone(), STRANGER)
            }
        };
        Ok([
            read(&folder.join(format!("{name}.pem")))?,
            read(&folder.join(format!("{name}-key.pem")))?,
        ])
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
