#!/usr/bin/env python3
"""Decisions a second: Tern's daemon beside llama-cpp-python's server, over HTTP, on the same weights.

    decisions.py --tern target/release/tern --work /var/tmp/peers

A task with a fixed part of 400 tokens, messages of 30 tokens, each another, and 8 labels. Both keep what the prompts have
in common; both get the same texts from the same number of clients, each of which sends its next request when it has the last
answer. The peer is asked for one token of text, the least it can do: with labels that begin differently that token is
its choice. Both servers are started anew for each round and asked once before it counts. See README.md beside this file.
"""

import argparse
import contextlib
import http.client
import json
import os
import pathlib
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

sys.dont_write_bytecode = True  # nothing is left beside the sources
import compare

TERN, PEER, PEER_RAM = "Tern", "llama-cpp-python", "llama-cpp-python --cache"
LABELS = ["usb", "network", "disk", "memory", "power", "audio", "video", "thermal"]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Client:
    """One connection to a server."""

    def __init__(self, port):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)

    def ask(self, path, body):
        self.connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = self.connection.getresponse()
        answer = json.loads(response.read())
        if response.status != 200:
            raise compare.CompareError(f"{path} answers {response.status}: {answer}")
        return answer


def wait_for(port, path, process):
    end = time.monotonic() + 300
    while time.monotonic() < end:
        if process.poll() is not None:
            raise compare.CompareError(f"{process.args[0]} ended with {process.returncode} before it answered")
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.2)
    raise compare.CompareError(f"{process.args[0]} did not answer within 300 s")


@contextlib.contextmanager
def running(command, port, path, environment):
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen([str(word) for word in command], stdout=said, stderr=said, env=environment)
        try:
            wait_for(port, path, process)
            yield process.pid
        except BaseException:
            said.seek(0)
            sys.stderr.write(said.read().decode(errors="replace")[-3000:])
            raise
        finally:
            process.terminate()
            process.wait()


class Tern:
    name = TERN

    def __init__(self, options, model):
        self.options, self.model = options, model

    @contextlib.contextmanager
    def start(self, instructions):
        port = free_port()
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            (folder / "tasks").mkdir()
            labels = json.dumps(LABELS)
            (folder / "tasks/fixed.toml").write_text(
                f"kind = 'choice'\nlabels = {labels}\ninstructions = {json.dumps(instructions)}\n")
            (folder / "tern.toml").write_text(
                f"[model]\npath = {json.dumps(str(self.model))}\nthreads = {self.options.threads}\n"
                f"[tasks]\nfolder = {json.dumps(str(folder / 'tasks'))}\n"
                f"[socket]\npath = {json.dumps(str(folder / 'tern.sock'))}\n"
                f"[http]\nlisten = '127.0.0.1:{port}'\n")
            command = [self.options.tern, "serve", "--config", folder / "tern.toml"]
            with running(command, port, "/health", os.environ) as process:
                yield port, process

    @staticmethod
    def ask(client, _instructions, message):
        answer = client.ask("/v1/systemone", {"state": message, "questions": {"q": {"task": "fixed"}}})
        if answer["answers"]["q"]["choice"] not in LABELS:
            raise compare.CompareError(f"no decision: {answer}")
        return answer["usage"]


class Peer:
    def __init__(self, options, model, keeps):
        self.options, self.model, self.keeps = options, model, keeps
        self.name = PEER_RAM if keeps else PEER

    @contextlib.contextmanager
    def start(self, _instructions):
        port = free_port()
        command = [sys.executable, "-m", "llama_cpp.server", "--model", self.model, "--n_threads", self.options.threads,
                   "--n_threads_batch", self.options.threads, "--n_ctx", 1024, "--port", port, "--verbose", "false",
                   "--interrupt_requests", "false", "--cache", "true" if self.keeps else "false"]
        with running(command, port, "/v1/models", os.environ) as process:
            yield port, process

    @staticmethod
    def ask(client, instructions, message):
        prompt = f"{instructions}\n{message}\nAnswer: "
        answer = client.ask("/v1/completions", {"prompt": prompt, "max_tokens": 1, "temperature": 0})
        return answer["usage"]


def texts(options, model):
    """A text of the given number of tokens, and a function that makes others, by Tern's own tokenizer."""
    engine = Tern(options, model)
    source = random.Random(1)
    words = ["fan", "disk", "error", "link", "timeout", "sensor", "voltage", "reset", "controller", "packet", "queue",
             "temperature", "device", "port", "buffer", "clock", "retry", "firmware", "cable", "bus"]
    with engine.start("Which part is it?") as (port, _):
        client = Client(port)

        def count(text):
            return len(client.ask("/tokenize", {"content": text})["tokens"])

        def text(tokens):
            line = source.choice(words)
            while count(line) < tokens:
                line += " " + source.choice(words)
            while count(line) > tokens:
                line = line[:-1]
            return line

        return text(options.fixed), [text(options.message) for _ in range(options.requests + 1)]


def processor_seconds(process):
    """Seconds that all threads of a process have run so far."""
    fields = pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(engine, options, instructions, messages):
    """Requests by second, and by second of a processor, and the usage of the last."""
    with engine.start(instructions) as (port, process):
        usage = engine.ask(Client(port), instructions, messages[0])
        waiting, failed = list(messages[1:]), []
        lock = threading.Lock()

        def work():
            client = Client(port)
            while True:
                with lock:
                    if not waiting or failed:
                        return
                    message = waiting.pop()
                try:
                    usage.update(engine.ask(client, instructions, message))
                except Exception as error:
                    failed.append(error)

        threads = [threading.Thread(target=work) for _ in range(options.clients)]
        begin, begun = time.perf_counter(), processor_seconds(process)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds, worked = time.perf_counter() - begin, processor_seconds(process) - begun
        if failed:
            raise failed[0]
        return (len(messages) - 1) / seconds, (len(messages) - 1) / worked, usage


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tern", type=pathlib.Path, default=compare.HERE.parents[1] / "target/release/tern",
                        help="Tern's program (target/release/tern)")
    parser.add_argument("--work", type=pathlib.Path, required=True, help="folder for models, 5 GB")
    parser.add_argument("--model", type=pathlib.Path, help="a model of `tern synth`; without it one is made")
    parser.add_argument("--packed", type=pathlib.Path, help="the same model, packed, for Tern to run")
    parser.add_argument("--threads", type=compare.positive, default=2)
    parser.add_argument("--clients", type=compare.positive, default=16)
    parser.add_argument("--requests", type=compare.positive, default=32, help="of a round (32)")
    parser.add_argument("--rounds", type=compare.positive, default=3)
    parser.add_argument("--fixed", type=compare.positive, default=400, metavar="TOKENS")
    parser.add_argument("--message", type=compare.positive, default=30, metavar="TOKENS")
    options = parser.parse_args()
    options.tern = options.tern.resolve()
    options.forms, options.head = ["TQ2_0"], "own"
    try:
        model, made = compare.models(options)
        engines = [Tern(options, options.packed or model), Peer(options, made["TQ2_0"], False),
                   Peer(options, made["TQ2_0"], True)]
        instructions, messages = texts(options, options.packed or model)
        rates = {engine.name: [] for engine in engines}
        by_work = {engine.name: [] for engine in engines}
        before = os.getloadavg()[0]
        for round_ in range(options.rounds):
            for engine in engines if round_ % 2 == 0 else reversed(engines):
                rate, work, usage = measure(engine, options, instructions, messages)
                rates[engine.name].append(rate)
                by_work[engine.name].append(work)
                print(f"round {round_ + 1}, {engine.name}: {rate:.3f} requests/s, {work:.3f} by second of a processor, "
                      f"the last used {usage}", file=sys.stderr)
        version, instructions_built = compare.llama_peer.about()
        print(f"{os.cpu_count()} cores; load before and after {before:.2f} and {os.getloadavg()[0]:.2f}; "
              f"llama-cpp-python {version}; {instructions_built}")
        print(f"{options.fixed} tokens fixed, messages of {options.message}, {len(LABELS)} labels, {options.clients} "
              f"clients, {options.threads} threads, {options.requests} requests in each of {options.rounds} rounds\n")
        rows = []
        for name, own in rates.items():
            ratios, work_ratios = ([tern / rate for tern, rate in zip(all_[TERN], all_[name])]
                                   for all_ in (rates, by_work))
            rows.append([name, compare.spread(own, 3), compare.spread(ratios, 2),
                         compare.spread(by_work[name], 3), compare.spread(work_ratios, 2)])
        compare.print_table(["server", "requests a second", "Tern's by this", "by second of a processor",
                             "Tern's by this"], rows)
        print("\nOn a machine that others use too, the second pair with one thread is what says something: with more, "
              "threads of the peer spin for each other.")
        middle = {name: statistics.median(own) for name, own in rates.items()}
        print(f"\nTern answers {middle[TERN] / max(middle[PEER], middle[PEER_RAM]):.2f} times as many as the faster peer.")
        return 0
    except (compare.CompareError, OSError) as error:
        print(f"decisions: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
