//! The root key of the house leaves the machine and comes back, and nobody misses it in between.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use dms3_core::arming::ArmState;

use crate::harness::House;

const PASSPHRASE: &str = "correct horse battery\n";

/// What `status` says of the root key, to people and to programs.
async fn speaks(house: &House) -> bool {
    let said = house.coordinator.cli(&["status"]).await.good().contains("dms3-node ca export-root");
    let notes = house.status().await.notes;
    assert_eq!(said, notes.iter().any(|note| note.contains("root key")), "{notes:?}");
    said
}

#[tokio::test]
async fn the_root_key_leaves_the_machine_and_comes_back_and_the_house_pairs_on() {
    let mut house = House::new().await;
    let root = house.coordinator.state_dir().join("ca/root.key");
    let file = house.dir().join("root-key.txt");
    let path = file.to_str().unwrap();
    let before = fs::read(&root).unwrap();
    assert!(speaks(&house).await);

    house.coordinator.cli_with(&["ca", "export-root", path], PASSPHRASE).await.good();
    assert!(!root.exists());
    let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&file), 0o600);
    assert!(!speaks(&house).await, "there is nothing left to say");
    let why = house.coordinator.cli_with(&["ca", "export-root", path], PASSPHRASE).await.bad();
    assert!(why.contains("not on this machine"), "{why}");

    house.add_camera("porch").await;
    house.agrees(ArmState::Away).await;
    house.coordinator.restart().await;
    house.answers().await;
    house.agrees(ArmState::Away).await;

    let why = house.coordinator.cli_with(&["ca", "import-root", path], "another passphrase\n").await.bad();
    assert!(why.contains("wrong passphrase"), "{why}");
    assert!(!root.exists());
    house.coordinator.cli_with(&["ca", "import-root", path], PASSPHRASE).await.good();
    assert_eq!((fs::read(&root).unwrap(), mode(&root)), (before, 0o600));
    assert!(speaks(&house).await);
    let why = house.coordinator.cli_with(&["ca", "import-root", path], PASSPHRASE).await.bad();
    assert!(why.contains("already"), "{why}");
    house.agrees(ArmState::Away).await;
}

#[tokio::test]
async fn the_root_key_stays_where_it_is_until_it_is_safe_elsewhere() {
    let house = House::new().await;
    let root = house.coordinator.state_dir().join("ca/root.key");
    let file = house.dir().join("diary.txt");
    fs::write(&file, "dear diary").unwrap();
    let nowhere = house.dir().join("no/such/stick/root-key.txt");
    for (to, passphrase, complaint) in [
        (&file, PASSPHRASE, "exists"),
        (&nowhere, PASSPHRASE, "cannot write"),
        (&house.dir().join("new.txt"), "short\n", "at least 10 characters"),
        (&house.dir().join("new.txt"), "", "at least 10 characters"),
    ] {
        let why = house.coordinator.cli_with(&["ca", "export-root", to.to_str().unwrap()], passphrase).await.bad();
        assert!(why.contains(complaint), "{complaint}: {why}");
        assert!(root.exists());
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "dear diary");
    assert!(!house.dir().join("new.txt").exists());
    let camera = house.new_camera("porch");
    camera.cli_with(&["ca", "export-root", file.to_str().unwrap()], PASSPHRASE).await.bad();
}
