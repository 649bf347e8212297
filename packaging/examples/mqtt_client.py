#!/usr/bin/env python3
"""A client of a device in MQTT 5 or 3.1.1, with paho-mqtt 2 (pip install paho-mqtt).

    python mqtt_client.py --host gateway.local --device press-1 log-severity "fan stopped"
    python mqtt_client.py --protocol 3.1.1 --device any log-severity "fan stopped"

A request that is not answered in time is sent again by the same name: a device that has it answers from its outbox,
and none runs it twice. The device `any` is whichever of a group takes it.
"""

import argparse
import json
import queue
import sys
import time
import uuid

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties


class Asker:
    """Asks devices at a broker. Use it with `with`."""

    def __init__(self, host="localhost", port=1883, protocol="5", base="tern", user=None, password=None):
        self.base = base
        self.is_5 = protocol == "5"
        self.answers_topic = f"clients/{uuid.uuid4()}/answers"
        self.answers = queue.Queue()
        self.ready = queue.Queue()
        self.client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5 if self.is_5 else mqtt.MQTTv311
        )
        if user:
            self.client.username_pw_set(user, password)
        # After every connection, also the second: the session ends with the connection.
        self.client.on_connect = lambda client, *_: client.subscribe(self.answers_topic, qos=1)
        self.client.on_subscribe = lambda *_: self.ready.put(True)
        self.client.on_message = lambda _client, _data, message: self.answers.put(message)
        self.client.connect(host, port)
        self.client.loop_start()

    def __enter__(self):
        # An answer before the subscription would go nowhere.
        self.ready.get(timeout=10)
        return self

    def __exit__(self, *_):
        self.client.disconnect()
        self.client.loop_stop()

    def send(self, device, task, request, name, ttl_s):
        """Sends a request: a text, or a dictionary with the fields of docs/wire.md."""
        topic = f"{self.base}/{device}/{task}/request"
        if self.is_5:
            properties = Properties(PacketTypes.PUBLISH)
            properties.ResponseTopic = self.answers_topic
            properties.CorrelationData = name.encode()
            properties.MessageExpiryInterval = ttl_s
            payload = request if isinstance(request, str) else json.dumps(request)
            properties.ContentType = "text/plain" if isinstance(request, str) else "application/json"
            return self.client.publish(topic, payload, qos=1, properties=properties)
        fields = {"text": request} if isinstance(request, str) else dict(request)
        fields.update(id=name, reply_to=self.answers_topic, ttl_s=ttl_s)
        return self.client.publish(topic, json.dumps(fields), qos=1)

    def name_of(self, message):
        """Which request a message answers."""
        if self.is_5:
            return getattr(message.properties, "CorrelationData", b"").decode(errors="replace")
        return json.loads(message.payload).get("id")

    def ask(self, device, task, request, name=None, wait_s=10, tries=3):
        """Sends a request and waits for its answer, sending it again by the same name if none comes."""
        name = name or str(uuid.uuid4())
        for _ in range(tries):
            self.send(device, task, request, name, ttl_s=2 * wait_s)
            until = time.monotonic() + wait_s
            while (left := until - time.monotonic()) > 0:
                try:
                    message = self.answers.get(timeout=left)
                except queue.Empty:
                    break
                # A second answer to an earlier request is the same as the first.
                if self.name_of(message) == name:
                    return json.loads(message.payload)
        raise TimeoutError(f"no answer from {device} in {tries} times {wait_s} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=1883)
    parser.add_argument("--protocol", choices=["5", "3.1.1"], default="5")
    parser.add_argument("--device", default="any")
    parser.add_argument("task")
    parser.add_argument("text")
    chosen = parser.parse_args()
    with Asker(chosen.host, chosen.port, chosen.protocol) as asker:
        answer = asker.ask(chosen.device, chosen.task, chosen.text)
    print(json.dumps(answer))
    sys.exit(1 if answer["type"] == "error" else 0)


if __name__ == "__main__":
    main()
