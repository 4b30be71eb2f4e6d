//! One's own account, and those of the house.

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use dms3_core::accounts::{Act, Ask, Hidden, Role, Theme, Told};
use dms3_core::request::Answer;
use minijinja::value::Serde;
use minijinja::{Value, context};
use serde::{Deserialize, Serialize};

use super::{Page, Place};
use crate::gate::{Guest, Posted, encoded};
use crate::view::{self, Moment};

#[derive(Serialize)]
struct SessionLine {
    id: i64,
    address: String,
    agent: String,
    phone: bool,
    since: Moment,
    last: Moment,
    this: bool,
}

#[derive(Serialize)]
struct AccountLine {
    name: String,
    role: &'static str,
    sessions: u64,
    url: String,
}

pub(super) async fn account(State(page): State<Page>, Extension(guest): Extension<Guest>) -> Response {
    show(&page, &guest, StatusCode::OK, None, None).await
}

async fn show(page: &Page, guest: &Guest, status: StatusCode, error: Option<&str>, add_error: Option<&str>) -> Response {
    let house = match page.dashboard().await {
        Ok(house) => house,
        Err(trouble) => return trouble,
    };
    let clock = page.clock();
    let name = &guest.visitor.name;
    let Told::Sessions(sessions) = page.house.account(Ask::Sessions { account: name.clone() }).await else { return page.odd_answer(guest) };
    let sessions: Vec<_> = sessions
        .into_iter()
        .map(|one| SessionLine {
            phone: ["iPhone", "Android"].iter().any(|kind| one.agent.contains(kind)),
            agent: browser(&one.agent),
            id: one.id,
            address: one.address,
            since: clock.moment(one.since),
            last: clock.moment(one.last),
            this: one.id == guest.visitor.session,
        })
        .collect();
    let accounts = if guest.may(Act::Manage) {
        let Told::Accounts(accounts) = page.house.account(Ask::Accounts).await else { return page.odd_answer(guest) };
        let others = accounts.into_iter().filter(|one| one.name != *name);
        let line = |one: dms3_core::accounts::Account| AccountLine {
            url: format!("/accounts/{}", encoded(&one.name)),
            name: one.name,
            role: one.role.word(),
            sessions: one.sessions,
        };
        Some(others.map(line).collect::<Vec<_>>())
    } else {
        None
    };
    let facts = context! {
        sessions => Value::from(Serde(sessions)),
        accounts => Value::from(Serde(accounts)),
        error,
        add_error,
        state => Value::from(Serde(view::home::pill(&house))),
    };
    page.show_with(status, Some(guest), Place { here: "account", path: "/account" }, "account.html", facts)
}

/// "Safari on iPhone", of what a browser says of itself.
fn browser(agent: &str) -> String {
    let first = |known: &[(&str, &'static str)]| known.iter().find(|(mark, _)| agent.contains(mark)).map(|(_, name)| *name);
    // In this order: each says that it is those after it too.
    let browser =
        first(&[("Firefox", "Firefox"), ("Edg", "Edge"), ("OPR", "Opera"), ("Chrom", "Chrome"), ("Safari", "Safari"), ("curl", "curl")]);
    let system = first(&[
        ("iPhone", "iPhone"),
        ("iPad", "iPad"),
        ("Android", "Android"),
        ("Windows", "Windows"),
        ("Mac OS", "Mac"),
        ("Linux", "Linux"),
    ]);
    match (browser, system) {
        (Some(browser), Some(system)) => format!("{browser} on {system}"),
        (Some(one), None) | (None, Some(one)) => one.to_owned(),
        (None, None) => "Unknown browser".to_owned(),
    }
}

#[derive(Deserialize)]
pub(super) struct ThemeForm {
    #[serde(default)]
    theme: String,
    #[serde(default)]
    back: String,
}

pub(super) async fn theme(State(page): State<Page>, Extension(guest): Extension<Guest>, Posted(form): Posted<ThemeForm>) -> Response {
    let told = page.house.account(Ask::SetTheme { account: guest.visitor.name.clone(), theme: Theme::from_word(&form.theme) }).await;
    page.answered(&guest, &form.back, answer(told, None))
}

#[derive(Deserialize)]
pub(super) struct Nothing {}

pub(super) async fn end_session(
    State(page): State<Page>,
    Extension(guest): Extension<Guest>,
    Path(id): Path<i64>,
    Posted(Nothing {}): Posted<Nothing>,
) -> Response {
    let told = page.house.account(Ask::EndSession { account: guest.visitor.name.clone(), id }).await;
    page.answered(&guest, "/account", answer(told, Some("That session is over.")))
}

#[derive(Deserialize)]
pub(super) struct PasswordForm {
    #[serde(default)]
    old: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    again: String,
}

pub(super) async fn password(
    State(page): State<Page>,
    Extension(guest): Extension<Guest>,
    visit: crate::gate::VisitOf,
    Posted(form): Posted<PasswordForm>,
) -> Response {
    if form.password != form.again {
        return show(&page, &guest, StatusCode::BAD_REQUEST, Some("The two new passwords are not the same."), None).await;
    }
    let ask = Ask::ChangePassword {
        account: guest.visitor.name.clone(),
        old: Hidden(form.old),
        new: Hidden(form.password),
        session: guest.visitor.session,
        visit: visit.0,
    };
    match page.house.account(ask).await {
        Told::Done => page.answered(&guest, "/account", Answer::Done("You have a new password. Your other sessions are over.".to_owned())),
        Told::Refused { why, .. } => show(&page, &guest, StatusCode::FORBIDDEN, Some(&view::sentence(&why)), None).await,
        _ => page.odd_answer(&guest),
    }
}

#[derive(Deserialize)]
pub(super) struct AccountForm {
    #[serde(default)]
    name: String,
    #[serde(default)]
    role: String,
    #[serde(default)]
    password: String,
}

pub(super) async fn add(State(page): State<Page>, Extension(guest): Extension<Guest>, Posted(form): Posted<AccountForm>) -> Response {
    let role: Role = match form.role.parse() {
        Ok(role) => role,
        Err(why) => return show(&page, &guest, StatusCode::BAD_REQUEST, None, Some(&view::sentence(&why))).await,
    };
    let ask = Ask::Add { name: form.name.clone(), role, password: Hidden(form.password), by: guest.visitor.name.clone() };
    match page.house.account(ask).await {
        Told::Done => page.answered(&guest, "/account", Answer::Done(format!("{} may come in.", form.name.trim()))),
        Told::Refused { why, .. } => show(&page, &guest, StatusCode::BAD_REQUEST, None, Some(&view::sentence(&why))).await,
        _ => page.odd_answer(&guest),
    }
}

pub(super) async fn role(
    State(page): State<Page>,
    Extension(guest): Extension<Guest>,
    Path(account): Path<String>,
    Posted(form): Posted<AccountForm>,
) -> Response {
    let role: Role = match form.role.parse() {
        Ok(role) => role,
        Err(why) => return page.answered(&guest, "/account", Answer::Refused(why)),
    };
    let by = guest.visitor.name.clone();
    let mut told = page.house.account(Ask::SetRole { account: account.clone(), role, by: by.clone() }).await;
    if told == Told::Done && !form.password.is_empty() {
        told = page.house.account(Ask::SetPassword { account: account.clone(), password: Hidden(form.password), by }).await;
    }
    page.answered(&guest, "/account", answer(told, Some(&format!("{account} is changed."))))
}

pub(super) async fn remove(
    State(page): State<Page>,
    Extension(guest): Extension<Guest>,
    Path(account): Path<String>,
    Posted(Nothing {}): Posted<Nothing>,
) -> Response {
    let told = page.house.account(Ask::Remove { account: account.clone(), by: guest.visitor.name.clone() }).await;
    page.answered(&guest, "/account", answer(told, Some(&format!("{account} may come in no more."))))
}

/// `done`: what is said when it was; nothing where it shows.
fn answer(told: Told, done: Option<&str>) -> Answer {
    match (told, done) {
        (Told::Done, Some(done)) => Answer::Done(done.to_owned()),
        (Told::Done, None) => Answer::Counts(Vec::new()),
        (Told::Refused { why, .. }, _) => Answer::Refused(why),
        _ => Answer::Refused("the node gave an unexpected answer".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_browser_is_called_as_its_owner_calls_it() {
        for (agent, name) in [
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 19_0 like Mac OS X) AppleWebKit/605.1.15 Version/19.0 Mobile Safari/604.1",
                "Safari on iPhone",
            ),
            ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Firefox on Linux"),
            (
                "Mozilla/5.0 (Linux; Android 16) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0 Mobile Safari/537.36",
                "Chrome on Android",
            ),
            ("Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 Chrome/140.0 Safari/537.36 Edg/140.0", "Edge on Windows"),
            ("<script>", "Unknown browser"),
        ] {
            assert_eq!(browser(agent), name);
        }
    }
}
