//! A QUIC client whose packets say what a test wants. Handshake, keys, numbers and acknowledgements are quinn's; what is in a packet is
//! replaced just before it is encrypted.

use std::any::Any;
use std::sync::Arc;

use quinn::ConnectionId;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::crypto::{ClientConfig, CryptoError, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, Session};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{ConnectError, Side, TransportError};
use tokio_util::bytes::BytesMut;

/// Rewrites the frames of a packet, in place. Zeros are padding.
pub(crate) type Rewrite = Arc<dyn Fn(&mut [u8]) + Send + Sync>;

/// Of a client that presents what `tls` says.
pub(crate) fn config(tls: Arc<rustls::ClientConfig>, rewrite: Rewrite) -> quinn::ClientConfig {
    quinn::ClientConfig::new(Arc::new(Forger { tls: Arc::new(QuicClientConfig::try_from(tls).unwrap()), rewrite }))
}

struct Forger {
    tls: Arc<QuicClientConfig>,
    rewrite: Rewrite,
}

impl ClientConfig for Forger {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        name: &str,
        parameters: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        let session = self.tls.clone().start_session(version, name, parameters)?;
        Ok(Box::new(Forged { session, keys: 0, rewrite: self.rewrite.clone() }))
    }
}

struct Forged {
    session: Box<dyn Session>,
    /// How many it was given: the first are those of the handshake, the second those of all that follows.
    keys: usize,
    rewrite: Rewrite,
}

impl Forged {
    fn pen(&self, key: Box<dyn PacketKey>) -> Box<dyn PacketKey> {
        Box::new(Pen { key, rewrite: self.rewrite.clone() })
    }
}

impl Session for Forged {
    fn write_handshake(&mut self, buffer: &mut Vec<u8>) -> Option<Keys> {
        let Keys { header, packet: KeyPair { local, remote } } = self.session.write_handshake(buffer)?;
        self.keys += 1;
        let local = if self.keys == 2 { self.pen(local) } else { local };
        Some(Keys { header, packet: KeyPair { local, remote } })
    }

    fn initial_keys(&self, to: &ConnectionId, side: Side) -> Keys {
        self.session.initial_keys(to, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.session.handshake_data()
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.session.peer_identity()
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        self.session.early_crypto()
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.session.early_data_accepted()
    }

    fn is_handshaking(&self) -> bool {
        self.session.is_handshaking()
    }

    fn read_handshake(&mut self, bytes: &[u8]) -> Result<bool, TransportError> {
        self.session.read_handshake(bytes)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        self.session.transport_parameters()
    }

    // quinn takes new keys after as many packets as it draws by lot (RFC 9001, section 6): ten may be enough.
    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        let KeyPair { local, remote } = self.session.next_1rtt_keys()?;
        Some(KeyPair { local: self.pen(local), remote })
    }

    fn is_valid_retry(&self, to: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        self.session.is_valid_retry(to, header, payload)
    }

    fn export_keying_material(&self, output: &mut [u8], label: &[u8], context: &[u8]) -> Result<(), ExportKeyingMaterialError> {
        self.session.export_keying_material(output, label, context)
    }
}

struct Pen {
    key: Box<dyn PacketKey>,
    rewrite: Rewrite,
}

impl PacketKey for Pen {
    fn encrypt(&self, packet: u64, buffer: &mut [u8], header: usize) {
        let end = buffer.len() - self.key.tag_len();
        (self.rewrite)(&mut buffer[header..end]);
        self.key.encrypt(packet, buffer, header);
    }

    fn decrypt(&self, packet: u64, header: &[u8], payload: &mut BytesMut) -> Result<(), CryptoError> {
        self.key.decrypt(packet, header, payload)
    }

    fn tag_len(&self) -> usize {
        self.key.tag_len()
    }

    fn confidentiality_limit(&self) -> u64 {
        self.key.confidentiality_limit()
    }

    fn integrity_limit(&self) -> u64 {
        self.key.integrity_limit()
    }
}
