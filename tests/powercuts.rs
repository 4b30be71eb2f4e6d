//! The power goes at any moment: while a house is founded, a camera is paired or gets a new certificate, a state is taken or something is
//! written down. Whatever moment it was, the node goes on with what is on its disk, or a person repeats what he did; an armed house is armed.
//!
//! `DMS3_POWERCUTS`: how often in each test (20); `DMS3_SEED`: at which moments, as far as the order of processes is ours.

use std::fs;
use std::time::{Duration, Instant};

use dms3_core::arming::ArmState;
use dms3_core::coordinator::Command;
use dms3_core::request::{Answer, Request, TokenRequest};
use dms3_core::roster::NodeRole;
use dms3_core::time::Timestamp;
use dms3_node::clock::wall;
use dms3_pki::Identity;
use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::process::Child;

use crate::harness::rogue::{Leaf, Papers};
use crate::harness::{House, Node, Port, eventually};

const DAY_MS: u64 = 86_400_000;

/// How often, and chance.
fn cuts() -> (u64, StdRng) {
    let of_env = |name: &str| std::env::var(name).ok()?.parse().ok();
    let times = of_env("DMS3_POWERCUTS").unwrap_or(20);
    let seed = of_env("DMS3_SEED").unwrap_or_else(|| rand::random_range(0..1 << 32));
    eprintln!("DMS3_POWERCUTS={times} DMS3_SEED={seed}");
    (times, StdRng::seed_from_u64(seed))
}

/// The power goes at some moment of what takes about so long. Whether it was over before.
async fn cut(child: &mut Child, usual: Duration, random: &mut StdRng) -> bool {
    tokio::time::sleep(usual.mul_f64(random.random_range(0.0..1.1))).await;
    let over = child.try_wait().unwrap().is_some();
    child.kill().await.unwrap();
    over
}

async fn wait(mut child: Child) -> Duration {
    let began = Instant::now();
    assert!(child.wait().await.unwrap().success());
    began.elapsed()
}

#[tokio::test]
async fn whenever_the_power_goes_while_a_house_is_founded_the_next_init_or_start_goes_on() {
    let (times, mut random) = cuts();
    let (mesh, enroll) = (Port::free(), Port::free());
    let sections = format!(
        "[mesh]\nmdns = \"off\"\nlisten = \"{}\"\n[coordinator]\nenroll_listen = \"{}\"\n[coordinator.presence]\nenabled = false\n",
        mesh.address(),
        enroll.address()
    );
    let dir = tempfile::tempdir().unwrap();
    let new = |name: &str| Node::new(dir.path(), name, "coordinator", None, &sections);
    let usual = wait(new("uncut").spawn_cli(&["init"], "").await).await;
    let (mut whole, mut anew) = (0, 0);
    for round in 0..times {
        let node = new(&round.to_string());
        // The family tries again, and the power goes again.
        for _ in 0..random.random_range(1..=3) {
            cut(&mut node.spawn_cli(&["init"], "").await, usual, &mut random).await;
        }
        let said = node.cli(&["init"]).await;
        match said.ok {
            true => anew += 1,
            false => {
                assert!(said.err.contains("/ca exists: this machine has a house"), "round {round}: {}", said.err);
                whole += 1;
            }
        }
        node.start();
        let mut house = None;
        eventually(&format!("round {round}: the house is there"), async || {
            node.pid();
            house = node.ask(&Request::Status).await.ok();
            house.is_some()
        })
        .await;
        let Some(Answer::House(house)) = house else { panic!("{house:?}") };
        assert_eq!((house.state, house.nodes.len()), (ArmState::Away, 1), "round {round}: a new house is armed");
        assert_eq!(Identity::load(&node.state_dir()).unwrap().unwrap().role(), NodeRole::Coordinator);
        node.sigkill().await;
        assert!(!node.log().contains("panicked"));
        fs::remove_dir_all(node.state_dir()).unwrap();
    }
    eprintln!("{whole} houses were whole, {anew} were begun anew");
}

#[tokio::test]
async fn whenever_the_power_goes_while_a_camera_is_paired_the_same_word_pairs_it() {
    let (times, mut random) = cuts();
    let mut house = House::new().await;
    let word = house.token(&[]).await;
    let camera = house.new_camera("uncut");
    let usual = wait(camera.spawn_cli(&["enroll", "-"], &word).await).await;
    let (mut before, mut again) = (0, 0);
    for round in 0..times {
        let camera = house.new_camera(&format!("cam-{round}"));
        let word = house.token(&["--name", &camera.name]).await;
        let mut enrolls = camera.spawn_cli(&["enroll", "-"], &word).await;
        let at_the_coordinator = random.random();
        if at_the_coordinator {
            tokio::time::sleep(usual.mul_f64(random.random_range(0.0..1.1))).await;
        } else {
            before += usize::from(cut(&mut enrolls, usual, &mut random).await);
        }
        // Its own power goes, or it forgets who came how often: nobody is paired twenty times a minute.
        house.coordinator.sigkill().await;
        house.coordinator.start();
        house.answers().await;
        if at_the_coordinator && enrolls.wait().await.unwrap().success() {
            before += 1;
        } else {
            let said = camera.cli_with(&["enroll", "-"], &word).await.good();
            assert!(said.contains("is now the camera") || said.contains("is a camera of this house already"), "round {round}: {said}");
            again += 1;
        }
        let row = house.view(&camera.name).await.unwrap_or_else(|| panic!("round {round}: it is in the roster by the name of its word"));
        assert_eq!(row.node, house.node_of(&camera), "round {round}: and it has one identity");
        camera.start();
        eventually(&format!("round {round}: it is linked and watches"), async || {
            camera.camera_status().await.is_some_and(|status| status.linked.is_some()) && camera.motion.running().is_some()
        })
        .await;
        camera.sigkill().await;
    }
    eprintln!("{before} were paired before the power went, {again} afterwards");
    let cameras = house.status().await.nodes.iter().filter(|node| node.role == NodeRole::Camera).count();
    assert_eq!(cameras as u64, times + 1, "nobody is enrolled twice");
    house.cameras.clear();
}

/// In the state directory of `node`, a file that is being replaced.
fn is_being_replaced(node: &Node, name: &str) -> bool {
    let begin = format!(".{name}.");
    fs::read_dir(node.state_dir()).unwrap().flatten().any(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(&begin)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whenever_the_power_goes_while_a_certificate_is_renewed_the_camera_has_the_old_or_the_new_one() {
    let (times, mut random) = cuts();
    let house = House::with_cameras(["porch"]).await;
    house.arm().await;
    house.agrees(ArmState::Away).await;
    let porch = house.camera("porch");
    porch.stop().await;
    let old = expired(&house, porch);
    let (mut kept, mut renewed) = (0, 0);
    for round in 0..times {
        old.store(&porch.state_dir()).unwrap();
        let asked = porch.lines_with("this node's certificate is expired: asking the coordinator");
        porch.start();
        eventually("it asks for another one", async || {
            porch.lines_with("this node's certificate is expired: asking the coordinator") > asked
        })
        .await;
        if random.random() {
            // As it is written.
            let until = Instant::now() + Duration::from_secs(2);
            tokio::task::block_in_place(|| {
                while !is_being_replaced(porch, "identity") && Instant::now() < until {
                    std::hint::spin_loop();
                }
            });
            tokio::time::sleep(Duration::from_micros(random.random_range(0..3000))).await;
        } else {
            tokio::time::sleep(Duration::from_micros(random.random_range(0..60_000))).await;
        }
        porch.sigkill().await;
        let found = Identity::load(&porch.state_dir()).unwrap().unwrap();
        assert_eq!(found.node(), old.node());
        match found.not_after() > wall() {
            true => renewed += 1,
            false => {
                assert_eq!(found.not_after(), old.not_after(), "round {round}");
                kept += 1;
            }
        }
        porch.start();
        eventually(&format!("round {round}: it is linked, and armed"), async || {
            if let Some(status) = porch.camera_status().await {
                assert!(status.effective.is_armed(), "round {round}");
            }
            house.is_whole(ArmState::Away).await
        })
        .await;
        assert!(house.identity_of(porch).not_after() > wall(), "round {round}");
        porch.sigkill().await;
    }
    eprintln!("{kept} had the old one, {renewed} the new one");
    assert!(!porch.log().contains("panicked"));
}

/// Its identity as if it had lain in a drawer since before yesterday.
fn expired(house: &House, camera: &Node) -> Identity {
    let yesterday = jiff::Zoned::now().yesterday().unwrap();
    let ends = (i32::from(yesterday.year()), yesterday.month().cast_unsigned(), yesterday.day().cast_unsigned());
    let papers = Papers::by_the_stolen_issuing_key(&house.coordinator, &Leaf { ends, ..Leaf::camera() }, Some(camera));
    let own = house.identity_of(camera);
    let then = Timestamp(wall().0 - 3 * DAY_MS);
    let bundle = own.bundle().as_ref().clone();
    Identity::new(own.key().clone(), papers.chain[0].to_vec(), own.issuing().to_vec(), bundle, then).unwrap()
}

/// Another order than the one before; whether it arms.
async fn orders(house: &House, arms: bool) -> bool {
    let command = match arms {
        true => Command::Arm { state: ArmState::Away, until: None, now: true, stays: false },
        false => Command::Disarm { until: None, stays: false },
    };
    matches!(house.coordinator.ask(&Request::Command(command)).await, Ok(Answer::House(_)))
}

#[tokio::test]
async fn whenever_the_power_of_a_camera_goes_while_it_is_told_a_state_what_it_confirmed_last_holds() {
    let (times, mut random) = cuts();
    let house = House::with_cameras(["porch"]).await;
    let porch = house.camera("porch");
    let (mut armed, mut confirmed) = (0, 0);
    for round in 0..times {
        let mut arms: bool = random.random();
        for _ in 0..random.random_range(1..6) {
            arms = !arms;
            assert!(orders(&house, arms).await);
        }
        tokio::time::sleep(Duration::from_micros(random.random_range(0..20_000))).await;
        porch.sigkill().await;
        let state = if arms { ArmState::Away } else { ArmState::Disarmed };
        // Of what it said before it died the last may still be on its way.
        let mut has_confirmed = false;
        for _ in 0..5 {
            has_confirmed = house.view("porch").await.unwrap().current;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // It has nobody to ask.
        house.coordinator.signal(Signal::SIGSTOP);
        porch.start();
        let mut found = None;
        eventually("it answers", async || {
            found = porch.camera_status().await;
            found.is_some()
        })
        .await;
        let found = found.unwrap();
        if has_confirmed {
            confirmed += 1;
            let (epoch, rev) = (found.epoch.unwrap(), found.rev.unwrap());
            assert_eq!(found.effective, state, "round {round}: it confirmed that before, and holds {epoch}.{rev}");
        }
        if arms {
            armed += 1;
        }
        house.coordinator.signal(Signal::SIGCONT);
        house.agrees(state).await;
    }
    eprintln!("{confirmed} of {times} had confirmed the last state, {armed} were to be armed");
    assert!(!porch.log().contains("panicked"));
}

#[tokio::test]
async fn whenever_the_power_of_the_coordinator_goes_what_it_said_is_done_is_done() {
    let (times, mut random) = cuts();
    let house = House::with_cameras(["porch"]).await;
    let mut words = Vec::new();
    let mut held = house.look().await.unwrap().state.is_armed();
    for round in 0..times {
        let pause = Duration::from_micros(random.random_range(0..80_000));
        // What was done last, and what may have been done after it.
        let (mut done, mut asked) = (None, None);
        let mut arms: bool = random.random();
        let talks = async {
            loop {
                arms = !arms;
                asked = Some(arms);
                if !orders(&house, arms).await {
                    return;
                }
                done = Some(arms);
                match house.coordinator.ask(&Request::TokenNew(TokenRequest::default())).await {
                    Ok(Answer::Token(new)) => words.push(new.token.id.clone()),
                    Ok(other) => panic!("{other:?}"),
                    Err(_) => return,
                }
            }
        };
        let cut = async {
            tokio::time::sleep(pause).await;
            house.coordinator.sigkill().await;
        };
        tokio::join!(talks, cut);
        house.coordinator.start();
        house.answers().await;
        let found = house.look().await.unwrap().state;
        let before = done.unwrap_or(held);
        held = found.is_armed();
        assert!(
            held == before || asked == Some(held),
            "round {round}: it is {found:?}, was armed: {before}, and asked perhaps for {asked:?}"
        );
        house.agrees(found).await;
        let Ok(Answer::Tokens(listed)) = house.coordinator.ask(&Request::TokenList).await else { panic!("the words") };
        for id in words.drain(..) {
            assert!(listed.iter().any(|token| token.id == id), "round {round}: a word that somebody was shown is unknown");
            // There may be only so many.
            let cancelled = house.coordinator.ask(&Request::TokenCancel { id }).await;
            assert!(matches!(cancelled, Ok(Answer::Done(_))), "{cancelled:?}");
        }
    }
    assert!(!house.coordinator.log().contains("panicked"));
}
