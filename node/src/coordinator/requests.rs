//! Answers what people ask of the coordinator over the control socket.

use anyhow::{Result, anyhow, bail, ensure};
use dms3_core::coordinator::Input;
use dms3_core::dashboard::{AskingView, Dashboard, LearnedDevice};
use dms3_core::presence::Device;
use dms3_core::roster::check_name;

use super::accounts::Doors;
use super::driver::{Driver, NOTICE_FOR};
use super::events::Keeper;
use super::page::Served;
use super::presence::without_devices;
use super::renewal::{ISSUING, issuing_ends};
use crate::clock::date_and_time;
use crate::control::Asked;
use dms3_core::request::{Answer, Log, Request, WebCode};

/// Decisions, and audit rows, in one answer: a few hundred bytes each.
const ROWS: usize = 1000;

impl Driver {
    /// A request that cannot be done is refused in words; only a failing store ends the driver.
    pub(super) async fn answer(&mut self, asked: Asked) -> Result<()> {
        if is_about_events(&asked.request) {
            self.lookups.spawn(answer_from(self.keeper.clone(), asked));
            return Ok(());
        }
        if let Request::WebCode { reset } = asked.request {
            let (doors, served) = (self.doors.clone(), self.served.borrow().clone());
            self.lookups.spawn(async move {
                let answer = web_code(doors, served, reset, &asked).await.unwrap_or_else(|error| Answer::Refused(format!("{error:#}")));
                drop(asked.answer.send(answer));
            });
            return Ok(());
        }
        let learning = match &asked.request {
            Request::Learn { device, .. } => Some(device.clone()),
            Request::Decide { mac, add: true, .. } => Some(Device::Mac(*mac)),
            _ => None,
        };
        if let Some(device) = learning {
            let phones = self.phones.clone();
            // The network is asked, which takes a second: no decision waits for that.
            self.learning.spawn(async move { (asked, phones.objection(&device).await) });
            return Ok(());
        }
        let answer = match asked.request {
            Request::Command(command) => match command.check(self.clock.vouched_now()) {
                Ok(()) => {
                    tracing::info!("{} asks: {command:?}", asked.by);
                    self.take(Input::Command { command, by: asked.by }).await?;
                    Answer::House(Box::new(self.house()))
                }
                Err(why) => Answer::Refused(why),
            },
            other => match self.look_up(other, &asked.by).await {
                Ok(answer) => answer,
                Err(error) => Answer::Refused(format!("{error:#}")),
            },
        };
        // Whoever asked may have gone away.
        drop(asked.answer.send(answer));
        Ok(())
    }

    /// The network was asked about a device that is to be somebody's.
    pub(super) async fn learn(&mut self, asked: Asked, objection: Result<Option<String>>) -> Result<()> {
        let (person, device, was_asked) = match asked.request {
            Request::Learn { person, device } => (person, device, false),
            Request::Decide { person, mac, .. } => (person, Device::Mac(mac), true),
            _ => return Ok(()),
        };
        let learned = match objection {
            Ok(None) => self.keep_device(person.clone(), device.clone(), was_asked, &asked.by).await,
            Ok(Some(why)) => Err(anyhow!(why)),
            Err(error) => Err(error.context("the network cannot be looked at")),
        };
        let answer = match learned {
            Ok(learned) => {
                self.phones.learned(learned);
                self.take(Input::Learned { person: person.clone(), device: device.clone() }).await?;
                self.phones.belong_to(self.machine.people());
                tracing::info!("{} taught the house a device of a person: {device}", asked.by);
                let private = if device.is_private() {
                    " It is a private address: if the device makes up another, it must be learned anew."
                } else {
                    ""
                };
                Answer::Done(format!("{device} is a device of {person} from now on.{private}"))
            }
            Err(error) => Answer::Refused(format!("{error:#}")),
        };
        drop(asked.answer.send(answer));
        Ok(())
    }

    /// Writes down whose device it is, unless that cannot be. `was_asked`: the device itself, or its likeness, must have asked for it.
    async fn keep_device(&mut self, person: String, device: Device, was_asked: bool, by: &str) -> Result<LearnedDevice> {
        self.lives_here(&person)?;
        if let Some(owner) = self.machine.owner_of(&device) {
            let whose = if owner == person { "already".to_owned() } else { format!("of {owner}: it can tell about one person only") };
            bail!("{device} is a device {whose}");
        }
        let asks = |one: &AskingView| one.person == person && Device::Mac(one.mac) == device;
        ensure!(!was_asked || self.house().phones.asking.iter().any(asks), "{device} asks no more to be a device of {person}");
        let learned = LearnedDevice { person, device, at: self.clock.vouched_now().at, by: by.to_owned() };
        self.store.learn(&learned).await?;
        Ok(learned)
    }

    fn lives_here(&self, person: &str) -> Result<()> {
        let people = self.machine.people();
        ensure!(
            !people.is_empty() && self.machine.looks_for_people(),
            "this house looks for nobody, by its config (`[coordinator.presence]`)"
        );
        let names: Vec<&str> = people.iter().map(|known| known.name.as_str()).collect();
        ensure!(names.contains(&person), "nobody called {person:?} lives here, by the config: {}", names.join(", "));
        Ok(())
    }

    /// All that is shown, with what only this machine knows of its authority.
    pub(super) fn house(&mut self) -> Dashboard {
        let now = self.clock.vouched_now();
        self.notices.retain(|_, (at, _)| now.mono.since(*at) < NOTICE_FOR);
        let mut house = self.machine.dashboard(now);
        house.phones = self.phones.view(|mac| {
            let device = Device::Mac(mac);
            self.machine.owner_of(&device).filter(|_| self.machine.is_gone(&device, now)).map(str::to_owned)
        });
        house.problems.extend(self.trouble_with_disk());
        if house.presence_enabled {
            let sensing = self.sensing.borrow();
            house.frames = Some(sensing.frames);
            house.devices = without_devices(self.machine.people()).collect();
            house.devices.extend(self.private_devices.iter().chain(&sensing.troubles).cloned());
        }
        house.mail = self.mail.as_ref().map(|mail| mail.counts.borrow().clone());
        house.problems.extend(house.mail.as_ref().and_then(|mail| {
            let why = mail.why.as_ref()?;
            Some(format!("{} mail(s) wait: {why}", mail.waiting))
        }));
        let troubles = self.mail.iter().flat_map(|mail| &mail.troubles).filter_map(|trouble| trouble.borrow().clone());
        house.problems.extend(troubles);
        // How long the certificate that signs all others lasts is said below, as it is now.
        house.problems.extend(self.lasting.iter().filter(|(key, _)| !key.starts_with(ISSUING)).map(|(_, text)| text.clone()));
        house.problems.extend(self.unserved.borrow().clone());
        house.problems.extend(self.soundless.borrow().clone());
        house.problems.extend(self.notices.values().map(|(_, text)| text.clone()));
        let authority = self.authority.borrow();
        let root_is_here = authority.root_on_box();
        match authority.issuing_not_after() {
            Ok(end) => house.problems.extend(issuing_ends(end, root_is_here, self.clock.announced())),
            Err(error) => house.problems.push(format!("The certificate that signs all others of this house cannot be read: {error}.")),
        }
        if root_is_here {
            house
                .notes
                .push("The root key of this house is on this machine: `sudo dms3-node ca export-root FILE` takes it off.".to_owned());
        }
        house
    }

    async fn look_up(&mut self, request: Request, by: &str) -> Result<Answer> {
        let now = self.clock.vouched_now();
        Ok(match request {
            Request::Status | Request::Command(_) => Answer::House(Box::new(self.house())),
            Request::TokenNew(request) => {
                let new = self.tokens.make(request).await?;
                tracing::info!("{by} made token {}", new.token.id);
                Answer::Token(Box::new(new))
            }
            Request::TokenList => Answer::Tokens(self.tokens.list().await?),
            Request::TokenCancel { id } => {
                let token = self.tokens.cancel(&id).await?;
                tracing::info!("{by} cancelled token {}", token.id);
                Answer::Done(format!("Token {} is cancelled. Nodes that it paired stay.", token.id))
            }
            Request::MailTest => match &self.mail {
                Some(mail) => {
                    mail.tests.try_send(()).map_err(|_| anyhow::anyhow!("a test mail is on its way already"))?;
                    Answer::Done("A test mail is on its way.".to_owned())
                }
                None => Answer::Refused("this house mails nothing: write the section [mail] into the coordinator's config".to_owned()),
            },
            Request::Rename { node, name } => {
                let name = check_name(&name).map_err(anyhow::Error::msg)?;
                let row = self.roster.find(&node)?;
                let row = self.store.rename(row.node, &name, now.at).await?;
                self.roster.refresh(&self.store).await?;
                tracing::info!("{by} renamed node {} to {:?}", row.node.short(), row.name);
                Answer::Done(format!("Node {} is now {:?}.", row.node.short(), row.name))
            }
            Request::Revoke { node } => {
                let row = self.roster.find(&node)?;
                let seen = self.machine.dashboard(now);
                let seen = seen.nodes.iter().find(|known| known.node == row.node).and_then(|known| known.health.as_ref());
                let waiting = seen.map_or(0, |health| health.outbox.waiting);
                let revocation = self.store.revoke(row.node, now.at).await?;
                self.roster.refresh(&self.store).await?;
                self.tokens.wake();
                let row = revocation.row;
                tracing::warn!("{by} revoked node {} ({:?})", row.node.short(), row.name);
                let tokens = match revocation.cancelled.len() {
                    0 => String::new(),
                    1 => " The token that it had used is cancelled.".to_owned(),
                    many => format!(" The {many} tokens that it had used are cancelled."),
                };
                let (name, short, known) = (&row.name, row.node.short(), what_it_knew(waiting));
                Answer::Done(format!(
                    "{name:?} ({short}) is out of the house for good.{tokens}\nIts machine knew, and whoever has it may know:\n{known}\
                     To use the machine again, remove its state directory and pair it anew."
                ))
            }
            Request::Clear { node } => {
                let row = self.roster.find(&node)?;
                self.store.clear(row.node, by, now.at).await?;
                self.take(Input::Cleared { node: row.node }).await?;
                tracing::info!("{by} looked at what node {} ({:?}) did and cleared it", row.node.short(), row.name);
                Answer::Done(format!("{} is cleared. If it goes on, you are told again.", row.name))
            }
            Request::TimeAccept => {
                let at = self.clock.accept()?;
                tracing::warn!("{by} vouches for this machine's clock: it is {}", date_and_time(at));
                self.clock.save()?;
                self.store.time_accepted(at, by).await?;
                Answer::Done(format!("{} is taken as right.", date_and_time(at)))
            }
            Request::Log { since } => {
                let (mut decisions, mut audit) = (self.store.decisions(since).await?, self.store.audit(since).await?);
                let cut = decisions.len() > ROWS || audit.len() > ROWS;
                decisions.drain(..decisions.len().saturating_sub(ROWS));
                audit.drain(..audit.len().saturating_sub(ROWS));
                Answer::Log(Log { decisions, audit, cut })
            }
            Request::Signs { since } => {
                self.write_sightings().await;
                let mut signs = self.store.heard_since(since).await?;
                signs.drain(..signs.len().saturating_sub(ROWS));
                Answer::Signs(signs)
            }
            Request::LastDecisions { count, until } => {
                let decisions = self.store.last_decisions(count.min(100), until).await?;
                Answer::Log(Log { decisions, audit: Vec::new(), cut: true })
            }
            Request::Forget { person } => {
                let devices = self.machine.devices_of(&person);
                self.sightings.forget(&devices);
                let changed = self.store.forget(&person, &devices, now.at).await?;
                self.take(Input::Forget { person: person.clone() }).await?;
                for device in self.phones.forget(&person) {
                    self.take(Input::Unlearned { device }).await?;
                }
                self.phones.belong_to(self.machine.people());
                tracing::info!("{by} had a person forgotten");
                let again = if devices.is_empty() {
                    ""
                } else {
                    " As long as the config names this person, new rows will: take the section out and restart the node."
                };
                Answer::Done(format!(
                    "{person:?} is forgotten: {changed} rows were changed. What was written to the system's log stays there.{again}"
                ))
            }
            Request::Unlearn { device } => {
                if !self.phones.has_learned(&device) {
                    let why = match self.machine.owner_of(&device) {
                        Some(_) => format!("{device} stands in the config: take it out there and restart the node"),
                        None => format!("{device} is no device of anybody here"),
                    };
                    return Ok(Answer::Refused(why));
                }
                let person = self.store.unlearn(&device, by, now.at).await?;
                let person = person.as_deref().unwrap_or("anybody");
                self.phones.forgotten(&device);
                self.take(Input::Unlearned { device: device.clone() }).await?;
                self.phones.belong_to(self.machine.people());
                tracing::info!("{by} had the device {device} forgotten");
                Answer::Done(format!("{device} is no device of {person} any more."))
            }
            Request::HereLink { person } => {
                self.lives_here(&person)?;
                let (word, until) = self.phones.link(&person)?;
                tracing::info!("{by} made a link by which a phone can be added");
                Answer::HereLink { word, until }
            }
            Request::Decide { person, mac, .. } => {
                self.phones.declined(&person, mac);
                Answer::Done(format!("{mac} is not added."))
            }
            Request::Here { .. } => Answer::Refused("phones open their links on the dashboard".to_owned()),
            Request::Learn { .. } => Answer::Refused("devices are learned elsewhere".to_owned()),
            Request::Events { .. }
            | Request::Event { .. }
            | Request::EventDays { .. }
            | Request::Neighbours { .. }
            | Request::EventTotals
            | Request::Unseen { .. }
            | Request::MarkSeen { .. }
            | Request::DeleteEvent { .. } => Answer::Refused("events are looked up elsewhere".to_owned()),
            Request::WebCode { .. } => Answer::Refused("set-up codes are made elsewhere".to_owned()),
            Request::Still { .. } => Answer::Refused("live pictures are looked at on the dashboard".to_owned()),
            Request::Pause { .. } => Answer::Refused("only a camera can be paused: run this on the camera".to_owned()),
        })
    }
}

/// What a person must think of whose camera was stolen. `waiting`: events that it had not handed over when it was heard last.
fn what_it_knew(waiting: u64) -> String {
    let seen = match waiting {
        0 => "what it saw since it was heard last, if the house was armed: it lies on its disk".to_owned(),
        _ => format!("what it saw and had not handed over: {waiting} events when it was heard last; they lie on its disk"),
    };
    let known = [
        "its key and certificate: nobody accepts them from now on".to_owned(),
        "the certificates of this house and the addresses of its coordinator: no secrets, and no way in".to_owned(),
        "whether the house was armed, while it was linked".to_owned(),
        seen,
        "passwords in its config, as in the address of a camera (rtsp://): change them at the camera".to_owned(),
        "if its config has [mail]: the password of that mail account. A linked camera deletes it if it lies in a file of its own; withdraw it \
         at the mail provider in any case"
            .to_owned(),
    ];
    known.iter().map(|one| format!("  - {one}\n")).collect()
}

/// Whether it is answered beside the driver: what cameras saw may be a long list.
pub(super) fn is_about_events(request: &Request) -> bool {
    matches!(
        request,
        Request::Events { .. }
            | Request::Event { .. }
            | Request::EventDays { .. }
            | Request::Neighbours { .. }
            | Request::EventTotals
            | Request::Unseen { .. }
            | Request::MarkSeen { .. }
            | Request::DeleteEvent { .. }
    )
}

async fn web_code(doors: Option<Doors>, served: Option<Served>, reset: bool, asked: &Asked) -> Result<Answer> {
    let Some(doors) = doors else {
        return Ok(Answer::Refused("this house has no dashboard: [web] enabled is false in the coordinator's config".to_owned()));
    };
    if reset && asked.uid != 0 {
        return Ok(Answer::Refused("only root removes the owner: use sudo".to_owned()));
    }
    let code = doors.code(reset).await?;
    if reset {
        tracing::warn!("{} removed the owner of the dashboard; a new set-up code was made", asked.by);
    } else {
        tracing::info!("{} made a set-up code for the dashboard", asked.by);
    }
    let (address, fingerprint) = served.map_or((None, None), |served| (Some(served.address), served.fingerprint));
    Ok(Answer::WebCode(WebCode { code, address, fingerprint }))
}

async fn answer_from(keeper: Keeper, asked: Asked) {
    let answer = look_up_events(&keeper, asked.request).await.unwrap_or_else(|error| Answer::Refused(format!("{error:#}")));
    // Whoever asked may have gone away.
    drop(asked.answer.send(answer));
}

pub(super) async fn look_up_events(keeper: &Keeper, request: Request) -> Result<Answer> {
    let room = keeper.room().await?;
    let events = &room.events;
    Ok(match request {
        Request::Events { filter } => Answer::Events(events.events(&filter).await?),
        Request::Event { id } => match events.event(id).await? {
            Some(event) => Answer::Event(Box::new(event)),
            None => Answer::Refused(format!("no event {id} is kept here")),
        },
        Request::EventDays { bounds, camera } => Answer::Counts(events.counts_between(&bounds, camera.as_deref()).await?),
        Request::Neighbours { id } => {
            let (newer, older) = events.neighbours(id).await?;
            Answer::Neighbours { newer, older }
        }
        Request::EventTotals => Answer::Totals(events.totals().await?),
        Request::Unseen { who } => Answer::Counts(vec![events.unseen(&who).await?]),
        Request::MarkSeen { ids, who } => {
            let now = keeper.now();
            match ids {
                Some(ids) => {
                    for id in ids {
                        events.mark_seen(id, &who, now).await?;
                    }
                }
                None => events.mark_all_seen(&who, now).await?,
            }
            keeper.changed();
            Answer::Done("Seen.".to_owned())
        }
        Request::DeleteEvent { id } => {
            let unneeded = events.delete_event(id, keeper.now()).await?;
            events.discard(&room.media, &unneeded).await?;
            keeper.changed();
            Answer::Done(format!("Event {id} is removed, with its pictures and clip."))
        }
        _ => Answer::Refused("this is no question about events".to_owned()),
    })
}
