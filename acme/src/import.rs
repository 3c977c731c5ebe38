//! Certificates that somebody else ordered: a chain and a key become a record.
//!
//! Pure. Invariant: a record is made only of a chain that is valid now and fits its key.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::leaf;
use crate::listing::listed;
use crate::names::Name;
use crate::plan::{Target, Wanted};
use crate::record::{Ari, Current, IMPORTED, Material, Phase, Record, State, set_of};
use crate::schedule::Reason;
use crate::secrets::Secret;

/// The record of a certificate for this target. The error says what is wrong with the files.
pub fn imported(
    target: &Target,
    chain: &str,
    key: &Secret,
    now: (Timestamp, u64),
) -> Result<Record, String> {
    made(target, chain, key, now).map_err(|(part, why)| {
        let (at, remedy) = match part {
            Part::Key(remedy) => ("the key (--key)", remedy),
            Part::Chain => (
                "the chain (--chain)",
                "write the certificate first and those that signed it below it, as PEM",
            ),
            Part::Both => (
                "the chain and the key (--chain, --key)",
                "import a certificate that is good now, before those that signed it, with its own key",
            ),
        };
        format!("{at}: {why}; {remedy}")
    })
}

/// What of a chain and a key is wrong.
enum Part {
    /// With what to do about it.
    Key(&'static str),
    Chain,
    Both,
}

fn made(
    target: &Target,
    chain: &str,
    key: &Secret,
    (now, epoch): (Timestamp, u64),
) -> Result<Record, (Part, String)> {
    let of = |part: Part| |why: String| (part, why);
    let key = leaf::single_key(key).map_err(|no| (Part::Key(no.remedy), no.why))?;
    let names = leaf::names_in(chain).map_err(of(Part::Chain))?;
    let life = leaf::check(chain, &key, &names, now).map_err(of(Part::Both))?;
    let kind = leaf::kind_of(chain).map_err(of(Part::Chain))?;
    let (renew_at, reason) = life.renewal(None);
    let current = Current {
        life,
        spec_hash: IMPORTED.to_owned(),
        names,
        issuer: String::new(),
        directory: String::new(),
        account: String::new(),
        key: kind,
        issued_at: now,
        renew_at,
        renew_reason: match reason {
            Reason::Backstop => Reason::Backstop,
            _ => Reason::Lifetime,
        },
        ari: Ari::default(),
        revoked: false,
    };
    let state = State {
        phase: Phase::Valid,
        rev: 1,
        current: Some(current),
        ..State::new(target, epoch)
    };
    Ok(Record {
        current: Some(Material {
            chain: leaf::certificates_only(chain).map_err(of(Part::Chain))?,
            key,
        }),
        ..Record::empty(state)
    })
}

/// The same of what lies where the certificate is wanted, in place of an order. Beside what an import
/// asks of it, it has to be good for the wish and for a while, and a certificate that a client trusts
/// can be: a placeholder would stand in the way of a real one for weeks.
pub(crate) fn handed_over(
    wanted: &Wanted,
    material: &Material,
    (now, epoch): (Timestamp, u64),
) -> Result<Record, String> {
    let made = made(&wanted.target, &material.chain, &material.key, (now, epoch));
    let mut record = made.map_err(|(part, why)| match part {
        Part::Key(_) => format!("its key cannot be used: {why}"),
        Part::Chain | Part::Both => why,
    })?;
    if let Some(current) = &record.state.current {
        fits(current, wanted)?;
        if current.renew_at <= now {
            return Err(format!(
                "it is good until {}, so its renewal was due at {}",
                current.life.not_after, current.renew_at
            ));
        }
    }
    if let Some(signer) = leaf::placeholder(&material.chain) {
        return Err(format!("it is signed by {signer}, which no client trusts"));
    }
    record.state.namespace_uid.clone_from(&wanted.namespace_uid);
    Ok(record)
}

/// Whether an imported certificate is good for what is wanted in its place.
pub(crate) fn fits(current: &Current, wanted: &Wanted) -> Result<(), String> {
    if current.covers(&wanted.names) {
        return Ok(());
    }
    Err(format!(
        "the certificate is for {}, and {} is wanted for {}: import one that has all of these names",
        set_of(&current.names),
        wanted.target,
        set_of(&wanted.names)
    ))
}

/// Chain and key for a host out of Traefik's `acme.json`: of several the one that is good longest. The
/// error says what there is instead.
pub fn in_acme_json(text: &str, host: &str) -> Result<(String, Secret), String> {
    let host = Name::parse(host).map_err(|error| error.to_string())?;
    let file: BTreeMap<String, Resolver> = serde_json::from_str(text).map_err(|error| {
        // The words of the parser may quote a key.
        let (line, column) = (error.line(), error.column());
        format!("it is no acme.json of Traefik 2 or 3: line {line}, column {column}")
    })?;
    let stored = file
        .values()
        .flat_map(|resolver| resolver.certificates.iter().flatten());
    let mut best: Option<(Timestamp, String, Secret)> = None;
    let mut others = BTreeSet::new();
    for each in stored {
        let chain = decoded(&each.certificate).ok_or("a certificate in it is no base64")?;
        let chain = String::from_utf8(chain).map_err(|_| "a certificate in it is no PEM")?;
        let names = leaf::names_in(&chain)?;
        if !names.iter().any(|name| name.covers(&host)) {
            others.extend(names.iter().map(ToString::to_string));
            continue;
        }
        let end = leaf::life_of(&chain)?.not_after;
        if best.as_ref().is_none_or(|(longest, ..)| *longest < end) {
            let key = decoded(&each.key).ok_or("a key in it is no base64")?;
            best = Some((end, chain, Secret::new(key)));
        }
    }
    let (_, chain, key) = best.ok_or_else(|| {
        let some = if others.is_empty() { "" } else { "some for " };
        let others = listed(&others);
        format!("no certificate in it is for {host}; there are {some}{others}")
    })?;
    Ok((chain, key))
}

/// What Traefik keeps of one authority.
#[derive(Deserialize)]
struct Resolver {
    #[serde(rename = "Certificates")]
    certificates: Option<Vec<Kept>>,
}

/// A certificate that Traefik keeps.
#[derive(Deserialize)]
struct Kept {
    certificate: String,
    key: Zeroizing<String>,
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text.trim()).ok()
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::issuers::KeyKind;
    use crate::schedule::later;

    fn target() -> Target {
        Target {
            namespace: "shop".into(),
            secret: "tls".into(),
        }
    }

    fn pair(name: &str) -> (String, Secret) {
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new([name.to_owned()]).expect("parameters");
        let certificate = params.self_signed(&key).expect("a certificate");
        (certificate.pem(), Secret::new(key.serialize_pem()))
    }

    #[test]
    fn a_pair_becomes_a_valid_record_and_anything_else_is_told() {
        let now = Timestamp::now();
        let (chain, key) = pair("a.example.org");
        let record = imported(&target(), &chain, &key, (now, 3)).expect("a record");
        let current = record.state.current.as_ref().expect("a certificate");
        assert_eq!(record.state.phase, Phase::Valid);
        assert_eq!(current.key, KeyKind::P256);
        assert!(current.is_imported());
        assert!(current.renew_at < current.life.not_after);
        let entries = record.to_entries().expect("entries");
        assert_eq!(Record::from_entries(&entries), Ok(record));

        let (_, other) = pair("a.example.org");
        let refused = imported(&target(), &chain, &other, (now, 3)).expect_err("another key");
        for part in ["--key", "is for another key", "with its own key"] {
            assert!(refused.contains(part), "{part}: {refused}");
        }
        let refused = imported(&target(), &chain, &Secret::new("x"), (now, 3)).expect_err("no key");
        assert!(
            refused.contains("--key") && refused.contains("PRIVATE KEY"),
            "{refused}"
        );
        let refused = imported(&target(), "x", &key, (now, 3)).expect_err("no chain");
        for part in ["--chain", "no block CERTIFICATE", "as PEM"] {
            assert!(refused.contains(part), "{part}: {refused}");
        }
        // As a certificate of an authority is, which stands first in a chain of the wrong order.
        let above = rcgen::CertificateParams::default()
            .self_signed(&rcgen::KeyPair::generate().expect("a key"));
        let above = above.expect("a certificate").pem();
        let refused = imported(&target(), &above, &key, (now, 3)).expect_err("no names");
        assert!(
            refused.contains("--chain") && refused.contains("the certificate first"),
            "{refused}"
        );
        let late = later(now, SignedDuration::from_hours(24 * 365 * 4000));
        let refused = imported(&target(), &chain, &key, (late, 3)).expect_err("over");
        assert!(
            refused.contains("valid from") && refused.contains("good now"),
            "{refused}"
        );
    }

    /// Good for the first quarter of 2026.
    fn signed_by(signer: &str) -> Material {
        let mut above = rcgen::CertificateParams::default();
        let name = &mut above.distinguished_name;
        name.push(rcgen::DnType::CommonName, signer);
        let issuer = rcgen::Issuer::new(above, rcgen::KeyPair::generate().expect("a key"));
        let key = rcgen::KeyPair::generate().expect("a key");
        let names = ["a.example.org".to_owned()];
        let mut params = rcgen::CertificateParams::new(names).expect("parameters");
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2026, 4, 1);
        let certificate = params.signed_by(&key, &issuer).expect("a certificate");
        Material {
            chain: certificate.pem(),
            key: Secret::new(key.serialize_pem()),
        }
    }

    #[test]
    fn what_is_handed_over_is_taken_if_it_spares_an_order_and_somebody_trusts_it() {
        let mut wanted = Wanted {
            target: target(),
            namespace_uid: "uid".into(),
            names: vec![Name::parse("a.example.org").expect("a name")],
            issuer: "main".into(),
            profile: None,
            key: KeyKind::P384,
            challenges: Vec::new(),
        };
        let taken = |wanted: &Wanted, material: &Material, day: &str| {
            let now = format!("2026-{day}T00:00:00Z").parse().expect("a time");
            handed_over(wanted, material, (now, 3)).map(|record| record.state.namespace_uid)
        };
        let good = signed_by("R10");
        let uid = taken(&wanted, &good, "01-20");
        assert_eq!(uid.as_deref(), Ok("uid"));
        let temporary = signed_by("cert-manager.local");
        let (chain, key) = pair("a.example.org");
        let own = Material { chain, key };
        for (material, day, why) in [
            (&good, "04-02", "valid from"),
            (&good, "03-10", "renewal was due"),
            (&temporary, "01-20", "temporary"),
            (&own, "01-20", "signed by itself"),
        ] {
            let refused = taken(&wanted, material, day).expect_err(why);
            assert!(refused.contains(why), "{why}: {refused}");
        }
        wanted.names = vec![Name::parse("b.example.org").expect("a name")];
        let refused = taken(&wanted, &good, "01-20").expect_err("another name");
        assert!(refused.contains("b.example.org"), "{refused}");
    }

    #[test]
    fn the_pair_for_a_host_is_found_among_those_of_traefik() {
        let ((chain, key), (other, foreign)) = (pair("a.example.org"), pair("b.example.org"));
        let kept = |chain: &str, key: &Secret| {
            let (chain, key) = (STANDARD.encode(chain), STANDARD.encode(key.expose()));
            format!(
                "{{\"domain\": {{}}, \"certificate\": \"{chain}\", \"key\": \"{key}\", \"Store\": \"\"}}"
            )
        };
        let file = format!(
            "{{\"le\": {{\"Account\": {{}}, \"Certificates\": [{}, {}]}}, \"none\": {{\"Certificates\": null}}}}",
            kept(&other, &foreign),
            kept(&chain, &key)
        );
        let (found, with) = in_acme_json(&file, "a.example.org").expect("a pair");
        assert_eq!((found, with), (chain, key));
        let missing = in_acme_json(&file, "c.example.org").expect_err("none");
        assert!(missing.contains("b.example.org"), "{missing}");
        assert!(
            missing.ends_with("; there are some for a.example.org, b.example.org"),
            "{missing}"
        );
        let bare = "{\"le\": {\"Certificates\": []}}";
        let missing = in_acme_json(bare, "c.example.org").expect_err("none");
        assert!(missing.ends_with("; there are none"), "{missing}");
        let many = (0..11).map(|each| {
            let (chain, key) = pair(&format!("n{each:02}.example.org"));
            kept(&chain, &key)
        });
        let many = many.collect::<Vec<_>>().join(", ");
        let many = format!("{{\"le\": {{\"Certificates\": [{many}]}}}}");
        let missing = in_acme_json(&many, "c.example.org").expect_err("none");
        assert!(missing.contains("for n00.example.org, n01"), "{missing}");
        assert!(missing.ends_with("n07.example.org and 3 more"), "{missing}");
        let broken = in_acme_json("{\"le\": 1}", "a.example.org").expect_err("no such file");
        assert!(broken.contains("acme.json"), "{broken}");
    }

    #[test]
    fn a_key_in_the_older_form_is_taken_as_it_is() {
        let now = Timestamp::now();
        let (chain, key) = pair("a.example.org");
        let pkcs8 = leaf::der(key.text().expect("PEM")).expect("DER");
        // The octet string at the end of PKCS#8 is the older form (RFC 5915), which CertMagic writes.
        let at = pkcs8
            .windows(4)
            .position(|part| part == [2, 1, 1, 4])
            .expect("a version");
        let older = Secret::new(leaf::pem("EC PRIVATE KEY", &pkcs8[at - 2..]));
        let record = imported(&target(), &chain, &older, (now, 1)).expect("a record");
        assert_eq!(record.current.expect("a certificate").key, older);
    }

    #[test]
    fn parameters_before_a_key_are_left_out() {
        let (_, key) = pair("a.example.org");
        let text = key.text().expect("PEM");
        let with = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
        let one = leaf::single_key(&Secret::new(format!("{with}{text}"))).expect("a key");
        assert!(
            one.text()
                .is_some_and(|text| text.starts_with("-----BEGIN PRIVATE KEY"))
        );
    }

    #[test]
    fn a_key_that_cannot_be_used_is_told_with_the_reason() {
        let now = Timestamp::now();
        let (chain, key) = pair("a.example.org");
        let text = key.text().expect("PEM");
        let locked = text.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        // What `openssl rsa -aes128 -traditional` writes.
        let head = "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,A392\n\n";
        let older = text.replace("-----BEGIN PRIVATE KEY-----\n", head);
        let short = STANDARD.decode(SHORT).expect("base64");
        // The octet string at the end of PKCS#8 is the older form (RFC 8017), its header has 26 bytes.
        let short = [
            leaf::pem("PRIVATE KEY", &short),
            leaf::pem("RSA PRIVATE KEY", &short[26..]),
        ];
        let decrypt = "decrypt it first, for instance with `openssl pkey -in F -out G`";
        let longer = "import a certificate whose key has at least 2048 bits";
        let broken = leaf::pem("PRIVATE KEY", b"broken");
        for (text, why, remedy) in [
            (&locked, "it is encrypted with a password", decrypt),
            (&older, "it is encrypted with a password", decrypt),
            (&short[0], "it is an RSA key of less than 2048 bits", longer),
            (&short[1], "it is an RSA key of less than 2048 bits", longer),
            (&broken, "it does not load", "give the private key"),
        ] {
            let key = Secret::new(text.clone());
            let refused = imported(&target(), &chain, &key, (now, 1)).expect_err(why);
            assert!(refused.starts_with("the key (--key): "), "{refused}");
            assert!(
                refused.contains(why) && refused.contains(remedy),
                "{refused}"
            );
            assert_eq!(refused.matches("; ").count(), 1, "one remedy: {refused}");
        }
    }

    /// An RSA key of 1024 bits that nobody uses, PKCS#8.
    const SHORT: &str = "\
        MIICeAIBADANBgkqhkiG9w0BAQEFAASCAmIwggJeAgEAAoGBANRfAfgyj6ePUuQDoB51l4MnU1ArYkGt8/GEurzOKyk9/c4LOcC2\
        JzEm7tY5kI4eG46mk8keDEMrc3ZRU83t2ltwupTHd3NjPcvOjIe6kutvVXb1o/x9C7YkZ0B7g4YcD4DnIaCDbN47yTxYYPHovx6S\
        VbC+wZuBRU708/bq9G6HAgMBAAECgYEAkNsVHtRuBB7QrVKDvwL6i60hOMe+x4n9oLmmHe6KpiDwo8AobnhQl0g1FM5C+Y0zwsOA\
        fmgOeSqEISor/YTFsOcpZuBGz07XQ0OwnT+WN4vftCSbfX5Fvi9ef9robbVufuQp0GctS6tPnyDzo08lylo/d+d9WB7wOuVVoMOV\
        TwECQQDvlksjzqVKWVaWmwe10Xp/izwTYSzpCOURQio2XWQZCIhDOKAS/6vUWPJrePsQPtdvuWVVGCjnGj5sCTEYO6tHAkEA4utr\
        kRhJHHZx+MEgQ95Agp5ISGUjBOns46d6wZRb6SQPxdfdJRYZQocUN1DgwjS+e1TStX09KHFytNPI5bBCwQJBALWRDoyqVDVOEwK7\
        plIx2EXEPNjq8eAAr6gunlLo36zg/HME/LqpK40Xg0/TNWEQXq/6rkKYtpa9GsVBCgW1Yo0CQBwa1l7JKDz7OpB5svpU656B5if5\
        RsYUBwAHPT/+lQeiLMXvP3eZbhV8T3eub7f9+l2iGtrZoRqCOpfE50vzccECQQDlepcDwfru4RlvGeTp7mmYL935R4m0aUBMPdrw\
        XcLfU4OlT800uSQmKIsDXQPGr5PEj/h9ztuBday9p+Ka4CLU";
}
