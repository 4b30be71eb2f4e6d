//! What is kept of what was heard: bounded, whoever shouts.

use std::net::{IpAddr, SocketAddr};

use super::Candidate;

/// In all.
pub(super) const CAPACITY: usize = 256;
/// Of one record, and of one address with different ports or names.
pub(super) const PER_RECORD: usize = 8;
const PER_ADDRESS: usize = 4;

#[derive(Debug, Default)]
pub(super) struct Table {
    candidates: Vec<Candidate>,
    /// Where coordinators were authenticated.
    kept: Vec<SocketAddr>,
    /// Who said it by himself, the newest last. mDNS takes nothing of it back.
    rung: Vec<Candidate>,
}

impl Table {
    /// A record said `before` and says `now`.
    pub(super) fn update(&mut self, before: Vec<Candidate>, now: Vec<Candidate>) {
        let same = |one: &Candidate, other: &Candidate| one.address == other.address && one.mesh == other.mesh && one.node == other.node;
        self.candidates.retain(|old| !before.iter().any(|gone| same(gone, old) && !now.iter().any(|still| same(still, old))));
        for candidate in now {
            match self.candidates.iter_mut().find(|old| same(old, &candidate)) {
                Some(old) => *old = candidate,
                None => self.add(candidate),
            }
        }
    }

    pub(super) fn keep(&mut self, address: SocketAddr) {
        if !self.kept.contains(&address) {
            self.kept.push(address);
            if self.kept.len() > PER_RECORD {
                self.kept.remove(0);
            }
        }
    }

    pub(super) fn rung(&mut self, ring: Candidate) {
        self.rung.retain(|old| old.address != ring.address);
        self.rung.push(ring);
        if self.rung.len() > PER_RECORD {
            self.rung.remove(0);
        }
    }

    /// What was heard by mDNS, but not where somebody was authenticated.
    pub(super) fn forget(&mut self) {
        self.candidates.clear();
    }

    pub(super) fn list(&self) -> Vec<Candidate> {
        let rung = self.rung.iter().filter(|ring| {
            !self
                .candidates
                .iter()
                .any(|one| (one.address, one.mesh, &one.node, one.boot) == (ring.address, ring.mesh, &ring.node, ring.boot))
        });
        self.candidates.iter().chain(rung).cloned().collect()
    }

    fn add(&mut self, candidate: Candidate) {
        let ip = candidate.address.ip();
        if self.of(ip) >= PER_ADDRESS && !self.make_room(|old| old.address.ip() == ip) {
            return;
        }
        if self.candidates.len() >= CAPACITY && !self.make_room(|_| true) {
            return;
        }
        self.candidates.push(candidate);
    }

    /// Anyone's turn but of those that are kept: by chance, so that nobody can push out whom he wants.
    fn make_room(&mut self, which: impl Fn(&Candidate) -> bool) -> bool {
        let fitting: Vec<usize> = (0..self.candidates.len())
            .filter(|index| self.candidates.get(*index).is_some_and(|old| which(old) && !self.kept.contains(&old.address)))
            .collect();
        if fitting.is_empty() {
            return false;
        }
        self.candidates.swap_remove(fitting[rand::random_range(0..fitting.len())]);
        true
    }

    fn of(&self, ip: IpAddr) -> usize {
        self.candidates.iter().filter(|candidate| candidate.address.ip() == ip).count()
    }
}

#[cfg(test)]
mod tests {
    use dms3_core::id::{BootId, MeshId};

    use super::*;

    fn candidate(address: &str, boot: u8) -> Candidate {
        Candidate {
            address: address.parse().unwrap(),
            mesh: MeshId([1; 10]),
            node: "abcdefgh".to_owned(),
            boot: BootId([boot; 4]),
            enroll: None,
        }
    }

    #[test]
    fn a_thousand_rogues_do_not_push_out_the_coordinator_that_was_authenticated() {
        let mut table = Table::default();
        let real = candidate("192.168.1.2:47100", 1);
        table.update(Vec::new(), vec![real.clone()]);
        table.keep(real.address);
        for a in 0..=255_u8 {
            for b in 0..4_u8 {
                table.update(Vec::new(), vec![candidate(&format!("10.0.{b}.{a}:47100"), 2)]);
            }
            table.update(Vec::new(), vec![candidate(&format!("192.168.1.2:{}", 1000 + u16::from(a)), 2)]);
        }
        assert_eq!(table.list().len(), CAPACITY);
        assert!(table.list().contains(&real));
        assert!(table.of(real.address.ip()) <= PER_ADDRESS);
    }

    #[test]
    fn a_restart_replaces_what_was_heard_and_a_goodbye_removes_it() {
        let mut table = Table::default();
        let (old, new) = (candidate("192.168.1.2:47100", 1), candidate("192.168.1.2:47100", 2));
        table.update(Vec::new(), vec![old.clone()]);
        table.update(vec![old], vec![new.clone()]);
        assert_eq!(table.list(), std::slice::from_ref(&new));
        let moved = candidate("192.168.1.3:47100", 2);
        table.update(vec![new], vec![moved.clone()]);
        assert_eq!(table.list(), std::slice::from_ref(&moved));
        table.update(vec![moved], Vec::new());
        assert!(table.list().is_empty());
    }

    #[test]
    fn what_a_coordinator_said_by_itself_is_forgotten_only_for_what_others_said_later() {
        let mut table = Table::default();
        let real = candidate("192.168.1.2:47100", 2);
        table.rung(real.clone());
        table.update(Vec::new(), vec![real.clone()]);
        assert_eq!(table.list(), std::slice::from_ref(&real), "heard twice is one");
        table.forget();
        assert_eq!(table.list(), std::slice::from_ref(&real));
        table.rung(candidate("192.168.1.2:47100", 3));
        assert_eq!(table.list(), [candidate("192.168.1.2:47100", 3)], "its next start");
        for last in 0..100 {
            table.keep(candidate(&format!("10.0.1.{last}:47100"), 2).address);
        }
        assert_eq!(table.kept.len(), PER_RECORD);
        for last in 0..100 {
            table.rung(candidate(&format!("10.0.0.{last}:47100"), 2));
        }
        assert_eq!(table.list().len(), PER_RECORD);
    }
}
