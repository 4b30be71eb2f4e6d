//! What a failed handshake means, in words for the person who reads the log.

/// Which side ended the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusedBy {
    /// We refused what the one that we dialled presented.
    Us,
    /// We refused what somebody presented on a port of ours.
    OurPort,
    /// The other side refused what we presented.
    Peer,
}

/// What a TLS alert (RFC 8446, section 6.2) means here, and what to do. In QUIC it is the low byte of a crypto error code.
pub fn alert_words(alert: u8, by: RefusedBy) -> &'static str {
    match (by, alert) {
        (_, 120) => "the other side speaks another protocol or version: update the older of the two",
        (_, 116) => "a certificate is demanded on this port and none was presented",
        (_, 70) => "the other side does not speak TLS 1.3",
        (RefusedBy::Peer, 42) => "our certificate does not carry the names of our key in that house: pair this node again",
        (RefusedBy::Peer, 43) => "our certificate is not for this use: a camera's certificate cannot act as a coordinator",
        (RefusedBy::Peer, 44) => "this node was revoked by a person: pair it anew if that was a mistake",
        (RefusedBy::Peer, 45) => "our certificate is expired for too long to be renewed: pair this node again",
        (RefusedBy::Peer, 48 | 51) => "the other side is of another house, or ours was founded anew: pair this node again",
        (RefusedBy::Peer, 49) => "this node is not enrolled there: pair it again, or look at `dms3-node nodes` on the coordinator",
        (RefusedBy::OurPort, 42) => "its certificate does not carry the names of its key in this house, or cannot be read",
        (RefusedBy::OurPort, 43) => "its certificate is not for this use",
        (RefusedBy::OurPort, 44) => "the node was revoked",
        (RefusedBy::OurPort, 45) => "its certificate is expired for too long to be renewed: pair that node again",
        (RefusedBy::OurPort, 46) => "its certificate breaks the rules of this house",
        (RefusedBy::OurPort, 48 | 51) => "its certificate is not of this house, or made up",
        (RefusedBy::OurPort, 49) => "the node is not enrolled here in the role of its certificate",
        (RefusedBy::Us, 42) => "the certificate presented does not carry the names of a coordinator of our house",
        (RefusedBy::Us, 43) => "the certificate presented is not for this use: it is no coordinator",
        (RefusedBy::Us, 44) => "the node was revoked",
        (RefusedBy::Us, 45) => "the certificate presented is expired: is the clock of both machines right?",
        (RefusedBy::Us, 48 | 51) => "the one that answered is of another house (a rogue, or a neighbour's)",
        (RefusedBy::Us, 49) => "the one that answered is not named by our root as a coordinator, or is not enrolled",
        (RefusedBy::Us, 46) => "the certificate presented breaks the rules of our house",
        (RefusedBy::Peer, 46) => "our certificate breaks the rules of that house: pair this node again",
        (RefusedBy::Us | RefusedBy::OurPort, _) => "the handshake failed on our side",
        (RefusedBy::Peer, _) => "the other side ended the handshake",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_alert_of_a_refusal_is_told_apart_in_words() {
        for by in [RefusedBy::Us, RefusedBy::OurPort, RefusedBy::Peer] {
            let words = [42, 43, 44, 45, 46, 48, 49, 70, 116, 120].map(|alert| alert_words(alert, by));
            for (at, text) in words.iter().enumerate() {
                assert!(!words[..at].contains(text), "{text}");
                assert_ne!(*text, alert_words(255, by));
            }
            assert_eq!(alert_words(48, by), alert_words(51, by), "a foreign CA is a foreign CA");
        }
        assert!(alert_words(44, RefusedBy::Peer).contains("revoked"));
        assert!(alert_words(116, RefusedBy::Peer).contains("certificate"));
    }
}
