"""A daemon for the programs of others in this folder, and a runner of their tests.

A peer is a script with functions whose names begin with test_. It is run with the path of the program `tern`:

    python tests/peers/openai_client.py target/debug/tern
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
# A small model with random weights whose text only ends with its context of 256 tokens.
TALKER = REPOSITORY / "tests/fixtures/oracle/gguf/tiny-i2_s.gguf"


def bundled_name():
    """What the bundled model calls itself: the name under which a daemon offers it."""
    model = REPOSITORY / "models/tern-log-i2_s.gguf"
    said = subprocess.run([sys.argv[1], "inspect", "--json", model], capture_output=True, text=True, check=True)
    return json.loads(said.stdout)["name"]


MODEL = bundled_name()
ENDLESS = "Hello Hello Hello"  # what the bundled model goes on with to any length


class Daemon:
    """A daemon with `[http]` on a free port of this machine. Use it with `with`."""

    def __init__(self, http="", config="", files=None):
        self.folder = tempfile.TemporaryDirectory(prefix="tern-peer-")
        path = Path(self.folder.name)
        for name, text in (files or {}).items():
            (path / name).write_text(text)
        http, config = (text.replace("FOLDER", str(path)) for text in (http, config))
        listen = "" if "listen" in http else 'listen = "127.0.0.1:0"\n'
        (path / "tern.toml").write_text(f'log = "info"\n{config}\n[http]\n{listen}{http}\n')
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TERN_")}
        # A second of trials at each start would be most of a test; what they choose changes no answer.
        environment["TERN_TUNE"] = "off"
        environment["STATE_DIRECTORY"] = str(path / "state")
        self.process = subprocess.Popen(
            [sys.argv[1], "serve", "--config", path / "tern.toml", "--socket", path / "t.sock"],
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.log = []
        self.url = self.said(r"HTTP on (http://\S+|/\S+)")
        self.said("ready on")
        threading.Thread(target=self.read_on, daemon=True).start()

    def said(self, pattern):
        """Waits for a line of the log, and returns what its first group matches."""
        for line in self.process.stderr:
            self.log.append(line)
            found = re.search(pattern, line)
            if found:
                return found.group(1) if found.groups() else line
        raise AssertionError(f"the daemon ended without saying {pattern!r}: {''.join(self.log)}")

    def read_on(self):
        for line in self.process.stderr:
            self.log.append(line)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.folder.cleanup()


def run(tests):
    """Runs every test_ function of a script, and leaves with 1 if one fails."""
    passed, failed = 0, 0
    for name, test in list(tests.items()):
        if not name.startswith("test_"):
            continue
        try:
            test()
            passed += 1
            print(f"test {name} ... ok", flush=True)
        except Exception:
            failed += 1
            traceback.print_exc()
            print(f"test {name} ... FAILED", flush=True)
    word = "FAILED" if failed else "ok"
    print(f"test result: {word}. {passed} passed; {failed} failed; 0 ignored")
    sys.exit(1 if failed or not passed else 0)
