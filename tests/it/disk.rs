//! The `disk` gate against `df`, on real filesystems.

use std::fs;
use std::path::Path;
use std::process::Command;

use lab::engine::df_percent;
use lab::{Engine, Image, Kind, Options};
use predicates::str::contains;
use serde_json::Value;

use crate::support::{json_of, program, prune, remember};

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
