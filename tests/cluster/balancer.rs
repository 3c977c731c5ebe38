//! A balancer in front of nodes, as a data centre has one: it passes on TCP connections to nodes
//! whose health check succeeds, and takes five failures, a second apart, to believe that one is
//! gone.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use gatehouse_tests::raw;

/// Failures in a row before a node is left alone.
const FAILURES: u8 = 5;
const INTERVAL: Duration = Duration::from_secs(1);

struct Target {
    address: SocketAddr,
    failures: AtomicU8,
}

/// Starts one for these addresses; where it listens. It lives as long as the process.
pub(crate) fn start(addresses: &[SocketAddr]) -> SocketAddr {
    let targets: Arc<[Target]> = addresses
        .iter()
        .map(|address| Target {
            address: *address,
            failures: AtomicU8::new(0),
        })
        .collect();
    for number in 0..targets.len() {
        let targets = Arc::clone(&targets);
        std::thread::spawn(move || watch(&targets[number]));
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        let next = AtomicUsize::new(0);
        for client in listener.incoming().flatten() {
            let turn = next.fetch_add(1, Ordering::Relaxed);
            let targets = Arc::clone(&targets);
            std::thread::spawn(move || pass(client, &targets, turn));
        }
    });
    address
}

fn watch(target: &Target) {
    loop {
        let well = raw::get(target.address, "balancer", "/healthz")
            .is_ok_and(|answer| answer.status == 200);
        let failures = target.failures.load(Ordering::Relaxed);
        let failures = if well { 0 } else { failures.saturating_add(1) };
        target.failures.store(failures, Ordering::Relaxed);
        std::thread::sleep(INTERVAL);
    }
}

fn pass(client: TcpStream, targets: &[Target], turn: usize) {
    let well: Vec<&Target> = targets
        .iter()
        .filter(|target| target.failures.load(Ordering::Relaxed) < FAILURES)
        .collect();
    if well.is_empty() {
        return;
    }
    // A connection that is refused is offered to the next; what was accepted stays where it is.
    let found = (0..well.len()).find_map(|step| {
        let target = well[(turn + step) % well.len()];
        TcpStream::connect_timeout(&target.address, Duration::from_secs(2)).ok()
    });
    let Some(node) = found else { return };
    let (Ok(from), Ok(to)) = (client.try_clone(), node.try_clone()) else {
        return;
    };
    std::thread::spawn(move || copy(from, to));
    copy(node, client);
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let mut chunk = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut chunk) {
        if to.write_all(&chunk[..count]).is_err() {
            from.shutdown(Shutdown::Read).ok();
            break;
        }
    }
    to.shutdown(Shutdown::Write).ok();
}
