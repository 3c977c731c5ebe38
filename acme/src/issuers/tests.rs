//! What is read, what is refused, and with which words.

use super::*;

const FULL: &str = r#"
acme:
  issuers:
    letsencrypt:
      directory: https://acme-v02.api.letsencrypt.org/directory
      testDirectory: https://acme-staging-v02.api.letsencrypt.org/directory
      acceptTerms: true
      contact: ops@example.org
      profile: tlsserver
      challenges: [http-01, tls-alpn-01]
      dns: [{zones: [example.org], provider: exec, command: /bin/dns, secret: dns-key}]
      allow: [{namespaces: {matchLabels: {team: web}}, hosts: ["*.example.org", "example.org"]}]
      fallback: [corp]
    corp:
      directory: https://ca.corp.example/acme
      acceptTerms: true
      caBundle: corp-root
      eab: {kid: k1, secret: corp-eab}
  default: letsencrypt
  unlisted: deny
"#;

fn minimal(extra: &str) -> Result<Issuers, Vec<String>> {
    Issuers::parse(&format!(
        "acme:\n  issuers:\n    a:\n      directory: https://ca.example/dir\n      \
         acceptTerms: true\n{extra}"
    ))
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    pairs.iter().map(own).collect()
}

#[test]
fn the_documented_shape_is_read() {
    let issuers = Issuers::parse(FULL).expect("valid");
    let first = &issuers.issuers["letsencrypt"];
    assert_eq!(
        first.challenges,
        [ChallengeKind::Http01, ChallengeKind::TlsAlpn01]
    );
    assert_eq!(first.key, KeyKind::P256);
    assert_eq!(issuers.issuers["corp"].challenges.len(), 3);
}

#[test]
fn every_mistake_is_a_sentence_that_names_its_field() {
    let cases = [
        ("      insecur: true\n", "insecur"),
        ("  default: b\n", "acme.default: there is no issuer \"b\""),
        ("      fallback: [a]\n", "acme.issuers.a.fallback"),
        ("      challenges: []\n", "acme.issuers.a.challenges"),
        ("      challenges: [dns-01]\n", "acme.issuers.a.dns"),
        ("      contact: mailto:a@b.c\n", "acme.issuers.a.contact"),
        (
            "      limits: {ordersPerMinute: 0}\n",
            "acme.issuers.a.limits",
        ),
        ("      testDirectory: http://ca.example/\n", "not https"),
        (
            "      allow: [{hosts: [\"a.*.b\"]}]\n",
            "acme.issuers.a.allow",
        ),
        ("      key: rsa1024\n", "rsa1024"),
    ];
    for (extra, expected) in cases {
        let found = minimal(extra).expect_err(extra).join("\n");
        assert!(found.contains(expected), "{extra}: {found}");
    }
    let none = Issuers {
        default: Some("b".into()),
        ..Issuers::default()
    };
    let found = none.complaints().join("\n");
    assert!(found.contains("no issuer \"b\"; there are none"), "{found}");
    let found = Issuers::parse("acme:\n  issuers:\n    a: {directory: https://a/}\n");
    assert!(found.expect_err("terms")[0].contains("acceptTerms"));
}

#[test]
fn what_can_work_nowhere_is_refused_with_its_field_and_what_to_write() {
    let dns = |fields: &str| format!("      dns: [{{zones: [example.org], {fields}}}]\n");
    let at = "acme.issuers.a.dns[0]";
    for (extra, field, remedy) in [
        (
            "      caBundle: ../../etc\n".to_owned(),
            "acme.issuers.a.caBundle",
            "without a path",
        ),
        (
            "      caBundle: /etc/roots\n".to_owned(),
            "acme.issuers.a.caBundle",
            "without a path",
        ),
        (
            "      eab: {kid: k, secret: ..}\n".to_owned(),
            "acme.issuers.a.eab.secret",
            "without a path",
        ),
        (
            "      contact: a@b c,d@e\n".to_owned(),
            "acme.issuers.a.contact",
            "one e-mail address",
        ),
        (
            dns("provider: rfc2136, secret: key"),
            &format!("{at}.server"),
            "192.0.2.1:53",
        ),
        (
            dns("provider: exec"),
            &format!("{at}.command"),
            "the whole path",
        ),
        (
            dns("provider: exec, command: dns"),
            &format!("{at}.command"),
            "with /",
        ),
        (
            dns("provider: httpreq"),
            &format!("{at}.url"),
            "where the server is",
        ),
        (
            dns("provider: cloudflare"),
            &format!("{at}.secret"),
            "credentials",
        ),
        (
            dns("provider: cloudflare, secret: a/b"),
            &format!("{at}.secret"),
            "without a path",
        ),
        (
            dns("provider: httpreq, url: 'https://u:geheim@x/'"),
            &format!("{at}.url"),
            "leave them out",
        ),
        (
            "      dns: [{zones: ['*.example.org'], provider: exec, command: /x}]\n".to_owned(),
            &format!("{at}.zones"),
            "example.org",
        ),
    ] {
        let found = minimal(&extra).expect_err(&extra).join("\n");
        for part in [field, remedy] {
            assert!(found.contains(part), "{extra}: {found}");
        }
        assert!(!found.contains("geheim"), "{found}");
    }
}

#[test]
fn a_url_that_leads_nowhere_or_holds_a_password_is_refused() {
    for (url, said) in [
        ("https:///dir", "names no host"),
        ("https://[::1", "brackets"),
        ("https://[x]/dir", "brackets"),
        ("https://localhost:99999", "1 to 65535"),
        ("https://localhost:/dir", "1 to 65535"),
        ("https://localhost:0/dir", "1 to 65535"),
        ("https://u:geheim@ca.example/dir", "leave them out"),
        ("https://u:geh eim@ca.example/dir", "leave them out"),
        ("u:geheim@ca.example", "leave them out"),
        ("https://ca.example/dir#new", "never sent"),
        ("https://", "names no host"),
        ("https://:443/dir", "names no host"),
        ("https://?dir", "https URL"),
        ("https://ca.example/a b", "https URL"),
        ("https://c\u{e4}.example/dir", "https URL"),
        ("https://ca.example/c\u{e4}", "https URL"),
        ("ca.example", "https URL"),
        ("/dir", "https URL"),
        ("", "https URL"),
        ("ftp://ca.example/dir", "https URL"),
    ] {
        let why = checks::directory(url, false).expect_err(url);
        assert!(why.contains(said) && !why.contains("geh"), "{url}: {why}");
    }
    for url in ["https://[2001:db8::1]:8443/dir", "https://ca.example/a@b"] {
        checks::directory(url, false).expect(url);
    }
}

#[test]
fn a_wrong_shape_is_told_by_its_field_with_what_to_write() {
    for (extra, field, remedy) in [
        (
            "      insecure: maybe\n",
            "acme.issuers.a.insecure: ",
            "true or false",
        ),
        (
            "      challenges: http-01\n",
            "acme.issuers.a.challenges: ",
            "write a list",
        ),
        (
            "      limits: {ordersPerMinute: -1}\n",
            "acme.issuers.a.limits: ",
            "a whole number",
        ),
        (
            "      takesOver: [x]\n",
            "acme.issuers.a.takesOver: ",
            "leave it out",
        ),
        (
            "      allow: [{namespaces: [web], hosts: [a.test]}]\n",
            "acme.issuers.a.allow[0].namespaces: ",
            "write {names: [one, two]}, {matchLabels: {team: web}}, or both",
        ),
        (
            "      allow: [{hosts: [a.test]}, {namespaces: {names: web}, hosts: [a.test]}]\n",
            "acme.issuers.a.allow[1].namespaces: ",
            "write {names: [one, two]}",
        ),
        (
            "      allow: [{host: a.test}]\n",
            "acme.issuers.a.allow[0].hosts is missing",
            "write a list",
        ),
        ("  unlisted: maybe\n", "acme.unlisted: ", "one of those"),
    ] {
        let found = minimal(extra).expect_err(extra).join("\n");
        for part in [field, remedy] {
            assert!(found.contains(part), "{extra}: {found}");
        }
    }
    let terms = "acme:\n  issuers:\n    a: {directory: https://a/, acceptTerms: maybe}\n";
    let found = Issuers::parse(terms).expect_err("a text");
    assert!(
        found[0].starts_with("acme.issuers.a.acceptTerms: "),
        "{found:?}"
    );
    let twice = minimal("      directory: https://b/\n")
        .expect_err("twice")
        .join("\n");
    for part in ["directory", "twice", "line"] {
        assert!(twice.contains(part), "{part}: {twice}");
    }
    assert!(!twice.contains("Options"), "{twice}");
    let two = minimal("---\nacme: {}\n").expect_err("two").join("\n");
    assert!(
        two.contains("keep one") && !two.contains("from_str"),
        "{two}"
    );
    let found = Issuers::parse("acme: [").expect_err("no YAML").join("\n");
    assert!(
        found.contains("line") && found.contains("mend it"),
        "{found}"
    );
}

#[test]
fn a_zone_is_the_same_however_it_is_written() {
    let dns = "      dns: [{zones: [Example.test.], provider: exec, command: /bin/dns}]\n";
    let issuers = minimal(dns).expect("valid");
    assert_eq!(issuers.issuers["a"].dns[0].fits("a.example.test"), Some(12));
}

#[test]
fn plain_http_is_for_this_machine_and_on_purpose() {
    for (url, insecure, good) in [
        ("http://127.0.0.1:14000/dir", true, true),
        ("http://[::1]:14000/dir", true, true),
        ("http://localhost/dir", true, true),
        ("http://localhost/dir", false, false),
        ("http://localhost.example/dir", true, false),
        ("https://", false, false),
        ("ftp://ca/", true, false),
    ] {
        assert_eq!(
            checks::directory(url, insecure).is_ok(),
            good,
            "{url} {insecure}"
        );
    }
}

#[test]
fn who_may_have_which_host_is_decided_by_allow() {
    let issuers = Issuers::parse(FULL).expect("valid");
    let (web, none) = (labels(&[("team", "web"), ("x", "y")]), labels(&[]));
    let listed = &issuers.issuers["letsencrypt"];
    let asked = |labels: &BTreeMap<String, String>, host: &str| {
        let name = Name::parse(host).expect(host);
        issuers.allows(listed, "shop", labels, &name)
    };
    for host in [
        "example.org",
        "a.example.org",
        "a.b.example.org",
        "*.example.org",
        "*.b.example.org",
    ] {
        assert!(asked(&web, host), "{host}");
        assert!(!asked(&none, host), "{host} without the label");
    }
    for host in ["badexample.org", "example.com", "192.0.2.1"] {
        assert!(!asked(&web, host), "{host}");
    }
    let unlisted = &issuers.issuers["corp"];
    let name = Name::parse("a.corp.example").expect("a name");
    assert!(!issuers.allows(unlisted, "shop", &web, &name));
}

fn fits(pattern: &str, name: &Name) -> bool {
    Pattern::parse(pattern).expect(pattern).fits(name)
}

#[test]
fn one_label_is_enough_where_nobody_can_register_names() {
    let name = |text: &str| Name::parse(text).expect(text);
    assert!(fits("*.localhost", &name("shop.localhost")));
    assert!(fits("*.Test.", &name("a.shop.test")));
    assert!(fits("*.internal", &name("*.shop.internal")));
    assert!(!fits("*.localhost", &name("localhost.org")));
    let found = minimal("      allow: [{hosts: ['*.org']}]\n").expect_err("everything");
    for part in ["acme.issuers.a.allow", "*.name.org", "localhost"] {
        assert!(found[0].contains(part), "{found:?}");
    }
}

#[test]
fn a_wildcard_needs_a_wildcard_and_addresses_a_network() {
    let name = |text: &str| Name::parse(text).expect(text);
    assert!(!fits("example.org", &name("*.example.org")));
    assert!(!fits("a.example.org", &name("*.a.example.org")));
    assert!(fits("*.example.org", &name("*.example.org")));
    assert!(!fits("*.a.example.org", &name("*.example.org")));
    assert!(fits("10.0.0.0/8", &name("10.1.2.3")));
    assert!(!fits("10.0.0.0/8", &name("11.1.2.3")));
    assert!(fits("0.0.0.0/0", &name("11.1.2.3")));
    assert!(fits("2001:db8::/32", &name("2001:db8::1")));
    assert!(fits("192.0.2.1", &name("192.0.2.1")));
    assert!(fits("*", &name("192.0.2.1")));
}
