//! Manifests of every kind, old, broken and hostile.

use std::fmt::Write;

use super::*;

fn names(decoded: &Decoded) -> Vec<String> {
    decoded
        .entries
        .iter()
        .map(|entry| entry.key.to_string())
        .collect()
}

#[test]
fn every_kind_decodes() {
    let text = "\
# a comment in front
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: i, namespace: web}
spec: {rules: [{host: a.example, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: s, port: {number: 80}}}}]}}]}
--- # with a comment
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: c, namespace: ignored}
spec: {controller: gatehouse.dev/ingress-controller}
---
apiVersion: v1
kind: Service
metadata: {name: s, namespace: web}
spec: {ports: [{port: 80, targetPort: http}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: s-1, namespace: web}
addressType: IPv4
endpoints: [{addresses: [192.0.2.1], conditions: {ready: true}}]
ports: [{port: 8080}]
---
apiVersion: v1
kind: Endpoints
metadata: {name: s, namespace: web}
subsets: [{addresses: [{ip: 192.0.2.1}], ports: [{port: 8080}]}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: m}
data:
  text: |
    one
    two
---
apiVersion: v1
kind: Namespace
metadata: {name: web}
...
";
    let decoded = decode("all.yaml", text.as_bytes());
    assert_eq!(decoded.complaints, []);
    assert_eq!(
        names(&decoded),
        [
            "Ingress/web/i",
            "IngressClass/c",
            "Service/web/s",
            "EndpointSlice/web/s-1",
            "Endpoints/web/s",
            "ConfigMap/default/m",
            "Namespace/web",
        ]
    );
}

#[test]
fn string_data_of_a_secret_wins_and_line_breaks_in_base64_are_fine() {
    let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ntype: kubernetes.io/tls\n\
        data:\n  tls.crt: |\n    Zm9v\n    YmFy\n  tls.key: eA==\nstringData: {tls.key: key}\n";
    let decoded = decode("s.yaml", text.as_bytes());
    assert_eq!(decoded.complaints, []);
    let Some(Object::Secret(secret)) = decoded.entries.first().map(|e| e.object.clone()) else {
        panic!("no Secret")
    };
    let data = secret.data.clone().unwrap();
    assert_eq!(data["tls.crt"].0, b"foobar");
    assert_eq!(data["tls.key"].0, b"key");
}

#[test]
fn a_complaint_about_a_secret_does_not_repeat_it() {
    let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {tls.key: \"hunter2!\"}\n";
    let decoded = decode("s.yaml", text.as_bytes());
    let complaint = decoded.complaints[0].to_string();
    assert!(
        complaint.contains("Secret/default/s data[tls.key]"),
        "{complaint}"
    );
    assert!(!complaint.contains("hunter2"), "{complaint}");

    // A colon in the wrong place makes a key of it.
    for value in ["{hunter2: x}", "[{hunter2: x}]"] {
        for data in ["data", "stringData"] {
            let text = format!(
                "apiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\n{data}: {{tls.key: {value}, key: {value}}}\n"
            );
            let decoded = decode("s.yaml", text.as_bytes());
            let complaint = decoded.complaints[0].to_string();
            assert!(complaint.contains("Secret/default/s data"), "{complaint}");
            assert!(!complaint.contains("hunter2"), "{complaint}");
        }
    }
}

#[test]
fn old_ingresses_are_converted_and_the_new_form_is_named() {
    let text = "\
apiVersion: extensions/v1beta1
kind: Ingress
metadata: {name: old, namespace: web}
spec:
  backend: {serviceName: d, servicePort: http}
  rules: [{http: {paths: [{path: /a, backend: {serviceName: s, servicePort: 80}}]}}]
";
    let decoded = decode("old.yaml", text.as_bytes());
    let complaint = decoded.complaints[0].to_string();
    assert!(
        complaint.contains("warning[ApiVersionOld] Ingress/web/old apiVersion"),
        "{complaint}"
    );
    assert!(
        complaint.contains("write `networking.k8s.io/v1`"),
        "{complaint}"
    );
    let Some(Object::Ingress(ingress)) = decoded.entries.first().map(|e| e.object.clone()) else {
        panic!("no Ingress")
    };
    let spec = ingress.spec.clone().unwrap();
    let default = spec.default_backend.unwrap().service.unwrap();
    assert_eq!(default.port.unwrap().name.as_deref(), Some("http"));
    let path = spec.rules.unwrap()[0].http.clone().unwrap().paths[0].clone();
    assert_eq!(path.path_type, "ImplementationSpecific");
    assert_eq!(path.backend.service.unwrap().port.unwrap().number, Some(80));
}

#[test]
fn lists_hold_objects_with_and_without_their_kind() {
    let json = r#"{"apiVersion":"v1","kind":"List","items":[
        {"apiVersion":"v1","kind":"Namespace","metadata":{"name":"a"}},
        {"apiVersion":"v1","kind":"ServiceList","items":[{"metadata":{"name":"s"}}]},
        {"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"}}, 7]}
        {"apiVersion":"v1","kind":"Namespace","metadata":{"name":"b"}}"#;
    let decoded = decode("list.json", json.as_bytes());
    assert_eq!(
        names(&decoded),
        ["Namespace/a", "Service/default/s", "Namespace/b"]
    );
    assert_eq!(decoded.skipped.get("Pod"), Some(&1));
    assert_eq!(&*decoded.complaints[0].field, "document 1 items[3]");
}

#[test]
fn a_broken_document_harms_only_itself_and_is_found() {
    let text = "\
apiVersion: v1
kind: Namespace
metadata: {name: before}
---
apiVersion: v1
kind: Service
metadata: {name: s
spec: []
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: typed, namespace: web}
spec:
  rules:
  - host: a.example
  - host: b.example
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: s, port: {number: eighty}}}}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {}
---
- just a list
---
apiVersion: v1
kind: Namespace
metadata: {name: after}
";
    let decoded = decode("web/all.yaml", text.as_bytes());
    assert_eq!(names(&decoded), ["Namespace/before", "Namespace/after"]);
    assert!(decoded.unreadable);
    assert_eq!(decoded.broken.len(), 1);
    let text: Vec<String> = decoded.complaints.iter().map(ToString::to_string).collect();
    assert!(
        text[0]
            .starts_with("error[FileUnreadable] web/all.yaml document 2: not valid YAML near line"),
        "{text:?}"
    );
    assert!(
        text[1].starts_with(
            "error[ObjectInvalid] Ingress/web/typed spec.rules[1].http.paths[0].backend.service.port.number: web/all.yaml document 3: invalid type"
        ),
        "{text:?}"
    );
    assert!(
        text[1].contains("kubectl explain ingress.spec.rules"),
        "{text:?}"
    );
    assert!(
        text[2].contains("document 4: ConfigMap without a name"),
        "{text:?}"
    );
    assert!(text[3].contains("kind: List"), "{text:?}");
}

#[test]
fn hostile_documents_are_refused_without_harm() {
    let deep = format!("a: {}{}", "[".repeat(5000), "]".repeat(5000));
    assert!(decode("deep.yaml", deep.as_bytes()).unreadable);
    let deep = format!("{}{}", "[".repeat(50_000), "]".repeat(50_000));
    assert!(decode("deep.json", deep.as_bytes()).unreadable);
    let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..10 {
        let inner = format!("*a{}", level - 1);
        let list = [inner.as_str(); 10].join(", ");
        writeln!(laughs, "a{level}: &a{level} [{list}]").unwrap();
    }
    assert!(decode("laughs.yaml", laughs.as_bytes()).unreadable);
    assert!(decode("latin.yaml", b"name: \xe9").unreadable);
}

#[test]
fn a_mistake_in_yaml_has_one_line_number_that_of_the_file() {
    let text = "kind: A\n---\nkind: B\n  bad: [1\n---\na: 1\na: 2\n---\na: \"open\n";
    let complaints = decode("a.yaml", text.as_bytes()).complaints;
    let messages: Vec<&str> = complaints.iter().map(|found| &*found.message).collect();
    let wanted = [
        "near line 4: mapping values are not allowed",
        "near line 7: duplicate mapping key: a; correct it",
        "near line 9: unclosed quote",
    ];
    for wanted in wanted {
        let found = messages.iter().find(|message| message.contains(wanted));
        let found = found.unwrap_or_else(|| panic!("{wanted} is not in {messages:#?}"));
        assert_eq!(found.matches("line ").count(), 1, "{found}");
    }
}

#[test]
fn an_ingress_with_a_field_that_does_not_exist_is_not_taken_and_other_kinds_are() {
    let ingress = |annotations: &str, path: &str| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: shop, {annotations}: {{}}}}\n\
             spec: {{rules: [{{http: {{{path}: [{{path: /, pathType: Prefix, backend: {{service: \
             {{name: a, port: {{number: 80}}}}}}}}]}}}}]}}\n"
        )
    };
    let good = decode("a.yaml", ingress("annotations", "paths").as_bytes());
    assert_eq!((good.entries.len(), good.complaints.len()), (1, 0));
    for (annotations, path, field) in [
        ("annotation", "paths", "metadata.annotation"),
        ("annotations", "path", "spec.rules[0].http.path"),
    ] {
        let wrong = decode("a.yaml", ingress(annotations, path).as_bytes());
        assert!(wrong.entries.is_empty());
        assert_eq!(wrong.broken.len(), 1);
        let told: Vec<String> = wrong.complaints.iter().map(ToString::to_string).collect();
        let begin = format!("error[FieldUnknown] Ingress/default/shop {field}");
        assert!(told.iter().any(|line| line.starts_with(&begin)), "{told:?}");
    }
    let service =
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80, nam: x}]}\n";
    let taken = decode("a.yaml", service.as_bytes());
    assert_eq!((taken.entries.len(), taken.broken.len()), (1, 0));
    assert!(
        taken.complaints[0]
            .to_string()
            .contains("spec.ports[0].nam")
    );
}
