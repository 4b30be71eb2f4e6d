//! For tests/fuzz alone: what browsers, and whoever seems to be one, write into addresses and headers.

use axum::http::{HeaderMap, HeaderValue, Request};
use dms3_core::id::EventId;
use dms3_core::time::Timestamp;

use crate::gate;
use crate::page::{events, lists};

/// The bytes, from the first to before the second, that this header asks for of so many; `None`: there are none to give.
pub fn range(asked: &str, length: u64) -> Option<(u64, u64)> {
    match events::range(Some(asked), length) {
        events::Range::Whole => Some((0, length)),
        events::Range::Part(from, to) => Some((from, to)),
        events::Range::Impossible => None,
    }
}

pub fn hash_of(text: &str) -> Option<[u8; 32]> {
    events::hash_of(text)
}

/// Where a page of a list goes on.
pub fn place_of(text: &str) -> Option<(Timestamp, EventId)> {
    lists::place_of(text)
}

pub fn way_back(back: &str) -> &str {
    gate::way_back(back)
}

pub fn encoded(text: &str) -> String {
    gate::encoded(text)
}

/// The word of a session in a header `Cookie`.
pub fn session_of(cookie: &[u8], is_plain: bool) -> Option<String> {
    let headers = HeaderMap::from_iter([(axum::http::header::COOKIE, HeaderValue::from_bytes(cookie).ok()?)]);
    gate::session_of(&headers, is_plain).map(|session| session.0)
}

/// Whether a change with these headers is taken for one that our own page asked for; `None`: they are no headers.
pub fn is_from_our_page(host: &[u8], site: Option<&[u8]>, origin: Option<&[u8]>) -> Option<bool> {
    let mut request = Request::new(());
    for (name, value) in [("host", Some(host)), ("sec-fetch-site", site), ("origin", origin)] {
        if let Some(value) = value {
            request.headers_mut().insert(name, HeaderValue::from_bytes(value).ok()?);
        }
    }
    Some(gate::is_from_our_page(&request))
}
