//! One word pairs a machine, once, and nothing that goes wrong on the way costs more than pasting it again.

use std::fs;
use std::net::Ipv4Addr;

use dms3_core::arming::ArmState;
use dms3_core::request::TokenView;
use dms3_core::roster::NodeRole;
use tokio::process::Child;

use crate::harness::{Camera, House, Plan, Relay, Standing, eventually};

async fn tokens(house: &House) -> Vec<TokenView> {
    let said = house.coordinator.cli(&["token", "list", "--json"]).await.good();
    serde_json::from_str(&said).unwrap()
}

async fn cameras(house: &House) -> usize {
    house.status().await.nodes.iter().filter(|node| node.role == NodeRole::Camera).count()
}

#[tokio::test]
async fn a_new_user_pairs_a_camera_with_one_pasted_word() {
    let house = House::new().await;
    let said = house.coordinator.cli(&["token", "new"]).await.good();
    assert!(said.contains("dms3-node enroll"), "the command to paste is shown: {said}");
    let word = said.lines().next().unwrap();

    let porch = house.new_camera("porch");
    // The service runs already and waits, as it does after an installation.
    porch.start();
    eventually("an unpaired camera says what to do", async || porch.told("dms3-node enroll")).await;
    let said = porch.cli_with(&["enroll", "-"], &format!("  {}\n", word.to_uppercase())).await.good();
    assert!(said.contains("is now the camera"), "{said}");

    eventually("the camera is linked without any further word", async || {
        house.look().await.is_some_and(|house| house.nodes.iter().any(|node| node.role == NodeRole::Camera && node.liveness == "online"))
    })
    .await;
    // A new house is armed until somebody says otherwise, and the new camera obeys at once.
    eventually("its detector runs", async || porch.motion.running().is_some()).await;
    let nodes = house.coordinator.cli(&["nodes"]).await.good();
    assert!(nodes.contains("camera") && nodes.contains("online"), "{nodes}");
}

#[tokio::test]
async fn whoever_is_asked_for_the_word_pastes_it_unseen_and_answers_two_questions() {
    let mut house = House::planned(Plan { camera: "#on_coordinator_lost = \"15m\"".to_owned(), ..Plan::default() }).await;
    let word = house.token(&["--name", "porch"]).await;
    let porch = house.new_camera("porch");
    // The places of the two answers, as in the config that is installed.
    porch.configure("#watch_in = [\"away\"]\n");
    let mut terminal = porch.at_a_terminal(&["enroll"]);
    terminal.asks("Token (it is not shown): ").await;
    // Not before: between the question and that, a terminal shows what is typed.
    terminal.hides().await;
    terminal.types(&word);
    terminal.asks("When does this camera watch?").await;
    terminal.asks("[1] ").await;
    terminal.types("2");
    terminal.asks("after which time does this camera arm itself?").await;
    terminal.asks("[15m] ").await;
    terminal.types("hold");
    let shown = terminal.ends().await;
    assert!(shown.contains("This machine is now the camera \"porch\""), "{shown}");
    assert!(shown.contains("[1] 2\n") && shown.contains("[15m] hold\n"), "what is no secret is shown: {shown}");
    assert!(!shown.contains(&word[8..24]), "{shown}");
    let config = fs::read_to_string(porch.config()).unwrap();
    assert!(config.contains("\nwatch_in = [\"away\", \"night\"]\n") && config.contains("\non_coordinator_lost = \"hold\"\n"), "{config}");
    porch.start();
    house.cameras.push(porch);
    house.agrees(ArmState::Away).await;
}

#[tokio::test]
async fn a_word_for_one_camera_pairs_no_second_one() {
    let house = House::new().await;
    let word = house.token(&[]).await;
    let (porch, thief) = (house.new_camera("porch"), house.new_camera("thief"));
    porch.cli_with(&["enroll", "-"], &word).await.good();
    let why = thief.cli_with(&["enroll", "-", "--timeout", "5s"], &word).await.bad();
    assert!(why.contains("a used-up word closes the port"), "{why}");
    assert_eq!(cameras(&house).await, 1);
    assert!(!thief.state_dir().join("identity").exists());
    assert_eq!(tokens(&house).await[0].standing, "used");
}

#[tokio::test]
async fn one_word_pairs_as_many_cameras_as_it_was_made_for() {
    let house = House::new().await;
    let word = house.token(&["--uses", "2"]).await;
    for name in ["porch", "hall"] {
        house.new_camera(name).cli_with(&["enroll", "-"], &word).await.good();
    }
    house.new_camera("third").cli_with(&["enroll", "-", "--timeout", "5s"], &word).await.bad();
    assert_eq!(cameras(&house).await, 2);
}

#[tokio::test]
async fn a_token_that_was_cancelled_pairs_nobody() {
    let house = House::new().await;
    let word = house.token(&["--uses", "5"]).await;
    house.new_camera("porch").cli_with(&["enroll", "-"], &word).await.good();
    let id = tokens(&house).await[0].id.clone();
    house.coordinator.cli(&["token", "cancel", &id]).await.good();
    house.new_camera("hall").cli_with(&["enroll", "-", "--timeout", "5s"], &word).await.bad();
    assert_eq!(cameras(&house).await, 1);
    assert_eq!(tokens(&house).await[0].standing, "cancelled");
}

#[tokio::test]
async fn a_word_with_a_typing_error_is_told_before_anybody_is_asked() {
    let house = House::new().await;
    let word = house.token(&[]).await;
    let last = if word.ends_with('q') { 'p' } else { 'q' };
    let mistyped = format!("{}{last}", &word[..word.len() - 1]);
    let porch = house.new_camera("porch");
    for wrong in [mistyped.as_str(), "", "hello", &word[..40], &format!("{word} {word}")] {
        let why = porch.cli_with(&["enroll", "-"], wrong).await.bad();
        assert!(why.to_lowercase().contains("token"), "{wrong:?}: {why}");
    }
    porch.cli_with(&["enroll", "-"], &word).await.good();
}

#[tokio::test]
async fn a_word_of_another_house_pairs_nobody_here() {
    let house = House::new().await;
    let other = House::new().await;
    let word = other.token(&[]).await;
    // It is named the coordinator of this house, which does not prove to be the one of the word.
    let porch = house.new_camera("porch");
    let here = house.enroll_port.address().to_string();
    house.token(&[]).await;
    let why = porch.cli_with(&["enroll", "-", "--timeout", "5s", "--coordinator", &here], &word).await.bad();
    assert!(why.contains("coordinator"), "{why}");
    assert_eq!(cameras(&house).await, 0);
    assert!(!porch.state_dir().join("identity").exists());
}

#[tokio::test]
async fn a_machine_that_is_paired_stays_what_it_is() {
    let mut house = House::new().await;
    house.add_camera("porch").await;
    let porch = house.camera("porch");
    let before = house.node_of(porch);
    let word = house.token(&[]).await;
    let said = porch.cli_with(&["enroll", "-"], &word).await.good();
    assert!(said.contains("already"), "{said}");

    let other = House::new().await;
    let foreign = other.token(&[]).await;
    let why = porch.cli_with(&["enroll", "-"], &foreign).await.bad();
    assert!(why.contains("another house"), "{why}");
    assert_eq!(house.node_of(porch), before);

    let why = house.coordinator.cli_with(&["enroll", "-"], &word).await.bad();
    assert!(why.contains("coordinator"), "{why}");
}

#[tokio::test]
async fn a_house_is_founded_once() {
    let house = House::new().await;
    let dir = house.coordinator.state_dir();
    let root = fs::read(dir.join("ca/root.crt")).unwrap();
    let node = house.node_of(&house.coordinator);
    let key = fs::read(dir.join("node.key")).unwrap();
    let why = house.coordinator.cli(&["init"]).await.bad();
    assert!(why.contains("exists"), "{why}");
    assert_eq!(fs::read(dir.join("ca/root.crt")).unwrap(), root);
    // Nor over the remains of one.
    house.coordinator.stop().await;
    fs::remove_dir_all(dir.join("ca")).unwrap();
    house.coordinator.cli(&["init"]).await.bad();
    assert!(!dir.join("ca").exists());
    assert_eq!(fs::read(dir.join("node.key")).unwrap(), key);
    assert_eq!(house.node_of(&house.coordinator), node);
}

/// No enrollment takes more datagrams.
const DATAGRAMS: usize = 60;

/// How far a pairing was when it was broken off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reached {
    /// The coordinator knows nothing of the camera.
    Nothing,
    /// The coordinator let it in, and the camera does not know that.
    LetIn,
    /// The camera has its identity.
    Stored,
}

/// A new machine that hears no mDNS until [`Self::paired`]: all that it says and hears passes a relay.
struct Newcomer {
    camera: Camera,
    word: String,
    /// What the coordinator sees it come from.
    source: Ipv4Addr,
}

impl Newcomer {
    async fn new(house: &House, nth: usize) -> Self {
        let name = format!("camera-{nth}");
        let word = house.token(&["--name", &name]).await;
        let newcomer = Self { camera: house.new_camera(&name), word, source: Ipv4Addr::new(127, 3, u8::try_from(nth).unwrap(), 1) };
        newcomer.change_config("mdns = \"loopback\"", "mdns = \"off\"");
        newcomer
    }

    fn change_config(&self, from: &str, to: &str) {
        let config = fs::read_to_string(self.camera.config()).unwrap();
        assert!(config.contains(from), "{config}");
        fs::write(self.camera.config(), config.replacen(from, to, 1)).unwrap();
    }

    async fn relay(&self, house: &House, datagrams: usize) -> Relay {
        Relay::open(house.enroll_port.address(), self.source, datagrams).await
    }

    async fn begin(&self, relay: &Relay) -> Child {
        self.camera.spawn_cli(&["enroll", "-", "--coordinator", &relay.address.to_string()], &self.word).await
    }

    /// Pairs with the same word as before, and is a camera of the house like any other. Says how far it was before.
    async fn pairs(self, house: &mut House) -> Reached {
        let relay = self.relay(house, usize::MAX).await;
        let args = ["enroll", "-", "--coordinator", &relay.address.to_string()];
        let said = self.camera.cli_with(&args, &self.word).await.good();
        let asked_again =
            house.coordinator.log().lines().any(|line| line.contains(&format!("{:?}", self.camera.name)) && line.contains("asked again"));
        let reached = match (said.contains("already"), asked_again) {
            (true, _) => Reached::Stored,
            (false, true) => Reached::LetIn,
            (false, false) => Reached::Nothing,
        };
        self.paired(house).await;
        reached
    }

    async fn paired(self, house: &mut House) {
        let node = house.node_of(&self.camera);
        let nodes = house.status().await.nodes;
        assert_eq!(nodes.iter().filter(|row| row.node == node).count(), 1, "one row for its key: {nodes:?}");
        assert_eq!(nodes.iter().filter(|row| row.name == self.camera.name).count(), 1, "no second key was let in: {nodes:?}");
        self.change_config("mdns = \"off\"", "mdns = \"loopback\"");
        self.camera.start();
        house.cameras.push(self.camera);
    }
}

/// Each token that was made paired one camera, and there is no other.
async fn each_word_paired_one(house: &House) {
    let tokens = tokens(house).await;
    assert!(tokens.iter().all(|token| token.used_by.len() == 1 && token.standing == "used"), "{tokens:?}");
    assert_eq!(tokens.len(), cameras(house).await);
}

/// `enroll` is killed after the `first` datagram, another machine's after the one `apart` later, and so on until one is through. What the
/// last of them, and all others, had reached.
async fn killed_at_every(first: usize, apart: usize) -> Vec<Reached> {
    let mut house = House::with_cameras(["porch"]).await;
    let before = house.standing().await;
    let mut reached = Vec::new();
    for nth in (first..).step_by(apart) {
        assert!(nth <= DATAGRAMS, "no enrollment comes through");
        let newcomer = Newcomer::new(&house, nth).await;
        let relay = newcomer.relay(&house, nth).await;
        let mut enroll = newcomer.begin(&relay).await;
        let whole = tokio::select! {
            biased;
            status = enroll.wait() => { assert!(status.unwrap().success()); true }
            () = relay.broke() => false,
        };
        if whole {
            newcomer.paired(&mut house).await;
            break;
        }
        drop(enroll.start_kill());
        enroll.wait().await.unwrap();
        reached.push(newcomer.pairs(&mut house).await);
    }
    house.agrees(ArmState::Disarmed).await;
    house.is_unharmed_and_told(before, "enrolled").await;
    each_word_paired_one(&house).await;
    reached
}

#[tokio::test]
async fn a_camera_that_is_killed_at_any_datagram_of_its_pairing_pairs_with_the_same_word() {
    // Each house holds a place for every one that died, for ten seconds: few enough of them for its eight places.
    let (a, b, c, d) = tokio::join!(killed_at_every(1, 4), killed_at_every(2, 4), killed_at_every(3, 4), killed_at_every(4, 4));
    let reached = [a, b, c, d].concat();
    assert!(reached.len() >= 8, "an enrollment has more datagrams than {reached:?}");
    assert!(reached.contains(&Reached::Nothing) && reached.contains(&Reached::LetIn), "not all steps were met: {reached:?}");
}

#[tokio::test]
async fn a_camera_that_is_killed_when_it_wrote_its_key_or_its_identity_pairs_with_the_same_word() {
    let mut house = House::with_cameras(["porch"]).await;
    let before = house.standing().await;
    // With its key alone it has nobody to talk to yet.
    for (nth, (file, datagrams)) in [("node.key", 0), ("identity", usize::MAX)].into_iter().enumerate() {
        let newcomer = Newcomer::new(&house, nth).await;
        let relay = newcomer.relay(&house, datagrams).await;
        let mut enroll = newcomer.begin(&relay).await;
        let path = newcomer.camera.state_dir().join(file);
        while !path.exists() {
            let ended = enroll.try_wait().unwrap().is_some();
            assert!(!ended || path.exists(), "it ended without {file}");
            tokio::task::yield_now().await;
        }
        drop(enroll.start_kill());
        enroll.wait().await.unwrap();
        let key = fs::read(newcomer.camera.state_dir().join("node.key")).unwrap();
        let reached = newcomer.pairs(&mut house).await;
        assert_eq!(fs::read(house.cameras.last().unwrap().state_dir().join("node.key")).unwrap(), key, "its key stays");
        assert_eq!(reached, if file == "identity" { Reached::Stored } else { Reached::Nothing }, "{file}");
    }
    house.agrees(ArmState::Disarmed).await;
    house.is_unharmed_and_told(before, "enrolled").await;
    each_word_paired_one(&house).await;
}

/// The coordinator is killed when the `first` datagram has passed, in another machine's pairing when the one `apart` later has, and so on
/// until one is through; each command is broken off and given again. Whether it had reached no more than the first step, for each.
async fn coordinator_killed_at_every(first: usize, apart: usize) -> Vec<Reached> {
    let mut house = House::with_cameras(["porch"]).await;
    let before = house.standing().await;
    let mut reached = Vec::new();
    for nth in (first..).step_by(apart) {
        assert!(nth <= DATAGRAMS, "no enrollment comes through");
        let newcomer = Newcomer::new(&house, nth).await;
        let relay = newcomer.relay(&house, nth).await;
        let mut enroll = newcomer.begin(&relay).await;
        let whole = tokio::select! {
            biased;
            status = enroll.wait() => { assert!(status.unwrap().success()); true }
            () = relay.broke() => false,
        };
        if whole {
            newcomer.paired(&mut house).await;
            break;
        }
        house.coordinator.sigkill().await;
        house.coordinator.start();
        house.answers().await;
        house.stands(before).await;
        // A person breaks the command off and pastes it once more.
        drop(enroll.start_kill());
        enroll.wait().await.unwrap();
        reached.push(newcomer.pairs(&mut house).await);
    }
    outlived(&house, before, reached.len()).await;
    each_word_paired_one(&house).await;
    reached
}

/// The coordinator was killed so often: the house is as before, and the camera that was linked tells each time why its link ended.
async fn outlived(house: &House, before: Standing, deaths: usize) {
    house.stands(before).await;
    let told = house.camera("porch").lines_with("the link to the coordinator ended: the other side was restarted");
    assert_eq!(told, deaths, "one line names each death");
}

#[tokio::test]
async fn a_coordinator_that_is_killed_at_any_datagram_of_a_pairing_pairs_with_the_same_word() {
    let houses = (1..=4).map(|first| coordinator_killed_at_every(first, 4));
    let reached = futures_util::future::join_all(houses).await.concat();
    assert!(reached.len() >= 8, "an enrollment has more datagrams than {reached:?}");
    assert!(reached.contains(&Reached::Nothing), "not all steps were met: {reached:?}");
}

#[tokio::test]
async fn a_coordinator_that_is_killed_before_its_answer_arrived_knows_the_camera_that_it_let_in() {
    let mut house = House::with_cameras(["porch"]).await;
    let before = house.standing().await;
    let newcomer = Newcomer::new(&house, 1).await;
    let relay = newcomer.relay(&house, usize::MAX).await;
    // What it logs before it answers is in its store.
    let enrolled = format!("enrolled {:?}", newcomer.camera.name);
    let log = house.coordinator.log_file();
    relay.keeps_back(move || fs::read_to_string(&log).unwrap().contains(&enrolled));
    let mut enroll = newcomer.begin(&relay).await;
    relay.kept().await;
    house.coordinator.sigkill().await;
    house.coordinator.start();
    house.answers().await;
    drop(enroll.start_kill());
    enroll.wait().await.unwrap();
    assert_eq!(newcomer.pairs(&mut house).await, Reached::LetIn);
    outlived(&house, before, 1).await;
    each_word_paired_one(&house).await;
}

#[tokio::test]
async fn an_enrollment_outlives_the_death_of_its_coordinator() {
    let mut house = House::with_cameras(["porch"]).await;
    let before = house.standing().await;
    let newcomer = Newcomer::new(&house, 1).await;
    // In the middle of the handshake.
    let relay = newcomer.relay(&house, 6).await;
    let mut enroll = newcomer.begin(&relay).await;
    relay.broke().await;
    house.coordinator.sigkill().await;
    house.coordinator.start();
    house.answers().await;
    relay.mend();
    assert!(enroll.wait().await.unwrap().success(), "the same command finds its way");
    newcomer.paired(&mut house).await;
    outlived(&house, before, 1).await;
    each_word_paired_one(&house).await;
}

#[tokio::test]
async fn a_coordinator_that_is_killed_forgets_no_token_and_no_camera() {
    let mut house = House::new().await;
    let word = house.token(&["--uses", "2"]).await;
    let porch = house.new_camera("porch");
    porch.cli_with(&["enroll", "-"], &word).await.good();
    house.coordinator.sigkill().await;
    house.coordinator.start();
    house.answers().await;
    porch.start();
    house.cameras.push(porch);
    house.new_camera("hall").cli_with(&["enroll", "-"], &word).await.good();
    assert_eq!(cameras(&house).await, 2);
    eventually("the camera that was paired before is linked", async || {
        house.look().await.is_some_and(|house| house.nodes.iter().any(|node| node.liveness == "online" && node.role == NodeRole::Camera))
    })
    .await;
}

#[tokio::test]
async fn a_token_that_a_revoked_camera_used_pairs_nobody_any_more() {
    let mut house = House::new().await;
    let word = house.token(&["--uses", "3"]).await;
    let porch = house.new_camera("porch");
    porch.cli_with(&["enroll", "-"], &word).await.good();
    porch.start();
    house.cameras.push(porch);
    house.agrees(ArmState::Away).await;
    let id = house.node_of(house.camera("porch"));
    let said = house.coordinator.cli(&["revoke", &id.to_string()]).await.good();
    assert!(said.contains("token"), "{said}");
    // With a token that lives the port is open, and each is told what is wrong with his own.
    let fresh = house.token(&[]).await;
    let before = house.standing().await;
    let hall = house.new_camera("hall");
    let why = hall.cli_with(&["enroll", "-", "--timeout", "5s"], &word).await.bad();
    assert!(why.contains("used up, expired, cancelled"), "{why}");
    assert_eq!(tokens(&house).await.iter().filter(|token| token.standing == "cancelled").count(), 1);
    // Nor the revoked one itself, with that word or with a new one, which stays good for others.
    let porch = house.camera("porch");
    let why = porch.cli_with(&["enroll", "-", "--again", "--timeout", "5s"], &word).await.bad();
    assert!(why.contains("used up, expired, cancelled") || why.contains("revoked"), "{why}");
    let why = porch.cli_with(&["enroll", "-", "--again", "--timeout", "5s"], &fresh).await.bad();
    assert!(why.contains("this node was revoked by a person"), "{why}");
    house.is_unharmed_and_told(before, ": the node was revoked").await;
    assert!(house.view("porch").await.is_none_or(|porch| porch.liveness != "online"));
    hall.cli_with(&["enroll", "-"], &fresh).await.good();
}
