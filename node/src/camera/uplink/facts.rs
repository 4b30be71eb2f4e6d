//! What a node says of itself in its Hello.

use dms3_core::protocol::frame::{self, HELLO_LIMIT, Message};
use dms3_core::protocol::message::HelloV1;

use dms3_core::health::Machine;

use super::UplinkContext;

pub(super) fn hello(context: &UplinkContext) -> HelloV1 {
    let Machine { hostname, os, platform, kernel } = crate::health::facts();
    let mut hello = HelloV1 {
        mesh: context.identity.mesh(),
        boot: context.boot,
        hostname,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        os,
        platform,
        kernel,
        time: context.clock.now().at,
        held: context.held.borrow().clone(),
        bundle_epoch: context.identity.bundle().epoch(),
        sources: context.sources.clone(),
    };
    if frame::encode(&Message::Hello(hello.clone()), HELLO_LIMIT).is_err() {
        // Very many detectors: their report names them as well. What is held matters more.
        hello.sources.clear();
    }
    hello
}
