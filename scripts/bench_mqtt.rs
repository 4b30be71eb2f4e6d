//! What stands beside the mesh in `scripts/bench`: subscribers and a publisher of an MQTT 3.1.1 broker over mutual TLS, QoS 1.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use dms3_core::time::Timestamp;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, stdin};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::crowd::{self, Told};

const TOPIC: &str = "house";
/// As cameras: after a link that worked, spread over all.
const AT_ONCE: Duration = Duration::from_millis(250);
const CONNECT: Duration = Duration::from_secs(5);

/// From the specification (OASIS, MQTT 3.1.1, section 2.2.1), with the flags that we use.
const CONNECT_PACKET: u8 = 0x10;
const CONNACK: u8 = 0x20;
const PUBLISH_ONCE: u8 = 0x32;
const PUBACK: u8 = 0x40;
const SUBSCRIBE: u8 = 0x82;
const SUBACK: u8 = 0x90;

/// One connection. Short packets only.
struct Client {
    stream: BufReader<TlsStream<TcpStream>>,
}

/// Subscribers, as many as are asked for on standard input (see [`crowd::run`]).
pub(crate) async fn subscribers(dir: &Path, broker: &str) -> Result<()> {
    let tls = tls(dir)?;
    let begin = |number: usize, told: mpsc::UnboundedSender<Told>| {
        let (tls, broker) = (tls.clone(), broker.to_owned());
        async move {
            loop {
                let client = timeout(CONNECT, async {
                    let mut client = Client::connect(&tls, &broker, &format!("camera-{number}")).await?;
                    client.subscribe().await?;
                    anyhow::Ok(client)
                });
                if let Ok(Ok(mut client)) = client.await {
                    told.send(Told::Up(number))?;
                    while let Ok((id, payload)) = client.next().await {
                        let what = payload.first_chunk().map_or(0, |first| u64::from_be_bytes(*first));
                        told.send(Told::Applied {
                            what: format!("{what}"),
                            on: true,
                            decided: Timestamp(0),
                            bytes: payload.len(),
                            at: crowd::now(),
                        })?;
                        if client.write(PUBACK, &id).await.is_err() {
                            break;
                        }
                    }
                    told.send(Told::Down(number))?;
                }
                sleep(AT_ONCE.mul_f64(rand::random())).await;
            }
        }
    };
    crowd::run(begin, |words| bail!("what is {words:?}?")).await
}

/// Publishes what is said on standard input, `NUMBER BYTES`, and writes when it began to.
pub(crate) async fn publisher(dir: &Path, broker: &str) -> Result<()> {
    let mut client = Client::connect(&tls(dir)?, broker, "coordinator").await?;
    let mut lines = BufReader::new(stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let (number, bytes) = line.split_once(' ').context("NUMBER BYTES")?;
        let mut payload = number.parse::<u64>()?.to_be_bytes().to_vec();
        payload.resize(bytes.parse()?, 0);
        let packet = [text(TOPIC)?.as_slice(), &[0, 1], payload.as_slice()].concat();
        let began = crowd::now();
        client.write(PUBLISH_ONCE, &packet).await?;
        ensure!(client.read().await?.0 == PUBACK, "not confirmed");
        crate::say(&format!("published {began}"));
    }
    Ok(())
}

fn tls(dir: &Path) -> Result<TlsConnector> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(dir.join("ca.crt"))?)?;
    let (own, key) = (CertificateDer::from_pem_file(dir.join("client.crt"))?, PrivateKeyDer::from_pem_file(dir.join("client.key"))?);
    let mut config = rustls::ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![own], key)?;
    config.resumption = rustls::client::Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}

fn text(text: &str) -> Result<Vec<u8>> {
    Ok([&u16::try_from(text.len())?.to_be_bytes(), text.as_bytes()].concat())
}

impl Client {
    async fn connect(tls: &TlsConnector, broker: &str, name: &str) -> Result<Self> {
        let stream = TcpStream::connect(broker).await?;
        stream.set_nodelay(true)?;
        let host = broker.rsplit_once(':').context("HOST:PORT")?.0;
        let mut client =
            Self { stream: BufReader::with_capacity(1024, tls.connect(ServerName::try_from(host)?.to_owned(), stream).await?) };
        // Protocol level 4, a clean session, no keep-alive.
        let packet = [text("MQTT")?.as_slice(), &[4, 2, 0, 0], text(name)?.as_slice()].concat();
        client.write(CONNECT_PACKET, &packet).await?;
        ensure!(client.read().await? == (CONNACK, vec![0, 0]), "not let in");
        Ok(client)
    }

    async fn subscribe(&mut self) -> Result<()> {
        self.write(SUBSCRIBE, &[[0, 1].as_slice(), text(TOPIC)?.as_slice(), &[1]].concat()).await?;
        ensure!(self.read().await? == (SUBACK, vec![0, 1, 1]), "not subscribed");
        Ok(())
    }

    /// What was published: its number and its bytes.
    async fn next(&mut self) -> Result<([u8; 2], Vec<u8>)> {
        let (kind, packet) = self.read().await?;
        ensure!(kind == PUBLISH_ONCE, "a packet of type {kind:#x}");
        let (_, rest) = packet.split_at_checked(2 + TOPIC.len()).context("too short")?;
        let (id, payload) = rest.split_first_chunk().context("too short")?;
        Ok((*id, payload.to_vec()))
    }

    async fn write(&mut self, kind: u8, packet: &[u8]) -> Result<()> {
        let length = packet.len();
        ensure!(length < 128 * 128, "a packet that is too long for this client");
        let (low, high) = (u8::try_from(length % 128)?, u8::try_from(length / 128)?);
        let head = if high == 0 { vec![kind, low] } else { vec![kind, low | 0x80, high] };
        self.stream.write_all(&[head.as_slice(), packet].concat()).await?;
        Ok(self.stream.flush().await?)
    }

    async fn read(&mut self) -> Result<(u8, Vec<u8>)> {
        let kind = self.stream.read_u8().await?;
        let mut length = usize::from(self.stream.read_u8().await?);
        if length >= 0x80 {
            length = (length & 0x7f) + 128 * usize::from(self.stream.read_u8().await?);
        }
        let mut packet = vec![0; length];
        self.stream.read_exact(&mut packet).await?;
        Ok((kind, packet))
    }
}
