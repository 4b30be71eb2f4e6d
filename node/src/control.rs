//! The local control socket: `status`, `arm`, `token` and the like talk to the node of this machine. One JSON line asks, one answers.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use dms3_core::request::{Answer, Request};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Longest request, in bytes.
const LIMIT: u64 = 1 << 20;
/// Longest answer, of which nobody else's memory is made: a page of events with all the attachments that they may have.
const ANSWER_LIMIT: u64 = 64 << 20;
/// Nobody holds the socket longer than this without saying anything.
const PATIENCE: Duration = Duration::from_secs(10);
/// Rest after a visitor could not be let in.
const ACCEPT_AGAIN: Duration = Duration::from_secs(1);
/// Conversations at once.
const AT_ONCE: usize = 32;
/// Whoever is in this group may command the house.
const GROUP: &str = "dms3";

/// A request with who asks ("root", a user name) and where the answer goes.
#[derive(Debug)]
pub struct Asked {
    pub request: Request,
    pub by: String,
    /// User id of whoever asks, as the kernel says.
    pub uid: u32,
    pub answer: oneshot::Sender<Answer>,
}

/// A socket that is bound, so that `run` can be told ready only when it is.
pub struct Control {
    listener: UnixListener,
}

impl Control {
    /// A socket that an earlier node left is replaced; one that a living node serves is an error.
    pub async fn bind(path: &Path) -> Result<Self> {
        let dir = path.parent().context("the control socket has no directory")?;
        if !dir.exists() {
            std::fs::create_dir_all(dir).with_context(|| format!("cannot create {} (run_dir)", dir.display()))?;
        }
        if path.exists() {
            if UnixStream::connect(path).await.is_ok() {
                bail!(
                    "another node serves {}: two nodes on one machine need two configs with their own run_dir and state_dir",
                    path.display()
                );
            }
            std::fs::remove_file(path).with_context(|| format!("cannot remove the old socket {}", path.display()))?;
        }
        let listener = UnixListener::bind(path).with_context(|| format!("cannot create the control socket {}", path.display()))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))
            .with_context(|| format!("cannot protect {}", path.display()))?;
        // Without the group (no installation, a test) only root and our own user can come in.
        if let Some(group) = crate::owner::group(GROUP)
            && let Err(error) = nix::unistd::chown(path, None, Some(group))
        {
            tracing::debug!("the control socket stays with this user's own group: {error}");
        }
        Ok(Self { listener })
    }

    /// Serves until the stop; a visitor's fault ends only his own conversation.
    pub async fn run(self: Arc<Self>, requests: mpsc::Sender<Asked>, stop: CancellationToken) -> Result<()> {
        let mut visitors = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                Some(_) = visitors.join_next() => {}
                visitor = self.listener.accept(), if visitors.len() < AT_ONCE => {
                    let (stream, _) = match visitor {
                        Ok(visitor) => visitor,
                        Err(error) => {
                            // Out of descriptors, say: the house goes on, and so does this when there are some again.
                            tracing::warn!("the control socket cannot take a visitor: {error}");
                            tokio::time::sleep(ACCEPT_AGAIN).await;
                            continue;
                        }
                    };
                    let requests = requests.clone();
                    visitors.spawn(async move {
                        match tokio::time::timeout(PATIENCE * 2, converse(stream, requests)).await {
                            Ok(Ok(())) => {}
                            Ok(Err(error)) => tracing::debug!("a visitor of the control socket: {error:#}"),
                            Err(_) => tracing::debug!("a visitor of the control socket was too slow"),
                        }
                    });
                }
            }
        }
    }
}

async fn converse(mut stream: UnixStream, requests: mpsc::Sender<Asked>) -> Result<()> {
    let answer = match visitor(&stream) {
        Ok((by, uid)) => {
            let (read, _) = stream.split();
            let mut line = String::new();
            BufReader::new(read.take(LIMIT)).read_line(&mut line).await.context("reading the request")?;
            match serde_json::from_str(&line) {
                Ok(request) => {
                    let (answer, answered) = oneshot::channel();
                    requests.send(Asked { request, by, uid, answer }).await.map_err(|_| anyhow!("the node is stopping"))?;
                    answered.await.unwrap_or_else(|_| Answer::Refused("the node is stopping".to_owned()))
                }
                Err(error) => {
                    Answer::Refused(format!("the running node does not understand this request: is it of another version? ({error})"))
                }
            }
        }
        Err(error) => Answer::Refused(format!("{error:#}")),
    };
    let mut line = serde_json::to_vec(&answer).context("writing the answer")?;
    line.push(b'\n');
    stream.write_all(&line).await.context("sending the answer")?;
    stream.shutdown().await.context("ending the answer")
}

/// Who asks, as the kernel says. Root, our own user, and members of the group may.
fn visitor(stream: &UnixStream) -> Result<(String, u32)> {
    let peer = stream.peer_cred().context("the kernel does not say who asks")?;
    let user = nix::unistd::User::from_uid(peer.uid().into()).ok().flatten();
    let name = user.as_ref().map_or_else(|| format!("user {}", peer.uid()), |user| user.name.clone());
    if peer.uid() == 0 || peer.uid() == nix::unistd::geteuid().as_raw() {
        return Ok((name, peer.uid()));
    }
    let group = nix::unistd::Group::from_name(GROUP).ok().flatten();
    let member = group.is_some_and(|group| {
        peer.gid() == group.gid.as_raw() || user.as_ref().is_some_and(|user| user.gid == group.gid || group.mem.contains(&user.name))
    });
    if member { Ok((name, peer.uid())) } else { bail!("{name} may not command this node: only root and members of the group {GROUP} may") }
}

/// The service whose socket lies in /run/NAME, as scripts/install names it.
fn unit_of_socket(socket: &Path) -> &str {
    let dir = socket.parent().and_then(Path::file_name).and_then(|name| name.to_str());
    dir.filter(|name| name.starts_with("dms3-")).unwrap_or("dms3-node")
}

/// Asks the running node.
pub async fn ask(socket: &Path, request: &Request) -> Result<Answer> {
    let talk = async {
        let mut stream = UnixStream::connect(socket).await.map_err(|error| match error.kind() {
            std::io::ErrorKind::PermissionDenied => {
                anyhow!("you may not talk to the node: use sudo, or become a member of the group {GROUP} ({})", socket.display())
            }
            std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => {
                let unit = unit_of_socket(socket);
                anyhow!("no node is running here ({}): start it with `sudo systemctl start {unit}` or `dms3-node run`", socket.display())
            }
            _ => anyhow!(error).context(format!("cannot reach the node over {}", socket.display())),
        })?;
        let mut line = serde_json::to_vec(request).context("writing the request")?;
        line.push(b'\n');
        // Whoever may not ask is told so, and the door is shut, before he has asked: what cannot be sent may be answered.
        let sent = stream.write_all(&line).await;
        let mut answer = String::new();
        let heard = BufReader::new(stream.take(ANSWER_LIMIT)).read_line(&mut answer).await;
        if answer.is_empty() {
            sent.context("sending the request")?;
        }
        heard.context("reading the answer")?;
        serde_json::from_str(&answer).context("the node's answer cannot be read: is it of another version?")
    };
    match tokio::time::timeout(PATIENCE, talk).await {
        Ok(Ok(Answer::Refused(why))) => bail!("{why}"),
        Ok(answer) => answer,
        Err(_) => bail!("the node did not answer within {} s: see its log", PATIENCE.as_secs()),
    }
}
