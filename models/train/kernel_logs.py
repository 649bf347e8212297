"""Log message templates of the Linux source, with a subsystem and a severity each.

The subsystem is read off the folder, the severity off the macro that prints the message. A template keeps
its printf conversions; `render.py` fills them in anew each time the message is shown to the model.
"""

import os
import re

from held_out import is_held_out_file

SUBSYSTEM_FOLDERS = [
    ("storage", r"^(drivers/(ata|scsi|nvme|mmc|md|block|mtd|memstick|cdrom|ufs|target|nvdimm|nvmem)|block/|fs/)"),
    ("network", r"^(net/(?!bluetooth|mac80211|wireless)|drivers/(net/(?!wireless|bluetooth)|isdn|atm|infiniband|dsa))"),
    ("wireless", r"^(drivers/net/wireless|net/(mac80211|wireless|bluetooth)|drivers/bluetooth|drivers/nfc|net/nfc)"),
    ("usb", r"^drivers/(usb|thunderbolt)"),
    ("memory", r"^(mm/|drivers/(edac|iommu|memory))"),
    ("thermal", r"^drivers/(thermal|hwmon|cpufreq|cpuidle|devfreq)"),
    ("power", r"^drivers/(power|regulator|powercap|opp|acpi|base/power|pwm)"),
    ("audio", r"^sound/"),
    ("display", r"^drivers/(gpu|video|media|staging/media)"),
    ("security", r"^(security/|crypto/|drivers/(crypto|char/tpm|char/hw_random)|kernel/audit)"),
    ("sensor", r"^drivers/(iio|input|hid|counter|rtc)"),
    ("bus", r"^drivers/(i2c|spi|gpio|pinctrl|clk|pci|i3c|mfd|dma|tty|soc|reset|bus|can|amba|fpga|w1|spmi)"),
    ("system", r"^(kernel/|arch/|drivers/(base|firmware|watchdog|char|irqchip|clocksource|remoteproc|mailbox))"),
]
SUBSYSTEM_PATTERNS = [(name, re.compile(pattern)) for name, pattern in SUBSYSTEM_FOLDERS]

SEVERITY_OF_LEVEL = {
    "emerg": "critical", "alert": "critical", "crit": "critical",
    "err": "error", "error": "error", "err_probe": "error",
    "warn": "warning", "warning": "warning",
    "notice": "info", "info": "info",
    "dbg": None, "debug": None,  # no label of ours: such messages teach the subsystem only
}

# The arguments of a call up to its `);`. A string may hold a semicolon, so strings are matched whole.
ARGUMENTS = r'((?:[^;"]|"(?:\\.|[^"\\])*")*?)\)\s*;'
CALL = re.compile(
    r"\b[A-Za-z]\w*_(emerg|alert|crit|err|err_probe|error|warn|warning|notice|info|dbg|debug)"
    r"(?:_once|_ratelimited|_msg|_rl)?\s*\(" + ARGUMENTS, re.S)
PRINTK = re.compile(
    r"\bprintk(?:_once|_ratelimited)?\s*\(\s*KERN_(EMERG|ALERT|CRIT|ERR|WARNING|NOTICE|INFO|DEBUG)\s*" + ARGUMENTS,
    re.S)
ADJACENT_STRINGS = re.compile(r'((?:"(?:\\.|[^"\\])*"\s*(?:[A-Za-z_]+\s*)?)+)')
STRING = re.compile(r'"((?:\\.|[^"\\])*)"')
DESCRIPTION = re.compile(r'\bMODULE_DESCRIPTION\(\s*"((?:\\.|[^"\\])*)"\s*\)')
GENERIC_FILE_NAMES = ("main.c", "core.c", "base.c", "init.c")


def subsystem_of(path):
    """The subsystem label of a source file, or None where the folder belongs to none."""
    for name, pattern in SUBSYSTEM_PATTERNS:
        if pattern.search(path):
            return name
    return None


def clean(literal):
    """A C string literal's body as one line of text."""
    for escape, plain in (("\\n", " "), ("\\t", " "), ('\\"', '"')):
        literal = literal.replace(escape, plain)
    return re.sub(r"\s+", " ", literal).strip()


def is_usable(message):
    return 8 <= len(message) <= 220 and re.search("[a-zA-Z]{3}", message) is not None


def messages_in(source):
    """Yields (severity or None, template) for each log call in the text of one C file."""
    for pattern in (CALL, PRINTK):
        for call in pattern.finditer(source):
            strings = ADJACENT_STRINGS.search(call.group(2))
            if strings:
                yield SEVERITY_OF_LEVEL[call.group(1).lower()], clean("".join(STRING.findall(strings.group(1))))
    for description in DESCRIPTION.finditer(source):
        yield None, clean(description.group(1))


def collect(roots):
    """All distinct templates below the folders `roots` outside the held-out files, as dictionaries, sorted."""
    found = set()
    for root, folder, names in ((root, *walked[::2]) for root in roots for walked in os.walk(root)):
        for name in names:
            path = os.path.relpath(os.path.join(folder, name), root)
            subsystem = subsystem_of(path)
            if not name.endswith(".c") or subsystem is None or is_held_out_file(path):
                continue
            with open(os.path.join(folder, name), errors="ignore") as file:
                source = file.read()
            driver = os.path.basename(folder) if name in GENERIC_FILE_NAMES else name[:-2]
            for severity, template in messages_in(source):
                if is_usable(template):
                    found.add((subsystem, severity or "", driver, template))
    keys = ("subsystem", "severity", "driver", "template")
    return [dict(zip(keys, row)) for row in sorted(found)]
