"""Exports spans to a collector in this process (OTLP over HTTP, protobuf), and checks what they contain."""

import http.server
import queue
import tempfile
import threading

import httpx
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from service import ROOT, service

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"
KEY = "the-secret-api-key-of-this-test"


class Collector(http.server.BaseHTTPRequestHandler):
    """Accepts exports, and keeps them in `received`."""

    received: queue.Queue[tuple[str, bytes]] = queue.Queue()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        assert self.headers["content-type"] == "application/x-protobuf"
        assert self.headers["x-collector-key"] == "collector-key", "OTEL_EXPORTER_OTLP_HEADERS"
        self.received.put((self.path, body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def exercise(base: str) -> list[str]:
    """Sends one request of each kind. Returns the secrets that they contained."""
    client = httpx.Client(base_url=base, headers={"authorization": f"Bearer {KEY}"})
    image = (ROOT / "tests/fixtures/plain.png").read_bytes()
    caller = {"traceparent": f"00-{TRACE}-{CALLER}-01", "tracestate": "vendor=opaque"}
    stored = client.post("/upload-image", files={"file": ("a.png", image)}, headers=caller).json()
    plan = client.post("/uploads", json={"filename": "b.png", "size": 6 << 20}).json()
    assert client.get(plan["status_url"]).status_code == 200
    assert client.delete(plan["abort_url"]).status_code == 204
    grant = client.post("/grants", json={}).json()["grant"]
    assert client.get(f"/g/{grant}/limits?private=query").status_code == 200
    assert client.post("/upload-image", content=b"no image", headers={"content-type": "image/png"}).status_code == 400
    unsampled = {"traceparent": f"00-{'a' * 32}-{CALLER}-00"}
    assert client.get(f"/images/{stored['s3_key']}", headers=unsampled).status_code == 307
    link = plan["status_url"].partition("plan=")[2]
    return [KEY, grant, link, "private", "X-Amz", "Signature", "collector-key", "uploadId"]


def spans(exports: list[bytes]) -> list[Span]:
    found = []
    for export in exports:
        for resource in ExportTraceServiceRequest.FromString(export).resource_spans:
            attributes = {each.key: each.value.string_value for each in resource.resource.attributes}
            assert attributes["service.name"] == "image-store" and attributes["service.version"], attributes
            found += [span for scope in resource.scope_spans for span in scope.spans]
    return found


def attribute(span: Span, name: str) -> str | int | None:
    values = [each.value for each in span.attributes if each.key == name]
    return (values[0].string_value or values[0].int_value) if values else None


def check(found: list[Span]) -> None:
    servers = [span for span in found if span.kind == Span.SPAN_KIND_SERVER]
    names = [span.name for span in servers]
    for name in ["POST /uploads", "GET /uploads/{s3_key}", "POST /grants", "GET /limits"]:
        assert name in names, names
    continued = [span for span in found if span.trace_id.hex() == TRACE]
    (upload,) = [span for span in continued if span.kind == Span.SPAN_KIND_SERVER]
    assert (upload.name, upload.parent_span_id.hex()) == ("POST /upload-image", CALLER)
    assert upload.trace_state == "vendor=opaque"
    assert attribute(upload, "http.response.status_code") == 200
    assert attribute(upload, "http.route") == "/upload-image"
    assert attribute(upload, "http.request.body.size") > 0
    calls = [span for span in continued if span.kind == Span.SPAN_KIND_CLIENT]
    assert "PutObject" in [span.name for span in calls], calls
    for call in calls:
        assert call.parent_span_id == upload.span_id
        assert upload.start_time_unix_nano <= call.start_time_unix_nano + 1_000_000_000
        assert call.start_time_unix_nano <= call.end_time_unix_nano
    (refused,) = [span for span in servers if attribute(span, "error.type")]
    assert attribute(refused, "error.type") == "invalid_file_type"
    assert attribute(refused, "http.response.status_code") == 400
    assert refused.trace_id.hex() != TRACE and not refused.parent_span_id, "a trace of its own"
    assert not [span for span in found if span.trace_id.hex() == "a" * 32], "the caller has not sampled this trace"


def main() -> None:
    collector = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    settings = {
        "API_KEYS": KEY,
        "DIRECT_PUT_MAX": "5MiB",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
        "OTEL_EXPORTER_OTLP_HEADERS": "x-collector-key=collector-key",
    }
    with tempfile.TemporaryDirectory() as data, service(DATA_DIR=data, **settings) as base:
        secrets = exercise(base)
    # The service exports the last spans before it ends.
    collector.shutdown()
    exports = [Collector.received.get() for _ in range(Collector.received.qsize())]
    assert exports and {path for path, _ in exports} == {"/v1/traces"}, exports
    for secret in secrets:
        assert not any(secret.encode() in body for _, body in exports), f"{secret} is in a span"
    check(spans([body for _, body in exports]))
    print("spans are exported with the caller's trace, and without secrets")


if __name__ == "__main__":
    main()
