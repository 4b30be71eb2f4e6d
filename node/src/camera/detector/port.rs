//! Asks a running Motion on this machine: by its web control whether it detects and has a picture, by its stream what it sees.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use data_encoding::BASE64;
use dms3_core::protocol::message::STILL_LIMIT;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Motion answers in milliseconds; a busy Pi needs more.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// An answer is a line for each camera.
const ANSWER_LIMIT: u64 = 64 * 1024;
/// A picture, with what is said before it.
const PICTURE_LIMIT: u64 = STILL_LIMIT as u64 + 1024;

/// Where Motion's web control or its stream is, and what it wants to hear. Only on this machine: whoever reaches them rules Motion, or sees
/// what it sees.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct MotionPort {
    pub(crate) port: u16,
    /// `user:password`, for HTTP's basic authentication.
    pub(crate) login: Option<String>,
}

impl std::fmt::Debug for MotionPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MotionPort").field("port", &self.port).finish_non_exhaustive()
    }
}

/// How every JPEG begins.
const JPEG: &[u8] = &[0xff, 0xd8, 0xff];

/// What Motion said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It detects, and has a picture as far as it knows: it takes half a minute to notice that a network camera is gone.
    Detecting,
    Paused,
    NoPicture,
    /// It lives, but does not tell: another login, another version, another camera id.
    Unclear,
}

impl MotionPort {
    /// Of the web control. An error means that nobody answered.
    pub(crate) async fn ask(self) -> Result<Answer> {
        let both = async { anyhow::Ok((self.get("/0/detection/status").await?, self.get("/0/detection/connection").await?)) };
        let (status, connection) = tokio::time::timeout(ANSWER_WITHIN, both).await.context("no answer in time")??;
        Ok(read_answers(&status, &connection))
    }

    /// Of the stream: the latest picture, as JPEG. Motion has none ready while nobody looks: it makes one for who asks.
    pub(crate) async fn picture(self) -> Result<Vec<u8>> {
        let mut answer =
            tokio::time::timeout(ANSWER_WITHIN, self.ask_for("/current", PICTURE_LIMIT)).await.context("no answer in time")??;
        let begin = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").map(|end| end + 4);
        match begin {
            Some(begin) if answer[begin..].starts_with(JPEG) && answer.len() - begin <= STILL_LIMIT as usize => Ok(answer.split_off(begin)),
            _ => bail!("Motion gives no picture"),
        }
    }

    pub(super) async fn get(&self, path: &str) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.ask_for(path, ANSWER_LIMIT).await?).into_owned())
    }

    async fn ask_for(&self, path: &str, limit: u64) -> Result<Vec<u8>> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await?;
        let login = match &self.login {
            Some(login) => format!("Authorization: Basic {}\r\n", BASE64.encode(login.as_bytes())),
            None => String::new(),
        };
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n{login}\r\n").as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(limit).read_to_end(&mut answer).await?;
        if !answer.starts_with(b"HTTP/") {
            bail!("what answers is no Motion");
        }
        Ok(answer)
    }
}

/// `detection/status` has one line for each camera: "Camera 0 Detection status ACTIVE" or PAUSE; `detection/connection`:
/// "Camera 0 Connection OK" or "Lost connection". An error comes as 200 with "Bad Request" in the body.
fn read_answers(status: &str, connection: &str) -> Answer {
    if connection.contains("Lost connection") {
        Answer::NoPicture
    } else if status.contains("status PAUSE") {
        Answer::Paused
    } else if status.contains("status ACTIVE") && connection.contains("Connection OK") {
        Answer::Detecting
    } else {
        Answer::Unclear
    }
}

/// A port of this machine that is kept for one Motion. A bound socket that never listens: nobody else is given the port, and Motion, which
/// sets SO_REUSEADDR, can still listen on it. So it is chosen long before Motion is started.
#[derive(Debug)]
pub(crate) struct ReservedPort {
    _socket: Socket,
    port: u16,
}

impl ReservedPort {
    pub(crate) fn new() -> Result<Self> {
        let reserve = || -> std::io::Result<Self> {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
            let port = socket.local_addr()?.as_socket().map(|address| address.port()).unwrap_or_default();
            Ok(Self { _socket: socket, port })
        };
        reserve().context("cannot get a port on this machine for Motion")
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_camera_without_picture_or_paused_is_not_watching() {
        let ok = "HTTP/1.1 200 OK\r\n\r\nCamera 0 Detection status ACTIVE \n";
        let connected = "HTTP/1.1 200 OK\r\n\r\nCamera 0 \nCamera 0 Connection OK \n";
        assert_eq!(read_answers(ok, connected), Answer::Detecting);
        assert_eq!(read_answers("Camera 0 Detection status PAUSE \n", connected), Answer::Paused);
        assert_eq!(read_answers(ok, "Camera 1 Connection OK \nCamera 2 Lost connection \n"), Answer::NoPicture);
        let bad = "HTTP/1.1 200 OK\r\n\r\nBad Request \nThe server did not understand your request. \n";
        assert_eq!(read_answers(bad, bad), Answer::Unclear);
        assert_eq!(read_answers("HTTP/1.1 401 Unauthorized\r\n\r\n", ""), Answer::Unclear);
    }

    #[tokio::test]
    async fn a_reserved_port_can_be_listened_on_by_one_that_reuses_addresses() {
        let reserved = ReservedPort::new().unwrap();
        let other = ReservedPort::new().unwrap();
        assert_ne!(reserved.port(), other.port());
        assert!(MotionPort { port: reserved.port(), login: None }.ask().await.is_err());
        let _motion = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, reserved.port())).unwrap();
    }
}
