//! TLS to the database by rustls, as libpq's `sslmode` means it (PostgreSQL 15, 34.19.3).
//!
//! `prefer` and `require` encrypt and believe any server, since that is what they say; with `sslrootcert`, and with
//! `verify-full` always, the server must prove to be the host that was named.

use super::settings::SettingsError;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::io;
use std::path::Path;
use std::sync::Arc;
use tokio_postgres_rustls::MakeRustlsConnect;

pub(super) fn connector(
    verify: bool,
    root: Option<&str>,
) -> Result<MakeRustlsConnect, SettingsError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions().map_err(SettingsError::Tls)?;
    let config = match (verify, root) {
        (false, None) => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
            .with_no_client_auth(),
        (_, Some(path)) => builder.with_root_certificates(of_file(path)?).with_no_client_auth(),
        (true, None) => builder.with_root_certificates(of_system()?).with_no_client_auth(),
    };
    Ok(MakeRustlsConnect::new(config))
}

fn of_file(path: &str) -> Result<RootCertStore, SettingsError> {
    let path = Path::new(path);
    let failed = |source| SettingsError::Certificates { path: path.to_owned(), source };
    let text = std::fs::read(path).map_err(failed)?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|e| failed(io::Error::other(e)))?;
        roots.add(certificate).map_err(|e| failed(io::Error::other(e)))?;
    }
    if roots.is_empty() {
        return Err(SettingsError::NoCertificate { path: path.to_owned() });
    }
    Ok(roots)
}

fn of_system() -> Result<RootCertStore, SettingsError> {
    let mut roots = RootCertStore::empty();
    // Some systems have certificates that are not understood beside hundreds that are.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(SettingsError::SystemCertificates);
    }
    Ok(roots)
}

/// Believes every certificate, and still that whoever has it has its key.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
