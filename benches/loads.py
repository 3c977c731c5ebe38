"""The loads: each drives a subject for some seconds and returns how many answers were good."""

import multiprocessing
import os
import re
import signal
import socket
import ssl
import subprocess
import time

from process import STARTED, Stop, end_with_parent

LOAD_CORE = 1
HOST = "app-05000.bench.test"


def run_tool(command):
    done = subprocess.Popen(
        ["taskset", "-c", str(LOAD_CORE), *map(str, command)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=end_with_parent, start_new_session=True,
    )
    STARTED.append(done)
    output = done.communicate()[0]
    STARTED.remove(done)
    if done.returncode:
        raise Stop(f"{command[0]} failed with status {done.returncode}:\n{output}")
    return output


def wrk(url, seconds, connections=64):
    output = run_tool(["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-H", f"Host: {HOST}", url])
    if bad := re.search(r"(Non-2xx.*|Socket errors: (?!connect 0, read 0, write 0).*)", output):
        raise Stop(f"{url}: the load saw failures, so the figure would be worthless: {bad.group(1)}")
    return int(re.search(r"(\d+) requests in", output).group(1))


def h2load(subject, seconds):
    output = run_tool(["h2load", "-t1", "-c16", "-m16", "-D", seconds, f"--connect-to=127.0.0.1:{subject.https}",
                       f"https://{HOST}:{subject.https}/"])
    good = int(re.search(r"status codes: (\d+) 2xx", output).group(1))
    others = re.search(r"status codes: \d+ 2xx, (.*)", output).group(1)
    if not good or re.search(r"[1-9]", re.sub(r"\dxx", "", others)):
        raise Stop(f"{subject}: the HTTP/2 load saw failures: {good} 2xx, {others}")
    return good


def handshakes_of_one(port, deadline, results):
    """Whole handshakes one after the other: a new session each, one request, then the end."""
    os.sched_setaffinity(0, {LOAD_CORE})
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    request = f"GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode()
    count = 0
    try:
        while time.monotonic() < deadline:
            with socket.create_connection(("127.0.0.1", port), 5) as raw:
                with context.wrap_socket(raw, server_hostname=HOST) as connection:
                    connection.sendall(request)
                    data = b"".join(iter(lambda: connection.recv(65536), b""))
                    if connection.session_reused or not data.startswith(b"HTTP/1.1 200"):
                        raise OSError(f"resumed session or bad answer: {data[:60]!r}")
            count += 1
        results.put(count)
    except OSError as error:
        results.put(str(error))


def handshakes(subject, seconds):
    """Python and not wrk: wrk may resume the session of the connection before."""
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    deadline = time.monotonic() + seconds
    clients = [context.Process(target=handshakes_of_one, args=(subject.https, deadline, results), daemon=True) for _ in range(8)]
    for client in clients:
        client.start()
    counts = [results.get(timeout=seconds + 20) for _ in clients]
    for client in clients:
        client.join()
    if failed := [count for count in counts if isinstance(count, str)]:
        raise Stop(f"{subject}: a handshake failed: {failed[0]}")
    return sum(counts)


ROWS = [
    # name, goal (ratio to nginx, None is information), load
    ("HTTP/1.1 keep-alive, 64 connections", 1.10, lambda s, t: wrk(f"http://127.0.0.1:{s.http}/", t)),
    ("TLS 1.3 keep-alive, 64 connections", 0.90, lambda s, t: wrk(f"https://127.0.0.1:{s.https}/", t)),
    ("HTTP/2 over TLS, 16 connections of 16 streams", 0.95, h2load),
    ("full TLS 1.3 handshake, P-256, and one request", 0.75, handshakes),
    ("64 KiB body, HTTP/1.1 keep-alive, 64 connections", None, lambda s, t: wrk(f"http://127.0.0.1:{s.http}/64k", t)),
    ("64 KiB body, TLS 1.3 keep-alive, 64 connections", None, lambda s, t: wrk(f"https://127.0.0.1:{s.https}/64k", t)),
]
