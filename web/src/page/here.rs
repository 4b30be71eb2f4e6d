//! What a phone sees that opened a link: what the house's network knows of it, and nothing of the house. Nobody needs an account for it.

use axum::extract::{Path, Request as HttpRequest, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Redirect, Response};
use dms3_core::accounts::Hidden;
use dms3_core::request::{Answer, Here, HereStanding, Request};
use minijinja::value::Serde;
use minijinja::{Value, context};
use serde::Serialize;

use super::{ODD, Page, Place};
use crate::gate::{self, VisitOf};
use crate::view;

/// Seconds after which a page that waits for an owner looks again, without a script.
const LOOK_EVERY: &str = "4";
/// For the log of the house: a phone has no name yet.
const BY: &str = "a phone";

#[derive(Serialize)]
struct Phone {
    mac: String,
    private: bool,
    addresses: Vec<String>,
}

pub(super) async fn page(State(page): State<Page>, Path(word): Path<String>, visit: VisitOf) -> Response {
    show(&page, word, visit, false).await
}

/// "This is my phone". The word in the address is the secret that another site's form does not know.
pub(super) async fn ask(State(page): State<Page>, Path(word): Path<String>, visit: VisitOf, request: HttpRequest) -> Response {
    if !gate::is_from_our_page(&request) {
        return page.trouble(None, StatusCode::FORBIDDEN, "This was not asked for on a page of this house. Nothing was changed.");
    }
    let way_back = format!("/here/{}", gate::encoded(&word));
    match show(&page, word, visit, true).await {
        // So that the page may ask again and again what came of it.
        asked if asked.status() == StatusCode::OK => Redirect::to(&way_back).into_response(),
        other => other,
    }
}

async fn show(page: &Page, word: String, visit: VisitOf, asks: bool) -> Response {
    let request = Request::Here { word: Hidden(word), address: visit.0.address, asks };
    let here = match page.house.ask(request, BY).await {
        Answer::Here(here) => here,
        Answer::Refused(why) => return page.trouble(None, StatusCode::SERVICE_UNAVAILABLE, &view::sentence(&why)),
        _ => return page.trouble(None, StatusCode::INTERNAL_SERVER_ERROR, ODD),
    };
    let (status, standing, why, wait) = match &here.standing {
        HereStanding::Ready => (StatusCode::OK, "ready", None, None),
        HereStanding::Asked => (StatusCode::OK, "asked", None, None),
        HereStanding::Added => (StatusCode::OK, "added", None, None),
        HereStanding::Declined => (StatusCode::OK, "declined", None, None),
        HereStanding::Refused(why) => (StatusCode::FORBIDDEN, "refused", Some(view::sentence(why)), None),
        HereStanding::Ended => (StatusCode::NOT_FOUND, "ended", None, None),
        HereStanding::Wait(secs) => (StatusCode::TOO_MANY_REQUESTS, "wait", None, Some(*secs)),
    };
    let facts = context! { standing, why, wait, phone => Value::from(Serde(phone(&here))) };
    let mut response = page.show_with(status, None, Place { here: "here", path: "/" }, "here.html", facts);
    if here.standing == HereStanding::Asked {
        response.headers_mut().insert(header::REFRESH, HeaderValue::from_static(LOOK_EVERY));
    }
    response
}

fn phone(here: &Here) -> Option<Phone> {
    let mac = here.mac?;
    let addresses = here.addresses.iter().map(ToString::to_string).collect();
    Some(Phone { mac: mac.to_string(), private: mac.is_private(), addresses })
}
