"""paho-mqtt, by the example client, at a device at mosquitto (MQTT 5 and 3.1.1) and at amqtt, which knows 3.1.1 only."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "lib"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "packaging/examples"))

import jinja2
import yaml
from mqtt_client import Asker
from peer import REPOSITORY, Daemon, run


# A broker of version 3.1.1 as a program.
AMQTT = """
import asyncio, json, sys
from amqtt.broker import Broker

async def main():
    broker = Broker(json.loads(sys.argv[1]))
    await broker.start()
    await asyncio.Event().wait()

asyncio.run(main())
"""


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def broker(kind):
    """A broker on a port of its own."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="tern-broker-") as folder:
        config = Path(folder) / "config"
        if kind == "mosquitto":
            program = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin")
            config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nuser root\n")
            command = [program, "-c", config]
        else:
            listeners = {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}}
            plugins = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
            command = [sys.executable, "-c", AMQTT, json.dumps({"listeners": listeners, "plugins": plugins})]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command, **quiet)
        try:
            until = time.monotonic() + 20
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    assert process.poll() is None and time.monotonic() < until, f"{kind} does not start"
                    time.sleep(0.02)
            yield port
        finally:
            process.kill()
            process.wait()


@contextlib.contextmanager
def device(port, more=""):
    """A device called pi that is online at the broker at this port, and what is heard of it."""
    heard = []
    with tempfile.TemporaryDirectory(prefix="tern-outbox-") as state, Asker(port=port, protocol="3.1.1") as watcher:
        # The example's client, for what else is said at the broker.
        watcher.client.on_message = lambda _client, _data, message: heard.append(message)
        watcher.client.subscribe("tern/pi/status", qos=1)
        watcher.client.subscribe("graded/#", qos=1)
        mqtt = f'[mqtt]\nbroker = "mqtt://127.0.0.1:{port}"\ndevice = "pi"\nstate_folder = "{state}"\nreconnect_ms = 50\n'
        with Daemon(config=f"{mqtt}{more}") as daemon:
            until = time.monotonic() + 30
            while not any(message.topic == "tern/pi/status" and b"online" in message.payload for message in heard):
                assert time.monotonic() < until, f"it does not come online: {''.join(daemon.log)}"
                time.sleep(0.02)
            yield daemon, heard


def asks(port, protocol):
    with Asker(port=port, protocol=protocol) as asker:
        first = asker.ask("pi", "log-severity", "fan stopped", name="n-1")
        assert first["type"] == "decision" and first["id"] == "n-1", first
        # By the same name it is the same answer, with its times.
        assert asker.ask("pi", "log-severity", "fan stopped", name="n-1") == first
        question = {"ask": {"kind": "yes_no", "instructions": "Does this need a person?"}, "text": "fan stopped"}
        assert isinstance(asker.ask("pi", "ask", question)["value"], bool)
        refusal = asker.ask("pi", "no-such", "fan stopped")
        assert (refusal["type"], refusal["code"]) == ("error", 404), refusal
        return first["probabilities"]


def test_mosquitto_in_both_versions():
    with broker("mosquitto") as port, device(port) as (_, heard):
        assert asks(port, "5") == asks(port, "3.1.1")
        assert json.loads(heard[-1].payload)["protocol"] == "5"


def test_a_broker_of_3_1_1():
    with broker("amqtt") as port, device(port) as (daemon, heard):
        asks(port, "3.1.1")
        assert json.loads(heard[-1].payload)["protocol"] == "3.1.1"
        assert sum("does not speak MQTT 5" in line for line in daemon.log) == 1, daemon.log
    print(f"amqtt {version('amqtt')}, paho-mqtt {version('paho-mqtt')}")


def test_templates_of_home_assistant():
    package = yaml.safe_load((REPOSITORY / "packaging/examples/homeassistant.yaml").read_text())
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
    environment.filters["to_json"] = json.dumps
    render = lambda template, **values: environment.from_string(template).render(**values)
    watch = '[[watch]]\ntopic = "site/+/log"\ntask = "log-severity"\nanswer = "graded/{topic}"\n'
    with broker("mosquitto") as port, device(port, watch) as (_, heard), Asker(port=port) as asker:
        asker.client.publish("site/press-1/log", "EXT4-fs error: aborting journal", qos=1)
        until = time.monotonic() + 30
        while not (graded := [message for message in heard if message.topic.startswith("graded/")]):
            assert time.monotonic() < until
            time.sleep(0.02)
        (sensor,) = package["mqtt"]["sensor"]
        severe, question, answer = package["automation"]
        value = json.loads(graded[0].payload)
        assert sensor["state_topic"] == graded[0].topic
        assert render(sensor["value_template"], value_json=value) == value["label"]
        trigger = {"topic": graded[0].topic, "payload_json": value}
        fires = render(severe["conditions"][0]["value_template"], trigger=trigger)
        assert fires == str(value["label"] in ("error", "critical")), fires
        assert "press-1" in render(severe["actions"][0]["data"]["title"], trigger=trigger)
        # The question as it would be sent, and the answer as it would be read.
        (sent,) = [action["data"] for action in question["actions"]]
        body = json.loads(render(sent["payload"]))
        # The example's client puts its own in the place of these.
        asked = {name: value for name, value in body.items() if name not in ("id", "reply_to", "ttl_s")}
        answers = asker.ask("pi", sent["topic"].split("/")[2], asked, name=body["id"])
        trigger = {"topic": body["reply_to"], "payload_json": answers}
        assert render(answer["conditions"][0], trigger=trigger) == str(answers["value"])
        assert "% sure" in render(answer["actions"][0]["data"]["message"], trigger=trigger)


run(globals())
