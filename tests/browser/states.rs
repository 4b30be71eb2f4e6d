//! Each state that a page may be in: looked at, and read by everybody. For people: target/screens/states.

use crate::harness::skip::cannot_browse;
use crate::harness::{Answers, Browser, Samples};

/// Looks at the pages of web/samples that `which` picks, in each of their states.
async fn all_states(which: impl Fn(&str) -> bool) {
    let samples = Samples::start().await;
    let browser = Browser::at_samples(&samples).await;
    let mut seen = 0;
    for (page, states) in Samples::all().into_iter().filter(|(page, _)| which(page)) {
        for state in states {
            browser.opens(&format!("/{page}/{state}")).await;
            browser.is_seen_at_each_look(&format!("states/{page}-{state}")).await;
            seen += 1;
        }
    }
    assert!(seen > 30, "{seen}");
}

#[tokio::test]
async fn the_first_screen_can_be_read_by_everybody_whatever_the_state_of_the_house() {
    if cannot_browse("the_first_screen_can_be_read_by_everybody_whatever_the_state_of_the_house") {
        return;
    }
    all_states(|page| page == "home").await;
}

#[tokio::test]
async fn every_other_page_can_be_read_by_everybody_whatever_there_is_to_show() {
    if cannot_browse("every_other_page_can_be_read_by_everybody_whatever_there_is_to_show") {
        return;
    }
    all_states(|page| page != "home").await;
}

#[tokio::test]
async fn a_page_that_is_cut_off_or_whose_session_ended_says_so_and_can_be_read() {
    if cannot_browse("a_page_that_is_cut_off_or_whose_session_ended_says_so_and_can_be_read") {
        return;
    }
    let samples = Samples::start().await;
    let browser = Browser::at_samples(&samples).await;
    for page in ["home/away", "cameras/all"] {
        let name = page.replace('/', "-");
        samples.answer(Answers::Well);
        browser.opens(&format!("/{page}")).await;
        samples.answer(Answers::NotAtAll);
        browser.shows("Cut off from the house").await;
        browser.is_seen_at_each_look(&format!("states/{name}-cut-off")).await;
    }
    samples.answer(Answers::Well);
    browser.opens("/home/away").await;
    samples.answer(Answers::NobodyIsSignedIn);
    browser.shows("You are signed out").await;
    browser.is_seen_at_each_look("states/home-away-signed-out").await;
}
