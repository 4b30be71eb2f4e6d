//! What nodes of the house do against the rules of their links, counted until the driver looks: however often they do, it is told the rules
//! no more often than that.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use dms3_core::conduct::Offence;
use dms3_core::id::NodeId;

/// Longest reason, in characters.
const WHY: usize = 200;

/// Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Offences(Arc<Mutex<BTreeMap<NodeId, Offence>>>);

impl Offences {
    /// Its link was ended for it.
    pub fn put_out(&self, node: NodeId, why: &str) {
        self.note(node, &format!("put out: {why}"), 1);
    }

    /// It was not, or a weak network may be to blame.
    pub fn limited(&self, node: NodeId, why: &str) {
        self.note(node, why, 0);
    }

    /// All of it, since this was called last.
    pub(super) fn take(&self) -> BTreeMap<NodeId, Offence> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, node: NodeId, why: &str, put_out: u32) {
        // Words of a node among them: no control characters, no novels.
        let why = why.chars().filter(|c| !c.is_control()).take(WHY).collect();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.entry(node).or_insert(Offence { why: String::new(), count: 0, put_out: 0 });
        *known = Offence { why, count: known.count.saturating_add(1), put_out: known.put_out.saturating_add(put_out) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_much_a_node_does_between_two_looks_it_is_one_offence_that_counts_it() {
        let (offences, porch, hall) = (Offences::default(), NodeId([1; 32]), NodeId([2; 32]));
        for _ in 0..1000 {
            offences.limited(porch, "it says too much");
        }
        offences.put_out(porch, &"\u{1b}[2Jlies\n".repeat(100));
        offences.limited(hall, "it is slow");
        let told = offences.take();
        let lies = &told[&porch];
        assert_eq!((lies.count, lies.put_out, lies.why.len()), (1001, 1, WHY));
        assert!(lies.why.starts_with("put out: [2Jlies[2J") && told[&hall].put_out == 0);
        assert!(offences.take().is_empty());
    }
}
