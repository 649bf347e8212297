//! A client of HTTP that sends any bytes and shares no code with the daemon.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::daemon::{Daemon, TALKER};

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon that speaks HTTP on a Unix socket.
#[derive(Debug)]
pub struct HttpDaemon {
    /// The daemon.
    pub daemon: Daemon,
    /// Where it speaks HTTP.
    pub socket: PathBuf,
}

impl HttpDaemon {
    /// A daemon with these lines in `[http]`.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start(http: &str) -> Self {
        HttpDaemon::configured(http, "")
    }

    /// A daemon of the talking model, as slow as it gets, with these lines before `[http]`.
    ///
    /// # Panics
    /// If it does not start.
    pub fn talker(config: &str) -> Self {
        let model = format!("path = '{TALKER}'\nthreads = 1\nkernels = 'scalar-t2i8'\nslots = 1");
        HttpDaemon::configured("", &format!("{config}\n[model]\n{model}\n"))
    }

    /// A daemon of this model.
    ///
    /// # Panics
    /// If it does not start.
    pub fn of_model(model: &Path) -> Self {
        HttpDaemon::configured("", &format!("[model]\npath = '{}'\n", model.display()))
    }

    fn configured(http: &str, config: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let socket = folder.path().join("h.sock");
        let config = format!("{config}\n[http]\nlisten = 'unix:{}'\n{http}", socket.display());
        let http = HttpDaemon { daemon: Daemon::start_in(folder, &config), socket };
        // Its socket answers a moment before HTTP hears of the model.
        let began = Instant::now();
        while http.get("/health").status != 200 {
            assert!(began.elapsed() < PATIENCE, "HTTP never hears of the model");
        }
        http
    }

    /// A new connection.
    ///
    /// # Panics
    /// If there is none to be had.
    pub fn connect(&self) -> HttpPeer {
        HttpPeer::connect(&self.socket).expect("the daemon takes connections")
    }

    /// The response to `GET path` on a connection of its own.
    ///
    /// # Panics
    /// If there is none.
    pub fn get(&self, path: &str) -> Response {
        self.connect().get(path)
    }

    /// The response to `POST path` on a connection of its own.
    ///
    /// # Panics
    /// If there is none.
    pub fn post(&self, path: &str, body: &Value) -> Response {
        self.connect().post(path, body)
    }
}

/// A response.
#[derive(Clone, Debug)]
pub struct Response {
    /// Its status.
    pub status: u16,
    /// Its headers, with names in lower case.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: String,
}

impl Response {
    /// A header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// If it is not.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Checks that this is an error with this status and code that says `words`.
    ///
    /// # Panics
    /// If it is not.
    #[track_caller]
    pub fn is_refusal(&self, status: u16, code: &str, words: &str) {
        assert_eq!(self.status, status, "{self:?}");
        let error = &self.json()["error"];
        assert_eq!(error["code"], code, "{self:?}");
        assert!(error["message"].as_str().is_some_and(|message| message.contains(words)), "{self:?}");
        assert!(error["type"].is_string() && error.get("param").is_some(), "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
    }
}

/// A connection.
#[derive(Debug)]
pub struct HttpPeer {
    stream: BufReader<UnixStream>,
}

impl HttpPeer {
    /// Connects.
    ///
    /// # Errors
    /// If nobody listens.
    pub fn connect(socket: &Path) -> std::io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(HttpPeer { stream: BufReader::new(stream) })
    }

    /// Sends bytes; a daemon that has said no before their end is right to stop reading.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.get_mut().write_all(bytes);
    }

    /// Sends the head and the body of a `POST`.
    pub fn send_post(&mut self, path: &str, body: &Value) {
        let body = body.to_string();
        let head = format!("POST {path} HTTP/1.1\r\nhost: tern\r\ncontent-length: {}\r\n\r\n", body.len());
        self.send((head + &body).as_bytes());
    }

    /// Asks with `POST`.
    ///
    /// # Panics
    /// If there is no response.
    pub fn post(&mut self, path: &str, body: &Value) -> Response {
        self.send_post(path, body);
        self.response().expect("a response")
    }

    /// Asks with `GET`.
    ///
    /// # Panics
    /// If there is no response.
    pub fn get(&mut self, path: &str) -> Response {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: tern\r\n\r\n").as_bytes());
        self.response().expect("a response")
    }

    /// Waits for a line, without its end; `None` if the connection is closed.
    ///
    /// # Panics
    /// If nothing comes and the connection stays.
    #[track_caller]
    pub fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        // A connection that the daemon cut off with bytes of ours unread ends with an error.
        let length = self.stream.read_line(&mut line).unwrap_or_else(|error| match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => panic!("nothing comes, and the connection stays"),
            _ => 0,
        });
        (length > 0).then(|| line.trim_end_matches(['\r', '\n']).to_owned())
    }

    /// Waits for a whole response; `None` if the connection is closed before it begins.
    ///
    /// # Panics
    /// If what comes is no response.
    pub fn response(&mut self) -> Option<Response> {
        let mut response = self.head()?;
        let length = response.header("content-length").map(|length| length.parse::<usize>());
        if let Some(length) = length {
            let mut body = vec![0; length.expect("a length")];
            self.stream.read_exact(&mut body).expect("the whole body");
            response.body = String::from_utf8(body).expect("UTF-8");
        } else {
            while let Some(chunk) = self.chunk() {
                response.body += &chunk;
            }
        }
        Some(response)
    }

    /// Waits for the head of a response.
    ///
    /// # Panics
    /// If what comes is no response.
    pub fn head(&mut self) -> Option<Response> {
        let first = self.line()?;
        let status = first.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let status = status.unwrap_or_else(|| panic!("{first:?} is no status line"));
        let mut headers = Vec::new();
        while let Some(line) = self.line().filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(": ").expect("a header");
            headers.push((name.to_lowercase(), value.to_owned()));
        }
        Some(Response { status, headers, body: String::new() })
    }

    /// Waits for a chunk of a body in chunks; `None` behind the last.
    ///
    /// # Panics
    /// If what comes is no chunk.
    pub fn chunk(&mut self) -> Option<String> {
        let length = usize::from_str_radix(&self.line()?, 16).expect("the length of a chunk");
        let mut chunk = vec![0; length + 2];
        self.stream.read_exact(&mut chunk).expect("the whole chunk");
        chunk.truncate(length);
        (length > 0).then(|| String::from_utf8(chunk).expect("UTF-8"))
    }

    /// Ends what this client sends.
    ///
    /// # Panics
    /// If the connection is gone.
    pub fn end_sending(&self) {
        self.stream.get_ref().shutdown(Shutdown::Write).expect("the connection stands");
    }
}
