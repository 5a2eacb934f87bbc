"""Checks the files of this folder that no other tool checks: aws/*.json and grafana.json. lint.sh runs it."""

import itertools
import json
import os
import pathlib
import subprocess
import tempfile

import botocore.session
import parliament
import yaml
from botocore.validate import ParamValidator

DEPLOY = pathlib.Path(__file__).resolve().parent


class Template(yaml.SafeLoader):
    """Reads a CloudFormation template. `!Sub x` becomes x, and so on."""


def untagged(loader: yaml.Loader, _suffix: str, node: yaml.Node) -> object:
    if isinstance(node, yaml.ScalarNode):
        return loader.construct_scalar(node)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_mapping(node, deep=True)


Template.add_multi_constructor("!", untagged)


def load(name: str) -> dict:
    return json.loads((DEPLOY / name).read_text())


def check_policy(resources: dict) -> None:
    """The policy is valid, and grants what the template's role has, except for the statement for doctor."""
    policy = load("aws/policy.json")
    findings = parliament.analyze_policy_string(json.dumps(policy)).findings
    assert not findings, findings
    granted = {one["Sid"]: set(one["Action"]) for one in policy["Statement"]}
    role = resources["Role"]["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]
    assert [granted["Objects"], granted["Bucket"]] == [set(one["Action"]) for one in role], "differs from the template"
    print("deploy/aws/policy.json: clean, as in the template")


def check_bucket(resources: dict) -> None:
    """The CORS and lifecycle rules are valid requests to S3, and do what the template's do."""
    model = botocore.session.get_session().get_service_model("s3")

    def rules(name: str, operation: str, member: str) -> list[dict]:
        shape = model.operation_model(operation).input_shape.members[member]
        content = load(name)
        report = ParamValidator().validate(content, shape)
        assert not report.has_errors(), report.generate_report()
        return next(iter(content.values()))

    bucket = resources["Bucket"]["Properties"]
    [cors] = rules("aws/cors.json", "PutBucketCors", "CORSConfiguration")
    [expected] = bucket["CorsConfiguration"]["CorsRules"]
    assert set(cors["AllowedMethods"]) == set(expected["AllowedMethods"])
    assert (cors["AllowedHeaders"], cors["ExposeHeaders"]) == (expected["AllowedHeaders"], expected["ExposedHeaders"])
    print("deploy/aws/cors.json: clean, as in the template")

    lifecycle = rules("aws/lifecycle.json", "PutBucketLifecycleConfiguration", "LifecycleConfiguration")
    # The template's bucket has no versions, so it has no rule for old versions.
    names = [rule["ID"] for rule in lifecycle if "NoncurrentVersionExpiration" not in rule]
    assert names == [rule["Id"] for rule in bucket["LifecycleConfiguration"]["Rules"]]
    print("deploy/aws/lifecycle.json: clean, as in the template")


def check_dashboard() -> None:
    """The panels have different ids and places, and Prometheus can parse their expressions."""
    panels = load("grafana.json")["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for one, other in itertools.combinations(panels, 2):
        assert not overlap(one["gridPos"], other["gridPos"]), f"{one['title']} is on {other['title']}"
    expressions = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    assert len(expressions) > 20
    expressions = [expr.replace("$__rate_interval", "5m").replace("$job", ".*").replace("$instance", ".*") for expr in expressions]
    rules = [{"record": f"panel:{number}", "expr": expr} for number, expr in enumerate(expressions)]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}, file)
        file.flush()
        subprocess.run([os.environ["PROMTOOL"], "check", "rules", file.name], check=True, stdout=subprocess.DEVNULL)
    print(f"deploy/grafana.json: clean, {len(expressions)} expressions")


def overlap(one: dict, other: dict) -> bool:
    across = one["x"] < other["x"] + other["w"] and other["x"] < one["x"] + one["w"]
    return across and one["y"] < other["y"] + other["h"] and other["y"] < one["y"] + one["h"]


if __name__ == "__main__":
    template = yaml.load((DEPLOY / "template.yaml").read_text(), Template)
    check_policy(template["Resources"])
    check_bucket(template["Resources"])
    check_dashboard()
