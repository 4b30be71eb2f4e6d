//! Each page in each state that it may be in, with no house behind it: `/PAGE/STATE` is web/samples/PAGE/STATE.json.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use dms3_web::templates::PAGE;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How the house answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answers {
    Well,
    /// That nobody is signed in.
    NobodyIsSignedIn,
    NotAtAll,
}

#[derive(Debug)]
pub(crate) struct Samples {
    address: SocketAddr,
    answers: watch::Sender<Answers>,
    _server: JoinSet<()>,
}

fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("web/samples")
}

impl Samples {
    /// On a free port of this machine.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (answers, seen) = watch::channel(Answers::Well);
        let mut server = JoinSet::new();
        server.spawn(serve(listener, seen));
        Self { address, answers, _server: server }
    }

    pub(crate) fn address(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn answer(&self, how: Answers) {
        self.answers.send_replace(how);
    }

    /// Each page with its states, by name.
    pub(crate) fn all() -> Vec<(String, Vec<String>)> {
        let names = |dir: &Path| {
            let paths = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
            let mut names: Vec<_> = paths.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
            names.sort();
            names
        };
        names(&samples()).into_iter().map(|page| (page.clone(), names(&samples().join(page)))).collect()
    }
}

async fn serve(listener: TcpListener, answers: watch::Receiver<Answers>) {
    let mut visits = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = visits.join_next() => {}
            Ok((visitor, _)) = listener.accept() => {
                let answers = answers.clone();
                visits.spawn(async move {
                    // A browser that went away ends its own visit.
                    let _ = answer(visitor, answers).await;
                });
            }
        }
    }
}

/// One question and its answer.
async fn answer(mut visitor: TcpStream, mut answers: watch::Receiver<Answers>) -> io::Result<()> {
    let mut lines = BufReader::new(&mut visitor).lines();
    let first = lines.next_line().await?.unwrap_or_default();
    while lines.next_line().await?.is_some_and(|line| !line.is_empty()) {}
    let path = first.split(' ').nth(1).unwrap_or_default();
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    let now = *answers.borrow_and_update();
    let (status, head, body) = match (now, path) {
        (Answers::NotAtAll, _) => return Ok(()),
        (Answers::NobodyIsSignedIn, "/" | "/updates") => ("303 See Other", "Location: /sign-in/fresh".to_owned(), Vec::new()),
        (Answers::Well, "/updates") => {
            // A house in which nothing happens, until it answers otherwise.
            visitor.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n: well\n\n").await?;
            let _ = answers.changed().await;
            return Ok(());
        }
        _ => match found(path) {
            Some((mime, body)) => ("200 OK", format!("Content-Type: {mime}\r\nCache-Control: max-age=3600"), body),
            None => ("404 Not Found", "Content-Type: text/plain".to_owned(), Vec::new()),
        },
    };
    let head = format!("HTTP/1.1 {status}\r\n{head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    visitor.write_all(&[head.as_bytes(), &body].concat()).await
}

/// Type and bytes.
fn found(path: &str) -> Option<(&'static str, Vec<u8>)> {
    let (dir, name) = path.strip_prefix('/')?.split_once('/')?;
    if dir == "assets" {
        return dms3_web::asset(name);
    }
    if let Some(picture) = name.strip_suffix(".jpg").filter(|_| dir == "media") {
        return Some(("image/svg+xml", scene(picture).into_bytes()));
    }
    let template = PAGE.names().find(|template| template.strip_suffix(".html") == Some(dir))?;
    let facts = std::fs::read(samples().join(dir).join(format!("{name}.json"))).ok()?;
    let facts: serde_json::Value = serde_json::from_slice(&facts).unwrap();
    Some(("text/html; charset=utf-8", PAGE.templates(None).render(template, &facts).unwrap().into_bytes()))
}

/// What a camera of that name sees: somebody before a wall.
fn scene(name: &str) -> String {
    let [air, ground, wall, door, coat] = match name.trim_end_matches("-thumb") {
        "porch" => ["#26323f", "#2e382f", "#5d4e42", "#2f2621", "#46536b"],
        "porch-day" => ["#b9d3e6", "#8fa07f", "#b89f88", "#6b4d3a", "#a33b35"],
        "garden" => ["#c7dcea", "#6f9150", "#4f6b3d", "#86a765", "#d8c84a"],
        "garage" => ["#8d9296", "#6d7074", "#a3a7ab", "#55595d", "#2c3e66"],
        _ => ["#e2d8c9", "#a88b6a", "#cdbfae", "#8b6f56", "#3c6b5f"],
    };
    format!(
        "<svg xmlns='http://www.w3.org/2000/svg' width='640' height='480' viewBox='0 0 640 480'><rect width='640' height='480' fill='{air}'/>\
         <rect y='380' width='640' height='100' fill='{ground}'/><rect x='70' y='60' width='400' height='330' fill='{wall}'/>\
         <rect x='230' y='170' width='110' height='220' fill='{door}'/><circle cx='300' cy='120' r='15' fill='#ffe9a8'/>\
         <circle cx='430' cy='180' r='26' fill='#c99f7f'/><path d='M394 216q36-24 72 0l14 130h-28l-6 84h-32l-6-84h-28z' fill='{coat}'/></svg>"
    )
}
