//! How the coordinator is: mail, clock, what is kept, versions, and how to trust the page.

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use dms3_core::accounts::Act;
use dms3_core::request::{Answer, Request};
use dms3_core::roster::{NodeRole, NodeStatus};
use minijinja::value::Serde;
use minijinja::{Value, context};
use serde::{Deserialize, Serialize};

use super::{Page, Place};
use crate::gate::{Guest, Posted, VisitOf};
use crate::view::{self, Moment, node};

/// A monitor hears within this time that the house does not answer.
const HEALTHY_WITHIN: std::time::Duration = std::time::Duration::from_secs(5);

#[derive(Serialize)]
struct Mail {
    waiting: u64,
    oldest: Option<Moment>,
    why: Option<String>,
    lost: u64,
    last: Option<Moment>,
    to: Vec<String>,
    bad: bool,
}

#[derive(Serialize)]
struct Keeps {
    label: &'static str,
    value: String,
}

#[derive(Serialize)]
struct Version {
    name: String,
    version: String,
    odd: bool,
}

pub(super) async fn system(State(page): State<Page>, Extension(guest): Extension<Guest>) -> Response {
    let house = match page.dashboard().await {
        Ok(house) => house,
        Err(trouble) => return trouble,
    };
    let clock = page.clock();
    let owner = guest.may(Act::Manage);
    let mail = house.mail.as_ref().map(|mail| Mail {
        waiting: mail.waiting,
        oldest: mail.oldest.map(|at| clock.moment(at)),
        why: mail.why.clone(),
        lost: mail.lost,
        last: None,
        to: if owner { page.settings.mail_to.clone() } else { Vec::new() },
        bad: mail.why.is_some(),
    });
    let own = house.nodes.iter().find(|node| node.role == NodeRole::Coordinator);
    let disk = own.and_then(|own| node::card(own, 0, &page.settings.limits, &clock).disk);
    let active = house.nodes.iter().filter(|node| node.status == NodeStatus::Active);
    let versions: Vec<_> = active
        .filter_map(|node| {
            let version = node.version.clone()?;
            Some(Version { name: node.name.clone(), odd: version != page.settings.version, version })
        })
        .collect();
    let words = if house.clock_trusted {
        format!("It is {}, {}.", clock.moment(clock.now).words, clock.zone_name())
    } else {
        "Not trusted.".to_owned()
    };
    let todo = (!house.clock_trusted).then_some(
        "It is set by itself over the network. If it is right, say so on the coordinator: `sudo dms3-node time accept`. Until then nobody can be paired and no certificate is renewed.",
    );
    let keeps: Vec<_> = page.settings.keeps.iter().map(|(label, value)| Keeps { label, value: value.clone() }).collect();
    let trust = page.settings.authority.as_ref().map(|authority| {
        context! { url => "/trust/ca.pem", fingerprint => authority.fingerprint.as_str() }
    });
    let facts = context! {
        mail => Value::from(Serde(mail)),
        keeps => Value::from(Serde(keeps)),
        disk => Value::from(Serde(disk)),
        versions => Value::from(Serde(versions)),
        frames => house.frames.map(|frames| context! { total => frames.total(), words => frames.words() }),
        clock => context! { trusted => house.clock_trusted, words, todo },
        templates => page.complaints(),
        trust,
        log => owner.then(|| (page.settings.log)()),
        state => Value::from(Serde(view::home::pill(&house))),
    };
    page.show_with(StatusCode::OK, Some(&guest), Place { here: "system", path: "/system" }, "system.html", facts)
}

#[derive(Deserialize)]
pub(super) struct Nothing {}

pub(super) async fn test_mail(
    State(page): State<Page>,
    Extension(guest): Extension<Guest>,
    Posted(Nothing {}): Posted<Nothing>,
) -> Response {
    let answer = page.house.ask(Request::MailTest, &guest.visitor.name).await;
    page.answered(&guest, "/system", answer)
}

/// For a monitor on this machine: whether the house answers. For anybody else there is nothing here.
pub(super) async fn healthz(State(page): State<Page>, visit: VisitOf) -> Response {
    if !visit.0.address.is_loopback() {
        return StatusCode::NOT_FOUND.into_response();
    }
    match tokio::time::timeout(HEALTHY_WITHIN, page.house.ask(Request::Status, "a monitor")).await {
        Ok(Answer::House(_)) => (StatusCode::OK, "ok\n").into_response(),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "the house does not answer\n").into_response(),
    }
}

/// The certificate that phones and browsers are to trust; iOS offers to install what has this type.
pub(super) async fn authority(State(page): State<Page>) -> Response {
    let Some(authority) = &page.settings.authority else { return StatusCode::NOT_FOUND.into_response() };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/x-x509-ca-cert")),
        (header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment; filename=\"dms3-house.pem\"")),
    ];
    (headers, authority.pem.clone()).into_response()
}
