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
