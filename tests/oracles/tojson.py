#!/usr/bin/env python3
"""What `tojson` writes in a chat template run by `transformers`: pairs of an expression and its text.

  python tests/oracles/tojson.py >tests/fixtures/tojson.json

Made with transformers 5.23.0.
"""
import json, os

os.environ["HF_HUB_OFFLINE"] = "1"
from transformers.utils.chat_template_utils import _compile_jinja_template

VALUES = [
    "none", "true", "false", "0", "-7", "123456789012345", "1.5", "2.0", "-0.25", "0.1", "1e16", "1e15", "0.0001", "0.00001",
    "1.5e300", "3.0e-7", "12345678.9",
    "''", "'plain'", "'a \"quote\" and a \\\\ backslash'", "'line\\nand\\ttab\\rend'", "'\u00e4\u00df \u6c34 \U0001f600'", "'<b> & /'",
    "'\x07\x1b\x7f'", "'\\u2028'",
    "[]", "{}", "[1, 2, 3]", "['a', none, true]", "[[], {}, [[1]]]", "(1, 'two')",
    "{'b': 1, 'a': [2, {'c': 'd'}]}", "{'z': {}, 'y': [], 'x': none}", "{1: 'one', 2: 'two'}",
    "{'type': 'function', 'function': {'name': 'read', 'parameters': {'type': 'object', 'properties': {'p': {'type': 'number'}}}}}",
]
CALLS = ["tojson", "tojson(ensure_ascii=true)", "tojson(indent=2)", "tojson(indent=4, sort_keys=true)",
         "tojson(separators=(',', ':'))", "tojson(sort_keys=true)", "tojson(false, 1)"]

expressions = [f"{value} | tojson" for value in VALUES]
expressions += [f"{value} | {call}" for value in VALUES[21:24] + VALUES[27:] for call in CALLS[1:]]
expressions += ["['n', 1] | map('string') | list | tojson", "(1 == 1) | tojson"]
pairs = [[e, _compile_jinja_template("{{ " + e + " }}").render(messages=[])] for e in expressions]
print("[" + ",\n".join(json.dumps(pair) for pair in pairs) + "]")
