//! A detector that dies, hangs, forks, or is missing.

use super::*;

#[tokio::test]
async fn a_detector_that_was_shot_is_reported_and_started_again() {
    let mut source = Source::scripted("exec sleep 1000");
    source.told(true);
    source.is(DetectorPhase::Starting).await;
    let first = source.starts(1).await[0];
    send(first, Signal::SIGKILL);
    source.says(DetectorPhase::Failed, "Motion was ended by signal 9 (SIGKILL)").await;
    let second = source.starts(2).await[1];
    source.says(DetectorPhase::Starting, "again, after this: Motion was ended by signal 9").await;
    assert!(lives(second));
    source.told(false);
    source.is(DetectorPhase::Stopped).await;
    assert!(!lives(second));
    source.ends().await;
}

#[tokio::test]
async fn a_detector_that_ends_by_itself_is_reported_with_its_last_words() {
    let mut source = Source::scripted("echo '[1:ml1] [ERR] [VID] no such device' >&2; echo '[0:motion] [NTC] [ALL] goodbye'; exit 3");
    source.told(true);
    source.says(DetectorPhase::Failed, "Motion ended with exit code 3: no such device").await;
    // One second, then two: the third start comes three seconds after the first.
    let began = Instant::now();
    source.starts(3).await;
    assert!(began.elapsed() > Duration::from_millis(2500), "no back-off");
    source.told(false);
    source.is(DetectorPhase::Stopped).await;
    source.ends().await;
}

#[tokio::test]
async fn a_missing_motion_is_told_with_what_to_do() {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|dir| dir.join("motion").exists()) {
        let mut source = Source::with(tempfile::tempdir().unwrap(), "command = [\"no-such-motion\"]");
        source.told(true);
        assert_eq!(source.is(DetectorPhase::Failed).await, "cannot start no-such-motion: not found; install it or set `command`");
        source.ends().await;
    } else {
        let mut source = Source::with(tempfile::tempdir().unwrap(), "");
        source.told(true);
        source.says(DetectorPhase::Failed, "`apt install motion`").await;
        source.ends().await;
    }
}

#[tokio::test]
async fn a_users_config_that_is_missing_is_told_and_taken_once_it_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let config = write_script(dir.path(), "exec sleep 1000", "");
    let own = dir.path().join("own.conf");
    fs::remove_file(&own).unwrap();
    let mut source = Source::with(dir, &config);
    source.told(true);
    source.says(DetectorPhase::Failed, "own.conf").await;
    assert!(!source.dir.path().join("starts").exists(), "it was started without its config");
    fs::write(&own, "").unwrap();
    source.starts(1).await;
    source.ends().await;
}

#[tokio::test]
async fn a_detector_that_ignores_the_request_to_end_is_killed_after_its_grace() {
    let mut source = Source::scripted_with("trap '' TERM; while :; do sleep 0.1; done", "stop_grace = \"1s\"");
    source.told(true);
    let pid = source.starts(1).await[0];
    let began = Instant::now();
    source.told(false);
    source.is(DetectorPhase::Stopping).await;
    source.is(DetectorPhase::Stopped).await;
    assert!(began.elapsed() >= Duration::from_secs(1), "had no grace");
    assert!(!lives(pid));
    source.ends().await;
}

#[tokio::test]
async fn a_wrapper_that_forks_takes_its_child_with_it() {
    // The wrapper dies of SIGTERM at once, its child takes its time to finish a clip.
    let script = "sh -c 'echo $$ >> $0/starts; trap \"sleep 0.5; touch $0/clip; exit 0\" TERM; while :; do sleep 0.1; done' $dir; true";
    let mut source = Source::scripted(script);
    source.told(true);
    let pids = source.starts(2).await;
    source.told(false);
    // Stopped it was before the start too, of which the report may come after the child's first line.
    source.is(DetectorPhase::Stopping).await;
    source.is(DetectorPhase::Stopped).await;
    assert!(!pids.iter().any(|pid| lives(*pid)));
    assert!(source.dir.path().join("clip").exists(), "the clip was not finished");
    source.ends().await;
}

#[tokio::test]
async fn a_hook_that_hands_over_the_last_clip_is_not_stopped_with_its_detector() {
    // As Motion does: a session of its own, in the background.
    let mut source = Source::scripted("trap 'setsid sh -c \"sleep 1; touch $dir/handed\" & exit 0' TERM; while :; do sleep 0.1; done");
    source.told(true);
    source.starts(1).await;
    source.told(false);
    source.is(DetectorPhase::Stopped).await;
    let handed = source.dir.path().join("handed");
    assert!(!handed.exists(), "the hook was waited for");
    eventually("the hook hands over", || handed.exists()).await;
    source.ends().await;
}

#[tokio::test]
async fn the_latest_order_wins_and_there_are_never_two_detectors() {
    let script = "trap 'sleep 0.3; rmdir $dir/one; exit 0' TERM\nmkdir $dir/one || touch $dir/two\nwhile :; do sleep 0.05; done";
    let mut source = Source::scripted(script);
    for round in 1..=4 {
        source.told(true);
        source.is(DetectorPhase::Starting).await;
        source.starts(round).await;
        eventually("it runs", || source.dir.path().join("one").exists()).await;
        source.told(false);
        source.is(DetectorPhase::Stopping).await;
        // Told to watch, not to, and to watch again while the old one still ends.
        for on in [true, false, true] {
            source.told(on);
        }
    }
    let pids = source.starts(5).await;
    eventually("only the last one runs", || pids.iter().filter(|pid| lives(**pid)).count() == 1).await;
    source.told(false);
    source.is(DetectorPhase::Stopped).await;
    assert!(!source.dir.path().join("two").exists(), "two ran at once");
    assert!(!pids.iter().any(|pid| lives(*pid)));
    source.ends().await;
}

#[tokio::test]
async fn a_detector_has_none_of_our_capabilities_files_or_secrets_of_systemd() {
    // Readable for every child unless it is closed between fork and exec.
    let leak = nix::fcntl::open("/dev/null", nix::fcntl::OFlag::O_RDONLY, nix::sys::stat::Mode::empty()).unwrap();
    let source = Source::scripted("ls /proc/self/fd > $dir/fds; grep Cap /proc/self/status > $dir/caps; exec sleep 1000");
    source.told(true);
    let pid = source.starts(1).await[0];
    eventually("it has spoken", || fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "sleep\n")).await;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert!(status.contains(&format!("{set}:\t0000000000000000")), "{set} in {status}");
    }
    let caps = fs::read_to_string(source.dir.path().join("caps")).unwrap();
    assert!(caps.contains("CapEff:\t0000000000000000"), "{caps}");
    // 0, 1, 2, and the directory that `ls` itself reads.
    assert_eq!(fs::read_to_string(source.dir.path().join("fds")).unwrap().split_whitespace().count(), 4);
    drop(leak);
    let group = nix::unistd::getpgid(Some(Pid::from_raw(i32::try_from(pid).unwrap()))).unwrap();
    assert_eq!(group.as_raw().cast_unsigned(), pid);
    source.ends().await;
}

#[test]
fn an_idle_thread_pool_does_not_shoot_the_detector() {
    // tokio ends idle threads of its pool after 10 s; here they end at once.
    let keep = Duration::from_millis(10);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_keep_alive(keep).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut source = Source::scripted("exec sleep 1000");
        source.told(true);
        let pid = source.starts(1).await[0];
        for _ in 0..8 {
            tokio::task::spawn_blocking(|| {}).await.unwrap();
        }
        // Watching is told after six seconds of life.
        source.is(DetectorPhase::Watching).await;
        assert!(lives(pid));
        assert_eq!(source.starts(1).await, [pid]);
        source.ends().await;
    });
}

#[tokio::test]
async fn when_the_node_stops_its_detector_is_gone_too() {
    let mut source = Source::scripted("trap 'sleep 0.2; exit 0' TERM; while :; do sleep 0.05; done");
    source.told(true);
    source.is(DetectorPhase::Starting).await;
    let pid = source.starts(1).await[0];
    let took = source.ends().await;
    assert!(!lives(pid));
    assert!(took < super::super::STOP_WITH_NODE, "{took:?}");
}

#[tokio::test]
async fn a_driver_that_is_gone_stops_no_detector() {
    let mut source = Source::scripted("exec sleep 1000");
    source.told(true);
    let pid = source.starts(1).await[0];
    drop(std::mem::replace(&mut source.orders, watch::channel(WatchOrder::default()).0));
    source.is(DetectorPhase::Watching).await;
    assert!(lives(pid));
    source.ends().await;
}

/// A node in a process of its own that can be killed: runs the source in `DMS3_TEST_STATE` as `DMS3_TEST_CONFIG` says.
/// Without those it is no node, and has nothing to do.
#[test]
fn stand_in_for_a_node() {
    let (Some(state), Ok(config)) = (std::env::var_os("DMS3_TEST_STATE"), std::env::var("DMS3_TEST_CONFIG")) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let config: DetectorConfig = toml::from_str(&config).unwrap();
        let (_orders, order) = watch::channel(WatchOrder { on: true, decided: None });
        let (reporter, _report) = watch::channel(first_report(&config, Timestamp(0)));
        let spawner = Spawner::start().unwrap();
        run(
            Post { config, orders: order, report: reporter, looks: mpsc::channel(1).1 },
            fixed_now,
            (PathBuf::from(&state), hooks(PathBuf::from(&state).with_file_name("run"))),
            spawner,
            CancellationToken::new(),
        )
        .await
        .unwrap();
    });
}

fn node_with(dir: &Path, config: &str) -> Stranger {
    let mut node = Command::new(std::env::current_exe().unwrap());
    node.args(["--exact", "camera::detector::tests::faults::stand_in_for_a_node"])
        .env("DMS3_TEST_STATE", dir.join("state"))
        .env("DMS3_TEST_CONFIG", config)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Stranger(node.spawn().unwrap())
}

#[tokio::test]
async fn no_detector_outlives_a_node_that_was_killed() {
    let dir = tempfile::tempdir().unwrap();
    let config = write_script(dir.path(), "trap '' TERM; while :; do sleep 0.1; done", "");
    let mut node = node_with(dir.path(), &config);
    let starts = dir.path().join("starts");
    eventually("it runs", || numbers(&starts).len() == 1).await;
    let pid = numbers(&starts)[0];
    node.0.kill().unwrap();
    eventually("the detector is gone with its node", || !lives(pid)).await;
}

#[tokio::test]
async fn what_a_wrapper_left_behind_in_a_crash_is_ended_by_the_next_start_and_nobody_else_is() {
    let dir = tempfile::tempdir().unwrap();
    // The kernel kills only the wrapper with the node; its child would go on watching, and hold the camera.
    let config = write_script(dir.path(), "sh -c 'echo $$ >> $0/starts; while :; do sleep 0.1; done' $dir; true", "");
    let mut node = node_with(dir.path(), &config);
    let starts = dir.path().join("starts");
    eventually("wrapper and child run", || numbers(&starts).len() == 2).await;
    let [wrapper, child] = numbers(&starts)[..] else { panic!() };
    let record = dir.path().join("state/detector/cam/process");
    eventually("the child is noted", || fs::read_to_string(&record).is_ok_and(|text| text.contains(&wrapper.to_string()))).await;
    node.0.kill().unwrap();
    eventually("the wrapper is gone", || !lives(wrapper)).await;
    assert!(lives(child), "nothing is left to clean up");

    // The same file on the command line, somebody else's process.
    let other = Stranger(Command::new("tail").arg("-f").arg(dir.path().join("own.conf")).stdout(Stdio::null()).spawn().unwrap());

    let mut source = Source::with(dir, &config);
    source.told(true);
    source.starts(4).await;
    assert!(!lives(child), "two watch at once");
    assert!(lives(other.0.id()));
    source.told(false);
    source.is(DetectorPhase::Stopped).await;
    assert!(lives(other.0.id()));
    source.ends().await;
}
