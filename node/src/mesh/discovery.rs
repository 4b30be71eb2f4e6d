//! Multicast DNS: coordinators say where they are, cameras listen. A record is a hint: who somebody is only a certificate says.

#[doc(hidden)]
pub mod fuzzing;
mod table;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use dms3_core::id::{BootId, MeshId, NodeId};
use mdns_sd::{IfKind, ResolvedService, ScopedIp, ServiceDaemon, ServiceEvent, ServiceInfo};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::config::{MdnsMode, MeshConfig};
use super::near::Networks;
use table::Table;

const SERVICE: &str = "_dms3._udp.local.";
/// How long a good-bye may take.
const FAREWELL: Duration = Duration::from_secs(1);
/// Characters of [`NodeId::short`].
pub(super) const SHORT: usize = 8;
/// What was heard is asked for again by mdns-sd after four fifths of its life, which is 120 s for addresses.
const BEFORE_REFRESH: Duration = Duration::from_secs(60);
/// A responder says each of its records once a second at most, and leaves out of an answer what it said just before. mdns-sd never asks for
/// a text record that was left out so: only with an empty cache, and a second later, is the whole answer heard.
const AFTER_PART: Duration = Duration::from_millis(1200);
const AFTER_PARTS: Duration = Duration::from_secs(60);

/// mdns-sd keeps all that anybody says for as long as he says. With more records than this, of which a house needs ten, it starts anew.
const CROWD: i64 = 4000;
const COUNT_EVERY: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });

/// What one record says of one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Of the mesh port.
    pub address: SocketAddr,
    pub mesh: MeshId,
    /// [`NodeId::short`] of the coordinator that it claims to be.
    pub node: String,
    /// Changes with every start of that coordinator.
    pub boot: BootId,
    /// The enrollment port, while it is open.
    pub enroll: Option<u16>,
}

/// What a coordinator says of itself. No host name, no version, no numbers.
#[derive(Debug, Clone)]
pub struct Advert {
    pub mesh: MeshId,
    pub node: NodeId,
    pub boot: BootId,
    /// Where the mesh endpoint listens. `[::]` or 0.0.0.0 means every address of the machine, followed as they change.
    pub listen: SocketAddr,
    /// The enrollment port while it is open.
    pub enroll: watch::Receiver<Option<u16>>,
}

/// What is heard now. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Heard {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    table: std::sync::Mutex<Table>,
    list: watch::Sender<Arc<[Candidate]>>,
    refresh: Notify,
    quiet: watch::Sender<bool>,
    rung: watch::Sender<Option<Candidate>>,
}

impl Heard {
    /// All candidates, at every change.
    pub fn subscribe(&self) -> watch::Receiver<Arc<[Candidate]>> {
        self.inner.list.subscribe()
    }

    /// Asks the network again.
    pub fn refresh(&self) {
        self.inner.refresh.notify_one();
    }

    /// Whoever is linked only listens: a restarted coordinator says so by itself, and the questions of a hundred cameras would reach every
    /// one of them all day. Otherwise the network is asked, and what was heard before counts no more.
    pub fn quiet(&self, quiet: bool) {
        self.inner.quiet.send_if_modified(|before| std::mem::replace(before, quiet) != quiet);
    }

    /// A coordinator was authenticated there: however many others advertise, this one is not pushed out.
    pub fn keep(&self, address: SocketAddr) {
        self.change(|table| table.keep(address));
    }

    /// A coordinator said by itself where it is.
    pub fn rung(&self, ring: Candidate) {
        self.change(|table| table.rung(ring.clone()));
        self.inner.rung.send_replace(Some(ring));
    }

    /// The last that did.
    pub fn rings(&self) -> watch::Receiver<Option<Candidate>> {
        self.inner.rung.subscribe()
    }

    /// As if mDNS had said it.
    #[cfg(test)]
    pub(crate) fn tell(&self, candidates: Vec<Candidate>) {
        self.change(|table| table.update(Vec::new(), candidates));
    }

    fn change(&self, change: impl FnOnce(&mut Table)) {
        let mut table = self.inner.table.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        change(&mut table);
        let list = table.list();
        self.inner.list.send_if_modified(|before| {
            let changed = before[..] != list[..];
            if changed {
                *before = list.into();
            }
            changed
        });
    }
}

/// Advertises until told to stop, then says good-bye. Not vital: to be started again when it fails.
pub async fn advertise(config: &MeshConfig, mut advert: Advert, stop: CancellationToken) -> Result<()> {
    loop {
        let Some(daemon) = Daemon::start(config)? else {
            stop.cancelled().await;
            return Ok(());
        };
        loop {
            let enroll = *advert.enroll.borrow_and_update();
            let record = advert.record(enroll)?;
            let name = record.get_fullname().to_owned();
            daemon.0.register(record).context("cannot advertise this coordinator by mDNS")?;
            let changed = tokio::select! {
                () = stop.cancelled() => false,
                changed = advert.enroll.changed() => changed.is_ok(),
                () = daemon.is_crowded() => break,
            };
            if !changed {
                stop.cancelled().await;
                if let Ok(gone) = daemon.0.unregister(&name) {
                    let _ = timeout(FAREWELL, gone.recv_async()).await;
                }
                return Ok(());
            }
        }
    }
}

/// Listens until told to stop. Not vital: to be started again when it fails. A value that comes back to what it was before may be told
/// late by mDNS caches; a boot never does, and who looks for an enrollment port listens anew.
pub async fn browse(config: &MeshConfig, heard: &Heard, stop: CancellationToken) -> Result<()> {
    let mut mode = heard.inner.quiet.subscribe();
    let mut names: HashMap<String, Vec<Candidate>> = HashMap::new();
    let mut after_part = AFTER_PART;
    loop {
        let Some(daemon) = Daemon::start(config)? else {
            stop.cancelled().await;
            return Ok(());
        };
        let quiet = *mode.borrow_and_update();
        let events = if quiet { daemon.0.browse_cache(SERVICE) } else { daemon.0.browse(SERVICE) };
        let mut events = events.context("cannot listen to mDNS")?;
        let mut anew: Option<Instant> = None;
        let mut crowded = std::pin::pin!(daemon.is_crowded());
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = &mut crowded => break,
                Ok(()) = mode.changed() => {
                    if !*mode.borrow() {
                        names.clear();
                        heard.change(Table::forget);
                    }
                    after_part = AFTER_PART;
                    break;
                }
                // With a cache that is empty again nothing is asked for.
                () = sleep_until(anew.unwrap_or_else(Instant::now)), if anew.is_some() => break,
                () = heard.inner.refresh.notified(), if !quiet => events = daemon.0.browse(SERVICE).context("cannot listen to mDNS")?,
                event = events.recv_async() => match event {
                    Ok(event) => {
                        if quiet && matches!(event, ServiceEvent::ServiceFound(..) | ServiceEvent::ServiceResolved(_)) {
                            anew.get_or_insert_with(|| Instant::now() + BEFORE_REFRESH);
                        }
                        if !quiet && anew.is_none() && matches!(&event, ServiceEvent::ServiceResolved(service) if is_part(service)) {
                            anew = Some(Instant::now() + after_part);
                            // Whoever never says the rest of it does not keep us asking.
                            after_part = (after_part * 2).min(AFTER_PARTS);
                        }
                        take(event, config.mdns, heard, &mut names);
                    }
                    Err(_) => bail!("mDNS stopped listening: too much came at once"),
                },
            }
        }
    }
}

fn take(event: ServiceEvent, mode: MdnsMode, heard: &Heard, names: &mut HashMap<String, Vec<Candidate>>) {
    match event {
        ServiceEvent::ServiceResolved(service) => {
            let candidates = candidates(&service, mode, &Networks::read());
            if candidates.is_empty() {
                tracing::debug!("{} advertises nothing that we can read", service.get_fullname());
                return;
            }
            let before = names.insert(service.fullname.clone(), candidates.clone());
            heard.change(|table| table.update(before.unwrap_or_default(), candidates));
            if names.len() > table::CAPACITY {
                // Somebody invents names; what is kept of them is bounded by the table, this map only serves removals.
                names.clear();
            }
        }
        ServiceEvent::ServiceRemoved(_, name) => {
            if let Some(gone) = names.remove(&name) {
                heard.change(|table| table.update(gone, Vec::new()));
            }
        }
        _ => {}
    }
}

/// Sends the enrollment ports of coordinators that are heard, until told to stop or nobody takes them any more.
pub async fn hear_enrolling(config: &MeshConfig, to: mpsc::Sender<SocketAddr>, stop: CancellationToken) -> Result<()> {
    let heard = Heard::default();
    let mut list = heard.subscribe();
    let tell = async {
        let mut told = std::collections::HashSet::new();
        loop {
            let now = list.borrow_and_update().clone();
            for candidate in now.iter() {
                let Some(port) = candidate.enroll else { continue };
                let mut address = candidate.address;
                address.set_port(port);
                // A candidate that was heard anew may be a coordinator that was restarted: worth another look.
                if told.insert((address, candidate.boot)) && to.send(address).await.is_err() {
                    return;
                }
            }
            if told.len() > 4 * table::CAPACITY {
                told.clear();
            }
            if list.changed().await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        result = browse(config, &heard, stop) => result,
        () = tell => Ok(()),
    }
}

impl Advert {
    fn record(&self, enroll: Option<u16>) -> Result<ServiceInfo> {
        let mut said = vec![("v", "1".to_owned()), ("m", self.mesh.to_string()), ("i", self.node.short()), ("b", self.boot.to_string())];
        if let Some(port) = enroll {
            said.push(("e", port.to_string()));
        }
        let name = self.node.short();
        let host = format!("dms3-{name}.local.");
        let ip = self.listen.ip().to_canonical();
        let addresses = if ip.is_unspecified() { String::new() } else { ip.to_string() };
        let record = ServiceInfo::new(SERVICE, &name, &host, addresses.as_str(), self.listen.port(), said.as_slice())?;
        let mut record = if ip.is_unspecified() { record.enable_addr_auto() } else { record };
        // The name holds the node id, so nobody honest has it too, and a second is not lost to asking.
        record.set_requires_probe(false);
        Ok(record)
    }
}

/// mdns-sd's own thread, which would outlive us.
struct Daemon(ServiceDaemon);

impl Daemon {
    /// `None`: switched off.
    fn start(config: &MeshConfig) -> Result<Option<Self>> {
        if config.mdns == MdnsMode::Off {
            return Ok(None);
        }
        let daemon = Self(ServiceDaemon::new_with_port(config.mdns_port).context("cannot start mDNS")?);
        // A cable that is plugged in late is noticed in one second.
        daemon.0.set_ip_check_interval(1)?;
        if config.mdns == MdnsMode::Loopback {
            daemon.0.disable_interface(IfKind::All)?;
            daemon.0.enable_interface(IfKind::LoopbackV4)?;
        } else {
            daemon.0.disable_interface(vec![IfKind::LoopbackV4, IfKind::LoopbackV6])?;
        }
        Ok(Some(daemon))
    }
}

impl Daemon {
    /// Returns when more was heard than is good for this machine.
    async fn is_crowded(&self) {
        loop {
            sleep(COUNT_EVERY).await;
            let records = match self.0.get_metrics() {
                Ok(metrics) => metrics.recv_async().await.map_or(0, |metrics| {
                    let kept = metrics.iter().filter(|(what, _)| what.starts_with("cached-") || what.as_str() == "timer");
                    kept.map(|(_, count)| count).sum()
                }),
                // It is busy, or gone, which the next command tells.
                Err(_) => 0,
            };
            if records > CROWD {
                tracing::warn!(
                    "somebody advertises without end by mDNS ({records} records): all but what is known of this house is forgotten"
                );
                return;
            }
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.shutdown();
    }
}

/// Whether the text record is missing.
fn is_part(service: &ResolvedService) -> bool {
    service.txt_properties.iter().next().is_none()
}

/// What a record says, if it says it in our way.
fn candidates(service: &ResolvedService, mode: MdnsMode, own: &Networks) -> Vec<Candidate> {
    let said = |key: &str| service.get_property_val_str(key);
    let read =
        || {
            let node = said("i")?.to_ascii_lowercase();
            let enroll = match said("e") {
                Some(port) => Some(port.parse().ok().filter(|port| *port > 0)?),
                None => None,
            };
            (said("v")? == "1" && node.len() == SHORT && node.bytes().all(|byte| byte.is_ascii_alphanumeric()) && service.port > 0)
                .then_some((MeshId::parse(said("m")?).ok()?, node, BootId::parse(said("b")?).ok()?, enroll))
        };
    let Some((mesh, node, boot, enroll)) = read() else { return Vec::new() };
    let mut addresses: Vec<_> = service.addresses.iter().filter_map(|ip| socket_address(ip, service.port, mode)).collect();
    // Those of our own networks first: whoever says under its name that it is elsewhere too must not leave them no room. Of these IPv4: on a
    // home network it is the one that always works.
    addresses.sort_by_key(|address| (!own.has(address.ip()), address.is_ipv6(), *address));
    addresses.truncate(table::PER_RECORD);
    addresses.into_iter().map(|address| Candidate { address, mesh, node: node.clone(), boot, enroll }).collect()
}

fn socket_address(ip: &ScopedIp, port: u16, mode: MdnsMode) -> Option<SocketAddr> {
    let address = match ip {
        // Only such an address means another machine on each interface; any other one with an interface is reached by none but that.
        ScopedIp::V6(v6) if v6.addr().is_unicast_link_local() => {
            SocketAddr::V6(SocketAddrV6::new(*v6.addr(), port, 0, v6.scope_id().index))
        }
        // An IPv4 address may be written as one of IPv6, and is still this machine's own or everybody's.
        other => SocketAddr::new(other.to_ip_addr().to_canonical(), port),
    };
    let ip = address.ip();
    let usable = match ip {
        IpAddr::V4(v4) => !v4.is_broadcast(),
        IpAddr::V6(_) => true,
    };
    (usable && !ip.is_unspecified() && !ip.is_multicast() && (!ip.is_loopback() || mode == MdnsMode::Loopback)).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> MeshConfig {
        // A free port of our own, so that tests do not hear each other. It is free again, mDNS shares it by SO_REUSEPORT.
        let free = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        MeshConfig { mdns: MdnsMode::Loopback, mdns_port: free, ..MeshConfig::default() }
    }

    fn advert(enroll: watch::Receiver<Option<u16>>) -> Advert {
        Advert {
            mesh: MeshId([7; 10]),
            node: NodeId([9; 32]),
            boot: BootId([1, 2, 3, 4]),
            listen: "127.0.0.1:47123".parse().unwrap(),
            enroll,
        }
    }

    async fn hears(list: &mut watch::Receiver<Arc<[Candidate]>>, what: &str, fact: impl Fn(&[Candidate]) -> bool) {
        let heard = timeout(Duration::from_secs(20), list.wait_for(|list| fact(list))).await;
        assert!(heard.is_ok(), "not heard: {what}");
    }

    #[tokio::test]
    async fn a_camera_hears_where_a_coordinator_is_when_pairing_opens_and_when_it_goes() {
        let config = config();
        let (open, enroll) = watch::channel(None);
        let (stop_advert, stop) = (CancellationToken::new(), CancellationToken::new());
        let heard = Heard::default();
        let mut list = heard.subscribe();
        let (to, mut enrolling) = mpsc::channel(4);
        let test = async {
            hears(&mut list, "the coordinator", |list| !list.is_empty()).await;
            assert_eq!(
                list.borrow().to_vec(),
                [Candidate {
                    address: "127.0.0.1:47123".parse().unwrap(),
                    mesh: MeshId([7; 10]),
                    node: NodeId([9; 32]).short(),
                    boot: BootId([1, 2, 3, 4]),
                    enroll: None
                }]
            );
            open.send_replace(Some(47101));
            hears(&mut list, "that pairing is open", |list| list.iter().any(|one| one.enroll == Some(47101))).await;
            assert_eq!(enrolling.recv().await, Some("127.0.0.1:47101".parse().unwrap()));
            open.send_replace(None);
            let later = Heard::default();
            let mut list_later = later.subscribe();
            tokio::select! {
                ended = browse(&config, &later, stop.clone()) => ended.unwrap(),
                () = hears(&mut list_later, "the closed coordinator", |list| list.iter().any(|one| one.enroll.is_none())) => {}
            }
            stop_advert.cancel();
            hears(&mut list, "the good-bye", <[Candidate]>::is_empty).await;
            stop.cancel();
        };
        let (advertised, browsed, heard_enrolling, ()) = tokio::join!(
            advertise(&config, advert(enroll), stop_advert.clone()),
            browse(&config, &heard, stop.clone()),
            hear_enrolling(&config, to, stop.clone()),
            test
        );
        advertised.unwrap();
        browsed.unwrap();
        heard_enrolling.unwrap();
    }

    /// Everything that is said on this port of the loopback.
    fn tap(port: u16) -> std::net::UdpSocket {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&SocketAddr::from(([0; 4], port)).into()).unwrap();
        socket.join_multicast_v4(&std::net::Ipv4Addr::new(224, 0, 0, 251), &std::net::Ipv4Addr::LOCALHOST).unwrap();
        socket.set_multicast_if_v4(&std::net::Ipv4Addr::LOCALHOST).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.into()
    }

    fn name(dotted: &str) -> Vec<u8> {
        let mut bytes: Vec<u8> =
            dotted.split('.').flat_map(|label| [&[u8::try_from(label.len()).unwrap()], label.as_bytes()].concat()).collect();
        bytes.push(0);
        bytes
    }

    /// RFC 1035, 4.1.
    fn answer(records: &[(&str, u16, u16, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = vec![0, 0, 0x84, 0, 0, 0, 0, u8::try_from(records.len()).unwrap(), 0, 0, 0, 0];
        for (of, kind, class, data) in records {
            bytes.extend(name(of));
            bytes.extend(kind.to_be_bytes());
            bytes.extend(class.to_be_bytes());
            bytes.extend(120_u32.to_be_bytes());
            bytes.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
            bytes.extend(data);
        }
        bytes
    }

    #[tokio::test]
    async fn whoever_advertises_without_end_fills_nobodys_memory() {
        let config = config();
        let [stranger, listener] = [(); 2].map(|()| tokio::net::UdpSocket::from_std(tap(config.mdns_port)).unwrap());
        let group = SocketAddr::from(([224, 0, 0, 251], config.mdns_port));
        // In waves that fit into a socket's buffer, since mdns-sd answers nobody while packets wait, and the longer the more it keeps; and
        // wave after wave, since on a busy machine some of it gets lost.
        let flood = async {
            for wave in 0_u32.. {
                for hundred in 0..15 {
                    let names: Vec<String> = (0..100).map(|n| format!("stranger-{wave}-{hundred}-{n}._dms3._udp.local")).collect();
                    let records: Vec<_> = names.iter().map(|instance| ("_dms3._udp.local", 12, 1, name(instance))).collect();
                    for part in records.chunks(20) {
                        stranger.send_to(&answer(part), group).await.unwrap();
                    }
                    sleep(Duration::from_millis(5)).await;
                }
                sleep(COUNT_EVERY * 2_u32.pow(wave + 1)).await;
            }
        };
        // Whoever forgot all of it asks for our service as if he had never heard anything: with no known answer, but for what a wave
        // told him in the tenth of a second before he asks (RFC 6762, section 5.2). Read all the time, or the waves leave no room for it.
        let asked = async {
            let question = 12 + name("_dms3._udp.local").len() + 4;
            let mut packet = [0; 9000];
            while listener.recv(&mut packet).await.unwrap() != question {}
        };
        let heard = Heard::default();
        let mut list = heard.subscribe();
        let (_open, enroll) = watch::channel(None);
        let test = async {
            let known = |list: &[Candidate]| list.iter().any(|one| one.boot == BootId([1, 2, 3, 4]));
            hears(&mut list, "the coordinator", known).await;
            // What was asked to begin with is no proof.
            while listener.try_recv(&mut [0; 9000]).is_ok() {}
            tokio::select! {
                () = flood => {}
                () = asked => {}
                () = sleep(Duration::from_secs(60)) => panic!("it never starts anew"),
            }
            hears(&mut list, "the coordinator all the same", known).await;
        };
        // Like a service: started again when it fails, as it does when too much comes at once.
        let browsing = async { while browse(&config, &heard, CancellationToken::new()).await.is_err() {} };
        tokio::select! {
            () = browsing => {}
            ended = advertise(&config, advert(enroll), CancellationToken::new()) => ended.unwrap(),
            () = test => {}
        }
    }

    #[tokio::test]
    async fn an_answer_that_came_without_its_text_is_asked_for_again() {
        let config = config();
        let responder = tokio::net::UdpSocket::from_std(tap(config.mdns_port)).unwrap();
        let (service, instance, host) = ("_dms3._udp.local", "aaaaaaaa._dms3._udp.local", "dms3-aaaaaaaa.local");
        let port = [0, 0, 0, 0, 0xb8, 0x13];
        let mut said = vec![
            (service, 12, 1, name(instance)),
            (instance, 33, 0x8001, [&port[..], &name(host)].concat()),
            (host, 1, 0x8001, vec![127, 0, 0, 1]),
        ];
        let part = answer(&said);
        let text = ["v=1".to_owned(), format!("m={}", MeshId([7; 10])), "i=aaaaaaaa".to_owned(), format!("b={}", BootId([1; 4]))];
        said.push((
            instance,
            16,
            0x8001,
            text.iter().flat_map(|one| [&[u8::try_from(one.len()).unwrap()], one.as_bytes()].concat()).collect(),
        ));
        let whole = answer(&said);
        let group = SocketAddr::from(([224, 0, 0, 251], config.mdns_port));
        let respond = async {
            let (mut packet, mut questions) = ([0; 9000], 0);
            loop {
                let length = responder.recv(&mut packet).await.unwrap();
                // A question of somebody who holds no answer yet.
                if length > 7 && packet[2] & 0x80 == 0 && packet[6..8] == [0, 0] {
                    questions += 1;
                    responder.send_to(if questions == 1 { &part } else { &whole }, group).await.unwrap();
                }
            }
        };
        let heard = Heard::default();
        let mut list = heard.subscribe();
        tokio::select! {
            () = respond => {}
            ended = browse(&config, &heard, CancellationToken::new()) => ended.unwrap(),
            () = hears(&mut list, "the coordinator", |list| list.iter().any(|one| one.node == "aaaaaaaa")) => {}
        }
    }

    #[tokio::test]
    async fn a_camera_that_is_linked_asks_nothing_and_hears_of_a_restart_all_the_same() {
        let config = config();
        let heard = Heard::default();
        heard.quiet(true);
        let mut list = heard.subscribe();
        let (_open, enroll) = watch::channel(None);
        let (first, second, listening) = (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
        let tap = tap(config.mdns_port);
        let restarted = Advert { boot: BootId([9; 4]), ..advert(enroll.clone()) };
        let test = async {
            hears(&mut list, "the coordinator", |list| list.iter().any(|one| one.boot == BootId([1, 2, 3, 4]))).await;
            first.cancel();
            hears(&mut list, "its next start", |list| list.iter().any(|one| one.boot == BootId([9; 4]))).await;
            let (mut packet, mut answers) = ([0; 9000], 0);
            while let Ok(length) = tap.recv(&mut packet) {
                // RFC 6762, section 18.2: the first bit of the flags tells an answer from a question.
                assert!(length > 2 && packet[2] & 0x80 != 0, "a question was asked");
                answers += 1;
            }
            assert!(answers > 0, "the tap works");
            // Whoever lost its link asks: the network's answer comes although nobody announces anything.
            heard.quiet(false);
            hears(&mut list, "nobody, to begin with", <[Candidate]>::is_empty).await;
            hears(&mut list, "the answer", |list| list.iter().any(|one| one.boot == BootId([9; 4]))).await;
            second.cancel();
            listening.cancel();
        };
        let advertised = async {
            advertise(&config, advert(enroll.clone()), first.clone()).await?;
            advertise(&config, restarted, second.clone()).await
        };
        let (advertised, browsed, ()) = tokio::join!(advertised, browse(&config, &heard, listening.clone()), test);
        advertised.unwrap();
        browsed.unwrap();
    }

    #[test]
    fn a_record_that_is_not_written_in_our_way_is_no_candidate() {
        let (_open, enroll) = watch::channel(None);
        let good = advert(enroll).record(Some(47101)).unwrap().as_resolved_service();
        assert_eq!(candidates(&good, MdnsMode::Loopback, &Networks::read()).len(), 1);
        assert!(candidates(&good, MdnsMode::On, &Networks::read()).is_empty(), "another machine's loopback is nowhere");
        let with = |key: &str, value: &str| {
            let said: Vec<(String, String)> = ["v", "m", "i", "b", "e"]
                .into_iter()
                .filter_map(|name| Some((name.to_owned(), good.get_property_val_str(name)?.to_owned())))
                .map(|(name, old)| if name == key { (name, value.to_owned()) } else { (name, old) })
                .collect();
            let info = ServiceInfo::new(SERVICE, "x", "x.local.", "127.0.0.1", 47100, said.as_slice()).unwrap();
            candidates(&info.as_resolved_service(), MdnsMode::Loopback, &Networks::read()).len()
        };
        assert_eq!(with("e", "47101"), 1);
        for (key, value) in [("v", "2"), ("m", "short"), ("i", "../../.."), ("i", ""), ("b", "zz"), ("e", "0"), ("e", "70000"), ("e", "-1")]
        {
            assert_eq!(with(key, value), 0, "{key}={value}");
        }
    }

    #[test]
    fn of_a_record_only_what_can_be_dialled_counts_and_what_is_near_goes_first() {
        let own = Networks::read();
        let heard = |addresses: &str, port, mode| {
            let (_open, enroll) = watch::channel(None);
            let good = advert(enroll).record(None).unwrap();
            let said: Vec<_> = good.get_properties().iter().map(|one| (one.key().to_owned(), one.val_str().to_owned())).collect();
            let info = ServiceInfo::new(SERVICE, "x", "x.local.", addresses, port, said.as_slice()).unwrap();
            let heard = candidates(&info.as_resolved_service(), mode, &own);
            heard.into_iter().map(|one| one.address.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(heard("203.0.113.7", 47100, MdnsMode::On), ["203.0.113.7:47100"]);
        for nowhere in
            ["0.0.0.0", "255.255.255.255", "224.0.0.251", "127.0.0.1", "::", "ff02::fb", "::1", "::ffff:127.0.0.1", "::ffff:0.0.0.0"]
        {
            assert!(heard(nowhere, 47100, MdnsMode::On).is_empty(), "{nowhere}");
        }
        assert!(heard("203.0.113.7", 0, MdnsMode::On).is_empty());
        let elsewhere: Vec<_> = (1..=20).map(|last| format!("1.2.3.{last}")).collect();
        let all = heard(&format!("::1,{},127.0.0.9", elsewhere.join(",")), 47100, MdnsMode::Loopback);
        assert_eq!((all.len(), &all[..2]), (table::PER_RECORD, &["127.0.0.9:47100".to_owned(), "[::1]:47100".to_owned()][..]));
    }

    #[tokio::test]
    async fn names_that_somebody_invents_fill_no_memory() {
        let (heard, mut names) = (Heard::default(), HashMap::new());
        let (_open, enroll) = watch::channel(None);
        let service = advert(enroll).record(None).unwrap().as_resolved_service();
        for nth in 0..10 * table::CAPACITY {
            let mut service = service.clone();
            service.fullname = format!("{nth}.{SERVICE}");
            take(ServiceEvent::ServiceResolved(Box::new(service)), MdnsMode::Loopback, &heard, &mut names);
        }
        assert!(names.len() <= table::CAPACITY, "{}", names.len());
    }
}
