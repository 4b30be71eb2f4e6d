//! The TLS set-ups against each other and against forgers, in real handshakes over buffers.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use dms3_core::id::NodeId;
use dms3_core::roster::NodeRole::{self, Camera, Coordinator};
use dms3_core::time::Timestamp;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::{ClientSessionMemoryCache, ResolvesClientCert, Resumption};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert, ServerSessionMemoryCache};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{AlertDescription, CertificateError, ClientConfig, ClientConnection, Error, HandshakeKind, ServerConfig, ServerConnection};
use rustls::{PeerIncompatible, SignatureScheme};

use super::*;
use crate::forge::{House, Lookalike, NOW, SECOND, everybody, for_tls, id_of, key_of, sign_by};
use crate::peer::peer_identity;
use crate::{Admission, NodeKey};

#[derive(Debug)]
struct At(Timestamp);

impl TimeProvider for At {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0.as_secs())))
    }
}

fn at(now: Timestamp) -> Arc<dyn TimeProvider> {
    Arc::new(At(now))
}

fn now() -> Arc<dyn TimeProvider> {
    at(NOW)
}

/// How a handshake ended on each side.
#[derive(Debug)]
struct Ended {
    client: Result<ClientConnection, Error>,
    server: Result<ServerConnection, Error>,
}

impl Ended {
    /// Both sides are through, and a word of the client reached the server.
    fn up(self) -> (ClientConnection, ServerConnection) {
        (self.client.expect("the client is content"), self.server.expect("the server is content"))
    }

    fn refused_by_server(&self) -> &Error {
        self.server.as_ref().expect_err("the server refused")
    }

    fn refused_by_client(&self) -> &Error {
        self.client.as_ref().expect_err("the client refused")
    }
}

fn shake(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Ended {
    let name = enroll_server_name();
    let mut client = ClientConnection::new(client.clone(), name).unwrap();
    let mut server = ServerConnection::new(server.clone()).unwrap();
    let (mut client_error, mut server_error) = (None, None);
    // What one side has to say, even after an error (the alert), is given to the other until both are silent.
    loop {
        let mut to_server = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut to_server).unwrap();
        }
        let mut rest = to_server.as_slice();
        while !rest.is_empty() && server_error.is_none() {
            server.read_tls(&mut rest).unwrap();
            server_error = server.process_new_packets().err();
        }
        let mut to_client = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut to_client).unwrap();
        }
        let mut rest = to_client.as_slice();
        while !rest.is_empty() && client_error.is_none() {
            client.read_tls(&mut rest).unwrap();
            client_error = client.process_new_packets().err();
        }
        if to_server.is_empty() && to_client.is_empty() {
            break;
        }
    }
    let client = client_error.map_or_else(|| if client.is_handshaking() { Err(Error::HandshakeNotComplete) } else { Ok(client) }, Err);
    let server = server_error.map_or_else(|| if server.is_handshaking() { Err(Error::HandshakeNotComplete) } else { Ok(server) }, Err);
    Ended { client, server }
}

fn port(house: &House, role: NodeRole) -> Arc<ServerConfig> {
    mesh_server(&house.coordinator, everybody(role), now()).unwrap()
}

fn dialling(house: &House) -> Arc<ClientConfig> {
    mesh_client(&house.camera, now()).unwrap()
}

fn invalid(error: CertificateError) -> Error {
    Error::InvalidCertificate(error)
}

fn alert(alert: AlertDescription) -> Error {
    Error::AlertReceived(alert)
}

/// Trusts every server and signature: the forger's side.
#[derive(Debug)]
struct Gullible;

impl rustls::client::danger::ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Presents a chain with any key, matching or not.
#[derive(Debug)]
struct Presents(Arc<CertifiedKey>);

impl Presents {
    fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Arc<Self> {
        let key = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
        Arc::new(Self(Arc::new(CertifiedKey::new(chain, key))))
    }
}

impl ResolvesClientCert for Presents {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ResolvesServerCert for Presents {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

fn any_provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A forger's client that presents `chain`.
fn forger(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(any_provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible))
        .with_client_cert_resolver(Presents::new(chain, key));
    config.alpn_protocols = vec![ALPN_MESH.to_vec()];
    Arc::new(config)
}

/// A rogue server that presents `chain`, on both ports.
fn rogue(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(any_provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Presents::new(chain, key));
    config.alpn_protocols = vec![ALPN_MESH.to_vec(), ALPN_ENROLL.to_vec()];
    Arc::new(config)
}

fn with_leaf(leaf: Vec<u8>, above: Vec<CertificateDer<'static>>) -> Vec<CertificateDer<'static>> {
    [vec![leaf.into()], above].concat()
}

#[test]
fn a_camera_and_its_coordinator_know_each_other_after_the_handshake() {
    let house = House::found();
    let (client, server) = shake(&dialling(&house), &port(&house, Camera)).up();
    let mesh = house.authority.mesh();
    let camera = peer_identity(server.peer_certificates().unwrap(), &mesh, NOW).unwrap();
    assert_eq!((camera.node, camera.role, camera.expired), (house.camera.node(), Camera, false));
    assert_eq!(camera.not_after, house.camera.not_after());
    let coordinator = peer_identity(client.peer_certificates().unwrap(), &mesh, NOW).unwrap();
    assert_eq!((coordinator.node, coordinator.role), (house.coordinator.node(), Coordinator));
    assert_eq!(client.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    assert_eq!(client.alpn_protocol(), Some(ALPN_MESH));
}

#[test]
fn a_new_pi_reaches_the_enrollment_port_and_learns_who_answered() {
    let house = House::found();
    let client = enroll_client(house.authority.root_pin().unwrap(), now()).unwrap();
    let (client, mut server) = shake(&client, &enroll_server(&house.coordinator, now()).unwrap()).up();
    let answered = peer_identity(client.peer_certificates().unwrap(), &house.authority.mesh(), NOW).unwrap();
    assert_eq!(answered.node, house.coordinator.node());
    assert!(server.peer_certificates().is_none());
    // Both sides derive the same secret for `Begin`, each session another one.
    let exported = |ended: &mut dyn FnMut(&mut [u8; 32])| {
        let mut bytes = [0; 32];
        ended(&mut bytes);
        bytes
    };
    let theirs = exported(&mut |out| {
        client.export_keying_material(out, crate::EXPORTER_LABEL, None).unwrap();
    });
    let ours = exported(&mut |out| {
        server.export_keying_material(out, crate::EXPORTER_LABEL, None).unwrap();
    });
    assert_eq!(theirs, ours);
    server.send_close_notify();
}

#[test]
fn the_mesh_port_demands_a_certificate_from_everybody() {
    let house = House::found();
    let mut nobody = ClientConfig::builder_with_provider(any_provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible))
        .with_no_client_auth();
    nobody.alpn_protocols = vec![ALPN_MESH.to_vec()];
    let ended = shake(&Arc::new(nobody), &port(&house, Camera));
    assert_eq!(*ended.refused_by_server(), Error::NoCertificatesPresented);
    assert_eq!(*ended.refused_by_client(), alert(AlertDescription::CertificateRequired));
}

#[test]
fn forged_chains_are_refused_on_the_mesh_port_with_an_alert_that_has_words() {
    let house = House::found();
    let fake = Lookalike::of(&house);
    let key = NodeKey::generate().unwrap();
    let leaf = sign_by(&house.params(&key, Camera), &key, &fake.issuing, &fake.issuing_key);
    let ended = shake(&forger(with_leaf(leaf, vec![fake.issuing.into()]), key.for_tls()), &port(&house, Camera));
    assert_eq!(*ended.refused_by_server(), invalid(CertificateError::BadSignature));
    let Error::AlertReceived(said) = ended.refused_by_client() else { panic!("{ended:?}") };
    assert!(alert_words(u8::from(*said), RefusedBy::Peer).contains("another house"));

    let other = House::found();
    let ended = shake(&forger(other.camera.chain(), other.camera.key().for_tls()), &port(&house, Camera));
    assert_eq!(*ended.refused_by_server(), invalid(CertificateError::NotValidForName));
}

#[test]
fn a_stolen_certificate_is_worth_nothing_without_its_key() {
    let house = House::found();
    let thief = NodeKey::generate().unwrap();
    let ended = shake(&forger(house.camera.chain(), thief.for_tls()), &port(&house, Camera));
    assert_eq!(*ended.refused_by_server(), invalid(CertificateError::BadSignature));

    let rogue = rogue(with_leaf(house.coordinator.leaf().to_vec(), house.above_with_root()), thief.for_tls());
    assert_eq!(*shake(&dialling(&house), &rogue).refused_by_client(), invalid(CertificateError::BadSignature));
    let new = enroll_client(house.authority.root_pin().unwrap(), now()).unwrap();
    assert_eq!(*shake(&new, &rogue).refused_by_client(), invalid(CertificateError::BadSignature));
}

#[test]
fn a_node_with_a_key_of_another_kind_is_refused_and_p256_is_not() {
    let house = House::found();
    let key = key_of(&rcgen::PKCS_ECDSA_P384_SHA384);
    let leaf = house.sign(&house.params(&key, Camera), &key);
    let ended = shake(&forger(with_leaf(leaf, house.above()), for_tls(&key)), &port(&house, Camera));
    ended.refused_by_server();

    let key = key_of(&rcgen::PKCS_ECDSA_P256_SHA256);
    let leaf = house.sign(&house.params(&key, Camera), &key);
    let (_, server) = shake(&forger(with_leaf(leaf, house.above()), for_tls(&key)), &port(&house, Camera)).up();
    let peer = peer_identity(server.peer_certificates().unwrap(), &house.authority.mesh(), NOW).unwrap();
    assert_eq!(peer.node, id_of(&key));
}

#[test]
fn a_camera_or_a_rogue_that_answers_is_never_obeyed_on_either_port() {
    let house = House::found();
    let (dialling, new) = (dialling(&house), enroll_client(house.authority.root_pin().unwrap(), now()).unwrap());
    let refusals = |server: &Arc<ServerConfig>| [shake(&dialling, server), shake(&new, server)].map(|e| e.refused_by_client().clone());

    let camera = rogue(with_leaf(house.camera.leaf().to_vec(), house.above_with_root()), house.camera.key().for_tls());
    assert_eq!(refusals(&camera), [invalid(CertificateError::InvalidPurpose), invalid(CertificateError::InvalidPurpose)]);

    let other = House::found();
    let neighbour = rogue(with_leaf(other.coordinator.leaf().to_vec(), other.above_with_root()), other.coordinator.key().for_tls());
    assert_eq!(refusals(&neighbour), [invalid(CertificateError::NotValidForName), invalid(CertificateError::UnknownIssuer)]);

    // A thief of the issuing key: the enrolling Pi finds out by the bundle, before it keeps anything.
    let key = NodeKey::generate().unwrap();
    let made_up = rogue(with_leaf(house.sign(&house.params(&key, Coordinator), &key), house.above_with_root()), key.for_tls());
    assert_eq!(*shake(&dialling, &made_up).refused_by_client(), invalid(CertificateError::ApplicationVerificationFailure));
    let (client, _) = shake(&new, &made_up).up();
    let answered = peer_identity(client.peer_certificates().unwrap(), &house.authority.mesh(), NOW).unwrap();
    assert!(!house.coordinator.bundle().is_coordinator(&answered.node));
}

#[test]
fn the_ports_are_two_and_speak_to_their_own_clients_only() {
    let house = House::found();
    let enroll = enroll_server(&house.coordinator, now()).unwrap();
    assert_eq!(*shake(&dialling(&house), &enroll).refused_by_server(), Error::NoApplicationProtocol);
    let new = enroll_client(house.authority.root_pin().unwrap(), now()).unwrap();
    let ended = shake(&new, &port(&house, Camera));
    assert_eq!(*ended.refused_by_server(), Error::NoApplicationProtocol);
    assert_eq!(*ended.refused_by_client(), alert(AlertDescription::NoApplicationProtocol));
}

#[test]
fn a_handshake_is_judged_by_the_time_it_is_given() {
    let house = House::found();
    let end = house.camera.not_after();
    let at_time = |time: Timestamp| mesh_server(&house.coordinator, everybody(Camera), at(time)).unwrap();
    let (_, server) = shake(&dialling(&house), &at_time(end + SECOND)).up();
    assert!(peer_identity(server.peer_certificates().unwrap(), &house.authority.mesh(), end + SECOND).unwrap().expired);
    let ended = shake(&dialling(&house), &at_time(end + crate::DRAWER + SECOND));
    assert_eq!(*ended.refused_by_server(), invalid(CertificateError::Expired));
    let late = mesh_client(&house.camera, at(end + SECOND)).unwrap();
    assert_eq!(*shake(&late, &port(&house, Camera)).refused_by_client(), invalid(CertificateError::Expired));
}

#[test]
fn nothing_older_than_tls_13_is_spoken() {
    let house = House::found();
    let mut old = ClientConfig::builder_with_provider(any_provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible))
        .with_client_cert_resolver(Presents::new(house.camera.chain(), house.camera.key().for_tls()));
    old.alpn_protocols = vec![ALPN_MESH.to_vec()];
    let ended = shake(&Arc::new(old), &port(&house, Camera));
    assert!(matches!(ended.refused_by_server(), Error::PeerIncompatible(PeerIncompatible::Tls12NotOfferedOrEnabled)), "{ended:?}");
    for config in [dialling(&house), enroll_client([0; 16], now()).unwrap()] {
        let old = ServerConfig::builder_with_provider(any_provider())
            .with_protocol_versions(&[&rustls::version::TLS12])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Presents::new(house.coordinator.chain(), house.coordinator.key().for_tls()));
        shake(&config, &Arc::new(old)).refused_by_client();
    }
}

/// A roster in which a node can be revoked while the house runs.
#[derive(Debug)]
struct Living(Mutex<Admission>);

impl Admit for Living {
    fn admit(&self, _: &NodeId) -> Admission {
        *self.0.lock().unwrap()
    }
}

#[test]
fn no_session_is_ever_resumed_so_a_revoked_camera_stays_out() {
    let house = House::found();
    let roster = Arc::new(Living(Mutex::new(Admission::Active(Camera))));
    let server = mesh_server(&house.coordinator, roster.clone(), now()).unwrap();
    // The camera does all it can to resume.
    let mut eager = ClientConfig::clone(&dialling(&house));
    let store = Arc::new(ClientSessionMemoryCache::new(32));
    eager.resumption = Resumption::store(store);
    eager.enable_early_data = true;
    let eager = Arc::new(eager);
    for _ in 0..2 {
        let (client, server) = shake(&eager, &server).up();
        assert_eq!(client.tls13_tickets_received(), 0);
        assert_eq!(server.handshake_kind(), Some(HandshakeKind::Full));
        assert!(!client.is_early_data_accepted());
    }
    *roster.0.lock().unwrap() = Admission::Revoked;
    let ended = shake(&eager, &server);
    assert_eq!(*ended.refused_by_server(), invalid(CertificateError::Revoked));
    assert_eq!(*ended.refused_by_client(), alert(AlertDescription::CertificateRevoked));
}

/// Each of these alone would do today; none may be lost to a change of the library underneath.
#[test]
fn every_set_up_has_tickets_session_store_and_early_data_switched_off() {
    let house = House::found();
    for server in [port(&house, Camera), enroll_server(&house.coordinator, now()).unwrap()] {
        assert_eq!((server.send_tls13_tickets, server.max_early_data_size), (0, 0));
        assert!(!server.session_storage.can_cache() && !server.ticketer.enabled());
    }
    for client in [dialling(&house), enroll_client([0; 16], now()).unwrap()] {
        assert!(!client.enable_early_data);
    }
}

#[test]
fn our_clients_resume_nothing_even_where_a_server_offers_it() {
    let house = House::found();
    let mut offering = ServerConfig::clone(&rogue(
        with_leaf(house.coordinator.leaf().to_vec(), house.above_with_root()),
        house.coordinator.key().for_tls(),
    ));
    offering.session_storage = ServerSessionMemoryCache::new(32);
    offering.send_tls13_tickets = 2;
    let offering = Arc::new(offering);
    for config in [dialling(&house), enroll_client(house.authority.root_pin().unwrap(), now()).unwrap()] {
        for _ in 0..2 {
            let (client, _) = shake(&config, &offering).up();
            assert!(client.tls13_tickets_received() > 0, "the server did offer");
            assert_eq!(client.handshake_kind(), Some(HandshakeKind::Full));
        }
    }
    // The enrollment port offers nothing either.
    let mut eager = ClientConfig::clone(&enroll_client(house.authority.root_pin().unwrap(), now()).unwrap());
    eager.resumption = Resumption::in_memory_sessions(32);
    let (eager, port) = (Arc::new(eager), enroll_server(&house.coordinator, now()).unwrap());
    for _ in 0..2 {
        let (client, _) = shake(&eager, &port).up();
        assert_eq!((client.tls13_tickets_received(), client.handshake_kind()), (0, Some(HandshakeKind::Full)));
    }
}

#[test]
fn the_names_to_dial_are_names() {
    let house = House::found();
    for name in [mesh_server_name(&house.authority.mesh()), enroll_server_name()] {
        assert!(matches!(name, ServerName::DnsName(_)), "{name:?}");
    }
}
