//! The `disk` gate against `df`, on real filesystems.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lab::engine::df_percent;
use lab::{Engine, Fault, Image, Kind, Options, Proxy};
use predicates::str::contains;
use serde_json::{Value, json};

use crate::support::{json_of, names, program, prune, reachable, remember, stdout};

fn facts(engine: &Engine, path: &Path) -> Value {
    let assert = program(engine).args(["disk", "-o", "json", "--disk-path"]).arg(path).assert();
    json_of(&assert)["gates"][0]["reason"]["filesystems"][0].clone()
}

fn mount(engine: &Engine, arguments: &[&str], name: &str) -> std::path::PathBuf {
    let place = engine.folder().join(name);
    fs::create_dir(&place).unwrap();
    let status = Command::new("mount").args(arguments).arg(&place).status().unwrap();
    assert!(status.success(), "mount {arguments:?}");
    place
}

/// 300 MiB with the usual 5 % reserved for root.
fn ext4(engine: &Engine) -> std::path::PathBuf {
    let disk = engine.folder().join("ext4.img");
    fs::File::create(&disk).unwrap().set_len(300 << 20).unwrap();
    let status = Command::new("/sbin/mkfs.ext4").args(["-q", "-m", "5"]).arg(&disk).status().unwrap();
    assert!(status.success(), "mkfs.ext4");
    mount(engine, &["-o", "loop", disk.to_str().unwrap()], "ext4")
}

#[test]
fn the_gate_agrees_with_df_to_the_percent_on_ext4_with_reserved_blocks() {
    let engine = Engine::start();
    // A filesystem of its own, so that the engine writes nothing between the two looks.
    let place = ext4(&engine);
    for percent in [17, 50, 79, 80, 81, 93, 99, 100] {
        lab::engine::fill_to(&place, percent);
        let shown = df_percent(&place);
        assert_eq!(facts(&engine, &place)["used_percent"], shown, "df shows {shown}%");
        let code = if shown >= 80 { 0 } else { 3 };
        program(&engine)
            .args(["disk", "--disk-path"])
            .arg(&place)
            .assert()
            .code(code)
            .stdout(contains(format!("at {shown}%")));
    }
}

#[test]
fn closed_says_so_in_the_words_of_the_contract() {
    let engine = Engine::start();
    let data = engine.data();
    let shown = engine.df_percent();
    program(&engine)
        .arg("disk")
        .assert()
        .code(3)
        .stderr("")
        .stdout(contains(format!("{} at {shown}% (< 80%), keeping local image cache", data.display())));
    program(&engine).args(["disk", "--disk-threshold", "1"]).assert().code(0);
}

#[test]
fn inodes_decide_where_they_are_scarcer() {
    let engine = Engine::start();
    let place = mount(&engine, &["-t", "tmpfs", "-o", "nr_inodes=100", "few"], "few");
    for n in 0..90 {
        fs::write(place.join(n.to_string()), "").unwrap();
    }
    let found = facts(&engine, &place);
    assert_eq!(found["used_percent"], 91);
    assert_eq!(found["block_percent"], df_percent(&place));
    program(&engine)
        .args(["disk", "--disk-path"])
        .arg(&place)
        .assert()
        .code(0)
        .stdout(contains("at 91% of its inodes (>= 80%)"));
}

#[test]
fn a_filesystem_that_does_not_count_inodes_has_blocks_only() {
    let engine = Engine::start();
    let disk = engine.folder().join("btrfs.img");
    fs::File::create(&disk).unwrap().set_len(256 << 20).unwrap();
    let status = engine.inside("mkfs.btrfs").arg("-q").arg(&disk).status().unwrap();
    assert!(status.success(), "mkfs.btrfs");
    let place = mount(&engine, &["-o", "loop", disk.to_str().unwrap()], "btrfs");
    fs::write(place.join("file"), vec![7; 100 << 20]).unwrap();
    Command::new("sync").arg("-f").arg(&place).status().unwrap();
    let found = facts(&engine, &place);
    assert_eq!(found["inode_percent"], Value::Null);
    assert_eq!(found["used_percent"], df_percent(&place));
}

#[test]
fn each_filesystem_counts_once_and_the_fullest_decides() {
    let engine = Engine::start();
    let place = mount(&engine, &["-t", "tmpfs", "-o", "size=10m", "small"], "small");
    fs::write(place.join("file"), vec![7; 9 << 20]).unwrap();
    let assert = program(&engine)
        .args(["disk", "-o", "json", "--disk-path"])
        .arg(engine.data())
        .arg("--disk-path")
        .arg(engine.data().join("containers"))
        .arg("--disk-path")
        .arg(&place)
        .assert()
        .code(0);
    let filesystems = json_of(&assert)["gates"][0]["reason"]["filesystems"].clone();
    assert_eq!(filesystems.as_array().unwrap().len(), 2);
    assert_eq!(filesystems[0]["path"], place.to_str().unwrap());
}

#[test]
fn what_cannot_be_measured_is_unknown() {
    let engine = Engine::start_with(Options { swarm: false, kind: Kind::from_env(), ..Options::default() });
    let missing = engine.folder().join("missing");
    program(&engine)
        .args(["disk", "--disk-path"])
        .arg(&missing)
        .assert()
        .code(255)
        .stdout(contains(missing.to_str().unwrap()));
    // /proc has no blocks at all.
    program(&engine)
        .args(["disk", "--disk-path", "/proc"])
        .assert()
        .code(255)
        .stdout(contains("/proc says that it has no blocks"));
}

/// btrfs returns what was removed with its next commit, up to half a minute later.
#[test]
fn on_btrfs_no_more_is_evicted_than_on_ext4() {
    let mut gone = Vec::new();
    for filesystem in ["ext4", "btrfs"] {
        let engine = Engine::start_with(Options { swarm: false, filesystem, ..Options::default() });
        // The containerd store keeps an image twice.
        let size = if engine.kind.containerd_store() { 30 } else { 60 };
        let mut ids = Vec::new();
        for n in 0..12 {
            let image = Image::new(&format!("app{n}"), "1").size_mib(size);
            let name = format!("127.0.0.1:5000/app{n}@{}", engine.publish(&image));
            engine.docker(["pull", "--quiet", &name]);
            ids.push(engine.image_id(&name));
        }
        remember(&engine, &ids.iter().map(|id| (id.as_str(), 30)).collect::<Vec<_>>());
        engine.fill_to(86);
        let report = prune(&engine, "--disk-target 80");
        let after = report["disk"]["after"]["used_percent"].as_u64().unwrap();
        assert!((70..80).contains(&after), "{filesystem}: {report}");
        assert!(report["reclaimed_bytes"].as_u64().unwrap() > 50 << 20, "{filesystem}: {report}");
        gone.push(report["removed"].as_array().unwrap().len());
    }
    assert!(gone[1] <= gone[0] + 1 && gone[1] < 6, "{gone:?}");
}

/// A disk that the engine and the program see at the same place.
fn shared_disk(engine: &Engine, name: &str) -> PathBuf {
    let image = engine.folder().join(format!("{name}.img"));
    fs::File::create(&image).unwrap().set_len(400 << 20).unwrap();
    let output = |command: &mut Command| {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    output(Command::new("/sbin/mkfs.ext4").arg("-q").arg(&image));
    let device = output(Command::new("/sbin/losetup").args(["--find", "--show"]).arg(&image));
    output(engine.inside("mkdir").arg(engine.folder().join(name)));
    output(engine.inside("mount").arg(&device).arg(engine.folder().join(name)));
    output(Command::new("mount").arg(&device).arg(engine.folder().join(name)));
    // It goes with its last mount.
    output(Command::new("/sbin/losetup").args(["--detach", &device]));
    engine.folder().join(name)
}

/// An engine that changes from its own containerd to a separate one leaves `containerd/daemon` behind.
#[test]
fn images_are_measured_where_the_containerd_in_use_keeps_them() {
    let engine = Engine::start_with(Options { swarm: false, ..Options::default() });
    let place = shared_disk(&engine, "images");
    fs::create_dir_all(engine.data().join("containerd/daemon")).unwrap();
    let configuration = engine.folder().join("containerd.toml");
    fs::write(&configuration, format!("version = 2\nroot = \"{}\"\n", place.display())).unwrap();
    let mut containerd = engine.inside("containerd");
    containerd.arg("--config").arg(&configuration).stdout(Stdio::null()).stderr(Stdio::null());
    let mut containerd = containerd.spawn().unwrap();
    engine.eventually("containerd listens", || {
        let mut there = engine.inside("test");
        there.args(["-S", "/run/containerd/containerd.sock"]).status().unwrap().success()
    });
    engine.restart();
    let pulled = format!("127.0.0.1:5000/app@{}", engine.publish(&Image::new("app", "1").size_mib(8)));
    engine.docker(["pull", "--quiet", &pulled]);
    remember(&engine, &[(&engine.image_id(&pulled), 30)]);
    lab::engine::fill_to(&place, 90);
    let disk = program(&engine).args(["disk"]).assert();
    if engine.kind.containerd_store() {
        disk.code(0).stdout(contains(format!("{} at 9", place.display())));
        // Paths that are named are measured, and evictions look where the images lie.
        let data = engine.data();
        let closed = program(&engine).args(["disk", "--disk-path"]).arg(&data).assert().code(3);
        assert!(!stdout(&closed).contains(place.to_str().unwrap()), "{}", stdout(&closed));
        let words = format!("--disk-path {} --disk-path {}", data.display(), place.display());
        let report = prune(&engine, &words);
        assert_eq!(names(&report["removed"]), ["app"], "{report}");
    } else {
        disk.code(3).stdout(contains(engine.data().to_str().unwrap()));
    }
    drop(engine);
    containerd.wait().unwrap();
}

/// What an engine that is another one says of itself.
fn another(engine: &Engine, changes: Value) -> &'static str {
    let (_, mut info) = engine.get("/info");
    for (key, value) in changes.as_object().unwrap() {
        info[key] = value.clone();
    }
    info.to_string().leak()
}

#[test]
fn a_socket_that_leads_to_another_host_is_not_measured_here() {
    let engine = Engine::start();
    let name = format!("127.0.0.1:5000/app@{}", engine.publish(&Image::new("app", "1").size_mib(8)));
    engine.docker(["pull", "--quiet", &name]);
    remember(&engine, &[(&engine.image_id(&name), 30)]);
    let proxy = Proxy::before(&engine);
    // Some proxy stands in front of this host's engine.
    program(&engine).args(["disk", "--host", &proxy.url()]).assert().code(3);
    let elsewhere = mount(&engine, &["-t", "tmpfs", "-o", "size=16M", "tmpfs"], "elsewhere");
    fs::write(elsewhere.join("ballast"), vec![0; 14 << 20]).unwrap();
    let check = |host: &str| {
        let gate = program(&engine).args(["disk", "--host", host]).assert().code(255);
        gate.stdout(contains("the engine is on another host")).stdout(contains("--disk-path"));
        program(&engine)
            .args(["verify", "--host", host])
            .assert()
            .stdout(contains("the engine is on another host"));
        let explain = program(&engine)
            .args(["explain", "-o", "json", "--host", host, "--disk-path"])
            .arg(&elsewhere)
            .arg(&name)
            .assert()
            .code(0);
        assert_eq!(json_of(&explain)["disk"]["path"], elsewhere.to_str().unwrap(), "{}", stdout(&explain));
        let report = program(&engine)
            .args(["prune", "--dry-run", "-o", "json", "--host", host, "-v", "--disk-path"])
            .arg(&elsewhere)
            .assert();
        let report = json_of(&report);
        assert!(report.to_string().contains("logs are on the engine's own host"), "{report}");
    };
    // An engine with the same paths, by its name and ID.
    let answer = another(&engine, json!({"Name": "build-7", "ID": "another"}));
    proxy.on_request(move |_, line| (line == "GET /info").then_some(Fault::Answer(answer)));
    check(&proxy.url());
    proxy.on_request(|_, _| None);
    // The engine's folder here is another one than the engine sees, directly or through a proxy.
    let status = Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(engine.data()).status().unwrap();
    assert!(status.success());
    check(&engine.url());
    check(&proxy.url());
}

#[test]
fn a_folder_that_may_not_be_entered_is_measured_by_its_mount() {
    let engine = Engine::start_with(Options { swarm: false, ..Options::default() });
    let closed = engine.data().join("closed");
    fs::create_dir_all(closed.join("100000.100000/containerd/daemon")).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    // As with userns-remap.
    let root = closed.join("100000.100000");
    let answer = another(&engine, json!({"Name": host.trim(), "DockerRootDir": root}));
    let proxy = Proxy::before(&engine);
    proxy.on_request(move |_, line| (line == "GET /info").then_some(Fault::Answer(answer)));
    fs::set_permissions(engine.folder().join("proxy.sock"), fs::Permissions::from_mode(0o666)).unwrap();
    let mut command = Command::new(reachable(&engine));
    command.uid(65534).gid(65534).env_clear().args(["disk", "--host", &proxy.url()]);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(3), "{text}");
    let shown = format!("{} at {}% (< 80%)", engine.data().display(), engine.df_percent());
    assert!(text.contains(&shown), "{text}");
}

#[test]
fn subvolumes_of_a_btrfs_are_one_filesystem() {
    let engine = Engine::start_with(Options { swarm: false, filesystem: "btrfs", ..Options::default() });
    let data = engine.data();
    let mut words = vec!["disk".to_owned(), "-o".into(), "json".into()];
    for name in ["one", "two"] {
        let subvolume = data.join(name);
        let created = engine.inside("btrfs").args(["subvolume", "create"]).arg(&subvolume).output().unwrap();
        assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
        words.extend(["--disk-path".to_owned(), subvolume.to_str().unwrap().to_owned()]);
    }
    let assert = program(&engine).args(words).assert().code(3);
    let filesystems = json_of(&assert)["gates"][0]["reason"]["filesystems"].clone();
    assert_eq!(filesystems.as_array().unwrap().len(), 1, "{filesystems}");
    assert_eq!(filesystems[0]["path"], data.to_str().unwrap());
}

#[test]
fn the_metadata_of_btrfs_counts_once_nothing_is_left_to_allocate() {
    let engine = Engine::start_with(Options { swarm: false, ..Options::default() });
    let disk = engine.folder().join("btrfs.img");
    fs::File::create(&disk).unwrap().set_len(256 << 20).unwrap();
    let status = engine.inside("mkfs.btrfs").arg("-q").arg(&disk).status().unwrap();
    assert!(status.success(), "mkfs.btrfs");
    let place = mount(&engine, &["-o", "loop", disk.to_str().unwrap()], "btrfs");
    assert!(facts(&engine, &place)["metadata_percent"].as_u64().unwrap() < 20);
    // Data gets all chunks, and leaves them half empty.
    let large = |n: u64| place.join(format!("large{n}"));
    let mut count = 0;
    while df_percent(&place) < 90 {
        fs::write(large(count), vec![7; 4 << 20]).unwrap();
        Command::new("sync").arg("-f").arg(&place).status().unwrap();
        count += 1;
    }
    (0..count).step_by(2).for_each(|n| fs::remove_file(large(n)).unwrap());
    // Small files lie in the metadata.
    let (mut files, mut found) = (0, facts(&engine, &place));
    while found["metadata_percent"].as_u64().unwrap() < 65 {
        for _ in 0..100 {
            fs::write(place.join(format!("small{files}")), vec![7; 2000]).unwrap();
            files += 1;
        }
        found = facts(&engine, &place);
    }
    assert!(df_percent(&place) < 65 && found["block_percent"].as_u64().unwrap() < 65, "{found}");
    assert_eq!(found["used_percent"], found["metadata_percent"]);
    let words = ["disk", "--disk-threshold", "65", "--disk-path"];
    let gate = program(&engine).args(words).arg(&place).assert().code(0);
    gate.stdout(contains("of its metadata (>= 65%)"));
}
