//! The dashboard's part of `scripts/bench`: a house that has seen much, and a browser's questions, timed.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use dms3_core::arming::ArmState;
use dms3_core::event::{Event, EventKind, OwnMail};
use dms3_core::id::{EventId, NodeId};
use dms3_core::roster::{NodeRole, NodeStatus, RosterRow};
use dms3_core::time::Timestamp;
use dms3_node::clock::wall;
use dms3_node::store::Store;
use dms3_node::store::events::{Events, MEDIA_DIR};
use dms3_node::store::media::Media;
use reqwest::Client;
use reqwest::redirect::Policy;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

const PASSWORD: &str = "only for this bench";
/// Events that are written together.
const TOGETHER: u64 = 64;

/// Nodes and events, written into the state of a coordinator that does not run.
pub(crate) async fn house(state: &Path, nodes: u8, events: u64) -> Result<()> {
    let store = Store::open(state).await?;
    let now = wall();
    for nth in 0..nodes {
        let row = RosterRow {
            node: node(nth),
            role: NodeRole::Camera,
            name: format!("camera {nth}"),
            status: NodeStatus::Active,
            enrolled_at: now,
            revoked_at: None,
            token: None,
        };
        store.add_node(&row).await?;
    }
    store.close().await;
    let kept = Events::open(state).await?.events;
    let media = Media::open(&state.join(MEDIA_DIR))?;
    for first in (0..events).step_by(usize::try_from(TOGETHER)?) {
        let some = (first..events.min(first + TOGETHER)).map(|nth| {
            let began = now - Duration::from_secs(120 * nth);
            let (kept, media) = (kept.clone(), media.clone());
            async move {
                let camera = u8::try_from(nth % u64::from(nodes))?;
                let mut id = [0; 16];
                id[8..].copy_from_slice(&nth.to_be_bytes());
                kept.keep_event(&media, node(camera), &format!("camera {camera}"), &event(EventId(id), began), began, now).await
            }
        });
        for kept in futures_util::future::join_all(some).await {
            kept?;
        }
    }
    kept.close().await;
    Ok(())
}

fn node(nth: u8) -> NodeId {
    NodeId([nth.wrapping_add(1); 32])
}

fn event(id: EventId, began: Timestamp) -> Event {
    Event {
        id,
        source: "cam".to_owned(),
        kind: EventKind::Movement,
        started: began,
        started_since_boot: None,
        ended: Some(began),
        changed: Some(5),
        state: ArmState::Away,
        attachments: Vec::new(),
        rev: 1,
        own_mail: OwnMail::None,
    }
}

/// Somebody who is signed in: the owner, by the code.
async fn owner(base: &str, authority: &Path, code: &str) -> Result<Client> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority)?)?;
    let tls = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    // HTTP/1, so that each open page has a connection of its own, as a phone has.
    let client =
        Client::builder().tls_backend_preconfigured(tls).http1_only().cookie_store(true).redirect(Policy::none()).no_proxy().build()?;
    let fields = format!("code={code}&name=Ann&password={0}&again={0}", PASSWORD.replace(' ', "+"));
    let form = ("content-type", "application/x-www-form-urlencoded");
    let set_up = client.post(format!("{base}/set-up")).header(form.0, form.1).body(fields).send().await?;
    ensure!(set_up.status().as_u16() == 303, "no owner was made: {}", set_up.text().await?);
    Ok(client)
}

/// Open pages, each of which heard once what holds.
async fn open(client: &Client, base: &str, pages: usize) -> Result<(JoinSet<Result<()>>, mpsc::UnboundedReceiver<(Instant, String)>)> {
    let (told, mut heard) = mpsc::unbounded_channel();
    let mut open = JoinSet::new();
    for _ in 0..pages {
        let (client, base, told) = (client.clone(), base.to_owned(), told.clone());
        open.spawn(async move { watch(&client, &base, told).await });
    }
    for _ in 0..pages {
        next(&mut heard, &mut open).await?;
    }
    Ok((open, heard))
}

/// Keeps pages open until standard input ends. Prints a line when all are.
pub(crate) async fn keep_open(base: &str, authority: &Path, code: &str, pages: usize) -> Result<()> {
    let client = owner(base, authority, code).await?;
    let (mut open, mut heard) = open(&client, base, pages).await?;
    crate::say("open");
    let mut end = [0];
    let mut input = tokio::io::stdin();
    let ends = tokio::io::AsyncReadExt::read(&mut input, &mut end);
    let hears = async {
        loop {
            tokio::select! {
                _ = heard.recv() => {}
                Some(ended) = open.join_next() => return ended?.and_then(|()| bail!("an open page ended")),
            }
        }
    };
    tokio::select! {
        ended = ends => {
            ended?;
            Ok(())
        }
        ended = hears => ended,
    }
}

/// What the first screen costs. Prints one JSON object.
pub(crate) async fn page(base: &str, authority: &Path, code: &str, pid: u32, times: usize, pages: usize, flips: usize) -> Result<()> {
    let client = owner(base, authority, code).await?;
    let form = ("content-type", "application/x-www-form-urlencoded");
    let home = text(&client, base, "/").await?;
    let secret = between(&home, "name=\"csrf\" value=\"", "\"").context("no form on the first screen")?.to_owned();
    let mut took = Vec::with_capacity(times);
    for _ in 0..times {
        let began = Instant::now();
        ensure!(text(&client, base, "/").await?.contains("Not seen yet"), "that is not the first screen");
        took.push(began.elapsed());
    }
    let warm = packed(&client, base, "/").await?;
    let mut cold = warm;
    let plain = home.replace("&#x2f;", "/");
    let mut assets: Vec<&str> =
        plain.split('"').filter(|text| text.starts_with("/assets/")).map(|text| text.split('#').next().unwrap_or(text)).collect();
    assets.sort_unstable();
    assets.dedup();
    for asset in assets {
        cold += packed(&client, base, asset).await?;
    }
    let began = Instant::now();
    let mut asking = JoinSet::new();
    for _ in 0..8 {
        let (client, base) = (client.clone(), base.to_owned());
        asking.spawn(async move {
            let mut answered = 0_u32;
            while began.elapsed() < Duration::from_secs(5) {
                text(&client, &base, "/").await?;
                answered += 1;
            }
            anyhow::Ok(answered)
        });
    }
    let mut answered = 0;
    while let Some(one) = asking.join_next().await {
        answered += one??;
    }
    let rps = f64::from(answered) / began.elapsed().as_secs_f64();

    let before = resident_kib(pid)?;
    let (mut open, mut heard) = open(&client, base, pages).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let per_page = resident_kib(pid)?.saturating_sub(before) / pages.max(1) as u64;
    let mut seen = Vec::with_capacity(flips * pages);
    for flip in 0..flips {
        let (path, word) = if flip % 2 == 0 { ("/disarm", "Disarmed") } else { ("/arm", "Armed") };
        let began = Instant::now();
        let body = format!("csrf={secret}&state=away&now=1&back=/");
        let client = client.clone();
        let url = format!("{base}{path}");
        let mut asked = JoinSet::new();
        asked.spawn(async move { client.post(url).header(form.0, form.1).body(body).send().await });
        let mut missing = pages;
        while missing > 0 {
            let (at, said) = next(&mut heard, &mut open).await?;
            if at >= began && said.starts_with(word) {
                seen.push(at - began);
                missing -= 1;
            }
        }
        let answer = asked.join_next().await.context("nothing was asked")???;
        ensure!(answer.status().as_u16() == 303, "{path} was refused");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    open.shutdown().await;
    let millis = |mut all: Vec<Duration>, part: f64| {
        all.sort_unstable();
        let at = (part * all.len() as f64).ceil() as usize;
        all.get(at.saturating_sub(1)).map_or(0.0, |time| time.as_secs_f64() * 1000.0)
    };
    println!(
        "{{\"page_p50_ms\": {}, \"page_p99_ms\": {}, \"page_cold_kb\": {}, \"page_warm_kb\": {}, \"visible_p50_ms\": {}, \"visible_p99_ms\": {}, \
         \"page_rps\": {rps}, \"kb_per_open_page\": {per_page}}}",
        millis(took.clone(), 0.5),
        millis(took, 0.99),
        cold as f64 / 1000.0,
        warm as f64 / 1000.0,
        millis(seen.clone(), 0.5),
        millis(seen, 0.99),
    );
    Ok(())
}

/// What an open page hears next; one that ends ends all.
async fn next(heard: &mut mpsc::UnboundedReceiver<(Instant, String)>, open: &mut JoinSet<Result<()>>) -> Result<(Instant, String)> {
    let said = async {
        tokio::select! {
            said = heard.recv() => said.context("nobody listens"),
            Some(ended) = open.join_next() => ended?.and_then(|()| bail!("an open page ended")),
        }
    };
    tokio::time::timeout(Duration::from_secs(10), said).await.context("an open page heard nothing for 10 s")?
}

/// An open page: says when it heard which state.
async fn watch(client: &Client, base: &str, told: mpsc::UnboundedSender<(Instant, String)>) -> Result<()> {
    let mut response = client.get(format!("{base}/updates")).send().await?;
    ensure!(response.status().as_u16() == 200, "no updates: {}", response.status());
    let mut heard = String::new();
    while let Some(bytes) = response.chunk().await? {
        heard.push_str(&String::from_utf8_lossy(&bytes));
        while let Some((event, rest)) = heard.split_once("\n\n") {
            if event.lines().any(|line| line == "event: banner") {
                let word = between(event, "data-word=\"", "\"").unwrap_or_default().to_owned();
                drop(told.send((Instant::now(), word)));
            }
            heard = rest.to_owned();
        }
    }
    bail!("an open page was closed")
}

async fn text(client: &Client, base: &str, path: &str) -> Result<String> {
    let answer = client.get(format!("{base}{path}")).header("accept", "text/html").send().await?;
    ensure!(answer.status().as_u16() == 200, "{path}: {}", answer.status());
    Ok(answer.text().await?)
}

/// Bytes of a body as a browser gets it.
async fn packed(client: &Client, base: &str, path: &str) -> Result<usize> {
    let answer = client.get(format!("{base}{path}")).header("accept", "text/html").header("accept-encoding", "gzip").send().await?;
    ensure!(answer.status().as_u16() == 200, "{path}: {}", answer.status());
    Ok(answer.bytes().await?.len())
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    text.split_once(before)?.1.split_once(after).map(|(found, _)| found)
}

fn resident_kib(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.split_whitespace().next().context("no number")?.parse()?)
}
