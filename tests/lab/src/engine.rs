//! One private engine: namespaces, a small filesystem, a registry and dockerd, gone with the value.
//!
//! Everything is mounted in a mount namespace that belongs to the calling thread, so the program
//! under test, started by that thread, sees the engine's data at the path that the engine names,
//! and the machine's other processes see nothing. The kernel takes it all down when the last
//! process of the namespace ends, however it ends.

use std::env;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::sys::statvfs::statvfs;
use serde_json::{Value, json};

use crate::Image;

/// Where a lab is mounted: the same path for each, for each has its own mount namespace.
pub(crate) const LAB: &str = "/tmp/ci-docker-prune-lab";

/// Which engine to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Debian bookworm's 20.10 with overlay2.
    #[value(name = "20.10")]
    Bookworm,
    /// Debian trixie's 26.1 with overlay2.
    #[value(name = "26.1")]
    Trixie,
    /// Debian trixie's 26.1 with the containerd image store.
    #[value(name = "26.1-c8d")]
    TrixieContainerd,
    /// Debian testing's, whatever version that is by now, with overlay2.
    #[value(name = "testing")]
    Testing,
    /// Debian testing's with the containerd image store.
    #[value(name = "testing-c8d")]
    TestingContainerd,
    /// What this machine has on its PATH, in its own tree.
    #[value(name = "host")]
    Host,
}

impl Kind {
    /// The engine that `LAB_ENGINE` names; bookworm's where it names none.
    pub fn from_env() -> Self {
        let name = env::var("LAB_ENGINE").unwrap_or_else(|_| "20.10".into());
        <Self as clap::ValueEnum>::from_str(&name, false).unwrap_or_else(|_| {
            panic!("LAB_ENGINE={name} is no engine: 20.10, 26.1, 26.1-c8d, testing, testing-c8d or host")
        })
    }

    /// Does the containerd image store hold the images?
    pub fn containerd_store(self) -> bool {
        matches!(self, Self::TrixieContainerd | Self::TestingContainerd)
    }

    /// The Debian root that this engine runs in.
    pub fn root(self) -> PathBuf {
        let roots = env::var_os("LAB_ROOTS")
            .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/lab"), PathBuf::from);
        match self {
            Self::Bookworm => roots.join("bookworm"),
            Self::Trixie | Self::TrixieContainerd => roots.join("trixie"),
            Self::Testing | Self::TestingContainerd => roots.join("testing"),
            Self::Host => PathBuf::from("/"),
        }
    }
}

/// By its path: a command that is looked up on a PATH of its own is started by a copy of this process, and the
/// copy of its page tables took a sixth of the tests' time.
static NSENTER: LazyLock<PathBuf> = LazyLock::new(|| {
    let path = format!("{}:/usr/bin:/bin", env::var("PATH").unwrap_or_default());
    let mut candidates = env::split_paths(&path).map(|folder| folder.join("nsenter"));
    candidates.find(|candidate| candidate.is_file()).expect("nsenter (util-linux)")
});

/// How to start an engine.
#[derive(Debug, Clone)]
pub struct Options {
    pub kind: Kind,
    /// `docker swarm init` at the start.
    pub swarm: bool,
    /// Size of the filesystem that holds the engine's data, MiB.
    pub size_mib: u64,
    /// Its kind: `ext4` or `btrfs`.
    pub filesystem: &'static str,
    /// Show the engine one hierarchy of control groups (v2), whatever this machine has mounted. Of controllers it has
    /// what v1 does not hold; containers run without any.
    pub cgroup_v2: bool,
    /// How many daemons stand beside the first, each in a network namespace of its own, to join its swarm
    /// with. The data of the first lie on a disk, those of the others in memory (512 MiB each).
    pub workers: usize,
    /// Let the first listen on `MANAGER:2376` too, by TLS with the certificates in `certificates`.
    pub tls: bool,
}

/// The address of the first daemon, as its workers and the program know it.
pub const MANAGER: &str = "10.77.0.1";

impl Default for Options {
    fn default() -> Self {
        Self {
            kind: Kind::from_env(),
            swarm: true,
            size_mib: 2048,
            filesystem: "ext4",
            cgroup_v2: false,
            workers: 0,
            tls: false,
        }
    }
}

/// A running engine. Dropping it takes everything down.
pub struct Engine {
    pub kind: Kind,
    outer: Child,
    init: u32,
    cgroup: String,
}

impl Engine {
    /// The default engine with a one-node swarm.
    pub fn start() -> Self {
        Self::start_with(Options::default())
    }

    /// # Panics
    /// When the engine cannot be started; the message says what is missing.
    pub fn start_with(options: Options) -> Self {
        Self::try_start(options).unwrap_or_else(|error| panic!("the lab's engine did not start: {error:#}"))
    }

    pub fn try_start(options: Options) -> Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "a private Docker engine needs root (namespaces, loop mounts): run it as root or with sudo"
        );
        let root = options.kind.root().canonicalize().with_context(|| {
            format!("{} is not there; tests/lab/roots makes it", options.kind.root().display())
        })?;
        mount_lab(options.size_mib, options.filesystem)?;
        if options.cgroup_v2 {
            mount_cgroup_v2()?;
        }
        for n in 1..=options.workers {
            let place = lab_path(&format!("worker{n}"));
            fs::create_dir(&place)?;
            mount(Some("worker"), &place, Some("tmpfs"), MsFlags::empty(), Some("size=512m"))
                .context("mount a worker's tmpfs")?;
        }
        let lab = Path::new(LAB);
        fs::write(lab.join("registry.yml"), REGISTRY.replace("{root}", &format!("{LAB}/registry")))?;
        fs::write(lab.join("init.sh"), include_str!("init.sh"))?;

        if options.tls {
            crate::tls::certificates(&lab.join("certificates"), &[MANAGER])?;
        }

        let cgroup = cgroup_name();
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "sh"])
            .arg(lab.join("init.sh"))
            .arg(&root)
            .arg(LAB)
            .args(["--registry-mirror", "http://127.0.0.1:5000", "--config-file"])
            .arg(lab.join("daemon.json"))
            .env("LAB_CGROUP", &cgroup)
            .env("LAB_WORKERS", options.workers.to_string())
            .env("PATH", format!("{}:/usr/sbin:/sbin", env::var("PATH").unwrap_or_default()))
            .stdin(Stdio::null())
            .stdout(fs::File::create(lab.join("init.log"))?)
            .stderr(fs::File::options().append(true).open(lab.join("init.log"))?)
            .process_group(0);
        // Nothing here publishes a port, and an engine's rules for that take 140 processes at each start.
        let configuration = json!({
            "features": {"containerd-snapshotter": options.kind.containerd_store()},
            "iptables": false,
            "ip6tables": false,
        });
        fs::write(lab.join("daemon.json"), configuration.to_string())?;
        let outer = die_with_us(&mut command).spawn().context("start unshare (util-linux)")?;
        let mut engine = Self { kind: options.kind, outer, init: 0, cgroup };
        let answered = wait_for(Duration::from_secs(30), || ping(&engine.socket()))
            && (1..=options.workers)
                .all(|n| wait_for(Duration::from_secs(30), || ping(&lab.join(format!("worker{n}.sock")))));
        if !answered {
            bail!("no answer in 30 s; the end of its log:\n{}", engine.log_tail());
        }
        let children = format!("/proc/{0}/task/{0}/children", engine.outer.id());
        engine.init = fs::read_to_string(&children)?
            .trim()
            .parse()
            .with_context(|| format!("read the engine's first process from {children}"))?;
        if options.swarm {
            let address = if options.workers > 0 { MANAGER } else { "127.0.0.1" };
            engine.docker(["swarm", "init", "--advertise-addr", address]);
            let join = || engine.docker(["swarm", "join-token", "--quiet", "worker"]);
            for n in 1..=options.workers {
                let joined = engine
                    .worker_docker(n, &["swarm", "join", "--token", &join(), &format!("{MANAGER}:2377")]);
                assert!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
            }
        }
        Ok(engine)
    }

    /// The lab's own folder: in memory, private to the thread, gone with the engine.
    pub fn folder(&self) -> &'static Path {
        Path::new(LAB)
    }

    pub fn socket(&self) -> PathBuf {
        self.folder().join("data.sock")
    }

    /// What to give `--host`.
    pub fn url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// The engine's data root, a filesystem of its own.
    pub fn data(&self) -> PathBuf {
        self.folder().join("data")
    }

    /// A command that runs inside the engine's namespaces.
    pub fn inside(&self, program: &str) -> Command {
        let mut command = Command::new(NSENTER.as_path());
        command.args(["--target", &self.init.to_string(), "--mount", "--net", "--pid", "--uts", "--ipc"]);
        if self.kind != Kind::Host {
            command.arg("--root").arg("--wd");
        }
        let path = format!("{}:/usr/sbin:/sbin", env::var("PATH").unwrap_or_default());
        command.env("PATH", path);
        command.arg("--").arg(program).env("DOCKER_HOST", self.url()).env("DOCKER_CLI_HINTS", "false");
        command
    }

    /// Run the docker CLI; its standard output.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn docker<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> String {
        let arguments: Vec<&str> = arguments.into_iter().collect();
        let output = self.docker_output(&arguments, None);
        assert!(
            output.status.success(),
            "docker {} failed: {}{}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Run the docker CLI, whatever comes of it.
    pub fn docker_output(&self, arguments: &[&str], input: Option<&[u8]>) -> Output {
        let mut child = self
            .inside("docker")
            .args(arguments)
            .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start nsenter");
        if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
            stdin.write_all(input).expect("write to docker");
        }
        child.wait_with_output().expect("wait for docker")
    }

    /// Ask the engine itself: the status and the JSON of its answer. An answer takes a tenth of the time that the
    /// CLI takes to start.
    ///
    /// # Panics
    /// When it does not answer.
    #[track_caller]
    pub fn get(&self, path: &str) -> (u16, Value) {
        let mut stream = UnixStream::connect(self.socket()).expect("connect to the engine");
        // By HTTP/1.0 the answer comes in one piece and ends with the connection.
        write!(stream, "GET {path} HTTP/1.0\r\nHost: engine\r\n\r\n").expect("ask the engine");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("the engine's answer");
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("the end of the headers");
        let head = String::from_utf8_lossy(&answer[..end]);
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        let body = &answer[end + 4..];
        (status, serde_json::from_slice(body).unwrap_or_else(|error| panic!("GET {path}: {error}")))
    }

    /// The elements of a list that the engine gives.
    #[track_caller]
    pub fn list(&self, path: &str) -> Vec<Value> {
        let (status, answer) = self.get(path);
        assert_eq!(status, 200, "GET {path}: {answer}");
        match answer {
            // Go's empty list.
            Value::Null => vec![],
            answer => answer.as_array().expect("a list").clone(),
        }
    }

    /// The names of all containers, ended ones too.
    #[track_caller]
    pub fn container_names(&self) -> Vec<String> {
        let name = |container: Value| {
            container["Names"][0].as_str().unwrap_or_default().trim_start_matches('/').to_owned()
        };
        self.list("/containers/json?all=1").into_iter().map(name).collect()
    }

    /// Wait until no container has this in its name.
    #[track_caller]
    pub fn no_container_named(&self, part: &str) {
        self.eventually(&format!("the containers named {part} are gone"), || {
            !self.container_names().iter().any(|name| name.contains(part))
        });
    }

    /// The ID of an image by any of its names.
    #[track_caller]
    pub fn image_id(&self, name: &str) -> String {
        let (_, image) = self.get(&format!("/images/{name}/json"));
        image["Id"].as_str().unwrap_or_else(|| panic!("no image {name}: {image}")).to_owned()
    }

    /// Is there an image by this name?
    pub fn has_image(&self, name: &str) -> bool {
        self.get(&format!("/images/{name}/json")).0 == 200
    }

    /// What to give `--host` for a worker.
    pub fn worker_url(&self, n: usize) -> String {
        format!("unix://{}", self.folder().join(format!("worker{n}.sock")).display())
    }

    /// The docker CLI against a worker.
    pub fn worker_docker(&self, n: usize, arguments: &[&str]) -> Output {
        let mut command = self.inside("docker");
        command.env("DOCKER_HOST", self.worker_url(n)).args(arguments);
        command.output().expect("start nsenter")
    }

    /// A program of this machine in the network of the first daemon, with this machine's files.
    pub fn in_its_network(&self, program: &Path) -> Command {
        let mut command = Command::new(NSENTER.as_path());
        command.args(["--target", &self.init.to_string(), "--net", "--"]).arg(program);
        command
    }

    /// The ID that this engine gives an image that it pulled.
    pub fn id_of(&self, image: &Image) -> String {
        if self.kind.containerd_store() {
            self.publish(image)
        } else {
            image.config_digest(&busybox(&self.kind.root()))
        }
    }

    /// Put an image into the private registry (as `127.0.0.1:5000/REPOSITORY:TAG`, and through the
    /// mirror as a name of Docker Hub's where the repository starts with `library/`); its digest.
    pub fn publish(&self, image: &Image) -> String {
        image.publish(&self.folder().join("registry"), &busybox(&self.kind.root()))
    }

    /// Take the layer that only this image has out of the registry: nobody pulls it again.
    pub fn unpublish_payload(&self, image: &Image) {
        let digest = image.payload_digest();
        let hex = digest.trim_start_matches("sha256:");
        let blob = format!("docker/registry/v2/blobs/sha256/{}/{hex}", &hex[..2]);
        fs::remove_dir_all(self.folder().join("registry").join(blob)).expect("remove a blob");
    }

    /// Load an image into the engine's store without a registry.
    #[track_caller]
    pub fn load(&self, image: &Image, name: Option<&str>) {
        let output = self.docker_output(&["load"], Some(&image.archive(name, &busybox(&self.kind.root()))));
        assert!(output.status.success(), "docker load: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Load several images at once.
    #[track_caller]
    pub fn load_many(&self, images: &[(Image, Option<String>)]) {
        let archive = crate::image::archive(images, &busybox(&self.kind.root()));
        let output = self.docker_output(&["load", "--quiet"], Some(&archive));
        assert!(output.status.success(), "docker load: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Deploy a stack from a Compose file and wait until each service has its replicas.
    #[track_caller]
    pub fn deploy(&self, stack: &str, compose: &str) {
        let deploy = ["stack", "deploy", "--compose-file", "-", stack];
        let mut stderr = Vec::new();
        // Repeated, because a network of a stack that was removed may still be going.
        let deployed = wait_for(Duration::from_secs(30), || {
            let output = self.docker_output(&deploy, Some(compose.as_bytes()));
            stderr = output.stderr;
            output.status.success()
        });
        assert!(deployed, "docker stack deploy: {}", String::from_utf8_lossy(&stderr));
        self.converged();
    }

    /// Wait until each service has all of its replicas, as `docker service ls` counts them.
    #[track_caller]
    pub fn converged(&self) {
        self.eventually("the services converge", || {
            self.list("/services?status=true").iter().all(|service| {
                let status = &service["ServiceStatus"];
                let count = |tasks: &str| status[tasks].as_u64().unwrap_or(0);
                status.is_object() && count("RunningTasks") == count("DesiredTasks")
            })
        });
    }

    /// Remove a stack and wait until its containers and networks are gone.
    ///
    /// The command is repeated: on a busy machine it fails while a network "is in use by task …", and leaves
    /// that network behind (observed on 20.10).
    #[track_caller]
    pub fn tear_down(&self, stack: &str) {
        let filter = format!("label=com.docker.stack.namespace={stack}");
        let none = |list: &[&str]| self.docker([list, &["--quiet", "--filter", &filter]].concat()).is_empty();
        self.eventually("the stack's containers and networks are gone", || {
            self.docker_output(&["stack", "rm", stack], None).status.success()
                && none(&["ps", "--all"])
                && none(&["network", "ls"])
        });
    }

    /// How often the registry has sent this blob.
    pub fn times_sent(&self, digest: &str) -> usize {
        let log = fs::read_to_string(self.folder().join("registry.log")).expect("read the registry's log");
        log.lines()
            .filter(|line| line.contains("\"GET /v2/") && line.contains(&format!("/blobs/{digest}")))
            .count()
    }

    /// How many layers and configurations (blobs) the registry has sent so far.
    pub fn blobs_sent(&self) -> usize {
        let log = fs::read_to_string(self.folder().join("registry.log")).expect("read the registry's log");
        log.lines().filter(|line| line.contains("\"GET /v2/") && line.contains("/blobs/sha256:")).count()
    }

    /// Fill the data filesystem to this percentage, as `df` counts.
    #[track_caller]
    pub fn fill_to(&self, percent: u64) {
        fill_to(&self.data(), percent);
    }

    /// Fill the data filesystem to its last byte.
    #[track_caller]
    pub fn fill_up(&self) {
        fill_up(&self.data());
    }

    /// The percentage that `df` shows for the data filesystem.
    pub fn df_percent(&self) -> u64 {
        df_percent(&self.data())
    }

    /// Stop dockerd and wait until it answers again.
    pub fn restart(&self) {
        let log_before = self.started_count();
        self.inside("sh")
            .args(["-c", &format!("kill -TERM $(cat {LAB}/data.pid)")])
            .status()
            .expect("signal dockerd");
        self.eventually("dockerd is back", || self.started_count() > log_before && ping(&self.socket()));
    }

    fn started_count(&self) -> usize {
        fs::read_to_string(self.folder().join("data.log"))
            .map_or(0, |log| log.matches("API listen on").count())
    }

    /// Wait until the condition holds; it is asked 20 times a second for a minute.
    #[track_caller]
    pub fn eventually(&self, what: &str, condition: impl FnMut() -> bool) {
        assert!(wait_for(Duration::from_secs(60), condition), "waited a minute in vain until {what}");
    }

    /// The end of the daemon's log, for a failing test.
    pub fn log_tail(&self) -> String {
        ["init.log", "registry.log", "worker1.log", "data.log"]
            .iter()
            .filter_map(|name| fs::read_to_string(self.folder().join(name)).ok())
            .flat_map(|log| {
                log.lines().rev().take(8).map(str::to_owned).collect::<Vec<_>>().into_iter().rev()
            })
            .collect::<Vec<_>>()
            .join("\n")
    }
}

/// The static busybox of a root, which every image is made of.
pub fn busybox(root: &Path) -> PathBuf {
    ["bin/busybox", "usr/bin/busybox"]
        .map(|path| root.join(path))
        .into_iter()
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("busybox is missing in {}", root.display()))
}

impl Drop for Engine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the lab's log ends:\n{}", self.log_tail());
        }
        // The first process of a PID namespace takes all others with it.
        let _ = self.outer.kill();
        let _ = self.outer.wait();
        take_down(&self.cgroup, self.init);
    }
}

/// What is left of a lab whose first process was killed.
pub(crate) fn take_down(cgroup: &str, init: u32) {
    remove_cgroups(cgroup);
    wait_for(Duration::from_secs(5), || !Path::new(&format!("/proc/{init}")).exists());
    for place in [format!("{LAB}/data"), LAB.to_owned()] {
        let _ = umount2(place.as_str(), MntFlags::MNT_DETACH);
    }
}

/// Fill the filesystem that is mounted here to this percentage, as `df` counts, anew each time.
#[track_caller]
pub fn fill_to(mount_point: &Path, percent: u64) {
    let ballast = mount_point.join("ballast");
    let _ = fs::remove_file(&ballast);
    // btrfs returns what was removed with its next commit only.
    fs::File::open(mount_point).and_then(|file| Ok(nix::unistd::syncfs(file)?)).expect("syncfs");
    let stat = statvfs(mount_point).expect("statvfs");
    let used = stat.blocks() - stat.blocks_free();
    let want = (used + stat.blocks_available()) * percent / 100;
    assert!(want > used, "{} is fuller than {percent}% already", mount_point.display());
    let file = fs::File::create(ballast).expect("create the ballast");
    let bytes = (want - used) * stat.fragment_size();
    nix::fcntl::posix_fallocate(&file, 0, bytes.try_into().expect("a small size")).expect("fill the disk");
}

/// Fill the filesystem that is mounted here to the last byte, what is reserved for root included.
#[track_caller]
pub fn fill_up(mount_point: &Path) {
    let _ = fs::remove_file(mount_point.join("ballast"));
    let mut full = fs::File::create(mount_point.join("ballast")).expect("create the ballast");
    for size in [1 << 20, 512] {
        while full.write_all(&vec![0; size]).is_ok() {}
        full.sync_all().expect("write the ballast");
    }
}

/// What `df` shows for the filesystem that holds a path.
pub fn df_percent(path: &Path) -> u64 {
    let output = Command::new("df").arg("--output=pcent").arg(path).output().expect("run df");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines()
        .nth(1)
        .and_then(|line| line.trim().trim_end_matches('%').parse().ok())
        .expect("df's percentage")
}

pub(crate) const REGISTRY: &str = "\
version: 0.1
log: {level: warn, accesslog: {disabled: false}}
storage: {filesystem: {rootdirectory: {root}}}
http: {addr: ':5000'}
";

/// Let the command be killed when the thread that starts it ends, however it ends.
pub fn die_with_us(command: &mut Command) -> &mut Command {
    // SAFETY: prctl is async-signal-safe and nothing else happens between fork and exec.
    #[expect(unsafe_code, reason = "there is no safe way to ask for this")]
    unsafe {
        command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?))
    }
}

/// Let the command start with these signals as they are by default, whatever this process was started
/// with (`nohup` ignores SIGHUP, and so would the command).
pub fn with_default_signals(command: &mut Command) -> &mut Command {
    let reset = || {
        for kind in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM, Signal::SIGUSR1] {
            // SAFETY: the default action runs no code of ours.
            #[expect(unsafe_code, reason = "there is no safe way to ask for this")]
            unsafe {
                nix::sys::signal::signal(kind, nix::sys::signal::SigHandler::SigDfl)?;
            }
        }
        Ok(())
    };
    // SAFETY: signal is async-signal-safe and nothing else happens between fork and exec.
    #[expect(unsafe_code, reason = "there is no safe way to ask for this")]
    unsafe {
        command.pre_exec(reset)
    }
}

fn lab_path(name: &str) -> PathBuf {
    Path::new(LAB).join(name)
}

/// A private mount namespace for this thread, the lab's folder in memory and its disk in a file
/// there. Doing it again in the same thread replaces what an earlier engine left.
pub(crate) fn mount_lab(size_mib: u64, filesystem: &str) -> Result<()> {
    sweep_cgroups();
    fs::create_dir_all(LAB).with_context(|| format!("create {LAB}"))?;
    unshare(CloneFlags::CLONE_NEWNS).context("unshare the mount namespace")?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("make mounts private")?;
    mount(Some("lab"), LAB, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
        .context("mount the lab's tmpfs")?;
    for folder in ["data", "registry"] {
        fs::create_dir(Path::new(LAB).join(folder))?;
    }
    let disk = format!("{LAB}/disk");
    fs::File::create(&disk)?.set_len(size_mib << 20)?;
    // On a small btrfs data and metadata had better share their space.
    let mixed: &[&str] = if filesystem == "btrfs" { &["--mixed"] } else { &[] };
    run(Command::new(format!("mkfs.{filesystem}")).arg("-q").args(mixed).arg(&disk))?;
    // What is removed from the disk is given back to the memory that it lies in.
    run(Command::new("mount").args(["-o", "loop,discard", &disk, &format!("{LAB}/data")]))?;
    Ok(())
}

/// In this thread's mount namespace.
fn mount_cgroup_v2() -> Result<()> {
    let place = "/sys/fs/cgroup";
    umount2(place, MntFlags::MNT_DETACH).context("unmount the control groups")?;
    let none: Option<&str> = None;
    mount(Some("cgroup2"), place, Some("cgroup2"), MsFlags::empty(), none).context("mount control groups, v2")
}

fn run(command: &mut Command) -> Result<()> {
    command.env("PATH", format!("{}:/usr/sbin:/sbin", env::var("PATH").unwrap_or_default()));
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// The words that run a command inside the engine's namespaces, for a shell script.
pub fn enter(engine: &Engine) -> String {
    let command = engine.inside("");
    let words = command.get_args().map(|word| word.to_string_lossy().into_owned());
    let words: Vec<String> = std::iter::once("nsenter".to_owned()).chain(words).collect();
    words.join(" ").trim_end().to_owned()
}

/// Poll 20 times a second until the condition holds or the time is over.
pub fn wait_for(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

fn ping(socket: &Path) -> bool {
    let Ok(mut stream) = UnixStream::connect(socket) else { return false };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
    let mut answer = [0; 12];
    stream.write_all(b"GET /_ping HTTP/1.0\r\nHost: engine\r\n\r\n").is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && answer.ends_with(b"200")
}

/// The control groups of a lab bear its process and thread, so that those of the dead can be told.
pub(crate) fn cgroup_name() -> String {
    format!("ci-docker-prune-lab-{}-{}", std::process::id(), nix::unistd::gettid())
}

/// The groups that this process is in and the tops of their hierarchies (v1) or hierarchy (v2): an
/// engine makes its own below one of them.
fn cgroup_roots() -> Vec<PathBuf> {
    let top = Path::new("/sys/fs/cgroup");
    let mut roots = vec![top.to_owned(), top.join("unified")];
    for line in fs::read_to_string("/proc/self/cgroup").unwrap_or_default().lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next().unwrap_or(""), fields.next().unwrap_or("/"));
        let hierarchy = top.join(controllers.trim_start_matches("name="));
        let own = hierarchy.join(path.trim_start_matches('/'));
        // On v2 an engine's groups lie beside its own, not below (processes and groups do not mix).
        roots.extend(own.parent().map(Path::to_owned));
        roots.push(own);
        roots.push(hierarchy);
    }
    roots.sort();
    roots.dedup();
    roots
}

fn remove_cgroups(name: &str) {
    for root in cgroup_roots() {
        remove_cgroup(&root.join(name));
    }
}

fn remove_cgroup(path: &Path) {
    // A paused container's processes cannot even be killed before they are thawed.
    for (file, thaw) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
        if path.join(file).exists() {
            let _ = fs::write(path.join(file), thaw);
        }
    }
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_cgroup(&entry.path());
        }
    }
    // The kernel refuses a group whose last process is still going; a moment later it does not.
    if path.exists() {
        wait_for(Duration::from_secs(2), || fs::remove_dir(path).is_ok());
    }
}

/// Clear away what labs that are gone left behind: control groups, and the place that they are mounted
/// on where no other lab is.
pub fn sweep() {
    sweep_cgroups();
    let mounted = |process: fs::DirEntry| {
        fs::read_to_string(process.path().join("mountinfo")).is_ok_and(|mounts| mounts.contains(LAB))
    };
    if !fs::read_dir("/proc").into_iter().flatten().flatten().any(mounted) {
        let _ = fs::remove_dir(LAB);
    }
}

/// Remove the control groups of labs whose process was killed before it could.
fn sweep_cgroups() {
    for root in cgroup_roots() {
        for entry in fs::read_dir(root).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let owner = name.strip_prefix("ci-docker-prune-lab-").and_then(|rest| rest.split('-').next());
            if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                remove_cgroup(&entry.path());
            }
        }
    }
}
