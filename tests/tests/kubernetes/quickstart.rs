//! The way of a new user: `kubectl apply`, then look.

use std::fs;

use gatehouse_tests::backend::{self, Backend};
use gatehouse_tests::gateway::{self, Gateway};
use gatehouse_tests::kubernetes::{cluster, endpoint};
use gatehouse_tests::wait;

/// The manifests of the example, its backend where this one listens: what a cluster fills in.
fn manifests(backend: &Backend) -> String {
    let folder = gateway::workspace().join("examples/quickstart");
    let read = |name: &str| fs::read_to_string(folder.join(name)).expect("an example");
    let service = read("service.yaml")
        .replace("port: 18080", &format!("port: {}", backend.address.port()))
        .replace("127.0.0.1", &backend.address.ip().to_string());
    assert!(
        service.contains(&backend.address.ip().to_string()),
        "{service}"
    );
    format!("{}\n---\n{service}", read("ingress.yaml"))
}

#[test]
fn the_quickstart_is_served_and_kubectl_tells_its_state() {
    cluster::shared(|server| {
        let kubectl = server.kubectl();
        let backend = Backend::at(endpoint(), |_| backend::ok("quickstart"));
        let space = ["-n", "quickstart"];
        kubectl
            .run(&["create", "namespace", "quickstart"])
            .success();
        let any = "127.0.0.1:0";
        let flags = [
            "--publish-status-address=203.0.113.5",
            "--pod-namespace=quickstart",
        ];
        let gateway = Gateway::start_in_cluster(&server.admin(), [any, any, any], &flags);
        let applied = kubectl.run_with(
            &[&space[..], &["apply", "-f", "-"]].concat(),
            &manifests(&backend),
        );
        println!("{}", applied.success());
        let answer = gateway.wait_status("echo.localhost", "/", 200);
        assert_eq!(answer.text(), "quickstart");

        let listed = wait::until("the Ingress has an address", || {
            let text = kubectl
                .run(&[&space[..], &["get", "ingress", "echo"]].concat())
                .success();
            text.contains("203.0.113.5").then_some(text)
        });
        println!("{listed}");
        let words: Vec<&str> = listed
            .lines()
            .last()
            .expect("a line")
            .split_whitespace()
            .collect();
        assert_eq!(
            words[..5],
            [
                "echo",
                "gatehouse",
                "echo.localhost,grpc.localhost",
                "203.0.113.5",
                "80"
            ]
        );

        // A mistake is told where people look for it.
        // Where the Ingress says which port it means, and nowhere else.
        let port = format!("{}name: http", " ".repeat(18));
        let wrong = manifests(&backend).replace(&port, &port.replace("http", "htpp"));
        assert!(wrong.contains("htpp"), "{wrong}");
        kubectl
            .run_with(&[&space[..], &["apply", "-f", "-"]].concat(), &wrong)
            .success();
        let described = wait::until("the Ingress has an Event", || {
            let text = kubectl
                .run(&[&space[..], &["describe", "ingress", "echo"]].concat())
                .success();
            (text.contains("Warning") && text.contains("htpp")).then_some(text)
        });
        println!("{described}");
        assert!(
            described.contains("203.0.113.5") && described.contains("gatehouse"),
            "{described}"
        );
    });
}
