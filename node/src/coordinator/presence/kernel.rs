//! Messages of the kernel about the network (rtnetlink(7)): a fixed header, then attributes. Only what is asked for is read of them: a crate
//! that knows all of them is as big as SQLite.

use std::convert::Infallible;
use std::net::IpAddr;

use netlink_packet_core::{NLA_HEADER_SIZE, NetlinkDeserializable, NetlinkHeader, NetlinkPayload, NetlinkSerializable, NlasIterator};

#[derive(Debug, Clone)]
pub(super) struct Message {
    pub(super) kind: u16,
    pub(super) bytes: Vec<u8>,
}

impl Message {
    /// "All of a kind, of a family."
    pub(super) fn question(kind: u16, family: i32) -> Self {
        let mut bytes = vec![0; header_of(kind)];
        bytes[0] = u8::try_from(family).unwrap_or_default();
        Self { kind, bytes }
    }

    /// Bytes of the header. A number's are in the order of this machine.
    pub(super) fn field<const LENGTH: usize>(&self, at: usize) -> Option<[u8; LENGTH]> {
        self.bytes.get(at..at + LENGTH)?.try_into().ok()
    }

    pub(super) fn attribute(&self, kind: u16) -> Option<&[u8]> {
        let mut attributes = NlasIterator::new(self.bytes.get(header_of(self.kind)..)?).map_while(Result::ok);
        let found = attributes.find(|attribute| attribute.kind() == kind)?;
        let length = usize::from(found.length());
        found.into_inner().get(NLA_HEADER_SIZE..length)
    }

    /// An attribute that is an address of the message's family.
    pub(super) fn ip(&self, kind: u16) -> Option<IpAddr> {
        let [family] = self.field(0)?;
        let bytes = self.attribute(kind)?;
        match i32::from(family) {
            libc::AF_INET => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
            libc::AF_INET6 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
            _ => None,
        }
    }
}

/// Length of `ifinfomsg`, `ifaddrmsg`, `rtmsg` or `ndmsg`. Kinds come in fours: new, gone, asked for, changed.
fn header_of(kind: u16) -> usize {
    match kind & !3 {
        libc::RTM_NEWLINK => 16,
        libc::RTM_NEWADDR => 8,
        _ => 12,
    }
}

impl NetlinkDeserializable for Message {
    type Error = Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Infallible> {
        Ok(Self { kind: header.message_type, bytes: payload.to_vec() })
    }
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.bytes.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.bytes);
    }
}

impl From<Message> for NetlinkPayload<Message> {
    fn from(message: Message) -> Self {
        Self::InnerMessage(message)
    }
}
