"""Every curl line of docs/http.md, run by a shell as it stands there."""

import json
import re
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "lib"))

from peer import MODEL, REPOSITORY, Daemon, run

daemon = None


def lines():
    page = (REPOSITORY / "docs/http.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    return [f"curl {line}" for block in blocks for line in block.split("curl ")[1:]]


def shell(line):
    line = line.replace("localhost:8080", daemon.url)
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, (line, done)
    return done.stdout


def check(value, line):
    assert "error" not in value, (line, value)
    if "choices" in value and value["choices"]:
        assert value["model"] == MODEL and value["choices"][0]["index"] == 0, value


def test_every_line_is_answered():
    found = lines()
    assert len(found) >= 7, found
    for line in found:
        said = shell(line)
        if said.startswith("data: "):
            *events, done = [event for event in said.split("\n\n") if event]
            assert done == "data: [DONE]", said
            for event in events:
                check(json.loads(event.removeprefix("data: ")), line)
            assert json.loads(events[-1].removeprefix("data: "))["usage"]["completion_tokens"] > 0
        else:
            check(json.loads(said), line)


def test_the_questions_of_the_page_have_the_answers_of_its_table():
    line = next(line for line in lines() if "systemone" in line)
    answers = json.loads(shell(line))["answers"]
    assert {id: answer["type"] for id, answer in answers.items()} == {
        "part": "choice",
        "bad": "score",
        "person": "noul",
        "severity": "choice",
    }
    for answer in answers.values():
        if answer["type"] == "noul":
            assert 0 <= answer["noul"] <= 1
            continue
        each = list(answer["probabilities"].values())
        chance = 1 / len(each)
        assert abs(sum(each) - 1) < 1e-4
        assert abs(answer["confidence"] - (max(each) - chance) / (1 - chance)) < 1e-6
    places = answers["bad"]["probabilities"]
    assert abs(answers["bad"]["score"] - sum(int(place) * p for place, p in places.items())) < 1e-4


if __name__ == "__main__":
    print(subprocess.run(["curl", "--version"], capture_output=True, text=True).stdout.split("\n")[0][:11])
    with Daemon() as daemon:
        run(globals())
