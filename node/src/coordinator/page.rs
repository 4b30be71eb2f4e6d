//! The dashboard's service: its section of the config, its certificate, and the way of its questions to those who answer them.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use dms3_core::dashboard::Dashboard;
use dms3_core::id::NodeId;
use dms3_core::request::{Answer, Request};
use dms3_core::time::duration_words;
use dms3_pki::{WEB_DIR, WebAuthority, WebPapers};
use dms3_web::house::{AccountAsked, House, HouseAsked};
use dms3_web::{HealthLimits, Papers, Settings};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::events::Keeper;
use super::keeping::EventsConfig;
use super::phones::Phones;
use super::requests::{is_about_events, look_up_events};
use super::stills::Stills;
use super::strangers::Strangers;
use crate::clock::Clock;
use crate::config_text::{Wrong, address};
use crate::control::Asked;
use crate::log_tail::LogTail;
use crate::store::media::Media;

/// How often the machine's addresses, and a user's own certificate, are looked at.
const LOOK: Duration = Duration::from_secs(30);
/// Questions about events that are answered at once.
const AT_ONCE: usize = 32;
/// Longest title, in characters.
const TITLE_MOST: usize = 60;

/// `[web]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebConfig {
    pub enabled: bool,
    /// TCP.
    #[serde(deserialize_with = "address")]
    pub listen: SocketAddr,
    pub title: String,
    /// Else all nodes are listed by name.
    pub coordinator_first: bool,
    /// Behind a proxy on this machine; only on a loopback address.
    pub plain_http: bool,
    /// A user's own, in PEM, with all that is between it and its root. `None`: one of our own authority.
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub template_dir: Option<PathBuf>,
    /// Connections in all, and from one address.
    pub connections: usize,
    pub connections_per_address: usize,
    /// From where on a node is yellow or red.
    pub limits: HealthLimits,
}

impl Default for WebConfig {
    fn default() -> Self {
        let dms3_web::Limits { connections, per_address } = dms3_web::Limits::default();
        Self {
            enabled: true,
            listen: SocketAddr::from(([0u16; 8], 8443)),
            title: "DMS3".to_owned(),
            coordinator_first: true,
            plain_http: false,
            certificate: None,
            key: None,
            template_dir: None,
            connections,
            connections_per_address: per_address,
            limits: HealthLimits::default(),
        }
    }
}

impl WebConfig {
    /// What serde cannot see.
    pub fn check(&self) -> Result<(), Wrong> {
        if self.title.trim().is_empty() || self.title.chars().count() > TITLE_MOST || self.title.chars().any(char::is_control) {
            return Err(Wrong::new("title", format!("a title has 1 to {TITLE_MOST} characters, in one line")));
        }
        if self.plain_http && !self.listen.ip().is_loopback() {
            let why =
                "passwords would cross the network in the clear: listen on 127.0.0.1 or [::1], where a proxy of this machine finds it";
            return Err(Wrong::new("plain_http", why));
        }
        match (&self.certificate, &self.key) {
            (Some(_), None) => return Err(Wrong::new("certificate", "its key is missing: write key = \"/path/of/key.pem\"")),
            (None, Some(_)) => return Err(Wrong::new("key", "its certificate is missing: write certificate = \"/path/of/chain.pem\"")),
            (Some(_), Some(_)) if self.plain_http => {
                return Err(Wrong::new("plain_http", "no certificate is shown over plain HTTP: remove certificate and key, or this"));
            }
            _ => {}
        }
        for (key, path) in [("certificate", &self.certificate), ("key", &self.key), ("template_dir", &self.template_dir)] {
            if path.as_ref().is_some_and(|path| !path.is_absolute()) {
                return Err(Wrong::new(key, "write an absolute path, one that begins with /"));
            }
        }
        if !(8..=65_536).contains(&self.connections) {
            return Err(Wrong::new("connections", format!("it is {}; write 8 to 65536", self.connections)));
        }
        if !(4..=self.connections).contains(&self.connections_per_address) {
            let why = format!("it is {}; write 4 to {} (connections)", self.connections_per_address, self.connections);
            return Err(Wrong::new("connections_per_address", why));
        }
        let limits = &self.limits;
        if limits.celsius_warn > limits.celsius_bad {
            return Err(Wrong::new("limits.celsius_warn", format!("it is above celsius_bad ({})", limits.celsius_bad)));
        }
        if limits.disk_warn < limits.disk_bad || limits.disk_warn > 100 {
            return Err(Wrong::new("limits.disk_warn", format!("write percent that are free, {} (disk_bad) to 100", limits.disk_bad)));
        }
        Ok(())
    }
}

/// What a first visit needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    pub address: String,
    pub fingerprint: Option<String>,
}

/// What is kept how long, and who is mailed: for the page to say.
#[derive(Debug, Clone)]
pub struct Kept {
    pub events: EventsConfig,
    pub decisions: Duration,
    pub sightings: Duration,
    pub mail_to: Vec<String>,
}

impl Kept {
    fn words(&self) -> Vec<(&'static str, String)> {
        let days = |time: Duration| duration_words(time);
        vec![
            ("Events", format!("{}, up to {}", days(self.events.max_age), self.events.max_size)),
            ("Room left to others", self.events.keep_free.to_string()),
            ("Decisions", days(self.decisions)),
            ("Where a phone was seen last", days(self.sightings)),
        ]
    }
}

/// All that the service stands on.
#[derive(Clone)]
pub struct PageContext {
    pub config: WebConfig,
    pub kept: Kept,
    pub log: LogTail,
    pub state_dir: PathBuf,
    pub clock: Clock,
    pub dashboard: watch::Sender<Option<Arc<Dashboard>>>,
    pub keeper: Keeper,
    pub stills: Stills,
    pub phones: Phones,
    pub media: Media,
    pub requests: mpsc::Sender<Asked>,
    pub accounts: mpsc::Sender<AccountAsked>,
    pub less: watch::Receiver<u64>,
    pub served: Arc<watch::Sender<Option<Served>>>,
    /// What came to nothing, told.
    pub strangers: Arc<Strangers>,
    /// Why it is not, in words.
    pub unserved: watch::Sender<Option<String>>,
}

/// Serves until the stop.
pub async fn run(context: PageContext, stop: CancellationToken) -> Result<()> {
    let config = &context.config;
    let listener = bind(config.listen)?;
    let listen = listener.local_addr().context("the dashboard's port has no address")?;
    let papers = if config.plain_http { None } else { Some(papers(&context).await?) };
    let address = address_of(config, listen);
    tracing::info!("the dashboard is at {address}");
    let fingerprint = papers.as_ref().map(|papers| papers.fingerprint.clone());
    context.served.send_replace(Some(Served { address, fingerprint }));
    context.unserved.send_replace(None);
    let (shown, papers) = match papers {
        Some(papers) => {
            let (sender, receiver) = watch::channel(papers);
            (Some(sender), Some(receiver))
        }
        None => (None, None),
    };
    let (requests, asked) = mpsc::channel(64);
    let now = context.clock.clone();
    let log = context.log.clone();
    let media = context.media.clone();
    let settings = Settings {
        title: config.title.clone(),
        coordinator_first: config.coordinator_first,
        limits: config.limits,
        template_dir: config.template_dir.clone(),
        is_plain: config.plain_http,
        version: env!("CARGO_PKG_VERSION"),
        zone: jiff::tz::TimeZone::system(),
        now: Arc::new(move || now.vouched_now().at),
        papers,
        authority: authority(&context).await?,
        keeps: context.kept.words(),
        decisions_days: context.kept.decisions.as_secs() / 86_400,
        mail_to: context.kept.mail_to.clone(),
        log: Arc::new(move || log.lines()),
    };
    let house = House {
        dashboard: context.dashboard.clone(),
        events: context.keeper.changes(),
        less: context.less.clone(),
        requests,
        accounts: context.accounts.clone(),
        media: Arc::new(move |hash, small| if small { media.thumbnail(hash) } else { media.get(hash) }),
    };
    let limits = dms3_web::Limits { connections: config.connections, per_address: config.connections_per_address };
    let strangers = context.strangers.clone();
    let closed = Arc::new(move |from, why| strangers.page(from, why));
    let ended = tokio::select! {
        ended = dms3_web::serve(listener, limits, closed, settings, house, stop) => ended.context("the dashboard cannot be served"),
        ended = pass_on(&context, asked) => ended,
        ended = renew(&context, shown) => ended,
    };
    context.served.send_replace(None);
    ended
}

/// Where a browser finds it. `listen`: the address that it has.
pub fn address_of(config: &WebConfig, listen: SocketAddr) -> String {
    match (config.plain_http, listen.ip().is_loopback()) {
        (true, _) => format!("http://{listen}/"),
        (false, true) => format!("https://{listen}/"),
        (false, false) => {
            let port = listen.port();
            // Not every network resolves .local names.
            let own = addresses().into_iter().find(|own| own.is_ipv4() && !own.is_loopback());
            let or = own.map(|own| format!(" (or https://{own}:{port}/)")).unwrap_or_default();
            format!("https://{}.local:{port}/{or}", hostname())
        }
    }
}

/// Both families where the kernel has both.
fn bind(listen: SocketAddr) -> Result<TcpListener> {
    let bound = TcpListener::bind(listen).or_else(|error| match listen.ip() {
        IpAddr::V6(six) if six.is_unspecified() && error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], listen.port())))
        }
        _ => Err(error),
    });
    let listener = bound.with_context(|| format!("cannot listen on {listen} ([web] listen)"))?;
    listener.set_nonblocking(true).context("cannot set up the dashboard's port")?;
    Ok(listener)
}

/// Questions of the page go the way of those of the control socket; what takes long beside them.
async fn pass_on(context: &PageContext, mut asked: mpsc::Receiver<HouseAsked>) -> Result<()> {
    let mut lookups = JoinSet::new();
    loop {
        tokio::select! {
            Some(done) = lookups.join_next() => {
                if let Err(error) = done {
                    tracing::error!("looking up events for the dashboard failed: {error}");
                }
            }
            Some(HouseAsked { request, by, answer }) = asked.recv(), if lookups.len() < AT_ONCE => {
                if let Request::Still { node, source } = request {
                    let (stills, name) = (context.stills.clone(), name_of(&context.dashboard, node, &source));
                    lookups.spawn(async move {
                        let seen = stills.see(node, &name, source, &by).await;
                        drop(answer.send(seen.map_or_else(Answer::Refused, |picture| Answer::Still(picture.to_vec()))));
                    });
                } else if let Request::Here { word, address, asks } = request {
                    let phones = context.phones.clone();
                    lookups.spawn(async move { drop(answer.send(Answer::Here(phones.here(&word, address, asks).await))) });
                } else if is_about_events(&request) {
                    let keeper = context.keeper.clone();
                    lookups.spawn(async move {
                        let found = look_up_events(&keeper, request).await.unwrap_or_else(|error| Answer::Refused(format!("{error:#}")));
                        // Whoever asked may have gone away.
                        drop(answer.send(found));
                    });
                } else if context.requests.send(Asked { request, by, uid: NOBODY, answer }).await.is_err() {
                    bail!("the node is stopping");
                }
            }
            else => bail!("the dashboard asks no more"),
        }
    }
}

/// As people call a camera.
fn name_of(dashboard: &watch::Sender<Option<Arc<Dashboard>>>, node: NodeId, source: &str) -> String {
    let known = dashboard.borrow().as_ref().and_then(|house| house.nodes.iter().find(|one| one.node == node).map(|one| one.name.clone()));
    format!("{}/{source}", known.unwrap_or_else(|| node.short()))
}

/// A visitor of the page is no user of this machine.
const NOBODY: u32 = u32::MAX;

/// A new certificate where the machine has a new address, the old one nears its end, or the user changed his own.
async fn renew(context: &PageContext, shown: Option<watch::Sender<Papers>>) -> Result<()> {
    let Some(shown) = shown else { return std::future::pending().await };
    let mut seen = stamp_of(&context.config);
    loop {
        tokio::time::sleep(LOOK).await;
        let stamp = stamp_of(&context.config);
        if context.config.certificate.is_some() && stamp == seen {
            continue;
        }
        match papers(context).await {
            Ok(new) if new.fingerprint != shown.borrow().fingerprint => {
                tracing::info!("the dashboard has a new certificate: {}", new.fingerprint);
                context.served.send_modify(|served| {
                    if let Some(served) = served {
                        served.fingerprint = Some(new.fingerprint.clone());
                    }
                });
                shown.send_replace(new);
            }
            Ok(_) => {}
            // Half written, say: it is looked at again, and the one before is shown.
            Err(error) if stamp != seen => {
                tracing::warn!("the dashboard's new certificate cannot be used: {error:#}; the one before stays")
            }
            Err(error) => tracing::debug!("the dashboard's certificate: {error:#}"),
        }
        seen = stamp;
    }
}

/// When the user's own files were changed.
fn stamp_of(config: &WebConfig) -> Vec<Option<SystemTime>> {
    let files = [&config.certificate, &config.key].into_iter().flatten();
    files.map(|path| std::fs::metadata(path).and_then(|data| data.modified()).ok()).collect()
}

/// What phones and browsers are to trust, if the certificate is ours.
async fn authority(context: &PageContext) -> Result<Option<dms3_web::Authority>> {
    if context.config.plain_http || context.config.certificate.is_some() {
        return Ok(None);
    }
    let (state_dir, now) = (context.state_dir.clone(), context.clock.announced());
    let (authority, _) = tokio::task::spawn_blocking(move || ours(&state_dir, now)).await??;
    Ok(Some(dms3_web::Authority { pem: authority.certificate_pem(), fingerprint: authority.fingerprint() }))
}

async fn papers(context: &PageContext) -> Result<Papers> {
    let (config, state_dir, now) = (context.config.clone(), context.state_dir.clone(), context.clock.announced());
    tokio::task::spawn_blocking(move || match (&config.certificate, &config.key) {
        (Some(certificate), Some(key)) => own_papers(certificate, key),
        _ => Ok(ours(&state_dir, now)?.1),
    })
    .await?
}

/// What our own authority says of this machine as it is now. Makes the authority where there is none.
pub fn ours(state_dir: &Path, now: dms3_core::time::Timestamp) -> Result<(WebAuthority, Papers)> {
    let authority = WebAuthority::open_or_create(&state_dir.join(WEB_DIR), &hostname(), now)?;
    let papers = authority.papers(&addresses(), now)?;
    let fingerprint = papers.fingerprint();
    let WebPapers { chain, key } = papers;
    Ok((authority, Papers { chain, key, fingerprint }))
}

fn own_papers(certificate: &Path, key: &Path) -> Result<Papers> {
    let cannot_read = |path: &Path| format!("cannot read {} ([web]): may the node's user read it?", path.display());
    let text = std::fs::read(certificate).with_context(|| cannot_read(certificate))?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).map(|der| der.map(|der| der.to_vec())).collect();
    let chain =
        chain.ok().filter(|chain| !chain.is_empty()).with_context(|| format!("{} holds no certificate in PEM", certificate.display()))?;
    let text = Zeroizing::new(std::fs::read(key).with_context(|| cannot_read(key))?);
    let key_der = PrivateKeyDer::from_pem_slice(&text).ok().with_context(|| format!("{} holds no key in PEM", key.display()))?;
    let papers = WebPapers { chain, key: Zeroizing::new(key_der.secret_der().to_vec()) };
    let fingerprint = papers.fingerprint();
    Ok(Papers { chain: papers.chain, key: papers.key, fingerprint })
}

fn hostname() -> String {
    let name = crate::health::facts().hostname;
    name.split('.').next().filter(|name| !name.is_empty()).unwrap_or("dms3").to_lowercase()
}

/// Of this machine now, without those that mean nothing to others.
fn addresses() -> Vec<IpAddr> {
    let Ok(all) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    let own = all.filter_map(|one| {
        let address = one.address?;
        let four = address.as_sockaddr_in().map(|four| IpAddr::from(four.ip()));
        four.or_else(|| address.as_sockaddr_in6().map(|six| IpAddr::from(six.ip())))
    });
    // A link-local address cannot be written into a browser, since it needs its interface.
    own.filter(|address| !matches!(address, IpAddr::V6(six) if six.is_unicast_link_local())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> String {
        let config: WebConfig = toml::from_str(text).unwrap();
        config.check().unwrap_err().to_string()
    }

    #[test]
    fn a_page_that_would_be_unsafe_or_cannot_be_is_refused_with_what_to_write() {
        WebConfig::default().check().unwrap();
        for (text, says) in [
            ("plain_http = true", "passwords would cross the network"),
            ("title = \" \"", "1 to 60 characters"),
            ("certificate = \"/a.pem\"", "its key is missing"),
            ("key = \"/a.key\"", "its certificate is missing"),
            ("template_dir = \"pages\"", "absolute path"),
            ("connections = 1", "8 to 65536"),
            ("connections = 20\nconnections_per_address = 30", "4 to 20"),
            ("limits = { celsius_warn = 90 }", "above celsius_bad"),
            ("limits = { disk_warn = 1 }", "5 (disk_bad) to 100"),
            ("listen = \"127.0.0.1:80\"\nplain_http = true\ncertificate = \"/a\"\nkey = \"/b\"", "remove certificate and key"),
        ] {
            assert!(wrong(text).contains(says), "{text}: {}", wrong(text));
        }
        let behind_a_proxy: WebConfig = toml::from_str("listen = \"[::1]:8080\"\nplain_http = true").unwrap();
        behind_a_proxy.check().unwrap();
        assert_eq!(address_of(&behind_a_proxy, behind_a_proxy.listen), "http://[::1]:8080/");
    }

    #[test]
    fn a_certificate_of_the_users_own_is_shown_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (_, made) = ours(dir.path(), dms3_core::time::Timestamp::from_secs(1_795_000_000)).unwrap();
        let (certificate, key) = (dir.path().join("web/page.crt"), dir.path().join("web/page.key"));
        let papers = own_papers(&certificate, &key).unwrap();
        assert_eq!((&papers.chain[..], &papers.fingerprint), (&made.chain[..1], &made.fingerprint));
        std::fs::write(&key, "nothing").unwrap();
        assert!(own_papers(&certificate, &key).unwrap_err().to_string().contains("holds no key in PEM"));
        std::fs::remove_file(&certificate).unwrap();
        assert!(own_papers(&certificate, &key).unwrap_err().to_string().contains("may the node's user read it"));
    }
}
