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
