"""Constrained output and log probabilities through the official Python client of the OpenAI API."""

import json
import math
import sys
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "lib"))

import httpx2
import jsonschema
import openai
from peer import MODEL, Daemon, run

LINE = [{"role": "user", "content": "Summarize in one line.\nA daemon that keeps the clock of the machine right."}]
daemon = None


def client():
    return openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="none", max_retries=0, timeout=60)


def test_logprobs():
    settings = {"model": MODEL, "messages": LINE, "max_completion_tokens": 6, "logprobs": True, "top_logprobs": 3}
    choice = client().chat.completions.create(**settings).choices[0]
    tokens = choice.logprobs.content
    assert "".join(token.token for token in tokens) == choice.message.content
    for token in tokens:
        assert bytes(token.bytes).decode() == token.token
        top = token.top_logprobs
        assert len(top) == 3 and top[0].logprob >= top[1].logprob >= top[2].logprob
        # Greedy: the chosen is the best.
        assert (top[0].token, top[0].logprob) == (token.token, token.logprob)
        assert sum(math.exp(each.logprob) for each in top) < 1 + 1e-5
    streamed = [
        token
        for chunk in client().chat.completions.create(**settings, stream=True)
        for choice in chunk.choices
        for token in (choice.logprobs.content if choice.logprobs else [])
    ]
    assert streamed == tokens
    old = client().completions.create(model=MODEL, prompt="usb", max_tokens=3, logprobs=2).choices[0]
    assert "".join(old.logprobs.tokens) == old.text and old.logprobs.text_offset[0] == 0
    assert [len(top) for top in old.logprobs.top_logprobs] == [2, 2, 2]
    assert all(a >= max(top.values()) for a, top in zip(old.logprobs.token_logprobs, old.logprobs.top_logprobs))


def test_response_format():
    schema = {
        "type": "object",
        "properties": {
            "part": {"type": "string", "maxLength": 12},
            "severity": {"enum": ["info", "warning", "critical"]},
            "count": {"type": "integer", "minimum": 0, "maximum": 9},
        },
        "required": ["part", "severity", "count"],
        "additionalProperties": False,
    }
    named = {"type": "json_schema", "json_schema": {"name": "fault", "strict": True, "schema": schema}}
    choice = client().chat.completions.create(model=MODEL, messages=LINE, response_format=named).choices[0]
    assert choice.finish_reason == "stop", choice
    value = json.loads(choice.message.content)
    jsonschema.validate(value, schema)
    assert list(value) == ["part", "severity", "count"], "the order of the schema"
    settings = {"model": MODEL, "messages": LINE, "response_format": named, "stream": True}
    chunks = client().chat.completions.create(**settings)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == choice.message.content
    bad = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "poem"}}}
    try:
        client().chat.completions.create(model=MODEL, messages=LINE, response_format=bad)
        raise AssertionError("there is no such type")
    except openai.BadRequestError as error:
        assert "#/type" in str(error), error


def test_any_object_and_llama_servers_own_fields():
    chat = client().chat.completions.create
    choice = chat(model=MODEL, messages=LINE, response_format={"type": "json_object"}, max_tokens=200).choices[0]
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(choice.message.content), dict), choice
    else:
        assert choice.finish_reason == "length" and choice.message.content.startswith("{"), choice
    schema = {"enum": ["yes", "no"]}
    body = {"prompt": "Is the fan broken? ", "json_schema": schema, "n_probs": 2, "n_predict": 20}
    answer = httpx2.post(f"{daemon.url}/completion", json=body, timeout=60).json()
    assert json.loads(answer["content"]) in ("yes", "no"), answer
    chosen = answer["completion_probabilities"]
    assert "".join(token["token"] for token in chosen) == answer["content"]
    assert all(len(token["top_logprobs"]) == 2 for token in chosen)


if __name__ == "__main__":
    print(f"openai {openai.__version__}, jsonschema {version('jsonschema')}")
    with Daemon() as daemon:
        run(globals())
