//! Frames that ask for nothing: without end they end the connection, as company of requests they
//! do not.

use gatehouse_tests::frames::{Frames, Outcome, frame, kind};

use crate::row::World;

const REQUEST: [(&[u8], &[u8]); 4] = [
    (b":method", b"GET"),
    (b":scheme", b"http"),
    (b":authority", b"wire.test"),
    (b":path", b"/"),
];
const ENHANCE_YOUR_CALM: u32 = 11;
const PRIORITY: u8 = 2;
const WINDOW_UPDATE: u8 = 8;

/// A connection whose first request was answered.
fn served(world: &World) -> Frames {
    let mut frames = Frames::open(world.gateway.http);
    frames.headers(1, &REQUEST, true);
    assert_eq!(frames.outcome(1), Outcome::Status(200));
    frames
}

#[test]
fn a_client_that_only_makes_noise_is_told_to_calm_down() {
    let world = World::start(&[], &[]);
    for (what, noise) in [
        ("PING", frame(kind::PING, 0, 0, b"12345678")),
        ("PING ACK", frame(kind::PING, 1, 0, b"12345678")),
        ("SETTINGS", frame(kind::SETTINGS, 0, 0, b"")),
        ("RST_STREAM", frame(kind::RESET, 0, 1, &8_u32.to_be_bytes())),
        ("PRIORITY", frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])),
        ("WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        ("unknown", frame(0xfa, 0, 0, b"")),
    ] {
        let mut frames = served(&world);
        for _ in 0..3_000 {
            frames.send(&noise);
        }
        // The end of the answer comes first.
        let goaway = loop {
            match frames.read() {
                Ok((kind::GOAWAY, _, _, payload)) => break payload,
                Ok(_) => {}
                Err(outcome) => panic!("{what}: {outcome:?} instead of a GOAWAY"),
            }
        };
        // The newest stream, and the code.
        let wanted = [1, ENHANCE_YOUR_CALM].map(u32::to_be_bytes).concat();
        assert_eq!(goaway, wanted, "{what}");
    }
}

#[test]
fn noise_between_requests_is_no_flood() {
    let world = World::start(&[], &[]);
    let mut frames = served(&world);
    for number in 1..400 {
        for _ in 0..8 {
            frames.send(frame(kind::PING, 0, 0, b"12345678"));
        }
        let stream = 2 * number + 1;
        frames.headers(stream, &REQUEST, true);
        assert_eq!(frames.outcome(stream), Outcome::Status(200), "{number}");
    }
}
