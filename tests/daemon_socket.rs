//! Who may come in by the socket: its file's group and permissions, the users it is for, and the socket that systemd
//! opened.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tern_protocol::client::Client;
use tern_protocol::storage::{Borrowed, Fixed};
use tern_protocol::{Answer, Request};
use tern_tests::binary::{self, tern};
use tern_tests::daemon::Daemon;
use tern_tests::port::Port;

const PATIENCE: Duration = Duration::from_secs(60);

fn me() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

/// A daemon that may let nobody stay.
fn closed(section: &str) -> (tempfile::TempDir, Child) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = folder.path().join("tern.toml");
    std::fs::write(&config, format!("[socket]\n{section}\n")).expect("it can be written");
    let mut command = tern(["serve", "--log", "debug", "--config"]);
    let child =
        command.arg(config).arg("--socket").arg(folder.path().join("t.sock")).spawn().expect("it starts");
    (folder, child)
}

fn connect(socket: &Path) -> UnixStream {
    let began = Instant::now();
    loop {
        match UnixStream::connect(socket) {
            Ok(stream) => return stream,
            Err(error) => assert!(began.elapsed() < PATIENCE, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn the_file_has_the_group_and_the_permissions_of_the_configuration() {
    let (_, group) = me();
    let daemon = Daemon::start(&format!("[socket]\nmode = 0o620\ngroup = {group}"));
    let found = std::fs::metadata(daemon.socket()).expect("it is there");
    assert_eq!((found.permissions().mode() & 0o777, found.gid()), (0o620, group));
    if me().0 == 0 {
        // Root may give it to any group; this one is not root's own.
        let daemon = Daemon::start("[socket]\ngroup = 'nogroup'");
        let found = std::fs::metadata(daemon.socket()).expect("it is there");
        assert_ne!(found.gid(), group);
    }
}

#[test]
fn an_account_that_does_not_exist_ends_the_start_and_the_check() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = folder.path().join("tern.toml");
    for section in ["group = 'no-such-group'", "allow_users = ['no-such-user']"] {
        std::fs::write(&config, format!("[socket]\n{section}\n")).expect("it can be written");
        for check in [&[][..], &["--check-config"]] {
            let mut command = tern(["serve", "--config"]);
            command.arg(&config).arg("--socket").arg(folder.path().join("t.sock")).args(check);
            let ended = binary::run(command, "");
            assert_eq!(ended.code, Some(64), "{section}: {ended:?}");
            assert!(ended.stderr.contains("no-such-"), "{ended:?}");
        }
    }
}

#[test]
fn only_those_listed_may_stay_and_others_are_told_so_in_their_form() {
    let (user, group) = me();
    let listed = Daemon::start(&format!("[socket]\nallow_users = [{user}]\nallow_groups = []"));
    assert_eq!(listed.status()["type"], "status");
    let member = Daemon::start(&format!("[socket]\nallow_groups = [{group}]"));
    assert_eq!(member.status()["type"], "status");
    let (folder, child) = closed("allow_users = [4711]\nallow_groups = [4712]");
    let socket = folder.path().join("t.sock");
    let mut stream = connect(&socket);
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut stream, &mut answer).expect("it is closed after the answer");
    let answer: serde_json::Value = serde_json::from_str(&answer).expect("one line");
    tern_tests::daemon::assert_refused(&answer, None, 403, &[&format!("user {user}"), "socket.allow_users"]);
    assert_eq!(answer["reason"], "forbidden");
    let mut client = Client::<Port, 1024>::new(Port::new(connect(&socket), PATIENCE));
    let mut request = Request::<Borrowed>::new("1");
    request.status = true;
    client.send(&request).expect("it is read");
    let Ok(Answer::Error(failure)) = client.receive::<Fixed<256, 4>>() else { panic!("no error in a frame") };
    assert_eq!((failure.id, failure.code), (None, 403));
    assert!(client.receive::<Fixed<256, 4>>().is_err(), "the connection is closed");
    for _ in 0..40 {
        let (mut stream, mut refusal) = (connect(&socket), String::new());
        // Who says at once what it speaks need not wait for the answer.
        std::io::Write::write_all(&mut stream, b"{\n").expect("it is read");
        std::io::Read::read_to_string(&mut stream, &mut refusal).expect("it is closed");
        assert!(refusal.contains("403"), "{refusal}");
    }
    kill_process(Pid::from_child(&child), Signal::TERM).expect("it runs");
    let log = child.wait_with_output().expect("it ends").stderr;
    let log = String::from_utf8(log).expect("it is UTF-8");
    let process = std::process::id();
    assert!(log.contains(&format!("turned away: user {user}, group {group}, process {process}")), "{log}");
    // A storm of 42 costs ten warnings and their sum.
    assert_eq!(log.matches("was turned away").count(), 11, "{log}");
    assert!(log.contains("32 more like it within"), "{log}");
}

/// A daemon on a socket that somebody else opened, as systemd passes it: descriptor 3, announced in the environment.
fn activated(socket: &UnixListener, folder: &Path) -> Child {
    let program = tern(["serve"]);
    // The shell's own number is the daemon's, since it becomes the daemon.
    let mut command = Command::new("sh");
    command.args(["-c", r#"exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" serve --log debug"#]);
    command
        .arg(program.get_program())
        .stdin(std::os::fd::OwnedFd::from(socket.try_clone().expect("one more")));
    command.env("TERN_TUNE", "off").env("XDG_RUNTIME_DIR", folder).stderr(std::process::Stdio::piped());
    command.spawn().expect("a shell starts")
}

fn asked(socket: &Path) -> serde_json::Value {
    let mut stream = connect(socket);
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out can be set");
    std::io::Write::write_all(&mut stream, b"{\"id\":\"1\",\"status\":true}\n").expect("it is read");
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stream), &mut line).expect("an answer");
    serde_json::from_str(&line).expect("it is JSON")
}

#[test]
fn a_socket_that_was_passed_is_answered_on_and_outlives_the_daemon() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let socket = folder.path().join("passed.sock");
    let listener = UnixListener::bind(&socket).expect("it can be made");
    for _ in 0..2 {
        let mut child = activated(&listener, folder.path());
        // A client may be there before the daemon.
        assert_eq!(asked(&socket)["type"], "status");
        // A second daemon finds it taken, though there is no lock.
        let mut second = tern(["serve", "--socket"]);
        second.arg(&socket);
        let ended = binary::run(second, "");
        assert_eq!(ended.code, Some(73), "{ended:?}");
        let pid = Pid::from_child(&child);
        kill_process(pid, Signal::TERM).expect("it runs");
        assert!(child.wait().expect("it ends").success());
        assert!(socket.exists());
    }
    // Neither a socket nor a lock was made where the daemon would have made its own.
    assert!(!folder.path().join("tern").exists());
}

#[test]
fn systemds_own_launcher_starts_the_daemon_for_the_first_client() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let socket = folder.path().join("systemd.sock");
    let program = tern(["serve"]);
    let mut launcher = Command::new("systemd-socket-activate");
    launcher.arg("-l").arg(&socket).args(["-E", "TERN_TUNE=off"]).arg(program.get_program()).arg("serve");
    launcher.stderr(std::process::Stdio::null());
    let mut launcher = match launcher.spawn() {
        Ok(launcher) => launcher,
        Err(error) => panic!("systemd-socket-activate of the package systemd: {error}"),
    };
    let answer = asked(&socket);
    // The launcher has become the daemon.
    launcher.kill().expect("it runs");
    launcher.wait().expect("it ends");
    assert_eq!(answer["type"], "status");
    assert!(socket.exists());
}

#[test]
fn what_is_passed_and_is_no_socket_is_told() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let program = tern(["serve"]);
    let mut command = Command::new("sh");
    command.args(["-c", r#"exec 3</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" serve"#]);
    command.arg(program.get_program()).env("XDG_RUNTIME_DIR", folder.path());
    let ended = command.output().expect("a shell starts");
    let stderr = String::from_utf8(ended.stderr).expect("it is UTF-8");
    assert_eq!(ended.status.code(), Some(73), "{stderr}");
    assert!(stderr.contains("systemd passed") && stderr.contains("ListenStream="), "{stderr}");
}
