//! The dashboard in a real browser.

mod family;
mod states;

use std::time::{Duration, Instant};

use dms3_core::arming::ArmState;

use crate::events::{good, picture, said};
use crate::harness::skip::{cannot_browse, cannot_make_networks};
use crate::harness::{Browser, House, Lan, MjpegCamera, PASSWORD, PHONE, Plan, eventually, throughout};

async fn house() -> House {
    let plan = Plan { web: Some("title = \"DMS3 · Home\"".to_owned()), ..Plan::default() };
    House::planned_with_cameras(plan, ["porch"]).await
}

/// Ann, by the code of `init`; then the first screen says that.
async fn set_up(house: &House, browser: &Browser, says: &str) {
    browser.opens("/").await;
    browser.comes_to("Welcome to your house").await;
    browser.types("code", &house.setup_code().await).await;
    browser.types("name", "Ann").await;
    browser.types("password", PASSWORD).await;
    browser.types("again", PASSWORD).await;
    browser.presses("Become the owner").await;
    browser.comes_to(says).await;
}

#[tokio::test]
async fn a_browser_that_trusts_the_house_sets_it_up_arms_it_and_sees_what_changes_as_it_does() {
    if cannot_browse("a_browser_that_trusts_the_house_sets_it_up_arms_it_and_sees_what_changes_as_it_does") {
        return;
    }
    let house = house().await;
    house.arm().await;
    let browser = Browser::at(&house).await;
    set_up(&house, &browser, "1 of 1 watching").await;
    browser.presses("Disarm").await;
    browser.comes_to("No camera has to watch now.").await;
    house.agrees(ArmState::Disarmed).await;
    // Somebody else arms it; the page that is open says so.
    house.arm().await;
    browser.shows("Armed · away").await;
    browser.shows("1 of 1 watching").await;

    let porch = house.camera("porch");
    let file = house.dir().join("1-20261124080130-01.jpg");
    image::RgbImage::from_pixel(640, 480, image::Rgb([90, 60, 200])).save(&file).unwrap();
    good(said(porch, "event-start", "7"));
    good(picture(porch, "7", "15360", &file));
    browser.shows("5 %").await;

    // What a camera sees, a new picture each second.
    let seen = MjpegCamera::start().await;
    porch.motion.shows(&seen);
    house.disarm().await;
    house.agrees(ArmState::Disarmed).await;
    browser.opens("/cameras").await;
    browser.comes_to("It shows no live picture").await;
    house.arm().await;
    browser.shows_live("cam").await;

    // A coordinator that goes and comes back under an open page, armed as it was, and what came meanwhile is there.
    browser.opens("/").await;
    browser.comes_to("Armed · away").await;
    house.coordinator.stop().await;
    browser.shows("Cut off from the house").await;
    house.coordinator.start();
    house.answers().await;
    house.disarm().await;
    browser.shows("Disarmed").await;
    eventually("it is whole again", async || !browser.reads().await.contains("Cut off")).await;
}

#[tokio::test]
async fn a_phone_leaves_and_comes_home_and_the_page_that_is_open_says_so() {
    let name = "a_phone_leaves_and_comes_home_and_the_page_that_is_open_says_so";
    if cannot_browse(name) || cannot_make_networks(name) {
        return;
    }
    let lan = Lan::new();
    let phone = lan.host("anna");
    let presence = format!(
        "[coordinator.presence]\n[[coordinator.presence.person]]\nname = \"Anna\"\ndevices = [\"{}\"]\naway_after = \"6s\"\n",
        phone.mac
    );
    let plan = Plan { web: Some(String::new()), presence: Some(presence), lan: Some(lan), ..Plan::default() };
    let mut house = House::planned(plan).await;
    house.add_camera("porch").await;
    house.agrees(ArmState::Disarmed).await;
    let browser = Browser::at(&house).await;
    set_up(&house, &browser, "Disarmed").await;
    browser.shows("Home").await;

    let began = Instant::now();
    phone.leaves();
    browser.shows("Everybody left").await;
    eprintln!("the page said that everybody left {:.1} s after the phone did (away_after is 6 s)", began.elapsed().as_secs_f64());
    browser.shows("1 of 1 watching").await;
    phone.returns();
    let began = Instant::now();
    phone.talks_to(&house.plan.lan.as_ref().unwrap().machine("coordinator"));
    browser.shows("Anna came home").await;
    eprintln!("and that Anna came home {:.1} s after her phone did", began.elapsed().as_secs_f64());
}

#[tokio::test]
async fn an_event_that_is_swiped_aside_is_seen_and_one_that_is_let_go_too_early_is_not() {
    if cannot_browse("an_event_that_is_swiped_aside_is_seen_and_one_that_is_let_go_too_early_is_not") {
        return;
    }
    let house = house().await;
    house.arm().await;
    let browser = Browser::at(&house).await;
    set_up(&house, &browser, "1 of 1 watching").await;
    browser.is_held(PHONE).await;
    for event in ["7", "8"] {
        good(said(house.camera("porch"), "event-start", event));
    }
    browser.shows("Mark all as seen").await;
    for (right, down) in [(60.0, 0.0), (-60.0, 0.0), (20.0, -150.0)] {
        browser.swipes(".event", right, down).await;
    }
    eventually("a finger that goes up scrolls the page", async || browser.has_scrolled().await > 50.0).await;
    throughout(Duration::from_millis(500), "none is seen yet", async || browser.counts(".event").await == 2).await;
    browser.swipes(".event", 180.0, 0.0).await;
    eventually("one is left", async || browser.counts(".event").await == 1).await;
    browser.swipes(".event", -180.0, 20.0).await;
    browser.shows("You have seen everything.").await;
}

#[tokio::test]
async fn every_page_can_be_read_by_everybody_on_a_phone_and_on_a_desk_by_day_and_by_night() {
    if cannot_browse("every_page_can_be_read_by_everybody_on_a_phone_and_on_a_desk_by_day_and_by_night") {
        return;
    }
    let house = house().await;
    house.arm().await;
    let browser = Browser::at(&house).await;
    browser.opens("/").await;
    browser.comes_to("Welcome").await;
    browser.is_seen_at_each_look("set-up").await;
    set_up(&house, &browser, "1 of 1 watching").await;
    let (porch, file) = (house.camera("porch"), house.dir().join("1-20261124080130-01.jpg"));
    porch_by_night().save(&file).unwrap();
    good(said(porch, "event-start", "7"));
    good(picture(porch, "7", "15360", &file));
    browser.shows("5 %").await;
    let event = house.has_events(1).await.remove(0);
    let node = house.node_of(porch);
    let pages = [
        ("home", "/".to_owned()),
        ("events", "/events".to_owned()),
        ("event", format!("/events/{}", event.id)),
        ("cameras", "/cameras".to_owned()),
        ("node", format!("/nodes/{node}")),
        ("node-add", "/nodes/add".to_owned()),
        ("log", "/log".to_owned()),
        ("system", "/system".to_owned()),
        ("account", "/account".to_owned()),
        ("error", "/no-such-page".to_owned()),
    ];
    for (name, path) in pages {
        browser.opens(&path).await;
        browser.is_seen_at_each_look(name).await;
    }
    browser.opens("/nodes/add").await;
    browser.presses("Make a word for it").await;
    browser.comes_to("Waiting for the camera").await;
    browser.is_seen_at_each_look("node-add-word").await;
    browser.opens("/account").await;
    browser.presses("Sign out").await;
    browser.comes_to("Sign in").await;
    browser.is_seen_at_each_look("sign-in").await;
}

/// Somebody at the door, under a lamp.
fn porch_by_night() -> image::RgbImage {
    let within = |x: i32, y: i32, left: i32, top: i32, width: i32, height: i32| {
        (left..left + width).contains(&x) && (top..top + height).contains(&y)
    };
    let round = |x: i32, y: i32, to: (i32, i32), radius: i32| (x - to.0).pow(2) + (y - to.1).pow(2) < radius * radius;
    image::RgbImage::from_fn(640, 480, |x, y| {
        let (x, y) = (x as i32, y as i32);
        let [r, g, b] = match () {
            () if round(x, y, (430, 175), 24) => [201, 159, 127],
            () if within(x, y, 396, 205, 68, 130) || round(x, y, (430, 225), 40) => [70, 83, 107],
            () if within(x, y, 404, 335, 22, 95) || within(x, y, 436, 335, 22, 95) => [40, 44, 58],
            () if within(x, y, 240, 150, 110, 240) => [74, 52, 40],
            () if round(x, y, (305, 110), 14) => [255, 236, 170],
            () if within(x, y, 90, 60, 470, 330) => [107, 90, 76],
            () if y > 390 => [57, 68, 58],
            () => [38, 50, 68],
        };
        // Light falls off with the distance from the lamp.
        let far = f64::from((x - 305).pow(2) + (y - 110).pow(2)).sqrt();
        let light = (1.25 - far / 620.0).clamp(0.35, 1.2);
        image::Rgb([r, g, b].map(|part: u8| (f64::from(part) * light).min(255.0) as u8))
    })
}
