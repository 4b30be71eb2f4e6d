//! One node, a new one, and pictures of all.

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use dms3_core::arming::ArmState;
use dms3_core::dashboard::{Dashboard, DetectorView, Missing, NodeView};
use dms3_core::id::NodeId;
use dms3_core::protocol::message::LiveView;
use dms3_core::request::{Answer, NewToken, Request, TokenRequest, TokenView};
use dms3_core::roster::{NodeRole, NodeStatus};
use minijinja::value::Serde;
use minijinja::{Value, context};
use serde::{Deserialize, Serialize};

use super::{Page, Place};
use crate::gate::{Guest, Posted, encoded, way_back};
use crate::view::node::{self, Light, NodeCard};
use crate::view::{self, Clock, Moment};

pub(crate) const CAMERAS: Place<'_> = Place { here: "cameras", path: "/cameras" };
/// What somebody types on the new machine.
const COMMAND: &str = "sudo dms3-node enroll";
/// What putting a node out of the house means.
const REVOKE_MEANS: [&str; 4] = [
    "Its link is cut at once, and it is let in no more. Pairing words that it used end.",
    "What it saw and did not hand over stays on its own disk.",
    "Whoever has the machine may know whether the house was armed while it was linked, and passwords in its own config: change those of its cameras and of its mail account.",
    "To use the machine again, remove its state directory and pair it anew.",
];

#[derive(Deserialize)]
pub(super) struct Name {
    #[serde(default)]
    name: String,
    #[serde(default)]
    back: String,
}

/// A word that was made on a page, for the session that made it: nobody else sees it, and it is nowhere else.
#[derive(Clone)]
pub(crate) struct Made {
    word: String,
    id: String,
    until: dms3_core::time::Timestamp,
    uses: u32,
}

#[derive(Serialize)]
pub(crate) struct TokenCard {
    word: String,
    command: &'static str,
    qr_svg: String,
    until: Moment,
    uses: u32,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Pairing {
    name: String,
    step: &'static str,
    done: bool,
    failed: bool,
}

pub(super) async fn node(State(page): State<Page>, Extension(guest): Extension<Guest>, Path(id): Path<String>) -> Response {
    let house = match page.dashboard().await {
        Ok(house) => house,
        Err(trouble) => return trouble,
    };
    let Some(found) = find(&house, &id) else {
        return page.trouble(Some(&guest), StatusCode::NOT_FOUND, "There is no such node: it may have been put out of the house.");
    };
    let path = format!("/nodes/{}", found.node);
    let facts = context! {
        node => Value::from(Serde(card(&page, found, &guest.visitor.name).await)),
        revoke_means => REVOKE_MEANS.to_vec(),
        events_url => format!("/events?camera={}", encoded(&found.name)),
        state => Value::from(Serde(view::home::pill(&house))),
    };
    page.show_with(StatusCode::OK, Some(&guest), Place { here: "nodes", path: &path }, "node.html", facts)
}

pub(crate) fn find<'a>(house: &'a Dashboard, id: &str) -> Option<&'a NodeView> {
    house.nodes.iter().find(|node| node.node.to_string() == id)
}

pub(crate) async fn card(page: &Page, found: &NodeView, who: &str) -> NodeCard {
    let events = match page.house.ask(Request::EventTotals, who).await {
        Answer::Totals(totals) => totals.into_iter().find(|(node, _)| *node == found.node).map_or(0, |(_, count)| count),
        _ => 0,
    };
    node::card(found, events, &page.settings.limits, &page.clock())
}

pub(super) async fn rename(
    State(page): State<Page>,
    Extension(guest): Extension<Guest>,
    Path(id): Path<String>,
    Posted(form): Posted<Name>,
) -> Response {
    let answer = page.house.ask(Request::Rename { node: id.clone(), name: form.name }, &guest.visitor.name).await;
    page.answered(&guest, &format!("/nodes/{}", encoded(&id)), answer)
}

#[derive(Deserialize)]
pub(super) struct Nothing {}

pub(super) async fn revoke(
    State(page): State<Page>,
    Extension(guest): Extension<Guest>,
    Path(id): Path<String>,
    Posted(Nothing {}): Posted<Nothing>,
) -> Response {
    let name = match page.dashboard().await {
        Ok(house) => find(&house, &id).map(|node| node.name.clone()),
        Err(trouble) => return trouble,
    };
    let answer = match page.house.ask(Request::Revoke { node: id }, &guest.visitor.name).await {
        Answer::Done(_) => Answer::Done(format!("{} is out of the house for good.", name.as_deref().unwrap_or("The node"))),
        other => other,
    };
    page.answered(&guest, "/", answer)
}

pub(super) async fn clear(
    State(page): State<Page>,
    Extension(guest): Extension<Guest>,
    Path(id): Path<String>,
    Posted(Nothing {}): Posted<Nothing>,
) -> Response {
    let answer = page.house.ask(Request::Clear { node: id.clone() }, &guest.visitor.name).await;
    page.answered(&guest, &format!("/nodes/{}", encoded(&id)), answer)
}

pub(super) async fn add_page(State(page): State<Page>, Extension(guest): Extension<Guest>) -> Response {
    let house = match page.dashboard().await {
        Ok(house) => house,
        Err(trouble) => return trouble,
    };
    let blocked = (!house.clock_trusted).then_some(
        "The coordinator's clock cannot be trusted now, and a word carries the time. It is set by itself over the network; if it is right, say so on the coordinator: `sudo dms3-node time accept`",
    );
    let (token, pairing) = shown(&page, &guest, &house).await;
    let facts = context! {
        token => Value::from(Serde(token)),
        pairing => Value::from(Serde(pairing)),
        blocked,
        state => Value::from(Serde(view::home::pill(&house))),
    };
    page.show_with(StatusCode::OK, Some(&guest), Place { here: "nodes", path: "/nodes/add" }, "node-add.html", facts)
}

pub(super) async fn add(State(page): State<Page>, Extension(guest): Extension<Guest>, Posted(form): Posted<Name>) -> Response {
    let name = Some(form.name.trim().to_owned()).filter(|name| !name.is_empty());
    let request = Request::TokenNew(TokenRequest { name, ..TokenRequest::default() });
    let back = if way_back(&form.back) == "/" { "/" } else { "/nodes/add" };
    match page.house.ask(request, &guest.visitor.name).await {
        Answer::Token(new) => {
            let NewToken { word, token: TokenView { id, expires_at, uses, .. } } = *new;
            page.made_token(&guest, Made { word, id, until: expires_at, uses });
            Redirect::to(back).into_response()
        }
        other => page.answered(&guest, back, other),
    }
}

/// The word that this session made, as long as it pairs somebody, and how far that is.
pub(crate) async fn shown(page: &Page, guest: &Guest, house: &Dashboard) -> (Option<TokenCard>, Vec<Pairing>) {
    let Some(made) = page.token_of(guest) else { return (None, Vec::new()) };
    let Answer::Tokens(tokens) = page.house.ask(Request::TokenList, &guest.visitor.name).await else { return (None, Vec::new()) };
    let Some(token) = tokens.into_iter().find(|token| token.id == made.id) else { return (None, Vec::new()) };
    let over = matches!(token.standing.as_str(), "expired" | "cancelled" | "locked");
    let pairing = pairing(&token, house);
    if over && pairing.is_empty() {
        return (None, Vec::new());
    }
    (Some(token_card(&made, &page.clock())), pairing)
}

fn pairing(token: &TokenView, house: &Dashboard) -> Vec<Pairing> {
    let step = |name: &String| {
        let node = house.nodes.iter().find(|node| node.name == *name && node.status == NodeStatus::Active);
        let (step, done) = match node.map(|node| node.liveness.as_str()) {
            Some("online") => ("is here, and obeys", true),
            Some(_) => ("is paired, and connects", false),
            None => ("is paired", false),
        };
        Pairing { name: name.clone(), step, done, failed: false }
    };
    token.used_by.iter().map(step).collect()
}

fn token_card(made: &Made, clock: &Clock) -> TokenCard {
    TokenCard {
        word: made.word.clone(),
        command: COMMAND,
        qr_svg: qr(&made.word.to_ascii_uppercase()),
        until: clock.moment(made.until),
        uses: made.uses,
    }
}

/// One path, in black on white whatever the page's colours are: cameras read it. A word in capitals makes it smaller, and means the same.
pub(super) fn qr(text: &str) -> String {
    let Ok(code) = qrcode::QrCode::new(text) else { return String::new() };
    let (width, colors) = (code.width(), code.to_colors());
    let mut path = String::new();
    for (at, _) in colors.iter().enumerate().filter(|(_, color)| **color == qrcode::Color::Dark) {
        path.push_str(&format!("M{} {}h1v1h-1z", at % width + 2, at / width + 2));
    }
    let side = width + 4;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {side} {side}\" width=\"200\" height=\"200\"><rect width=\"{side}\" height=\"{side}\" fill=\"#fff\"/><path fill=\"#000\" d=\"{path}\"/></svg>"
    )
}

/// One camera, and where its live picture is.
#[derive(Serialize)]
struct Still {
    /// Of the element.
    id: String,
    name: String,
    light: Light,
    words: String,
    img: Option<String>,
    /// Why there is no picture.
    why: Option<String>,
    url: String,
}

pub(super) async fn cameras(State(page): State<Page>, Extension(guest): Extension<Guest>) -> Response {
    let house = match page.dashboard().await {
        Ok(house) => house,
        Err(trouble) => return trouble,
    };
    let facts = context! { cameras => stills(&page, &house), state => Value::from(Serde(view::home::pill(&house))) };
    page.show_with(StatusCode::OK, Some(&guest), CAMERAS, "cameras.html", facts)
}

/// Each source of each camera, by name.
pub(crate) fn stills(page: &Page, house: &Dashboard) -> Value {
    let clock = page.clock();
    let cameras = house.nodes.iter().filter(|node| node.role == NodeRole::Camera && node.status == NodeStatus::Active);
    let stills: Vec<_> = cameras
        .flat_map(|found| {
            let card = node::card(found, 0, &page.settings.limits, &clock);
            let url = format!("/nodes/{}", card.id);
            let mut stills: Vec<_> = found
                .detectors
                .iter()
                .enumerate()
                .map(|(nth, detector)| {
                    let why = hidden(house, found, detector);
                    Still {
                        id: format!("{}-{nth}", card.short),
                        name: Missing { node: found, detector }.name(),
                        light: card.light,
                        words: card.detectors.get(nth).map_or_else(String::new, |line| line.words.clone()),
                        img: why.is_none().then(|| format!("{url}/live/{}", encoded(&detector.source))),
                        why,
                        url: url.clone(),
                    }
                })
                .collect();
            if stills.is_empty() {
                let why = Some("It was not heard of yet.".to_owned());
                stills.push(Still { id: card.short, name: card.name, light: card.light, words: card.words, img: None, why, url });
            }
            stills
        })
        .collect();
    Value::from(Serde(stills))
}

/// Why a camera is not to be looked at now. It says so itself to whoever asks all the same.
fn hidden(house: &Dashboard, node: &NodeView, detector: &DetectorView) -> Option<String> {
    let words = match (detector.live, detector.phase.as_str()) {
        _ if node.liveness != "online" => "The house does not reach it.".to_owned(),
        (_, "paused by hand") => "Stopped by hand on the camera.".to_owned(),
        (LiveView::Never, _) => "It shows no live picture, by its own config.".to_owned(),
        (_, "starting" | "watching") => return None,
        (LiveView::Always, _) if !detector.should_watch => return None,
        _ if detector.should_watch => view::sentence(if detector.detail.is_empty() { "it does not watch" } else { &detector.detail }),
        _ if house.state == ArmState::Disarmed => "Off while the house is disarmed, for your privacy.".to_owned(),
        _ => "Off while it does not watch, for your privacy.".to_owned(),
    };
    Some(words)
}

/// What a source sees now.
pub(super) async fn live(
    State(page): State<Page>,
    Extension(guest): Extension<Guest>,
    Path((node, source)): Path<(String, String)>,
) -> Response {
    let Ok(node) = NodeId::parse(&node) else { return StatusCode::NOT_FOUND.into_response() };
    match page.house.ask(Request::Still { node, source }, &guest.visitor.name).await {
        Answer::Still(picture) => {
            let headers = [
                (header::CONTENT_TYPE, HeaderValue::from_static("image/jpeg")),
                (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
            ];
            (headers, picture).into_response()
        }
        Answer::Refused(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", view::sentence(&why))).into_response(),
        _ => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_shown_as_a_picture_that_a_camera_reads() {
        let svg = qr(&"dms31q940mpkqqypqxpq9d6g290x2u8trp72s6mf6ljd73gqqzqsrqszsvpcgpy9qkrqdpc8s4936k5".to_uppercase());
        // 79 characters of capitals and digits fit into 33 modules.
        assert!(svg.contains("viewBox=\"0 0 37 37\""), "{}", &svg[..120]);
        assert!(!svg.contains("style"));
    }
}
