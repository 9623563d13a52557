//! A certificate authority for those who have none: `homeward pki init` and `homeward pki issue`.
//!
//! Files in one folder: `ca.pem`, `ca-key.pem`, and `<name>.pem`, `<name>-key.pem` for each that was issued. Keys are
//! readable by their owner alone (0600). Nothing is ever overwritten. The CA's key is needed only to issue.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};

/// How long the authority is valid.
const AUTHORITY_DAYS: u64 = 3650;
/// How long what it issues is valid.
const ISSUED_DAYS: u64 = 825;

/// Why a certificate was not made.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The file is there already.
    #[error("{} exists and is not overwritten; move it away, or choose another folder or name", .0.display())]
    Exists(PathBuf),
    /// A file could not be read or written.
    #[error("{}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// There is no authority to issue with.
    #[error("{} is not there: make an authority with `homeward pki init`, or name its folder with --dir", path.display())]
    NoAuthority {
        /// What was looked for.
        path: PathBuf,
    },
    /// A name that cannot be used.
    #[error("{0:?} is not a name of letters, digits, dots and dashes")]
    Name(String),
    /// Certificate or key could not be made or read.
    #[error("{0}")]
    Certificate(#[from] rcgen::Error),
}

/// For which side of a connection a certificate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usages {
    /// Agents: they serve, and they connect to one another.
    ServerAndClient,
    /// Operators and people.
    Client,
}

/// Where an issued certificate and its key lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// A certificate authority in a folder.
pub struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a new authority: `ca.pem` and `ca-key.pem`.
    ///
    /// # Errors
    /// `Exists` when either file is there; nothing is overwritten.
    pub fn create(folder: &Path, name: &str) -> Result<Self, PkiError> {
        fs::create_dir_all(folder).map_err(|error| PkiError::File {
            path: folder.to_owned(),
            error,
        })?;
        let (certificate, key_file) = (folder.join("ca.pem"), folder.join("ca-key.pem"));
        absent(&[&certificate, &key_file])?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        valid_for(&mut params, AUTHORITY_DAYS);
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        // The key first: a certificate without its key would look whole and be of no use.
        write(&key_file, key.serialize_pem().as_bytes(), 0o600)?;
        write(&certificate, pem.as_bytes(), 0o644)?;
        Ok(Self {
            folder: folder.to_owned(),
            issuer: Issuer::new(params, key),
        })
    }

    /// Reads the authority of a folder.
    ///
    /// # Errors
    /// When a file is missing or cannot be used.
    pub fn load(folder: &Path) -> Result<Self, PkiError> {
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read_to_string(&path).map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => PkiError::NoAuthority { path },
                _ => PkiError::File { path, error },
            })
        };
        let key = KeyPair::from_pem(&read("ca-key.pem")?)?;
        Ok(Self {
            folder: folder.to_owned(),
            issuer: Issuer::from_ca_cert_pem(&read("ca.pem")?, key)?,
        })
    }

    /// Issues `<name>.pem` and `<name>-key.pem`. The name itself is always a DNS name of the certificate; `sans` are more DNS
    /// names and IP addresses.
    ///
    /// # Errors
    /// `Exists` when either file is there; nothing is overwritten.
    pub fn issue(&self, name: &str, sans: &[String], usages: Usages) -> Result<Issued, PkiError> {
        check_name(name)?;
        let issued = Issued {
            certificate: self.folder.join(format!("{name}.pem")),
            key: self.folder.join(format!("{name}-key.pem")),
        };
        absent(&[&issued.certificate, &issued.key])?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        for san in std::iter::once(name).chain(sans.iter().map(String::as_str)) {
            let san = match san.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => {
                    check_name(san)?;
                    SanType::DnsName(san.try_into()?)
                }
            };
            if !params.subject_alt_names.contains(&san) {
                params.subject_alt_names.push(san);
            }
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match usages {
            Usages::ServerAndClient => vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ],
            Usages::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
        };
        params.use_authority_key_identifier_extension = true;
        valid_for(&mut params, ISSUED_DAYS);
        let key = KeyPair::generate()?;
        let pem = params.signed_by(&key, &self.issuer)?.pem();
        write(&issued.key, key.serialize_pem().as_bytes(), 0o600)?;
        write(&issued.certificate, pem.as_bytes(), 0o644)?;
        Ok(issued)
    }
}

/// From yesterday on, so that a clock that is a little behind believes it.
fn valid_for(params: &mut CertificateParams, days: u64) {
    let today = jiff::Timestamp::now()
        .to_zoned(jiff::tz::TimeZone::UTC)
        .date();
    let day = Duration::from_hours(24);
    let number = |value: i8| u8::try_from(value).unwrap_or(1);
    let from = date_time_ymd(
        i32::from(today.year()),
        number(today.month()),
        number(today.day()),
    );
    params.not_before = from - day;
    params.not_after = from + Duration::from_secs(24 * 3600 * days);
}

fn check_name(name: &str) -> Result<(), PkiError> {
    let fine = (1..=253).contains(&name.len())
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'))
        // The authority's own files.
        && !matches!(name, "ca" | "ca-key");
    if fine {
        Ok(())
    } else {
        Err(PkiError::Name(name.to_owned()))
    }
}

fn absent(paths: &[&PathBuf]) -> Result<(), PkiError> {
    paths
        .iter()
        .find(|path| path.symlink_metadata().is_ok())
        .map_or(Ok(()), |path| Err(PkiError::Exists((*path).clone())))
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), PkiError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::AlreadyExists => PkiError::Exists(path.to_owned()),
        _ => PkiError::File {
            path: path.to_owned(),
            error,
        },
    };
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(failed)?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn keys_are_private_and_nothing_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create(folder.path(), "Homeward").unwrap();
        let issued = authority
            .issue(
                "hv01",
                &["127.0.0.1".into(), "hv01.lan".into()],
                Usages::ServerAndClient,
            )
            .unwrap();
        for key in [folder.path().join("ca-key.pem"), issued.key.clone()] {
            assert_eq!(
                fs::metadata(key).unwrap().permissions().mode() & 0o777,
                0o600
            );
        }
        let before = fs::read(&issued.certificate).unwrap();
        assert!(matches!(
            authority.issue("hv01", &[], Usages::Client),
            Err(PkiError::Exists(_))
        ));
        assert!(matches!(
            Authority::create(folder.path(), "x"),
            Err(PkiError::Exists(_))
        ));
        assert_eq!(fs::read(&issued.certificate).unwrap(), before);
    }

    #[test]
    fn a_loaded_authority_issues_what_its_own_certificate_signs() {
        let folder = tempfile::tempdir().unwrap();
        Authority::create(folder.path(), "Homeward").unwrap();
        let issued = Authority::load(folder.path())
            .unwrap()
            .issue("op", &[], Usages::Client)
            .unwrap();
        let pem = |path: &Path| {
            x509_parser::pem::parse_x509_pem(&fs::read(path).unwrap())
                .unwrap()
                .1
        };
        let (ca, leaf) = (pem(&folder.path().join("ca.pem")), pem(&issued.certificate));
        let (ca, leaf) = (ca.parse_x509().unwrap(), leaf.parse_x509().unwrap());
        assert_eq!(leaf.issuer(), ca.subject());
        assert!(ca.is_ca() && !leaf.is_ca());
        assert!(leaf.validity().is_valid());
    }

    #[test]
    fn names_cannot_leave_the_folder_or_take_the_authoritys_place() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create(folder.path(), "Homeward").unwrap();
        for bad in ["", "../x", "a/b", "ca", "ca-key", "-x"] {
            assert!(
                matches!(
                    authority.issue(bad, &[], Usages::Client),
                    Err(PkiError::Name(_))
                ),
                "{bad}"
            );
        }
    }
}
