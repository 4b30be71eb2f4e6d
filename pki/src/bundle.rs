//! The trust bundle: the root's signed word on which roots and which coordinators the house has.

use dms3_core::id::{MeshId, NodeId};
use dms3_core::protocol::frame;
use dms3_core::protocol::message::{BundleV1, SignedBundleV1};
use rustls::pki_types::TrustAnchor;

use crate::chain::{anchor, ed25519_key};
use crate::node_key::verify;
use crate::profile::{mesh_id_of_root, root_pin_of};
use crate::{NodeKey, PkiError};

/// What a bundle is measured by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrustedRoot<'a> {
    /// From a token: first 16 bytes of SHA-256 of the root's SPKI.
    Pin([u8; 16]),
    /// The first root's certificate (DER), known already.
    Certificate(&'a [u8]),
}

/// A bundle whose signature was verified.
#[derive(Debug, Clone)]
pub struct TrustBundle {
    signed: SignedBundleV1,
    bundle: BundleV1,
    anchors: Vec<TrustAnchor<'static>>,
}

impl TrustBundle {
    /// Takes a bundle only if the trusted root signed it.
    pub fn verify(signed: &SignedBundleV1, trusted: TrustedRoot<'_>) -> Result<Self, PkiError> {
        let bundle: BundleV1 = frame::from_bytes(&signed.payload).map_err(|_| PkiError::Bundle("it cannot be read"))?;
        let root = bundle.roots.first().ok_or(PkiError::Bundle("it names no root"))?;
        let is_trusted = match trusted {
            TrustedRoot::Pin(pin) => root_pin_of(root)? == pin,
            TrustedRoot::Certificate(der) => root == der,
        };
        if !is_trusted {
            return Err(PkiError::Bundle("its root is not ours"));
        }
        if mesh_id_of_root(root)? != bundle.mesh {
            return Err(PkiError::Bundle("it names another house"));
        }
        if !verify(&ed25519_key(root)?, &text(&bundle.mesh, &signed.payload), &signed.signature) {
            return Err(PkiError::Bundle("the root did not sign it"));
        }
        let anchors = bundle.roots.iter().map(|root| anchor(root)).collect::<Result<_, _>>()?;
        Ok(Self { signed: signed.clone(), bundle, anchors })
    }

    /// The other bundle, if it is of the same root and of a greater epoch. `Ok(None)`: genuine, but not newer.
    pub fn newer(&self, signed: &SignedBundleV1) -> Result<Option<Self>, PkiError> {
        let other = Self::verify(signed, TrustedRoot::Certificate(self.root_der()))?;
        Ok((other.epoch() > self.epoch()).then_some(other))
    }

    /// Whether this node is to be obeyed as a coordinator.
    pub fn is_coordinator(&self, node: &NodeId) -> bool {
        self.bundle.coordinators.contains(node)
    }

    pub fn coordinators(&self) -> &[NodeId] {
        &self.bundle.coordinators
    }

    pub fn epoch(&self) -> u64 {
        self.bundle.epoch
    }

    pub fn mesh(&self) -> MeshId {
        self.bundle.mesh
    }

    /// The bundle as it was signed, to hand on.
    pub fn signed(&self) -> &SignedBundleV1 {
        &self.signed
    }

    /// The first root's certificate.
    pub fn root_der(&self) -> &[u8] {
        self.bundle.roots.first().map_or(&[], Vec::as_slice)
    }

    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }
}

/// Signs with the root's key.
pub(crate) fn sign(root: &NodeKey, bundle: &BundleV1) -> Result<SignedBundleV1, PkiError> {
    let payload = frame::to_bytes(bundle).map_err(PkiError::Encoding)?;
    let signature = root.sign(&text(&bundle.mesh, &payload));
    Ok(SignedBundleV1 { payload, signature })
}

fn text(mesh: &MeshId, payload: &[u8]) -> Vec<u8> {
    [b"dms3 bundle v1".as_slice(), &mesh.0, payload].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forge::{House, Lookalike};

    fn signed(house: &House, change: impl FnOnce(&mut BundleV1)) -> SignedBundleV1 {
        let mut bundle = BundleV1 {
            mesh: house.authority.mesh(),
            epoch: 2,
            roots: vec![house.authority.root_der().to_vec()],
            coordinators: vec![house.coordinator.node()],
        };
        change(&mut bundle);
        house.authority.sign_bundle(&bundle).unwrap()
    }

    #[test]
    fn what_the_root_signed_is_believed_by_pin_and_by_certificate() {
        let house = House::found();
        let signed = signed(&house, |_| ());
        for trusted in [TrustedRoot::Pin(house.authority.root_pin().unwrap()), TrustedRoot::Certificate(house.authority.root_der())] {
            let bundle = TrustBundle::verify(&signed, trusted).unwrap();
            assert_eq!((bundle.mesh(), bundle.epoch(), bundle.root_der()), (house.authority.mesh(), 2, house.authority.root_der()));
            assert!(bundle.is_coordinator(&house.coordinator.node()));
            assert!(!bundle.is_coordinator(&house.camera.node()));
            assert_eq!(bundle.signed(), &signed);
        }
    }

    fn why(signed: &SignedBundleV1, trusted: TrustedRoot<'_>) -> &'static str {
        match TrustBundle::verify(signed, trusted) {
            Err(PkiError::Bundle(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_bundle_that_is_not_the_roots_word_is_refused() {
        let (house, other) = (House::found(), House::found());
        let pin = house.authority.root_pin().unwrap();
        let good = signed(&house, |_| ());
        for trusted in [TrustedRoot::Pin(pin), TrustedRoot::Certificate(house.authority.root_der())] {
            assert_eq!(why(&signed(&other, |_| ()), trusted), "its root is not ours");
            assert_eq!(why(&signed(&house, |bundle| bundle.mesh = other.authority.mesh()), trusted), "it names another house");
            assert_eq!(why(&signed(&house, |bundle| bundle.roots.clear()), trusted), "it names no root");

            // The issuing key, or any other, cannot sign in the root's place.
            let bundle: BundleV1 = frame::from_bytes(&good.payload).unwrap();
            assert_eq!(why(&sign(&house.issuing_key(), &bundle).unwrap(), trusted), "the root did not sign it");
            let mut cut = good.clone();
            cut.signature.pop();
            assert_eq!(why(&cut, trusted), "the root did not sign it");

            let added = BundleV1 { coordinators: vec![house.camera.node()], ..bundle };
            let mut changed = good.clone();
            changed.payload = frame::to_bytes(&added).unwrap();
            assert_eq!(why(&changed, trusted), "the root did not sign it");
            let mut longer = good.clone();
            longer.payload.push(0);
            assert_eq!(why(&longer, trusted), "it cannot be read");
        }
        let fake = Lookalike::of(&house);
        let lookalike = signed(&house, |bundle| bundle.roots = vec![fake.root.clone()]);
        assert_eq!(why(&lookalike, TrustedRoot::Pin(pin)), "its root is not ours");
    }

    #[test]
    fn only_a_newer_bundle_of_the_same_root_replaces_one() {
        let (house, other) = (House::found(), House::found());
        let held = house.bundle(5, vec![house.coordinator.node()]);
        for epoch in [0, 4, 5] {
            assert!(held.newer(&signed(&house, |bundle| bundle.epoch = epoch)).unwrap().is_none(), "{epoch}");
        }
        let newer = held.newer(&signed(&house, |bundle| (bundle.epoch, bundle.coordinators) = (6, vec![]))).unwrap().unwrap();
        assert!(!newer.is_coordinator(&house.coordinator.node()));
        assert!(held.newer(&signed(&other, |bundle| bundle.epoch = 9)).is_err());
    }
}
