//! The module's units on a booted host: real systemd, a real engine, the sandbox as it is.
//!
//! `tests/nix/run` renders the units that these tests install.

use std::fs;
use std::path::{Path, PathBuf};

use lab::{Host, Image, Kind};

const PRUNE: &str = "ci-docker-prune.service";
const RECORD: &str = "ci-docker-prune-record.service";
const RUN: &str = "abcd-0123ef_ci_commoninternet_net";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The release binary where `LAB_PROGRAM` names it.
fn program() -> PathBuf {
    std::env::var_os("LAB_PROGRAM").map_or_else(
        || PathBuf::from(env!("CARGO_BIN_EXE_ci-docker-prune")),
        |path| Path::new(&path).canonicalize().expect("the program that LAB_PROGRAM names"),
    )
}

/// A host with these units, and with what NixOS does beside them: the user, the directories, the timers.
fn host_with(units: &str, kind: Kind) -> Host {
    let host = Host::boot(&program(), kind);
    let units = root().join(units);
    let entries = fs::read_dir(&units);
    for entry in entries.unwrap_or_else(|_| panic!("no {}: tests/nix/run renders it", units.display())) {
        let path = entry.expect("read the folder of the units").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).expect("read a unit");
        let folder = match name.rsplit_once('.').expect("an extension").1 {
            "service" | "timer" | "path" => "/etc/systemd/system",
            "toml" => "/etc",
            _ if name.contains("tmpfiles") => "/etc/tmpfiles.d",
            _ => "/etc/sysusers.d",
        };
        host.write(&format!("{folder}/{}", name.replace(".tmpfiles", "").replace(".sysusers", "")), &text);
    }
    host.run(
        "systemd-sysusers
         getent passwd ci-docker-prune > /dev/null || useradd --system --user-group ci-docker-prune
         systemd-tmpfiles --create ci-docker-prune.conf
         mkdir --parents /etc/systemd/system/timers.target.wants
         ln --symbolic --force --target-directory /etc/systemd/system/timers.target.wants \
           ../ci-docker-prune.timer ../ci-docker-prune-record.timer
         mkdir --parents /etc/systemd/system/paths.target.wants
         ln --symbolic --force --target-directory /etc/systemd/system/paths.target.wants ../ci-docker-prune-record.path
         systemctl daemon-reload",
    );
    host
}

fn host() -> Host {
    host_with("target/nix/units/plain", Kind::Trixie)
}

/// Let the policy be as short as a test, by what an operator would use for it.
fn hurry(host: &Host) {
    host.write("/etc/ci-docker-prune.toml", "older-than = \"0s\"\nverbose = 2\nprune-at = 90\n");
}

/// An image as Swarm's pulls leave it.
fn cached(host: &Host, name: &str) {
    host.publish(&Image::new(name, "1").size_mib(64));
    host.run(&format!("docker service create --quiet --detach --name {name} 127.0.0.1:5000/{name}:1"));
    host.eventually("the service runs", "docker service ls --format '{{.Replicas}}' | grep -q 1/1");
    host.run(&format!("docker service rm {name}"));
    host.eventually("its container is gone", "[ -z \"$(docker ps --all --quiet)\" ]");
}

/// What the program logs meanwhile, with its priorities. Not by unit: the journal may fail to tell whose a
/// process was that is gone already.
fn logged<T>(host: &Host, meanwhile: impl FnOnce() -> T) -> (T, String) {
    let journal = "journalctl --sync; journalctl --no-pager --identifier ci-docker-prune";
    host.run(&format!("{journal} --cursor-file /run/cursor > /dev/null"));
    let result = meanwhile();
    (
        result,
        host.run(&format!(
            "{journal} --cursor-file /run/cursor --output json --output-fields PRIORITY,MESSAGE"
        )),
    )
}

/// Start a unit that must succeed, and what it logged.
#[track_caller]
fn start(host: &Host, unit: &str) -> String {
    let (started, log) = logged(host, || host.sh(&format!("systemctl start {unit}")));
    assert!(started.is_ok(), "{unit} failed: {log}");
    log
}

#[test]
fn systemd_has_nothing_to_say_about_the_units_and_rates_their_sandbox_well() {
    let host = host_with("target/nix/units/plain", Kind::Trixie);
    for units in ["target/nix/units/plain", "modules/systemd"] {
        for unit in [PRUNE, RECORD, "ci-docker-prune.timer", "ci-docker-prune-record.timer"] {
            let text = fs::read_to_string(root().join(units).join(unit)).expect("a unit");
            host.write(&format!("/etc/systemd/system/{unit}"), &text);
            // It exits 0 on keys that it does not know: any word is a fault.
            let verify = format!("systemd-analyze verify --man=no /etc/systemd/system/{unit} 2>&1");
            assert_eq!(host.run(&verify), "", "{units}/{unit}");
        }
        for unit in [PRUNE, RECORD] {
            host.run(&format!(
                "systemd-analyze security --offline=true --threshold=10 --no-pager /etc/systemd/system/{unit}"
            ));
        }
    }
}

#[test]
fn the_timer_is_due_after_midnight_and_an_idle_disk_keeps_its_cache() {
    let host = host();
    assert_eq!(host.run("systemctl is-enabled ci-docker-prune.timer"), "enabled");
    host.run("systemctl start ci-docker-prune.timer");
    let due = host.run("systemctl show --property NextElapseUSecRealtime --value ci-docker-prune.timer");
    // Within 45 minutes.
    assert!(due.contains(" 00:"), "{due}");
    let state = host.run("systemctl show --property ActiveState --value ci-docker-prune.service");
    assert_eq!(state, "inactive", "the timer starts it, and nothing else");

    let log = start(&host, PRUNE);
    let line = log.lines().find(|line| line.contains("keeping local image cache")).expect(&log);
    assert!(line.contains("(< 80%)") && line.contains("\"PRIORITY\":\"6\""), "{line}");
    assert!(line.contains("/var/lib/docker at "), "the sandbox hides where the disk is mounted: {line}");
}

#[test]
fn under_pressure_the_service_prunes_and_a_live_run_holds_it_back() {
    let host = host();
    host.run("docker swarm init --advertise-addr 127.0.0.1");
    cached(&host, "old");
    host.run("systemctl start ci-docker-prune-record");
    lab::engine::fill_to(&host.data(), 85);
    hurry(&host);
    host.run(&format!("docker run --detach --name {RUN} 127.0.0.1:5000/old:1 sleep infinity"));
    let log = start(&host, PRUNE);
    assert!(log.contains("blocked by runs"), "{log}");

    host.run(&format!("docker rm --force {RUN}; docker image rm 127.0.0.1:5000/old:1"));
    cached(&host, "old");
    let log = start(&host, PRUNE);
    assert!(log.contains("Removed:") && log.contains("127.0.0.1:5000/old@"), "{log}");
    assert!(!host.run("docker image ls --digests").contains("127.0.0.1:5000/old"));
    // The sandbox refused nothing that the program asked for.
    for refusal in ["denied", "not permitted", "Read-only"] {
        assert!(!log.contains(refusal), "{refusal}: {log}");
    }
}

#[test]
fn the_program_asks_for_nothing_that_the_sandbox_refuses() {
    let host = host();
    host.run("docker swarm init --advertise-addr 127.0.0.1");
    cached(&host, "old");
    lab::engine::fill_to(&host.data(), 85);
    hurry(&host);
    for unit in [PRUNE, RECORD] {
        // A system call outside of the filter ends the program now, where it would only fail.
        let strict = format!("/etc/systemd/system/{unit}.d/strict.conf");
        host.write(&strict, "[Service]\nSystemCallErrorNumber=\n");
    }
    host.run("echo 'metrics-file = \"/var/lib/ci-docker-prune/x.prom\"' >> /etc/ci-docker-prune.toml");
    host.run("systemctl daemon-reload");
    start(&host, RECORD);
    let log = start(&host, PRUNE);
    assert!(log.contains("Removed:"), "{log}");
    assert!(host.run("cat /var/lib/ci-docker-prune/x-ledger.prom").contains("last_success"));
}

#[test]
fn what_fails_is_loud() {
    let host = host();
    host.write(
        "/etc/systemd/system/alarm.service",
        "[Service]\nType=oneshot\nExecStart=/bin/touch /run/alarm\n",
    );
    host.write(&format!("/etc/systemd/system/{PRUNE}.d/alarm.conf"), "[Unit]\nOnFailure=alarm.service\n");
    host.run("systemctl daemon-reload");
    let fails = |status: &str, words: &str| {
        let (started, log) = logged(&host, || host.sh(&format!("systemctl start {PRUNE}")));
        assert!(started.is_err(), "{log}");
        let loud = |line: &str| line.contains(words) && line.contains("\"PRIORITY\":\"3\"");
        assert!(log.lines().any(loud), "{words}: {log}");
        assert_eq!(host.run(&format!("systemctl show --property ExecMainStatus --value {PRUNE}")), status);
        host.eventually("OnFailure= fires", "test -e /run/alarm && rm /run/alarm");
    };
    lab::engine::fill_to(&host.data(), 97);
    fails("10", "manual intervention required");
    fs::remove_file(host.data().join("ballast")).expect("remove the ballast");
    // Without the socket, by which systemd would start it again.
    host.write("/etc/systemd/system/docker.service", "[Service]\nType=oneshot\nExecStart=/bin/false\n");
    host.run("systemctl stop docker.socket docker.service; systemctl daemon-reload; ! systemctl start docker.service");
    fails("1", "no Docker engine");
}

#[test]
fn the_record_timer_fills_the_ledger() {
    let host = host();
    host.write(
        "/etc/systemd/system/ci-docker-prune-record.timer.d/soon.conf",
        "[Timer]\nOnActiveSec=\nOnActiveSec=1s\nOnUnitActiveSec=1s\nAccuracySec=100ms\n",
    );
    host.publish(&Image::new("app", "1"));
    host.run("docker run --detach 127.0.0.1:5000/app:1 sleep infinity");
    host.run("systemctl daemon-reload; systemctl start ci-docker-prune-record.timer");
    host.eventually("the ledger knows the image", "grep -q sha256 /var/lib/ci-docker-prune/ledger.json");
    // Again, and again.
    let recorded = "grep recorded /var/lib/ci-docker-prune/ledger.json";
    let first = host.run(recorded);
    host.eventually("the ledger is recorded anew", &format!("[ \"$({recorded})\" != '{first}' ]"));
}

/// Let the ledger have seen everything a month ago, and start the record timer every second.
fn a_month_later(host: &Host) {
    let path = "/var/lib/ci-docker-prune/ledger.json";
    let mut ledger: serde_json::Value =
        serde_json::from_str(&host.run(&format!("cat {path}"))).expect("a ledger");
    lab::age(&mut ledger["images"], 30 * 24);
    host.write(path, &ledger.to_string());
    host.write(
        "/etc/systemd/system/ci-docker-prune-record.timer.d/soon.conf",
        "[Timer]\nOnActiveSec=\nOnActiveSec=1s\nOnUnitActiveSec=1s\nAccuracySec=100ms\n",
    );
    host.run("systemctl daemon-reload; systemctl start ci-docker-prune-record.timer");
}

#[test]
fn the_record_timer_makes_up_for_a_blocked_prune_and_relieves_a_disk_that_fills_at_noon() {
    let host = host();
    host.run("docker swarm init --advertise-addr 127.0.0.1");
    cached(&host, "midnight");
    host.publish(&Image::new("app", "1"));
    host.run(&format!("docker run --detach --name {RUN} 127.0.0.1:5000/app:1 sleep infinity"));
    let there = |name: &str| format!("docker image ls --digests | grep -q 127.0.0.1:5000/{name}");
    lab::engine::fill_to(&host.data(), 85);
    // Midnight: the ledger sees the images, and the run blocks the prune.
    assert!(start(&host, PRUNE).contains("blocked by runs"));
    a_month_later(&host);
    let in_journal = |test: &str| {
        format!("journalctl --sync; journalctl --no-pager --identifier ci-docker-prune | {test}")
    };
    host.eventually("the record waits for its moment", "ls /run/ci-docker-prune/prunes/*");
    // In KiB, without the pages of its file.
    let memory = format!(
        "sed -n 's/RssAnon:\\s*\\([0-9]*\\) kB/\\1/p' /proc/$(systemctl show --property MainPID --value {RECORD})/status"
    );
    let memory: u64 = host.run(&memory).parse().expect("a size");
    assert!(memory < 10 << 10, "{memory} KiB");
    assert!(host.sh(&there("midnight")).is_ok());
    host.run(&format!("docker rm --force {RUN}"));
    host.eventually("the prune is made up for", &format!("! {}", there("midnight")));
    host.eventually("it is reported", &in_journal("grep --quiet Removed:"));

    // Noon: nothing is owed, and the disk fills.
    host.run("systemctl stop ci-docker-prune-record.timer");
    cached(&host, "noon");
    start(&host, RECORD);
    lab::engine::fill_to(&host.data(), 91);
    a_month_later(&host);
    host.eventually("the disk is relieved", &format!("! {}", there("noon")));
    assert_eq!(host.run(&format!("systemctl show --property Result --value {RECORD}")), "success");
}

#[test]
fn a_command_on_an_urgent_disk_has_a_prune_go_first_by_the_path_unit() {
    let host = host();
    hurry(&host);
    host.run("useradd --create-home --groups docker alice; docker swarm init --advertise-addr 127.0.0.1");
    cached(&host, "old");
    host.run("systemctl start ci-docker-prune-record.path");
    lab::engine::fill_to(&host.data(), 91);
    let there = "docker image ls --digests | grep -c 127.0.0.1:5000/old || true";
    assert_eq!(host.run(there), "1");
    let counted = host.run(&format!("runuser -u alice -- ci-docker-prune inhibit -- sh -c '{there}'"));
    assert_eq!(counted, "0", "the prune went first");
}

#[test]
fn a_user_of_the_docker_group_can_inhibit() {
    let host = host();
    hurry(&host);
    host.run("useradd --create-home --groups docker alice; useradd --create-home bob");
    let inhibit = |user: &str| format!("runuser -u {user} -- ci-docker-prune inhibit --why deploy --");
    // After the service took the lock that an inhibitor waits for: in its sandbox the group has no number.
    host.run("docker swarm init --advertise-addr 127.0.0.1");
    cached(&host, "old");
    lab::engine::fill_to(&host.data(), 85);
    assert!(start(&host, PRUNE).contains("Removed:"));
    let lock = host.run("stat --format '%U %G %a' /run/ci-docker-prune/inhibitors/.removing.lock");
    assert_eq!(lock, "ci-docker-prune docker 640");
    assert_eq!(host.run(&format!("{} echo ran", inhibit("alice"))), "ran");
    lab::engine::fill_to(&host.data(), 85);
    host.run(&format!("systemd-run --quiet --unit deploy {} sleep infinity", inhibit("alice")));
    host.eventually("the inhibitor is there", "ls /run/ci-docker-prune/inhibitors/*");
    let log = start(&host, PRUNE);
    assert!(log.contains("inhibited by process") && log.contains("'deploy'"), "{log}");
    // It outlives the service, and goes with its process.
    host.run("ls /run/ci-docker-prune/inhibitors/*; systemctl kill --signal KILL deploy");
    let log = start(&host, PRUNE);
    assert!(!log.contains("inhibited"), "{log}");
    let refused = host.sh(&format!("{} true 2>&1", inhibit("bob"))).expect_err("bob may not");
    assert!(refused.to_string().contains("member of the group that owns it"), "{refused:#}");
}

#[test]
fn what_root_did_by_hand_never_locks_the_service_out() {
    let host = host();
    hurry(&host);
    host.run("docker swarm init --advertise-addr 127.0.0.1");
    cached(&host, "old");
    lab::engine::fill_to(&host.data(), 85);
    // Root came first, before the units: the directories are root's, and so are the ledger and the locks.
    host.run("rm --recursive /run/ci-docker-prune");
    let by_hand = host.run("ci-docker-prune prune --older-than 0s && ci-docker-prune record");
    assert!(by_hand.contains("Removed:"), "{by_hand}");
    host.run("systemd-tmpfiles --create ci-docker-prune.conf");
    cached(&host, "older");
    let log = start(&host, PRUNE);
    assert!(log.contains("Removed:"), "{log}");
    let is_locked_out = |log: &str| log.contains("denied") || log.contains("going on with what is known");
    let log = log + &start(&host, RECORD);
    assert!(!is_locked_out(&log), "{log}");
    // And again, in directories that are the service's.
    host.run("ci-docker-prune prune --older-than 0s && ci-docker-prune record");
    let log = start(&host, PRUNE);
    assert!(!is_locked_out(&log), "{log}");
    let owners =
        host.run("stat --format %U /run/ci-docker-prune/*.lock /var/lib/ci-docker-prune/* | sort -u");
    assert_eq!(owners, "ci-docker-prune");
}

#[test]
fn an_engine_on_a_port_is_reached_from_the_sandbox() {
    let host = host_with("target/nix/units/tcp", Kind::Trixie);
    host.write("/etc/default/docker", "DOCKER_OPTS=-H=tcp://127.0.0.1:2375\n");
    host.run("systemctl restart docker");
    let log = start(&host, PRUNE);
    assert!(log.contains("keeping local image cache") && !log.contains("unknown"), "{log}");
}

/// Status and detail of one check, as root sees it.
#[track_caller]
fn check(host: &Host, program: &str, name: &str) -> (String, String) {
    let report = host.run(&format!("{program} verify --output json || [ $? = 1 ]"));
    let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
    let checks = report["checks"].as_array().expect("checks");
    let found = checks.iter().find(|check| check["check"] == name).expect("the check");
    let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
    (text(&found["status"]), text(&found["reason"]["message"]))
}

#[test]
fn verify_tells_other_pruners_from_our_own_units() {
    let host = host();
    let pruners = || check(&host, "ci-docker-prune", "pruners");
    host.run("systemctl start ci-docker-prune.timer ci-docker-prune-record.timer");
    assert_eq!(pruners().0, "ok", "{}", pruners().1);
    // As NixOS writes autoPrune: the command is in a script.
    host.write("/usr/local/bin/start-it", "#!/bin/sh\nset -e\nexec docker system prune --force --all\n");
    let service = "[Service]\nType=oneshot\nExecStart=/bin/sh /usr/local/bin/start-it\n";
    host.write("/etc/systemd/system/cleanup.service", service);
    host.write("/etc/systemd/system/cleanup.timer", "[Timer]\nOnCalendar=yearly\n");
    host.run("systemctl daemon-reload");
    assert_eq!(pruners().0, "ok", "nothing starts it: {}", pruners().1);
    host.run("systemctl start cleanup.timer");
    let (status, detail) = pruners();
    assert!(status == "failed" && detail.contains("cleanup.service runs 'docker system prune'"), "{detail}");
    host.run("systemctl stop cleanup.timer");

    host.write("/etc/cron.d/cleanup", "# docker system prune\n@daily root echo ci-docker-prune\n");
    assert_eq!(pruners().0, "ok", "{}", pruners().1);
    host.write("/etc/cron.d/cleanup", "@daily root docker image prune -af\n");
    let (status, detail) = pruners();
    assert!(status == "failed" && detail.contains("/etc/cron.d/cleanup runs"), "{detail}");
    host.run("rm /etc/cron.d/cleanup");

    // A timer of a user, who need not be logged in.
    host.run("useradd --create-home alice; mkdir --parents ~alice/.config/systemd/user/timers.target.wants");
    let folder = "/home/alice/.config/systemd/user";
    host.write(&format!("{folder}/tidy.service"), "[Service]\nExecStart=/usr/bin/docker system prune -f\n");
    host.write(&format!("{folder}/tidy.timer"), "[Timer]\nOnCalendar=daily\n");
    assert_eq!(pruners().0, "ok", "nothing starts it: {}", pruners().1);
    host.run(&format!("ln --symbolic ../tidy.timer {folder}/timers.target.wants/"));
    let (status, detail) = pruners();
    assert!(status == "failed" && detail.contains("tidy.service runs"), "{detail}");
}

#[test]
fn a_stopped_docker_stays_stopped_and_is_skipped() {
    let host = host();
    // Its socket may be there, to start it on demand.
    for stop in ["systemctl stop docker.service", "systemctl stop docker.socket docker.service"] {
        host.run(stop);
        for unit in [PRUNE, RECORD] {
            assert_eq!(start(&host, unit), "", "in silence");
            host.run("! systemctl is-active --quiet docker.service");
        }
    }
    // And where it runs, so do they.
    host.run("systemctl start docker.service");
    assert!(start(&host, PRUNE).contains("keeping local image cache"));
}

#[test]
fn service_operator_and_ci_job_see_the_same_settings() {
    let host = host();
    host.write("/etc/ci-docker-prune.toml", "disk-threshold = 1\ndisk-target = 1\n");
    host.run("useradd --create-home --groups docker alice");
    assert!(start(&host, PRUNE).contains("(>= 1%)"));
    for who in ["", "env --ignore-environment PATH=/usr/local/bin:/usr/bin ", "runuser -u alice -- "] {
        let shown = host.run(&format!("{who}ci-docker-prune disk"));
        assert!(shown.contains("(>= 1%)"), "{who}: {shown}");
    }
    // A wrong file stops everything, and says where.
    host.write("/etc/ci-docker-prune.toml", "disk-threshold = 1\ndisk-taget = 1\n");
    let (started, log) = logged(&host, || host.sh(&format!("systemctl start {PRUNE}")));
    assert!(started.is_err() && log.contains("/etc/ci-docker-prune.toml:2: disk-taget"), "{log}");
}

#[test]
fn verify_compares_the_units_with_the_program_that_asks() {
    let host = host();
    let units = |program: &str| check(&host, program, "units");
    let (status, detail) = units("ci-docker-prune");
    assert!(status == "failed" && detail.contains("ci-docker-prune.timer"), "{detail}");
    host.run("systemctl start ci-docker-prune.timer");
    let (status, detail) = units("ci-docker-prune");
    assert!(status == "failed" && detail.contains("ci-docker-prune-record.timer"), "{detail}");
    host.run("systemctl start ci-docker-prune-record.timer");
    let (status, detail) = units("ci-docker-prune");
    assert!(status == "failed" && detail.contains("ci-docker-prune-record.path"), "{detail}");
    host.run("systemctl start ci-docker-prune-record.path");
    let wants = "/etc/systemd/system/timers.target.wants/ci-docker-prune.timer";
    host.run(&format!("mv {wants} /run/wants && systemctl daemon-reload"));
    let (status, detail) = units("ci-docker-prune");
    assert!(status == "failed" && detail.contains("active but not enabled"), "{detail}");
    host.run(&format!("mv /run/wants {wants} && systemctl daemon-reload"));
    let (status, detail) = units("ci-docker-prune");
    let version = format!("version {}", env!("CARGO_PKG_VERSION"));
    assert!(status == "ok" && detail.contains(&version) && detail.contains(" 00:"), "{detail}");
    host.run("cp /usr/local/bin/ci-docker-prune /opt/another");
    let (status, detail) = units("/opt/another");
    assert!(status == "failed" && detail.contains("this is /opt/another"), "{detail}");
    lab::engine::fill_to(&host.data(), 97);
    assert!(host.sh("systemctl start ci-docker-prune").is_err());
    let (status, detail) = units("ci-docker-prune");
    assert!(status == "warning" && detail.contains("ci-docker-prune.service"), "{detail}");
    host.run("rm /etc/systemd/system/ci-docker-prune*; systemctl stop 'ci-docker-prune*.timer' 'ci-docker-prune*.path'; systemctl daemon-reload; systemctl reset-failed");
    assert!(units("ci-docker-prune").1.contains("docs/install.md"), "{}", units("ci-docker-prune").1);
    // Whatever else it found, it is printed for people too.
    let text = host.run("ci-docker-prune verify || true");
    for word in ["engine ", "retention ", "login ", "pruners ", "units "] {
        assert!(text.contains(word), "{text}");
    }
}

#[test]
fn the_units_of_a_release_work_as_they_are() {
    let host = host_with("modules/systemd", Kind::TrixieContainerd);
    host.run("systemctl enable --now ci-docker-prune.timer ci-docker-prune-record.timer ci-docker-prune-record.path");
    host.run("echo 'disk-threshold = 1' >> /etc/ci-docker-prune.toml && ci-docker-prune check-config");
    // Debian's containerd is a service of its own: where its data lies counts too, although the service's
    // user may look into neither.
    host.run("mount -t tmpfs -o size=64M tmpfs /var/lib/containerd && systemctl restart containerd docker");
    host.run("fallocate --length 40M /var/lib/containerd/ballast");
    let log = start(&host, PRUNE);
    assert!(log.contains("/var/lib/containerd at 6") && log.contains("(>= 1%)"), "{log}");
}
