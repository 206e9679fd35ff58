//! A proxy in front of a real engine: it logs every request, and can spoil chosen ones.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

/// What to do to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Close the connection before the engine hears of the request.
    CutBefore,
    /// Let the engine answer, and pass on the first half of what it says.
    CutMiddle,
    /// Let the engine carry the request out, and close without its answer.
    CutAfter,
    /// Answer this status in the engine's stead.
    Status(u16),
    /// Answer this status with a message in the engine's stead.
    Says(u16, &'static str),
    /// Answer 200 with something that is no JSON.
    Malformed,
    /// Answer 200 with JSON that ends too early.
    Truncated,
    /// Pass the answer on this much later, ms.
    Delay(u64),
    /// Never answer.
    Hang,
    /// Answer 200 with this in the engine's stead.
    Answer(&'static str),
    /// Cut every event stream that is open, and pass this request on.
    LoseEvents,
    /// Close them in order, as a proxy does to idle ones.
    EndEvents,
}

/// Decides what happens to a request, by its number from 1 and its line (`GET /v1.41/info`); it may
/// take its time and do things to the engine first.
pub type Decide = dyn FnMut(usize, &str) -> Option<Fault> + Send;

/// Ends an answer that comes in chunks (RFC 9112, 7.1).
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

struct State {
    requests: Vec<String>,
    decide: Box<Decide>,
    event_streams: Vec<UnixStream>,
}

/// A listening proxy; dropping it ends it.
pub struct Proxy {
    path: PathBuf,
    state: Arc<Mutex<State>>,
}

impl Proxy {
    /// Listen in the engine's folder, in front of it, and spoil nothing.
    pub fn before(engine: &crate::Engine) -> Self {
        Self::start(&engine.folder().join("proxy.sock"), &engine.socket())
    }

    /// Listen at `path` in front of the engine at `engine`, and spoil nothing.
    pub fn start(path: &Path, engine: &Path) -> Self {
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).expect("bind the proxy's socket");
        let state = Arc::new(Mutex::new(State {
            requests: vec![],
            decide: Box::new(|_, _| None),
            event_streams: vec![],
        }));
        let (shared, engine) = (Arc::clone(&state), engine.to_owned());
        thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(client) = client else { return };
                let (state, engine) = (Arc::clone(&shared), engine.clone());
                thread::spawn(move || drop(serve(client, &engine, &state)));
            }
        });
        Self { path: path.to_owned(), state }
    }

    /// What to give `--host`.
    pub fn url(&self) -> String {
        format!("unix://{}", self.path.display())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Forget the log and decide anew.
    pub fn on_request(&self, decide: impl FnMut(usize, &str) -> Option<Fault> + Send + 'static) {
        let mut state = self.state();
        state.requests.clear();
        state.decide = Box::new(decide);
    }

    /// The requests so far: method and path with its query, without the API version.
    pub fn requests(&self) -> Vec<String> {
        self.state().requests.clone()
    }

    /// Those that could change something.
    pub fn writes(&self) -> Vec<String> {
        self.requests()
            .into_iter()
            .filter(|request| !request.starts_with("GET ") && !request.starts_with("HEAD "))
            .collect()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// `GET /v1.41/info` as `GET /info`.
fn without_version(line: &str) -> String {
    let Some((method, path)) = line.split_once(" /v1.") else { return line.to_owned() };
    let path = path.trim_start_matches(|c: char| c.is_ascii_digit());
    format!("{method} {path}")
}

fn serve(mut client: UnixStream, engine: &Path, state: &Mutex<State>) -> std::io::Result<()> {
    let head = read_head(&mut client)?;
    let text = String::from_utf8_lossy(&head);
    let line = text.lines().next().unwrap_or("").trim_end_matches(" HTTP/1.1").to_owned();
    let line = without_version(&line);
    let fault = {
        let mut state = state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        state.requests.push(line.clone());
        if line.starts_with("GET /events") && !line.contains("until=") {
            state.event_streams.push(client.try_clone()?);
        }
        let number = state.requests.len();
        let fault = (state.decide)(number, &line);
        if let Some(Fault::LoseEvents | Fault::EndEvents) = fault {
            for mut stream in state.event_streams.drain(..) {
                if fault == Some(Fault::EndEvents) {
                    let _ = stream.write_all(LAST_CHUNK);
                }
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        fault
    };
    match fault {
        Some(Fault::CutBefore) => return Ok(()),
        Some(Fault::Hang) => {
            // Until the client gives up.
            let _ = client.read(&mut [0]);
            return Ok(());
        }
        Some(Fault::Status(status)) => {
            return answer(&mut client, status, "{\"message\":\"the proxy says no\"}");
        }
        Some(Fault::Says(status, message)) => {
            return answer(&mut client, status, &format!("{{\"message\":\"{message}\"}}"));
        }
        Some(Fault::Answer(body)) => return answer(&mut client, 200, body),
        Some(Fault::Malformed) => return answer(&mut client, 200, "<html>I am no engine</html>"),
        Some(Fault::Truncated) => return answer(&mut client, 200, "[{\"Id\":\"sha256:"),
        None
        | Some(Fault::CutMiddle | Fault::CutAfter | Fault::Delay(_) | Fault::LoseEvents | Fault::EndEvents) =>
            {}
    }
    let mut upstream = UnixStream::connect(engine)?;
    upstream.write_all(&one_request(&head))?;
    let mut answers = upstream.try_clone()?;
    match fault {
        Some(Fault::CutAfter | Fault::CutMiddle) => {
            let mut head = read_head(&mut answers)?;
            if fault == Some(Fault::CutMiddle) {
                head.truncate(head.len() / 2);
                client.write_all(&head)?;
            }
            return Ok(());
        }
        Some(Fault::Delay(ms)) => thread::park_timeout(Duration::from_millis(ms)),
        _ => {}
    }
    let (mut to, mut from) = (client.try_clone()?, client);
    let back = thread::spawn(move || {
        let _ = std::io::copy(&mut answers, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
    let _ = std::io::copy(&mut from, &mut upstream);
    let _ = upstream.shutdown(Shutdown::Both);
    let _ = back.join();
    Ok(())
}

/// The head of a request after which the engine closes the connection, and so does the client: each
/// request comes on a connection of its own, to be told apart.
fn one_request(head: &[u8]) -> Vec<u8> {
    let end = head.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(head.len());
    [&head[..end], b"\r\nConnection: close", &head[end..]].concat()
}

/// Up to and with the empty line; what follows stays in the stream but for what came along.
fn read_head(stream: &mut UnixStream) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut buffer = [0; 4096];
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        head.extend_from_slice(&buffer[..n]);
    }
    Ok(head)
}

fn answer(client: &mut UnixStream, status: u16, body: &str) -> std::io::Result<()> {
    let length = body.len();
    write!(
        client,
        "HTTP/1.1 {status} Spoiled\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}
