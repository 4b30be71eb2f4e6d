//! What a detector's hook hands over reaches the coordinator's store, whatever breaks in between.

mod burst;
mod bytes;
mod cables;
mod crashes;
mod disks;
pub(crate) mod rogues;
mod telling;
mod users;

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};

use dms3_core::event::EventKind;
use dms3_core::event::StoredEvent;
use image::ImageFormat;

use crate::harness::{BINARY, Camera, House, eventually};

impl House {
    /// What the coordinator's store holds, the oldest first.
    pub(crate) async fn events(&self) -> Vec<StoredEvent> {
        let said = self.coordinator.cli(&["events", "--json", "--since", "1000d"]).await.good();
        let mut events: Vec<StoredEvent> = serde_json::from_str(&said).unwrap();
        events.reverse();
        events
    }

    /// Waits until so many events with all of their attachments are there.
    pub(crate) async fn has_events(&self, number: usize) -> Vec<StoredEvent> {
        let mut events = Vec::new();
        eventually(&format!("{number} events are in the store, whole"), async || {
            events = self.events().await;
            events.len() >= number && events.iter().all(|event| event.attachments.iter().all(|known| known.kept_at.is_some()))
        })
        .await;
        assert_eq!(events.len(), number, "{events:?}");
        events
    }
}

/// As Motion calls it, but without its shell.
pub(crate) fn hook(camera: &Camera, arguments: &[&OsStr]) -> Output {
    let mut command = Command::new(BINARY);
    command.arg("hook").args(arguments).arg("--run-dir").arg(camera.run_dir()).arg("--spool").arg(camera.spool_dir());
    command.output().unwrap()
}

pub(crate) fn said(camera: &Camera, what: &str, event: &str) -> Output {
    hook(camera, &[what, "--event", event, "--camera", "cam"].map(OsStr::new))
}

pub(crate) fn picture(camera: &Camera, event: &str, pixels: &str, file: &Path) -> Output {
    let words = ["picture", "--event", event, "--camera", "cam", "--kind", "1", "--pixels", pixels, "--file"];
    hook(camera, &words.iter().map(OsStr::new).chain([file.as_os_str()]).collect::<Vec<_>>())
}

pub(crate) fn good(output: Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A picture of that colour, so that no two have the same content.
pub(crate) fn jpeg(dir: &Path, name: &[u8], colour: u8) -> PathBuf {
    sized_jpeg(dir, name, colour, 100, 100)
}

pub(crate) fn sized_jpeg(dir: &Path, name: &[u8], colour: u8, width: u32, height: u32) -> PathBuf {
    let path = dir.join(OsStr::from_bytes(name));
    image::RgbImage::from_pixel(width, height, image::Rgb([colour; 3])).save_with_format(&path, ImageFormat::Jpeg).unwrap();
    path
}

#[tokio::test]
async fn what_moves_is_in_the_store_of_the_coordinator_with_picture_and_clip() {
    let house = House::with_cameras(["porch"]).await;
    let porch = house.camera("porch");
    let file = jpeg(house.dir(), b"01-20261123080130-00.jpg", 7);
    let clip = house.dir().join("01-20261123080130.mp4");
    fs::write(&clip, vec![9; 3_000_000]).unwrap();
    good(said(porch, "event-start", "7"));
    eventually("it is announced at its start", async || {
        house.events().await.first().is_some_and(|event| event.attachments.is_empty() && event.ended.is_none())
    })
    .await;
    good(picture(porch, "7", "450", &file));
    eventually("its picture came", async || house.events().await.first().is_some_and(|event| event.attachments.len() == 1)).await;
    assert_eq!(house.has_events(1).await.remove(0).ended, None, "it is announced before it is over");
    // In the order in which Motion may say it.
    good(said(porch, "event-end", "7"));
    good(hook(
        porch,
        &["movie", "--event", "7", "--pixels", "0", "--file"].iter().map(OsStr::new).chain([clip.as_os_str()]).collect::<Vec<_>>(),
    ));
    eventually("the clip came", async || house.events().await[0].attachments.len() == 2).await;
    let event = house.has_events(1).await.remove(0);
    assert_eq!((event.camera.as_str(), event.source.as_str(), event.kind, event.changed), ("porch", "cam", EventKind::Movement, Some(5)));
    assert!(event.ended.is_some());
    assert!(file.exists(), "a file in a directory that is not ours is left alone");

    // As people see it.
    let list = house.coordinator.cli(&["events", "--since", "1000d"]).await.good();
    assert!(list.contains("porch/cam") && list.contains("5 %"), "{list}");
    let shown = house.coordinator.cli(&["events", "show", &event.id.to_string()]).await.good();
    assert!(shown.contains("01-20261123080130-00.jpg") && shown.contains("5 % of the picture"), "{shown}");
    let out = house.dir().join("out");
    house.coordinator.cli(&["events", "export", &event.id.to_string(), out.to_str().unwrap()]).await.good();
    let exported = |nth: usize, ending: &str| fs::read(out.join(format!("{}-{nth}.{ending}", event.id))).unwrap();
    assert_eq!(exported(1, "jpg"), fs::read(&file).unwrap());
    assert_eq!(exported(2, "mp4"), fs::read(&clip).unwrap());
    eventually("nothing waits on the camera", async || porch.camera_status().await.is_some_and(|status| status.outbox.waiting == 0)).await;
}

#[tokio::test]
async fn the_line_of_the_go_program_works_unchanged() {
    let house = House::with_cameras(["porch"]).await;
    let porch = house.camera("porch");
    let link = house.dir().join("dms3mail");
    std::os::unix::fs::symlink(BINARY, &link).unwrap();
    let places = [format!("-run-dir={}", porch.run_dir().display()), format!("-spool={}", porch.spool_dir().display())];
    let file = |name: &str, colour| format!("-filename={}", jpeg(house.dir(), name.as_bytes(), colour).display());
    good(Command::new(BINARY).args(["mail", "-pixels=20000", &file("20261123080130-00.jpg", 1)]).args(&places).output().unwrap());
    good(Command::new(&link).args([&file("07-20261123080135-00.jpg", 2), "-pixels", "100"]).args(&places).output().unwrap());
    eventually("both are of one movement", async || house.events().await.first().is_some_and(|event| event.attachments.len() == 2)).await;
    let event = house.has_events(1).await.remove(0);
    assert_eq!((event.changed, event.source.as_str()), (Some(100), "cam"), "never more than all");
    assert_eq!(event.attachments[1].attachment.taken.since(event.started).as_secs(), 5, "the time is that of the name");
    for wrong in [&["mail"][..], &["mail", "-pixels=1"], &["mail", "-pixels=x", "-filename=/x"], &["mail", "-nonsense=1"]] {
        let output = Command::new(BINARY).args(wrong).output().unwrap();
        assert_eq!(output.status.code(), Some(64), "{wrong:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("on_picture_save dms3-node mail"), "{wrong:?}");
    }
}

#[tokio::test]
async fn any_name_of_a_file_travels_safely() {
    let house = House::with_cameras(["porch"]).await;
    let porch = house.camera("porch");
    let names: [&[u8]; 7] = [
        b"a b.jpg",
        b"it's \"quoted\".jpg",
        b"$(touch owned).jpg",
        b"line\nbreak.jpg",
        b"-rf.jpg",
        b"\xff\xfe.jpg",
        "t\u{fc}r\u{202e}gpj.jpg".as_bytes(),
    ];
    for (nth, name) in names.iter().enumerate() {
        good(picture(porch, &nth.to_string(), "10", &jpeg(house.dir(), name, nth as u8)));
    }
    let told: Vec<String> = house.has_events(names.len()).await.iter().map(|event| event.attachments[0].attachment.name.clone()).collect();
    for name in &told {
        assert!(!name.chars().any(char::is_control), "{name:?}");
    }
    for name in names.iter().filter_map(|name| std::str::from_utf8(name).ok()).filter(|name| !name.contains('\n')) {
        assert!(told.iter().any(|told| told == name), "{name:?} is not in {told:?}");
    }
    assert!(!Path::new("owned").exists());
}

#[tokio::test]
async fn what_is_no_picture_is_an_event_without_percent_and_no_crash() {
    let house = House::with_cameras(["porch"]).await;
    let porch = house.camera("porch");
    let whole = fs::read(jpeg(house.dir(), b"whole.jpg", 3)).unwrap();
    let contents: [(&str, Vec<u8>); 4] =
        [("empty", Vec::new()), ("cut", whole[..20].to_vec()), ("garbage", vec![0x55; 70_000]), ("text", b"hello".to_vec())];
    let no_percent = |name: &str| porch.line_with_all(&[&format!("{name}.jpg"), "it is not known how much changed"]);
    for (name, bytes) in &contents {
        let path = house.dir().join(format!("{name}.jpg"));
        fs::write(&path, bytes).unwrap();
        good(picture(porch, name, "10", &path));
        assert!(no_percent(name), "{name}");
    }
    let huge = house.dir().join("huge.jpg");
    fs::File::create(&huge).unwrap().set_len(2_000_000_000).unwrap();
    good(picture(porch, "huge", "10", &huge));
    assert!(no_percent("huge") && porch.line_with_all(&["a file of 2000 MB is not kept", "max_file"]));
    // Written to for as long as the hook reads it.
    let growing = house.dir().join("growing.jpg");
    fs::write(&growing, &whole[..20]).unwrap();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = fs::OpenOptions::new().append(true).open(&growing).unwrap();
            for _ in (0..5000).take_while(|_| !is_over.load(Ordering::Relaxed)) {
                file.write_all(&[0x55; 64 * 1024]).unwrap();
                // As fast as the disk is, not as memory.
                file.sync_data().unwrap();
            }
        });
        let output = picture(porch, "growing", "10", &growing);
        is_over.store(true, Ordering::Relaxed);
        good(output);
    });
    assert!(no_percent("growing"));
    let events = house.has_events(contents.len() + 2).await;
    for event in &events {
        assert_eq!(event.changed, None);
    }
    let mut lengths: Vec<_> = events.iter().map(|event| event.attachments.first().map(|known| known.attachment.length)).collect();
    for length in [None, Some(0), Some(5), Some(20), Some(70_000)] {
        let place = lengths.iter().position(|kept| *kept == length);
        lengths.remove(place.expect("whatever it is, it is kept, but for the huge one"));
    }
    assert!(lengths[0].is_some_and(|length| length >= 20), "of what grew, as much as there was: {lengths:?}");
}

#[tokio::test]
async fn how_much_changed_is_told_by_any_picture_of_an_event_and_never_by_its_movie() {
    let house = House::with_cameras(["porch"]).await;
    let porch = house.camera("porch");
    let image = image::RgbImage::from_pixel(200, 50, image::Rgb([9; 3]));
    let mut pictures = Vec::new();
    for (format, ending) in [(ImageFormat::Jpeg, "jpg"), (ImageFormat::Png, "png"), (ImageFormat::WebP, "webp")] {
        let path = house.dir().join(format!("a.{ending}"));
        image.save_with_format(&path, format).unwrap();
        pictures.push((path, ending));
    }
    // Its head says how large it is, whatever follows and however much.
    let huge = house.dir().join("a.huge");
    fs::copy(house.dir().join("a.jpg"), &huge).unwrap();
    fs::OpenOptions::new().write(true).open(&huge).unwrap().set_len(2_000_000_000).unwrap();
    pictures.push((huge, "huge"));
    let movie = house.dir().join("a.mp4");
    fs::write(&movie, vec![9; 1000]).unwrap();
    for (path, event) in &pictures {
        // As many of 10 000 as are a little more than 6 %.
        good(picture(porch, event, "601", path));
        let words = ["movie", "--event", event, "--camera", "cam", "--pixels", "9000", "--file"];
        good(hook(porch, &words.iter().map(OsStr::new).chain([movie.as_os_str()]).collect::<Vec<_>>()));
    }
    let expected = ["a.jpg a.mp4", "a.mp4", "a.png a.mp4", "a.webp a.mp4"].map(|names| (names.to_owned(), Some(7)));
    // Each event is told at its picture, and again at its movie.
    eventually("each event is there with its files, and the percent of its picture", async || {
        let told = house.events().await.into_iter().map(|event| {
            let names: Vec<_> = event.attachments.iter().map(|known| known.attachment.name.clone()).collect();
            (names.join(" "), event.changed)
        });
        let mut found: Vec<_> = told.collect();
        found.sort_unstable();
        found == expected
    })
    .await;
    assert!(porch.told("a file of 2000 MB is not kept"));
}

#[tokio::test]
async fn only_a_regular_file_that_the_hook_itself_can_open_is_taken() {
    let house = House::with_cameras(["porch"]).await;
    let porch = house.camera("porch");
    let real = jpeg(house.dir(), b"real.jpg", 1);
    let link = house.dir().join("link.jpg");
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let pipe = house.dir().join("pipe.jpg");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for (wrong, why) in [
        (link.as_path(), "it is a symbolic link"),
        (&pipe, "it is not a regular file"),
        (house.dir(), "it is not a regular file"),
        (Path::new("/none.jpg"), "No such file"),
        (Path::new("/dev/zero"), "it is not a regular file"),
    ] {
        let output = picture(porch, "1", "1", wrong);
        assert_eq!(output.status.code(), Some(66), "{}", wrong.display());
        assert!(String::from_utf8_lossy(&output.stderr).contains(why), "{}: {}", wrong.display(), String::from_utf8_lossy(&output.stderr));
    }
    assert!(house.events().await.is_empty());
    assert_eq!(fs::read_dir(porch.spool_dir()).unwrap().count(), 0, "nor is it left in the spool");
}

#[tokio::test]
async fn what_a_hook_tells_while_the_node_is_away_waits_in_the_spool() {
    let house = House::with_cameras(["porch"]).await;
    let porch = house.camera("porch");
    porch.stop().await;
    good(said(porch, "event-start", "7"));
    good(picture(porch, "7", "450", &jpeg(house.dir(), b"a.jpg", 1)));
    good(said(porch, "event-end", "7"));
    assert_eq!(fs::read_dir(porch.spool_dir()).unwrap().count(), 4, "three calls and a picture");
    // Somebody of the hook group leaves what is none of his: another name of a file, a link, nonsense.
    for (name, make) in
        [("01ARZ3NDEKTSV4RRFFQ69G5FAV.json", 0), ("01ARZ3NDEKTSV4RRFFQ69G5FAW.json", 1), ("01ARZ3NDEKTSV4RRFFQ69G5FAX.json", 2)]
    {
        let path = porch.spool_dir().join(name);
        match make {
            0 => fs::hard_link(house.coordinator.config(), path).unwrap(),
            1 => std::os::unix::fs::symlink(house.coordinator.config(), path).unwrap(),
            _ => fs::write(path, "nonsense").unwrap(),
        }
    }
    porch.start();
    eventually("all of it came", async || house.events().await.first().is_some_and(|event| event.attachments.len() == 1)).await;
    assert_eq!(house.has_events(1).await.remove(0).changed, Some(5));
    eventually("the spool is empty but for what is refused", async || {
        let names = fs::read_dir(porch.spool_dir()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect::<Vec<_>>().iter().filter(|name| !name.ends_with(".refused")).count() == 0
    })
    .await;
    assert_eq!(porch.lines_with("an entry of the spool is not taken"), 3);
}

#[tokio::test]
async fn what_is_seen_while_the_coordinator_is_away_reaches_it_later() {
    let house = House::with_cameras(["porch"]).await;
    let porch = house.camera("porch");
    house.coordinator.sigkill().await;
    for nth in 0..10 {
        good(picture(porch, &nth.to_string(), "10", &jpeg(house.dir(), format!("{nth}.jpg").as_bytes(), nth)));
    }
    eventually("all wait", async || porch.camera_status().await.is_some_and(|status| status.outbox.waiting == 10)).await;
    porch.sigkill().await;
    porch.start();
    house.coordinator.start();
    house.answers().await;
    let events = house.has_events(10).await;
    assert!(events.iter().all(|event| event.attachments.len() == 1));
}

#[tokio::test]
async fn whoever_may_only_hand_in_events_can_do_nothing_else_and_whoever_says_nonsense_harms_nobody() {
    let house = House::with_cameras(["porch"]).await;
    let before = house.standing().await;
    let porch = house.camera("porch");
    let socket = porch.run_dir().join("hook.sock");
    for nonsense in [&b""[..], b"\0\0\0\x02{}", b"\xff\xff\xff\xff", b"GET / HTTP/1.0\r\n\r\n", b"\0\0\0\x08\"status\"", &[0; 4]] {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(nonsense).unwrap();
        drop(stream);
    }
    eventually("a line says so", async || porch.told("a hook said what cannot be understood")).await;
    good(picture(porch, "1", "1", &jpeg(house.dir(), b"a.jpg", 1)));
    house.has_events(1).await;
    house.is_unharmed(before).await;
}
