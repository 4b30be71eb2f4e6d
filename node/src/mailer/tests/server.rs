//! tests/harness/smtp_server.py as a child, with a CA of its own, and a config that fits it.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::super::MailConfig;

pub(super) const PASSWORD: &str = "correct horse/battery";

/// A CA of the test's own, in a directory with a certificate for `name`.
pub(super) fn house(name: &str) -> tempfile::TempDir {
    house_of("Anna's CA", name)
}

pub(super) fn house_of(issuer: &str, name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.distinguished_name.push(rcgen::DnType::CommonName, issuer);
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let server = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
    for (file, text) in [("ca.pem", ca.pem()), ("cert.pem", server.pem()), ("key.pem", key.serialize_pem())] {
        std::fs::write(dir.path().join(file), text).unwrap();
    }
    let password = dir.path().join("password");
    std::fs::write(&password, format!("{PASSWORD}\n")).unwrap();
    std::fs::set_permissions(password, std::fs::Permissions::from_mode(0o600)).unwrap();
    dir
}

/// The server, as a child that ends with the test.
pub(super) struct Server {
    child: Child,
    out: BufReader<ChildStdout>,
    pub(super) port: u16,
    dir: tempfile::TempDir,
}

impl Server {
    /// With STARTTLS and a log-in that it insists on.
    pub(super) fn start(options: &[&str]) -> Self {
        Self::with(house("localhost"), &[&["--user", "dms3", "--password", PASSWORD], options].concat(), true)
    }

    pub(super) fn with(dir: tempfile::TempDir, options: &[&str], tls: bool) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/harness/smtp_server.py");
        let mut command = Command::new(python());
        command.arg(script).args(options).arg("--save").arg(dir.path());
        if tls {
            command.arg("--cert").arg(dir.path().join("cert.pem")).arg("--key").arg(dir.path().join("key.pem"));
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let mut server = Self { child, out, port: 0, dir };
        let ready = server.says();
        server.port = ready.strip_prefix("ready ").unwrap_or_else(|| panic!("{ready:?}")).parse().unwrap();
        server
    }

    /// The next line that it says.
    pub(super) fn says(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    pub(super) fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    /// Ours, for this server, with `changes` in place of what it says else.
    pub(super) fn config(&self, changes: &[(&str, &str)]) -> MailConfig {
        let path = |file| format!("{:?}", self.path(file).to_str().unwrap());
        let port = self.port.to_string();
        let (password, ca) = (path("password"), path("ca.pem"));
        let mut keys = vec![
            ("server", "\"localhost\""),
            ("port", &port),
            ("user", "\"dms3\""),
            ("password_file", &password),
            ("ca_file", &ca),
            ("from", "\"dms3@example.org\""),
            ("to", "[\"anna@example.org\", \"ben@example.org\"]"),
            ("timeout", "\"10s\""),
        ];
        keys.retain(|(key, _)| !changes.iter().any(|(changed, _)| key == changed));
        let lines: Vec<_> =
            keys.iter().chain(changes).filter(|(_, value)| !value.is_empty()).map(|(key, value)| format!("{key} = {value}")).collect();
        let file = toml::from_str(&lines.join("\n")).unwrap();
        MailConfig::new(file, Path::new("/")).unwrap_or_else(|wrong| panic!("{wrong}")).0
    }

    /// Of the message that it took as number `nth`: to whom, and what.
    pub(super) fn got(&self, nth: usize) -> Option<(Vec<String>, Vec<u8>)> {
        let message = std::fs::read(self.path(&format!("{nth}.eml"))).ok()?;
        let envelope = std::fs::read_to_string(self.path(&format!("{nth}.envelope"))).ok()?;
        Some((envelope.lines().skip(1).map(str::to_owned).collect(), message))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The first Python that has aiosmtpd: Debian's package is for Debian's Python.
fn python() -> &'static str {
    let has = |python: &&str| {
        Command::new(python).args(["-c", "import aiosmtpd"]).stderr(Stdio::null()).status().is_ok_and(|done| done.success())
    };
    ["/usr/bin/python3", "python3"].into_iter().find(has).expect("aiosmtpd is missing: scripts/needs test installs it")
}
