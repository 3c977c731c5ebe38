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
