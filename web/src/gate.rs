//! Who comes in: sessions, roles, and that a change was asked for on a page of ours.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{ConnectInfo, FromRequest, RawForm, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use data_encoding::BASE64URL_NOPAD;
use dms3_core::accounts::{Act, Ask, Hidden, Told, Visit, Visitor};
use ring::digest::{SHA256, digest};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::page::Page;

/// Bytes of a browser's name that are kept.
const AGENT_MOST: usize = 200;
/// Life of the cookie; the session behind it may be over sooner.
const COOKIE_SECS: u64 = dms3_core::accounts::SESSION_LIFE.as_secs();

/// Somebody who is signed in, for handlers.
#[derive(Debug, Clone)]
pub(crate) struct Guest {
    pub(crate) visitor: Visitor,
    /// The word of his session.
    pub(crate) session: Hidden,
}

impl Guest {
    pub(crate) fn csrf(&self) -> String {
        csrf(&self.session.0)
    }

    pub(crate) fn may(&self, act: Act) -> bool {
        self.visitor.role.may(act)
    }
}

/// What each form of this session carries: nobody who does not see our pages knows it.
fn csrf(session: &str) -> String {
    BASE64URL_NOPAD.encode(digest(&SHA256, format!("dms3 form {session}").as_bytes()).as_ref())
}

/// Lets in who has a session and whose role may `act`.
pub(crate) async fn check(State((page, act)): State<(Page, Act)>, mut request: Request, next: Next) -> Response {
    let wanted = Wanted::of(&request);
    let Some(session) = session_of(request.headers(), page.is_plain()) else { return no_session(&page, wanted).await };
    let visitor = match page.house.account(Ask::Who { session: session.clone() }).await {
        Told::Visitor(visitor) => visitor,
        Told::Refused { why, .. } => return page.trouble(None, StatusCode::SERVICE_UNAVAILABLE, &why),
        _ => return no_session(&page, wanted).await,
    };
    let guest = Guest { visitor, session };
    if !guest.may(act) {
        let text = "Your account may not do this: an owner of the house can, and can change your role.";
        return page.trouble(Some(&guest), StatusCode::FORBIDDEN, text);
    }
    if changes(request.method()) && !is_from_our_page(&request) {
        let text = "This was not asked for on a page of this house. Nothing was changed.";
        return page.trouble(Some(&guest), StatusCode::FORBIDDEN, text);
    }
    request.extensions_mut().insert(guest);
    next.run(request).await
}

/// Where somebody without a session wanted to go.
struct Wanted {
    /// Else a part of a page, or a file.
    is_page: bool,
    path: String,
}

impl Wanted {
    fn of(request: &Request) -> Self {
        let accept = request.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
        let is_page = !changes(request.method()) && (accept.contains("text/html") || request.uri().path() == "/");
        Self { is_page, path: request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned() }
    }
}

/// Only a page is led to the sign-in; whatever else asks learns nothing.
async fn no_session(page: &Page, wanted: Wanted) -> Response {
    if !wanted.is_page {
        return (StatusCode::UNAUTHORIZED, "sign in first\n").into_response();
    }
    if page.is_founded().await == Some(false) {
        return Redirect::to("/set-up").into_response();
    }
    let to = match wanted.path.as_str() {
        "/" => "/sign-in".to_owned(),
        path => format!("/sign-in?back={}", encoded(path)),
    };
    Redirect::to(&to).into_response()
}

/// For a query or one step of a path.
pub(crate) fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// A path of ours to go back to, and never another site's address.
pub(crate) fn way_back(back: &str) -> &str {
    let ours = back.starts_with('/') && !back.starts_with("//") && !back.contains('\\') && !back.chars().any(char::is_control);
    if ours { back } else { "/" }
}

pub(crate) fn changes(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD)
}

/// Browsers say where a request comes from (Fetch Metadata; Origin in older ones). One that says nothing at all is no browser's form.
pub(crate) fn is_from_our_page<B>(request: &axum::http::Request<B>) -> bool {
    let text = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap_or("unreadable"));
    // HTTP/2 names the host in the address.
    let host = request.uri().authority().map(|authority| authority.as_str());
    let host = host.or_else(|| request.headers().get(header::HOST)?.to_str().ok());
    let is_ours = |origin: &str| {
        let named = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
        named.is_some() && named == host
    };
    match (text("sec-fetch-site"), text("origin")) {
        (Some(site), origin) => site == "same-origin" && origin.is_none_or(is_ours),
        (None, Some(origin)) => is_ours(origin),
        (None, None) => true,
    }
}

pub(crate) fn visit_of<B>(request: &axum::http::Request<B>) -> Visit {
    visit_of_parts(request.extensions(), request.headers())
}

fn visit_of_parts(extensions: &axum::http::Extensions, headers: &HeaderMap) -> Visit {
    let peer = extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
    let agent = headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    let agent: String = agent.chars().filter(|c| !c.is_control()).collect();
    let agent = agent[..agent.floor_char_boundary(AGENT_MOST)].to_owned();
    Visit { address: plain(peer.unwrap_or(IpAddr::from([0, 0, 0, 0]))), agent }
}

/// An IPv4 address that came in over a socket of both kinds is one.
fn plain(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(six) => six.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

/// `__Host-`: no other host of the domain, and nobody over plain HTTP, can set it.
fn cookie_name(is_plain: bool) -> &'static str {
    if is_plain { "dms3" } else { "__Host-dms3" }
}

pub(crate) fn session_of(headers: &HeaderMap, is_plain: bool) -> Option<Hidden> {
    let wanted = cookie_name(is_plain);
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(';'));
    let mut found = cookies.filter_map(|cookie| cookie.trim().split_once('=')).filter(|(name, _)| *name == wanted);
    found.next().map(|(_, value)| Hidden(value.to_owned()))
}

/// Lax: a link in a mail opens the page signed in, and no other site's form is.
pub(crate) fn set_cookie(session: Option<&Hidden>, is_plain: bool) -> HeaderValue {
    let (word, life) = session.map_or(("", 0), |session| (session.0.as_str(), COOKIE_SECS));
    let secure = if is_plain { "" } else { "; Secure" };
    let text = format!("{}={word}; Path=/; HttpOnly; SameSite=Lax; Max-Age={life}{secure}", cookie_name(is_plain));
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("dms3=; Max-Age=0"))
}

/// Where a request comes from, for handlers.
pub(crate) struct VisitOf(pub(crate) Visit);

impl axum::extract::FromRequestParts<Page> for VisitOf {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut axum::http::request::Parts, _: &Page) -> Result<Self, Self::Rejection> {
        Ok(Self(visit_of_parts(&parts.extensions, &parts.headers)))
    }
}

/// A form that was filled in on a page of ours by whoever is signed in.
pub(crate) struct Posted<T>(pub(crate) T);

#[derive(Deserialize)]
struct Proof {
    #[serde(default)]
    csrf: String,
}

impl<T: DeserializeOwned> FromRequest<Page> for Posted<T> {
    type Rejection = Response;

    async fn from_request(request: Request, page: &Page) -> Result<Self, Response> {
        let Some(guest) = request.extensions().get::<Guest>().cloned() else { return Err(StatusCode::UNAUTHORIZED.into_response()) };
        let bytes = match RawForm::from_request(request, page).await {
            Ok(RawForm(bytes)) => bytes,
            Err(error) => return Err(page.trouble(None, error.into_response().status(), UNREADABLE)),
        };
        let unreadable = || page.trouble(Some(&guest), StatusCode::BAD_REQUEST, UNREADABLE);
        let proof: Proof = serde_urlencoded::from_bytes(&bytes).map_err(|_| unreadable())?;
        if !same(&guest.csrf(), &proof.csrf) {
            const OLD: &str = "This form is of an older session. Go back, reload the page and try again. Nothing was changed.";
            return Err(page.trouble(Some(&guest), StatusCode::FORBIDDEN, OLD));
        }
        serde_urlencoded::from_bytes(&bytes).map(Self).map_err(|_| unreadable())
    }
}

const UNREADABLE: &str = "The form could not be read. Nothing was changed.";

/// Takes the same time wherever they differ: their hashes are compared.
fn same(one: &str, other: &str) -> bool {
    digest(&SHA256, one.as_bytes()).as_ref() == digest(&SHA256, other.as_bytes()).as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        list.iter().map(|(name, value)| ((*name).try_into().unwrap(), HeaderValue::from_static(value))).collect()
    }

    fn request(list: &[(&'static str, &'static str)]) -> Request {
        let mut request = Request::default();
        *request.headers_mut() = headers(list);
        request
    }

    #[test]
    fn only_what_our_own_page_asks_for_changes_something() {
        let host = ("host", "pi.local:8443");
        for ours in [
            &[host, ("sec-fetch-site", "same-origin"), ("origin", "https://pi.local:8443")][..],
            &[host, ("sec-fetch-site", "same-origin")],
            &[host, ("origin", "https://pi.local:8443")],
            &[host],
        ] {
            assert!(is_from_our_page(&request(ours)), "{ours:?}");
        }
        for foreign in [
            &[host, ("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")][..],
            &[host, ("sec-fetch-site", "same-site")],
            &[host, ("sec-fetch-site", "none")],
            &[host, ("origin", "https://evil.example")],
            &[host, ("origin", "null")],
            &[host, ("origin", "https://pi.local")],
            &[host, ("sec-fetch-site", "same-origin"), ("origin", "https://evil.example")],
        ] {
            assert!(!is_from_our_page(&request(foreign)), "{foreign:?}");
        }
        let mut odd = request(&[("origin", "https://unreadable")]);
        odd.headers_mut().insert("host", HeaderValue::from_bytes(b"\xff").unwrap());
        assert!(!is_from_our_page(&odd), "what cannot be read is nobody's name");
    }

    #[test]
    fn the_way_back_leads_to_no_other_site() {
        for ours in ["/", "/events?day=2026-11-28", "/nodes/x"] {
            assert_eq!(way_back(ours), ours);
        }
        for foreign in ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:alert(1)", "", "/a\r\nSet-Cookie: x"] {
            assert_eq!(way_back(foreign), "/");
        }
        assert_eq!(encoded("/events?day=ü"), "%2Fevents%3Fday%3D%C3%BC");
    }

    #[test]
    fn the_cookie_is_for_this_host_over_tls_and_for_no_script() {
        let cookie = set_cookie(Some(&Hidden("word".into())), false);
        assert_eq!(cookie, "__Host-dms3=word; Path=/; HttpOnly; SameSite=Lax; Max-Age=7776000; Secure");
        let read = |text, is_plain| session_of(&headers(&[("cookie", text)]), is_plain).map(|session| session.0);
        assert_eq!(read("a=b; __Host-dms3=word", false).as_deref(), Some("word"));
        assert_eq!(read("dms3=word", false), None, "set over plain HTTP, by somebody else");
        assert_eq!(read("dms3=word", true).as_deref(), Some("word"));
        assert!(set_cookie(None, false).to_str().unwrap().contains("Max-Age=0"));
    }
}
