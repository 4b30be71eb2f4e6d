//! The signed state of the house: only a coordinator that the root named can say it.

use dms3_core::id::{MeshId, NodeId};
use dms3_core::protocol::frame;
use dms3_core::protocol::message::{SignedStateV1, StateV1};

use crate::node_key::{node_id_of_public, verify};
use crate::{NodeKey, PkiError, TrustBundle};

/// Why a signed state is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    #[error("the state is signed by {}, which is no coordinator of this house", .0.short())]
    NotACoordinator(NodeId),
    #[error("the signature of the state is wrong")]
    Signature,
    #[error("the state is of another house")]
    OtherMesh,
    #[error("the state cannot be read: {0}")]
    Unreadable(String),
}

/// Signs with the coordinator's node key over "dms3 state v1" ‖ mesh id ‖ payload.
pub fn sign_state(key: &NodeKey, state: &StateV1) -> Result<SignedStateV1, PkiError> {
    let payload = frame::to_bytes(state).map_err(PkiError::Encoding)?;
    let signature = key.sign(&text(&state.mesh, &payload));
    Ok(SignedStateV1 { payload, signer: key.public(), signature })
}

/// The state, if a coordinator of the bundle signed it for this house.
pub fn verify_state(signed: &SignedStateV1, mesh: &MeshId, bundle: &TrustBundle) -> Result<StateV1, StateError> {
    let signer = node_id_of_public(&signed.signer);
    if !bundle.is_coordinator(&signer) {
        return Err(StateError::NotACoordinator(signer));
    }
    open(signed, mesh)
}

/// The state, if this very key signed it: how a restored coordinator finds out what it forgot.
pub fn own_state(signed: &SignedStateV1, mesh: &MeshId, key: &NodeKey) -> Option<StateV1> {
    if signed.signer != key.public() {
        return None;
    }
    open(signed, mesh).ok()
}

fn open(signed: &SignedStateV1, mesh: &MeshId) -> Result<StateV1, StateError> {
    if !verify(&signed.signer, &text(mesh, &signed.payload), &signed.signature) {
        return Err(StateError::Signature);
    }
    let state: StateV1 = frame::from_bytes(&signed.payload).map_err(StateError::Unreadable)?;
    if state.mesh != *mesh {
        return Err(StateError::OtherMesh);
    }
    Ok(state)
}

fn text(mesh: &MeshId, payload: &[u8]) -> Vec<u8> {
    [b"dms3 state v1".as_slice(), &mesh.0, payload].concat()
}

#[cfg(test)]
mod tests {
    use dms3_core::arming::ArmState;
    use dms3_core::time::Timestamp;

    use super::*;
    use crate::forge::House;

    fn disarmed(mesh: MeshId) -> StateV1 {
        StateV1 {
            mesh,
            epoch: 1,
            rev: 7,
            state: ArmState::Disarmed.to_wire(),
            reason: "somebody came home".to_owned(),
            since: Timestamp(1),
            until: Some(Timestamp(2)),
            windows: Vec::new(),
            zone: "UTC".to_owned(),
        }
    }

    #[test]
    fn a_coordinators_word_is_believed() {
        let house = House::found();
        let mesh = house.authority.mesh();
        let signed = sign_state(house.coordinator.key(), &disarmed(mesh)).unwrap();
        assert_eq!(verify_state(&signed, &mesh, house.camera.bundle()), Ok(disarmed(mesh)));
        assert_eq!(own_state(&signed, &mesh, house.coordinator.key()), Some(disarmed(mesh)));
    }

    #[test]
    fn nobody_but_a_coordinator_of_this_house_can_disarm_it() {
        let (house, other) = (House::found(), House::found());
        let (mesh, bundle) = (house.authority.mesh(), house.camera.bundle());
        let by_camera = sign_state(house.camera.key(), &disarmed(mesh)).unwrap();
        assert_eq!(verify_state(&by_camera, &mesh, bundle), Err(StateError::NotACoordinator(house.camera.node())));
        assert_eq!(own_state(&by_camera, &mesh, house.coordinator.key()), None);

        // A camera that puts the coordinator's name under its own signature.
        let posing = SignedStateV1 { signer: house.coordinator.key().public(), ..by_camera };
        assert_eq!(verify_state(&posing, &mesh, bundle), Err(StateError::Signature));
        assert_eq!(own_state(&posing, &mesh, house.coordinator.key()), None);

        let good = sign_state(house.coordinator.key(), &disarmed(mesh)).unwrap();
        let mut changed = good.clone();
        changed.payload = frame::to_bytes(&StateV1 { rev: 8, ..disarmed(mesh) }).unwrap();
        assert_eq!(verify_state(&changed, &mesh, bundle), Err(StateError::Signature));
        let mut cut = good.clone();
        cut.signature.truncate(32);
        assert_eq!(verify_state(&cut, &mesh, bundle), Err(StateError::Signature));

        // Signed by our coordinator's key, but for a house that it also serves.
        let elsewhere = sign_state(house.coordinator.key(), &disarmed(other.authority.mesh())).unwrap();
        assert_eq!(verify_state(&elsewhere, &mesh, bundle), Err(StateError::Signature));
        let payload = frame::to_bytes(&disarmed(other.authority.mesh())).unwrap();
        let signature = house.coordinator.key().sign(&text(&mesh, &payload));
        let mixed = SignedStateV1 { payload, signer: house.coordinator.key().public(), signature };
        assert_eq!(verify_state(&mixed, &mesh, bundle), Err(StateError::OtherMesh));

        let payload = [good.payload.as_slice(), &[0]].concat();
        let signature = house.coordinator.key().sign(&text(&mesh, &payload));
        let longer = SignedStateV1 { payload, signer: house.coordinator.key().public(), signature };
        assert!(matches!(verify_state(&longer, &mesh, bundle), Err(StateError::Unreadable(_))));
    }

    #[test]
    fn a_bundle_signature_is_no_state_signature() {
        let house = House::found();
        let mesh = house.authority.mesh();
        let payload = frame::to_bytes(&disarmed(mesh)).unwrap();
        let signature = house.coordinator.key().sign(&[b"dms3 bundle v1".as_slice(), &mesh.0, &payload].concat());
        let signed = SignedStateV1 { payload, signer: house.coordinator.key().public(), signature };
        assert_eq!(verify_state(&signed, &mesh, house.camera.bundle()), Err(StateError::Signature));
    }
}
