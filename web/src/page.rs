//! What every page has in common: the house behind it, its templates, who looks at it.

mod account;
mod doors;
pub(crate) mod events;
pub(crate) mod first;
mod here;
pub(crate) mod lists;
pub(crate) mod nodes;
mod orders;
mod phones;
#[cfg(test)]
mod samples;
mod system;

use std::collections::HashMap;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Router, middleware};
use dms3_core::accounts::{Act, Ask, Theme, Told};
use dms3_core::dashboard::Dashboard;
use dms3_core::request::{Answer, Request};
use dms3_core::time::Timestamp;
use minijinja::value::Serde;
use minijinja::{Value, context};
use serde::Serialize;
use tokio::sync::watch;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{DefaultPredicate, NotForContentType, Predicate as _};

use self::nodes::Made;
use self::phones::MadeLink;
use crate::gate::{self, Guest};
use crate::house::House;
use crate::live::Live;
use crate::server::Papers;
use crate::templates::{PAGE, Set, Templates};
use crate::view::Clock;
use crate::view::node::Limits;
use crate::{assets, live};

/// A user's templates are read anew no more often.
const READ_EVERY: Duration = Duration::from_secs(5);
/// Bytes of a form.
const FORM_MOST: usize = 16 * 1024;
/// A question is answered within this time or not at all.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// What was said to somebody who never came to hear it.
const NOTICES: usize = 100;
const ODD: &str = "The node gave an unexpected answer: its log may say why.";

/// How the page is, by the config.
#[derive(Clone)]
pub struct Settings {
    /// "DMS3 · Home"
    pub title: String,
    pub coordinator_first: bool,
    pub limits: Limits,
    pub template_dir: Option<PathBuf>,
    /// Plain HTTP, behind a proxy on this machine.
    pub is_plain: bool,
    pub version: &'static str,
    pub zone: jiff::tz::TimeZone,
    /// Trusted time.
    pub now: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    pub papers: Option<watch::Receiver<Papers>>,
    /// Our own, for those who are to trust it; `None`: the certificate is the user's own, or there is none.
    pub authority: Option<Authority>,
    /// How long what is kept, in words.
    pub keeps: Vec<(&'static str, String)>,
    pub decisions_days: u64,
    /// Who is mailed.
    pub mail_to: Vec<String>,
    /// The last lines of the node's log.
    pub log: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
}

/// The certificate of the dashboard's own authority.
#[derive(Debug, Clone)]
pub struct Authority {
    pub pem: String,
    /// SHA-256, as systems show it.
    pub fingerprint: String,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("Settings").field("title", &self.title).finish_non_exhaustive()
    }
}

/// Clones are the same page.
#[derive(Clone)]
pub(crate) struct Page(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) house: House,
    pub(crate) settings: Settings,
    templates: Templates,
    set: RwLock<(Instant, Set)>,
    /// What the next page of a session says of what was just done.
    notices: Mutex<HashMap<i64, Notice>>,
    /// Pairing words by the session that made them: shown there, and nowhere kept.
    tokens: Mutex<HashMap<i64, Made>>,
    /// Links for phones by the session that made them, likewise.
    links: Mutex<HashMap<i64, MadeLink>>,
    pub(crate) live: Live,
}

impl Deref for Page {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

/// Said once, on top of a page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Notice {
    pub(crate) text: String,
    pub(crate) bad: bool,
}

/// What templates know of every page.
#[derive(Serialize)]
struct Common<'a> {
    title: &'a str,
    here: &'a str,
    path: &'a str,
    theme: &'static str,
    csrf: String,
    user: Option<User<'a>>,
    notice: Option<Notice>,
    version: &'static str,
    now: crate::view::Moment,
}

#[derive(Serialize)]
struct User<'a> {
    name: &'a str,
    role: &'static str,
    may_command: bool,
    may_manage: bool,
}

/// Where somebody is: the tab, and the address to come back to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) here: &'a str,
    pub(crate) path: &'a str,
}

/// Routes with who may take them: the table of the tests is made of the same calls.
pub(crate) struct Routes {
    page: Page,
    router: Router<Page>,
    pub(crate) table: Vec<(&'static str, Option<Act>)>,
}

impl Routes {
    /// For who is signed in and may `act`.
    fn inside(mut self, path: &'static str, act: Act, method: MethodRouter<Page>) -> Self {
        let gate = middleware::from_fn_with_state((self.page.clone(), act), gate::check);
        self.router = self.router.route(path, method.route_layer(gate));
        self.table.push((path, Some(act)));
        self
    }

    /// For everybody.
    fn outside(mut self, path: &'static str, method: MethodRouter<Page>) -> Self {
        self.router = self.router.route(path, method);
        self.table.push((path, None));
        self
    }
}

pub(crate) fn routes(page: &Page) -> Routes {
    let routes = Routes { page: page.clone(), router: Router::new(), table: Vec::new() };
    // For the test that a page which panics harms nothing else; not in what is shipped.
    #[cfg(debug_assertions)]
    let routes = routes.inside("/debug/panic", Act::Manage, get(fails));
    routes
        .outside("/assets/{name}", get(assets::serve))
        .outside("/healthz", get(system::healthz))
        .outside("/sign-in", get(doors::sign_in_page).post(doors::sign_in))
        .outside("/set-up", get(doors::set_up_page).post(doors::set_up))
        .outside("/here/{word}", get(here::page).post(here::ask))
        .inside("/", Act::See, get(first::home))
        .inside("/updates", Act::See, get(live::updates))
        .inside("/sign-out", Act::See, post(doors::sign_out))
        .inside("/arm", Act::Command, post(orders::arm))
        .inside("/disarm", Act::Command, post(orders::disarm))
        .inside("/auto", Act::Command, post(orders::auto))
        .inside("/events", Act::See, get(lists::events))
        .inside("/events/seen", Act::See, post(events::all_seen))
        .inside("/events/{id}", Act::See, get(lists::event))
        .inside("/events/{id}/delete", Act::Manage, post(lists::delete))
        .inside("/events/{id}/seen", Act::See, post(events::seen))
        .inside("/events/{id}/file/{hash}", Act::See, get(events::file))
        .inside("/events/{id}/small/{hash}", Act::See, get(events::small))
        .inside("/cameras", Act::See, get(nodes::cameras))
        .inside("/nodes/add", Act::Manage, get(nodes::add_page).post(nodes::add))
        .inside("/nodes/{id}", Act::See, get(nodes::node))
        .inside("/nodes/{id}/live/{source}", Act::See, get(nodes::live))
        .inside("/nodes/{id}/rename", Act::Manage, post(nodes::rename))
        .inside("/nodes/{id}/revoke", Act::Manage, post(nodes::revoke))
        .inside("/nodes/{id}/clear", Act::Manage, post(nodes::clear))
        .inside("/phones", Act::Manage, get(phones::page))
        .inside("/phones/link", Act::Manage, post(phones::link))
        .inside("/phones/answer", Act::Manage, post(phones::answer))
        .inside("/phones/forget", Act::Manage, post(phones::forget))
        .inside("/log", Act::See, get(lists::log))
        .inside("/system", Act::See, get(system::system))
        .inside("/system/test-mail", Act::Manage, post(system::test_mail))
        .inside("/trust/ca.pem", Act::See, get(system::authority))
        .inside("/account", Act::See, get(account::account))
        .inside("/account/theme", Act::See, post(account::theme))
        .inside("/account/password", Act::See, post(account::password))
        .inside("/account/sessions/{id}/end", Act::See, post(account::end_session))
        .inside("/accounts/add", Act::Manage, post(account::add))
        .inside("/accounts/{name}/role", Act::Manage, post(account::role))
        .inside("/accounts/{name}/remove", Act::Manage, post(account::remove))
}

impl Page {
    pub(crate) fn new(house: House, settings: Settings) -> Self {
        let templates = PAGE.templates(settings.template_dir.clone());
        let set = templates.read();
        set.log_complaints();
        Self(Arc::new(Inner {
            house,
            settings,
            templates,
            set: RwLock::new((Instant::now(), set)),
            notices: Mutex::default(),
            tokens: Mutex::default(),
            links: Mutex::default(),
            live: Live::default(),
        }))
    }

    pub(crate) fn app(&self) -> Router {
        let routes = routes(self);
        routes
            .router
            .fallback(not_found)
            .layer(axum::extract::DefaultBodyLimit::max(FORM_MOST))
            .layer(tower_http::timeout::TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, ANSWER_WITHIN))
            .layer(CompressionLayer::new().compress_when(DefaultPredicate::new().and(NotForContentType::const_new("video/"))))
            .layer(tower_http::catch_panic::CatchPanicLayer::custom(panicked))
            .layer(middleware::map_response(headers))
            .with_state(self.clone())
    }

    pub(crate) fn is_plain(&self) -> bool {
        self.settings.is_plain
    }

    pub(crate) fn clock(&self) -> Clock {
        Clock { now: (self.settings.now)(), zone: self.settings.zone.clone() }
    }

    /// `None`: it cannot be known now.
    pub(crate) async fn is_founded(&self) -> Option<bool> {
        match self.house.account(Ask::Founded).await {
            Told::Founded(founded) => Some(founded),
            _ => None,
        }
    }

    /// All that is shown, as it is now.
    pub(crate) async fn dashboard(&self) -> Result<Arc<Dashboard>, Response> {
        match self.house.ask(Request::Status, "the dashboard").await {
            Answer::House(house) => Ok(Arc::from(house)),
            Answer::Refused(why) => Err(self.trouble(None, StatusCode::SERVICE_UNAVAILABLE, &crate::view::sentence(&why))),
            _ => Err(self.trouble(None, StatusCode::INTERNAL_SERVER_ERROR, ODD)),
        }
    }

    /// A whole page.
    pub(crate) fn show_with(
        &self,
        status: StatusCode,
        guest: Option<&Guest>,
        place: Place<'_>,
        template: &'static str,
        facts: Value,
    ) -> Response {
        let csrf = guest.map_or_else(String::new, Guest::csrf);
        let notice = guest.and_then(|guest| self.notices().remove(&guest.visitor.session));
        match self.render(template, self.facts(guest, place, csrf, notice, facts)) {
            Ok(text) => (status, [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))], Html(text)).into_response(),
            Err(error) => {
                tracing::error!("the page {template} cannot be made: {error:#}");
                (StatusCode::INTERNAL_SERVER_ERROR, "This page cannot be made: the log of the coordinator says why.\n").into_response()
            }
        }
    }

    /// A page's facts beside those that each page has.
    pub(crate) fn facts(&self, guest: Option<&Guest>, place: Place<'_>, csrf: String, notice: Option<Notice>, facts: Value) -> Value {
        let user = guest.map(|guest| User {
            name: &guest.visitor.name,
            role: guest.visitor.role.word(),
            may_command: guest.may(Act::Command),
            may_manage: guest.may(Act::Manage),
        });
        let theme = guest.map_or(Theme::Auto, |guest| guest.visitor.theme).word();
        let clock = self.clock();
        let common = Common {
            title: &self.settings.title,
            here: place.here,
            path: place.path,
            theme,
            csrf,
            user,
            notice,
            version: self.settings.version,
            now: clock.moment(clock.now),
        };
        context! { page => Value::from(Serde(common)), ..facts }
    }

    pub(crate) fn render(&self, template: &'static str, facts: Value) -> Result<String, minijinja::Error> {
        self.read_again();
        let tried = self.set.read().unwrap_or_else(PoisonError::into_inner).1.attempt(template, &facts);
        if tried.is_ok() {
            return tried;
        }
        // A file of the user's is to blame, or one of ours.
        let mut set = self.set.write().unwrap_or_else(PoisonError::into_inner);
        let known = set.1.complaints.len();
        let text = set.1.render(template, &facts);
        for complaint in &set.1.complaints[known..] {
            tracing::warn!("{complaint}");
        }
        text
    }

    /// What is wrong with a user's templates.
    pub(crate) fn complaints(&self) -> Vec<String> {
        self.set.read().unwrap_or_else(PoisonError::into_inner).1.complaints.clone()
    }

    fn read_again(&self) {
        if !self.templates.is_users() || self.set.read().unwrap_or_else(PoisonError::into_inner).0.elapsed() < READ_EVERY {
            return;
        }
        let new = self.templates.read();
        let mut set = self.set.write().unwrap_or_else(PoisonError::into_inner);
        if !set.1.is_same(&new) {
            new.log_complaints();
            set.1 = new;
        }
        set.0 = Instant::now();
    }

    /// Said on the next page of this session.
    pub(crate) fn notify(&self, guest: &Guest, text: String, bad: bool) {
        let mut notices = self.notices();
        if notices.len() >= NOTICES {
            notices.clear();
        }
        notices.insert(guest.visitor.session, Notice { text, bad });
    }

    fn notices(&self) -> std::sync::MutexGuard<'_, HashMap<i64, Notice>> {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After a form: back to where it was, with what came of it on top if it is worth a word.
    pub(crate) fn answered(&self, guest: &Guest, back: &str, answer: Answer) -> Response {
        match answer {
            Answer::Refused(why) => self.notify(guest, crate::view::sentence(&why), true),
            Answer::Done(said) => self.notify(guest, said, false),
            _ => {}
        }
        Redirect::to(gate::way_back(back)).into_response()
    }

    /// A page that says what is wrong. `guest`: whoever is signed in.
    pub(crate) fn trouble(&self, guest: Option<&Guest>, status: StatusCode, text: &str) -> Response {
        let facts =
            context! { code => status.as_u16(), heading => heading(status), text, todo => Value::from(()), state => Value::from(()) };
        self.show_with(status, guest, Place { here: "error", path: "/" }, "error.html", facts)
    }

    pub(crate) fn odd_answer(&self, guest: &Guest) -> Response {
        self.trouble(Some(guest), StatusCode::INTERNAL_SERVER_ERROR, ODD)
    }

    pub(crate) fn made_token(&self, guest: &Guest, made: Made) {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if tokens.len() >= NOTICES {
            tokens.clear();
        }
        tokens.insert(guest.visitor.session, made);
    }

    pub(crate) fn made_link(&self, guest: &Guest, made: MadeLink) {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        if links.len() >= NOTICES {
            links.clear();
        }
        links.insert(guest.visitor.session, made);
    }

    pub(crate) fn link_of(&self, guest: &Guest) -> Option<MadeLink> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner).get(&guest.visitor.session).cloned()
    }

    pub(crate) fn token_of(&self, guest: &Guest) -> Option<Made> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).get(&guest.visitor.session).cloned()
    }
}

fn heading(status: StatusCode) -> &'static str {
    match status {
        StatusCode::NOT_FOUND => "There is nothing here",
        StatusCode::FORBIDDEN => "You may not do that",
        StatusCode::BAD_REQUEST => "That could not be read",
        StatusCode::SERVICE_UNAVAILABLE => "The house is busy",
        _ => "Something went wrong",
    }
}

/// Nobody learns what there is without a session.
async fn not_found(axum::extract::State(page): axum::extract::State<Page>, request: axum::extract::Request) -> Response {
    if *request.method() == Method::GET {
        return page.trouble(None, StatusCode::NOT_FOUND, "This address belongs to no page.");
    }
    StatusCode::NOT_FOUND.into_response()
}

#[cfg(debug_assertions)]
async fn fails() -> StatusCode {
    panic!("a test asked for it")
}

fn panicked(panic: Box<dyn std::any::Any + Send>) -> Response {
    let words =
        panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    tracing::error!("making a page panicked: {words}");
    (StatusCode::INTERNAL_SERVER_ERROR, "Something went wrong: the log of the coordinator says what. The house goes on.\n").into_response()
}

/// No script but ours, no frame around us, no guessing of types, and nobody else hears where somebody was.
async fn headers(mut response: Response) -> Response {
    const CSP: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; connect-src 'self'; \
                       form-action 'self'; frame-ancestors 'none'; base-uri 'none'";
    let set = response.headers_mut();
    for (name, value) in [
        ("content-security-policy", CSP),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "same-origin"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        ("permissions-policy", "camera=(), microphone=(), geolocation=()"),
    ] {
        set.insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Request as HttpRequest;
    use dms3_core::accounts::{Hidden, Role, Visitor};
    use tokio::sync::mpsc;
    use tower::ServiceExt as _;

    use super::*;
    use crate::house::{AccountAsked, HouseAsked};

    /// Of a house that does not answer.
    fn page() -> Page {
        asked().0
    }

    /// With the ends at which its questions come out.
    fn asked() -> (Page, mpsc::Receiver<HouseAsked>, mpsc::Receiver<AccountAsked>) {
        let ((requests, requested), (accounts, account)) = (mpsc::channel(1), mpsc::channel(1));
        let (dashboard, counts) = (watch::Sender::new(None), watch::channel(0).1);
        let media: crate::house::OpenMedia = Arc::new(|_, _| Err(std::io::ErrorKind::NotFound.into()));
        let house = House { dashboard, events: counts.clone(), less: counts, requests, accounts, media };
        let settings = Settings {
            title: "DMS3".to_owned(),
            coordinator_first: true,
            limits: Limits::default(),
            template_dir: None,
            is_plain: false,
            version: "1.2.3",
            zone: jiff::tz::TimeZone::UTC,
            now: Arc::new(|| Timestamp(0)),
            papers: None,
            authority: None,
            keeps: Vec::new(),
            decisions_days: 30,
            mail_to: Vec::new(),
            log: Arc::new(Vec::new),
        };
        (Page::new(house, settings), requested, account)
    }

    /// Whoever is signed in has his role for the word of his session; the house itself refuses all that it is asked.
    async fn answer(mut requests: mpsc::Receiver<HouseAsked>, mut accounts: mpsc::Receiver<AccountAsked>) {
        let no = || "no".to_owned();
        loop {
            tokio::select! {
                Some(HouseAsked { answer, .. }) = requests.recv() => answer.send(Answer::Refused(no())).unwrap(),
                Some(AccountAsked { ask, answer }) = accounts.recv() => {
                    let told = match ask {
                        Ask::Who { session } => session.0.parse().map_or(Told::Nobody, |role| {
                            Told::Visitor(Visitor { name: "Ann".to_owned(), role, theme: Theme::Auto, session: 1 })
                        }),
                        Ask::Founded => Told::Founded(true),
                        _ => Told::Refused { why: no(), wait: None },
                    };
                    answer.send(told).unwrap();
                }
                else => return,
            }
        }
    }

    #[tokio::test]
    async fn each_route_lets_in_whose_role_may_take_it_and_nobody_else() {
        let (page, requests, accounts) = asked();
        let (table, app) = (routes(&page).table, page.app());
        let asking = async {
            let mut answered = 0;
            for (path, act) in table.into_iter().filter(|(path, _)| *path != "/debug/panic") {
                let uri = path
                    .replace("{id}", "1")
                    .replace("{name}", "x")
                    .replace("{hash}", "00")
                    .replace("{source}", "cam")
                    .replace("{word}", "x");
                for role in [None, Some(Role::Viewer), Some(Role::Member), Some(Role::Owner)] {
                    let session = role.map_or("nobody", Role::word);
                    let visitor = Visitor { name: String::new(), role: Role::Viewer, theme: Theme::Auto, session: 1 };
                    let proof = Guest { visitor, session: Hidden(session.to_owned()) }.csrf();
                    for method in [Method::GET, Method::POST] {
                        let request = HttpRequest::builder()
                            .method(&method)
                            .uri(&uri)
                            .header("host", "pi.local")
                            .header("cookie", format!("__Host-dms3={session}"))
                            .header("content-type", "application/x-www-form-urlencoded")
                            .body(Body::from(format!("csrf={proof}&role=viewer")));
                        let status = app.clone().oneshot(request.unwrap()).await.unwrap().status();
                        if status == StatusCode::METHOD_NOT_ALLOWED {
                            continue;
                        }
                        answered += 1;
                        let may = act.is_none_or(|act| role.is_some_and(|role| role.may(act)));
                        let of_nobody = role.is_none() && [StatusCode::UNAUTHORIZED, StatusCode::SEE_OTHER].contains(&status);
                        let kept_out = status == StatusCode::FORBIDDEN || of_nobody;
                        // A sign-in, and a password, may be wrong; that nobody is led from the set-up to the sign-in is no refusal.
                        if ["/sign-in", "/set-up", "/account/password"].contains(&path) {
                            continue;
                        }
                        assert_eq!(!kept_out, may, "{method} {path} as {role:?}: {status}");
                    }
                }
            }
            assert!(answered > 4 * 30, "{answered}");
        };
        tokio::select! {
            () = asking => {}
            () = answer(requests, accounts) => {}
        }
    }

    /// Every route, and who may take it: nobody adds one without saying that here.
    #[test]
    fn who_may_what_is_this_and_nothing_else() {
        use Act::{Command, Manage, See};
        let mut table = routes(&page()).table;
        table.retain(|(path, _)| !path.starts_with("/debug/"));
        let expected = [
            ("/assets/{name}", None),
            ("/healthz", None),
            ("/sign-in", None),
            ("/set-up", None),
            ("/here/{word}", None),
            ("/", Some(See)),
            ("/updates", Some(See)),
            ("/sign-out", Some(See)),
            ("/arm", Some(Command)),
            ("/disarm", Some(Command)),
            ("/auto", Some(Command)),
            ("/events", Some(See)),
            ("/events/seen", Some(See)),
            ("/events/{id}", Some(See)),
            ("/events/{id}/delete", Some(Manage)),
            ("/events/{id}/seen", Some(See)),
            ("/events/{id}/file/{hash}", Some(See)),
            ("/events/{id}/small/{hash}", Some(See)),
            ("/cameras", Some(See)),
            ("/nodes/add", Some(Manage)),
            ("/nodes/{id}", Some(See)),
            ("/nodes/{id}/live/{source}", Some(See)),
            ("/nodes/{id}/rename", Some(Manage)),
            ("/nodes/{id}/revoke", Some(Manage)),
            ("/nodes/{id}/clear", Some(Manage)),
            ("/phones", Some(Manage)),
            ("/phones/link", Some(Manage)),
            ("/phones/answer", Some(Manage)),
            ("/phones/forget", Some(Manage)),
            ("/log", Some(See)),
            ("/system", Some(See)),
            ("/system/test-mail", Some(Manage)),
            ("/trust/ca.pem", Some(See)),
            ("/account", Some(See)),
            ("/account/theme", Some(See)),
            ("/account/password", Some(See)),
            ("/account/sessions/{id}/end", Some(See)),
            ("/accounts/add", Some(Manage)),
            ("/accounts/{name}/role", Some(Manage)),
            ("/accounts/{name}/remove", Some(Manage)),
        ];
        assert_eq!(table, expected);
    }

    #[tokio::test]
    async fn a_page_whose_house_does_not_answer_says_so() {
        let trouble = page().dashboard().await.unwrap_err();
        assert_eq!(trouble.status(), StatusCode::SERVICE_UNAVAILABLE);
        let text = axum::body::to_bytes(trouble.into_body(), 1 << 20).await.unwrap();
        assert!(String::from_utf8_lossy(&text).contains("The node is stopping"), "{}", String::from_utf8_lossy(&text));
    }
}
