//! Reaching a peer from here: what may be written as its address, one attempt, and how long to wait before the next.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use quinn::{Connection, ConnectionError};
use tokio::time::timeout;

use super::config::MESH_PORT;
use super::endpoint::Endpoint;
use super::link::{tls_alert, words};

/// One attempt, from the first packet to the end of the handshake.
pub const DIAL: Duration = Duration::from_secs(5);
/// Addresses of one name that are tried.
const ADDRESSES: usize = 8;
/// The address at which a coordinator was last authenticated.
const REMEMBERED: &str = "last_coordinator";

/// Why nobody of the house answered.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Somebody answered, and is not who we look for.
    #[error("{0}")]
    Rogue(String),
    /// A coordinator answered, and does not want this node.
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Unreachable(String),
}

/// Connects once. Ok means that the other side is who `tls` demands, not yet that it takes *our* certificate: only its first frame says that.
pub async fn dial(endpoint: &Endpoint, to: SocketAddr, name: &str, tls: Arc<rustls::ClientConfig>) -> Result<Connection, DialError> {
    let connecting = endpoint.connect(to, name, tls).map_err(|error| DialError::Unreachable(format!("{error:#}")))?;
    match timeout(DIAL, connecting).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(refusal(&error)),
        Err(_) => Err(DialError::Unreachable("no answer".to_owned())),
    }
}

/// Who is to blame for a handshake that failed.
pub fn refusal(error: &ConnectionError) -> DialError {
    match error {
        ConnectionError::TransportError(ours) if tls_alert(ours.code).is_some() => DialError::Rogue(words(error)),
        ConnectionError::ConnectionClosed(theirs) if tls_alert(theirs.error_code).is_some() => DialError::Refused(words(error)),
        _ => DialError::Unreachable(words(error)),
    }
}

/// Addresses of `HOST`, `HOST:PORT`, `1.2.3.4`, `fd00::1`, `[fd00::1]:47101`.
pub async fn resolve(peer: &str) -> Result<Vec<SocketAddr>> {
    let (host, port) = split_peer(peer).map_err(anyhow::Error::msg)?;
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    if let Ok(address) = peer.parse::<SocketAddr>() {
        return Ok(vec![address]);
    }
    let found = timeout(DIAL, tokio::net::lookup_host((host, port)))
        .await
        .map_err(|_| anyhow::anyhow!("the name {host} was not resolved in 5 s"))?
        .with_context(|| format!("cannot find the address of {host}"))?;
    Ok(found.take(ADDRESSES).collect())
}

/// Whether a configured peer can be an address at all.
pub fn check_peer(peer: &str) -> Result<(), String> {
    split_peer(peer).map(|_| ())
}

fn split_peer(peer: &str) -> Result<(&str, u16), String> {
    let wrong = || format!("\"{peer}\" is no address: write a name or an IP address, with :PORT if it is not {MESH_PORT}");
    let bare = peer.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(peer);
    let (host, port) = if bare.parse::<IpAddr>().is_ok() {
        (bare, MESH_PORT)
    } else {
        match peer.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?),
            None => (peer, MESH_PORT),
        }
    };
    let name = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let written = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
    if name.is_empty() || name.len() > 253 || !name.chars().all(written) {
        return Err(wrong());
    }
    Ok((name, port))
}

/// Where a coordinator was last authenticated, for the next start. Only a hint: what cannot be read is as good as nothing.
pub fn remembered(state_dir: &Path) -> Option<SocketAddr> {
    std::fs::read_to_string(state_dir.join(REMEMBERED)).ok()?.trim().parse().ok()
}

/// Keeps an address for [`remembered`].
pub fn remember(state_dir: &Path, address: SocketAddr) -> Result<()> {
    if remembered(state_dir) == Some(address) {
        return Ok(());
    }
    dms3_pki::files::write_atomic(&state_dir.join(REMEMBERED), format!("{address}\n").as_bytes(), dms3_pki::files::PRIVATE)?;
    Ok(())
}

/// 250 ms, doubled up to 30 s, with full jitter: a house full of cameras does not come back at one moment.
#[derive(Debug, Clone, Default)]
pub struct Backoff {
    attempts: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(250);
    const LAST: Duration = Duration::from_secs(30);

    /// How long to wait before the next attempt.
    pub fn wait(&mut self) -> Duration {
        let ceiling = self.ceiling();
        self.attempts = self.attempts.saturating_add(1);
        ceiling.mul_f64(rand::random_range(0.0..=1.0))
    }

    /// Only after a Welcome.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }

    fn ceiling(&self) -> Duration {
        Self::FIRST.saturating_mul(1 << self.attempts.min(16)).min(Self::LAST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_doubles_up_to_half_a_minute_and_no_two_cameras_wait_alike() {
        let mut backoff = Backoff::default();
        for expected in [250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000] {
            assert_eq!(backoff.ceiling(), Duration::from_millis(expected));
            assert!(backoff.wait() <= Duration::from_millis(expected));
        }
        let waits: std::collections::BTreeSet<_> = (0..20).map(|_| backoff.clone().wait()).collect();
        assert!(waits.len() > 10);
        backoff.reset();
        assert_eq!(backoff.ceiling(), Backoff::FIRST);
    }

    #[tokio::test]
    async fn a_peer_is_written_in_any_usual_way() {
        for (written, meant) in [
            ("192.168.1.2", "192.168.1.2:47100"),
            ("192.168.1.2:5000", "192.168.1.2:5000"),
            ("fd00::2", "[fd00::2]:47100"),
            ("[fd00::2]", "[fd00::2]:47100"),
            ("[fd00::2]:5000", "[fd00::2]:5000"),
            ("[fe80::2%3]:5000", "[fe80::2%3]:5000"),
        ] {
            assert_eq!(resolve(written).await.unwrap(), [meant.parse().unwrap()], "{written}");
        }
        assert!(resolve("localhost:47100").await.unwrap().iter().all(|address| address.ip().is_loopback()));
        for wrong in ["", ":47100", "house:", "house:0", "house:port", "a house", "http://house"] {
            assert!(check_peer(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_last_address_is_kept_and_a_torn_file_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(remembered(dir.path()), None);
        let address = "[fe80::1%2]:47100".parse().unwrap();
        remember(dir.path(), address).unwrap();
        assert_eq!(remembered(dir.path()), Some(address));
        std::fs::write(dir.path().join(REMEMBERED), b"192.16").unwrap();
        assert_eq!(remembered(dir.path()), None);
    }
}
