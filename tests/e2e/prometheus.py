"""Lets a real Prometheus scrape the service, with deploy/alerts.yaml, and evaluates each expression of deploy/grafana.json.

PROMETHEUS is the program.
"""

import json
import os
import pathlib
import re
import subprocess
import tempfile
import time
from collections.abc import Callable

import httpx
import yaml
from service import ROOT, service

IMAGE = ROOT / "tests/fixtures/plain.png"
REPEATED = {"Content-Type": "image/png", "Idempotency-Key": "repeated"}
RESUMABLE = {"Upload-Complete": "?0", "Content-Type": "image/png"}
# These need what this test does not do: direct uploads, grants, aborted uploads.
MAY_BE_EMPTY = {"Verified direct uploads", "Grants", "Aborted uploads by reason", "Calls that did not succeed", "Requests that fail"}


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.2)


def query(base: str, path: str, **parameters: str) -> dict | list:
    answer = httpx.get(f"{base}/api/v1/{path}", params=parameters)
    assert answer.is_success, answer.text
    return answer.json()["data"]


def expressions() -> list[tuple[str, str]]:
    panels = json.loads((ROOT / "deploy/grafana.json").read_text())["panels"]
    return [(panel["title"], target["expr"]) for panel in panels for target in panel.get("targets", [])]


def check(prometheus: str, service_url: str) -> None:
    def has_two_samples() -> bool:
        # Rates need two samples. The form is the last request, so the others have as many samples.
        for _ in range(2):
            httpx.post(f"{service_url}/images", content=IMAGE.read_bytes(), headers=REPEATED).raise_for_status()
        httpx.post(f"{service_url}/files", headers=RESUMABLE).raise_for_status()
        assert httpx.post(f"{service_url}/images").is_client_error
        httpx.post(f"{service_url}/images", files={"file": IMAGE.open("rb")}).raise_for_status()
        rate = 'rate(image_store_upload_duration_seconds_count{method="form"}[1m]) > 0'
        return bool(query(prometheus, "query", query=rate)["result"])

    until(has_two_samples, "Prometheus has scraped the service")
    for title, expression in expressions():
        for variable, value in {"$__rate_interval": "1m", "$job": "image-store", "$instance": ".*"}.items():
            expression = expression.replace(variable, value)
        result = query(prometheus, "query", query=expression)["result"]
        assert result or title in MAY_BE_EMPTY, f"no data for {title}: {expression}"
    alerts = [rule["name"] for group in query(prometheus, "rules")["groups"] for rule in group["rules"]]
    firing = query(prometheus, "alerts")["alerts"]
    assert len(alerts) > 5 and not firing, firing


def listening(log: pathlib.Path) -> str:
    """Waits until Prometheus is ready. Returns its address."""
    until(lambda: "Server is ready" in log.read_text(), f"Prometheus starts: {log.read_text()}")
    return "http://" + re.search(r'msg="?Listening on"? address=(\S+)', log.read_text()).group(1)


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary, service(DATA_DIR=f"{temporary}/data", RUST_LOG="warn") as base:
        folder = pathlib.Path(temporary)
        target = base.removeprefix("http://")
        scrape = {"job_name": "image-store", "scrape_interval": "1s", "static_configs": [{"targets": [target]}]}
        config = {"rule_files": [str(ROOT / "deploy/alerts.yaml")], "scrape_configs": [scrape]}
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        with open(folder / "log", "w") as log:
            server = subprocess.Popen(
                [os.environ["PROMETHEUS"], f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/tsdb",
                 "--web.listen-address=127.0.0.1:0"],
                stdout=log, stderr=log,
            )
        try:
            check(listening(folder / "log"), base)
        finally:
            server.terminate()
            server.wait()
    print(f"Prometheus: {len(expressions())} expressions of the dashboard have data or are valid, no alert fires")


if __name__ == "__main__":
    main()
