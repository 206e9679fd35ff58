//! Finds out where the engine behind a Unix socket keeps its data.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tokio::net::UnixStream;

use crate::facts::{CONTAINERD_ROOT, Containerd, EngineTraces, Info};

/// Where the engine's own containerd listens (containerd: `defaults.DefaultAddress`; moby takes it where it is
/// there).
const SEPARATE: &str = "/run/containerd/containerd.sock";
/// Where a containerd is configured by default (containerd: `defaults.DefaultConfigDir`).
const CONFIGURATION: &str = "/etc/containerd/config.toml";
/// Docker's exec root (moby: `--exec-root`).
const EXEC_ROOT: &str = "/run/docker";

/// Look at the engine's process, its folder and the containerd in use. What this user may not see is left open. No
/// connection is made to the engine's socket: proxies log and count them.
pub async fn inspect(socket: Option<&Path>, engine: &Info) -> EngineTraces {
    let daemons: Vec<Process> = processes().filter(|process| process.is("dockerd")).collect();
    let daemon = daemons.iter().find(|daemon| daemon.is_engine(engine));
    let daemon_listens = socket.is_some_and(|socket| daemons.iter().any(|daemon| daemon.listens_on(socket)));
    let identity = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
    let theirs = daemon.and_then(|daemon| identity(&daemon.sees(&engine.root)));
    let containerd = if engine.containerd_store { Some(containerd(daemon, engine).await) } else { None };
    EngineTraces {
        root_exists: engine.root.try_exists().ok(),
        root_is_shared: theirs.zip(identity(&engine.root)).map(|(theirs, ours)| theirs == ours),
        engine_id: engine_id(&engine.root),
        daemon_listens,
        host_name: nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned(),
        memory: memory(),
        containerd,
    }
}

/// moby: `loadOrCreateID` in daemon/id.go.
fn engine_id(root: &Path) -> Option<String> {
    Some(fs::read_to_string(root.join("engine-id")).ok()?.trim().to_owned())
}

/// As the engine counts it, in bytes.
fn memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"))?;
    kib.parse::<u64>().ok()?.checked_mul(1024)
}

enum Listener {
    /// A process, as far as it can be seen from here.
    Process(Process),
    Unknown,
    /// There is no socket, or nobody listens any more.
    Nobody,
}

async fn listener(socket: &Path) -> Listener {
    match UnixStream::connect(socket).await.and_then(|stream| stream.peer_cred()) {
        // 0 for a process of another PID namespace.
        Ok(peer) => {
            peer.pid().filter(|pid| *pid > 0).map_or(Listener::Unknown, |pid| Listener::Process(Process(pid)))
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied && socket.exists() => Listener::Unknown,
        Err(_) => Listener::Nobody,
    }
}

/// The containerd that the engine uses: the one that it names (Docker 27 and later), else its own, which listens below its
/// exec root, else a separate one.
async fn containerd(daemon: Option<&Process>, engine: &Info) -> Containerd {
    let arguments = daemon.map(Process::arguments).unwrap_or_default();
    let exec_root = option(&arguments, &["--exec-root"]).unwrap_or(EXEC_ROOT);
    let own = Path::new(exec_root).join("containerd/containerd.sock");
    let named =
        engine.containerd.clone().or_else(|| option(&arguments, &["--containerd"]).map(PathBuf::from));
    let candidates = named.map_or_else(|| vec![own, SEPARATE.into()], |named| vec![named]);
    // This user may see the engine's process but not its mount namespace.
    let entered = daemon.filter(|daemon| daemon.sees(Path::new("/")).exists());
    // moby: containerdRootDir in daemon/command/daemon.go
    let own_root = || engine.root.join("containerd/daemon");
    for socket in &candidates {
        // The exec root may be another one. A separate containerd that listens elsewhere is rare.
        let separate = real(socket) == Path::new(SEPARATE);
        match listener(&entered.map_or_else(|| real(socket), |daemon| daemon.sees(socket))).await {
            Listener::Process(process) if process.is("containerd") => {
                return Containerd { separate, root: process.containerd_root() };
            }
            // Embedded in the engine (29.7, experimental).
            Listener::Process(process) if process.is("dockerd") => {
                let root = process.variable("DOCKER_CONTAINERD_ROOT").map(PathBuf::from);
                return Containerd { separate, root: root.or_else(|| Some(own_root())) };
            }
            Listener::Nobody if candidates.len() > 1 => {}
            Listener::Process(_) | Listener::Unknown | Listener::Nobody => {
                let root = root_by_configuration(socket, separate);
                let own =
                    engine.containerd.is_some() && socket.ends_with("docker/containerd/containerd.sock");
                let root = root.or_else(|| own.then(own_root));
                return Containerd { separate, root };
            }
        }
    }
    // The containerd cannot be seen from here.
    Containerd { separate: false, root: None }
}

/// The root of a containerd whose listener cannot be seen.
fn root_by_configuration(socket: &Path, separate: bool) -> Option<PathBuf> {
    let listens = |process: &Process| {
        let arguments = process.arguments();
        let address = option(&arguments, &["--address", "-a"]).unwrap_or(SEPARATE);
        // The engine's own gets its address from the file that moby writes for it (libcontainerd/supervisor).
        let is_own = option(&arguments, &["--config", "-c"])
            .is_some_and(|config| real(Path::new(config)).starts_with("/run"));
        process.is("containerd") && !is_own && real(Path::new(address)) == real(socket)
    };
    let own = real(&socket.with_file_name("containerd.toml"));
    match processes().find(listens) {
        Some(process) => process.containerd_root(),
        None => read_root(if separate { Path::new(CONFIGURATION) } else { &own }).ok().flatten(),
    }
}

/// What a configuration of containerd gives as its root, if anything.
fn read_root(configuration: &Path) -> std::io::Result<Option<PathBuf>> {
    let text = fs::read_to_string(configuration);
    let text = text.inspect_err(|error| log::debug!("{}: {error}", configuration.display()))?;
    Ok(root(&text))
}

fn root(configuration: &str) -> Option<PathBuf> {
    let table = toml::de::DeTable::parse(configuration).ok()?;
    let root = table.get_ref().get("root")?.get_ref().as_str()?;
    Some(PathBuf::from(root)).filter(|root| root.is_absolute())
}

/// `/var/run` is a link to `/run` (FHS 3.0), which would lead from another process's root to our own.
fn real(path: &Path) -> PathBuf {
    path.strip_prefix("/var/run").map_or_else(|_| path.to_owned(), |rest| Path::new("/run").join(rest))
}

fn option<'a>(arguments: &'a [String], names: &[&str]) -> Option<&'a str> {
    arguments.iter().enumerate().find_map(|(at, argument)| match argument.split_once('=') {
        Some((name, value)) if names.contains(&name) => Some(value),
        None if names.contains(&argument.as_str()) => arguments.get(at + 1).map(String::as_str),
        _ => None,
    })
}

struct Process(i32);

fn processes() -> impl Iterator<Item = Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| Some(Process(entry.file_name().to_str()?.parse().ok()?)))
}

impl Process {
    fn folder(&self) -> PathBuf {
        Path::new("/proc").join(self.0.to_string())
    }

    /// By its name, which NixOS puts into another one (`.dockerd-wrapped`).
    fn is(&self, program: &str) -> bool {
        let name = fs::read_to_string(self.folder().join("comm")).unwrap_or_default();
        name.contains(program) && !name.contains("shim")
    }

    fn arguments(&self) -> Vec<String> {
        let line = fs::read(self.folder().join("cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
    }

    fn variable(&self, name: &str) -> Option<String> {
        let variables = fs::read(self.folder().join("environ")).ok()?;
        let mut variables = variables.split(|byte| *byte == 0).map(String::from_utf8_lossy);
        variables.find_map(|variable| Some(variable.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
    }

    fn sees(&self, path: &Path) -> PathBuf {
        let path = real(path);
        self.folder().join("root").join(path.strip_prefix("/").unwrap_or(&path))
    }

    /// Whether its command line names this socket (`-H unix://…`).
    fn listens_on(&self, socket: &Path) -> bool {
        let url = format!("unix://{}", socket.display());
        self.arguments().iter().any(|argument| {
            let value = argument.trim_start_matches("--host").trim_start_matches("-H");
            value.trim_start_matches('=') == url
        })
    }

    /// Whether it is the process of this engine. Docker 20.10 derives its ID from its key (moby:
    /// `daemon/trustkey.go`).
    fn is_engine(&self, engine: &Info) -> bool {
        #[derive(Deserialize)]
        struct Key {
            kid: String,
        }
        let key = fs::read(self.sees(Path::new("/etc/docker/key.json"))).ok();
        let key = key.and_then(|key| serde_json::from_slice(&key).ok()).map(|Key { kid }| kid);
        let ids = [engine_id(&self.sees(&engine.root)), key];
        !engine.id.is_empty() && ids.into_iter().flatten().any(|id| id == engine.id)
    }

    /// Where this containerd keeps its data: by its command line, else by its configuration, else by default. `None`
    /// where its configuration may not be read.
    fn containerd_root(&self) -> Option<PathBuf> {
        let arguments = self.arguments();
        if let Some(root) = option(&arguments, &["--root"]) {
            return Some(root.into());
        }
        let given = option(&arguments, &["--config", "-c"]).map(PathBuf::from);
        let configuration = given.unwrap_or_else(|| CONFIGURATION.into());
        let found = match read_root(&self.sees(&configuration)) {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => read_root(&configuration),
            found => found,
        };
        match found {
            Err(error) if error.kind() != ErrorKind::NotFound => None,
            found => Some(found.ok().flatten().unwrap_or_else(|| CONTAINERD_ROOT.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_gives_containerds_root() {
        let table = [
            ("version = 2\nroot = \"/data/containerd\"\n[grpc]\n", Some("/data/containerd")),
            ("root = '/data/containerd' # moved\nstate = '/run/containerd'", Some("/data/containerd")),
            ("#root = \"/var/lib/containerd\"\n", None),
            ("[plugins.\"io.containerd.grpc.v1.cri\"]\nroot = \"/other\"\n", None),
            ("root = ", None),
            ("root = ''", None),
            ("", None),
        ];
        for (text, expected) in table {
            assert_eq!(root(text), expected.map(PathBuf::from), "{text}");
        }
    }

    #[test]
    fn an_option_is_found_in_a_command_line() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let table = [
            ("containerd --config /etc/c.toml", Some("/etc/c.toml")),
            ("containerd --config=/etc/c.toml --log-level info", Some("/etc/c.toml")),
            ("containerd -c /etc/c.toml", Some("/etc/c.toml")),
            ("containerd --configuration /etc/c.toml", None),
            ("containerd --config", None),
        ];
        for (line, expected) in table {
            assert_eq!(option(&words(line), &["--config", "-c"]), expected, "{line}");
        }
    }
}
