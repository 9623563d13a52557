//! The same pass over mutual TLS, a bandwidth cap, and what happens to peers that are not known.

use std::sync::Arc;

use homeward::dataplane::*;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use crate::support::*;

pub struct Pki {
    ca: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
}

impl Pki {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap().der().clone();
        Self {
            ca: Issuer::new(params, key),
            root,
        }
    }

    fn identity(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(vec!["target.test".to_owned()])
            .unwrap()
            .signed_by(&key, &self.ca)
            .unwrap();
        (
            vec![cert.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
    }

    fn roots(&self) -> Arc<rustls::RootCertStore> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        Arc::new(roots)
    }

    pub fn server(&self) -> ServeOptions {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
            self.roots(),
            Arc::clone(&provider),
        )
        .build()
        .unwrap();
        let (chain, key) = self.identity();
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap();
        let config = config
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .unwrap();
        ServeOptions {
            tls: Some(Arc::new(config)),
            ..ServeOptions::default()
        }
    }

    pub fn client(&self, address: String, name: &str) -> Endpoint {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let (chain, key) = self.identity();
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap();
        let config = config
            .with_root_certificates(self.roots())
            .with_client_auth_cert(chain, key)
            .unwrap();
        Endpoint::tls(
            address,
            Arc::new(config),
            ServerName::try_from(name.to_owned()).unwrap(),
        )
    }
}

fn sites() -> (Vec<u8>, Site, Site) {
    let new = noise(2, 90 * KIB64 + 512);
    (
        new.clone(),
        Site::new(&[("vda", &new)]),
        Site::new(&[("vda", &noise(1, new.len()))]),
    )
}

#[test]
fn a_pass_over_mutual_tls() {
    let pki = Pki::new();
    for mode in [Mode::InPlace, Mode::NewFiles] {
        let (new, source, target) = sites();
        let (address, serving) = serve_one(&target, pki.server());
        let endpoint = pki.client(address.to_string(), "target.test");
        let outcome = send_pass(
            &endpoint,
            spec(1, mode, Candidates::All),
            source.sources(),
            &mut source.set(),
            &PassControl::new(),
        )
        .unwrap();
        assert!(matches!(serving.join().unwrap(), Served::Whole(_)));
        assert!(outcome.bytes_sent > new.len() as u64);
        target.set().seal(&outcome.roots).unwrap();
        assert_eq!(target.read("vda"), new);
    }
}

#[test]
fn tls_that_is_cut_resumes() {
    let pki = Pki::new();
    let (new, source, target) = sites();
    for after in [500, 100_000, 3_000_000] {
        let (address, serving) = serve_one(&target, pki.server());
        let (through, cutter, _) = cut_after(address, after);
        let endpoint = pki.client(through.to_string(), "target.test");
        let outcome = send_pass(
            &endpoint,
            spec(1, Mode::InPlace, Candidates::All),
            source.sources(),
            &mut source.set(),
            &PassControl::new(),
        );
        assert!(
            matches!(outcome, Err(PassError::Disconnected(_))),
            "{outcome:?}"
        );
        serving.join().unwrap();
        cutter.join().unwrap();
    }
    let (address, serving) = serve_one(&target, pki.server());
    let endpoint = pki.client(address.to_string(), "target.test");
    let outcome = send_pass(
        &endpoint,
        spec(1, Mode::InPlace, Candidates::All),
        source.sources(),
        &mut source.set(),
        &PassControl::new(),
    )
    .unwrap();
    serving.join().unwrap();
    assert!(outcome.bytes_changed < new.len() as u64);
    assert_eq!(target.read("vda"), new);
}

#[test]
fn strangers_and_false_names_get_nowhere() {
    let (pki, other) = (Pki::new(), Pki::new());
    let (_, source, target) = sites();
    let before = target.read("vda");
    // A client whose certificate another authority has signed; a target that is not who it should be; plain TCP to a TLS port.
    let endpoints: [&dyn Fn(String) -> Endpoint; 3] = [
        &|address| {
            let mut endpoint = other.client(address.clone(), "target.test");
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let (chain, key) = other.identity();
            let config = rustls::ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap();
            let config = config
                .with_root_certificates(pki.roots())
                .with_client_auth_cert(chain, key)
                .unwrap();
            endpoint.tls = Some((
                Arc::new(config),
                ServerName::try_from("target.test").unwrap(),
            ));
            endpoint
        },
        &|address| pki.client(address, "somebody.else"),
        &Endpoint::plain,
    ];
    for (at, endpoint) in endpoints.into_iter().enumerate() {
        let (address, serving) = serve_one(&target, pki.server());
        let endpoint = endpoint(address.to_string());
        let outcome = send_pass(
            &endpoint,
            spec(1, Mode::InPlace, Candidates::All),
            source.sources(),
            &mut source.set(),
            &PassControl::new(),
        );
        assert!(
            matches!(
                outcome,
                Err(PassError::Tls(_) | PassError::Disconnected(_) | PassError::Protocol { .. })
            ),
            "{at}: {outcome:?}"
        );
        assert!(
            matches!(serving.join().unwrap(), Served::Disconnected(_)),
            "{at}"
        );
        assert_eq!(target.read("vda"), before);
    }
}

#[test]
fn a_bandwidth_cap_is_heeded_and_can_be_lifted() {
    let (new, source, target) = sites();
    let (address, serving) = serve_one(&target, ServeOptions::default());
    let control = PassControl::new();
    // At this rate it would never end: only lifting the cap lets it.
    control.set_bandwidth_cap(1);
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            send_pass(
                &Endpoint::plain(address.to_string()),
                spec(1, Mode::NewFiles, Candidates::All),
                source.sources(),
                &mut source.set(),
                &control,
            )
        });
        while control.progress().bytes_done == 0 {
            std::thread::yield_now();
        }
        assert!(control.progress().bytes_done < new.len() as u64);
        control.set_bandwidth_cap(0);
        let outcome = sending.join().unwrap().unwrap();
        assert_eq!(outcome.bytes_changed, new.len() as u64);
    });
    serving.join().unwrap();
}
