#!/usr/bin/env python3
"""Measures cold starts of a Lambda function on this machine.

Serves the Runtime API, starts a command as Lambda does, sends it one upload, and measures the time from exec to the answer
and the peak resident memory of the process. Prints one JSON object. Uses only the standard library.

    runtime_api.py --runs 10 --image tests/fixtures/plain.jpg -- target/lambda/image-store/bootstrap
"""

import argparse
import base64
import json
import os
import queue
import statistics
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BOUNDARY = "----boundary"


def event(image: str) -> bytes:
    """Returns the event of a form upload through a function URL (payload 2.0)."""
    with open(image, "rb") as file:
        content = file.read()
    name = os.path.basename(image)
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
    head += "Content-Type: image/jpeg\r\n\r\n"
    body = head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()
    host = "abcdefghijklmnopqrstuvwxyz012345.lambda-url.eu-north-1.on.aws"
    http = {"method": "POST", "path": "/upload-image", "protocol": "HTTP/1.1", "sourceIp": "203.0.113.7", "userAgent": "x"}
    return json.dumps(
        {
            "version": "2.0",
            "routeKey": "$default",
            "rawPath": "/upload-image",
            "rawQueryString": "",
            "headers": {
                "content-type": f"multipart/form-data; boundary={BOUNDARY}",
                "content-length": str(len(body)),
                "host": host,
            },
            "requestContext": {
                "accountId": "anonymous",
                "apiId": "abcdef",
                "domainName": host,
                "domainPrefix": "abcdef",
                "http": http,
                "requestId": "1",
                "routeKey": "$default",
                "stage": "$default",
                "time": "22/Nov/2026:18:00:00 +0000",
                "timeEpoch": 1795370400000,
            },
            "body": base64.b64encode(body).decode(),
            "isBase64Encoded": True,
        }
    ).encode()


class RuntimeApi(BaseHTTPRequestHandler):
    """Serves one invocation. The second request for one waits until the process is killed."""

    protocol_version = "HTTP/1.1"
    # Otherwise headers and body would be two packets, the second of which waits for an acknowledgement.
    wbufsize = -1
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def answer(self, status: int, body: bytes, headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def do_GET(self):
        if not self.path.endswith("/runtime/invocation/next"):
            threading.Event().wait()  # there is never an event for the extension
        payload = self.server.events.get()
        deadline = str(int((time.time() + 30) * 1000))
        headers = [
            ("Content-Type", "application/json"),
            ("Lambda-Runtime-Aws-Request-Id", "00000000-0000-4000-8000-000000000000"),
            ("Lambda-Runtime-Deadline-Ms", deadline),
            ("Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:eu-north-1:123456789012:function:images"),
        ]
        self.answer(200, payload, headers)

    def do_POST(self):
        length = self.headers.get("Content-Length")
        body = self.chunks() if length is None else self.rfile.read(int(length))
        if self.path.endswith("/extension/register"):
            about = {"functionName": "images", "functionVersion": "$LATEST", "handler": "bootstrap"}
            self.answer(200, json.dumps(about).encode(), [("Lambda-Extension-Identifier", "1")])
            return
        self.server.answers.put((time.perf_counter(), self.path, body))
        self.answer(202, b"{}")

    def chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """Ignores errors: the measured process is killed while it waits, so its connections break."""


def peak_mib(pid: int) -> float:
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def measure(command: list, payload: bytes) -> dict:
    server = Server(("127.0.0.1", 0), RuntimeApi)
    server.events, server.answers = queue.Queue(), queue.Queue()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    server.events.put(payload)
    environment = dict(
        os.environ,
        AWS_LAMBDA_RUNTIME_API=f"127.0.0.1:{server.server_port}",
        AWS_LAMBDA_FUNCTION_NAME="images",
        AWS_LAMBDA_FUNCTION_MEMORY_SIZE="512",
        AWS_LAMBDA_FUNCTION_VERSION="$LATEST",
        AWS_LAMBDA_LOG_GROUP_NAME="/aws/lambda/images",
        AWS_LAMBDA_LOG_STREAM_NAME="1",
    )
    began = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        ended, path, body = server.answers.get(timeout=30)
        peak = peak_mib(process.pid)
        answer = json.loads(body)
        if not path.endswith("/response") or answer.get("statusCode") != 200:
            sys.exit(f"{command[0]} did not store the image: {path} {body[:500]!r}")
        return {"ms": (ended - began) * 1000, "mib": peak}
    except queue.Empty:
        process.kill()
        sys.exit(f"{command[0]} did not respond: {process.stderr.read()[-2000:].decode()}")
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
        server.shutdown()
        server.server_close()


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--runs", type=int, default=10)
    arguments.add_argument("--image", required=True)
    arguments.add_argument("command", nargs="+")
    given = arguments.parse_args()
    payload = event(given.image)
    measure(given.command, payload)  # fills the file cache
    runs = [measure(given.command, payload) for _ in range(given.runs)]
    times = [run["ms"] for run in runs]
    result = {"median_ms": statistics.median(times), "min_ms": min(times), "max_ms": max(times)}
    result["peak_mib"] = max(run["mib"] for run in runs)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
