"""Measures what clients notice while Gatehouse orders a thousand certificates at once from Pebble, a real authority for tests.

Everything runs in a network and process namespace of its own, which ends with this program: nothing outside target/bench is
written. Python 3.9 or newer, standard library only. See benches/README.md and docs/performance.md.
"""

import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time

from apiserver import openssl, signed
from bench import MARK, OUT, ROOT, answers, enter, launch, machine, wait_for, write_nginx
from control import percentile
from manifests import CLASS, endpoint_slice, ingress, replace, service
from process import Stop, run, spawn

HERE = OUT / "orders"
HTTP, HTTPS, ADMIN, BACKEND = 8080, 8443, 9090, 8000
ACME, MANAGEMENT, DNS, NAMES = 14000, 15000, 8053, 8055
HOST = "other.bench.test"
# Requests a second that have nothing to do with the orders, over so many connections.
RATE, CLIENTS = 200, 4
# What the authority allows, as `limits` of the issuer say.
PER_MINUTE = 600


def start_authority():
    """Pebble, and the DNS server that leads every name here."""
    trusted = HERE / "secrets" / "pebble"
    trusted.mkdir(parents=True)
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
            "-subj", "/CN=bench", "-keyout", HERE / "ca.key", "-out", HERE / "ca.crt")
    signed(HERE, "pebble", "/CN=pebble", "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth\n")
    shutil.copy(HERE / "ca.crt", trusted / "ca.crt")
    (HERE / "pebble.json").write_text(json.dumps({"pebble": {
        "listenAddress": f"127.0.0.1:{ACME}", "managementListenAddress": f"127.0.0.1:{MANAGEMENT}",
        "certificate": str(HERE / "pebble.crt"), "privateKey": str(HERE / "pebble.key"),
        "httpPort": HTTP, "tlsPort": HTTPS, "retryAfter": {"authz": 1, "order": 1},
    }}))
    tools = ROOT / "target" / "tools" / "acme"
    log = open(HERE / "pebble.log", "wb")
    spawn([tools / "pebble-challtestsrv", "-dnsserver", f"127.0.0.1:{DNS}", "-doh", "", "-http01", "", "-https01", "",
           "-tlsalpn01", "", "-management", f"127.0.0.1:{NAMES}", "-defaultIPv6", ""], stdout=log, stderr=log)
    # Nobody sleeps before a validation, and no nonce is refused: what is measured is the gateway.
    os.environ.update(PEBBLE_VA_NOSLEEP="1", PEBBLE_WFE_NONCEREJECT="0")
    spawn([tools / "pebble", "-config", HERE / "pebble.json", "-dnsserver", f"127.0.0.1:{DNS}"], stdout=log, stderr=log)


def start_gateway(binary):
    (HERE / "issuers.yaml").write_text(json.dumps({"acme": {"issuers": {"pebble": {
        "directory": f"https://127.0.0.1:{ACME}/dir", "acceptTerms": True, "caBundle": "pebble",
        "allow": [{"hosts": ["*.bench.test"]}],
        "limits": {"ordersPerMinute": PER_MINUTE, "ordersPerThreeHours": 100_000, "renewalsPerMinute": PER_MINUTE},
    }}}}))
    (HERE / "manifests" / "other.yaml").write_text(
        "---\n".join([CLASS, service("other"), endpoint_slice("other", BACKEND), ingress("other", HOST, "other")])
    )
    command = [binary, "run", "--dir", HERE / "manifests", "--acme", HERE / "issuers.yaml", "--certs", HERE / "certs",
               "--access-log", "off", "--http-listen", f"127.0.0.1:{HTTP}", "--https-listen", f"127.0.0.1:{HTTPS}",
               "--admin-listen", f"127.0.0.1:{ADMIN}"]
    process, _ = launch(command, "gatehouse", HERE / "gatehouse.log")
    wait_for(HTTP, HOST, process, "gatehouse")


def ask_for(count):
    """Ingresses of so many hosts, all in one moment."""
    wanted = []
    for number in range(count):
        name = f"host-{number:05}"
        text = ingress(name, f"{name}.bench.test", "other", name)
        wanted.append(text.replace("  namespace: bench\n", "  namespace: bench\n  annotations: {gatehouse.dev/issuer: pebble}\n", 1))
    replace(HERE / "manifests" / "wanted.yaml", "---\n".join(wanted))


class Clients:
    """Requests at a steady rate; each is due at a moment of its own, and a late answer delays what is counted, not the next."""

    def __init__(self):
        self.took, self.failed, self.stop = [], [], threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(number,), daemon=True) for number in range(CLIENTS)]
        for thread in self.threads:
            thread.start()

    def run(self, number):
        connection, begun, turn = http.client.HTTPConnection("127.0.0.1", HTTP, timeout=10), time.monotonic(), 0
        while not self.stop.is_set():
            due = begun + (turn + number / CLIENTS) * CLIENTS / RATE
            time.sleep(max(0.0, due - time.monotonic()))
            turn += 1
            try:
                connection.request("GET", "/", headers={"Host": HOST})
                answer = connection.getresponse()
                answer.read()
                if answer.status != 200:
                    self.failed.append(f"status {answer.status}")
            except (OSError, http.client.HTTPException) as error:
                self.failed.append(str(error))
                connection.close()
            self.took.append((time.monotonic() - due) * 1000)

    def end(self):
        self.stop.set()
        for thread in self.threads:
            thread.join()
        return self.took, self.failed


def counts():
    """Certificates that are valid, and orders that are under way."""
    statuses = [view["status"] for view in json.loads(answers(ADMIN, "localhost", "/api/certificates") or "[]")]
    return statuses.count("valid"), statuses.count("ordering")


def show(what, took, failed):
    print(f"{what:<40}{len(took):>8}{len(failed):>8}"
          + "".join(f"{percentile(took, share):>9.2f}" for share in (0.5, 0.99, 0.999)) + f"{max(took):>9.2f}", flush=True)
    return {"name": what, "requests": len(took), "failed": len(failed), "p50": percentile(took, 0.5),
            "p99": percentile(took, 0.99), "p999": percentile(took, 0.999), "max": max(took)}


def issue(count, limit):
    """Asks for the certificates and waits for them: seconds, and the most orders that were seen at once."""
    begun, most, valid = time.monotonic(), 0, 0
    ask_for(count)
    while valid < count:
        if time.monotonic() - begun > limit:
            raise Stop(f"{valid} of {count} certificates after {limit} s; the logs are in {HERE}")
        time.sleep(2)
        valid, busy = counts()
        most = max(most, busy)
    return time.monotonic() - begun, most


def measure(binary, count, quiet):
    (HERE / "manifests").mkdir()
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    facts = machine()
    print("{cpu}, {cores} cores, Linux {kernel}, load average {load:.2f}".format(**facts))
    print(f"{RATE} requests a second for a host without a certificate; milliseconds from when a request was due to its answer")
    print(f"{'':<40}{'requests':>8}{'failed':>8}{'p50':>9}{'p99':>9}{'p99.9':>9}{'max':>9}", flush=True)
    spawn(["nginx", "-e", HERE / "backend-error.log", "-c",
           write_nginx(HERE / "backend", f'\n    server {{ listen 127.0.0.1:{BACKEND}; location / {{ return 200 "ok"; }} }}')],
          stderr=subprocess.DEVNULL)
    start_authority()
    start_gateway(binary)
    clients = Clients()
    time.sleep(quiet)
    rows = [show("nothing is ordered", *clients.end())]
    clients = Clients()
    seconds, most = issue(count, 600)
    rows.append(show(f"{count} certificates are ordered", *clients.end()))
    text = answers(ADMIN, "localhost", "/metrics").decode()
    asked = sum(float(number) for number in re.findall(r"^gatehouse_acme_requests_total\{.*\} (\S+)$", text, re.MULTILINE))
    print(f"{count} certificates in {seconds:.0f} s, at most {PER_MINUTE} orders a minute by `limits`, {most} under way at once, "
          f"{asked / count:.1f} requests to the authority each")
    (HERE / "result.json").write_text(json.dumps(
        {"machine": facts, "rows": rows, "seconds": seconds, "at_once": most, "requests_each": asked / count}, indent=1) + "\n")


def main():
    binary = os.environ.get(MARK)
    if not binary:
        return enter(HERE, "namespaces", "acme")
    quick = os.environ.get("BENCH_QUICK", "") not in ("", "0")
    measure(binary, *((50, 5) if quick else (1_000, 60)))
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
