//! TLS set-ups of both ports: TLS 1.3 only, two kinds of signature, no tickets, no resumption, no 0-RTT, trusted time.

#[cfg(test)]
mod handshake_tests;
pub(crate) mod verifier;
#[cfg(test)]
mod verifier_tests;
mod words;

use std::sync::Arc;

use dms3_core::id::MeshId;
use dms3_core::protocol::message::{ALPN_ENROLL, ALPN_MESH};
use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{NoServerSessionStorage, ServerConfig};
use rustls::time_provider::TimeProvider;
use rustls::{ConfigBuilder, ConfigSide, SignatureScheme, WantsVerifier};

use crate::chain::SIGNATURES;
use crate::{Admit, Identity, PkiError, profile};
use verifier::{CoordinatorVerifier, NodeVerifier, PinnedVerifier};
pub use words::{RefusedBy, alert_words};

/// The mesh port: a client certificate is always demanded, and its node must be active in the roster.
pub fn mesh_server(identity: &Identity, admit: Arc<dyn Admit>, time: Arc<dyn TimeProvider>) -> Result<Arc<ServerConfig>, PkiError> {
    let builder = tls13(ServerConfig::builder_with_details(provider(), time))?;
    let verifier = NodeVerifier { bundle: identity.bundle().clone(), admit };
    let config = builder.with_client_cert_verifier(Arc::new(verifier)).with_single_cert(identity.chain(), identity.key().for_tls())?;
    Ok(server(config, ALPN_MESH))
}

/// A node that dials the mesh port: only coordinators that the root named are talked to.
pub fn mesh_client(identity: &Identity, time: Arc<dyn TimeProvider>) -> Result<Arc<ClientConfig>, PkiError> {
    let verifier = CoordinatorVerifier { bundle: identity.bundle().clone() };
    let config = tls13(ClientConfig::builder_with_details(provider(), time))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(identity.chain(), identity.key().for_tls())?;
    Ok(client(config, ALPN_MESH))
}

/// The enrollment port: asks for no certificate (who comes here has none), and shows the root that tokens pin.
pub fn enroll_server(identity: &Identity, time: Arc<dyn TimeProvider>) -> Result<Arc<ServerConfig>, PkiError> {
    let mut chain = identity.chain();
    chain.push(CertificateDer::from(identity.bundle().root_der().to_vec()));
    let config = tls13(ServerConfig::builder_with_details(provider(), time))?
        .with_no_client_auth()
        .with_single_cert(chain, identity.key().for_tls())?;
    Ok(server(config, ALPN_ENROLL))
}

/// A new node that dials the enrollment port: all it knows of the house is the pin in its token.
pub fn enroll_client(root_pin: [u8; 16], time: Arc<dyn TimeProvider>) -> Result<Arc<ClientConfig>, PkiError> {
    let config = tls13(ClientConfig::builder_with_details(provider(), time))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PinnedVerifier { root_pin }))
        .with_no_client_auth();
    Ok(client(config, ALPN_ENROLL))
}

/// The name to dial the mesh port by.
pub fn mesh_server_name(mesh: &MeshId) -> ServerName<'static> {
    named(profile::coordinator_name(mesh))
}

/// The name to dial the enrollment port by. It goes out in the clear, so it says nothing: which house it is the pin decides.
pub fn enroll_server_name() -> ServerName<'static> {
    named("enroll.dms3.internal".to_owned())
}

fn named(name: String) -> ServerName<'static> {
    // Made of letters, digits and dots, so it always is a name; an address that no certificate carries stands for "never".
    ServerName::try_from(name).unwrap_or(ServerName::IpAddress(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED).into()))
}

fn server(mut config: ServerConfig, alpn: &[u8]) -> Arc<ServerConfig> {
    // A resumed session would skip the verifier, and so a revocation.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    config.alpn_protocols = vec![alpn.to_vec()];
    Arc::new(config)
}

fn client(mut config: ClientConfig, alpn: &[u8]) -> Arc<ClientConfig> {
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.alpn_protocols = vec![alpn.to_vec()];
    Arc::new(config)
}

fn tls13<S: ConfigSide>(builder: ConfigBuilder<S, rustls::WantsVersions>) -> Result<ConfigBuilder<S, WantsVerifier>, PkiError> {
    Ok(builder.with_protocol_versions(&[&rustls::version::TLS13])?)
}

/// ring, with nothing but the two kinds of signature.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider { signature_verification_algorithms: ALGORITHMS, ..rustls::crypto::ring::default_provider() })
}

static ALGORITHMS: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: SIGNATURES,
    mapping: &[
        (SignatureScheme::ED25519, &[webpki::ring::ED25519]),
        (SignatureScheme::ECDSA_NISTP256_SHA256, &[webpki::ring::ECDSA_P256_SHA256]),
    ],
};
