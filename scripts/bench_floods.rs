//! First packets of handshakes with nobody, for `scripts/bench_floods.py` to send in others' names.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use dms3_node::clock::Clock;
use quinn::crypto::rustls::QuicClientConfig;
use tokio::net::UdpSocket;

/// `count` of them, each with a connection id of its own, to a file: u16 length, bytes.
pub(crate) async fn initials(path: &Path, count: usize) -> Result<()> {
    let mut tls = Arc::unwrap_or_clone(dms3_pki::tls::enroll_client([0; 16], Arc::new(Clock::unkept()))?);
    tls.alpn_protocols = vec![b"dms3/1".to_vec()];
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    let sink = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into())?;
    let (mut firsts, mut packet) = (BTreeMap::new(), [0; 2048]);
    while firsts.len() < count {
        let dial = endpoint.connect_with(config.clone(), sink.local_addr()?, "coordinator.dms3.internal")?;
        let length = sink.recv(&mut packet).await?;
        drop(dial);
        // What is told of a dial that was given up is no first packet, but has the same connection id.
        let id = packet.get(6..6 + usize::from(packet[5])).context("no connection id")?.to_vec();
        firsts.entry(id).or_insert_with(|| packet[..length].to_vec());
    }
    let bytes: Vec<u8> = firsts.values().flat_map(|first| [&(first.len() as u16).to_be_bytes(), &first[..]].concat()).collect();
    std::fs::write(path, bytes).with_context(|| path.display().to_string())
}
