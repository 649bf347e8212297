"""The parser of the Prometheus client library, and its conventions, against /metrics."""

import json
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "lib"))

from importlib.metadata import version

from peer import ENDLESS, MODEL, Daemon, run
from prometheus_client.parser import text_string_to_metric_families

daemon = None
UNITS = ("_seconds", "_bytes", "_joules", "_watts", "_info")


def ask(path, body):
    request = urllib.request.Request(daemon.url + path, json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def scrape():
    """The page as families, and as values by name and labels."""
    with urllib.request.urlopen(f"{daemon.url}/metrics", timeout=60) as response:
        assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        families = list(text_string_to_metric_families(response.read().decode()))
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }
    assert len(samples) == sum(len(family.samples) for family in families), "a series is there twice"
    return families, lambda name, **labels: samples[name, tuple(sorted(labels.items()))]


def test_names_follow_the_conventions():
    families, _ = scrape()
    assert len(families) >= 9
    for family in families:
        assert family.documentation and family.type in ("counter", "gauge", "histogram"), family
        assert family.name.startswith(("tern_", "process_")), family
        for sample in family.samples:
            is_counter = sample.name.endswith("_total")
            assert is_counter == (family.type == "counter"), sample
        for wrong in ("_ms", "_us", "_milli", "_kb", "_minutes", "_wh"):
            assert wrong not in family.name, family
    names = {family.name: family for family in families}
    assert len(names) == len(families), "a family is there twice"
    for name, family in names.items():
        if family.type == "histogram":
            assert name.endswith(UNITS), name


def test_labels_are_few():
    families, value = scrape()
    assert sum(len(family.samples) for family in families) < 150
    info = next(family for family in families if family.name == "tern_build_info").samples[0]
    assert info.labels["model"] == MODEL and info.value == 1 and info.labels["version"]
    # What a client writes becomes no label.
    try:
        ask("/v1/systemone", {"state": "x", "questions": {"q": {"task": "no-such-task"}}})
        raise AssertionError("the task is not there")
    except urllib.error.HTTPError as error:
        assert error.code == 404
    after, _ = scrape()
    assert sum(len(family.samples) for family in after) == sum(len(family.samples) for family in families)


def test_counters_rise_with_requests():
    _, before = scrape()
    usage = ask("/v1/completions", {"prompt": ENDLESS, "max_tokens": 4})["usage"]
    asked = ask("/v1/systemone", {"state": "fan stopped", "questions": {"a": {"task": "log-severity"}}})
    try:
        ask("/v1/completions", {"prompt": "x", "n": 2})
    except urllib.error.HTTPError as error:
        assert error.code == 400
    _, after = scrape()

    def rise(name, **labels):
        return after(name, **labels) - before(name, **labels)

    assert rise("tern_requests_total", transport="http", ending="answered") == 2
    assert rise("tern_requests_total", transport="http", ending="refused") == 1
    assert rise("tern_requests_total", transport="socket", ending="answered") == 0
    read = usage["prompt_tokens"] + asked["usage"]["input_tokens"]
    assert rise("tern_tokens_total", phase="prefill") == read
    assert rise("tern_tokens_total", phase="decode") == usage["completion_tokens"] == 4
    assert rise("tern_request_duration_seconds_count", transport="http") == 2
    assert 0 < rise("tern_request_duration_seconds_sum", transport="http") < 60
    assert rise("tern_request_duration_seconds_bucket", transport="http", le="+Inf") == 2
    assert after("process_start_time_seconds") == before("process_start_time_seconds") > 1_700_000_000
    assert after("tern_requests_live") == after("tern_requests_queued") == 0


def test_buckets_add_up():
    families, value = scrape()
    family = next(family for family in families if family.name == "tern_request_duration_seconds")
    for transport in ("http", "socket", "mqtt"):
        buckets = [
            (float(sample.labels["le"]), sample.value)
            for sample in family.samples
            if sample.name.endswith("_bucket") and sample.labels["transport"] == transport
        ]
        assert buckets == sorted(buckets) and len(buckets) > 10, buckets
        assert buckets[-1][1] == value("tern_request_duration_seconds_count", transport=transport)


def test_energy_is_told_only_where_there_is_a_meter():
    families, value = scrape()
    energy = [family for family in families if family.name == "tern_energy_joules"]
    answer = ask("/v1/completions", {"prompt": "usb", "max_tokens": 1})
    if answer["energy"]["method"] == "unknown":
        assert energy == []
    else:
        parts = {sample.labels["part"]: sample.value for sample in energy[0].samples}
        assert set(parts) == {"requests", "idle", "unattributed"} and sum(parts.values()) > 0
        labels = energy[0].samples[0].labels
        assert (labels["scope"], labels["method"]) == (answer["energy"]["scope"], answer["energy"]["method"])


def draw(path, watts, over):
    """A meter that counts joules into a file, as another program would."""
    began = time.monotonic()
    while not over.wait(0.02):
        beside = path.with_suffix(".new")
        beside.write_text(f"{(time.monotonic() - began) * watts:.6f}")
        beside.replace(path)


def test_joules_are_told_by_task_and_outlive_the_daemon():
    global daemon
    meter = 'meter = "external_meter"\nfile = "FOLDER/joules"\nfile_unit = "joules"'
    usual = daemon
    with Daemon(config=f"[energy]\n{meter}", files={"joules": "0"}) as daemon:
        folder, over = Path(daemon.folder.name), threading.Event()
        drawing = threading.Thread(target=draw, args=(folder / "joules", 5.0, over))
        drawing.start()
        try:
            for _ in range(20):
                ask("/v1/systemone", {"state": "fan stopped", "questions": {"a": {"task": "log-severity"}}})
            ask("/v1/completions", {"prompt": ENDLESS, "max_tokens": 50})
            families, value = scrape()
            daemon.process.terminate()
            assert daemon.process.wait() == 0
        finally:
            over.set()
            drawing.join()
        meter = {"method": "external_meter", "scope": "wall"}
        assert value("tern_task_requests_total", task="log-severity", ending="answered") == 20
        assert value("tern_task_requests_total", task="summarize", ending="answered") == 0
        assert value("tern_task_tokens_total", task="other", phase="decode") == 50
        told = {f.name: f for f in families}["tern_task_energy_joules"]
        requests = value("tern_energy_joules_total", part="requests", **meter)
        assert abs(sum(sample.value for sample in told.samples) - requests) < 1e-5
        report = [sys.argv[1], "energy", "report", "--prometheus", "--state", folder / "state"]
        text = subprocess.run(report, check=True, capture_output=True, text=True).stdout
        kept = list(text_string_to_metric_families(text))
        assert {family.name for family in kept} == {
            "tern_task_requests", "tern_task_tokens", "tern_task_energy_joules", "tern_energy_joules"
        }
        kept = {(s.name, s.labels.get("task"), s.labels.get("part"), s.labels.get("ending")): s.value
                for family in kept for s in family.samples}
        assert kept["tern_task_requests_total", "log-severity", None, "answered"] == 20
        assert kept["tern_energy_joules_total", None, "requests", None] >= requests
        assert kept["tern_energy_joules_total", None, "idle", None] > 0
    daemon = usual


if __name__ == "__main__":
    print(f"prometheus_client {version('prometheus_client')}")
    with Daemon() as daemon:
        run(globals())
