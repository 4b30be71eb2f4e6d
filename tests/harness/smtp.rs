//! A real mail server (smtp_server.py): STARTTLS and a password, with a CA of its own.

use std::fs;
use std::io::{BufRead as _, BufReader, copy, sink};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::{Port, eventually};

const PASSWORD: &str = "a password";
/// Apart from where its port is reserved.
const HOST: &str = "127.0.0.2";

#[derive(Debug)]
pub(crate) struct MailServer {
    dir: tempfile::TempDir,
    port: Port,
    child: Option<Child>,
}

impl MailServer {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let server = CertificateParams::new(vec![HOST.to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
        for (file, text) in
            [("ca.pem", ca.pem()), ("cert.pem", server.pem()), ("key.pem", key.serialize_pem()), ("password", PASSWORD.to_owned())]
        {
            fs::write(dir.path().join(file), text).unwrap();
        }
        fs::set_permissions(dir.path().join("password"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::create_dir(dir.path().join("mails")).unwrap();
        Self { dir, port: Port::free(), child: None }
    }

    /// Starts it, with further options.
    pub(crate) fn start(&mut self, options: &[&str]) {
        self.start_in(None, options);
    }

    /// On the loopback of a machine of a network, if it is to be there.
    pub(crate) fn start_in(&mut self, netns: Option<&str>, options: &[&str]) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/harness/smtp_server.py");
        // Debian's own Python has Debian's aiosmtpd.
        let python = ["/usr/bin/python3", "python3"].into_iter().find(|python| {
            Command::new(python).args(["-c", "import aiosmtpd"]).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
        });
        let python = python.expect("python3-aiosmtpd is installed (scripts/needs test)");
        let mut command = Command::new(if netns.is_some() { "ip" } else { python });
        if let Some(netns) = netns {
            command.args(["netns", "exec", netns, python]);
        }
        command.arg(script).args(["--host", HOST, "--port", &self.port.number().to_string(), "--user", "dms3", "--password", PASSWORD]);
        command.arg("--save").arg(self.path("mails")).arg("--hold").arg(self.path("hold"));
        command.arg("--cert").arg(self.path("cert.pem")).arg("--key").arg(self.path("key.pem")).args(options);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut ready = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut ready).unwrap();
        assert!(ready.starts_with("ready "), "{ready}");
        // Whoever does not hear what it says brings it down.
        std::thread::spawn(move || copy(&mut out, &mut sink()));
        self.child = Some(child);
    }

    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// From now on it takes mails and does not say so, or it does again.
    pub(crate) fn holds(&self, holds: bool) {
        if holds {
            fs::write(self.path("hold"), "").unwrap();
        } else {
            fs::remove_file(self.path("hold")).unwrap();
        }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    /// Of somebody who has a copy of the password, there.
    pub(crate) fn section_with(&self, password: &Path, more: &str) -> String {
        fs::copy(self.path("password"), password).unwrap();
        self.section(more).replace(self.path("password").to_str().unwrap(), password.to_str().unwrap())
    }

    /// The same where this server never serves and is soon gone: all that the section names lies in `dir`, the password apart for each `node`.
    pub(crate) fn section_kept_in(&self, dir: &Path, node: &str) -> String {
        let ca = dir.join("mail-ca.pem");
        fs::copy(self.path("ca.pem"), &ca).unwrap();
        let section = self.section_with(&dir.join(format!("{node}-password")), "");
        section.replace(self.path("ca.pem").to_str().unwrap(), ca.to_str().unwrap())
    }

    /// `[mail]` of a node that uses it.
    pub(crate) fn section(&self, more: &str) -> String {
        format!(
            "[mail]\nserver = \"{HOST}\"\nport = {}\nuser = \"dms3\"\npassword_file = {:?}\nca_file = {:?}\nfrom = \"dms3@example.org\"\n\
             to = [\"anna@example.org\", \"ben@example.org\"]\ntimeout = \"5s\"\n{more}\n",
            self.port.number(),
            self.path("password"),
            self.path("ca.pem")
        )
    }

    /// Mails that it took, in their order.
    pub(crate) fn mails(&self) -> Vec<String> {
        let mut files = self.files();
        files.sort_by_key(|path| path.file_stem().unwrap().to_str().unwrap().parse::<u32>().unwrap());
        files.iter().map(|path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned()).collect()
    }

    /// How many it took.
    pub(crate) fn taken(&self) -> usize {
        self.files().len()
    }

    fn files(&self) -> Vec<PathBuf> {
        let names = fs::read_dir(self.path("mails")).unwrap().map(|entry| entry.unwrap().path());
        names.filter(|path| path.extension().is_some_and(|extension| extension == "eml")).collect()
    }

    /// Waits until it has so many.
    pub(crate) async fn has(&self, number: usize) -> Vec<String> {
        eventually(&format!("{number} mails are there"), async || self.taken() >= number).await;
        let mails = self.mails();
        assert_eq!(mails.len(), number, "{:?}", mails.iter().map(|mail| header(mail, "Subject")).collect::<Vec<_>>());
        mails
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A header of a mail, its lines put together.
pub(crate) fn header(mail: &str, name: &str) -> Option<String> {
    let head = mail.split("\r\n\r\n").next()?.replace("\r\n ", " ").replace("\r\n\t", " ");
    head.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(": ")?.to_owned()))
}
