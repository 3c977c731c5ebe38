//! Values that cannot work are refused with a sentence, before anything is installed.

use gatehouse_tests::kubernetes::{Helm, cluster};

/// Values, and words of the answer.
const REFUSED: &[(&str, &[&str])] = &[
    ("mode: statefulset", &["/mode", "'deployment', 'daemonset'"]),
    (
        "replicas: 2",
        &["additional properties 'replicas' not allowed"],
    ),
    (
        "deployment: {replica: 2}",
        &["/deployment", "'replica' not allowed"],
    ),
    ("metrics: null", &["missing property 'metrics'"]),
    ("drain: {delaySeconds: null}", &["/drain", "'delaySeconds'"]),
    ("listen: {http: 80}", &["/listen/http", "want 1,024"]),
    ("listen: {http: 8443}", &["three different ports"]),
    (
        "service: {type: External}",
        &["/service/type", "'NodePort'"],
    ),
    (
        "service: {nodePorts: {http: 70000}}",
        &["/service/nodePorts/http", "want 65,535"],
    ),
    (
        "defaultCertificate: certificate",
        &["/defaultCertificate", "does not match"],
    ),
    ("fullnameOverride: 7th", &["/fullnameOverride"]),
    ("nameOverride: a.b", &["/nameOverride"]),
    (
        "ingressClass: {controller: 'a: b'}",
        &["/ingressClass/controller"],
    ),
    ("watchNamespaces: [Shop]", &["/watchNamespaces/0"]),
    ("image: {digest: latest}", &["/image/digest"]),
    (
        "{leaderElection: {enabled: false}, deployment: {replicas: 1}, certificates: {issuers: {a: {directory: 'https://x', acceptTerms: true}}}}",
        &["certificates.issuers needs leaderElection.enabled"],
    ),
    (
        "certificates: {defaultIssuer: b, issuers: {a: {directory: 'https://x', acceptTerms: true}}}",
        &["certificates.defaultIssuer is b", "certificates.issuers"],
    ),
    (
        "{watchNamespaces: [shop], status: {enabled: false}, certificates: {writeNamespaces: [pay], issuers: {a: {directory: 'https://x', acceptTerms: true}}}}",
        &["certificates.writeNamespaces", "namespace pay"],
    ),
    (
        "commonLabels: {app.kubernetes.io/name: x}",
        &["commonLabels has app.kubernetes.io/name", "Leave it out"],
    ),
    (
        "pod: {labels: {app.kubernetes.io/component: admin}}",
        &["pod.labels has app.kubernetes.io/component"],
    ),
    (
        "metrics: {serviceMonitor: {labels: {helm.sh/chart: x}}}",
        &["metrics.serviceMonitor.labels has helm.sh/chart"],
    ),
    (
        "terminationGracePeriodSeconds: 60",
        &["is 60", "draining takes up to 80 seconds", "to 80 or more"],
    ),
    (
        "drain: {timeoutSeconds: 600}",
        &["is 80", "up to 620 seconds"],
    ),
    (
        "service: {type: ClusterIP, nodePorts: {http: 30080}}",
        &[
            "service.nodePorts",
            "have no effect",
            "NodePort or LoadBalancer",
        ],
    ),
    (
        "service: {loadBalancerClass: x}",
        &[
            "service.loadBalancerClass",
            "without service.type LoadBalancer",
        ],
    ),
    (
        "service: {enabled: false}",
        &["nobody could reach a deployment"],
    ),
    (
        "{mode: daemonset, service: {enabled: false}, daemonset: {hostPorts: {enabled: false}}}",
        &["nobody could reach the gateway"],
    ),
    (
        "{mode: daemonset, daemonset: {hostPorts: {http: 443}}}",
        &["must be two different ports"],
    ),
    (
        "{mode: daemonset, daemonset: {hostNetwork: true}, networkPolicy: {enabled: true}}",
        &["networkPolicy.enabled has no effect", "daemonset.hostPorts"],
    ),
    (
        "{mode: daemonset, daemonset: {hostNetwork: true}, metrics: {podMonitor: {enabled: true}}}",
        &[
            "metrics.podMonitor finds nothing",
            "listens on 127.0.0.1",
            "listen.adminAddress to 0.0.0.0",
        ],
    ),
    (
        "listen: {adminAddress: 127.0.0.1}",
        &[
            "would listen on 127.0.0.1",
            "probes",
            "networkPolicy.enabled",
        ],
    ),
    (
        "listen: {adminAddress: 10.0.0.7}",
        &["/listen/adminAddress"],
    ),
    (
        "{mode: daemonset, daemonset: {maxUnavailable: 0%}}",
        &["daemonset.maxUnavailable is 0", "rolled out"],
    ),
    (
        "deployment: {podDisruptionBudget: {maxUnavailable: 0}}",
        &["podDisruptionBudget.maxUnavailable is 0", "drained"],
    ),
    (
        "{deployment: {autoscaling: {enabled: true}}, pod: {resources: {requests: null}}}",
        &["autoscaling.targetCPU", "pod.resources.requests.cpu"],
    ),
    (
        "{deployment: {autoscaling: {enabled: true, targetMemory: 50}}, pod: {resources: {requests: {memory: null}}}}",
        &["autoscaling.targetMemory", "pod.resources.requests.memory"],
    ),
    (
        "leaderElection: {enabled: false}",
        &["every replica writes", "deployment.replicas 1"],
    ),
    (
        "{mode: daemonset, deployment: {replicas: 1}, leaderElection: {enabled: false}}",
        &["every replica writes"],
    ),
    (
        "{leaderElection: {enabled: false}, deployment: {replicas: 1, autoscaling: {enabled: true}}}",
        &["every replica writes"],
    ),
    (
        "watchNamespaces: [shop]",
        &[
            "nodes are not read",
            "status.addresses",
            "status.publishService",
        ],
    ),
    (
        "deployment: {maxSurge: 0}",
        &["no update could ever be rolled out"],
    ),
    (
        "deployment: {autoscaling: {enabled: true, minReplicas: 20}}",
        &["minReplicas is greater than maxReplicas"],
    ),
    (
        "deployment: {autoscaling: {enabled: true, targetCPU: 0}}",
        &["nothing to look at"],
    ),
    (
        "proxyProtocol: {enabled: true}",
        &["proxyProtocol.trustedCIDRs", "would believe nobody"],
    ),
    (
        "{forwardedHeaders: {enabled: true, trustedCIDRs: [10.0.0.0/8]}, settings: {proxy-real-ip-cidr: 0.0.0.0/0}}",
        &[
            "settings.proxy-real-ip-cidr",
            "the section forwardedHeaders",
        ],
    ),
    (
        "settings: {proxy-read-timeout: 0.5}",
        &["settings.proxy-read-timeout is 0.5", "in quotes"],
    ),
    (
        "settings: {proxy-body-size: 9007199254740993}",
        &["settings.proxy-body-size is 9.00", "in quotes"],
    ),
    (
        "{watchNamespaces: [shop], status: {enabled: false}, defaultBackendService: pay/fallback}",
        &["defaultBackendService", "namespace pay", "watchNamespaces"],
    ),
    (
        "{networkPolicy: {enabled: true}, metrics: {serviceMonitor: {enabled: true}}}",
        &[
            "keeps Prometheus from the admin port",
            "metrics.serviceMonitor",
            "networkPolicy.adminFrom",
        ],
    ),
    (
        "metrics: {serviceMonitor: {enabled: true}, podMonitor: {enabled: true}}",
        &["scraped", "Enable one of them"],
    ),
];

#[test]
fn values_that_cannot_work_are_refused_with_a_sentence() {
    cluster::alone(|| {
        let helm = Helm::alone();
        for (values, words) in REFUSED {
            let finished = helm.render("gatehouse", "gatehouse", values);
            assert!(!finished.ok(), "{values} is accepted");
            for word in *words {
                let said = finished.text();
                assert!(
                    said.contains(word),
                    "{word:?} is missing for {values}: {said}"
                );
            }
        }
    });
}

#[test]
fn a_release_whose_name_no_service_can_have_is_refused_with_a_sentence() {
    cluster::alone(|| {
        for name in ["2024", "a.b"] {
            let said = Helm::alone().render(name, "gatehouse", "").text();
            let sentence = format!("{name}-gatehouse would be the name of a Service");
            assert!(said.contains(&sentence), "{said}");
        }
    });
}
