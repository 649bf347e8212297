//! The daemon at a broker that speaks TLS and wants to see a certificate.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tern_tests::broker::Broker;
use tern_tests::daemon::Daemon;
use tern_tests::mqtt_peer::Note;

/// Makes an authority, and certificates of it for the broker and the daemon; and an authority that nobody knows.
fn certificates(folder: &Path) {
    let script = r#"
        set -e
        key='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'
        for name in ca other; do
            openssl req -x509 $key -keyout $name.key -out $name.pem -days 2 -subj "/CN=$name" \
                -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign
        done
        for name in broker device; do
            openssl req -new $key -keyout $name.key -out $name.csr -subj "/CN=$name"
            echo "subjectAltName=DNS:localhost" > $name.ext
            openssl x509 -req -in $name.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out $name.pem -days 2 \
                -extfile $name.ext
        done"#;
    let made = Command::new("sh").args(["-c", script]).current_dir(folder).output().expect("a shell runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

fn config(broker: &Broker, folder: &Path, ca: &str) -> String {
    let file = |name: &str| format!("{{ file = '{}' }}", folder.join(name).display());
    let section = broker.config("pi", &folder.join("state"));
    let plain = format!("mqtt://127.0.0.1:{}", broker.port());
    let section = section.replace(&plain, &format!("mqtts://localhost:{}", broker.second_port()));
    format!(
        "{section}[mqtt.tls]\nca = {}\ncertificate = {}\nkey = {}\n",
        file(ca),
        file("device.pem"),
        file("device.key")
    )
}

#[test]
fn requests_are_answered_over_tls_and_a_stranger_is_not_trusted() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    certificates(folder.path());
    let at = folder.path().display();
    let broker = Broker::start_with(&format!(
        "listener SECOND 127.0.0.1\ncafile {at}/ca.pem\ncertfile {at}/broker.pem\nkeyfile {at}/broker.key\n\
         require_certificate true\n"
    ));
    let mut me = broker.peer("me");
    me.subscribe("me/answers");
    let daemon = Daemon::start(&config(&broker, folder.path(), "ca.pem"));
    // The session must be there before the request, or nobody would be asked.
    me.subscribe("tern/pi/status");
    me.receive_where(|note| note.topic == "tern/pi/status" && note.json()["state"] == "online");
    me.publish(&Note::request("tern/pi/log-severity/request", "fan stopped", "me/answers", "1"));
    assert_eq!(me.receive_where(|note| note.topic == "me/answers").property("status"), Some("200"));
    drop(daemon);
    me.receive_where(|note| note.topic == "tern/pi/status" && note.json()["state"] == "offline");

    let mut wary = Daemon::start(&config(&broker, folder.path(), "other.pem"));
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(1) {
        if let Some(note) = me.next(Duration::from_millis(100)) {
            assert_ne!(note.json()["state"], "online", "it trusts an authority it does not know");
        }
    }
    wary.signal("TERM");
    let log = wary.wait().stderr;
    assert!(log.contains("the broker cannot be reached") && log.contains("certificate"), "{log}");

    // A file that is none is told at the start.
    std::fs::write(folder.path().join("other.pem"), "no certificate").expect("the folder can be written");
    let mut refused = wary.second();
    let ended = refused.spawn().expect("it starts").wait_with_output().expect("it ends");
    assert!(String::from_utf8_lossy(&ended.stderr).contains("mqtt.tls.ca holds no certificate"), "{ended:?}");
}
