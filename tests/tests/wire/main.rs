//! What goes over the wire, byte by byte: hostile and odd requests, answers of hostile backends,
//! raw HTTP/2 frames, and deadlines.
//!
//! The rows are data, in `tests/wire/`. Each runs against the real binary, with backends that keep
//! every byte; a run prints every failing row, not only the first.

mod deadlines;
mod http2;
mod noise;
mod row;
mod upstream;

use row::{World, load, report};

fn run(table: &str) {
    let rows = load(table);
    let world = World::start(&rows, &[]);
    let failed: Vec<String> = rows.iter().filter_map(|row| row.run(&world)).collect();
    report(table, rows.len(), &failed);
}

#[test]
fn hostile_requests_are_refused_and_odd_ones_made_canonical() {
    run("requests");
}

#[test]
fn the_rules_of_the_rfcs_for_a_gateway_are_kept() {
    run("rfc");
}

#[test]
fn hostile_answers_never_reach_a_client_as_they_are() {
    run("responses");
}
