//! Phones that a house is taught: by a link that an owner makes, at the coordinator, or because they look like one that it knows.

use std::time::Duration;

use dms3_core::arming::ArmState;
use dms3_core::presence::{Device, MacAddr};
use dms3_core::request::{Answer, AuditKind, Request};
use dms3_core::time::Timestamp;

use crate::harness::skip::cannot_make_networks;
use crate::harness::{Host, House, Lan, Plan, Visitor, eventually, throughout, within};

/// So short that the twelve last probes, a second apart, decide.
const AWAY_AFTER: Duration = Duration::from_secs(6);
/// They take longer than it, and the machine may be busy.
const AND_PROBES: Duration = Duration::from_secs(20);
const A_MOMENT: Duration = Duration::from_secs(3);
/// Stands in the config, and is never here. Where it would be is known, so it is soon found to be away.
const OLD_PHONE: &str = "192.168.77.200";
/// Likewise, by its MAC address.
const OLD_MAC: &str = "24:da:9b:00:ff:01";
/// What a phone makes up, and then another time.
const PRIVATE: &str = "da:a1:19:00:00:01";
const PRIVATE_TOO: &str = "da:a1:19:00:00:02";

struct Home {
    house: House,
    owner: Visitor,
    /// Nobody's, and here.
    phone: Host,
}

async fn home() -> Home {
    home_with(OLD_PHONE).await
}

/// Anna lives here, whose phone is not what the config says. So the house is armed.
async fn home_with(device: &str) -> Home {
    let lan = Lan::new();
    let phone = lan.host("phone");
    phone.takes_mac(PRIVATE);
    let presence = format!(
        "[coordinator.presence]\n[[coordinator.presence.person]]\nname = \"Anna\"\ndevices = [\"{device}\"]\naway_after = \"{}s\"\n",
        AWAY_AFTER.as_secs()
    );
    let plan = Plan { presence: Some(presence), web: Some(String::new()), lan: Some(lan), ..Plan::default() };
    let house = House::planned(plan).await;
    let owner = house.owner().await;
    Home { house, owner, phone }
}

impl Home {
    fn coordinator(&self) -> Host {
        self.house.plan.lan.as_ref().unwrap().machine("coordinator")
    }

    /// The address of a new link for Anna.
    async fn link(&self) -> String {
        let page = self.owner.submit("/phones/link", &[("person", "Anna")]).await;
        assert_eq!((page.status, page.to.as_str()), (303, "/phones"), "{}", page.text);
        let text = self.owner.get("/phones").await.text.replace("&#x2f;", "/");
        assert!(text.contains("<svg xmlns"), "{text}");
        let (_, word) = text.split_once("/here/").expect("a link");
        format!("/here/{}", &word[..32])
    }

    fn opens(&self, phone: &Host, link: &str) -> (u16, String) {
        self.browses(phone, link, false)
    }

    /// "This is my phone."
    fn asks(&self, phone: &Host, link: &str) -> u16 {
        self.browses(phone, link, true).0
    }

    fn browses(&self, phone: &Host, link: &str, posts: bool) -> (u16, String) {
        let url = format!("https://{}:{}{link}", self.coordinator().ip, self.house.page_port());
        phone.browses(&url, &self.house.coordinator.state_dir().join("web/ca.crt"), posts)
    }

    async fn answers(&self, mac: &str, add: &str) {
        let page = self.owner.submit("/phones/answer", &[("person", "Anna"), ("mac", mac), ("add", add), ("back", "/")]).await;
        assert_eq!((page.status, page.to.as_str()), (303, "/"), "{}", page.text);
    }

    async fn learned(&self) -> Vec<String> {
        self.house.look().await.unwrap().phones.learned.iter().map(|learned| learned.device.to_string()).collect()
    }

    async fn is(&self, state: ArmState) -> bool {
        self.house.look().await.is_some_and(|house| house.state == state)
    }

    /// Its coming and going arms and disarms.
    async fn decides(&self, phone: &Host) {
        within(AND_PROBES, "it is seen", async || self.is(ArmState::Disarmed).await).await;
        phone.leaves();
        within(AWAY_AFTER + AND_PROBES, "it left", async || self.is(ArmState::Away).await).await;
        phone.returns();
        phone.talks_to(&self.coordinator());
        within(Duration::from_secs(5), "it came home", async || self.is(ArmState::Disarmed).await).await;
    }
}

#[tokio::test]
async fn a_phone_that_opens_its_link_and_that_an_owner_adds_arms_and_disarms_from_then_on() {
    if cannot_make_networks("phones") {
        return;
    }
    let home = home().await;
    let Home { house, owner, phone } = &home;
    let mut open = owner.watches("").await;
    let link = home.link().await;
    let (status, page) = home.opens(phone, &link);
    assert!(status == 200 && page.contains("Is this your phone?"), "{page}");
    assert!(page.contains(PRIVATE) && page.contains(&phone.ip) && page.contains("private address"), "{page}");
    for foreign in ["Anna", "Ann", OLD_PHONE, house.plan.lan.as_ref().unwrap().machine("router").mac.as_str()] {
        assert!(!page.contains(foreign), "it shows only what is its own: {foreign} in {page}");
    }
    let asking = house.look().await.unwrap().phones.asking;
    assert!(asking.is_empty(), "who only looks asks for nothing: {asking:?}");

    assert_eq!(home.asks(phone, &link), 303);
    open.hears("people", "asks to be added").await;
    assert!(home.opens(phone, &link).1.contains("refresh: 4."), "it looks by itself what came of it");
    throughout(A_MOMENT, "that it asks changes nothing", async || home.is(ArmState::Away).await && home.learned().await.is_empty()).await;
    home.answers(PRIVATE, "1").await;
    assert_eq!(home.learned().await, [PRIVATE]);
    let page = home.opens(phone, &link).1;
    assert!(page.contains("Your phone is added") && page.contains("refresh: ."), "{page}");
    home.decides(phone).await;

    // Kept, and who did it is written down.
    house.coordinator.restart().await;
    house.answers().await;
    assert_eq!(home.learned().await, [PRIVATE]);
    home.decides(phone).await;
    let Answer::Log(log) = house.coordinator.ask(&Request::Log { since: Timestamp(0) }).await.unwrap() else { panic!("a log") };
    let said: Vec<&str> =
        log.audit.iter().filter(|entry| entry.kind == AuditKind::DeviceLearned).map(|entry| entry.detail.as_str()).collect();
    assert_eq!(said, [format!("Anna: {PRIVATE}, by Ann")]);

    // Until somebody takes it away.
    let page = owner.submit("/phones/forget", &[("mac", PRIVATE)]).await;
    assert_eq!(page.to, "/phones");
    assert!(home.learned().await.is_empty());
    within(AWAY_AFTER + AND_PROBES, "it is nobody's", async || home.is(ArmState::Away).await).await;
    phone.talks_to(&home.coordinator());
    throughout(A_MOMENT, "it disarms nothing more", async || home.is(ArmState::Away).await).await;
}

#[tokio::test]
async fn a_link_is_good_for_one_phone_as_long_as_the_coordinator_runs_and_whoever_guesses_waits() {
    if cannot_make_networks("phones") {
        return;
    }
    let home = home().await;
    let Home { house, phone, .. } = &home;
    let other = house.plan.lan.as_ref().unwrap().host("other");
    let link = home.link().await;
    assert_eq!(home.opens(&other, &link).0, 200, "who only looks uses it not up");
    assert_eq!(home.asks(phone, &link), 303);
    for (status, page) in [home.opens(&other, &link), home.browses(&other, &link, true)] {
        assert!(status == 404 && page.contains("This link is over") && !page.contains(PRIVATE), "{page}");
    }
    home.answers(PRIVATE, "").await;
    assert!(home.opens(phone, &link).1.contains("Your phone is not added"));
    assert_eq!(home.asks(phone, &link), 303, "it hears the same again");
    assert!(house.look().await.unwrap().phones.asking.is_empty() && home.learned().await.is_empty());
    // An answer to what nobody asks.
    let page = home.owner.submit("/phones/answer", &[("person", "Anna"), ("mac", &other.mac), ("add", "1")]).await;
    assert_eq!(page.status, 303);
    assert!(home.owner.get("/phones").await.has("asks no more to be a device of Anna"));
    assert!(home.learned().await.is_empty());

    let link = home.link().await;
    assert_eq!(home.opens(phone, &link).0, 200);
    // By way of the coordinator itself nobody sees whose phone it is.
    let page = house.visitor().await.get(&link).await;
    assert!(page.status == 403 && page.has("as through a proxy or a tunnel"), "{}", page.text);
    house.coordinator.restart().await;
    house.answers().await;
    assert_eq!(home.opens(phone, &link).0, 404);

    let link = home.link().await;
    let mut waits = false;
    for _ in 0..20 {
        let (status, page) = home.opens(&other, &format!("/here/{}", "a".repeat(32)));
        waits = status == 429 && page.contains("Reload this page in");
        assert!(waits || status == 404, "{page}");
    }
    assert!(waits);
    assert_eq!(home.opens(&other, &link).0, 429, "nor may he open a good one");
    assert_eq!(home.opens(phone, &link).0, 200, "whoever is elsewhere may");
}

#[tokio::test]
async fn what_is_no_phone_or_somebodys_already_is_learned_by_no_way_and_the_reason_is_said() {
    if cannot_make_networks("phones") {
        return;
    }
    let home = home_with(OLD_MAC).await;
    let Home { house, phone, .. } = &home;
    let lan = house.plan.lan.as_ref().unwrap();
    let extender = lan.host("extender");
    extender.has_also("192.168.77.50");
    extender.has_also("192.168.77.51");
    let link = home.link().await;
    for posts in [false, true] {
        let (status, page) = home.browses(&extender, &link, posts);
        assert!(status == 403 && page.contains("has 3 machines behind it, as a Wi-Fi extender has"), "{page}");
    }
    assert!(house.look().await.unwrap().phones.asking.is_empty());
    // A phone that had another address yesterday is none.
    phone.moves_to("192.168.77.60");
    assert_eq!(home.opens(phone, &link).0, 200);
    phone.moves_to(&phone.ip);
    assert_eq!(home.opens(phone, &link).0, 200);

    let (coordinator, router) = (home.coordinator(), lan.machine("router"));
    coordinator.talks_to(&router);
    for (mac, why) in [
        (extender.mac.as_str(), "3 machines behind it"),
        (&coordinator.mac, "is the coordinator itself"),
        (&router.mac, "is the router of this network"),
        (OLD_MAC, "is a device already"),
        ("ff:ff:ff:ff:ff:ff", "is no address of a device"),
        ("01:00:5e:00:00:01", "is no address of a device"),
        ("00:00:00:00:00:00", "is no address of a device"),
        ("phone", "which only the config can hold"),
        ("24:da:9b", "no MAC address"),
        ("bt:24:da:9b", "no Bluetooth address"),
    ] {
        let said = house.coordinator.cli(&["presence", "learn", "Anna", "--device", mac]).await.bad();
        assert!(said.contains(why), "{mac}: {said}");
    }
    let said = house.coordinator.cli(&["presence", "learn", "Eve", "--device", PRIVATE]).await.bad();
    assert!(said.contains("nobody called \"Eve\" lives here") && said.contains("Anna"), "{said}");
    let said = house.coordinator.cli(&["presence", "forget", OLD_MAC]).await.bad();
    assert!(said.contains("stands in the config"), "{said}");
    assert!(home.learned().await.is_empty());

    // What does not come from the command line is judged too.
    let host = Device::Host("192.168.77.1".to_owned());
    let request = Request::Learn { person: "Anna".to_owned(), device: host };
    assert!(house.coordinator.ask(&request).await.unwrap_err().to_string().contains("write it into the config"));
    let request = Request::Learn { person: "Anna".to_owned(), device: Device::Mac(MacAddr([0xff; 6])) };
    assert!(house.coordinator.ask(&request).await.unwrap_err().to_string().contains("is no address of a device"));

    let said = house.coordinator.cli(&["presence", "learn", "Anna", "--device", PRIVATE]).await.good();
    assert!(said.contains("is a device of Anna from now on") && said.contains("private address"), "{said}");
    let said = house.coordinator.cli(&["presence", "learn", "Anna", "--device", PRIVATE]).await.bad();
    assert!(said.contains("is a device already"), "{said}");
    let (status, page) = home.opens(phone, &link);
    assert!(status == 403 && page.contains("The house knows this phone already") && !page.contains("Anna"), "{page}");
    let said = house.coordinator.cli(&["presence", "forget", PRIVATE]).await.good();
    assert!(said.contains("no device of Anna any more"), "{said}");
    // A person who is forgotten keeps no phone either.
    house.coordinator.cli(&["presence", "learn", "Anna", "--device", PRIVATE]).await.good();
    house.coordinator.cli(&["forget", "Anna"]).await.good();
    assert!(home.learned().await.is_empty());
    assert!(!house.coordinator.cli(&["log", "--json"]).await.good().contains(PRIVATE));
}

#[tokio::test]
async fn whoever_sits_at_the_coordinator_teaches_it_a_phone_by_switching_its_wifi_off_and_on() {
    if cannot_make_networks("phones") {
        return;
    }
    let home = home().await;
    let Home { house, phone, .. } = &home;
    let mut terminal = house.coordinator.at_a_terminal(&["presence", "learn", "Anna"]);
    terminal.asks("then press Enter").await;
    phone.leaves();
    terminal.types("");
    terminal.asks("switch its Wi-Fi on again").await;
    phone.returns();
    phone.talks_to(&home.coordinator());
    terminal.asks(&format!("1  {PRIVATE}")).await;
    terminal.types("7");
    terminal.asks("There is no number 7 yet.").await;
    terminal.types("1");
    let said = terminal.ends().await;
    assert!(said.contains("private address") && said.contains(&phone.ip), "{said}");
    assert!(said.contains(&format!("{PRIVATE} is a device of Anna from now on.")), "{said}");
    assert_eq!(home.learned().await, [PRIVATE]);
    home.decides(phone).await;
}

#[tokio::test]
async fn a_phone_that_comes_back_under_another_private_address_is_offered_and_never_taken_by_itself() {
    if cannot_make_networks("phones") {
        return;
    }
    let home = home().await;
    let Home { house, owner, phone } = &home;
    house.coordinator.cli(&["presence", "learn", "Anna", "--device", PRIVATE]).await.good();
    phone.talks_to(&home.coordinator());
    within(AND_PROBES, "it is seen", async || home.is(ArmState::Disarmed).await).await;
    phone.leaves();
    within(AWAY_AFTER + AND_PROBES, "it left", async || home.is(ArmState::Away).await).await;
    phone.takes_mac(PRIVATE_TOO);
    phone.returns();
    let mut offered = String::new();
    eventually("an owner is asked", async || {
        phone.talks_to(&home.coordinator());
        offered = owner.get("/").await.text;
        offered.contains(PRIVATE_TOO)
    })
    .await;
    assert!(offered.contains("change its private address?") && offered.contains(PRIVATE), "{offered}");
    throughout(A_MOMENT, "the house takes nobody for Anna by itself", async || {
        home.is(ArmState::Away).await && home.learned().await == [PRIVATE]
    })
    .await;
    home.answers(PRIVATE_TOO, "1").await;
    assert_eq!(home.learned().await, [PRIVATE, PRIVATE_TOO]);
    home.decides(phone).await;
    assert!(house.look().await.unwrap().phones.asking.is_empty());
}
