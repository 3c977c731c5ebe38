//! Certificates and accounts as people read them. Pure.
//!
//! Invariant: what an authority or an object says is printed on one line, without a hold on the
//! terminal.

use std::fmt::Write as _;

use gatehouse_acme::accounts::AccountReport;
use gatehouse_acme::record::{Need, Phase};
use gatehouse_acme::schedule::Reason;
use k8s_openapi::jiff::Timestamp;

use crate::certificates::shown;
use crate::certificates::view::{Failure, Order, Owed, Status, View, cause};
use crate::diagnostics::Printable;

/// One line for each certificate, under a head.
pub(super) fn table(views: &[View]) -> String {
    if views.is_empty() {
        return "no certificates".to_owned();
    }
    let head = ["CERTIFICATE", "STATUS", "ISSUER", "ENDS", "NEXT", "NAMES"].map(str::to_owned);
    let mut rows = vec![head];
    rows.extend(views.iter().map(|view| {
        let day =
            |time: Option<Timestamp>| time.map_or("-".to_owned(), |time| shown(time).to_string());
        let failure = view.failure.as_ref();
        let next = failure.map_or(view.renew_at, |failure| failure.next_attempt);
        [
            Printable(&format!("{}/{}", view.namespace, view.secret)).to_string(),
            status(view.status).to_owned(),
            Printable(or_dash(&view.issuer)).to_string(),
            day(view.not_after),
            day(next),
            or_dash(&names(view)).to_owned(),
        ]
    }));
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..6).map(width).collect();
    let lines = rows.iter().map(|row| {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            // Writing to a String cannot fail.
            write!(line, "{cell:width$}  ").ok();
        }
        line.trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Everything about one certificate.
pub(super) fn sentences(view: &View, now: Timestamp) -> String {
    let target = format!("{}/{}", view.namespace, view.secret);
    let mut text = format!("{}: {}\n", Printable(&target), status(view.status));
    let mut say = |line: String| {
        // Writing to a String cannot fail.
        writeln!(text, "  {}", Printable(&line)).ok();
    };
    if !view.names.is_empty() {
        say(format!(
            "It is for {}, from issuer {}.",
            names(view),
            or_dash(&view.issuer)
        ));
    }
    // What is not asked for, or stands behind something else, is kept: nobody has to meet it.
    let is_renewed = !matches!(view.status, Status::Refused | Status::Unwanted);
    let is_asked = !view.shadowed && is_renewed;
    match (view.not_after, &view.serial) {
        (Some(end), Some(serial)) if end <= now => say(format!(
            "The certificate with serial number {serial} ended at {}{}.",
            moment(end, now),
            if is_asked { "; it is served nevertheless" } else { "" }
        )),
        (Some(end), Some(serial)) => say(format!(
            "The certificate with serial number {serial} {} {}.",
            until(view, serial, is_asked),
            moment(end, now)
        )),
        _ if view.phase.is_some() => say(
            "There is no certificate yet: what its Secret holds is served, or else the default one."
                .to_owned(),
        ),
        _ => {}
    }
    if view.taken_over {
        say("It was taken over: somebody else ordered it.".to_owned());
    }
    if let Some(order) = &view.order {
        say(ordering(order, view.phase, now));
    }
    if let Some(failure) = &view.failure {
        for line in failed(failure, view, now) {
            say(line);
        }
    } else if let Some(renew) = view.renew_at.filter(|_| view.order.is_none() && is_renewed) {
        say(renewal(view, renew, now));
    }
    for owed in &view.revocations {
        for line in revocation(owed, view, now) {
            say(line);
        }
    }
    if view.status == Status::Unwanted {
        say("Nothing asks for it any more: it is kept for a while and then removed.".to_owned());
    }
    if view.status == Status::Refused && view.phase == Some(Phase::Valid) {
        say("What asks for it is refused: it is kept as it is, and not renewed.".to_owned());
    }
    for remark in &view.remarks {
        say(format!("{}: {}.", remark.object, remark.message));
    }
    text
}

/// What a certificate is until its end.
fn until(view: &View, serial: &str, is_asked: bool) -> &'static str {
    let is_owed = view.revocations.iter().any(|owed| owed.serial == serial);
    match (view.revoked, is_asked) {
        (true, true) => "is revoked, and served until another one is there or it ends, at",
        (true, false) => "is revoked; it would have ended at",
        (false, true) => "is served until",
        (false, false) if is_owed => "is to be revoked; it ends at",
        (false, false) => "is good until",
    }
}

fn renewal(view: &View, renew: Timestamp, now: Timestamp) -> String {
    let why = match (view.renew_reason, view.window) {
        (Some(Reason::Window), Some(window)) => format!(
            "the authority asks for it between {} and {}",
            shown(window.start),
            shown(window.end)
        ),
        (Some(Reason::Backstop), _) => "a fifth of its life is left then".to_owned(),
        _ => "the usual part of its life is over then".to_owned(),
    };
    let page = view.explanation.as_ref();
    let page = page.map_or_else(String::new, |page| format!(", see {page}"));
    if !view.wanted {
        return format!(
            "Whether anything asks for it is not known here: the process that orders decides. If so, it is \
             to be renewed at {}: {why}{page}.",
            moment(renew, now)
        );
    }
    format!("It is renewed at {}: {why}{page}.", moment(renew, now))
}

fn ordering(order: &Order, phase: Option<Phase>, now: Timestamp) -> String {
    let why = match order.need {
        Need::New => "there is none",
        Need::Changed => "something else is wanted than what is there",
        Need::Renewal(_) => "it is time for a renewal",
        Need::Asked => "a person asked",
    };
    let step = match phase {
        Some(Phase::Planned) => "the order is about to be made",
        Some(Phase::Ordered) => "the order is made",
        Some(Phase::Presenting) => "the challenges are being published",
        Some(Phase::Validating) => "the authority is looking",
        Some(Phase::Finalizing | Phase::Issued) => {
            "all names are proved, the certificate is on its way"
        }
        Some(Phase::Delivering) => "the certificate is being handed out",
        _ => "it is about to begin",
    };
    let test = if order.test {
        ", at its directory for tests"
    } else {
        ""
    };
    format!(
        "One is ordered from issuer {}{test} since {}, because {why}: {step}.",
        order.issuer,
        moment(order.since, now)
    )
}

fn failed(failure: &Failure, view: &View, now: Timestamp) -> Vec<String> {
    let mut lines = Vec::new();
    let count = match failure.count {
        0 | 1 => String::new(),
        count => format!(", {count} times in a row"),
    };
    lines.push(format!(
        "The last attempt failed{count}: {}.",
        cause(failure.class, failure.scope.as_ref())
    ));
    if !failure.words.is_empty() {
        lines.push(format!("In its words: {}", failure.words));
    }
    if let Some(link) = &failure.link {
        lines.push(format!("See {link}"));
    }
    let sooner = format!("`gatehouse cert retry {}/{}`", view.namespace, view.secret);
    lines.push(match failure.next_attempt {
        Some(next) => format!(
            "It is tried again at {}; at once with {sooner}.",
            moment(next, now)
        ),
        None => format!("It is tried again when something has changed, or with {sooner}."),
    });
    lines
}

fn revocation(owed: &Owed, view: &View, now: Timestamp) -> Vec<String> {
    let count = match owed.count {
        0 => "the authority is about to be asked".to_owned(),
        1 => "the authority was asked and has not answered that it is done".to_owned(),
        count => {
            format!("the authority was asked {count} times and has not answered that it is done")
        }
    };
    let mut lines = vec![format!(
        "The revocation of {} is owed: {count}.",
        owed.serial
    )];
    if !owed.words.is_empty() {
        lines.push(format!("What came of it last: {}", owed.words));
    }
    let again = match owed.next_attempt {
        Some(next) => format!("at {}", moment(next, now)),
        None => "now".to_owned(),
    };
    lines.push(format!(
        "It is asked again {again}; at once with `gatehouse cert retry {}/{}`; no more when the \
         certificate ends, at {}.",
        view.namespace,
        view.secret,
        moment(owed.until, now)
    ));
    lines
}

/// All accounts.
pub(super) fn accounts(accounts: &[AccountReport]) -> String {
    let mut text = String::new();
    for account in accounts {
        let mut lines = vec![format!(
            "issuer {} at {}",
            account.issuer, account.directory
        )];
        lines.push(match &account.url {
            Some(url) => format!("  The account is {url}."),
            None => match &account.unreadable {
                Some(why) => format!("  What is kept of its account cannot be read: {why}."),
                None => "  No account is registered yet: the first order does.".to_owned(),
            },
        });
        if let Some(thumbprint) = &account.thumbprint {
            lines.push(format!("  Its key has the thumbprint {thumbprint}."));
        }
        if let Some(contact) = &account.contact {
            lines.push(format!("  The authority writes to {contact}."));
        }
        if account.rotating {
            lines.push(
                "  A change of its key has begun; the next order or `gatehouse account rotate` ends it."
                    .to_owned(),
            );
        }
        if let Some(refused) = &account.refused {
            let until = account.until.map_or_else(String::new, |until| {
                format!(" It is asked again at {}.", shown(until))
            });
            lines.push(format!("  The authority refuses it: {refused}.{until}"));
        }
        for line in lines {
            // Writing to a String cannot fail.
            writeln!(text, "{}", Printable(&line)).ok();
        }
    }
    text
}

fn status(status: Status) -> &'static str {
    match status {
        Status::Valid => "valid",
        Status::Ordering => "ordering",
        Status::Waiting => "waiting",
        Status::Refused => "refused",
        Status::Unwanted => "unwanted",
        Status::Pending => "pending",
        Status::Unusable => "unusable",
    }
}

fn names(view: &View) -> String {
    let names: Vec<String> = view.names.iter().map(ToString::to_string).collect();
    names.join(", ")
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

/// A moment, and how far it is away.
fn moment(time: Timestamp, now: Timestamp) -> String {
    let seconds = time.as_second() - now.as_second();
    let (count, unit) = match seconds.unsigned_abs() {
        far @ 172_800.. => (far / 86_400, "days"),
        far @ 7_200.. => (far / 3_600, "h"),
        far @ 120.. => (far / 60, "min"),
        near => (near, "s"),
    };
    if seconds < 0 {
        format!("{} ({count} {unit} ago)", shown(time))
    } else {
        format!("{} (in {count} {unit})", shown(time))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn view() -> View {
        let view = json!({
            "namespace": "shop\u{1b}[2J", "secret": "tls\nx", "status": "waiting", "phase": "Valid",
            "revision": 1, "names": [], "issuer": "main\u{1b}", "serial": null, "notBefore": null,
            "notAfter": null, "issuedAt": null, "renewAt": null, "renewReason": null, "window": null,
            "explanation": null, "order": null, "remarks": [], "failure": {"class": "outage", "scope": null,
            "count": 2, "words": "", "link": null, "nextAttempt": null},
        });
        serde_json::from_value(view).expect("a view")
    }

    #[test]
    fn a_name_has_no_hold_on_the_terminal_and_no_line_of_its_own() {
        let now = Timestamp::UNIX_EPOCH;
        for (text, lines) in [(table(&[view()]), 2), (sentences(&view(), now), 4)] {
            assert!(!text.contains('\u{1b}'), "{text:?}");
            assert!(text.contains("shop\\u{1b}[2J/tls\\nx"), "{text:?}");
            assert_eq!(text.lines().count(), lines, "{text}");
        }
    }

    #[test]
    fn failures_are_counted_in_words_for_any_number() {
        let text = sentences(&view(), Timestamp::UNIX_EPOCH);
        assert!(text.contains("failed, 2 times in a row: "), "{text}");
    }

    fn said(fields: &Value) -> String {
        let mut view = json!({
            "namespace": "shop", "secret": "tls", "status": "valid", "phase": "Valid", "revision": 1,
            "names": ["a.test"], "issuer": "main", "serial": "0a", "notAfter": "2026-04-01T00:00:00Z",
            "renewAt": "2026-03-01T00:00:00Z", "remarks": [],
        });
        for (name, value) in fields.as_object().expect("fields") {
            view[name] = value.clone();
        }
        let view: View = serde_json::from_value(view).expect("a view");
        sentences(&view, "2026-02-01T00:00:00Z".parse().expect("a time"))
    }

    #[test]
    fn a_revocation_that_is_owed_is_told_with_what_came_of_it_and_when_it_is_tried_again() {
        let owed = json!([{"serial": "0c", "reason": 1, "count": 3, "words": "no answer: refused",
            "nextAttempt": "2026-02-01T00:05:00Z", "until": "2026-04-01T00:00:00Z"}]);
        let text = said(&json!({ "revocations": owed }));
        for part in [
            "The revocation of 0c is owed",
            "asked 3 times",
            "no answer: refused",
            "2026-02-01T00:05:00Z (in 5 min)",
            "cert retry shop/tls",
            "2026-04-01T00:00:00Z",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn what_is_revoked_is_never_said_to_be_good() {
        let owed = json!([{"serial": "0a", "reason": 1, "count": 1, "words": "", "nextAttempt": null,
            "until": "2026-04-01T00:00:00Z"}]);
        for status in ["valid", "refused", "unwanted"] {
            let text = said(&json!({"status": status, "revoked": true}));
            assert!(text.contains("0a is revoked"), "{text}");
            assert!(
                !text.contains("is good") && !text.contains("is served until 2"),
                "{text}"
            );
            let text = said(&json!({"status": status, "revocations": owed}));
            assert!(!text.contains("is good"), "{text}");
        }
    }

    #[test]
    fn nothing_is_said_to_be_served_or_renewed_that_need_not_be() {
        let valid = said(&json!({}));
        assert!(
            valid.contains("is served until") && valid.contains("It is renewed"),
            "{valid}"
        );
        let shadowed = said(&json!({"shadowed": true}));
        assert!(shadowed.contains("is good until"), "{shadowed}");
        assert!(shadowed.contains("It is renewed"), "{shadowed}");
        for status in ["refused", "unwanted"] {
            let text = said(&json!({"status": status}));
            assert!(
                text.contains("is good until") && !text.contains("It is renewed"),
                "{text}"
            );
            let over = said(&json!({"status": status, "notAfter": "2026-01-01T00:00:00Z"}));
            assert!(!over.contains("served"), "{over}");
        }
        let unknown = said(&json!({"wanted": false}));
        assert!(
            unknown.contains("is served until") && !unknown.contains("It is renewed"),
            "{unknown}"
        );
        for part in ["not known here", "decides", "2026-03-01T00:00:00Z"] {
            assert!(unknown.contains(part), "{part}: {unknown}");
        }
        let none = said(&json!({"phase": "Planned", "serial": null, "notAfter": null}));
        assert!(none.contains("what its Secret holds is served"), "{none}");
    }
}
