//! A booted Debian: systemd, a Docker engine of its own and its registry, under systemd-nspawn, gone
//! with the value.
//!
//! Like an engine's lab it hangs on the calling thread: its folder and the disk of its engine are mounted
//! in the thread's own mount namespace, and the kernel takes everything down with its first process.

use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::Image;
use crate::engine::{self, Kind, LAB};

/// A running host. Dropping it takes everything down.
pub struct Host {
    outer: Child,
    init: u32,
    cgroup: String,
    root: PathBuf,
}

impl Host {
    /// Boot it with this program on its PATH and the engine's data on a disk of this size.
    ///
    /// # Panics
    /// When it does not come up; the message says what is missing.
    pub fn boot(program: &Path, kind: Kind) -> Self {
        Self::try_boot(program, kind).unwrap_or_else(|error| panic!("the lab's host did not boot: {error:#}"))
    }

    fn try_boot(program: &Path, kind: Kind) -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "a host under systemd-nspawn needs root");
        let root = kind.root();
        let root = root
            .canonicalize()
            .with_context(|| format!("{} is not there; tests/lab/roots makes it", root.display()))?;
        engine::mount_lab(1024, "ext4")?;
        let lab = Path::new(LAB);
        fs::write(lab.join("registry.yml"), engine::REGISTRY.replace("{root}", "/lab/registry"))?;
        let cgroup = engine::cgroup_name();
        let mut daemon = serde_json::json!({
            "features": { "containerd-snapshotter": kind.containerd_store() },
            "registry-mirrors": ["http://127.0.0.1:5000"],
        });
        // With a control group of the second version the engine's own lie in the host's.
        if !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            daemon["cgroup-parent"] = cgroup.clone().into();
        }
        fs::write(lab.join("daemon.json"), daemon.to_string())?;

        let bind = |from: &Path, to: &str| format!("{}:{to}", from.display());
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "systemd-nspawn"])
            .args(["--quiet", "--register=no", "--keep-unit", "--private-network", "--console=pipe"])
            // What runc asks for, and nspawn does not give by itself.
            .args(["--system-call-filter=@keyring bpf", "--capability=CAP_SYS_RESOURCE"])
            .args(["--volatile=overlay", "--boot", "--directory"])
            .arg(&root)
            .args(["--bind", &bind(lab, "/lab")])
            .args(["--bind", &bind(&lab.join("data"), "/var/lib/docker")])
            .args(["--bind-ro", &bind(&lab.join("daemon.json"), "/etc/docker/daemon.json")])
            .args(["--bind-ro", &bind(program, "/usr/local/bin/ci-docker-prune")])
            // Debian's own would take the port.
            .arg("systemd.mask=docker-registry.service")
            .stdin(Stdio::null())
            .stdout(fs::File::create(lab.join("boot.log"))?)
            .stderr(fs::File::options().append(true).open(lab.join("boot.log"))?)
            .process_group(0);
        let groups = own_cgroups(&cgroup);
        for group in &groups {
            fs::create_dir_all(group).with_context(|| format!("create {}", group.display()))?;
        }
        let procs: Vec<PathBuf> = groups.iter().map(|group| group.join("cgroup.procs")).collect();
        // SAFETY: between fork and exec it only writes to files.
        #[expect(unsafe_code, reason = "there is no safe way to start in a control group")]
        unsafe {
            command.pre_exec(move || procs.iter().try_for_each(|path| fs::write(path, "0")));
        }
        let outer = engine::die_with_us(&mut command).spawn().context("start unshare (util-linux)")?;
        let mut host = Self { outer, init: 0, cgroup, root };
        let up = engine::wait_for(Duration::from_secs(60), || {
            host.init = host.first_process().unwrap_or(0);
            host.init > 0
                && host.sh("systemctl is-system-running --wait | grep -E 'running|degraded'").is_ok()
        });
        if !up {
            let log = fs::read_to_string(lab.join("boot.log")).unwrap_or_default();
            bail!("it is not up after a minute; its console says:\n{log}");
        }
        // nspawn shows the hierarchies of the first version read-only, and the engine starts no container.
        host.run("grep -o ' /sys/fs/cgroup[^ ]* ro' /proc/self/mountinfo | while read -r place _; do mount -o remount,bind,rw $place; done");
        host.run("systemd-run --quiet --unit registry docker-registry serve /lab/registry.yml");
        host.eventually("the engine and its registry answer", "docker version && ss -ltn | grep :5000");
        Ok(host)
    }

    /// systemd, as this side of the namespaces numbers it: the child of nspawn, which is unshare's.
    fn first_process(&self) -> Option<u32> {
        let child = |of: u32| -> Option<u32> {
            let children = fs::read_to_string(format!("/proc/{of}/task/{of}/children")).ok()?;
            children.split_whitespace().next()?.parse().ok()
        };
        let init = child(child(self.outer.id())?)?;
        let name = fs::read_to_string(format!("/proc/{init}/comm")).ok()?;
        (name.trim() == "systemd").then_some(init)
    }

    /// The folder that the host has at `/lab`.
    pub fn folder(&self) -> &'static Path {
        Path::new(LAB)
    }

    /// Where the engine keeps its data: a filesystem of its own.
    pub fn data(&self) -> PathBuf {
        self.folder().join("data")
    }

    /// A shell's script, run by root inside: its output, or what it said when it failed.
    ///
    /// # Errors
    /// The script's status is not 0.
    pub fn sh(&self, script: &str) -> Result<String> {
        let output = self.output(script);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        ensure!(
            output.status.success(),
            "{script}: {}\n{}\n{}",
            output.status,
            text(&output.stdout),
            text(&output.stderr)
        );
        Ok(text(&output.stdout))
    }

    fn output(&self, script: &str) -> Output {
        let output = Command::new("nsenter")
            .args(["--target", &self.init.to_string(), "--all", "--", "env", "-i"])
            .args(["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", "HOME=/root", "LC_ALL=C.UTF-8"])
            .args(["bash", "-euo", "pipefail", "-c", script])
            .stdin(Stdio::null())
            .output();
        output.expect("start nsenter (util-linux)")
    }

    /// A script that succeeds.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn run(&self, script: &str) -> String {
        self.sh(script).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Wait for up to a minute until a script succeeds.
    #[track_caller]
    pub fn eventually(&self, what: &str, script: &str) {
        let mut last = String::new();
        let done = engine::wait_for(Duration::from_secs(60), || match self.sh(script) {
            Ok(_) => true,
            Err(error) => {
                last = error.to_string();
                false
            }
        });
        assert!(done, "waited a minute in vain until {what}: {last}");
    }

    /// Put an image into the host's registry.
    pub fn publish(&self, image: &Image) -> String {
        image.publish(&self.folder().join("registry"), &engine::busybox(&self.root))
    }

    /// Write a file of the host.
    #[track_caller]
    pub fn write(&self, path: &str, text: &str) {
        let passing = self.folder().join("passing");
        fs::File::create(&passing)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .expect("write to the lab");
        self.run(&format!("install -D -m 644 /lab/passing '{path}'"));
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() && self.init > 0 {
            let log = self.sh("journalctl --boot --no-pager --lines 40").unwrap_or_default();
            eprintln!("the host's journal ends:\n{log}");
        }
        let _ = self.outer.kill();
        let _ = self.outer.wait();
        engine::take_down(&self.cgroup, self.init);
    }
}

/// A group of this name below those of this process that systemd's hierarchies know.
fn own_cgroups(name: &str) -> Vec<PathBuf> {
    let top = Path::new("/sys/fs/cgroup");
    let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let of = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        let hierarchy = match fields.next()? {
            "" if top.join("unified").exists() => top.join("unified"),
            "" => top.to_owned(),
            "name=systemd" => top.join("systemd"),
            _ => return None,
        };
        let own = hierarchy.join(fields.next()?.trim_start_matches('/')).join(name);
        own.parent()?.exists().then_some(own)
    };
    text.lines().filter_map(of).collect()
}
