//! Those who are not of the house: papers, forged or stolen, presented as a client or as a server, by plain quinn and rustls.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dms3_core::id::{BootId, MeshId, NodeId};
use dms3_core::protocol::frame::{self, ENROLL_LIMIT, Header, Message};
use dms3_core::protocol::message::{CoordinatorHintV1, GrantV1};
use dms3_core::roster::NodeRole;
use dms3_node::clock::wall;
use dms3_node::mesh::link::tls_alert;
use dms3_pki::peer::peer_identity;
use dms3_pki::{AUTHORITY_DIR, Authority, KEY_FILE, NodeKey, node_id_of_public, node_of_request};
use mdns_sd::{IfKind, ServiceDaemon, ServiceInfo};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ConnectionError, Endpoint};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519, SanType, SigningKey,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use tokio::task::JoinSet;

use super::{House, Node, Port};

pub(crate) const MESH: &[u8] = b"dms3/1";
pub(crate) const ENROLL: &[u8] = b"dms3-enroll/1";
/// Longest wait for the other side's answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A certificate chain and the key of its leaf.
#[derive(Debug)]
pub(crate) struct Papers {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

/// What is special about a leaf that somebody makes.
#[derive(Debug, Clone)]
pub(crate) struct Leaf {
    pub(crate) role: NodeRole,
    pub(crate) usages: Vec<ExtendedKeyUsagePurpose>,
    /// Year, month and day at whose beginning its life ends.
    pub(crate) ends: (i32, u8, u8),
}

impl Leaf {
    pub(crate) fn camera() -> Self {
        Self { role: NodeRole::Camera, usages: vec![ExtendedKeyUsagePurpose::ClientAuth], ends: (2100, 1, 1) }
    }

    pub(crate) fn coordinator() -> Self {
        let usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        Self { role: NodeRole::Coordinator, usages, ends: (2100, 1, 1) }
    }

    fn params(&self, mesh: &MeshId, node: &NodeId) -> CertificateParams {
        let mut names = vec![format!("{node}.node.{mesh}.dms3.internal")];
        if self.role == NodeRole::Coordinator {
            names.push(format!("coordinator.{mesh}.dms3.internal"));
        }
        let mut params = CertificateParams::default();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(self.ends.0, self.ends.1, self.ends.2);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = self.usages.clone();
        params.subject_alt_names = names.into_iter().map(|name| SanType::DnsName(name.try_into().unwrap())).collect();
        params.use_authority_key_identifier_extension = true;
        params
    }
}

impl Papers {
    /// The real ones of a node, as a thief of its SD card has them.
    pub(crate) fn stolen(node: &Node) -> Self {
        let identity = dms3_pki::Identity::load(&node.state_dir()).unwrap().unwrap();
        let chain = vec![CertificateDer::from(identity.leaf().to_vec()), CertificateDer::from(identity.issuing().to_vec())];
        Self { chain, key: key_of(node) }
    }

    /// As the enrollment port shows them, to those who do not know the root yet.
    pub(crate) fn with_root(mut self, house: &House) -> Self {
        let identity = house.identity_of(&house.coordinator);
        self.chain.push(CertificateDer::from(identity.bundle().root_der().to_vec()));
        self
    }

    /// All made up, in the names of the house: root, issuing certificate and leaf. The root is presented too.
    pub(crate) fn forged(mesh: &MeshId, leaf: &Leaf) -> Self {
        let (root_key, issuing_key, key) = (ed25519(), ed25519(), ed25519());
        let root = authority(&format!("DMS3 root {mesh}"), 1).self_signed(&root_key).unwrap();
        let issuer = Issuer::from_ca_cert_der(root.der(), &root_key).unwrap();
        let issuing = authority(&format!("DMS3 issuing {mesh}"), 0).signed_by(&issuing_key, &issuer).unwrap();
        let issuer = Issuer::from_ca_cert_der(issuing.der(), &issuing_key).unwrap();
        let made = leaf.params(mesh, &node_id(&key)).signed_by(&key, &issuer).unwrap();
        Self { chain: vec![made.der().clone(), issuing.der().clone(), root.der().clone()], key: private(&key) }
    }

    /// The real root above an issuing certificate that it never signed.
    pub(crate) fn under_the_real_root(coordinator: &Node, leaf: &Leaf) -> Self {
        let identity = dms3_pki::Identity::load(&coordinator.state_dir()).unwrap().unwrap();
        let root = CertificateDer::from(identity.bundle().root_der().to_vec());
        let (mine, issuing_key, key) = (ed25519(), ed25519(), ed25519());
        // Named and linked like the real one; only the signature is not the root's.
        let issuer = Issuer::from_ca_cert_der(&root, &mine).unwrap();
        let issuing = authority(&format!("DMS3 issuing {}", identity.mesh()), 0).signed_by(&issuing_key, &issuer).unwrap();
        let issuer = Issuer::from_ca_cert_der(issuing.der(), &issuing_key).unwrap();
        let made = leaf.params(&identity.mesh(), &node_id(&key)).signed_by(&key, &issuer).unwrap();
        Self { chain: vec![made.der().clone(), issuing.der().clone(), root], key: private(&key) }
    }

    /// Signed by the house's real issuing key, which was stolen; for a key of the thief's own, or for that of `node`.
    pub(crate) fn by_the_stolen_issuing_key(coordinator: &Node, leaf: &Leaf, node: Option<&Node>) -> Self {
        let identity = dms3_pki::Identity::load(&coordinator.state_dir()).unwrap().unwrap();
        let issuing = CertificateDer::from(identity.issuing().to_vec());
        let issuing_key = NodeKey::load(&coordinator.state_dir().join(AUTHORITY_DIR).join("issuing.key")).unwrap();
        let issuer = Issuer::from_ca_cert_der(&issuing, &issuing_key).unwrap();
        let root = CertificateDer::from(identity.bundle().root_der().to_vec());
        let (made, key) = match node {
            Some(node) => {
                let key = NodeKey::load(&node.state_dir().join(KEY_FILE)).unwrap();
                (leaf.params(&identity.mesh(), &key.id()).signed_by(&key, &issuer).unwrap(), key_of(node))
            }
            None => {
                let key = ed25519();
                (leaf.params(&identity.mesh(), &node_id(&key)).signed_by(&key, &issuer).unwrap(), private(&key))
            }
        };
        Self { chain: vec![made.der().clone(), issuing, root], key }
    }
}

fn key_of(node: &Node) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_file(node.state_dir().join(KEY_FILE)).unwrap()
}

fn ed25519() -> KeyPair {
    KeyPair::generate_for(&PKCS_ED25519).unwrap()
}

fn private(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivatePkcs8KeyDer::from(key.serialize_der()).into()
}

fn node_id(key: &impl SigningKey) -> NodeId {
    node_id_of_public(key.der_bytes().try_into().unwrap())
}

fn authority(name: &str, path_length: u8) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(9999, 12, 31);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

/// How a stranger was received.
#[derive(Debug)]
pub(crate) struct Reception {
    /// The TLS alert with which he was sent away.
    pub(crate) alert: Option<u8>,
    /// Bytes that he was told.
    pub(crate) heard: usize,
}

/// Dials `to` from 127.0.0.`last`, says `greeting`, and listens until he is sent away.
pub(crate) async fn knock(to: SocketAddr, last: u8, alpn: &[u8], papers: Option<Papers>, greeting: &[u8]) -> Reception {
    let endpoint = Endpoint::client((Ipv4Addr::new(127, 0, 0, last), 0).into()).unwrap();
    let crypto = QuicClientConfig::try_from(client(alpn, papers)).unwrap();
    let connecting = endpoint.connect_with(quinn::ClientConfig::new(Arc::new(crypto)), to, "coordinator.dms3.internal").unwrap();
    let mut heard = 0;
    let talk = async {
        let connection = connecting.await?;
        // Whatever can be said is said; what ends the connection is told below.
        if let Ok((mut send, mut recv)) = connection.open_bi().await {
            drop(send.write_all(greeting).await);
            while let Ok(Some(chunk)) = recv.read_chunk(1 << 16, true).await {
                heard += chunk.bytes.len();
            }
        }
        Err::<(), _>(connection.closed().await)
    };
    let end = tokio::time::timeout(PATIENCE, talk).await.expect("a stranger is sent away").unwrap_err();
    let alert = match end {
        ConnectionError::ConnectionClosed(close) => tls_alert(close.error_code),
        _ => None,
    };
    Reception { alert, heard }
}

/// A client that believes everybody and remembers sessions.
pub(crate) fn client(alpn: &[u8], papers: Option<Papers>) -> rustls::ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous));
    let mut config = match papers {
        Some(papers) => builder.with_client_auth_cert(papers.chain, papers.key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    config
}

#[derive(Debug)]
struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519, SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// A server that asks for nothing and takes all that it is told.
#[derive(Debug)]
pub(crate) struct FalseCoordinator {
    pub(crate) address: SocketAddr,
    knocks: Arc<AtomicUsize>,
    heard: Arc<AtomicUsize>,
    _serving: JoinSet<()>,
}

/// What he answers to all that was said to him on a stream so far.
type Answer = Arc<dyn Fn(&[u8]) -> Option<Vec<u8>> + Send + Sync>;

impl FalseCoordinator {
    /// At 127.0.0.`last`.
    pub(crate) fn open(last: u8, papers: Papers) -> Self {
        Self::answering(last, papers, Arc::new(|_| None))
    }

    /// The thief of the house's issuing key: whoever asks him to be enrolled gets all that the real coordinator would give, made with that key.
    pub(crate) fn granting(last: u8, papers: Papers, house: &House) -> Self {
        let identity = house.identity_of(&house.coordinator);
        let authority = Authority::open(&house.coordinator.state_dir().join(AUTHORITY_DIR)).unwrap();
        let me = peer_identity(&papers.chain, &identity.mesh(), wall()).unwrap().node;
        let grant = move |said: &[u8]| {
            let (header, payload) = said.split_first_chunk()?;
            let header = Header::parse(*header, ENROLL_LIMIT).unwrap();
            let Some(Message::Begin(begin)) = frame::decode(header, payload.get(..header.length)?).unwrap() else { panic!("no Begin") };
            let node = node_of_request(&begin.csr).unwrap();
            let grant = GrantV1 {
                leaf: authority.issue(&begin.csr, NodeRole::Camera, &node, wall()).unwrap(),
                issuing: authority.issuing_der().to_vec(),
                bundle: identity.bundle().signed().clone(),
                coordinators: vec![CoordinatorHintV1 { node: me, port: 1 }],
                time: wall(),
                name: "mine".to_owned(),
            };
            Some(frame::encode(&Message::Grant(Box::new(grant)), ENROLL_LIMIT).unwrap())
        };
        Self::answering(last, papers, Arc::new(grant))
    }

    fn answering(last: u8, papers: Papers, answer: Answer) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(papers.chain, papers.key)
            .unwrap();
        config.alpn_protocols = vec![MESH.to_vec(), ENROLL.to_vec()];
        let config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(config).unwrap()));
        let endpoint = Endpoint::server(config, (Ipv4Addr::new(127, 0, 0, last), 0).into()).unwrap();
        let address = endpoint.local_addr().unwrap();
        let (knocks, heard) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let mut serving = JoinSet::new();
        let counters = (knocks.clone(), heard.clone());
        serving.spawn(async move {
            let mut visitors = JoinSet::new();
            while let Some(incoming) = endpoint.accept().await {
                counters.0.fetch_add(1, Ordering::SeqCst);
                let (heard, answer) = (counters.1.clone(), answer.clone());
                visitors.spawn(async move {
                    let Ok(connection) = incoming.await else { return };
                    while let Ok((mut send, mut recv)) = connection.accept_bi().await {
                        let mut said = Vec::new();
                        while let Ok(Some(chunk)) = recv.read_chunk(1 << 16, true).await {
                            heard.fetch_add(chunk.bytes.len(), Ordering::SeqCst);
                            said.extend_from_slice(&chunk.bytes);
                            if let Some(answer) = answer(&said) {
                                said.clear();
                                drop(send.write_all(&answer).await);
                            }
                        }
                    }
                });
            }
        });
        Self { address, knocks, heard, _serving: serving }
    }

    /// How often somebody dialled it.
    pub(crate) fn knocks(&self) -> usize {
        self.knocks.load(Ordering::SeqCst)
    }

    /// Bytes that it was told on streams.
    pub(crate) fn heard(&self) -> usize {
        self.heard.load(Ordering::SeqCst)
    }
}

/// Somebody who advertises whatever he likes.
pub(crate) struct Advertiser {
    daemon: ServiceDaemon,
    count: u16,
}

impl Advertiser {
    pub(crate) fn new(mdns: &Port) -> Self {
        let daemon = ServiceDaemon::new_with_port(mdns.number()).unwrap();
        daemon.disable_interface(IfKind::All).unwrap();
        daemon.enable_interface(IfKind::LoopbackV4).unwrap();
        Self { daemon, count: 0 }
    }

    /// As a coordinator of this house at `address`, in all respects.
    pub(crate) fn advertise(&mut self, mesh: &MeshId, address: SocketAddr, enroll: Option<u16>) {
        self.count += 1;
        let node = format!("rogue{:03}", self.count);
        let mut said = vec![("v", "1".to_owned()), ("m", mesh.to_string()), ("i", node.clone()), ("b", BootId(rand::random()).to_string())];
        if let Some(port) = enroll {
            said.push(("e", port.to_string()));
        }
        let IpAddr::V4(ip) = address.ip() else { panic!("loopback of IPv4 only") };
        let host = format!("dms3-{node}.local.");
        let mut record =
            ServiceInfo::new("_dms3._udp.local.", &node, &host, ip.to_string().as_str(), address.port(), said.as_slice()).unwrap();
        record.set_requires_probe(false);
        self.daemon.register(record).unwrap();
    }
}

impl Drop for Advertiser {
    fn drop(&mut self) {
        drop(self.daemon.shutdown());
    }
}
