"""Measures the control plane of Gatehouse on a real Kubernetes API server: start, memory, and how soon a change answers.

Everything runs in a network and process namespace of its own, which ends with this program: nothing outside target/bench is
written. Python 3.9 or newer, standard library only. See benches/README.md and docs/performance.md.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import apiserver
from bench import MARK, OUT, ROOT, answers, enter, launch, live_edits, machine, make_certificate, verdict, wait_for, write_nginx
from loads import run_tool
from manifests import CLASS, endpoint_slice, ingress, key_pair, service
from process import cpu_seconds, end, memory_mib, run, spawn

HERE = OUT / "control"
HTTP, HTTPS, ADMIN, BACKEND = 8080, 8443, 9090, 8000
SIDES = {"a": "10.99.1.1", "b": "10.99.1.2"}
HOST = "app-00001.bench.test"
CHURN_PER_SECOND = 50
# Between two edits, so that each is one of its own.
PAUSE = 0.05


# ---- the place ---------------------------------------------------------------------------------------------


def backends():
    """One nginx on an address for each side, because endpoints on loopback are refused by the API; it answers with a letter."""
    servers = "".join(
        f'\n    server {{ listen {address}:{BACKEND} backlog=4096; location / {{ return 200 "{letter * 120}"; }} }}'
        for letter, address in SIDES.items()
    )
    configuration = write_nginx(HERE / "backend", servers)
    spawn(["nginx", "-e", HERE / "backend" / "error.log", "-c", configuration], stderr=subprocess.DEVNULL)


def set_up():
    for command in ("link set lo up", "address add 10.99.0.1/16 dev lo"):
        subprocess.run(["ip", *command.split()], check=True)
    backends()
    tools = Path(os.environ.get("GATEHOUSE_TOOLS", ROOT / "target" / "tools" / "kubernetes"))
    api = apiserver.start(tools, HERE / "api")
    api.create("Namespace", "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: bench\n")
    api.create("IngressClass", CLASS)
    return api


def slice_of(name, *letters):
    return endpoint_slice(name, BACKEND, [SIDES[letter] for letter in letters])


def fill(api, count):
    """The applications, and the two that are edited."""
    names = [f"app-{number:05}" for number in range(count)]
    jobs = []
    for name in [*names, "side-a", "side-b", "moving"]:
        jobs.append((api.create, "Service", service(name)))
        jobs.append((api.create, "EndpointSlice", slice_of(name, "b" if name == "side-b" else "a")))
    jobs += [(api.create, "Ingress", ingress(name, f"{name}.bench.test", name)) for name in [*names, "moving"]]
    jobs.append((api.create, "Ingress", ingress("edited", "edited.bench.test", "side-a")))
    api.all(jobs)


def secure(api, count):
    """Key pairs for the first applications; every Secret holds the same pair, parsed once for each."""
    key, certificate = make_certificate(HERE)
    names = [(f"app-{number:05}", f"cert-{number:05}") for number in range(count)]
    api.all([(api.create, "Secret", key_pair(secret, key, certificate)) for _, secret in names])
    api.all([(api.replace, "Ingress", name, ingress(name, f"{name}.bench.test", name, secret)) for name, secret in names])


# ---- measuring ---------------------------------------------------------------------------------------------


class Started:
    """A gateway that is ready: how long that took, and how much of it was work."""

    def __init__(self, binary, api):
        command = [binary, "run", "--kubeconfig", api.kubeconfig, "--access-log", "off", "--update-status=false",
                   "--http-listen", f"127.0.0.1:{HTTP}", "--https-listen", f"127.0.0.1:{HTTPS}",
                   "--admin-listen", f"127.0.0.1:{ADMIN}"]
        self.process, self.ready = launch(command, "gatehouse", HERE / "gatehouse.log")
        self.cpu = cpu_seconds(self.process.pid)

    def memory_kib(self):
        """Resident, when the allocator has given back what the start left over."""
        time.sleep(3)
        return memory_mib(self.process.pid) * 1024

    def compiles(self):
        text = answers(ADMIN, "localhost", "/metrics").decode()
        return int(float(re.search(r"^gatehouse_host_compiles_total (\S+)", text, re.MULTILINE).group(1)))

    def end(self):
        end(self.process)


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def row(name, value, goal, form):
    print(f"{name:<72}{form.format(value):>12}  {verdict(value, goal, form)}", flush=True)
    return {"name": name, "value": value, "goal": goal}


def churn(api, gateway, seconds):
    """Endpoints of one service come and go while it is asked: changes made, answers, failures, hosts compiled."""
    before, made, stop = gateway.compiles(), [], threading.Event()
    name = HOST.partition(".")[0]

    def change():
        turns = [("b",), ("a", "b"), ("a",)]
        begun = time.monotonic()
        while not stop.is_set():
            api.replace("EndpointSlice", name, slice_of(name, *turns[len(made) % len(turns)]))
            made.append(time.monotonic())
            time.sleep(max(0.0, begun + len(made) / CHURN_PER_SECOND - time.monotonic()))

    thread = threading.Thread(target=change, daemon=True)
    thread.start()
    output = run_tool(["wrk", "-t1", "-c16", f"-d{seconds}s", "-H", f"Host: {HOST}", f"http://127.0.0.1:{HTTP}/"])
    stop.set()
    thread.join()
    requests = int(re.search(r"(\d+) requests in", output).group(1))
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", output)
    failed = sum(int(number) for found in (bad, broken) if found for number in found.groups())
    rate = (len(made) - 1) / (made[-1] - made[0])
    return requests, failed, rate, gateway.compiles() - before


def start_and_memory(binary, api, plan):
    """Starts on nothing, on the applications, and on the applications with their key pairs."""
    sizes = []
    for step in (lambda: None, lambda: fill(api, plan.count), lambda: secure(api, plan.secrets)):
        step()
        gateway = Started(binary, api)
        sizes.append(gateway.memory_kib())
        gateway.end()
    starts = []
    for _ in range(plan.starts):
        gateway = Started(binary, api)
        starts.append(gateway)
        if len(starts) < plan.starts:
            gateway.end()
    empty, full, secured = sizes
    return gateway, [
        row("process start to ready line, s", statistics.median(s.ready for s in starts), 10, "{:.2f}"),
        row("of it CPU time, s", statistics.median(s.cpu for s in starts), 2, "{:.2f}"),
        row("resident memory of the empty process, MiB", empty / 1024, None, "{:.1f}"),
        row("over that for each Ingress with Service and EndpointSlice, KiB", (full - empty) / plan.count, 4, "{:.2f}"),
        row("over that for each TLS Secret, KiB", (secured - full) / plan.secrets, None, "{:.2f}"),
    ]


def measure(binary, plan):
    result = {"machine": machine(), "applications": plan.count, "secrets": plan.secrets}
    print("{cpu}, {cores} cores, Linux {kernel}, load average {load:.2f}".format(**result["machine"]))
    print(f"{plan.count} Ingresses, Services and EndpointSlices, {plan.secrets} TLS Secrets, {plan.edits} edits of each kind")
    api = set_up()
    gateway, rows = start_and_memory(binary, api, plan)
    wait_for(HTTP, "edited.bench.test", gateway.process, "gatehouse")
    ingresses = {letter: ingress("edited", "edited.bench.test", f"side-{letter}") for letter in SIDES}
    slices = {letter: slice_of("moving", letter) for letter in SIDES}
    for name, goal, host, write in (
        ("Ingress edited -> new answer", 100, "edited.bench.test", lambda side: api.replace("Ingress", "edited", ingresses[side])),
        ("EndpointSlice changed -> new answer", 50, "moving.bench.test",
         lambda side: api.replace("EndpointSlice", "moving", slices[side])),
    ):
        took = live_edits(HTTP, host, write, plan.edits, PAUSE)
        rows.append(row(f"{name}, p50, ms", percentile(took, 0.5), None, "{:.1f}"))
        rows.append(row(f"{name}, p99, ms", percentile(took, 0.99), goal, "{:.1f}"))
    requests, failed, rate, compiles = churn(api, gateway, plan.churn)
    print(f"{requests} requests in {plan.churn} s while endpoints changed {rate:.1f} times a second:")
    rows.append(row("requests that failed", failed, 0, "{}"))
    rows.append(row("hosts compiled", compiles, 0, "{}"))
    result.update(rows=rows, answers=requests, changes_per_second=rate)
    (HERE / "result.json").write_text(json.dumps(result, indent=1) + "\n")


def arguments():
    parser = argparse.ArgumentParser(description="The control plane of Gatehouse on a real Kubernetes API server.")
    plan = parser.parse_args()
    quick = os.environ.get("BENCH_QUICK", "") not in ("", "0")
    plan.count, plan.secrets, plan.edits, plan.churn, plan.starts = (1_000, 200, 20, 5, 1) if quick else (10_000, 2_000, 500, 60, 3)
    return plan


def main():
    plan = arguments()
    binary = os.environ.get(MARK)
    if not binary:
        return enter(HERE)
    measure(binary, plan)
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
