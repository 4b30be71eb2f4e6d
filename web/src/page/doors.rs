//! In and out: set-up, sign-in, sign-out.

use axum::Extension;
use axum::extract::{Form, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{AppendHeaders, IntoResponse, Redirect, Response};
use dms3_core::accounts::{Ask, Hidden, Told};
use minijinja::context;
use serde::Deserialize;

use super::{Page, Place};
use crate::gate::{self, Guest, Posted};

#[derive(Deserialize)]
pub(super) struct Back {
    #[serde(default)]
    back: String,
}

#[derive(Deserialize)]
pub(super) struct SignIn {
    #[serde(default)]
    name: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    back: String,
}

#[derive(Deserialize)]
pub(super) struct SetUp {
    #[serde(default)]
    code: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    again: String,
}

pub(super) async fn sign_in_page(State(page): State<Page>, Query(query): Query<Back>) -> Response {
    if page.is_founded().await == Some(false) {
        return Redirect::to("/set-up").into_response();
    }
    sign_in_form(&page, StatusCode::OK, "", &query.back, None, None)
}

fn sign_in_form(page: &Page, status: StatusCode, name: &str, back: &str, error: Option<&str>, wait: Option<u64>) -> Response {
    let place = Place { here: "", path: gate::way_back(back) };
    page.show_with(status, None, place, "sign-in.html", context! { name, error, wait })
}

pub(super) async fn sign_in(State(page): State<Page>, request: Request) -> Response {
    let visit = gate::visit_of(&request);
    let Some(form) = outside_form::<SignIn>(request).await else { return not_ours(&page) };
    let ask = Ask::SignIn { name: form.name.clone(), password: Hidden(form.password), visit };
    match page.house.account(ask).await {
        Told::In(session) => entered(&page, &session, &form.back),
        Told::Refused { why, wait } => {
            let status = if wait.is_some() { StatusCode::TOO_MANY_REQUESTS } else { StatusCode::FORBIDDEN };
            let why = crate::view::sentence(&why);
            sign_in_form(&page, status, &form.name, &form.back, Some(&why), wait.map(|wait| wait.as_secs().max(1)))
        }
        _ => page.trouble(None, StatusCode::INTERNAL_SERVER_ERROR, "The node gave an unexpected answer."),
    }
}

pub(super) async fn set_up_page(State(page): State<Page>) -> Response {
    if page.is_founded().await != Some(false) {
        return Redirect::to("/sign-in").into_response();
    }
    set_up_form(&page, StatusCode::OK, "", "", None)
}

fn set_up_form(page: &Page, status: StatusCode, code: &str, name: &str, error: Option<&str>) -> Response {
    let fingerprint = page.settings.papers.as_ref().map_or_else(String::new, |papers| papers.borrow().fingerprint.clone());
    let facts = context! { code, name, error, fingerprint };
    page.show_with(status, None, Place { here: "", path: "/" }, "set-up.html", facts)
}

pub(super) async fn set_up(State(page): State<Page>, request: Request) -> Response {
    let visit = gate::visit_of(&request);
    let Some(form) = outside_form::<SetUp>(request).await else { return not_ours(&page) };
    if form.password != form.again {
        return set_up_form(&page, StatusCode::BAD_REQUEST, &form.code, &form.name, Some("The two passwords are not the same."));
    }
    let (code, name, password) = (Hidden(form.code.clone()), form.name.clone(), Hidden(form.password));
    match page.house.account(Ask::SetUp { code, name, password, visit }).await {
        Told::In(session) => entered(&page, &session, "/"),
        Told::Refused { why, .. } => {
            let why = crate::view::sentence(&why);
            set_up_form(&page, StatusCode::FORBIDDEN, &form.code, &form.name, Some(&why))
        }
        _ => page.trouble(None, StatusCode::INTERNAL_SERVER_ERROR, "The node gave an unexpected answer."),
    }
}

pub(super) async fn sign_out(State(page): State<Page>, Extension(guest): Extension<Guest>, Posted(_): Posted<Back>) -> Response {
    page.house.account(Ask::SignOut { session: guest.session }).await;
    let cookie = gate::set_cookie(None, page.is_plain());
    (AppendHeaders([(header::SET_COOKIE, cookie)]), Redirect::to("/sign-in")).into_response()
}

fn entered(page: &Page, session: &Hidden, back: &str) -> Response {
    let cookie = gate::set_cookie(Some(session), page.is_plain());
    (AppendHeaders([(header::SET_COOKIE, cookie)]), Redirect::to(gate::way_back(back))).into_response()
}

/// A form of nobody who is signed in: it must come from our own page all the same, or a stranger's page could sign somebody in as the stranger.
async fn outside_form<T: serde::de::DeserializeOwned + 'static>(request: Request) -> Option<T> {
    use axum::RequestExt as _;
    if !gate::is_from_our_page(&request) {
        return None;
    }
    let Form(form) = request.extract::<Form<T>, _>().await.ok()?;
    Some(form)
}

fn not_ours(page: &Page) -> Response {
    page.trouble(None, StatusCode::FORBIDDEN, "This was not asked for on a page of this house, or could not be read. Nothing was changed.")
}
