"""A real API server with its etcd for a measurement, and a client for it. Only in a network namespace of our own."""

import http.client
import json
import ssl
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from process import Stop, spawn

ADDRESS = "10.99.0.1"
API_PORT, STORE_PORT, PEER_PORT = 6443, 2379, 2380
COLLECTIONS = {
    "Namespace": "/api/v1/namespaces",
    "IngressClass": "/apis/networking.k8s.io/v1/ingressclasses",
    "Ingress": "/apis/networking.k8s.io/v1/namespaces/bench/ingresses",
    "Service": "/api/v1/namespaces/bench/services",
    "EndpointSlice": "/apis/discovery.k8s.io/v1/namespaces/bench/endpointslices",
    "Secret": "/api/v1/namespaces/bench/secrets",
}
WRITERS = 16


def openssl(*arguments):
    subprocess.run(["openssl", *map(str, arguments)], check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def signed(directory, name, subject, extension):
    """`name.key` and `name.crt` of the authority in the directory."""
    key, request, extra = (directory / f"{name}.{end}" for end in ("key", "csr", "ext"))
    openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", subject,
            "-keyout", key, "-out", request)
    extra.write_text(extension)
    openssl("x509", "-req", "-in", request, "-CA", directory / "ca.crt", "-CAkey", directory / "ca.key",
            "-CAcreateserial", "-days", "30", "-extfile", extra, "-out", directory / f"{name}.crt")


def write_keys(directory):
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
            "-subj", "/CN=bench", "-keyout", directory / "ca.key", "-out", directory / "ca.crt")
    signed(directory, "server", "/CN=kube-apiserver", f"subjectAltName=IP:{ADDRESS}\nextendedKeyUsage=serverAuth\n")
    # The group that may do everything.
    signed(directory, "admin", "/O=system:masters/CN=admin", "extendedKeyUsage=clientAuth\n")
    openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", directory / "accounts.key")
    openssl("ec", "-in", directory / "accounts.key", "-pubout", "-out", directory / "accounts.pub")


def write_kubeconfig(directory):
    path = directory / "kubeconfig"
    path.write_text(json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "bench",
        "clusters": [{"name": "bench", "cluster": {"server": f"https://{ADDRESS}:{API_PORT}",
                                                   "certificate-authority": str(directory / "ca.crt")}}],
        "users": [{"name": "bench", "user": {"client-certificate": str(directory / "admin.crt"),
                                             "client-key": str(directory / "admin.key")}}],
        "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
    }))
    return path


def start(tools, directory):
    """Starts both; the answer is a client that may do everything."""
    directory.mkdir(parents=True)
    write_keys(directory)
    store, peer = f"http://{ADDRESS}:{STORE_PORT}", f"http://{ADDRESS}:{PEER_PORT}"
    commands = {
        "etcd": [f"--data-dir={directory}/etcd", f"--listen-client-urls={store}", f"--advertise-client-urls={store}",
                 f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}",
                 f"--initial-cluster=default={peer}", "--unsafe-no-fsync", "--log-level=warn"],
        "kube-apiserver": [f"--etcd-servers={store}", f"--bind-address={ADDRESS}", f"--secure-port={API_PORT}",
                           f"--tls-cert-file={directory}/server.crt", f"--tls-private-key-file={directory}/server.key",
                           f"--client-ca-file={directory}/ca.crt", f"--service-account-key-file={directory}/accounts.pub",
                           f"--service-account-signing-key-file={directory}/accounts.key",
                           "--service-account-issuer=https://kubernetes.default.svc",
                           "--service-cluster-ip-range=10.96.0.0/14", "--authorization-mode=RBAC"],
    }
    started = []
    for name, arguments in commands.items():
        log = open(directory / f"{name}.log", "wb")
        started.append(spawn([tools / name, *arguments], stdout=log, stderr=log))
    api = Api(directory)
    deadline = time.monotonic() + 60
    while not api.is_ready():
        if any(process.poll() is not None for process in started) or time.monotonic() > deadline:
            raise Stop(f"The API server does not get ready; its logs are below {directory}.")
        time.sleep(0.1)
    return api


class Api:
    """Writes objects, each thread over a connection of its own."""

    def __init__(self, directory):
        self.context = ssl.create_default_context(cafile=directory / "ca.crt")
        self.context.load_cert_chain(directory / "admin.crt", directory / "admin.key")
        self.kubeconfig = write_kubeconfig(directory)
        self.local = threading.local()

    def request(self, method, path, text=None):
        connection = getattr(self.local, "connection", None)
        if connection is None:
            connection = http.client.HTTPSConnection(ADDRESS, API_PORT, context=self.context, timeout=30)
            self.local.connection = connection
        try:
            connection.request(method, path, text, {"Content-Type": "application/yaml"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            self.local.connection = None
            raise

    def is_ready(self):
        try:
            return self.request("GET", "/readyz")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def create(self, kind, text):
        self.expect("POST", COLLECTIONS[kind], text)

    def replace(self, kind, name, text):
        self.expect("PUT", f"{COLLECTIONS[kind]}/{name}", text)

    def expect(self, method, path, text):
        try:
            status, body = self.request(method, path, text)
        except (OSError, http.client.HTTPException):
            # The server closes connections that were idle for long. Writing the same again changes nothing; an object that
            # was created all the same is told by its 409.
            status, body = self.request(method, path, text)
        if status not in (200, 201):
            raise Stop(f"The API server answered {status} to {method} {path}: {body[:300].decode(errors='replace')}")

    def all(self, jobs):
        """Runs `(function, arguments...)` of this client, many at a time."""
        with ThreadPoolExecutor(WRITERS) as pool:
            for done in [pool.submit(*job) for job in jobs]:
                done.result()
