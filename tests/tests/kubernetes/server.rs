//! The API server itself, so that a test that fails elsewhere does not fail because of it.

use std::time::Duration;

use gatehouse_tests::kubernetes::{ApiServer, Proxy, cluster};
use gatehouse_tests::raw::{Client, Failure};
use gatehouse_tests::tls::Handshake;
use gatehouse_tests::{manifests, wait};

const ACCOUNT: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: account}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: reader, namespace: account}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader, namespace: account}
rules: [{apiGroups: [''], resources: [services], verbs: [get, list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader, namespace: account}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects: [{kind: ServiceAccount, name: reader, namespace: account}]
";

#[test]
fn an_account_may_do_what_its_role_says_and_the_audit_log_tells_it() {
    cluster::shared(|server| {
        server.kubectl().apply(ACCOUNT);
        let kubeconfig = server.service_account("account", "reader");
        let reader = server.kubectl().with(kubeconfig);
        reader.run(&["-n", "account", "get", "services"]).success();
        let denied = reader.run(&["-n", "account", "get", "secrets"]);
        assert!(
            !denied.ok() && denied.text().contains("Forbidden"),
            "{}",
            denied.text()
        );

        let user = "system:serviceaccount:account:reader";
        let asked: Vec<(String, String, u16)> = server
            .audit()
            .into_iter()
            .filter(|line| line.user == user && !line.resource.is_empty())
            .map(|line| (line.verb, line.resource, line.status))
            .collect();
        let expected = [("list", "services", 200), ("list", "secrets", 403)];
        let expected =
            expected.map(|(verb, what, status)| (verb.to_owned(), what.to_owned(), status));
        assert_eq!(asked, expected);
    });
}

#[test]
fn endpoints_on_loopback_are_refused_those_of_the_namespace_are_not() {
    cluster::shared(|server| {
        server
            .kubectl()
            .apply("{apiVersion: v1, kind: Namespace, metadata: {name: demo}}");
        let slice = |address: &str| {
            let address = address.parse().expect("an address");
            let text = manifests::service("addresses", &[address]);
            let flags = ["apply", "--server-side", "-f", "-"];
            server.kubectl().run_with(&flags, &text)
        };
        let refused = slice("127.0.0.1:80");
        assert!(refused.text().contains("loopback"), "{}", refused.text());
        slice("10.99.0.9:80").success();
    });
}

#[test]
fn it_comes_back_from_every_outage_with_its_data() {
    cluster::alone(|| {
        let mut server = ApiServer::start();
        let kubectl = server.kubectl();
        let exists = |name: &str| kubectl.run(&["get", "namespace", name]).ok();
        let make = |name: &str| kubectl.run(&["create", "namespace", name]).success();
        make("one");

        server.pause();
        let flags = ["get", "namespace", "one", "--request-timeout=1s"];
        assert!(!kubectl.run(&flags).ok(), "paused, it answers nobody");
        server.resume();
        wait::until("it answers again", || exists("one").then_some(()));

        server.kill();
        assert!(!exists("one"), "killed, it answers nobody");
        server.restart();
        assert!(exists("one"));
        make("two");

        server.kill_etcd();
        server.restart_etcd();
        assert!(exists("one") && exists("two"));
        make("three");

        server.lose_everything();
        assert!(!exists("one"));
        make("one");
    });
}

#[test]
fn a_connection_through_the_proxy_falls_silent_and_a_new_one_works() {
    cluster::shared(|server| {
        let proxy = Proxy::start(server.address());
        let ask = |client: &mut Client| {
            client.patience = Duration::from_millis(500);
            client.send("GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n");
            client.answer().map(|answer| answer.status)
        };
        let connect = || {
            let secured = Handshake::new("localhost").connect(proxy.address);
            Client::over(Box::new(secured.expect("a handshake")))
        };
        let mut old = connect();
        assert_eq!(ask(&mut old), Ok(200));
        proxy.silence();
        assert!(matches!(ask(&mut old), Err(Failure::Timeout(_))));
        let mut new = connect();
        assert_eq!(ask(&mut new), Ok(200));
        assert_eq!(proxy.connections(), 2);
        proxy.cut();
        assert!(new.closes_within(wait::PATIENCE));
    });
}

#[test]
fn a_compacted_list_is_gone() {
    cluster::alone(|| {
        let server = ApiServer::start_with(ApiServer::FORGETFUL);
        let kubectl = server.kubectl();
        let mut names = String::new();
        for index in 0..5 {
            names += &format!(
                "{{apiVersion: v1, kind: Namespace, metadata: {{name: page-{index}}}}}\n---\n"
            );
        }
        kubectl.apply(&names);
        let page = |token: &str| {
            let path = format!("/api/v1/namespaces?limit=2{token}");
            kubectl.run(&["get", "--raw", &path])
        };
        let text = page("").success();
        let list: serde_json::Value = serde_json::from_str(&text).expect("a list");
        let token = list["metadata"]["continue"].as_str().expect("more pages");
        let next = format!("&continue={token}");
        page(&next).success();
        kubectl.run(&["create", "namespace", "later"]).success();
        server.compact();
        let refused = page(&next);
        assert!(
            refused.text().contains("Expired") || refused.text().contains("too old"),
            "{}",
            refused.text()
        );
    });
}
