//! A system bus of its own, with a bluetoothd that has no radio: the bluez5 template of python-dbusmock, which is told what it hears. It
//! proves that we speak to BlueZ's interface, and nothing about radios.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::eventually;

/// Its radio.
const ADAPTER: &str = "hci0";
const MOCK: &str = "org.freedesktop.DBus.Mock";

/// Ends with all that it started.
#[derive(Debug)]
pub(crate) struct Bluez {
    bus: Option<Child>,
    daemon: Option<Child>,
    // Last: processes end before their files go.
    dir: TempDir,
}

impl Bluez {
    /// There is no bus yet.
    pub(crate) fn new() -> Self {
        Self { bus: None, daemon: None, dir: tempfile::Builder::new().prefix("dms3-").tempdir().unwrap() }
    }

    /// For the variable `DBUS_SYSTEM_BUS_ADDRESS`.
    pub(crate) fn address(&self) -> String {
        format!("unix:path={}", self.socket().display())
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("bus")
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    pub(crate) async fn start_bus(&mut self) {
        let mut command = Command::new("dbus-daemon");
        command.args(["--session", "--nofork", "--nopidfile", "--address", &self.address()]);
        let bus = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.bus = Some(bus.expect("dbus-daemon (Debian package, `scripts/needs test` installs it)"));
        eventually("the bus is there", async || UnixStream::connect(self.socket()).is_ok()).await;
    }

    /// bluetoothd starts, and has no adapter.
    pub(crate) async fn start(&mut self) {
        let log = File::options().create(true).append(true).open(self.log_file()).unwrap();
        // Debian's: another one may come first in PATH and not know of its packages.
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-m", "dbusmock", "--template", "bluez5"]).env("DBUS_SYSTEM_BUS_ADDRESS", self.address());
        let daemon = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn();
        self.daemon = Some(daemon.unwrap());
        eventually("bluetoothd is on the bus (Debian package python3-dbusmock)", async || {
            self.ask("/", "org.freedesktop.DBus.Peer", "Ping", &[]).status.success()
        })
        .await;
    }

    /// As when it crashes.
    pub(crate) fn kill(&mut self) {
        end(self.daemon.take());
    }

    pub(crate) fn kill_bus(&mut self) {
        end(self.bus.take());
    }

    /// To bluetoothd, which goes on.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.daemon.as_ref().unwrap().id().cast_signed()), signal).unwrap();
    }

    pub(crate) fn plug(&self) {
        self.say("/", "org.bluez.Mock", "AddAdapter", &["ss", ADAPTER, "radio"]);
    }

    pub(crate) fn unplug(&self) {
        self.say("/", "org.bluez.Mock", "RemoveAdapterWithDevices", &["s", ADAPTER]);
    }

    /// The radio is switched off, as a person does it.
    pub(crate) fn switch_off(&self) {
        self.change(&adapter(), "org.bluez.Adapter1", &["2", "Powered", "b", "false", "Discovering", "b", "false"]);
    }

    /// Somebody ends the search for devices.
    pub(crate) fn stops_listening(&self) {
        self.change(&adapter(), "org.bluez.Adapter1", &["1", "Discovering", "b", "false"]);
    }

    /// An advertisement of that address is heard.
    pub(crate) fn hears(&self, address: &str, rssi: i16) {
        self.remembers(address);
        self.change(&device(address), "org.bluez.Device1", &["1", "RSSI", "n", &rssi.to_string()]);
    }

    /// It tells of the device all but that it was heard, as while somebody is connected with it.
    pub(crate) fn mentions(&self, address: &str) {
        self.change(&device(address), "org.bluez.Device1", &["1", "Connected", "b", "true"]);
    }

    /// It has the device among its objects, last heard with -79 dBm.
    pub(crate) fn remembers(&self, address: &str) {
        let is_known = self.ask(&device(address), "org.freedesktop.DBus.Properties", "GetAll", &["s", "org.bluez.Device1"]);
        if !is_known.status.success() {
            self.say("/", "org.bluez.Mock", "AddDevice", &["sss", ADAPTER, address, "somebody's"]);
        }
    }

    /// The device under one of the addresses that it made up turns out to be this one, as after pairing: its object stays.
    pub(crate) fn recognizes(&self, made_up: &str, address: &str) {
        self.change(&device(made_up), "org.bluez.Device1", &["1", "Address", "s", address]);
    }

    /// The device's object tells that it was heard.
    pub(crate) fn hears_object(&self, made_up: &str, rssi: i16) {
        self.change(&device(made_up), "org.bluez.Device1", &["1", "RSSI", "n", &rssi.to_string()]);
    }

    /// Whoever is on the bus says, in the name of the device's object, that it was heard; he is not BlueZ.
    pub(crate) fn somebody_claims(&self, address: &str, rssi: i16, to: &str) {
        let text = format!("{}|{}|{rssi}|{to}", self.address(), device(address));
        let script = "import sys, dbus, dbus.lowlevel\n\
             address, path, rssi, to = sys.argv[1].split('|')\n\
             bus = dbus.bus.BusConnection(address)\n\
             signal = dbus.lowlevel.SignalMessage(path, 'org.freedesktop.DBus.Properties', 'PropertiesChanged')\n\
             signal.set_destination(to)\n\
             signal.append('org.bluez.Device1', {'RSSI': dbus.Int16(int(rssi))}, dbus.Array([], signature='s'), signature='sa{sv}as')\n\
             bus.send_message(signal)\n\
             bus.flush()\n";
        let out = Command::new("/usr/bin/python3").args(["-c", script, &text]).output().unwrap();
        assert!(out.status.success(), "{out:?}");
    }

    /// Names on the bus of those that are neither the bus nor BlueZ.
    pub(crate) fn guests(&self) -> Vec<String> {
        let out = Command::new("busctl").args(["--address", &self.address(), "list", "--unique", "--no-legend"]).output().unwrap();
        let daemon = self.daemon.as_ref().map(|daemon| daemon.id().to_string());
        let lines = String::from_utf8(out.stdout).unwrap();
        let columns = lines.lines().map(|line| line.split_whitespace().take(3).collect::<Vec<_>>());
        columns
            .filter(|columns| columns.get(2).is_some_and(|program| program.starts_with("dms3")) && Some(columns[1]) != daemon.as_deref())
            .map(|columns| columns[0].to_owned())
            .collect()
    }

    /// Whether it listens.
    pub(crate) fn is_discovering(&self) -> bool {
        let out = self.ask(&adapter(), "org.freedesktop.DBus.Properties", "Get", &["ss", "org.bluez.Adapter1", "Discovering"]);
        out.stdout.starts_with(b"v b true")
    }

    /// What bluetoothd was asked, and told.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn change(&self, path: &str, interface: &str, properties: &[&str]) {
        self.say(path, MOCK, "UpdateProperties", &[&["sa{sv}", interface], properties].concat());
    }

    fn say(&self, path: &str, interface: &str, member: &str, arguments: &[&str]) {
        let out = self.ask(path, interface, member, arguments);
        assert!(out.status.success(), "{member} {arguments:?}: {out:?}");
    }

    fn ask(&self, path: &str, interface: &str, member: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new("busctl");
        command.args(["--address", &self.address(), "--timeout", "10", "--", "call", "org.bluez", path, interface, member]);
        command.args(arguments).output().expect("busctl of systemd")
    }
}

fn adapter() -> String {
    format!("/org/bluez/{ADAPTER}")
}

fn device(address: &str) -> String {
    format!("{}/dev_{}", adapter(), address.replace(':', "_").to_uppercase())
}

fn end(child: Option<Child>) {
    if let Some(mut child) = child {
        drop(child.kill());
        drop(child.wait());
    }
}

impl Drop for Bluez {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of bluetoothd\n{}", self.log());
        }
        self.kill();
        self.kill_bus();
    }
}
