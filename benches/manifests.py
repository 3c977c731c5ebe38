"""The manifests that the gateway is measured with."""

def ingress(name, host, service, certificate=None):
    tls = f"  tls:\n  - hosts: [{host}]\n    secretName: {certificate}\n" if certificate else ""
    return f"""apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: {name}
  namespace: bench
  creationTimestamp: "2026-01-01T00:00:00Z"
spec:
  ingressClassName: gatehouse
{tls}  rules:
  - host: {host}
    http:
      paths:
      - path: /
        pathType: Prefix
        backend:
          service:
            name: {service}
            port:
              number: 80
"""


def service(name):
    return f"""apiVersion: v1
kind: Service
metadata:
  name: {name}
  namespace: bench
spec:
  ports:
  - name: http
    port: 80
    targetPort: http
"""


def endpoint_slice(name, port, addresses=("127.0.0.1",)):
    endpoints = "".join(f'- addresses: ["{address}"]\n  conditions:\n    ready: true\n' for address in addresses)
    return f"""apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {name}
  namespace: bench
  labels:
    kubernetes.io/service-name: {name}
addressType: IPv4
ports:
- name: http
  port: {port}
  protocol: TCP
endpoints:
{endpoints}"""


CLASS = """apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata:
  name: gatehouse
spec:
  controller: gatehouse.dev/ingress-controller
"""


def key_pair(name, key, certificate):
    indent = lambda path: path.read_text().strip().replace("\n", "\n    ")
    return (
        f"apiVersion: v1\nkind: Secret\nmetadata:\n  name: {name}\n  namespace: bench\ntype: kubernetes.io/tls\nstringData:\n"
        f"  tls.crt: |\n    {indent(certificate)}\n  tls.key: |\n    {indent(key)}\n"
    )


def replace(path, text):
    """An atomic rename, as editors and deployment tools do it."""
    fresh = path.with_suffix(".tmp")
    fresh.write_text(text)
    fresh.rename(path)


def write_manifests(directory, numbers, ports, key, certificate):
    """One file for each application (Ingress, Service, EndpointSlice), and what the live edits change."""
    directory.mkdir(parents=True)
    (directory / "class.yaml").write_text("---\n".join([CLASS, key_pair("cert", key, certificate)]))
    for number in numbers:
        name = f"app-{number:05}"
        group = directory / f"group-{number // 100:03}"
        group.mkdir(exist_ok=True)
        (group / f"{name}.yaml").write_text(
            "---\n".join([ingress(name, f"{name}.bench.test", name), service(name), endpoint_slice(name, ports["backend"])])
        )
    live = directory / "live"
    live.mkdir()
    for name, port in (("side-a", ports["backend"]), ("side-b", ports["backend_b"]), ("moving", ports["backend"])):
        (live / f"{name}.yaml").write_text(service(name))
        (live / f"{name}-slice.yaml").write_text(endpoint_slice(name, port))
    (live / "edited.yaml").write_text(ingress("edited", "edited.bench.test", "side-a"))
    (live / "moving-ingress.yaml").write_text(ingress("moving", "moving.bench.test", "moving"))
