//! What goes over an HTTP/2 connection, by the heads of its frames.
//!
//! Each frame costs the parser something, and some of them something to answer; a client can send
//! PING, SETTINGS, `RST_STREAM`, PRIORITY, `WINDOW_UPDATE` and empty frames without end and without
//! ever asking for anything. Here they draw on a credit that is earned by answers: a client that is
//! served has as much as it can use, one that only makes noise uses up what it began with.
//!
//! Invariants: only the nine bytes of each head are read, so a frame costs the same whatever its
//! size; the clock is read only when the credit is used up. Frames that are wrong are the affair of
//! the parser.

use std::time::Duration;

use tokio::time::Instant;

/// See the module.
#[derive(Debug)]
pub(super) struct FrameWatch {
    received: Walk,
    sent: Walk,
    credit: u32,
    credited: Instant,
    /// Of the newest stream that the client has opened.
    newest: u32,
}

/// The client makes noise only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Noise;

impl FrameWatch {
    /// A connection that begins now: the client sends the preface first.
    pub(super) fn new() -> Self {
        Self {
            received: Walk::after(PREFACE),
            sent: Walk::after(0),
            credit: CREDIT,
            credited: Instant::now(),
            newest: 0,
        }
    }

    /// Looks at bytes of the client.
    pub(super) fn receive(&mut self, bytes: &[u8]) -> Result<(), Noise> {
        let (mut spent, mut newest) = (0_u32, self.newest);
        self.received.feed(bytes, |head| {
            spent += u32::from(head.is_overhead());
            if head.kind == HEADERS {
                newest = newest.max(head.stream);
            }
        });
        self.newest = newest;
        if spent > self.credit {
            self.refill();
        }
        self.credit = self.credit.checked_sub(spent).ok_or(Noise)?;
        Ok(())
    }

    /// Looks at bytes for the client.
    pub(super) fn send(&mut self, bytes: &[u8]) {
        let mut earned = 0_u32;
        self.sent.feed(bytes, |head| {
            earned = earned.saturating_add(head.worth());
        });
        self.credit = self.credit.saturating_add(earned).min(CREDIT);
    }

    /// The end of the connection as a frame: GOAWAY with `ENHANCE_YOUR_CALM`. None in the middle of
    /// another frame, whose rest it would be taken for.
    pub(super) fn goaway(&self) -> Option<[u8; 17]> {
        if !self.sent.is_between() {
            return None;
        }
        let [a, b, c, d] = self.newest.to_be_bytes();
        Some([0, 0, 8, GOAWAY, 0, 0, 0, 0, 0, a, b, c, d, 0, 0, 0, CALM])
    }

    /// A client that only keeps its connection alive is no flood, however long it does.
    fn refill(&mut self) {
        let passed = self.credited.elapsed();
        self.credited += passed;
        let ticks = u32::try_from(passed.as_millis() / TICK.as_millis()).unwrap_or(u32::MAX);
        self.credit = self.credit.saturating_add(ticks).min(CREDIT);
    }
}

/// The head of a frame (RFC 9113, section 4.1).
#[derive(Debug, Clone, Copy)]
struct Head {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Head {
    fn of(bytes: [u8; HEAD]) -> Self {
        let [a, b, c, kind, flags, stream @ ..] = bytes;
        Self {
            length: usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c),
            kind,
            flags,
            stream: u32::from_be_bytes(stream) & 0x7fff_ffff,
        }
    }

    /// Neither a request nor content, nor the end of either.
    fn is_overhead(self) -> bool {
        match self.kind {
            HEADERS => false,
            DATA => self.length == 0 && self.flags & END_STREAM == 0,
            _ => true,
        }
    }

    /// What a client may send for this part of an answer.
    fn worth(self) -> u32 {
        if self.kind != HEADERS && self.kind != DATA {
            return 0;
        }
        PER_ANSWER.saturating_add(u32::try_from(self.length / 1024).unwrap_or(u32::MAX))
    }
}

/// One direction, cut into frames.
#[derive(Debug)]
struct Walk {
    head: [u8; HEAD],
    /// Bytes of the head that are there.
    filled: usize,
    /// Bytes that belong to no head.
    skip: usize,
}

impl Walk {
    /// The first head comes after so many bytes.
    fn after(skip: usize) -> Self {
        Self {
            head: [0; HEAD],
            filled: 0,
            skip,
        }
    }

    fn is_between(&self) -> bool {
        self.filled == 0 && self.skip == 0
    }

    fn feed(&mut self, mut bytes: &[u8], mut see: impl FnMut(Head)) {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            if bytes.is_empty() {
                return;
            }
            let room = self.head.get_mut(self.filled..).unwrap_or_default();
            let taken = room.len().min(bytes.len());
            let (now, rest) = bytes.split_at(taken);
            for (place, byte) in room.iter_mut().zip(now) {
                *place = *byte;
            }
            self.filled += taken;
            bytes = rest;
            if self.filled == HEAD {
                let head = Head::of(self.head);
                self.filled = 0;
                self.skip = head.length;
                see(head);
            }
        }
    }
}

/// Length of the client's preface.
pub(super) const PREFACE: usize = 24;

/// Length of a frame's head.
const HEAD: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
/// `ENHANCE_YOUR_CALM`.
const CALM: u8 = 11;

/// Frames of overhead that a client may send in advance, and the most it can save. Some open with
/// hundreds: settings, a tree of priorities, a window for each stream.
const CREDIT: u32 = 1_000;

/// Such frames for each frame of an answer, and one more for each KiB in it: two window updates, a
/// reset and a ping that measures the line would be four, but some clients update both windows for
/// every few KiB that they read.
const PER_ANSWER: u32 = 10;

/// One more is allowed each time this has passed.
const TICK: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap();
        let mut bytes = length.to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend_from_slice(payload);
        bytes
    }

    fn opened() -> FrameWatch {
        let mut watch = FrameWatch::new();
        watch.receive(&[b'P'; PREFACE]).unwrap();
        watch
    }

    /// Frames that are taken, of at most this many.
    fn taken(watch: &mut FrameWatch, most: u32, bytes: &[u8]) -> u32 {
        (0..most)
            .take_while(|_| watch.receive(bytes).is_ok())
            .map(|_| 1)
            .sum()
    }

    #[tokio::test(start_paused = true)]
    async fn noise_uses_up_the_credit_and_requests_do_not() {
        let ping = frame(6, 0, 0, b"12345678");
        for noise in [
            ping,
            frame(4, 0, 0, b""),
            frame(3, 0, 1, &[0; 4]),
            frame(2, 0, 1, &[0; 5]),
            frame(8, 0, 1, &[0, 0, 0, 1]),
            frame(0, 0, 1, b""),
            frame(0xfa, 0, 0, &[0; 300]),
        ] {
            assert_eq!(taken(&mut opened(), 5_000, &noise), CREDIT, "{noise:?}");
        }
        for request in [
            frame(1, 5, 1, b"x"),
            frame(0, 0, 1, b"x"),
            frame(0, 1, 1, b""),
        ] {
            assert_eq!(taken(&mut opened(), 5_000, &request), 5_000);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn answers_and_time_give_credit() {
        let ping = frame(6, 0, 0, b"12345678");
        let mut served = opened();
        for _ in 0..5_000 {
            assert_eq!(taken(&mut served, 4, &ping), 4);
            served.send(&frame(0, 0, 1, b"content"));
        }
        // Both windows, for every four KiB of a large frame.
        let update = frame(8, 0, 1, &[0, 0, 16, 0]);
        let content = frame(0, 0, 1, &vec![0; 1 << 16]);
        let mut reader = opened();
        for _ in 0..500 {
            assert_eq!(taken(&mut reader, 32, &update), 32);
            reader.send(&content);
        }
        let mut answered_with_acks = opened();
        for _ in 0..CREDIT {
            answered_with_acks.receive(&ping).unwrap();
            answered_with_acks.send(&frame(6, 1, 0, b"12345678"));
        }
        assert_eq!(answered_with_acks.receive(&ping), Err(Noise));

        let mut patient = opened();
        for _ in 0..5_000 {
            assert_eq!(taken(&mut patient, 1, &ping), 1);
            tokio::time::advance(TICK).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_does_not_matter_how_the_bytes_are_cut() {
        let mut bytes = vec![b'P'; PREFACE];
        for number in 0..CREDIT {
            bytes.extend(frame(6, 0, 0, b"12345678"));
            bytes.extend(frame(1, 4, 2 * number + 1, &vec![0; number as usize]));
        }
        for size in [1, 7, 9, 10, 4096] {
            let mut watch = FrameWatch::new();
            for part in bytes.chunks(size) {
                watch.receive(part).unwrap();
            }
            assert_eq!((watch.credit, watch.newest), (0, 1999));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_goaway_names_the_newest_stream_and_cuts_no_frame() {
        let mut watch = opened();
        watch.receive(&frame(1, 5, 7, b"x")).unwrap();
        let goaway = frame(7, 0, 0, &[0, 0, 0, 7, 0, 0, 0, 11]);
        assert_eq!(watch.goaway().map(Vec::from), Some(goaway));
        let data = frame(0, 0, 7, b"content");
        for cut in [1, 8, 9, data.len() - 1] {
            watch.send(&data[..cut]);
            assert_eq!(watch.goaway(), None, "after {cut} bytes of a frame");
            watch.send(&data[cut..]);
            assert!(watch.goaway().is_some());
        }
    }
}
