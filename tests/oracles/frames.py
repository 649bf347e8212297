#!/usr/bin/env python3
"""Frames as docs/wire.md has them, written down field by field without any code of the project.

Prints the lines of protocol/tests/golden.txt: a name, and the bytes of a frame. protocol/tests/golden.rs builds the same
messages from the crate's types and compares.   tests/oracles/frames.py >protocol/tests/golden.txt
"""
import struct
import zlib


def stuffed(data):
    """COBS: each zero becomes the distance to the next one."""
    out, block = bytearray(), bytearray()
    for byte in data:
        if byte:
            block.append(byte)
        if not byte or len(block) == 254:
            out += bytes([len(block) + 1]) + block
            block.clear()
    return bytes(out + bytes([len(block) + 1]) + block)


def frame(message):
    content = b"\x02" + message
    return stuffed(content + struct.pack("<I", zlib.crc32(content))) + b"\0"


def number(n):
    out = bytearray()
    while n >= 0x80:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    return bytes(out + bytes([n]))


def signed(n):
    return number(2 * n if n >= 0 else -2 * n - 1)


def text(t):
    return number(len(t.encode())) + t.encode()


def single(x):
    return struct.pack("<f", x)


def double(x):
    return struct.pack("<d", x)


def some(field):
    return b"\x01" + field


def items(fields):
    return number(len(fields)) + b"".join(fields)


NO, YES = b"\0", b"\x01"


def request(id, task=NO, ask=NO, generate=NO, chat=NO, cancel=NO, status=NO, given=NO, stream=NO, deadline_ms=NO,
            max_joules=NO, priority=NO):
    return (text(id) + task + ask + generate + chat + cancel + status + given + stream + deadline_ms + max_joules
            + priority)


def usage(prompt, generated, rows, queue, prefill, decode, prompt_rate, generated_rate):
    counts = number(prompt) + number(generated) + number(rows)
    return counts + double(queue) + double(prefill) + double(decode) + prompt_rate + generated_rate


# energy_counter, measured over a package, idle taken off, five readings
METERED = (some(double(0.25)) + some(double(0.25)) + NO + some(double(0.0125)) + number(0) + some(text("rapl"))
           + some(number(4)) + number(1) + some(double(1.5)) + some(double(0.125)) + number(5) + some(double(50.0))
           + double(8.0) + NO + some(NO) + NO)
UNMETERED = (NO + NO + NO + NO + number(3) + NO + NO + number(0) + NO + NO + number(0) + NO + double(0.0) + NO + NO
             + NO)

ASK_CHOICE = (number(0) + NO + some(text("Where?")) + NO + some(items([text("usb"), text("net")])) + some(single(0.5))
              + NO + NO + NO + NO + NO + NO + NO + NO)
ASK_SCORE = (number(2) + some(text("how")) + some(text("How bad?")) + some(text("{text}")) + NO + NO + some(signed(-3))
             + some(signed(7)) + some(items([text("smoke") + text("7")])) + some(some(number(300)) + NO + NO + NO)
             + NO + NO + NO + NO)
SAMPLING = (some(single(0.5)) + some(number(300)) + NO + NO + NO + some(number(2**40)) + some(items([text(".")])))

TEXT = (number(2) + text("c") + text("ok") + number(2)
        + usage(4, 5, 0, 0.5, 8.0, 16.0, some(double(500.0)), some(double(250.0))) + UNMETERED + text("m") + NO + NO)

HOW = (number(4) + text("8") + number(0) + text("m") + text("scalar-t2i8") + number(2) + text("0.1.0") + number(1)
       + number(2) + number(300) + number(2) + number(1) + number(0) + number(70000) + number(50) + double(3600.5)
       + items([text("t")]) + NO)

GOLDEN = {
    "task": request("7", task=some(text("t")), given=some(text("hi"))),
    "ask_choice": request("a", ask=some(ASK_CHOICE), given=some(text("x")), deadline_ms=some(number(2000))),
    "ask_score": request("b", ask=some(ASK_SCORE), given=some(text("fire"))),
    "generate": request("c", generate=some(text("Once") + some(number(32)) + some(SAMPLING) + NO + NO), stream=YES),
    "schema": request("e", generate=some(text("Once") + NO + NO + some(text('{"type":"null"}')) + some(number(2)))),
    "chat": request("d", chat=some(items([number(0) + text("Be brief."), number(1) + text("Hello")]) + some(number(8))
                                   + NO + NO + NO)),
    "thrifty": request("f", task=some(text("t")), given=some(text("x")), max_joules=some(double(0.75))),
    "patient": request("f", task=some(text("t")), given=some(text("x")), priority=some(number(0))),
    "cancel": request("9", cancel=some(text("7"))),
    "status": request("8", status=YES),
    "decision": (number(0) + text("a") + some(text("usb")) + single(0.75) + NO
                 + items([text("usb") + single(0.75), text("net") + single(0.25)]) + NO
                 + usage(20, 0, 3, 0.5, 8.0, 0.0, some(double(2500.0)), NO) + METERED + text("m") + some(text("t"))),
    "abstained": (number(0) + text("a") + NO + single(0.5) + YES + items([]) + some(number(0) + NO)
                  + usage(1, 0, 1, 0.0, 1.0, 0.0, NO, NO) + UNMETERED + text("m") + NO),
    "score": (number(0) + text("b") + some(text("7")) + single(0.5) + NO + items([]) + some(number(1) + single(6.5))
              + usage(1, 0, 1, 0.0, 1.0, 0.0, NO, NO) + UNMETERED + text("m") + NO),
    "token": number(1) + text("1") + text("ok") + NO + NO,
    "metered": number(1) + text("1") + text("ok") + NO + some(double(0.25)),
    "text": TEXT + NO,
    "coarse": TEXT + YES,
    "spent": (number(2) + text("f") + text("ok") + number(5) + usage(4, 2, 0, 0.5, 8.0, 16.0, NO, NO) + UNMETERED
              + text("m") + NO + NO + NO),
    "cancelled": number(3) + text("9") + text("7"),
    "how": HOW + NO,
    "paced": (HOW + some(some(double(5.0)) + some(double(60.0)) + some(double(4.5)) + NO + NO + some(NO) + number(300)
              + double(0.5) + double(12.5) + some(number(0)))),
    "error": number(5) + NO + number(429) + number(5) + text("full") + some(number(700)),
    "costly": number(5) + some(text("f")) + number(402) + number(11) + text("no") + NO,
    "forbidden": number(5) + some(text("7")) + number(403) + number(10) + text("no") + NO,
}

for name, message in GOLDEN.items():
    print(name, frame(message).hex(" "))
