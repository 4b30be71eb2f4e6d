//! The root key off the box: encrypted with a passphrase into a text file that can also be printed, and back.

use std::fs;
use std::num::NonZeroU32;
use std::path::Path;

use data_encoding::BASE64;
use ring::{aead, pbkdf2};
use zeroize::Zeroizing;

use crate::{Authority, NodeKey, PkiError, chain, files, random};

/// Shortest passphrase, in characters: the file may lie in a drawer for years.
pub const PASSPHRASE_MIN: usize = 10;
/// OWASP's figure for PBKDF2-HMAC-SHA256 (2023); our own tests do not wait that long. The file says how many it took.
const ROUNDS: u32 = if cfg!(test) { 1_000 } else { 600_000 };
/// A file that asks for more is damaged or means harm.
const MAX_ROUNDS: u32 = 10_000_000;
const TITLE: &str = "DMS3 root key, version 1, house ";
/// Rounds, salt, nonce.
const HEADER: usize = 4 + 16 + 12;

impl Authority {
    /// Encrypts the root key into the new file `to`, reads it back, and only if that yields the same key removes it from this machine.
    pub fn export_root(&self, to: &Path, passphrase: &str) -> Result<(), PkiError> {
        if passphrase.chars().count() < PASSPHRASE_MIN {
            return Err(PkiError::PassphraseShort(PASSPHRASE_MIN));
        }
        let key = self.root_key()?;
        files::write_new_anywhere(to, self.sealed(&key, passphrase, ROUNDS)?.as_bytes(), files::PRIVATE)?;
        if self.read_export(to, passphrase)?.public() != key.public() {
            return Err(PkiError::NotAnExport { path: to.to_owned(), why: "it was not written as it should be" });
        }
        let path = self.root_key_path();
        fs::remove_file(&path).map_err(PkiError::file("remove", &path))?;
        files::sync_parent(&path)
    }

    /// Puts the root key of this house where it belongs. Never over one that is there.
    pub fn take_root(&self, key: &NodeKey) -> Result<(), PkiError> {
        if key.public() != chain::ed25519_key(self.root_der())? {
            return Err(PkiError::ForeignRoot);
        }
        key.save_new(&self.root_key_path())
    }

    /// The root key of this house out of such a file.
    pub fn read_export(&self, path: &Path, passphrase: &str) -> Result<NodeKey, PkiError> {
        self.opened(fs::read(path).map_err(PkiError::file("read", path))?, path, passphrase)
    }

    /// What an export says of this key. `rounds`: how long a guess of the passphrase takes.
    pub(crate) fn sealed(&self, key: &NodeKey, passphrase: &str, rounds: u32) -> Result<String, PkiError> {
        seal(&self.title(), key.pkcs8(), passphrase, rounds)
    }

    /// The root key of this house out of what stands in such a file.
    pub(crate) fn opened(&self, bytes: Vec<u8>, path: &Path, passphrase: &str) -> Result<NodeKey, PkiError> {
        let not = |why| PkiError::NotAnExport { path: path.to_owned(), why };
        let text = String::from_utf8(bytes).map_err(|_| not("it is no text"))?;
        let (title, body) = text.split_once('\n').ok_or_else(|| not("it has no title line"))?;
        if !title.starts_with(TITLE) {
            return Err(not("its first line is not that of an export"));
        }
        if title.trim_end() != self.title() {
            return Err(PkiError::ForeignRoot);
        }
        let body: String = body.split_whitespace().collect();
        let body = BASE64.decode(body.as_bytes()).map_err(|_| not("it has a typing error"))?;
        let pkcs8 = unseal(title.trim_end(), &body, passphrase).map_err(|error| match error {
            Unsealed::Short => not("it is cut short or damaged"),
            Unsealed::Wrong => PkiError::WrongPassphrase,
        })?;
        let key = NodeKey::from_pkcs8(&pkcs8).ok_or_else(|| not("it holds no key"))?;
        if key.public() != chain::ed25519_key(self.root_der())? {
            return Err(PkiError::ForeignRoot);
        }
        Ok(key)
    }

    fn title(&self) -> String {
        format!("{TITLE}{}", self.mesh())
    }
}

enum Unsealed {
    Short,
    Wrong,
}

fn seal(title: &str, secret: &[u8], passphrase: &str, rounds: u32) -> Result<String, PkiError> {
    let (salt, nonce) = (random::<16>()?, random::<12>()?);
    let mut sealed = Zeroizing::new(secret.to_vec());
    aead_key(passphrase, &salt, rounds)
        .and_then(|key| key.seal_in_place_append_tag(aead::Nonce::assume_unique_for_key(nonce), aead::Aad::from(title), &mut *sealed).ok())
        .ok_or(PkiError::NoRandom)?;
    let body = BASE64.encode(&[rounds.to_be_bytes().as_slice(), &salt, &nonce, &sealed].concat());
    let lines = body.as_bytes().chunks(64).map(String::from_utf8_lossy).collect::<Vec<_>>();
    Ok(format!("{title}\n{}\n", lines.join("\n")))
}

fn unseal(title: &str, body: &[u8], passphrase: &str) -> Result<Zeroizing<Vec<u8>>, Unsealed> {
    let (header, sealed) = body.split_first_chunk::<HEADER>().ok_or(Unsealed::Short)?;
    let (rounds, rest) = header.split_first_chunk::<4>().ok_or(Unsealed::Short)?;
    let (salt, nonce) = rest.split_first_chunk::<16>().ok_or(Unsealed::Short)?;
    let nonce: [u8; 12] = nonce.try_into().map_err(|_| Unsealed::Short)?;
    let rounds = u32::from_be_bytes(*rounds);
    if rounds > MAX_ROUNDS {
        return Err(Unsealed::Short);
    }
    let key = aead_key(passphrase, salt, rounds).ok_or(Unsealed::Short)?;
    let mut secret = Zeroizing::new(sealed.to_vec());
    let length = key
        .open_in_place(aead::Nonce::assume_unique_for_key(nonce), aead::Aad::from(title), &mut secret)
        .map_err(|_| Unsealed::Wrong)?
        .len();
    secret.truncate(length);
    Ok(secret)
}

fn aead_key(passphrase: &str, salt: &[u8; 16], rounds: u32) -> Option<aead::LessSafeKey> {
    let mut key = Zeroizing::new([0; 32]);
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, NonZeroU32::new(rounds)?, salt, passphrase.as_bytes(), key.as_mut());
    Some(aead::LessSafeKey::new(aead::UnboundKey::new(&aead::CHACHA20_POLY1305, key.as_ref()).ok()?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::forge::House;

    const PASSPHRASE: &str = "correct horse battery";

    #[test]
    fn the_root_key_leaves_the_box_and_comes_back() {
        let house = House::found();
        let file = house.dir.path().join("root.export");
        let root = house.root_key().public();
        assert!(house.authority.root_on_box());
        house.authority.export_root(&file, PASSPHRASE).unwrap();
        assert!(!house.authority.root_on_box());
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.lines().all(|line| line.len() <= 70), "it can be printed");
        assert!(matches!(house.authority.export_root(&house.dir.path().join("again"), PASSPHRASE), Err(PkiError::RootAway)));

        // Typed off a sheet of paper, line breaks elsewhere.
        fs::write(&file, text.replacen('\n', "\r\n\r\n", 2)).unwrap();
        let key = house.authority.read_export(&file, PASSPHRASE).unwrap();
        assert!(matches!(House::found().authority.take_root(&key), Err(PkiError::ForeignRoot)));
        house.authority.take_root(&key).unwrap();
        assert_eq!(house.root_key().public(), root);
        assert!(matches!(house.authority.take_root(&key), Err(PkiError::Exists(_))));
    }

    #[test]
    fn nothing_is_removed_unless_the_export_is_safe() {
        let house = House::found();
        let file = house.dir.path().join("root.export");
        assert!(matches!(house.authority.export_root(&file, "short"), Err(PkiError::PassphraseShort(_))));
        assert!(!file.exists());
        fs::write(&file, "my diary").unwrap();
        assert!(matches!(house.authority.export_root(&file, PASSPHRASE), Err(PkiError::Exists(_))));
        assert_eq!(fs::read_to_string(&file).unwrap(), "my diary");
        assert!(house.authority.export_root(&house.dir.path().join("no/such/dir"), PASSPHRASE).is_err());
        assert!(house.authority.root_on_box());
    }

    #[test]
    fn a_wrong_passphrase_a_damaged_file_and_another_house_are_told_apart() {
        let (house, other) = (House::found(), House::found());
        let file = house.dir.path().join("root.export");
        house.authority.export_root(&file, PASSPHRASE).unwrap();
        let import = |text: &str| {
            fs::write(&file, text).unwrap();
            house.authority.read_export(&file, PASSPHRASE).map(|_| ()).expect_err("refused")
        };
        let good = fs::read_to_string(&file).unwrap();
        assert!(matches!(house.authority.read_export(&file, "wrong passphrase"), Err(PkiError::WrongPassphrase)));
        assert!(matches!(other.authority.read_export(&file, PASSPHRASE), Err(PkiError::ForeignRoot)));

        let (title, body) = good.split_once('\n').unwrap();
        assert!(matches!(import("my diary\nof today"), PkiError::NotAnExport { .. }));
        assert!(matches!(import(title), PkiError::NotAnExport { .. }));
        assert!(matches!(import(&format!("{title}\n{}", &body[..20])), PkiError::NotAnExport { .. }));
        assert!(matches!(import(&format!("{title}\nÄ{body}")), PkiError::NotAnExport { .. }));
        assert!(matches!(import(&format!("{title}\n/////{}", &body[5..])), PkiError::NotAnExport { .. }), "billions of rounds");
        // A sealed key of another root under the title of this house.
        let key = NodeKey::generate().unwrap();
        assert!(matches!(import(&seal(title, key.pkcs8(), PASSPHRASE, ROUNDS).unwrap()), PkiError::ForeignRoot));
        assert!(!house.authority.root_on_box());
        import_again(&house, &file, &good);
    }

    fn import_again(house: &House, file: &Path, good: &str) {
        fs::write(file, good).unwrap();
        house.authority.take_root(&house.authority.read_export(file, PASSPHRASE).unwrap()).unwrap();
        assert!(house.authority.root_on_box());
    }
}
