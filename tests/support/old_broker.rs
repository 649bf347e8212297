//! A broker as it was before MQTT 5: a gate in front of a newer one that turns away who greets it in 5.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What the gate does to who greets it in version 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// It says that it does not know the version, as section 3.1.2.2 of MQTT 3.1.1 wants, and closes.
    Refuses,
    /// It closes without a word.
    HangsUp,
}

/// The gate, on a port of its own.
#[derive(Debug)]
pub struct OldBroker {
    port: u16,
    turned_away: Arc<AtomicUsize>,
}

impl OldBroker {
    /// A gate in front of the broker at this port of 127.0.0.1.
    ///
    /// # Panics
    /// If the system has no port.
    pub fn before(broker: u16, manner: Manner) -> OldBroker {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let turned_away = Arc::new(AtomicUsize::new(0));
        let theirs = Arc::clone(&turned_away);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let theirs = Arc::clone(&theirs);
                std::thread::spawn(move || serve(client, broker, manner, &theirs));
            }
        });
        OldBroker { port, turned_away }
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Clients that greeted it in version 5.
    pub fn turned_away(&self) -> usize {
        self.turned_away.load(Ordering::Relaxed)
    }
}

fn serve(mut client: TcpStream, broker: u16, manner: Manner, turned_away: &AtomicUsize) {
    let mut greeting = [0; 4096];
    let Ok(length) = client.read(&mut greeting) else { return };
    // CONNECT has at most 4 bytes of length before the name of the protocol, which is followed by its level.
    let name = greeting[..length].windows(6).position(|window| window == b"\0\x04MQTT");
    let level = name.and_then(|at| greeting.get(at + 6));
    if level != Some(&4) {
        turned_away.fetch_add(1, Ordering::Relaxed);
        if manner == Manner::Refuses {
            let _gone_already = client.write_all(&[0x20, 2, 0, 1]);
        }
        return;
    }
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", broker)) else { return };
    let (Ok(mut from), Ok(mut to)) = (server.try_clone(), client.try_clone()) else { return };
    let back = std::thread::spawn(move || {
        let _ended = std::io::copy(&mut from, &mut to);
        let _gone_already = to.shutdown(Shutdown::Both);
    });
    if server.write_all(&greeting[..length]).is_ok() {
        let _ended = std::io::copy(&mut client, &mut server);
    }
    let _gone_already = server.shutdown(Shutdown::Both);
    let _ended = back.join();
}
