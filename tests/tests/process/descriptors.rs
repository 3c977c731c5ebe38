//! File descriptors: all that the hard limit allows are taken, and clients never get all of them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use gatehouse_tests::backend::{Backend, Step, response};
use gatehouse_tests::gateway::{Gateway, OpenFiles};
use gatehouse_tests::raw::Client;
use gatehouse_tests::wait;

use super::served_by;

#[test]
fn the_process_takes_what_its_hard_limit_allows_and_says_when_that_is_little() {
    let backend = Backend::plain();
    let scratch = served_by(&backend);
    let limit = OpenFiles {
        soft: 256,
        hard: 4096,
    };
    let gateway = Gateway::start_limited(scratch.path(), limit, &[]);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", gateway.process.id()))
        .expect("the limits of the process");
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .expect("a limit on open files");
    let values: Vec<&str> = files.split_whitespace().skip(3).take(2).collect();
    assert_eq!(values, ["4096", "4096"]);
    let told = gateway.process.stderr.find("LimitNOFILE");
    let told = told.expect("the low limit is told with the remedy");
    assert!(told.contains("4096") && told.contains("WARN"), "{told}");
}

#[test]
fn clients_that_take_every_place_leave_descriptors_for_their_endpoints() {
    // Nobody is answered before all have asked: each needs a connection to the endpoint of its own.
    let crowd = Arc::new(Crowd::default());
    let waiting = Arc::clone(&crowd);
    let backend = Backend::scripted(move |_| {
        waiting.wait();
        vec![Step::Send(response("200 OK", "ok"))]
    });
    let scratch = served_by(&backend);
    let limit = OpenFiles {
        soft: 160,
        hard: 160,
    };
    let gateway = Gateway::start_limited(scratch.path(), limit, &[]);
    let mut clients: Vec<Client> = (0..160).map(|_| Client::plain(gateway.http)).collect();
    wait::until("the clients beyond the limit are refused", || {
        let refused = metric(&gateway, "gatehouse_connections_refused_total");
        let accepted = metric(&gateway, "gatehouse_connections_accepted_total");
        (refused + accepted == 160).then_some(())
    });
    let accepted = metric(&gateway, "gatehouse_connections_accepted_total");
    assert!((16..80).contains(&accepted), "{accepted} were accepted");

    crowd.size.store(accepted, Ordering::Relaxed);
    for client in &mut clients {
        // Who was refused sees it now or below.
        client.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
    }
    let answers = clients.iter_mut().filter_map(|client| client.answer().ok());
    let statuses: Vec<u16> = answers.map(|answer| answer.status).collect();
    assert_eq!(statuses, vec![200; accepted], "nobody lacks a descriptor");
}

/// Lets requests go on when there are as many as expected.
#[derive(Default)]
struct Crowd {
    size: AtomicUsize,
    here: Mutex<usize>,
    grown: Condvar,
}

impl Crowd {
    fn wait(&self) {
        let mut here = self.here.lock().expect("nobody panics here");
        *here += 1;
        self.grown.notify_all();
        let too_few = |here: &mut usize| *here < self.size.load(Ordering::Relaxed);
        let limit = Duration::from_secs(30);
        let (_here, over) = self
            .grown
            .wait_timeout_while(here, limit, too_few)
            .expect("nobody panics here");
        assert!(!over.timed_out(), "not everybody got to the endpoint");
    }
}

fn metric(gateway: &Gateway, name: &str) -> usize {
    let (status, text) = gateway.admin_get("/metrics");
    assert_eq!(status, 200, "the admin server has a descriptor left");
    let line = text.lines().find(|line| line.starts_with(name));
    let value = line.and_then(|line| line.split_whitespace().next_back());
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}
