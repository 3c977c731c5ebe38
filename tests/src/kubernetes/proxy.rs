//! A TCP proxy in front of the API server, for what the real one cannot be made to do: connections
//! that fall silent while new ones work, as behind a firewall that forgot them.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// A running proxy; it ends with the test process.
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Connections up to this number are silent.
    silent: AtomicU64,
    accepted: AtomicU64,
    /// Both sides of every connection, to break them.
    sockets: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    /// Starts one on the address of the server, so that its certificate fits, on another port.
    pub fn start(server: SocketAddr) -> Self {
        let any = SocketAddr::new(server.ip(), 0);
        let listener = TcpListener::bind(any).expect("bind the proxy");
        let address = listener.local_addr().expect("address of the proxy");
        let shared = Arc::new(Shared::default());
        let state = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(client) = client else { continue };
                // The server may be away: then this client is refused, too.
                if let Ok(upstream) = TcpStream::connect(server) {
                    let number = state.accepted.fetch_add(1, Ordering::SeqCst) + 1;
                    join(&state, number, client, upstream);
                }
            }
        });
        Self { address, shared }
    }

    /// From here on nothing passes on the connections there are: no byte and no end. New ones work.
    pub fn silence(&self) {
        let accepted = self.shared.accepted.load(Ordering::SeqCst);
        self.shared.silent.store(accepted, Ordering::SeqCst);
    }

    /// Breaks every connection.
    pub fn cut(&self) {
        for socket in self.shared.sockets.lock().expect("sockets").drain(..) {
            socket.shutdown(Shutdown::Both).ok();
        }
    }

    /// How many connections were ever accepted.
    pub fn connections(&self) -> u64 {
        self.shared.accepted.load(Ordering::SeqCst)
    }
}

fn join(shared: &Arc<Shared>, number: u64, client: TcpStream, upstream: TcpStream) {
    let pairs = [
        (client.try_clone(), upstream.try_clone()),
        (upstream.try_clone(), client.try_clone()),
    ];
    shared
        .sockets
        .lock()
        .expect("sockets")
        .extend([client, upstream]);
    for (from, to) in pairs {
        let (Ok(from), Ok(to)) = (from, to) else {
            return;
        };
        let shared = Arc::clone(shared);
        std::thread::spawn(move || pump(&shared, number, from, to));
    }
}

fn pump(shared: &Shared, number: u64, mut from: TcpStream, mut to: TcpStream) {
    let mut chunk = [0; 16 * 1024];
    loop {
        let count = from.read(&mut chunk).unwrap_or(0);
        if number <= shared.silent.load(Ordering::SeqCst) {
            // Swallowed; the other side never learns.
            if count == 0 {
                return;
            }
            continue;
        }
        if count == 0 || to.write_all(&chunk[..count]).is_err() {
            from.shutdown(Shutdown::Both).ok();
            to.shutdown(Shutdown::Both).ok();
            return;
        }
    }
}
