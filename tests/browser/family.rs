//! What a family does with the page, in browsers: each their own.

use std::path::Path;
use std::process::Command;

use dms3_core::arming::ArmState;
use dms3_core::roster::NodeStatus;

use super::{house, set_up};
use crate::events::{good, hook, picture, said};
use crate::harness::skip::cannot_browse;
use crate::harness::{Browser, House, PASSWORD, Plan, eventually};

/// How full and how hot the machine is that runs this is not the point.
const WELL: &str = "limits = { disk_warn = 0, disk_bad = 0, celsius_warn = 1000, celsius_bad = 1000 }";

/// Somebody else's browser, at the sign-in.
async fn signs_in(house: &House, name: &str) -> Browser {
    let browser = Browser::at(house).await;
    browser.opens("/").await;
    browser.comes_to("Forgot your password?").await;
    browser.types("name", name).await;
    browser.types("password", PASSWORD).await;
    browser.presses("Sign in").await;
    browser
}

#[tokio::test]
async fn an_owner_lets_a_member_in_who_arms_and_manages_nothing_and_puts_him_out_again() {
    let name = "an_owner_lets_a_member_in_who_arms_and_manages_nothing_and_puts_him_out_again";
    if cannot_browse(name) {
        return;
    }
    let house = house().await;
    let owner = Browser::at(&house).await;
    set_up(&house, &owner, "Disarmed").await;
    owner.opens("/account").await;
    owner.presses("Add somebody").await;
    owner.types("add-name", "Ben").await;
    owner.types("add-password", PASSWORD).await;
    owner.presses_only("Add").await;
    owner.comes_to("Ben may come in.").await;

    let member = signs_in(&house, "Ben").await;
    member.comes_to("Disarmed").await;
    assert!(!member.has("a[href='/nodes/add']").await, "no way to what he may not");
    member.presses_only("Arm").await;
    member.comes_to("Armed · away").await;
    member.shows("1 of 1 watching").await;
    house.agrees(ArmState::Away).await;
    owner.opens("/").await;
    owner.comes_to("Ben").await;
    member.opens("/nodes/add").await;
    member.comes_to("You may not do that").await;

    // Ben's phone is lost.
    member.opens("/").await;
    member.comes_to("Armed · away").await;
    owner.opens("/account").await;
    owner.presses("Ben").await;
    owner.presses("Remove Ben").await;
    owner.presses("Remove for good").await;
    owner.comes_to("Ben may come in no more.").await;
    member.shows("You are signed out").await;
    assert!(!member.reads().await.contains("Armed · away"), "what it showed is hidden");
}

#[tokio::test]
async fn a_session_that_is_ended_in_one_browser_is_over_in_the_other_and_whoever_guesses_waits() {
    let name = "a_session_that_is_ended_in_one_browser_is_over_in_the_other_and_whoever_guesses_waits";
    if cannot_browse(name) {
        return;
    }
    let house = house().await;
    let owner = Browser::at(&house).await;
    set_up(&house, &owner, "Disarmed").await;
    let other = signs_in(&house, "Ann").await;
    other.comes_to("No camera has to watch now.").await;
    owner.opens("/account").await;
    owner.presses_only("End").await;
    owner.comes_to("That session is over.").await;
    other.shows("You are signed out").await;

    other.presses("Sign in again").await;
    for _ in 0..10 {
        other.comes_to("Forgot your password?").await;
        other.types("name", "Ann").await;
        other.types("password", "a guess").await;
        other.presses("Sign in").await;
        other.comes_to("rong").await;
        if other.reads().await.contains("Try again in") {
            break;
        }
    }
    other.comes_to("Try again in").await;
    // Who is in stays in.
    owner.opens("/").await;
    owner.comes_to("No camera has to watch now.").await;
}

#[tokio::test]
async fn a_camera_is_paired_on_the_page_from_the_word_to_green_and_put_out_again() {
    let name = "a_camera_is_paired_on_the_page_from_the_word_to_green_and_put_out_again";
    if cannot_browse(name) {
        return;
    }
    let mut house = House::planned(Plan { web: Some(WELL.to_owned()), ..Plan::default() }).await;
    house.disarm().await;
    let owner = Browser::at(&house).await;
    set_up(&house, &owner, "Disarmed").await;
    owner.opens("/nodes/add").await;
    owner.types("name", "Porch").await;
    owner.presses("Make a word for it").await;
    owner.comes_to("Waiting for the camera").await;
    let word = owner.text_of("#token-word").await;
    house.add_camera_by("porch", &word).await;
    owner.shows("is here, and obeys").await;
    owner.opens("/").await;
    owner.comes_to("Porch").await;
    assert!(owner.has(".node-ok a[href^='/nodes/']").await, "it is green");
    house.arm().await;
    owner.shows("1 of 1 watching").await;

    owner.presses("Porch").await;
    owner.comes_to("Take it out of the house").await;
    owner.presses("Revoke Porch").await;
    owner.presses("Revoke for good").await;
    owner.comes_to("Porch is out of the house for good.").await;
    let porch = house.node_of(house.camera("porch"));
    eventually("it is out", async || {
        house.look().await.is_some_and(|house| house.nodes.iter().any(|node| node.node == porch && node.status == NodeStatus::Revoked))
    })
    .await;
}

/// A clip as Motion makes them.
fn clip(path: &Path) {
    let status = Command::new("ffmpeg")
        .args(["-loglevel", "error", "-f", "lavfi", "-i", "testsrc=size=320x240:rate=10:duration=3", "-pix_fmt", "yuv420p"])
        .arg(path)
        .status()
        .expect("ffmpeg");
    assert!(status.success());
}

#[tokio::test]
async fn what_a_camera_saw_has_a_thumbnail_and_its_clip_plays() {
    let name = "what_a_camera_saw_has_a_thumbnail_and_its_clip_plays";
    if cannot_browse(name) {
        return;
    }
    let house = house().await;
    house.arm().await;
    let owner = Browser::at(&house).await;
    set_up(&house, &owner, "1 of 1 watching").await;
    let porch = house.camera("porch");
    let (file, movie) = (house.dir().join("1-20261124080130-01.jpg"), house.dir().join("1-20261124080130.mp4"));
    super::porch_by_night().save(&file).unwrap();
    clip(&movie);
    good(said(porch, "event-start", "7"));
    good(picture(porch, "7", "15360", &file));
    owner.shows("going on now").await;
    owner.sees_picture(".event img.thumb").await;
    good(hook(porch, &["movie", "--event", "7", "--camera", "cam", "--file", movie.to_str().unwrap()].map(std::ffi::OsStr::new)));
    good(said(porch, "event-end", "7"));
    owner.shows("s clip").await;
    owner.presses("porch").await;
    owner.comes_to("Mark as seen").await;
    owner.plays("video").await;
    owner.presses("Mark as seen").await;
    eventually("it is marked", async || owner.reads().await.contains("s clip") && !owner.reads().await.contains("Mark as seen")).await;
    owner.opens("/").await;
    owner.comes_to("You have seen everything").await;
}

#[tokio::test]
async fn a_form_on_another_site_does_nothing_in_a_browser_that_is_signed_in() {
    let name = "a_form_on_another_site_does_nothing_in_a_browser_that_is_signed_in";
    if cannot_browse(name) {
        return;
    }
    let house = house().await;
    house.arm().await;
    let owner = Browser::at(&house).await;
    set_up(&house, &owner, "1 of 1 watching").await;
    let before = house.standing().await;
    let address = house.page_address().await;
    for (path, fields) in [("/disarm", ""), ("/sign-in", "<input name=name value=Ann><input name=password value=x>")] {
        owner.opens_foreign(&format!("<form method=post action={address}{path}>{fields}<button>Win a prize</button></form>")).await;
        owner.presses("Win a prize").await;
        eventually("it was refused", async || {
            let said = owner.reads().await;
            said.contains("sign in first") || said.contains("not asked for on a page of this house")
        })
        .await;
    }
    house.is_unharmed(before).await;
    owner.opens("/").await;
    owner.comes_to("Armed · away").await;
}
