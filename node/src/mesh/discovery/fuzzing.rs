//! For tests/fuzz alone: what becomes of records that anybody on the network says.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use mdns_sd::{ScopedIp, ServiceEvent, ServiceInfo};

use super::{Candidate, Heard, MdnsMode, SERVICE, take};

/// A listener without a network.
#[derive(Debug)]
pub struct Ear {
    heard: Heard,
    mode: MdnsMode,
    names: HashMap<String, Vec<Candidate>>,
}

impl Ear {
    pub fn new(mode: MdnsMode) -> Self {
        Self { heard: Heard::default(), mode, names: HashMap::new() }
    }

    /// A record of this name, port and addresses; `text` are the bytes of its TXT (RFC 6763, section 6).
    pub fn hear(&mut self, name: &str, port: u16, addresses: &[IpAddr], text: &[u8]) {
        let Ok(record) = ServiceInfo::new(SERVICE, name, "x.local.", "", port, &[("", "")][..]) else { return };
        let mut record = record.as_resolved_service();
        record.addresses = addresses.iter().map(|address| ScopedIp::from(*address)).collect();
        record.txt_properties = text.into();
        take(ServiceEvent::ServiceResolved(Box::new(record)), self.mode, &self.heard, &mut self.names);
    }

    pub fn good_bye(&mut self, name: &str) {
        take(ServiceEvent::ServiceRemoved(SERVICE.to_owned(), format!("{name}.{SERVICE}")), self.mode, &self.heard, &mut self.names);
    }

    pub fn keep(&self, address: SocketAddr) {
        self.heard.keep(address);
    }

    pub fn list(&self) -> Vec<Candidate> {
        self.heard.subscribe().borrow().to_vec()
    }
}
