//! The way to a mail server, up to the point where it is safe to speak: name, TCP, TLS.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lettre::transport::smtp::extension::ClientId;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::config::{MailConfig, Security, is_hello_name};
use wire::{Stream, Wire};

mod wire;

/// Why mail does not go out now, and what to do, for a person: a whole sentence or two.
pub(super) type Why = String;

/// Small, so that what the kernel took is nearly what the server has: else a slow line looks like a server that does not answer.
const SEND_BUFFER: usize = 64 * 1024;
/// Bytes of an answer before TLS; real ones have a few hundred.
const LONGEST_ANSWER: usize = 16 * 1024;

/// A stream to the server on which its greeting comes first, and what we call ourselves there. Once `broken` is set nothing more is sent.
pub(super) async fn connect(config: &MailConfig, broken: Arc<AtomicBool>) -> Result<(Wire, ClientId), Why> {
    let tls = match config.security {
        Security::None => None,
        Security::StartTls | Security::Tls => {
            let trusted = trusted(config.ca_file.as_deref()).map_err(|error| format!("{}: {error:#}.", at(config)))?;
            Some(TlsConnector::from(Arc::new(trusted)))
        }
    };
    let mut tcp = tcp(config).await?;
    let hello = hello_name(config, &tcp);
    let (stream, greeting) = match (config.security, tls) {
        (Security::StartTls, Some(tls)) => {
            let greeting = start_tls(config, &mut tcp, &hello).await?;
            (handshake(config, &tls, tcp).await?, greeting)
        }
        (_, Some(tls)) => (handshake(config, &tls, tcp).await?, Vec::new()),
        (_, None) => (Stream::Plain(tcp), Vec::new()),
    };
    Ok((Wire::new(stream, greeting, config.timeout, broken), hello))
}

/// "mail server smtp.example.org, port 587"
pub(super) fn at(config: &MailConfig) -> String {
    format!("mail server {}, port {}", config.server, config.port)
}

pub(super) fn silent(config: &MailConfig, what: &str) -> Why {
    let hint = match (config.security, config.port) {
        (Security::StartTls, 465) => ". On port 465 most servers expect security = \"tls\" in [mail]",
        (Security::Tls, 587 | 25) => ". On this port most servers expect security = \"starttls\" in [mail]",
        _ => ". Try again later; if it stays so, ask who runs the server",
    };
    format!("{}: no answer for {} {what}{hint}.", at(config), humantime::format_duration(config.timeout))
}

/// Why a connection broke, without what only programmers read.
pub(super) fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "the server closed it".to_owned(),
        _ => error.to_string(),
    }
}

/// What it takes to be believed. An error says what to do.
pub(super) fn trusted(ca_file: Option<&Path>) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(path) => {
            let cannot = || {
                format!(
                    "cannot use ca_file {} of [mail]: it must be readable for the node and hold a CA certificate in PEM",
                    path.display()
                )
            };
            // `dev/zero` is no CA.
            ensure!(std::fs::metadata(path).with_context(cannot)?.is_file(), "{}; it is no file", cannot());
            for certificate in CertificateDer::pem_file_iter(path).with_context(cannot)? {
                roots.add(certificate.with_context(cannot)?).with_context(cannot)?;
            }
            ensure!(!roots.is_empty(), "{}; there is none", cannot());
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

async fn tcp(config: &MailConfig) -> Result<TcpStream, Why> {
    let name = (config.server.as_str(), config.port);
    let found = match tokio::time::timeout(config.timeout, tokio::net::lookup_host(name)).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => {
            return Err(format!(
                "cannot find the mail server {}: {error}. Is `server` in [mail] right, and does this machine reach the internet?",
                config.server
            ));
        }
        Err(_) => {
            return Err(format!(
                "cannot find the mail server {}: no name server answers. Does this machine reach the internet?",
                config.server
            ));
        }
    };
    // Without TLS `localhost` must be what it says, whatever the name service thinks.
    let may = |address: &SocketAddr| config.security != Security::None || config.allow_clear_text || address.ip().is_loopback();
    let mut last = None;
    for address in found.filter(may) {
        let error = match tokio::time::timeout(config.timeout, TcpStream::connect(address)).await {
            Ok(Ok(tcp)) => {
                // Neither is needed to be right.
                let _ = tcp.set_nodelay(true);
                let _ = socket2::SockRef::from(&tcp).set_send_buffer_size(SEND_BUFFER);
                return Ok(tcp);
            }
            Ok(Err(error)) => error,
            Err(_) => io::ErrorKind::TimedOut.into(),
        };
        last = Some((address, error));
    }
    let Some((address, error)) = last else {
        return Err(format!("{}: its name leads to no address that may be used.", at(config)));
    };
    let to_do = match error.kind() {
        io::ErrorKind::ConnectionRefused => "Nothing listens there: is `port` in [mail] right, and does the server run?",
        io::ErrorKind::TimedOut => "Nothing answers there: is `port` in [mail] right, and does a firewall or the provider block it?",
        _ => "Does this machine reach the network?",
    };
    Err(format!("{}: cannot connect to {}: {error}. {to_do}", at(config), address.ip()))
}

fn hello_name(config: &MailConfig, tcp: &TcpStream) -> ClientId {
    if let Some(name) = &config.hello_name {
        return ClientId::Domain(name.clone());
    }
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    match (host, tcp.local_addr().map(|address| address.ip())) {
        // RFC 5321, section 4.1.4: a name that the world knows, else the address.
        (Some(host), _) if host.contains('.') && is_hello_name(&host) => ClientId::Domain(host),
        (_, Ok(std::net::IpAddr::V4(ip))) => ClientId::Ipv4(ip),
        (_, Ok(std::net::IpAddr::V6(ip))) => ip.to_ipv4_mapped().map_or(ClientId::Ipv6(ip), ClientId::Ipv4),
        (_, Err(_)) => ClientId::Domain("localhost".to_owned()),
    }
}

/// The conversation before TLS, in which nothing is believed. Returns the greeting, for whoever speaks on.
///
/// Reads byte by byte: what somebody on the way slips in behind the last answer stays in the socket, where TLS chokes on it. lettre's own
/// STARTTLS would take it for the first answers after the handshake.
async fn start_tls(config: &MailConfig, tcp: &mut TcpStream, hello: &ClientId) -> Result<Vec<u8>, Why> {
    let timeout = config.timeout;
    let lost = |what: &str, error: io::Error| match error.kind() {
        io::ErrorKind::TimedOut => silent(config, what),
        io::ErrorKind::InvalidData => format!("{}: {error} {what}. Is that a mail server?", at(config)),
        _ => format!(
            "{}: the connection broke {what} ({}). Try again later, or look at security and port in [mail].",
            at(config),
            reason(&error)
        ),
    };
    let refused = |what: &str, answer: &Answer| format!("{}: it {what}: {}. Try again later.", at(config), answer.shown());
    let greeting = answer(tcp, timeout).await.map_err(|error| lost("after we connected", error))?;
    if greeting.code != 220 {
        return Err(refused("does not want to talk to us", &greeting));
    }
    let lines = ask(tcp, &format!("EHLO {hello}\r\n"), timeout).await.map_err(|error| lost("to EHLO", error))?;
    let offers = |word: &str| lines.text.lines().any(|line| line.get(4..).is_some_and(|line| line.trim().eq_ignore_ascii_case(word)));
    if lines.code != 250 {
        return Err(refused("does not take our EHLO", &lines));
    }
    if !offers("STARTTLS") {
        return Err(format!(
            "{}: it offers no STARTTLS, so password and pictures would be readable on the way, and nothing was sent. \
             Use another port (465 with security = \"tls\"), or ask who runs the server; if it always offered it, somebody may be listening.",
            at(config)
        ));
    }
    let ready = ask(tcp, "STARTTLS\r\n", timeout).await.map_err(|error| lost("to STARTTLS", error))?;
    if ready.code != 220 {
        return Err(refused("does not begin TLS", &ready));
    }
    Ok(greeting.text.into_bytes())
}

async fn handshake(config: &MailConfig, tls: &TlsConnector, tcp: TcpStream) -> Result<Stream, Why> {
    let name = ServerName::try_from(config.server.clone()).map_err(|_| format!("{}: that is no name of a server.", at(config)))?;
    match tokio::time::timeout(config.timeout, tls.connect(name, tcp)).await {
        Ok(Ok(stream)) => Ok(Stream::Tls(Box::<TlsStream<TcpStream>>::new(stream))),
        Ok(Err(error)) => Err(untrusted(config, &error)),
        Err(_) => Err(silent(config, "to our TLS")),
    }
}

fn untrusted(config: &MailConfig, error: &io::Error) -> Why {
    use CertificateError::{
        BadSignature, Expired, ExpiredContext, NotValidForName, NotValidForNameContext, NotValidYet, NotValidYetContext, UnknownIssuer,
    };
    let at = at(config);
    match error.get_ref().and_then(|error| error.downcast_ref()) {
        Some(rustls::Error::InvalidCertificate(why)) => match (why, &config.ca_file) {
            (Expired | ExpiredContext { .. }, _) => {
                format!(
                    "{at}: its certificate has expired, or this machine's clock is ahead. Look at the time here, then tell who runs the server."
                )
            }
            (NotValidYet | NotValidYetContext { .. }, _) => {
                format!("{at}: its certificate is not valid yet: this machine's clock is behind. Set the time.")
            }
            (NotValidForName | NotValidForNameContext { .. }, _) => format!(
                "{at}: its certificate is for another name. Write `server` in [mail] as the certificate has it; \
                 if it was right before, somebody may be listening."
            ),
            // A CA that was made anew has its old name and another key.
            (UnknownIssuer | BadSignature, Some(ca)) => format!(
                "{at}: its certificate was not issued by the CA in ca_file ({}). Is that the server's CA? If it was before, somebody may be listening.",
                ca.display()
            ),
            (UnknownIssuer, None) => format!(
                "{at}: nobody known vouches for its certificate. If the server has its own CA, name it by ca_file in [mail]; \
                 if it worked before, somebody may be listening."
            ),
            (why, _) => format!("{at}: its certificate cannot be believed: {why}. Tell who runs the server."),
        },
        _ => format!("{at}: TLS failed ({}). Does `security` in [mail] fit the port (465: \"tls\", 587: \"starttls\")?", reason(error)),
    }
}

/// What a server says before TLS.
struct Answer {
    code: u16,
    /// All lines, as they came.
    text: String,
}

impl Answer {
    fn shown(&self) -> String {
        format!("\"{}\"", super::smtp::shown(&self.text))
    }
}

async fn ask(tcp: &mut TcpStream, command: &str, timeout: Duration) -> io::Result<Answer> {
    tokio::time::timeout(timeout, tcp.write_all(command.as_bytes())).await??;
    answer(tcp, timeout).await
}

async fn answer(stream: &mut (impl AsyncRead + Unpin), timeout: Duration) -> io::Result<Answer> {
    let no_answer = || io::Error::new(io::ErrorKind::InvalidData, "something that is no SMTP came");
    let read = async {
        let mut text = String::new();
        loop {
            let begin = text.len();
            while !text[begin..].ends_with('\n') {
                let byte = stream.read_u8().await?;
                // As text it is shown to people only.
                text.push(if byte.is_ascii() { char::from(byte) } else { '?' });
                if text.len() > LONGEST_ANSWER {
                    return Err(no_answer());
                }
            }
            let line = &text[begin..];
            let code = line.get(..3).and_then(|code| code.parse().ok()).ok_or_else(no_answer)?;
            match line.as_bytes().get(3) {
                Some(b'-') => {}
                Some(b' ' | b'\r' | b'\n') => return Ok(Answer { code, text }),
                _ => return Err(no_answer()),
            }
        }
    };
    tokio::time::timeout(timeout, read).await?
}
