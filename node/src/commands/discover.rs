//! `dms3-node discover`: the coordinators that are heard on this network. Hearing proves nothing; only a certificate does.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Result, bail};
use dms3_core::id::MeshId;
use dms3_pki::Identity;
use serde::Serialize;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::ConfigArg;
use super::text::table;
use crate::config::DEFAULT_PATH;
use crate::mesh::discovery::{self, Candidate, Heard};
use crate::mesh::{MdnsMode, MeshConfig};

/// From the end of listening to the next try.
const AGAIN: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many seconds to listen
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// For programs
    #[arg(long)]
    json: bool,
}

/// One coordinator, as it advertises itself.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Found {
    mesh: String,
    /// First 8 characters of its node id.
    id: String,
    addresses: Vec<SocketAddr>,
    /// Its enrollment port, while a token lives.
    enrolling: Option<u16>,
    /// Whether it claims to be of this node's house; `null` if this node has none, or its state directory may not be read.
    ours: Option<bool>,
}

pub(super) async fn run(args: Args, config: &ConfigArg) -> Result<()> {
    // A machine that is not set up yet has no config: what it hears is what helps to set it up.
    let fresh = config.config.as_os_str() == DEFAULT_PATH && !config.config.exists();
    let (mesh, ours) = if fresh {
        (MeshConfig::default(), None)
    } else {
        let config = config.load()?;
        let identity = Identity::load(&config.state_dir).unwrap_or_else(|error| {
            eprintln!("Note: which house is ours is not known ({:#})", anyhow::Error::from(error));
            None
        });
        (config.mesh, identity.map(|identity| identity.mesh()))
    };
    if mesh.mdns == MdnsMode::Off {
        bail!("mDNS is switched off in the config (`mdns` in [mesh]): nothing can be heard");
    }
    let heard = Heard::default();
    let mut trouble = None;
    let mut over = pin!(sleep(Duration::from_secs(args.seconds)));
    loop {
        tokio::select! {
            () = &mut over => break,
            // In a flood it ends now and then; what was heard is kept.
            ended = discovery::browse(&mesh, &heard, CancellationToken::new()) => trouble = ended.err(),
        }
        tokio::select! {
            () = &mut over => break,
            () = sleep(AGAIN) => {}
        }
    }
    let found = group(&heard.subscribe().borrow(), ours);
    if let Some(error) = trouble {
        if found.is_empty() {
            return Err(error);
        }
        eprintln!("Note: this may not be all that there is ({error:#})");
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&found)?);
    } else if found.is_empty() {
        println!("No coordinator was heard in {} s. Is it on, and in the same network (mDNS does not cross a router)?", args.seconds);
    } else {
        print!("{}", table(&rows(&found)));
    }
    Ok(())
}

/// One line for each coordinator, ours first.
fn group(heard: &[Candidate], ours: Option<MeshId>) -> Vec<Found> {
    let mut found: BTreeMap<(MeshId, &str), Found> = BTreeMap::new();
    for one in heard {
        let entry = found.entry((one.mesh, &one.node)).or_insert_with(|| Found {
            mesh: one.mesh.to_string(),
            id: one.node.clone(),
            addresses: Vec::new(),
            enrolling: None,
            ours: ours.map(|ours| ours == one.mesh),
        });
        entry.addresses.push(one.address);
        entry.enrolling = entry.enrolling.or(one.enroll);
    }
    let mut found: Vec<_> = found.into_values().collect();
    for one in &mut found {
        one.addresses.sort_by_key(|address| (address.is_ipv6(), *address));
    }
    found.sort_by_key(|one| one.ours != Some(true));
    found
}

fn rows(found: &[Found]) -> Vec<Vec<String>> {
    let mut rows = vec![["HOUSE", "COORDINATOR", "OURS", "PAIRING", "ADDRESSES"].map(str::to_owned).to_vec()];
    rows.extend(found.iter().map(|one| {
        let ours = match one.ours {
            Some(true) => "yes",
            Some(false) => "no",
            None => "-",
        };
        let pairing = one.enrolling.map_or_else(|| "closed".to_owned(), |port| format!("open (UDP {port})"));
        let addresses: Vec<_> = one.addresses.iter().map(SocketAddr::to_string).collect();
        vec![one.mesh.clone(), one.id.clone(), ours.to_owned(), pairing, addresses.join(" ")]
    }));
    rows
}

#[cfg(test)]
mod tests {
    use dms3_core::id::BootId;

    use super::*;

    fn heard(mesh: u8, node: &str, address: &str, enroll: Option<u16>) -> Candidate {
        Candidate { address: address.parse().unwrap(), mesh: MeshId([mesh; 10]), node: node.to_owned(), boot: BootId([0; 4]), enroll }
    }

    #[test]
    fn our_coordinator_stands_first_with_all_its_addresses() {
        let list = [
            heard(1, "neighbor", "192.168.1.9:47100", None),
            heard(2, "ourhouse", "[fd00::2]:47100", Some(47101)),
            heard(2, "ourhouse", "192.168.1.2:47100", Some(47101)),
        ];
        let found = group(&list, Some(MeshId([2; 10])));
        let line = |row: &[String]| row.join(" ");
        assert_eq!(
            rows(&found).iter().skip(1).map(|row| line(row)).collect::<Vec<_>>(),
            [
                format!("{} ourhouse yes open (UDP 47101) 192.168.1.2:47100 [fd00::2]:47100", MeshId([2; 10])),
                format!("{} neighbor no closed 192.168.1.9:47100", MeshId([1; 10])),
            ]
        );
        assert!(group(&list, None).iter().all(|one| one.ours.is_none()), "a machine without a house claims none");
    }
}
