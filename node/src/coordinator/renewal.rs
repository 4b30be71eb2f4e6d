//! The coordinator's own certificates: the one it presents and the one that signs all others, renewed long before they end.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dms3_core::fault::{Fault, FaultKind};
use dms3_core::time::Timestamp;
use dms3_pki::{Authority, Identity, LEAF_LIFE};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::alerts::Word;
use crate::clock::{Clock, date};

/// How often it is looked at: a clock may jump, a root key may come back, a failure may pass.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// The same trouble is logged so often.
const SAY_EVERY: Duration = Duration::from_secs(24 * 3600);
/// The issuing certificate is renewed once it has less than this left.
const ISSUING_LAST_YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// People are told by mail, too, when it has no more than this left, and nothing can renew it.
const ISSUING_TOLD: [(Duration, &str); 3] = [
    (Duration::from_secs(180 * 24 * 3600), "issuing/180d"),
    (Duration::from_secs(30 * 24 * 3600), "issuing/30d"),
    (Duration::ZERO, "issuing/over"),
];
/// What the keys of those faults begin with.
pub(super) const ISSUING: &str = "issuing/";
/// A certificate that would last only so much longer is not worth the writing: near the end of an issuing certificate all end with it.
const WORTH_IT: Duration = Duration::from_secs(24 * 3600);

/// What is renewed, and who is told.
#[derive(Debug, Clone)]
pub struct Renewal {
    pub authority: watch::Sender<Arc<Authority>>,
    pub identity: watch::Sender<Identity>,
    pub state_dir: PathBuf,
    pub clock: Clock,
}

/// Looks now and then, and at once when a person vouches for the clock. People hear (`words`) of what they alone can renew.
pub async fn run(renewal: Renewal, words: mpsc::Sender<Word>, stop: CancellationToken) -> Result<()> {
    let mut told = Vec::new();
    let jitter = rand::random_range(0.0..1.0);
    let mut accepted = renewal.clock.accepted();
    let mut said: Option<(String, Instant)> = None;
    loop {
        if let Err(error) = renewal.look(jitter) {
            let trouble = format!("{error:#}");
            if said.as_ref().is_none_or(|(before, at)| *before != trouble || at.elapsed() >= SAY_EVERY) {
                tracing::error!("{trouble}");
                said = Some((trouble, Instant::now()));
            }
        }
        for word in renewal.news(&mut told) {
            // The driver is gone only when the node stops.
            drop(words.send(word).await);
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            Ok(()) = accepted.changed() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

impl Renewal {
    /// Renews what is due: the certificate that signs in its last year, then our own after a third of its life (±10 %).
    pub fn look(&self, jitter: f64) -> Result<()> {
        let now = self.clock.announced();
        let authority = self.authority.borrow().clone();
        let identity = self.identity.borrow().clone();
        let issuing_due = authority.root_on_box() && authority.issuing_not_after()?.since(now) < ISSUING_LAST_YEAR;
        let own_due = |authority: &Authority| -> Result<bool> {
            let new_end = (now + LEAF_LIFE).min(authority.issuing_not_after()?);
            Ok(now >= identity.renew_at(jitter) && new_end > identity.not_after() + WORTH_IT)
        };
        if !issuing_due && !own_due(&authority)? {
            return Ok(());
        }
        ensure!(
            self.clock.may_sign(),
            "the certificates of this coordinator are to be renewed, and its clock is not vouched for: let it reach a time server, \
             or if it is right, run `sudo dms3-node time accept`"
        );
        let authority = if issuing_due { self.renew_issuing(&authority, now)? } else { authority };
        if own_due(&authority)? {
            let renewed = authority.renew_own(&identity, now).context("this coordinator's own certificate cannot be renewed")?;
            renewed.store(&self.state_dir)?;
            tracing::info!("renewed this coordinator's own certificate");
            self.identity.send_replace(renewed);
        }
        Ok(())
    }

    /// What people have not been told yet (`told`: keys of faults) of the certificate that signs all others. By the time that is certain:
    /// a clock that jumps mails nobody.
    fn news(&self, told: &mut Vec<&'static str>) -> Vec<Word> {
        let authority = self.authority.borrow();
        let Ok(end) = authority.issuing_not_after() else { return Vec::new() };
        let now = self.clock.certain();
        let left = end.since(now);
        let Some(text) = issuing_ends(end, authority.root_on_box(), now) else {
            let text = format!("It was renewed, and lasts until {}.", date(end));
            return told.drain(..).map(|key| Word::Ends { key: key.to_owned(), text: text.clone() }).collect();
        };
        let due = ISSUING_TOLD.into_iter().filter(|(most, key)| left <= *most && !told.contains(key)).map(|(_, key)| key);
        let due: Vec<&'static str> = due.collect();
        told.extend(&due);
        due.into_iter().map(|key| Word::Begins(Fault::new(key, FaultKind::Other, text.clone()))).collect()
    }

    fn renew_issuing(&self, authority: &Authority, now: Timestamp) -> Result<Arc<Authority>> {
        let renewed = Arc::new(authority.renew_issuing(now).context("the certificate that signs all others cannot be renewed")?);
        tracing::info!("renewed the certificate that signs all others of this house");
        self.authority.send_replace(renewed.clone());
        Ok(renewed)
    }
}

/// In words for people, once it is time to think of it: in the last year of the certificate that signs all others, where the key that renews it
/// is not here.
pub(super) fn issuing_ends(end: Timestamp, root_is_here: bool, now: Timestamp) -> Option<String> {
    if root_is_here || end.since(now) >= ISSUING_LAST_YEAR {
        return None;
    }
    let to_do = "bring the root key back with `sudo dms3-node ca import-root FILE`, and it is renewed";
    let day = date(end);
    Some(if now < end {
        format!("The certificate that signs all others of this house ends on {day}, and no camera is linked after that: {to_do}.")
    } else {
        format!(
            "The certificate that signs all others of this house ended on {day}: cameras that are linked stay so, none comes back and none is paired. \
             Now {to_do}; nothing needs to be paired anew."
        )
    })
}

#[cfg(test)]
mod tests {
    use dms3_core::roster::NodeRole;
    use dms3_pki::{AUTHORITY_DIR, KEY_FILE, NodeKey};
    use tempfile::TempDir;

    use super::*;
    use crate::mesh::testing::DAY;

    /// A coordinator whose authority was founded so long ago, and its own certificate made so long ago.
    fn coordinator(founded: Duration, renewed: Duration) -> (Renewal, TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::alone();
        let now = clock.now().at;
        let authority = Authority::create(&dir.path().join(AUTHORITY_DIR), now - founded).unwrap();
        let key = Arc::new(NodeKey::generate().unwrap());
        key.save_new(&dir.path().join(KEY_FILE)).unwrap();
        let identity = authority.own_identity(key, now - renewed).unwrap();
        identity.store(dir.path()).unwrap();
        let (authority, identity) = (watch::Sender::new(Arc::new(authority)), watch::Sender::new(identity));
        (Renewal { authority, identity, state_dir: dir.path().to_owned(), clock }, dir)
    }

    /// Of its own certificate and of the one that signs.
    fn ends(renewal: &Renewal) -> (Timestamp, Timestamp) {
        (renewal.identity.borrow().not_after(), renewal.authority.borrow().issuing_not_after().unwrap())
    }

    #[test]
    fn a_coordinator_renews_itself_after_a_third_and_keeps_it() {
        let (young, _dir) = coordinator(DAY, 20 * DAY);
        let before = ends(&young);
        young.look(0.5).unwrap();
        assert_eq!(ends(&young), before);
        for age in [40, 100] {
            let (due, dir) = coordinator(DAY, age * DAY);
            due.look(0.5).unwrap();
            assert!(ends(&due).0 > due.clock.now().at + 89 * DAY, "after {age} days");
            assert_eq!(Identity::load(dir.path()).unwrap().unwrap().not_after(), ends(&due).0);
        }
    }

    #[test]
    fn a_coordinator_renews_nothing_by_a_clock_that_nobody_vouches_for() {
        let (renewal, _dir) = coordinator(DAY, Duration::ZERO);
        // 200 days past all that is proven: by that clock its certificate is long expired.
        renewal.clock.forget(renewal.clock.now().at - 200 * DAY);
        let before = ends(&renewal);
        renewal.look(0.5).unwrap();
        assert_eq!(ends(&renewal), before);

        // Even what is due by the proven time waits.
        let (due, dir) = coordinator(DAY, 300 * DAY);
        due.clock.forget(due.clock.now().at - 200 * DAY);
        let before = ends(&due);
        let why = due.look(0.5).unwrap_err().to_string();
        assert!(why.contains("dms3-node time accept"), "{why}");
        assert_eq!(ends(&due), before);
        due.clock.accept().unwrap();
        due.look(0.5).unwrap();
        assert!(ends(&due).0 > due.clock.now().at + 89 * DAY);
        assert_eq!(Identity::load(dir.path()).unwrap().unwrap().not_after(), ends(&due).0);
    }

    #[test]
    fn the_certificate_that_signs_all_others_is_renewed_in_its_last_year_while_the_root_key_is_here() {
        let (renewal, dir) = coordinator(1500 * DAY, Duration::ZERO);
        let (root, away) = (dir.path().join(AUTHORITY_DIR).join("root.key"), dir.path().join("away"));
        let before = ends(&renewal);
        std::fs::rename(&root, &away).unwrap();
        renewal.look(0.5).unwrap();
        assert_eq!(ends(&renewal), before, "without the root key nothing can be done");
        std::fs::rename(&away, &root).unwrap();
        renewal.look(0.5).unwrap();
        let now = renewal.clock.now().at;
        assert!(ends(&renewal).1 > now + 1825 * DAY);
        let kept = Authority::open(&dir.path().join(AUTHORITY_DIR)).unwrap();
        assert_eq!(kept.issuing_der(), renewal.authority.borrow().issuing_der(), "and kept");
        let key = NodeKey::generate().unwrap();
        assert!(renewal.authority.borrow().issue(&key.csr().unwrap(), NodeRole::Camera, &key.id(), now).is_ok());

        let (younger, _dir) = coordinator(1400 * DAY, Duration::ZERO);
        let before = ends(&younger);
        younger.look(0.5).unwrap();
        assert_eq!(ends(&younger), before, "more than a year is left");
    }

    #[test]
    fn who_alone_can_renew_what_signs_all_others_is_told_half_a_year_and_a_month_before_it_ends() {
        let (renewal, dir) = coordinator(Duration::ZERO, Duration::ZERO);
        let (root, away) = (dir.path().join(AUTHORITY_DIR).join("root.key"), dir.path().join("away"));
        std::fs::rename(&root, &away).unwrap();
        let (_, end) = ends(&renewal);
        let mut told = Vec::new();
        let mut at = |left: Duration, over: Duration| {
            renewal.clock.forget(end - left + over);
            renewal.news(&mut told)
        };
        let key = |words: &[Word]| match words {
            [Word::Begins(fault)] => fault.key.clone(),
            other => format!("{other:?}"),
        };
        assert_eq!(at(364 * DAY, Duration::ZERO), [], "then it is on the first screen, and not mailed");
        assert_eq!(key(&at(179 * DAY, Duration::ZERO)), "issuing/180d");
        assert_eq!(at(31 * DAY, Duration::ZERO), []);
        let month = at(29 * DAY, Duration::ZERO);
        assert!(
            matches!(&month[..], [Word::Begins(fault)] if fault.key == "issuing/30d" && fault.text.contains("dms3-node ca import-root"))
        );
        let over = at(Duration::ZERO, DAY);
        assert!(
            matches!(&over[..], [Word::Begins(fault)] if fault.key == "issuing/over" && fault.text.contains("paired anew")),
            "{over:?}"
        );
        assert_eq!(at(Duration::ZERO, 2 * DAY), []);

        // Even then nothing is lost: the key comes back, and all is renewed.
        std::fs::rename(&away, &root).unwrap();
        renewal.look(0.5).unwrap();
        assert!(ends(&renewal).1 > end + 1825 * DAY);
        let over = renewal.news(&mut told);
        assert!(over.len() == 3 && over.iter().all(|word| matches!(word, Word::Ends { .. })), "{over:?}");
    }

    #[test]
    fn near_the_end_of_the_certificate_that_signs_none_is_written_anew_all_the_time() {
        let (renewal, dir) = coordinator(1816 * DAY, Duration::ZERO);
        std::fs::remove_file(dir.path().join(AUTHORITY_DIR).join("root.key")).unwrap();
        let before = renewal.identity.borrow().leaf().to_vec();
        assert!(renewal.identity.borrow().renew_at(0.5) < renewal.clock.now().at, "by its end alone it is due");
        renewal.look(0.5).unwrap();
        assert_eq!(renewal.identity.borrow().leaf(), before);
    }
}
