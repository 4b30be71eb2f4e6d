//! The roster in memory: what handshakes ask and live links watch. The store has the original.

use std::sync::Arc;

use anyhow::{bail, ensure};
use dms3_core::id::NodeId;
use dms3_core::roster::{NodeStatus, RosterRow};
use dms3_pki::{Admission, Admit};
use tokio::sync::watch;

use crate::store::Store;

/// Clones share it.
#[derive(Debug, Clone)]
pub struct Roster {
    rows: Arc<watch::Sender<Arc<[RosterRow]>>>,
}

impl Roster {
    pub fn new(rows: Vec<RosterRow>) -> Self {
        Self { rows: Arc::new(watch::Sender::new(rows.into())) }
    }

    /// Follows the store. Called after each change of its roster; watchers wake only if something is different.
    pub async fn refresh(&self, store: &Store) -> anyhow::Result<()> {
        self.replace(store.roster().await?);
        Ok(())
    }

    pub fn replace(&self, rows: Vec<RosterRow>) {
        self.rows.send_if_modified(|before| {
            let changed = before[..] != rows[..];
            if changed {
                *before = rows.into();
            }
            changed
        });
    }

    pub fn rows(&self) -> Arc<[RosterRow]> {
        self.rows.borrow().clone()
    }

    pub fn row(&self, node: &NodeId) -> Option<RosterRow> {
        self.rows.borrow().iter().find(|row| row.node == *node).cloned()
    }

    pub fn subscribe(&self) -> watch::Receiver<Arc<[RosterRow]>> {
        self.rows.subscribe()
    }

    /// The node that a person means: by name (active nodes first), by id, or by the first characters of an id (at least 4) if only one fits.
    pub fn find(&self, text: &str) -> anyhow::Result<RosterRow> {
        let wanted = text.trim().to_lowercase();
        ensure!(!wanted.is_empty(), "name a node: see `dms3-node nodes`");
        let rows = self.rows();
        let named = |status| rows.iter().find(move |row| row.status == status && row.name.to_lowercase() == text.trim().to_lowercase());
        if let Some(row) = named(NodeStatus::Active).or_else(|| named(NodeStatus::Revoked)) {
            return Ok(row.clone());
        }
        let mut fitting = rows.iter().filter(|row| wanted.len() >= 4 && row.node.to_string().starts_with(&wanted));
        match (fitting.next(), fitting.next()) {
            (Some(row), None) => Ok(row.clone()),
            (Some(_), Some(_)) => bail!("more than one node id begins with {wanted:?}: write more of it"),
            (None, _) => bail!("there is no node {:?}: see `dms3-node nodes`", text.trim()),
        }
    }
}

impl Admit for Roster {
    fn admit(&self, node: &NodeId) -> Admission {
        match self.rows.borrow().iter().find(|row| row.node == *node) {
            Some(row) if row.status == NodeStatus::Active => Admission::Active(row.role),
            Some(_) => Admission::Revoked,
            None => Admission::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dms3_core::roster::NodeRole;
    use dms3_core::time::Timestamp;

    fn row(byte: u8, name: &str, status: NodeStatus) -> RosterRow {
        RosterRow {
            node: NodeId([byte; 32]),
            role: NodeRole::Camera,
            name: name.to_owned(),
            status,
            enrolled_at: Timestamp(0),
            revoked_at: None,
            token: None,
        }
    }

    #[test]
    fn only_an_active_row_stands_for_a_node() {
        let roster = Roster::new(vec![row(1, "porch", NodeStatus::Active), row(2, "shed", NodeStatus::Revoked)]);
        assert_eq!(roster.admit(&NodeId([1; 32])), Admission::Active(NodeRole::Camera));
        assert_eq!(roster.admit(&NodeId([2; 32])), Admission::Revoked);
        assert_eq!(roster.admit(&NodeId([3; 32])), Admission::Unknown);
    }

    #[test]
    fn a_node_is_found_by_name_or_by_the_start_of_its_id() {
        let roster = Roster::new(vec![
            row(1, "Porch", NodeStatus::Active),
            row(2, "porch", NodeStatus::Revoked),
            row(3, "shed", NodeStatus::Active),
        ]);
        assert_eq!(roster.find("PORCH ").unwrap().node, NodeId([1; 32]));
        assert_eq!(roster.find(&NodeId([2; 32]).short()).unwrap().node, NodeId([2; 32]));
        assert_eq!(roster.find(&NodeId([3; 32]).to_string().to_uppercase()).unwrap().name, "shed");
        assert!(roster.find("a").is_err() && roster.find("").is_err() && roster.find("garage").is_err());
    }

    #[test]
    fn links_are_woken_by_a_change_and_only_by_a_change() {
        let roster = Roster::new(vec![row(1, "porch", NodeStatus::Active)]);
        let mut watch = roster.subscribe();
        roster.replace(vec![row(1, "porch", NodeStatus::Active)]);
        assert!(!watch.has_changed().unwrap());
        roster.replace(vec![row(1, "porch", NodeStatus::Revoked)]);
        assert!(watch.has_changed().unwrap());
        assert_eq!(watch.borrow_and_update()[0].status, NodeStatus::Revoked);
    }
}
