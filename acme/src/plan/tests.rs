//! Requests in, certificates and findings out; names of tests carry the case of the test plan where
//! there is one.

use proptest::prelude::*;

use super::*;

mod cover;

fn issuers() -> Issuers {
    Issuers::parse(
        r#"
acme:
  issuers:
    main:
      directory: https://ca.example/dir
      acceptTerms: true
      dns: [{zones: [example.org], provider: exec, command: /bin/dns}]
    narrow:
      directory: https://ca.example/dir
      acceptTerms: true
      allow: [{namespaces: {names: [shop]}, hosts: ["*.example.org"]}]
  default: main
  unlisted: allow
"#,
    )
    .expect("valid")
}

fn request(age: i64, object: &str, secret: &str, hosts: &[&str]) -> Request {
    let (namespace, _) = object.split_once('/').expect("namespace/name");
    let target = Target {
        namespace: namespace.into(),
        secret: secret.into(),
    };
    let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
    Request {
        since: Timestamp::from_second(1_000 + age).expect("a time"),
        namespace_uid: format!("uid-{namespace}"),
        ..Request::new(format!("Ingress {object}"), target, hosts)
    }
}

/// With nothing there yet.
fn plan(issuers: &Issuers, requests: &[Request]) -> Plan {
    super::plan(issuers, requests, (&Stocks::new(), noon()))
}

fn noon() -> Timestamp {
    Timestamp::from_second(1_000_000).expect("a time")
}

fn names(wanted: &Wanted) -> Vec<String> {
    wanted.names.iter().map(ToString::to_string).collect()
}

fn codes(plan: &Plan) -> Vec<Code> {
    plan.findings.iter().map(|finding| finding.code).collect()
}

#[test]
fn an_unknown_issuer_is_told_with_at_most_eight_of_those_that_there_are() {
    let mut asked = request(0, "shop/web", "tls", &["a.example.org"]);
    asked.issuer = Some("other".into());
    let said = |count: usize| {
        let mut issuers = issuers();
        let spec = issuers.issuers["main"].clone();
        let named = (1..=count).map(|each| (format!("ca{each:02}"), spec.clone()));
        issuers.issuers = named.collect();
        let plan = plan(&issuers, std::slice::from_ref(&asked));
        plan.findings[0].message.clone()
    };
    assert_eq!(said(0), "no issuer \"other\"; there are none");
    assert_eq!(said(2), "no issuer \"other\"; there are ca01, ca02");
    let eight = "no issuer \"other\"; there are ca01, ca02, ca03, ca04, ca05, ca06, ca07, ca08";
    assert_eq!(said(8), eight);
    assert_eq!(said(11), format!("{eight} and 3 more"));
}

#[test]
fn case_16_a_name_below_a_wildcard_of_the_same_block_is_dropped() {
    let hosts = [
        "*.example.org",
        "a.example.org",
        "A.Example.org.",
        "example.org",
    ];
    let plan = plan(&issuers(), &[request(0, "shop/web", "tls", &hosts)]);
    assert_eq!(names(&plan.wanted[0]), ["*.example.org", "example.org"]);
    assert_eq!(plan.findings, []);
}

#[test]
fn case_46_order_and_case_of_hosts_want_the_same_certificate() {
    let one = plan(
        &issuers(),
        &[request(
            0,
            "shop/web",
            "tls",
            &["a.example.org", "b.example.org"],
        )],
    );
    let two = plan(
        &issuers(),
        &[request(
            0,
            "shop/web",
            "tls",
            &["B.example.org", "a.example.org"],
        )],
    );
    assert_eq!(one, two);
}

#[test]
fn case_47_of_two_objects_with_one_secret_the_oldest_decides() {
    let older = request(0, "shop/web", "tls", &["a.example.org"]);
    let younger = request(1, "shop/api", "tls", &["b.example.org"]);
    for requests in [[older.clone(), younger.clone()], [younger, older]] {
        let plan = plan(&issuers(), &requests);
        assert_eq!(names(&plan.wanted[0]), ["a.example.org"]);
        assert_eq!(plan.wanted.len(), 1);
        assert_eq!(codes(&plan), [Code::ConflictingTls]);
        let finding = &plan.findings[0];
        assert_eq!(finding.object, "Ingress shop/api");
        let why = "Ingress shop/web is older, and wants other hosts in Secret tls";
        assert!(finding.message.starts_with(why), "{}", finding.message);
    }
}

#[test]
fn of_two_equally_old_objects_with_one_secret_the_greater_name_decides() {
    let smaller = request(0, "shop/a", "tls", &["a.example.org"]);
    let greater = request(0, "shop/z", "tls", &["z.example.org"]);
    let plan = plan(&issuers(), &[smaller, greater]);
    assert_eq!(names(&plan.wanted[0]), ["z.example.org"], "as in routing");
    let finding = &plan.findings[0];
    assert_eq!(finding.object, "Ingress shop/a");
    let why =
        "Ingress shop/z is as old and has the greater name, and wants other hosts in Secret tls";
    assert!(finding.message.starts_with(why), "{}", finding.message);
}

#[test]
fn two_entries_of_one_object_with_one_secret_are_not_told_of_their_age() {
    let entry = |host| request(0, "shop/web", "tls", &[host]);
    let plan = plan(
        &issuers(),
        &[entry("a.example.org"), entry("b.example.org")],
    );
    assert_eq!(names(&plan.wanted[0]), ["a.example.org"]);
    let why = "Ingress shop/web has an entry that goes first, and wants other hosts in Secret tls";
    assert!(plan.findings[0].message.starts_with(why), "{plan:?}");
}

#[test]
fn two_objects_that_want_the_same_share_it_without_a_finding() {
    let requests = [
        request(0, "shop/web", "tls", &["a.example.org"]),
        request(1, "shop/api", "tls", &["A.example.org"]),
    ];
    let plan = plan(&issuers(), &requests);
    assert_eq!((plan.wanted.len(), plan.findings.len()), (1, 0));
}

#[test]
fn case_48_hosts_of_others_and_outside_allow_are_not_wanted() {
    let mut outside = request(2, "shop/out", "out", &["a.example.com"]);
    outside.issuer = Some("narrow".into());
    let mut thief = request(1, "thief/web", "tls", &["A.example.org", "own.example.org"]);
    let whose = "a.example.org belongs to namespace shop".to_owned();
    thief.elsewhere = [(Name::parse("a.example.org").expect("a name"), whose)].into();
    let requests = [
        request(0, "shop/web", "tls", &["a.example.org"]),
        thief,
        outside,
    ];
    let plan = plan(&issuers(), &requests);
    assert_eq!(plan.wanted.len(), 1);
    assert_eq!(codes(&plan), [Code::NotAllowed, Code::NotAllowed]);
    assert!(
        plan.findings[0]
            .message
            .contains("acme.issuers.narrow.allow")
    );
    assert!(
        plan.findings[1]
            .message
            .contains("belongs to namespace shop")
    );
}

#[test]
fn case_17_too_many_names_are_a_sentence_with_the_numbers() {
    let hosts: Vec<String> = (0..101).map(|n| format!("h{n}.example.org")).collect();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let mut short = request(0, "shop/short", "short", &hosts[..26]);
    short.profile = Some("tlsserver".into());
    let requests = [
        request(0, "shop/web", "tls", &hosts),
        short,
        request(0, "shop/fits", "fits", &hosts[..100]),
    ];
    let plan = plan(&issuers(), &requests);
    assert_eq!(plan.wanted.len(), 1);
    assert_eq!(codes(&plan), [Code::TooManyNames, Code::TooManyNames]);
    assert!(
        plan.findings[0].message.contains("26"),
        "{:?}",
        plan.findings
    );
    assert!(
        plan.findings[1].message.contains("101"),
        "{:?}",
        plan.findings
    );
}

#[test]
fn what_no_challenge_can_prove_is_said_before_any_order() {
    let requests = [
        request(0, "shop/wild", "wild", &["*.example.com"]),
        request(0, "shop/good", "good", &["*.example.org", "192.0.2.1"]),
    ];
    let plan = plan(&issuers(), &requests);
    assert_eq!(codes(&plan), [Code::NoChallenge]);
    assert_eq!(plan.wanted.len(), 1);
}

#[test]
fn a_second_certificate_for_the_same_hosts_is_ordered_and_told() {
    let older = request(0, "shop/web", "tls", &["a.example.org", "b.example.org"]);
    let same = request(1, "shop/api", "same", &["b.example.org"]);
    let more = request(1, "shop/more", "more", &["a.example.org", "c.example.org"]);
    let mut asked = request(1, "shop/asked", "asked", &["a.example.org"]);
    asked.always = true;
    let plan = plan(&issuers(), &[same, more, older, asked]);
    assert_eq!(plan.wanted.len(), 4);
    assert_eq!(codes(&plan), [Code::Doubled]);
    let said = &plan.findings[0];
    assert_eq!(said.object, "Ingress shop/api");
    assert!(
        said.message.contains("Secret tls of Ingress shop/web"),
        "{said:?}"
    );
}

#[test]
fn a_bad_host_does_not_harm_the_others() {
    let plan = plan(
        &issuers(),
        &[request(0, "shop/web", "tls", &["a_.*", "a.example.org"])],
    );
    assert_eq!(codes(&plan), [Code::BadName]);
    assert_eq!(names(&plan.wanted[0]), ["a.example.org"]);
}

#[test]
fn who_has_nothing_but_bad_hosts_is_told_that_nothing_is_ordered_for_it() {
    let requests = [
        request(0, "shop/web", "tls", &["a_.*"]),
        request(1, "shop/other", "tls", &["a.example.org"]),
    ];
    let plan = plan(&issuers(), &requests);
    assert_eq!(codes(&plan), [Code::BadName, Code::NoName]);
    assert!(
        plan.findings
            .iter()
            .all(|finding| finding.object == requests[0].object)
    );
    assert_eq!(names(&plan.wanted[0]), ["a.example.org"]);
}

fn some_request() -> impl Strategy<Value = Request> {
    let host = prop_oneof![
        "[ab]\\.example\\.org",
        Just("*.example.org".to_owned()),
        "[xy]\\.test"
    ];
    let namespace = prop_oneof![Just("shop"), Just("other")];
    (
        0..4i64,
        namespace,
        "[pq]",
        "[st]",
        prop::collection::vec(host, 0..4),
    )
        .prop_map(|(age, namespace, object, secret, hosts)| {
            let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
            request(age, &format!("{namespace}/{object}"), &secret, &hosts)
        })
}

proptest! {
    #[test]
    fn the_order_of_requests_does_not_matter(
        requests in prop::collection::vec(some_request(), 0..12),
        turn in 0..12usize,
    ) {
        let straight = plan(&issuers(), &requests);
        let mut turned = requests;
        if !turned.is_empty() {
            let by = turn % turned.len();
            turned.rotate_left(by);
        }
        prop_assert_eq!(&plan(&issuers(), &turned).wanted, &straight.wanted);
        for wanted in &straight.wanted {
            prop_assert!(wanted.names.is_sorted());
        }
    }
}
