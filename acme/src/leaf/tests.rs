//! Chains that are accepted, and each thing that makes one refused.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use super::*;

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

fn authority(name: &str) -> Authority {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    let pem = params.self_signed(&key).expect("a root").pem();
    Authority {
        pem,
        issuer: Issuer::new(params, key),
    }
}

fn leaf(authority: &Authority, key: &Secret, names: &[&str], years: (i32, i32)) -> String {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names");
    params.not_before = rcgen::date_time_ymd(years.0, 1, 1);
    params.not_after = rcgen::date_time_ymd(years.1, 1, 1);
    params.use_authority_key_identifier_extension = true;
    signed(authority, key, &params)
}

fn signed(authority: &Authority, key: &Secret, params: &CertificateParams) -> String {
    let pair = pair(key).expect("a pair");
    params
        .signed_by(&pair, &authority.issuer)
        .expect("a leaf")
        .pem()
}

fn names(texts: &[&str]) -> Vec<Name> {
    texts
        .iter()
        .map(|text| Name::parse(text).expect("a name"))
        .collect()
}

fn now() -> Timestamp {
    "2026-06-01T00:00:00Z".parse().expect("a time")
}

#[test]
fn a_serial_number_is_shown_as_authorities_and_tools_show_it() {
    let key = generate(KeyKind::P256).expect("a key");
    let root = authority("root");
    // In DER, the first of them begins with one more byte, which is zero.
    for serial in ["e14f492369d4ec", "742aba14eb165411"] {
        let mut params = CertificateParams::new(vec!["a.example.org".to_owned()]).expect("names");
        let digits = serial.as_bytes().chunks(2);
        let text = |pair| std::str::from_utf8(pair).expect("digits");
        let bytes: Vec<u8> = digits
            .map(|pair| u8::from_str_radix(text(pair), 16).expect("a byte"))
            .collect();
        params.serial_number = Some(rcgen::SerialNumber::from_slice(&bytes));
        let shown = serial_of(&signed(&root, &key, &params)).expect("a serial number");
        assert_eq!(shown, serial);
    }
}

#[test]
fn a_chain_for_our_key_and_names_is_accepted_and_has_an_identifier() {
    let key = generate(KeyKind::P256).expect("a key");
    let root = authority("root");
    let chain = leaf(&root, &key, &["a.example.org", "192.0.2.1"], (2026, 2027)) + &root.pem;
    let life = check(&chain, &key, &names(&["192.0.2.1", "a.example.org"]), now()).expect("good");
    assert_eq!(
        life.not_after,
        "2027-01-01T00:00:00Z".parse().expect("a time")
    );
    let (authority, serial) = life.cert_id.split_once('.').expect("two parts");
    assert!(
        authority.len() > 10 && serial.len() > 10,
        "{}",
        life.cert_id
    );
    assert_eq!(root_of(&chain).as_deref(), Some("root"));
}

#[test]
fn case_54_a_wrong_key_name_date_or_signer_is_refused_with_the_reason() {
    let (key, other) = (
        generate(KeyKind::P256).expect("a key"),
        generate(KeyKind::P384).expect("a key"),
    );
    let (root, stranger) = (authority("root"), authority("stranger"));
    let impostor = authority("root");
    let host = ["a.example.org"];
    let good = leaf(&root, &key, &host, (2026, 2027));
    for (chain, reason) in [
        (leaf(&root, &other, &host, (2026, 2027)), "for another key"),
        (
            leaf(&root, &key, &["b.example.org"], (2026, 2027)),
            "is for b.example.org",
        ),
        (
            leaf(
                &root,
                &key,
                &["a.example.org", "b.example.org"],
                (2026, 2027),
            ),
            "is for",
        ),
        (leaf(&root, &key, &host, (2024, 2025)), "is valid from"),
        (leaf(&root, &key, &host, (2027, 2028)), "is valid from"),
        (good.clone() + &stranger.pem, "does not fit"),
        (good.clone() + &impostor.pem, "is not signed by"),
        (String::new(), "no block CERTIFICATE"),
        (good.replace("CERTIFICATE", "PRIVATE KEY"), "holds a"),
        (
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".into(),
            "does not parse",
        ),
    ] {
        let refused = check(&chain, &key, &names(&host), now()).expect_err(reason);
        assert!(refused.contains(reason), "{refused}");
    }
}

#[test]
fn case_62_every_kind_of_key_makes_a_request_with_exactly_the_names() {
    for kind in [KeyKind::P256, KeyKind::P384, KeyKind::Rsa2048] {
        let key = generate(kind).expect("a key");
        let der = csr(&key, &names(&["*.example.org", "2001:db8::1"])).expect("a CSR");
        let (_, request) =
            x509_parser::certification_request::X509CertificationRequest::from_der(&der)
                .expect("parses");
        request.verify_signature().expect("signed by its key");
        assert_eq!(request.certification_request_info.subject.iter().count(), 0);
        assert_ne!(key, generate(kind).expect("another"), "a new key each time");
    }
}

#[test]
fn a_clock_that_orders_also_takes_what_it_ordered_and_a_life_without_end_ends_late() {
    let key = generate(KeyKind::P256).expect("a key");
    let root = authority("root");
    let chain = leaf(&root, &key, &["a.example.org"], (2026, 2027)) + &root.pem;
    let wanted = names(&["a.example.org"]);
    let begin: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
    let behind = |minutes| crate::schedule::earlier(begin, SignedDuration::from_mins(minutes));
    check(&chain, &key, &wanted, behind(59)).expect("as far as it may be behind");
    let why = check(&chain, &key, &wanted, behind(70)).expect_err("further");
    assert!(why.contains("valid from"), "{why}");

    let mut params = CertificateParams::new(["a.example.org".to_owned()]).expect("names");
    params.not_after = rcgen::date_time_ymd(9999, 12, 31);
    let endless = params.self_signed(&pair(&key).expect("a pair"));
    let endless = endless.expect("a certificate").pem();
    let life = check(&endless, &key, &wanted, now()).expect("good");
    assert!(
        life.not_after <= Timestamp::MAX && life.length() > SignedDuration::from_hours(60_000_000)
    );
    life.renewal(None);
}

#[test]
fn a_stand_in_is_a_pair_as_large_as_most_and_never_taken_for_a_certificate() {
    let pair = stand_in().expect("a pair");
    let names = names_in(&pair.chain).expect("names");
    let now = life_of(&pair.chain).expect("dates").not_before;
    check(&pair.chain, &pair.key, &names, later(now, TOLERANCE)).expect("key and chain fit");
    assert_eq!(placeholder(&pair.chain).as_deref(), Some("itself"));
    let size = pair.chain.len() + pair.key.expose().len();
    assert!((12_000..24_000).contains(&size), "{size} bytes");
}
