"""The jsonschema validator against texts that the daemon wrote under a schema, drawn at temperature 1."""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "lib"))

from jsonschema import Draft202012Validator, FormatChecker
from peer import REPOSITORY, run

SCHEMAS = json.loads((REPOSITORY / "tests/fixtures/schemas.json").read_text())
# What the daemon's own test has no check for.
MORE = [
    {"type": "string", "format": "date"},
    {"type": "string", "format": "ipv4"},
    {"type": "array", "prefixItems": [{"type": "integer", "minimum": 0, "maximum": 9}, {"enum": ["a", "b"]}],
     "items": False, "minItems": 2},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1, "multipleOf": 0.25},
    {"type": "object", "patternProperties": {"^k[0-9]$": {"type": "boolean"}}, "additionalProperties": False,
     "maxProperties": 2},
    {"oneOf": [{"type": "object", "properties": {"kind": {"const": "a"}, "n": {"type": "integer", "maximum": 7,
     "minimum": 0}}, "required": ["kind", "n"], "additionalProperties": False},
     {"type": "object", "properties": {"kind": {"const": "b"}}, "required": ["kind"], "additionalProperties": False}]},
]
SEEDS = 5


def answers(requests):
    """Sends every request on one connection and returns the last answers by id."""
    with tempfile.TemporaryDirectory(prefix="tern-peer-") as folder:
        path = Path(folder)
        (path / "tern.toml").write_text("[limits]\nqueue = 1000\nclient_queue = 1000\n")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TERN_")}
        environment["TERN_TUNE"] = "off"
        command = [sys.argv[1], "serve", "--config", path / "tern.toml", "--socket", path / "t.sock"]
        daemon = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        try:
            assert any("ready on" in line for line in daemon.stderr), "the daemon did not start"
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(120)
                client.connect(str(path / "t.sock"))
                client.sendall("".join(json.dumps(request) + "\n" for request in requests).encode())
                client.shutdown(socket.SHUT_WR)
                lines = client.makefile(encoding="utf-8")
                return {answer["id"]: answer for answer in map(json.loads, lines) if answer["type"] != "token"}
        finally:
            daemon.kill()
            daemon.wait()


def format_checker():
    """The library's own, but for the year 0000: RFC 3339 has it and Python's calendar begins with 1. It is a leap year."""
    checker = FormatChecker()
    for name in {"date", "date-time"} & checker.checkers.keys():
        check, raises = checker.checkers[name]
        checker.checkers[name] = (
            lambda text, check=check: check("2000" + text[4:] if isinstance(text, str) and text[:5] == "0000-" else text),
            raises,
        )
    return checker


def test_what_finishes_is_valid():
    schemas = SCHEMAS + MORE
    requests = []
    for index, schema in enumerate(schemas):
        Draft202012Validator.check_schema(schema)
        for seed in range(SEEDS):
            sampling = {"temperature": 1.0, "seed": seed + 100}
            generate = {"prompt": "usb 1-1: error -71", "max_tokens": 160, "sampling": sampling, "schema": schema}
            requests.append({"id": f"{index} {seed}", "generate": generate})
    found = answers(requests)
    assert len(found) == len(requests)
    finished, cut = 0, 0
    for name, answer in found.items():
        assert answer["type"] == "text", answer
        if answer["finish"] != "stop_token":
            assert answer["finish"] == "max_tokens", answer
            cut += 1
            continue
        value = json.loads(answer["text"])
        schema = schemas[int(name.split()[0])]
        Draft202012Validator(schema, format_checker=format_checker()).validate(value)
        # Compact: no space stands between its strings.
        assert not re.search(r"\s", re.sub(r'"(?:[^"\\]|\\.)*"', "", answer["text"])), answer["text"]
        finished += 1
    print(f"{finished} texts finished and are valid, {cut} were cut short")
    assert finished > 3 * cut, (finished, cut)


if __name__ == "__main__":
    run(globals())
