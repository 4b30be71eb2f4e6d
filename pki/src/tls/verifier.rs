//! Who is let in and whom we talk to: the checks of each port, one function each, asked in every handshake.

use std::fmt;
use std::sync::Arc;

use dms3_core::id::NodeId;
use dms3_core::roster::NodeRole;
use dms3_core::time::Timestamp;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::verify_tls13_signature;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerIncompatible, SignatureScheme};

use super::ALGORITHMS;
use crate::chain::{DRAWER, Refusal, Usage, anchor, check_chain, check_usage, parse, read_leaf};
use crate::profile::{mesh_id_of_spki, root_pin_of};
use crate::{Admission, Admit, TrustBundle};

/// The mesh port's: which nodes are let in.
#[derive(Debug)]
pub(crate) struct NodeVerifier {
    pub(crate) bundle: Arc<TrustBundle>,
    pub(crate) admit: Arc<dyn Admit>,
}

impl NodeVerifier {
    pub(crate) fn judge(&self, leaf: &[u8], rest: &[CertificateDer<'_>], now: Timestamp) -> Result<NodeId, (Option<NodeId>, Refusal)> {
        let said = read_leaf(leaf, &self.bundle.mesh()).map_err(|refusal| (None, refusal))?;
        let refuse = |refusal| (Some(said.node), refusal);
        check_usage(leaf, Usage::Client).map_err(refuse)?;
        // A camera that lay in a drawer may come in to renew: the roster pins its key. Its chain is judged as of its last day.
        let drawer = said.role == NodeRole::Camera && now <= said.not_after + DRAWER;
        let at = if drawer { now.min(said.not_after) } else { now };
        check_chain(leaf, rest, self.bundle.anchors(), Usage::Client, at).map_err(refuse)?;
        if said.role == NodeRole::Coordinator && !self.bundle.is_coordinator(&said.node) {
            return Err(refuse(Refusal::NotInBundle));
        }
        match self.admit.admit(&said.node) {
            Admission::Active(role) if role == said.role => Ok(said.node),
            Admission::Active(_) => Err(refuse(Refusal::Role)),
            Admission::Unknown => Err(refuse(Refusal::NotEnrolled)),
            Admission::Revoked => Err(refuse(Refusal::Revoked)),
        }
    }
}

/// A mesh client's: which servers are obeyed.
#[derive(Debug)]
pub(crate) struct CoordinatorVerifier {
    pub(crate) bundle: Arc<TrustBundle>,
}

impl CoordinatorVerifier {
    pub(crate) fn judge(&self, leaf: &[u8], rest: &[CertificateDer<'_>], now: Timestamp) -> Result<(), Refusal> {
        let said = read_leaf(leaf, &self.bundle.mesh())?;
        check_usage(leaf, Usage::Server)?;
        if said.role != NodeRole::Coordinator {
            return Err(Refusal::Names);
        }
        check_chain(leaf, rest, self.bundle.anchors(), Usage::Server, now)?;
        if self.bundle.is_coordinator(&said.node) { Ok(()) } else { Err(Refusal::NotInBundle) }
    }
}

/// An enrolling node's: the house that its token names, and no other.
pub(crate) struct PinnedVerifier {
    pub(crate) root_pin: [u8; 16],
}

impl PinnedVerifier {
    pub(crate) fn judge(&self, leaf: &[u8], rest: &[CertificateDer<'_>], now: Timestamp) -> Result<(), Refusal> {
        let root = rest.iter().find(|certificate| root_pin_of(certificate).is_ok_and(|pin| pin == self.root_pin));
        let root = root.ok_or(Refusal::ForeignRoot)?;
        let said = read_leaf(leaf, &mesh_id_of_spki(parse(root)?.public_key().raw))?;
        check_usage(leaf, Usage::Server)?;
        if said.role != NodeRole::Coordinator {
            return Err(Refusal::Names);
        }
        check_chain(leaf, rest, &[anchor(root)?], Usage::Server, now)
    }
}

impl fmt::Debug for PinnedVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PinnedVerifier")
    }
}

impl ClientCertVerifier for NodeVerifier {
    /// None: who has no certificate does not even learn which root to forge.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match self.judge(leaf, rest, timestamp(now)) {
            Ok(_) => Ok(ClientCertVerified::assertion()),
            Err((node, refusal)) => {
                let node = node.map_or_else(|| "unknown".to_owned(), |node| node.short());
                // Anybody can come here any number of times: the mesh port tells it, and counts. Only who has the issuing key can be this one.
                if refusal == Refusal::NotInBundle {
                    tracing::error!(%node, "refused a coordinator that this house's issuing key signed: {refusal}. Was the key stolen?");
                } else {
                    tracing::debug!(%node, "refused a certificate on the mesh port: {refusal}");
                }
                Err(tls_error(refusal))
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &ALGORITHMS)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ALGORITHMS.supported_schemes()
    }
}

/// Both client verifiers ignore the name that was dialled: the exact names in the certificate are checked against our own house.
macro_rules! server_verifier {
    ($verifier:ty) => {
        impl ServerCertVerifier for $verifier {
            fn verify_server_cert(
                &self,
                leaf: &CertificateDer<'_>,
                rest: &[CertificateDer<'_>],
                _dialled: &ServerName<'_>,
                _ocsp: &[u8],
                now: UnixTime,
            ) -> Result<ServerCertVerified, Error> {
                self.judge(leaf, rest, timestamp(now)).map(|()| ServerCertVerified::assertion()).map_err(tls_error)
            }

            fn verify_tls12_signature(
                &self,
                _: &[u8],
                _: &CertificateDer<'_>,
                _: &DigitallySignedStruct,
            ) -> Result<HandshakeSignatureValid, Error> {
                Err(PeerIncompatible::Tls13RequiredForQuic.into())
            }

            fn verify_tls13_signature(
                &self,
                message: &[u8],
                certificate: &CertificateDer<'_>,
                signature: &DigitallySignedStruct,
            ) -> Result<HandshakeSignatureValid, Error> {
                verify_tls13_signature(message, certificate, signature, &ALGORITHMS)
            }

            fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
                ALGORITHMS.supported_schemes()
            }
        }
    };
}

server_verifier!(CoordinatorVerifier);
server_verifier!(PinnedVerifier);

/// Chooses the alert that tells the other side what is wrong (see `alert_words`).
fn tls_error(refusal: Refusal) -> Error {
    let error = match refusal {
        Refusal::Unreadable => CertificateError::BadEncoding,
        Refusal::ForeignChain | Refusal::ForeignRoot => CertificateError::UnknownIssuer,
        Refusal::Signature => CertificateError::BadSignature,
        Refusal::Expired => CertificateError::Expired,
        Refusal::Usage => CertificateError::InvalidPurpose,
        Refusal::Names => CertificateError::NotValidForName,
        Refusal::Revoked => CertificateError::Revoked,
        Refusal::NotInBundle | Refusal::NotEnrolled | Refusal::Role => CertificateError::ApplicationVerificationFailure,
        other @ (Refusal::Chain(_) | Refusal::KeyKind) => CertificateError::Other(OtherError(Arc::new(other))),
    };
    Error::InvalidCertificate(error)
}

fn timestamp(now: UnixTime) -> Timestamp {
    Timestamp::from_secs(now.as_secs())
}
