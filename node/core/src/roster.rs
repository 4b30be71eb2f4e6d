//! Who is enrolled, with what role; who is revoked. The row is the authority, not the certificate.

use serde::{Deserialize, Serialize};

use crate::id::NodeId;
use crate::time::Timestamp;

/// What a node is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeRole {
    Coordinator,
    Camera,
}

/// Whether a valid certificate of this node means anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeStatus {
    Active,
    Revoked,
}

/// One enrolled node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RosterRow {
    pub node: NodeId,
    pub role: NodeRole,
    pub name: String,
    pub status: NodeStatus,
    pub enrolled_at: Timestamp,
    pub revoked_at: Option<Timestamp>,
    /// The token it was enrolled with; `None` for the coordinator itself.
    pub token: Option<crate::id::TokenId>,
}

/// Longest name of a node or person, in characters.
pub const NAME_LIMIT: usize = 40;

/// A name that people gave: trimmed, 1 to 40 characters, no control characters. Emoji and right-to-left are names too.
pub fn check_name(text: &str) -> Result<String, String> {
    let name = text.trim();
    if name.is_empty() {
        return Err("a name must not be empty".to_owned());
    }
    if name.chars().count() > NAME_LIMIT {
        return Err(format!("a name has at most {NAME_LIMIT} characters, this one has {}", name.chars().count()));
    }
    if name.chars().any(char::is_control) {
        return Err("a name must not contain control characters such as line breaks".to_owned());
    }
    Ok(name.to_owned())
}

/// The name as a word of its own becomes "somebody"; inside other words it stays.
pub fn without_name(text: &str, name: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(name).filter(|_| !name.is_empty()) {
        let (before, found) = rest.split_at(at);
        let after = found.get(name.len()..).unwrap_or_default();
        let apart = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric());
        kept.push_str(before);
        let whole = apart(kept.chars().next_back()) && apart(after.chars().next());
        kept.push_str(if whole { "somebody" } else { name });
        rest = after;
    }
    kept.push_str(rest);
    kept
}

/// The name for a new node: what the person wished, else what the machine calls itself, made distinct from those of `others`.
pub fn name_for(wished: Option<&str>, hostname: &str, others: &[RosterRow]) -> String {
    let tidy = |text: &str| {
        let text: String = text.chars().filter(|c| !c.is_control()).collect();
        check_name(&text.trim().chars().take(NAME_LIMIT).collect::<String>()).ok()
    };
    let base = wished.and_then(tidy).or_else(|| tidy(hostname)).unwrap_or_else(|| "camera".to_owned());
    if !is_taken(&base, others) {
        return base;
    }
    let mut number = 2_u64;
    loop {
        let suffix = format!(" {number}");
        let kept: String = base.chars().take(NAME_LIMIT.saturating_sub(suffix.len())).collect();
        let name = format!("{}{suffix}", kept.trim_end());
        if !is_taken(&name, others) {
            return name;
        }
        number += 1;
    }
}

/// Whether an active node has this name. Case does not make a name different; a revoked node gives its name back.
pub fn is_taken(name: &str, others: &[RosterRow]) -> bool {
    others.iter().any(|row| row.status == NodeStatus::Active && row.name.to_lowercase() == name.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, status: NodeStatus) -> RosterRow {
        RosterRow {
            node: NodeId([1; 32]),
            role: NodeRole::Camera,
            name: name.to_owned(),
            status,
            enrolled_at: Timestamp(0),
            revoked_at: None,
            token: None,
        }
    }

    #[test]
    fn two_nodes_never_have_the_same_name() {
        let others = [named("Porch", NodeStatus::Active), named("porch 2", NodeStatus::Active), named("old", NodeStatus::Revoked)];
        assert_eq!(name_for(Some("porch"), "raspberrypi", &others), "porch 3");
        assert_eq!(name_for(None, "raspberrypi", &others), "raspberrypi");
        assert_eq!(name_for(Some("old"), "x", &others), "old", "a revoked node gives its name back");
    }

    #[test]
    fn a_host_name_out_of_all_reason_still_gives_a_name() {
        assert_eq!(name_for(None, "\n\t\u{7}", &[]), "camera");
        assert_eq!(name_for(None, " a\u{1b}[2Jb ", &[]), "a[2Jb");
        let long = "ü".repeat(500);
        let first = name_for(None, &long, &[]);
        assert_eq!(first.chars().count(), NAME_LIMIT);
        let second = name_for(None, &long, &[named(&first, NodeStatus::Active)]);
        assert_eq!(second.chars().count(), NAME_LIMIT);
        assert!(second.ends_with(" 2"), "{second}");
    }
}
