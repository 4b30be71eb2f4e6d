//! Hears people's devices by Bluetooth LE through BlueZ (`org.bluez` on the system bus; its `doc/org.bluez.Adapter.rst` and
//! `org.bluez.Device.rst`). Tested against BlueZ's interface, not against a radio.
//!
//! A device is near when BlueZ tells of an advertisement that is strong enough, now: what BlueZ remembers of a device proves nothing.
//! Nobody can be asked by Bluetooth. A probe is therefore a question to BlueZ whether it listens, and counts if it does and did all the
//! while: nobody is proven to be away whom we could not have heard.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use dms3_core::coordinator::Input;
use dms3_core::fault::{Fault, FaultKind};
use dms3_core::presence::{Device, MacAddr, Probe, Sensor};
use dms3_core::time::Mono;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use self::bus::{ANSWER_WITHIN, BUS, Bus};
use self::wire::{Call, Interfaces, Kind, Message, Objects, Settings, Value};
use crate::clock::Clock;
use crate::coordinator::alerts::Word;
use crate::coordinator::phones::Phones;

mod bus;
pub(super) mod wire;

const BLUEZ: &str = "org.bluez";
const ADAPTER: &str = "org.bluez.Adapter1";
const DEVICE: &str = "org.bluez.Device1";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
const OBJECTS: &str = "org.freedesktop.DBus.ObjectManager";

/// A device that advertises itself ten times a second is sighted so often.
const SIGHT_EVERY: Duration = Duration::from_secs(2);
/// What failed is tried again so often.
const AGAIN: Duration = Duration::from_secs(5);
/// Failures in a row before people are told: a bluetoothd that is updated or starts a little later than we is no trouble.
const TELL_AT: u32 = 2;
/// A phone that is paired while we listen is known under its lasting address from then on; so often it is looked which ones are.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// The last probes begin a little before the end of the silence that makes somebody away: the whole of it was not heard yet then.
const LAST_PROBES: Duration = Duration::from_secs(15);
/// What is told of a signal that was not measured is more than any radio can have (Bluetooth Core Specification: -127 to 20 dBm).
const STRONGEST: i16 = 20;
/// Names the condition that Bluetooth cannot be listened to.
const TROUBLE: &str = "bluetooth";

/// What the sensor works with.
#[derive(Clone)]
pub(crate) struct Bluetooth {
    pub(crate) phones: Phones,
    /// In dBm.
    pub(crate) min_rssi: i16,
    pub(crate) probes: broadcast::Sender<Probe>,
    pub(crate) inputs: mpsc::Sender<Input>,
    pub(crate) words: mpsc::Sender<Word>,
    pub(crate) clock: Clock,
}

/// People's devices: whose they are does not matter, but how long a silence makes that person away does.
type Devices = HashMap<MacAddr, Duration>;

/// Tells the rules who is heard, and people why nobody can be. Goes on for ever: what is missing may come. While nobody has a Bluetooth
/// device the radio is left alone.
pub(crate) async fn run(sensor: Bluetooth, stop: CancellationToken) -> Result<()> {
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        ended = Box::pin(again_and_again(sensor)) => ended,
    }
}

async fn again_and_again(sensor: Bluetooth) -> Result<()> {
    let mut failures = 0_u32;
    let mut told = None;
    let mut changes = sensor.phones.devices();
    loop {
        changes.mark_unchanged();
        let devices = sensor.phones.by_bluetooth();
        if devices.is_empty() {
            if told.take().is_some() {
                let text = "Nobody has a Bluetooth device any more.";
                sensor.say(Word::Ends { key: TROUBLE.to_owned(), text: text.to_owned() }).await?;
            }
            failures = 0;
            changes.changed().await.context("nobody tells which devices there are")?;
            continue;
        }
        let why = match Listening::begin(&sensor, &devices).await {
            Ok(mut listening) => {
                tracing::info!("Bluetooth is listened to on {} for {} device(s)", listening.adapter, devices.len());
                // Also if it was told before a restart.
                sensor.say(Word::Ends { key: TROUBLE.to_owned(), text: "Bluetooth is listened to again.".to_owned() }).await?;
                (failures, told) = (0, None);
                tokio::select! {
                    ended = listening.run() => match ended {
                        Ok(()) => return Ok(()),
                        Err(why) => why,
                    },
                    // Begun anew for them: what was not listened for until now was no silence.
                    changed = are_others(&sensor, &devices, &mut changes) => {
                        changed?;
                        continue;
                    }
                }
            }
            Err(why) => why,
        };
        failures = failures.saturating_add(1);
        let why = format!("{why:#}");
        if failures >= TELL_AT && told.as_ref() != Some(&why) {
            let text = format!(
                "Bluetooth cannot be listened to: {why}. Until it can, whoever has a device \"bt:...\" is not seen to come by it, \
                 and is never taken to have left."
            );
            sensor.say(Word::Begins(Fault::new(TROUBLE, FaultKind::Other, text))).await?;
            told = Some(why);
        } else {
            tracing::debug!("Bluetooth cannot be listened to: {why}");
        }
        sleep(AGAIN).await;
    }
}

/// Waits until people have other Bluetooth devices than these.
async fn are_others(sensor: &Bluetooth, devices: &Devices, changes: &mut watch::Receiver<Vec<Device>>) -> Result<()> {
    while sensor.phones.by_bluetooth() == *devices {
        changes.changed().await.context("nobody tells which devices there are")?;
    }
    Ok(())
}

impl Bluetooth {
    async fn say(&self, word: Word) -> Result<()> {
        self.words.send(word).await.ok().context("nobody takes what is told to people")
    }

    async fn tell(&self, input: Input) -> Result<()> {
        self.inputs.send(input).await.ok().context("nobody takes what the sensors tell")
    }

    fn now(&self) -> Mono {
        self.clock.now().mono
    }
}

/// BlueZ looks for devices, on our behalf.
struct Listening<'a> {
    sensor: &'a Bluetooth,
    devices: &'a Devices,
    bus: Bus,
    /// BlueZ's own name on the bus: what others say is not about devices.
    bluez: String,
    /// The object that is our radio.
    adapter: String,
    since: Mono,
    /// The objects that are people's devices.
    paths: HashMap<String, MacAddr>,
    sighted: HashMap<MacAddr, Mono>,
    /// Asked whether it listens, in this call and until then it must answer, on behalf of the probes of these.
    asked: Option<(u32, Instant)>,
    waiting: Vec<MacAddr>,
    /// Asked which devices there are.
    looking: Option<(u32, Instant)>,
}

impl<'a> Listening<'a> {
    /// An error says why not, and what to do.
    async fn begin(sensor: &'a Bluetooth, devices: &'a Devices) -> Result<Self> {
        let mut bus = Bus::connect().await.context("the system bus cannot be reached (Debian packages dbus and bluez)")?;
        for rule in [
            format!("type='signal',sender='{BUS}',member='NameOwnerChanged',arg0='{BLUEZ}'"),
            format!("type='signal',sender='{BLUEZ}',interface='{OBJECTS}'"),
        ] {
            good(&bus.ask_the_bus("AddMatch", &[&rule]).await?)?;
        }
        let owner = bus.ask_the_bus("GetNameOwner", &[BLUEZ]).await?;
        if owner.kind == Kind::Refusal {
            bail!("bluetoothd does not run (`sudo apt install bluez`, then `sudo systemctl enable --now bluetooth`)");
        }
        let bluez = owner.content("s").and_then(|mut content| content.text()).context("the system bus talks nonsense")?.to_owned();
        let all = bus.ask(&all_objects()).await?;
        good(&all)?;
        let adapter = adapter(&objects(&all)?)?;
        let mut listening = Self {
            sensor,
            devices,
            bus,
            bluez,
            since: Mono(0),
            paths: HashMap::new(),
            sighted: HashMap::new(),
            asked: None,
            waiting: Vec::new(),
            looking: None,
            adapter,
        };
        listening.follow(&listening.adapter.clone()).await?;
        for address in devices.keys() {
            let path = format!("{}/dev_{}", listening.adapter, address.to_string().replace(':', "_").to_uppercase());
            listening.know(path, *address).await?;
        }
        listening.know_all(&objects(&all)?).await?;
        listening.discover().await?;
        listening.since = sensor.now();
        Ok(listening)
    }

    async fn discover(&mut self) -> Result<()> {
        let filter = [
            ("Transport", Value::Text("le")),
            // BlueZ needs not even tell of weaker ones.
            ("RSSI", Value::Number(self.sensor.min_rssi)),
            // And is to tell of each time, not only of the first.
            ("DuplicateData", Value::Yes(true)),
        ];
        let call = Call { to: BLUEZ, path: &self.adapter, interface: ADAPTER, member: "SetDiscoveryFilter", texts: &[], settings: None };
        good(&self.bus.ask(&Call { settings: Some(&filter), ..call }).await?)?;
        let started = self.bus.ask(&Call { member: "StartDiscovery", ..call }).await?;
        match started.error.as_str() {
            "org.bluez.Error.NotReady" => bail!("{}", switched_off(&self.adapter)),
            // It does already.
            "org.bluez.Error.InProgress" => {}
            _ => good(&started)?,
        }
        is_yes(&self.bus.ask(&is_discovering(&self.adapter)).await?)
    }

    async fn run(&mut self) -> Result<()> {
        let mut probes = self.sensor.probes.subscribe();
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        look.reset();
        loop {
            let deadline = self.asked.iter().chain(&self.looking).map(|(_, until)| *until).min();
            let late = async {
                match deadline {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                probe = probes.recv() => match probe {
                    Ok(Probe { device: Device::Bluetooth(address), .. }) => self.probe(address).await?,
                    // Of others, or more than could be taken: those were not sent.
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return Ok(()),
                },
                message = self.bus.receive() => self.take(&message?).await?,
                () = late => bail!("bluetoothd does not answer"),
                _ = look.tick() => {
                    let serial = self.bus.send(&all_objects()).await?;
                    self.looking = Some((serial, Instant::now() + ANSWER_WITHIN));
                }
            }
        }
    }

    async fn probe(&mut self, address: MacAddr) -> Result<()> {
        self.waiting.push(address);
        if self.asked.is_none() {
            let serial = self.bus.send(&is_discovering(&self.adapter)).await?;
            self.asked = Some((serial, Instant::now() + ANSWER_WITHIN));
        }
        Ok(())
    }

    /// An error: BlueZ does not listen any more.
    async fn take(&mut self, message: &Message) -> Result<()> {
        let is_answer_to = |asked: &mut Option<(u32, Instant)>| asked.take_if(|(serial, _)| message.answers == Some(*serial)).is_some();
        if is_answer_to(&mut self.asked) {
            is_yes(message)?;
            return self.was_listening().await;
        }
        if is_answer_to(&mut self.looking) {
            good(message)?;
            return self.know_all(&objects(message)?).await;
        }
        if message.kind != Kind::Signal {
            return Ok(());
        }
        if message.sender == BUS && message.member == "NameOwnerChanged" {
            bail!("bluetoothd ended");
        }
        // Any program of this machine can send us a signal.
        if message.sender != self.bluez {
            return Ok(());
        }
        match message.member.as_str() {
            "InterfacesAdded" => {
                let content = message.content("oa{sa{sv}}").and_then(|mut content| Some((content.text()?, content.interfaces()?)));
                let (path, interfaces) = content.context("bluetoothd talks nonsense")?;
                let object = [(path, interfaces)];
                self.know_all(&object).await?;
                if let Some((_, settings)) = object[0].1.iter().find(|(interface, _)| *interface == DEVICE) {
                    self.advertised(path, settings).await?;
                }
            }
            "InterfacesRemoved" => {
                let content = message.content("oas").and_then(|mut content| Some((content.text()?, content.texts()?)));
                let (path, interfaces) = content.context("bluetoothd talks nonsense")?;
                if path == self.adapter && interfaces.contains(&ADAPTER) {
                    bail!("the Bluetooth adapter {} is gone", name_of(path));
                }
            }
            "PropertiesChanged" => {
                let content = message.content("sa{sv}as").and_then(|mut content| Some((content.text()?, content.settings()?)));
                let (interface, settings) = content.context("bluetoothd talks nonsense")?;
                if interface == DEVICE {
                    self.advertised(&message.path, &settings).await?;
                } else if interface == ADAPTER && message.path == self.adapter {
                    if settings.contains(&("Powered", Value::Yes(false))) {
                        bail!("{}", switched_off(&self.adapter));
                    }
                    if settings.contains(&("Discovering", Value::Yes(false))) {
                        bail!("bluetoothd stopped to listen");
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// BlueZ told of a device: of an advertisement, if it says how strong that was.
    async fn advertised(&mut self, path: &str, settings: &[(&str, Value<'_>)]) -> Result<()> {
        let Some(address) = self.paths.get(path).copied() else { return Ok(()) };
        let strength = settings.iter().find_map(|(key, value)| match value {
            Value::Number(strength) if *key == "RSSI" => Some(*strength),
            _ => None,
        });
        if !strength.is_some_and(|strength| (self.sensor.min_rssi..=STRONGEST).contains(&strength)) {
            return Ok(());
        }
        let now = self.sensor.now();
        if !is_news(self.sighted.get(&address).copied(), now) {
            return Ok(());
        }
        self.sighted.insert(address, now);
        self.sensor.tell(Input::Sighting { device: Device::Bluetooth(address), sensor: Sensor::Bluetooth }).await
    }

    /// The probes that waited are answered: each counts if the device could have been heard in all the time that makes its owner away.
    async fn was_listening(&mut self) -> Result<()> {
        let listened = self.sensor.now().since(self.since);
        for address in std::mem::take(&mut self.waiting) {
            let sent = self.devices.get(&address).is_some_and(|silence| is_enough(listened, *silence));
            self.sensor.tell(Input::Probed { device: Device::Bluetooth(address), sent }).await?;
        }
        Ok(())
    }

    /// Notes which of the objects are people's devices.
    async fn know_all(&mut self, objects: &[(&str, Interfaces<'_>)]) -> Result<()> {
        for (path, interfaces) in objects {
            if let Some(address) = address(interfaces)
                && path.strip_prefix(&self.adapter).is_some_and(|rest| rest.starts_with('/'))
                && self.devices.contains_key(&address)
            {
                self.know((*path).to_owned(), address).await?;
            }
        }
        Ok(())
    }

    async fn know(&mut self, path: String, address: MacAddr) -> Result<()> {
        if self.paths.get(&path) != Some(&address) {
            self.follow(&path).await?;
            self.paths.insert(path, address);
        }
        Ok(())
    }

    /// From now on the bus tells us what changes about this object; of the neighbours' hundred devices nothing.
    async fn follow(&mut self, path: &str) -> Result<()> {
        let rule = format!("type='signal',sender='{BLUEZ}',interface='{PROPERTIES}',path='{path}'");
        good(&self.bus.ask_the_bus("AddMatch", &[&rule]).await?)
    }
}

/// Whether a device that was sighted last then is to be sighted again.
fn is_news(last: Option<Mono>, now: Mono) -> bool {
    last.is_none_or(|last| now.since(last) >= SIGHT_EVERY)
}

/// Whether who was not heard in so long a time of listening may be taken to be away after `silence`.
fn is_enough(listened: Duration, silence: Duration) -> bool {
    listened >= silence.saturating_sub(LAST_PROBES)
}

fn all_objects() -> Call<'static> {
    Call { to: BLUEZ, path: "/", interface: OBJECTS, member: "GetManagedObjects", texts: &[], settings: None }
}

fn is_discovering(adapter: &str) -> Call<'_> {
    Call { to: BLUEZ, path: adapter, interface: PROPERTIES, member: "Get", texts: &[ADAPTER, "Discovering"], settings: None }
}

fn is_yes(answer: &Message) -> Result<()> {
    good(answer)?;
    match answer.content("v").and_then(|mut content| content.value()) {
        Some(Value::Yes(true)) => Ok(()),
        _ => bail!("bluetoothd does not listen"),
    }
}

/// Not a refusal.
fn good(answer: &Message) -> Result<()> {
    if answer.kind == Kind::Refusal {
        if answer.error == "org.freedesktop.DBus.Error.AccessDenied" {
            bail!("this user may not speak to bluetoothd (`sudo usermod -aG bluetooth dms3`, then restart the node)");
        }
        bail!("bluetoothd says {}", answer.words());
    }
    Ok(())
}

fn objects(answer: &Message) -> Result<Objects<'_>> {
    answer.content("a{oa{sa{sv}}}").and_then(|mut content| content.objects()).context("bluetoothd talks nonsense")
}

/// The first radio that is switched on.
fn adapter(objects: &[(&str, Interfaces<'_>)]) -> Result<String> {
    let mut adapters: Vec<(bool, &str)> = objects
        .iter()
        .filter_map(|(path, interfaces)| {
            let (_, settings) = interfaces.iter().find(|(interface, _)| *interface == ADAPTER)?;
            Some((!settings.contains(&("Powered", Value::Yes(true))), *path))
        })
        .collect();
    adapters.sort_unstable();
    match adapters.first() {
        None => bail!("this machine has no Bluetooth adapter, or none that works"),
        Some((true, path)) => bail!("{}", switched_off(path)),
        Some((false, path)) => Ok((*path).to_owned()),
    }
}

fn switched_off(adapter: &str) -> String {
    format!("the Bluetooth adapter {} is switched off (`sudo rfkill unblock bluetooth`, then `bluetoothctl power on`)", name_of(adapter))
}

fn name_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn address(interfaces: &[(&str, Settings<'_>)]) -> Option<MacAddr> {
    let (_, settings) = interfaces.iter().find(|(interface, _)| *interface == DEVICE)?;
    settings.iter().find_map(|(key, value)| match value {
        Value::Text(address) if *key == "Address" => MacAddr::parse_bluetooth(address).ok(),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_that_was_not_listened_to_is_none() {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        // bluetoothd was updated a minute ago.
        assert!(!is_enough(minutes(1), minutes(5)));
        assert!(is_enough(minutes(5), minutes(5)) && is_enough(minutes(5) - LAST_PROBES, minutes(5)), "the last probes are a part of it");
        assert!(!is_enough(minutes(5) - LAST_PROBES - Duration::from_millis(1), minutes(5)));
        assert!(is_enough(Duration::ZERO, Duration::from_secs(5)), "the last probes are all of it");
    }

    #[test]
    fn a_device_that_advertises_itself_all_the_time_is_sighted_now_and_then() {
        assert!(is_news(None, Mono(0)));
        let sighted = (0..100).scan(None, |last, tenth| {
            let now = Mono(tenth * 100);
            let news = is_news(*last, now);
            *last = if news { Some(now) } else { *last };
            Some(news)
        });
        assert_eq!(sighted.filter(|news| *news).count(), 5, "in ten seconds");
    }

    #[test]
    fn of_several_adapters_it_is_the_first_that_is_switched_on() {
        let radio = |path, on| (path, vec![(ADAPTER, vec![("Powered", Value::Yes(on))])]);
        let choice = |objects: Objects<'_>| adapter(&objects).map_err(|why| why.to_string());
        assert_eq!(
            choice(vec![radio("/org/bluez/hci2", true), radio("/org/bluez/hci0", false), radio("/org/bluez/hci1", true)]).unwrap(),
            "/org/bluez/hci1"
        );
        assert!(choice(vec![radio("/org/bluez/hci1", false)]).unwrap_err().contains("hci1 is switched off"));
        assert!(choice(vec![("/org/bluez", vec![("org.bluez.AgentManager1", vec![])])]).unwrap_err().contains("no Bluetooth adapter"));
    }
}
