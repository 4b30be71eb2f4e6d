//! Phones that the house learned, those that ask to be, and links by which one may ask.

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use dms3_core::accounts::Act;
use dms3_core::dashboard::Dashboard;
use dms3_core::presence::{Device, MacAddr};
use dms3_core::request::{Answer, Request};
use dms3_core::time::Timestamp;
use minijinja::value::Serde;
use minijinja::{Value, context};
use serde::{Deserialize, Serialize};

use super::{Page, Place, nodes};
use crate::gate::{Guest, Posted};
use crate::view::{self, Moment};

const PHONES: &str = "/phones";
/// Longest name of a host that a link is made of.
const HOST_MOST: usize = 255;

/// A link that was made on a page, for the session that made it.
#[derive(Clone)]
pub(crate) struct MadeLink {
    person: String,
    url: String,
    until: Timestamp,
}

#[derive(Serialize)]
struct LinkCard {
    person: String,
    url: String,
    qr_svg: String,
    until: Moment,
}

#[derive(Serialize)]
struct Learned {
    person: String,
    mac: String,
    private: bool,
    at: Moment,
    by: String,
}

/// A device that an owner is asked about.
#[derive(Serialize)]
struct Asking {
    person: String,
    mac: String,
    addresses: String,
    private: bool,
    /// The device in whose place it is.
    like: Option<String>,
    name: Option<String>,
}

/// For an owner; for others nothing.
pub(super) fn asking(guest: &Guest, house: &Dashboard) -> Value {
    let all = house.phones.asking.iter().filter(|_| guest.may(Act::Manage)).map(|one| Asking {
        person: one.person.clone(),
        mac: one.mac.to_string(),
        addresses: one.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        private: one.mac.is_private(),
        like: one.like.map(|like| like.to_string()),
        name: one.name.clone(),
    });
    Value::from(Serde(all.collect::<Vec<_>>()))
}

pub(super) async fn page(State(page): State<Page>, Extension(guest): Extension<Guest>) -> Response {
    let house = match page.dashboard().await {
        Ok(house) => house,
        Err(trouble) => return trouble,
    };
    let clock = page.clock();
    let link = page.link_of(&guest).filter(|made| made.until > clock.now).map(|made| LinkCard {
        qr_svg: nodes::qr(&made.url),
        until: clock.moment(made.until),
        person: made.person,
        url: made.url,
    });
    let learned = house.phones.learned.iter().map(|one| Learned {
        person: one.person.clone(),
        mac: one.device.to_string(),
        private: one.device.is_private(),
        at: clock.moment(one.at),
        by: one.by.clone(),
    });
    let facts = context! {
        link => Value::from(Serde(link)),
        learned => Value::from(Serde(learned.collect::<Vec<_>>())),
        people => Value::from(Serde(view::home::people(&house, &clock))),
        presence_enabled => house.presence_enabled,
        asking => asking(&guest, &house),
        state => Value::from(Serde(view::home::pill(&house))),
    };
    page.show_with(StatusCode::OK, Some(&guest), Place { here: "phones", path: PHONES }, "phones.html", facts)
}

#[derive(Deserialize)]
pub(super) struct Whose {
    #[serde(default)]
    person: String,
}

pub(super) async fn link(
    State(page): State<Page>,
    Extension(guest): Extension<Guest>,
    headers: HeaderMap,
    uri: axum::http::Uri,
    Posted(form): Posted<Whose>,
) -> Response {
    if page.is_plain() {
        let why = "the dashboard is behind a proxy of this machine, so the house cannot see which phone opens a link: on the coordinator, \
                   `sudo dms3-node presence learn` does the same";
        return page.answered(&guest, PHONES, Answer::Refused(why.to_owned()));
    }
    // The way by which the owner came leads the phone here too.
    let Some(host) = host_of(&headers, &uri) else {
        return page.answered(&guest, PHONES, Answer::Refused("your browser does not say by which address it came".to_owned()));
    };
    match page.house.ask(Request::HereLink { person: form.person.clone() }, &guest.visitor.name).await {
        Answer::HereLink { word, until } => {
            page.made_link(&guest, MadeLink { person: form.person, url: format!("https://{host}/here/{}", word.0), until });
            Redirect::to(PHONES).into_response()
        }
        other => page.answered(&guest, PHONES, other),
    }
}

/// "house.local:8443"; HTTP/2 says it in the address.
fn host_of(headers: &HeaderMap, uri: &axum::http::Uri) -> Option<String> {
    let host = uri.authority().map(|authority| authority.as_str()).or_else(|| headers.get(header::HOST)?.to_str().ok())?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
    (!host.is_empty() && host.len() <= HOST_MOST && host.chars().all(is_plain)).then(|| host.to_owned())
}

#[derive(Deserialize)]
pub(super) struct Decision {
    #[serde(default)]
    person: String,
    #[serde(default)]
    mac: String,
    /// "1": add it.
    #[serde(default)]
    add: String,
    #[serde(default)]
    back: String,
}

pub(super) async fn answer(State(page): State<Page>, Extension(guest): Extension<Guest>, Posted(form): Posted<Decision>) -> Response {
    let answer = match MacAddr::parse(&form.mac) {
        Ok(mac) => page.house.ask(Request::Decide { person: form.person, mac, add: form.add == "1" }, &guest.visitor.name).await,
        Err(why) => Answer::Refused(why),
    };
    page.answered(&guest, &form.back, answer)
}

#[derive(Deserialize)]
pub(super) struct Forgotten {
    #[serde(default)]
    mac: String,
}

pub(super) async fn forget(State(page): State<Page>, Extension(guest): Extension<Guest>, Posted(form): Posted<Forgotten>) -> Response {
    let answer = match Device::parse_address(&form.mac) {
        Ok(device) => page.house.ask(Request::Unlearn { device }, &guest.visitor.name).await,
        Err(why) => Answer::Refused(why),
    };
    page.answered(&guest, PHONES, answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_leads_where_the_owner_came_from_and_nowhere_odd() {
        let host = |text: &'static str, uri: &'static str| {
            let headers = HeaderMap::from_iter([(header::HOST, axum::http::HeaderValue::from_static(text))]);
            host_of(&headers, &axum::http::Uri::from_static(uri))
        };
        assert_eq!(host("pi.local:8443", "/phones/link").as_deref(), Some("pi.local:8443"));
        assert_eq!(host("odd", "https://[fd77::2]:8443/phones/link").as_deref(), Some("[fd77::2]:8443"));
        for odd in ["", "pi.local/x?", "a b", "user@pi.local", "\"><script>"] {
            assert_eq!(host(odd, "/phones/link"), None, "{odd}");
        }
    }
}
