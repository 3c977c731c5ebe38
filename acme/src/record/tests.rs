//! What is stored, and what of it older programs wrote.

use super::*;

fn wanted() -> Wanted {
    Wanted {
        target: Target {
            namespace: "shop".into(),
            secret: "tls".into(),
        },
        namespace_uid: "uid".into(),
        names: vec![Name::parse("a.example.org").expect("a name")],
        issuer: "main".into(),
        profile: None,
        key: KeyKind::P256,
        challenges: vec![ChallengeKind::Http01],
    }
}

#[test]
fn what_is_written_is_read_and_no_key_is_printed() {
    let mut record = Record::new(&wanted(), 3);
    let key = leaf::generate(KeyKind::P256).expect("a key");
    let csr = leaf::csr(&key, &wanted().names).expect("a CSR");
    let material = Material {
        chain: "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n".into(),
        key: key.clone(),
    };
    record.next = Some(Next {
        key: key.clone(),
        csr,
    });
    record.current = Some(material.clone());
    record.previous = Some(material);
    let entries = record.to_entries().expect("entries");
    assert_eq!(Record::from_entries(&entries), Ok(record.clone()));
    let text = key.text().expect("PEM");
    let line = text.lines().nth(1).expect("a line of the key");
    for shown in [format!("{record:?}"), format!("{entries:?}")] {
        assert!(!shown.contains("PRIVATE KEY"), "{shown}");
        assert!(!shown.contains(line), "{shown}");
    }
}

#[test]
fn a_record_of_a_newer_program_is_left_alone() {
    let mut record = Record::new(&wanted(), 3);
    record.state.v = 2;
    let entries = record.to_entries().expect("entries");
    assert!(
        Record::from_entries(&entries)
            .expect_err("newer")
            .contains("version 2")
    );
}

#[test]
fn a_revocation_that_is_owed_is_read_as_it_was_written_also_before_its_first_try() {
    let text = r#"{"issuer": "main", "directory": "https://ca.test/", "serial": "0a",
        "certificate": "MAA", "reason": 1, "notAfter": "2027-02-19T00:00:00Z"}"#;
    let owed: Revocation = serde_json::from_str(text).expect("as a crash leaves it");
    assert_eq!(owed.der(), Some(vec![0x30, 0]));
    let now = "2026-11-28T00:00:00Z".parse().expect("a time");
    assert_eq!(owed.due(now), now, "at once");
    let mut record = Record::new(&wanted(), 3);
    record.state.revocations.push(Revocation {
        tries: 2,
        since: Some(now),
        next: Some("2026-11-28T00:05:00Z".parse().expect("a time")),
        detail: Some("no answer".to_owned()),
        ..owed
    });
    let entries = record.to_entries().expect("entries");
    assert_eq!(Record::from_entries(&entries), Ok(record.clone()));
    // What takes its place, as an import does, owes the same.
    let mut other = Record::new(&wanted(), 3);
    other.take_place_of(&record);
    assert_eq!(other.state.revocations, record.state.revocations);
}

#[test]
fn a_revocation_is_due_when_its_wait_is_over_or_the_clock_was_ahead_or_the_certificate_ends() {
    let at = |text: &str| text.parse::<Timestamp>().expect("a time");
    let now = at("2026-11-28T00:00:00Z");
    let owed = |since: &str, next: &str, end: &str| Revocation {
        issuer: "main".into(),
        directory: "https://ca.test/".into(),
        serial: "0a".into(),
        certificate: "MAA".into(),
        reason: 1,
        not_after: at(end),
        tries: 1,
        since: Some(at(since)),
        next: Some(at(next)),
        detail: None,
    };
    let (before, soon) = ("2026-11-27T23:59:00Z", "2026-11-28T00:04:00Z");
    let far = "2027-02-19T00:00:00Z";
    assert_eq!(owed(before, soon, far).due(now), at(soon));
    assert_eq!(owed(before, before, far).due(now), now);
    assert_eq!(owed(far, far, far).due(now), now, "noted by another clock");
    let end = "2026-11-28T00:01:00Z";
    assert_eq!(owed(before, soon, end).due(now), at(end));
}

#[test]
fn another_order_of_challenges_is_no_other_certificate() {
    let (one, mut two) = (wanted(), wanted());
    two.challenges = vec![ChallengeKind::Dns01];
    assert_eq!(one.hash(), two.hash());
    two.key = KeyKind::P384;
    assert_ne!(one.hash(), two.hash());
}

#[test]
fn issues_that_an_older_program_noted_count_for_the_names_of_the_current_certificate() {
    let text = r#"{"v": 1, "rev": 3, "phase": "Valid", "epoch": 1, "namespaceUid": "uid",
        "target": {"namespace": "shop", "secret": "tls"},
        "issued": ["2026-11-20T00:00:00Z", "2026-11-21T00:00:00Z"],
        "current": {"life": {"certId": "a.b", "notBefore": "2026-11-21T00:00:00Z",
            "notAfter": "2027-02-19T00:00:00Z"}, "specHash": "x", "names": [NAME],
            "issuer": "main", "directory": "https://ca.test/", "account": "", "key": "p256",
            "issuedAt": "2026-11-21T00:00:00Z", "renewAt": "2027-01-20T00:00:00Z",
            "renewReason": "lifetime"}}"#;
    let own = wanted().names;
    let name = serde_json::to_string(&own[0]).expect("JSON");
    let key = serde_json::to_string(&KeyKind::P256).expect("JSON");
    let text = text.replace("NAME", &name).replace("\"p256\"", &key);
    let mut state: State = serde_json::from_str(&text).expect("a state of an older program");
    let other = vec![Name::parse("b.example.org").expect("a name")];
    let at = state.issued[1];
    for (names, set) in [(&own, 3), (&other, 1)] {
        state.issues.push(Issue {
            at,
            issuer: "main".to_owned(),
            set: mark_of(names),
        });
        assert_eq!(state.issued_for("main", names).len(), set);
        assert!(state.issued_for("second", names).is_empty());
    }
    let again = serde_json::to_string(&state).expect("JSON");
    assert_eq!(serde_json::from_str::<State>(&again).expect("read"), state);
}
