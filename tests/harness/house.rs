//! A house: a coordinator and its cameras, founded and paired the way a user does it.

use std::net::SocketAddr;
use std::ops::Deref;
use std::path::Path;
use std::sync::OnceLock;

use dms3_core::arming::ArmState;
use dms3_core::dashboard::{Dashboard, NodeView};
use dms3_core::id::NodeId;
use dms3_core::request::{Answer, Request};
use dms3_core::roster::NodeStatus;
use dms3_pki::Identity;
use tempfile::TempDir;

use super::node::is_for_people;
use super::{FakeMotion, LINKED_WITHIN, Lan, Make, Node, Port, TcpPort, eventually, within};

/// What is special about a house. The default one is manual (nobody's phone) and lives on this machine's loopback.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// `[coordinator.presence]` and what follows it.
    pub(crate) presence: Option<String>,
    /// Further keys of `[mesh]` of the coordinator.
    pub(crate) mesh: String,
    /// Further keys of `[camera]`.
    pub(crate) camera: String,
    /// Keys of `[web]` of the coordinator; `None`: it serves no dashboard.
    pub(crate) web: Option<String>,
    /// Every node gets a host of its own there, and all ports are the usual ones.
    pub(crate) lan: Option<Lan>,
}

#[derive(Debug)]
pub(crate) struct House {
    pub(crate) coordinator: Node,
    pub(crate) cameras: Vec<Camera>,
    pub(crate) plan: Plan,
    pub(crate) mesh_port: Port,
    pub(crate) enroll_port: Port,
    pub(crate) mdns_port: Port,
    pub(super) web_port: TcpPort,
    /// Where this machine reaches the dashboard of a coordinator that has a host of its own.
    pub(super) way_to_page: OnceLock<SocketAddr>,
    // Last: processes end before their files go.
    dir: TempDir,
}

/// A camera node with a detector that watches nothing.
#[derive(Debug)]
pub(crate) struct Camera {
    pub(crate) node: Node,
    pub(crate) motion: FakeMotion,
}

impl Deref for Camera {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

/// What must not change under an attack, and how much was logged before it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Standing {
    pid: u32,
    pub(crate) version: (u32, u64),
    pub(crate) state: ArmState,
    logged: usize,
}

/// The log grows, whatever happens.
impl PartialEq for Standing {
    fn eq(&self, other: &Self) -> bool {
        (self.pid, self.version, self.state) == (other.pid, other.version, other.state)
    }
}

impl House {
    /// Founded, its coordinator running; nobody is paired and, as in every new house, it is armed.
    pub(crate) async fn new() -> Self {
        Self::planned(Plan::default()).await
    }

    pub(crate) async fn planned(plan: Plan) -> Self {
        let dir = tempfile::Builder::new().prefix("dms3-").tempdir().unwrap();
        let (mesh_port, enroll_port, mdns_port) = (Port::free(), Port::free(), Port::free());
        let web_port = TcpPort::free();
        let presence = plan.presence.as_deref().unwrap_or("[coordinator.presence]\nenabled = false\n");
        // In a network of its own it is there for everybody.
        let own = web_port.address();
        let listen = if plan.lan.is_some() { SocketAddr::from(([0; 8], own.port())) } else { own };
        let web = match &plan.web {
            Some(keys) => format!("[web]\nlisten = \"{listen}\"\n{keys}\n"),
            None => String::new(),
        };
        let coordinator = match &plan.lan {
            Some(lan) => {
                let host = lan.host("coordinator");
                let sections = format!("{web}[mesh]\n{}\n[coordinator]\nexit_delay = \"0s\"\n{presence}", plan.mesh);
                Node::new(dir.path(), "coordinator", "coordinator", Some(&host.netns), &sections)
            }
            None => {
                let sections = format!(
                    "{web}{}listen = \"{}\"\n{}\n[coordinator]\nexit_delay = \"0s\"\nenroll_listen = \"{}\"\n{presence}",
                    mesh_section(&mdns_port),
                    mesh_port.address(),
                    plan.mesh,
                    enroll_port.address(),
                );
                Node::new(dir.path(), "coordinator", "coordinator", None, &sections)
            }
        };
        let house =
            Self { coordinator, cameras: Vec::new(), plan, mesh_port, enroll_port, mdns_port, web_port, way_to_page: OnceLock::new(), dir };
        house.coordinator.cli(&["init"]).await.good();
        house.coordinator.start();
        house.answers().await;
        house
    }

    /// A disarmed house with these cameras, all linked.
    pub(crate) async fn with_cameras<const N: usize>(names: [&str; N]) -> Self {
        Self::planned_with_cameras(Plan::default(), names).await
    }

    pub(crate) async fn planned_with_cameras<const N: usize>(plan: Plan, names: [&str; N]) -> Self {
        let mut house = Self::planned(plan).await;
        for name in names {
            house.add_camera(name).await;
        }
        house.disarm().await;
        house.agrees(ArmState::Disarmed).await;
        house.forget();
        house
    }

    /// A new camera watches until it is told the state of the house: what was before is not counted.
    pub(crate) fn forget(&self) {
        for camera in &self.cameras {
            camera.motion.forget();
        }
    }

    /// Pairs a new machine and starts it.
    pub(crate) async fn add_camera(&mut self, name: &str) {
        self.add_camera_with(name, Make::Plain).await;
    }

    /// With a word that somebody made on the page.
    pub(crate) async fn add_camera_by(&mut self, name: &str, word: &str) {
        let camera = self.new_camera_in(name, self.dir.path(), Make::Plain);
        camera.cli_with(&["enroll", "-"], word).await.good();
        camera.start();
        self.cameras.push(camera);
    }

    /// With a detector of that make.
    pub(crate) async fn add_camera_with(&mut self, name: &str, make: Make) {
        let camera = self.new_camera_in(name, self.dir.path(), make);
        let word = self.token(&["--name", name]).await;
        camera.cli_with(&["enroll", "-"], &word).await.good();
        camera.start();
        self.cameras.push(camera);
    }

    /// A machine with our program on it, of no house yet.
    pub(crate) fn new_camera(&self, name: &str) -> Camera {
        self.new_camera_in(name, self.dir.path(), Make::Plain)
    }

    fn new_camera_in(&self, name: &str, parent: &Path, make: Make) -> Camera {
        let motion = FakeMotion::new(&parent.join(format!("{name}-motion")), make);
        let (host, mesh) = match &self.plan.lan {
            Some(lan) => (Some(lan.host(name)), String::new()),
            None => (None, mesh_section(&self.mdns_port)),
        };
        let spool = parent.join(name).join("spool");
        let sections = format!("{mesh}\n[camera]\nspool_dir = {spool:?}\n{}\n{}", self.plan.camera, motion.section());
        let node = Node::new(parent, name, "camera", host.as_ref().map(|host| host.netns.as_str()), &sections);
        Camera { node, motion }
    }

    /// Of the dashboard.
    pub(crate) fn page_port(&self) -> u16 {
        self.web_port.address().port()
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The word of a new token.
    pub(crate) async fn token(&self, options: &[&str]) -> String {
        let args = [&["token", "new"], options].concat();
        let said = self.coordinator.cli(&args).await.good();
        said.lines().next().unwrap().to_owned()
    }

    pub(crate) async fn arm(&self) {
        self.coordinator.cli(&["arm", "--now"]).await.good();
    }

    pub(crate) async fn disarm(&self) {
        self.coordinator.cli(&["disarm"]).await.good();
    }

    /// What `status --json` prints.
    pub(crate) async fn status(&self) -> Dashboard {
        let said = self.coordinator.cli(&["status", "--json"]).await.good();
        serde_json::from_str(&said).unwrap()
    }

    /// The same without a process for each look; `None` while the coordinator does not answer.
    pub(crate) async fn look(&self) -> Option<Dashboard> {
        match self.coordinator.ask(&Request::Status).await {
            Ok(Answer::House(house)) => Some(*house),
            _ => None,
        }
    }

    /// Waits until the coordinator answers.
    pub(crate) async fn answers(&self) {
        eventually("the coordinator answers", async || {
            self.coordinator.pid();
            self.look().await.is_some()
        })
        .await;
    }

    pub(crate) fn camera(&self, name: &str) -> &Camera {
        self.cameras.iter().find(|camera| camera.name == name).unwrap()
    }

    pub(crate) async fn view(&self, name: &str) -> Option<NodeView> {
        self.look().await?.nodes.into_iter().find(|node| node.name == name)
    }

    pub(crate) fn node_of(&self, node: &Node) -> NodeId {
        self.identity_of(node).node()
    }

    /// The identity in its state directory, as a thief of its SD card has it.
    pub(crate) fn identity_of(&self, node: &Node) -> Identity {
        Identity::load(&node.state_dir()).unwrap().unwrap()
    }

    /// Whether the coordinator is in `state`, every running camera that nobody revoked is linked and has confirmed that state, and each of
    /// their detectors runs or not as the state says.
    pub(crate) async fn does_agree(&self, state: ArmState) -> bool {
        let Some(house) = self.look().await else { return false };
        house.state == state
            && self.cameras.iter().filter(|camera| camera.runs()).all(|camera| {
                let id = self.node_of(camera);
                let Some(node) = house.nodes.iter().find(|node| node.node == id) else { return false };
                node.status != NodeStatus::Active
                    || node.liveness == "online"
                        && node.current
                        && node.detectors.iter().all(|detector| detector.should_watch == state.is_armed())
                        && camera.motion.running().is_some() == state.is_armed()
            })
    }

    pub(crate) async fn agrees(&self, state: ArmState) {
        eventually(&format!("all of the house is {state:?}"), async || self.does_agree(state).await).await;
    }

    pub(crate) async fn standing(&self) -> Standing {
        let house = self.look().await.expect("the coordinator answers");
        Standing {
            pid: self.coordinator.pid(),
            version: (house.epoch, house.rev),
            state: house.state,
            logged: self.coordinator.log().len(),
        }
    }

    /// After an attack: the same process, the same state under the same number, and every camera linked within 3 s, its detector as the
    /// state says.
    pub(crate) async fn is_unharmed(&self, before: Standing) {
        within(LINKED_WITHIN, "after the attack every camera does as it should", async || self.does_agree(before.state).await).await;
        assert_eq!(self.standing().await, before);
    }

    /// And a line that the coordinator logged since then names the cause.
    pub(crate) async fn is_unharmed_and_told(&self, before: Standing, words: &str) {
        self.is_unharmed_and_names(before, &[words]).await;
    }

    /// And one line that it logged since then has all of them, such as who it was and what he did.
    pub(crate) async fn is_unharmed_and_names(&self, before: Standing, words: &[&str]) {
        self.is_unharmed(before).await;
        within(LINKED_WITHIN, &format!("the coordinator's log says {words:?}"), async || self.lines_since(before, words) > 0).await;
    }

    /// How many lines with `words`, meant for people, the coordinator logged since then.
    pub(crate) fn told_since(&self, before: Standing, words: &str) -> usize {
        self.lines_since(before, &[words])
    }

    fn lines_since(&self, before: Standing, words: &[&str]) -> usize {
        let log = self.coordinator.log();
        let lines = log[before.logged..].lines();
        lines.filter(|line| is_for_people(line) && words.iter().all(|words| line.contains(words))).count()
    }
}

impl House {
    /// After a fault that ended a process: the same state under the same number, and every camera linked within 3 s (by its own word too: the
    /// coordinator may not have noticed yet that a link is dead), its detector as the state says.
    pub(crate) async fn stands(&self, before: Standing) {
        within(LINKED_WITHIN, "after the fault every camera does as it should", async || self.is_whole(before.state).await).await;
        let now = self.standing().await;
        assert_eq!((now.version, now.state), (before.version, before.state));
    }

    pub(crate) async fn is_whole(&self, state: ArmState) -> bool {
        for camera in self.cameras.iter().filter(|camera| camera.runs()) {
            if camera.camera_status().await.is_none_or(|status| status.linked.is_none()) {
                return false;
            }
        }
        self.does_agree(state).await
    }
}

impl Standing {
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }
}

/// mDNS within this machine, apart from that of other tests.
fn mesh_section(mdns: &Port) -> String {
    format!("[mesh]\nmdns = \"loopback\"\nmdns_port = {}\n", mdns.number())
}
