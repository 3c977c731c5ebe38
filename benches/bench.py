#!/usr/bin/env python3
"""Measures Gatehouse against nginx: CPU time of the proxy process per request.

The proxy runs alone on core 0 with one worker; load generator and backend share core 1. Runs alternate
(nginx, gatehouse, nginx, ...), so that drift of the machine hits both, and the figure is the median of the
ratios of neighbouring runs. Throughput is not the figure: on two cores the load generator limits it.

Nothing outside target/bench is written, every process started is ended by its process id, whatever happens.
Python 3.9 or newer, standard library only. See benches/README.md and docs/performance.md.
"""

import argparse
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

from loads import HOST, LOAD_CORE, ROWS
from manifests import endpoint_slice, ingress, replace, write_manifests
from process import Stop, cpu_seconds, end, memory_mib, pin, run, spawn

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "target" / "bench"
MARK = "GATEHOUSE_BENCH_INSIDE"
PROXY_CORE = 0
HOLD_OFF = 0.020
PAUSE = 0.25
TOOLS = {"nginx": "nginx", "wrk": "wrk", "h2load": "nghttp2-client", "openssl": "openssl", "taskset": "util-linux"}
PORTS = [
    "backend", "backend_b", "nginx_http", "nginx_https", "second_http", "second_https",
    "many_http", "many_https", "many_admin", "one_http", "one_https", "one_admin",
]


# ---- preparation -------------------------------------------------------------------------------------------


def install_tools():
    """Installs what is missing with apt-get; says what to do where that is impossible."""
    path = os.environ.get("PATH", "")
    os.environ["PATH"] = f"{path}:/usr/sbin:/sbin"
    missing = sorted({package for tool, package in TOOLS.items() if not shutil.which(tool)})
    if not missing:
        return
    names = " ".join(missing)
    if not shutil.which("apt-get"):
        raise Stop(f"These programs are needed and apt-get is not here to install them; please install: {names}")
    prefix = [] if os.geteuid() == 0 else ["sudo", "-n"]
    print(f"Installing {names} ...", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *missing]):
        try:
            done = subprocess.run([*prefix, "apt-get", *arguments], env=environment, stdout=subprocess.DEVNULL)
        except FileNotFoundError:
            raise Stop(f"Neither root nor sudo: please install {names} yourself and start again.") from None
        if done.returncode and arguments[0] == "install":
            raise Stop(f"apt-get could not install {names} (exit status {done.returncode}); please install it by hand.")


def build_gateway():
    """The release binary: BENCH_BINARY, or what cargo builds now."""
    if given := os.environ.get("BENCH_BINARY"):
        if not os.access(given, os.X_OK):
            raise Stop(f"BENCH_BINARY={given} is not an executable file.")
        return given
    print("Building the release binary ...", flush=True)
    command = ["cargo", "build", "--release", "--locked", "-p", "gatehouse", "--message-format=json-render-diagnostics"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise Stop("The build failed, see above; nothing was measured.")
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == "gatehouse":
            return message["executable"]
    raise Stop("cargo built no binary with the name gatehouse.")


def enter(folder, *setup):
    """Runs this program again in namespaces of its own, with the binary in MARK; the answer is its exit status."""
    install_tools()
    subprocess.run([ROOT / "scripts" / "test-setup", *setup], check=True)
    binary = build_gateway()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    flags = ["--net"] if os.geteuid() == 0 else ["--map-root-user", "--net"]
    command = ["unshare", *flags, "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, *sys.argv]
    return subprocess.run(command, env={**os.environ, MARK: binary}).returncode


def take_ports(base):
    """Names to port numbers; refuses when one of them is in use."""
    ports = {name: base + offset for offset, name in enumerate(PORTS)}
    for port in ports.values():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                raise Stop(
                    f"Port {port} on 127.0.0.1 is taken ({error.strerror}). The benchmark needs {base} to "
                    f"{base + len(PORTS) - 1}; choose others with BENCH_PORT=NUMBER."
                ) from None
    return ports


def make_certificate(directory):
    """A P-256 key with a self-signed certificate, the same pair for every proxy."""
    key, certificate = directory / "key.pem", directory / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
         "-subj", "/CN=bench.test", "-addext", "subjectAltName=DNS:*.bench.test", "-keyout", key, "-out", certificate],
        check=True, stderr=subprocess.DEVNULL,
    )
    return key, certificate


def write_nginx(directory, servers):
    directory.mkdir(parents=True, exist_ok=True)
    text = (ROOT / "benches" / "nginx.conf.template").read_text()
    path = directory / "nginx.conf"
    path.write_text(text.replace("@DIR@", str(directory)).replace("@SERVERS@", servers))
    return path


def backend_servers(ports, directory):
    """Two servers, so that an edit can be seen: each answers 120 bytes that begin with its letter."""
    (directory / "files").mkdir(parents=True, exist_ok=True)
    (directory / "files" / "64k").write_bytes(b"x" * 65536)
    return "".join(
        f"""
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        default_type text/plain;
        root {directory}/files;
        location / {{ return 200 "{letter * 120}"; }}
        location = /64k {{ open_file_cache max=16; }}
    }}"""
        for letter, port in (("a", ports["backend"]), ("b", ports["backend_b"]))
    )


def proxy_servers(ports, which, key, certificate):
    """nginx as a proxy doing the same work: upstream keep-alive, the same forwarded headers, same key."""
    return f"""
    upstream backend {{
        server 127.0.0.1:{ports["backend"]};
        keepalive 512;
        keepalive_requests 1000000000;
        keepalive_time 24h;
        keepalive_timeout 1h;
    }}
    server {{
        listen 127.0.0.1:{ports[which + "_http"]} backlog=4096;
        listen 127.0.0.1:{ports[which + "_https"]} ssl http2 backlog=4096;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        ssl_protocols TLSv1.2 TLSv1.3;
        http2_max_concurrent_streams 128;
        location / {{
            proxy_pass http://backend;
            proxy_http_version 1.1;
            proxy_buffers 8 16k;
            proxy_max_temp_file_size 0;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_set_header X-Request-ID $request_id;
            proxy_set_header X-Real-IP $remote_addr;
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header X-Forwarded-Host $http_host;
            proxy_set_header X-Forwarded-Port $server_port;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Forwarded-Scheme $scheme;
            proxy_set_header X-Scheme $scheme;
        }}
    }}"""


# ---- subjects ----------------------------------------------------------------------------------------------


class Subject:
    """A running proxy."""

    def __init__(self, label, process, http, https):
        self.label, self.process, self.http, self.https = label, process, http, https

    def __str__(self):
        return self.label


def answers(port, host, path="/"):
    """The body of one GET over a fresh connection, None while nobody answers."""
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as connection:
            connection.settimeout(2)
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            data = b"".join(iter(lambda: connection.recv(65536), b""))
    except OSError:
        return None
    head, _, body = data.partition(b"\r\n\r\n")
    return body if head.split(b" ", 2)[1:2] == [b"200"] else None


def wait_for(port, host, process, what):
    deadline = time.monotonic() + 10
    while answers(port, host) is None:
        if process.poll() is not None:
            raise Stop(f"{what} ended with status {process.returncode} instead of serving; its log is below {OUT}.")
        if time.monotonic() > deadline:
            raise Stop(f"{what} does not answer 200 for http://{host}/ on port {port}; its log is below {OUT}.")
        time.sleep(0.02)


def start_nginx(label, directory, servers, http, https, core):
    configuration = write_nginx(directory, servers)
    log = open(directory / "stderr.log", "wb")
    process = spawn(["nginx", "-e", directory / "error.log", "-c", configuration], core, stderr=log)
    wait_for(http, HOST, process, label)
    return Subject(label, process, http, https)


def launch(command, label, log):
    """Starts a gateway; the answer is the process and the seconds to its ready line."""
    ready = threading.Event()
    before = time.monotonic()
    process = spawn(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    took = []

    def follow():
        with open(log, "wb") as file:
            for line in process.stderr:
                if b"ready" in line.lower() and not ready.is_set():
                    took.append(time.monotonic() - before)
                    ready.set()
                file.write(line)
                file.flush()
        ready.set()

    threading.Thread(target=follow, daemon=True).start()
    if not ready.wait(120) or not took:
        tail = log.read_text(errors="replace")[-2000:] if log.exists() else ""
        raise Stop(f"{label} printed no ready line within 120 s or ended before it. The end of its log:\n{tail}")
    return process, took[0]


def start_gateway(binary, label, manifests, ports, which):
    """Starts it on all cores, times it to its ready line, then moves it to the core of the proxy."""
    command = [binary, "run", "--dir", manifests, "--workers", "1", "--access-log", "off",
               "--default-ssl-certificate", "bench/cert"]
    for name in ("http", "https", "admin"):
        command += [f"--{name}-listen", f"127.0.0.1:{ports[f'{which}_{name}']}"]
    process, took = launch(command, label, OUT / f"gatehouse-{which}.log")
    subject = Subject(label, process, ports[f"{which}_http"], ports[f"{which}_https"])
    subject.ready = took
    wait_for(subject.http, HOST, process, label)
    pin(process.pid, PROXY_CORE)
    return subject


# ---- measuring ---------------------------------------------------------------------------------------------


def once(subject, load, seconds):
    """CPU microseconds for each request, and requests per second."""
    before = cpu_seconds(subject.process.pid)
    started = time.monotonic()
    count = load(subject, seconds)
    took = time.monotonic() - started
    if not count:
        raise Stop(f"{subject}: not one request was answered within {seconds} s.")
    return (cpu_seconds(subject.process.pid) - before) / count * 1e6, count / took


def compare(name, goal, left, right, load, plan):
    """Alternating runs; the median of the ratios of neighbours, and the median of each side."""
    for subject in (left, right):
        once(subject, load, 1)
    pairs = []
    for index in range(plan.pairs):
        order = (left, right) if index % 2 == 0 else (right, left)
        figures = {subject: once(subject, load, plan.seconds) for subject in order}
        pairs.append((figures[left], figures[right]))
    ratios = sorted(b[0] / a[0] for a, b in pairs)
    row = {
        "name": name, "goal": goal, "left": left.label, "right": right.label,
        "left_us": statistics.median(a[0] for a, _ in pairs), "right_us": statistics.median(b[0] for _, b in pairs),
        "ratio": statistics.median(ratios), "ratio_min": ratios[0], "ratio_max": ratios[-1],
        "left_per_second": statistics.median(a[1] for a, _ in pairs),
        "right_per_second": statistics.median(b[1] for _, b in pairs),
        "pairs": [{"left_us": a[0], "right_us": b[0]} for a, b in pairs],
    }
    show(row)
    return row


def verdict(value, goal, form):
    if goal is None:
        return "information"
    return f"goal {form.format(goal)}: " + ("reached" if value <= goal else f"missed by {form.format(value - goal)}")


def show_head(left, right):
    print(f"\n{'CPU per request':<50}{left:>14}{right:>18}{'ratio':>8}  {'(spread)':<14}")


def show(row):
    spread = f"({row['ratio_min']:.2f}-{row['ratio_max']:.2f})"
    print(f"{row['name']:<50}{row['left_us']:>11.1f} us{row['right_us']:>15.1f} us{row['ratio']:>8.3f}  {spread:<14}"
          f"{verdict(row['ratio'], row['goal'], '{:.2f}')}", flush=True)


class Watch:
    """One keep-alive connection that asks again and again which backend answers."""

    def __init__(self, port, host):
        self.socket = socket.create_connection(("127.0.0.1", port), 5)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.request = f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()

    def letter(self):
        self.socket.sendall(self.request)
        data = b""
        while len(data.partition(b"\r\n\r\n")[2]) < 120:
            part = self.socket.recv(65536)
            if not part:
                raise Stop("The gateway closed the connection that watches an edit.")
            data += part
            if not data.startswith(b"HTTP/1.1 200"):
                raise Stop(f"While an edit was under way the gateway answered {data[:60]!r}.")
        return data[-1:].decode()


def live_edits(port, host, write, count, pause):
    """Milliseconds from the begin of a write to the first answer that shows it; `write` gets the letter of the wanted backend."""
    watch = Watch(port, host)
    took = []
    for number in range(count):
        wanted = "ba"[number % 2]
        if watch.letter() == wanted:
            raise Stop(f"{host} answers from the other backend before the edit.")
        time.sleep(pause)
        before = time.perf_counter()
        write(wanted)
        while watch.letter() != wanted:
            if time.perf_counter() - before > 10:
                raise Stop(f"The edit of {host} was not seen within 10 s.")
            time.sleep(0.0002)
        took.append((time.perf_counter() - before) * 1000)
    watch.socket.close()
    return took


def timing(name, values, goal, less=0.0):
    ordered = sorted(values)
    row = {"name": name, "goal_ms": goal, "median_ms": statistics.median(values) - less, "min_ms": ordered[0] - less,
           "p90_ms": ordered[int(len(ordered) * 0.9) - (len(ordered) >= 10)] - less, "count": len(values)}
    print(f"{name:<64}{row['median_ms']:>10.1f} ms  p90 {row['p90_ms']:.1f}, n={row['count']:<4}"
          f"{verdict(row['median_ms'], goal, '{:.1f} ms')}", flush=True)
    return row


def control_plane(subject, manifests, ports, starts, edits):
    """What the control plane takes: a whole start, one edited Ingress, one EndpointSlice."""
    print("\nControl plane, median")
    live = manifests / "live"
    os.sched_setaffinity(0, {LOAD_CORE})
    ingresses = {"a": ingress("edited", "edited.bench.test", "side-a"), "b": ingress("edited", "edited.bench.test", "side-b")}
    slices = {"a": endpoint_slice("moving", ports["backend"]), "b": endpoint_slice("moving", ports["backend_b"])}
    return [
        timing("start with 10,000 Ingresses, exec to ready line", [s * 1000 for s in starts], None),
        timing("one edited Ingress live, after its hold-off of 20 ms",
               live_edits(subject.http, "edited.bench.test", lambda side: replace(live / "edited.yaml", ingresses[side]), edits,
                          PAUSE), 50, HOLD_OFF * 1000),
        timing("EndpointSlice changed, new endpoint answers",
               live_edits(subject.http, "moving.bench.test", lambda side: replace(live / "moving-slice.yaml", slices[side]), edits, PAUSE), 10),
    ]


def machine():
    model = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    version = subprocess.run(["nginx", "-v"], capture_output=True, text=True).stderr.strip()
    return {"cpu": model.group(1) if model else "unknown", "cores": os.cpu_count(), "kernel": os.uname().release,
            "nginx": version.removeprefix("nginx version: "), "load": os.getloadavg()[0]}


def measure(plan, ports):
    result = {"machine": machine(), "seconds": plan.seconds, "pairs": plan.pairs, "rows": [], "control": []}
    print("{cpu}, {cores} cores, Linux {kernel}, {nginx}, load average {load:.2f}".format(**result["machine"]))
    key, certificate = make_certificate(OUT)
    start_nginx("backend", OUT / "backend", backend_servers(ports, OUT / "backend"), ports["backend"], None, LOAD_CORE)
    nginx = start_nginx("nginx", OUT / "nginx", proxy_servers(ports, "nginx", key, certificate),
                        ports["nginx_http"], ports["nginx_https"], PROXY_CORE)
    if plan.self_check:
        second = start_nginx("nginx again", OUT / "second", proxy_servers(ports, "second", key, certificate),
                             ports["second_http"], ports["second_https"], PROXY_CORE)
        show_head("nginx", "nginx again")
        result["rows"] = [compare(name, None, nginx, second, load, plan) for name, _, load in plan.rows]
        return result
    manifests = OUT / "manifests"
    write_manifests(manifests / "many", range(10_000), ports, key, certificate)
    write_manifests(manifests / "one", [5_000], ports, key, certificate)
    starts = []
    for _ in range(plan.starts):
        many = start_gateway(plan.binary, "gatehouse", manifests / "many", ports, "many")
        starts.append(many.ready)
        if len(starts) < plan.starts:
            end(many.process)
    one = start_gateway(plan.binary, "with 1 host", manifests / "one", ports, "one")
    show_head("nginx", "gatehouse")
    result["rows"] = [compare(name, goal, nginx, many, load, plan) for name, goal, load in plan.rows]
    show_head("1 host", "10,000 hosts")
    name, _, load = ROWS[0]
    many.label = "with 10,000 hosts"
    result["rows"].append(compare(name, 1.03, one, many, load, plan))
    end(one.process)
    result["memory_mib"] = memory_mib(many.process.pid)
    result["control"] = control_plane(many, manifests / "many", ports, starts, plan.edits)
    print(f"{'resident memory with 10,000 Ingresses, after all loads':<64}{result['memory_mib']:>10.1f} MiB")
    return result


def arguments():
    parser = argparse.ArgumentParser(description="Gatehouse against nginx: CPU time of the proxy per request.")
    parser.add_argument("--self-check", action="store_true", help="nginx against nginx: every ratio should be near 1.00")
    parser.add_argument("--only", metavar="WORD", default="", help="only rows whose name contains this")
    plan = parser.parse_args()
    quick = os.environ.get("BENCH_QUICK", "") not in ("", "0")
    plan.seconds, plan.pairs, plan.starts, plan.edits = (2, 3, 1, 10) if quick else (4, 5, 3, 50)
    plan.seconds = int(os.environ.get("BENCH_SECONDS", plan.seconds))
    plan.pairs = int(os.environ.get("BENCH_PAIRS", plan.pairs))
    plan.rows = [row for row in ROWS if plan.only.lower() in row[0].lower()]
    plan.binary = None
    return plan


def main():
    def interrupted(number, _frame):
        if stopping.is_set():
            return
        stopping.set()
        raise Stop(f"Stopped by {signal.Signals(number).name}; all processes were ended.")

    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    started = time.monotonic()
    plan = arguments()
    if len(os.sched_getaffinity(0)) < 2:
        raise Stop("Two cores are needed: one for the proxy, one for load generator and backend.")
    install_tools()
    if not plan.self_check:
        plan.binary = build_gateway()
    ports = take_ports(int(os.environ.get("BENCH_PORT", "19080")))
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    result = measure(plan, ports)
    (OUT / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"\nAll figures: {(OUT / 'result.json').relative_to(ROOT)}. Took {time.monotonic() - started:.0f} s.")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(run(main))
    finally:
        shutil.rmtree(OUT / "manifests", ignore_errors=True)
