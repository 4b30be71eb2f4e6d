//! A connection to the system bus, by which BlueZ is asked and heard.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::wire::{self, Call, Kind, Message};

/// The variable, and where the bus is without it (D-Bus Specification, "Well-known Message Bus Instances").
const VARIABLE: &str = "DBUS_SYSTEM_BUS_ADDRESS";
const USUAL: &str = "unix:path=/var/run/dbus/system_bus_socket";
/// The bus, and BlueZ, answer at once or not at all. Starting to listen takes the radio a moment.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Signals that may come before the answer to a question.
const AHEAD: usize = 1000;
/// And so much of them: any program of this machine can send us some.
const AHEAD_BYTES: usize = 4 << 20;
/// What it says of itself at the beginning is one short line.
const LINE_AT_MOST: usize = 512;
/// Kept for the next message.
const BUFFER: usize = 16 << 10;

/// The bus itself.
pub(super) const BUS: &str = "org.freedesktop.DBus";

pub(super) struct Bus {
    stream: UnixStream,
    /// What came and is not read yet.
    buffer: Vec<u8>,
    /// What came before the answer that was waited for.
    ahead: VecDeque<Message>,
    serial: u32,
}

impl Bus {
    pub(super) async fn connect() -> Result<Self> {
        let address = std::env::var(VARIABLE).ok().filter(|address| !address.is_empty()).unwrap_or_else(|| USUAL.to_owned());
        let path = path_of(&address).with_context(|| format!("{VARIABLE} is {address:?}: only unix:path=... is understood"))?;
        tokio::time::timeout(ANSWER_WITHIN, Self::enter(path)).await.context("it does not answer")?.with_context(|| path.to_owned())
    }

    async fn enter(path: &str) -> Result<Self> {
        let mut stream = UnixStream::connect(path).await?;
        // The kernel tells the bus who we are; it wants to hear the same from us.
        let user = data_encoding::HEXLOWER.encode(nix::unistd::geteuid().to_string().as_bytes());
        stream.write_all(format!("\0AUTH EXTERNAL {user}\r\n").as_bytes()).await?;
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            ensure!(line.len() < LINE_AT_MOST, "it is no D-Bus");
            line.push(stream.read_u8().await?);
        }
        ensure!(line.starts_with(b"OK "), "it does not let this user in");
        stream.write_all(b"BEGIN\r\n").await?;
        let mut bus = Self { stream, buffer: Vec::new(), ahead: VecDeque::new(), serial: 0 };
        let hello = bus.ask_the_bus("Hello", &[]).await?;
        ensure!(hello.kind == Kind::Answer, "it says {}", hello.words());
        Ok(bus)
    }

    /// Asks the bus itself.
    pub(super) async fn ask_the_bus(&mut self, member: &str, texts: &[&str]) -> Result<Message> {
        self.ask(&Call { to: BUS, path: "/org/freedesktop/DBus", interface: BUS, member, texts, settings: None }).await
    }

    /// Asks and waits for the answer, which may be a refusal.
    pub(super) async fn ask(&mut self, call: &Call<'_>) -> Result<Message> {
        let answer = async {
            let serial = self.send(call).await?;
            loop {
                let message = self.read().await?;
                if message.answers == Some(serial) && matches!(message.kind, Kind::Answer | Kind::Refusal) {
                    return Ok(message);
                }
                self.ahead.push_back(message);
                let held: usize = self.ahead.iter().map(Message::length).sum();
                ensure!(self.ahead.len() <= AHEAD && held <= AHEAD_BYTES, "it tells more than can be listened to");
            }
        };
        tokio::time::timeout(ANSWER_WITHIN, answer).await.with_context(|| format!("{} does not answer ({})", call.to, call.member))?
    }

    /// Asks; the answer comes as a message that names the number.
    pub(super) async fn send(&mut self, call: &Call<'_>) -> Result<u32> {
        // Zero is no number.
        self.serial = self.serial.wrapping_add(1).max(1);
        let bytes = wire::call(call, self.serial);
        tokio::time::timeout(ANSWER_WITHIN, self.stream.write_all(&bytes)).await.context("the system bus takes nothing")??;
        Ok(self.serial)
    }

    /// The next message. Cancel safe.
    pub(super) async fn receive(&mut self) -> Result<Message> {
        match self.ahead.pop_front() {
            Some(message) => Ok(message),
            None => self.read().await,
        }
    }

    async fn read(&mut self) -> Result<Message> {
        loop {
            if let Some((message, length)) = wire::first(&self.buffer).map_err(anyhow::Error::msg)? {
                self.buffer.drain(..length);
                if self.buffer.is_empty() {
                    self.buffer.shrink_to(BUFFER);
                }
                return Ok(message);
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                bail!("the system bus ended the connection");
            }
        }
    }
}

/// The first way that an address names, if it is one that we know.
fn path_of(address: &str) -> Option<&str> {
    address.split(';').find_map(|way| way.strip_prefix("unix:")?.split(',').find_map(|part| part.strip_prefix("path=")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bus_is_where_its_address_says() {
        assert_eq!(path_of(USUAL), Some("/var/run/dbus/system_bus_socket"));
        assert_eq!(path_of("tcp:host=x;unix:guid=1,path=/tmp/bus"), Some("/tmp/bus"));
        assert_eq!(path_of("unix:abstract=/tmp/bus"), None);
    }

    #[tokio::test]
    async fn a_program_that_sends_us_much_while_we_wait_for_an_answer_does_not_fill_our_memory() {
        let (stream, mut other) = UnixStream::pair().unwrap();
        let mut bus = Bus { stream, buffer: Vec::new(), ahead: VecDeque::new(), serial: 0 };
        let much = "x".repeat(1 << 19);
        let much = wire::call(&Call { to: "", path: "/", interface: "", member: "Much", texts: &[&much], settings: None }, 1);
        let sends = async { while other.write_all(&much).await.is_ok() {} };
        let error = tokio::select! {
            asked = bus.ask_the_bus("Hello", &[]) => asked.unwrap_err(),
            () = sends => panic!("nobody reads"),
        };
        assert!(error.to_string().contains("more than can be listened to"), "{error:#}");
        assert!(bus.ahead.iter().map(Message::length).sum::<usize>() <= AHEAD_BYTES + much.len());
    }
}
