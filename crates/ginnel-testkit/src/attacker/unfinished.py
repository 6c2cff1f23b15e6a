"""Connections that stop somewhere on the way to a call; tells which of them are still open after a while."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

from peer import *


def until_closed(stream, patience):
    stream.settimeout(patience)
    try:
        while stream.recv(1 << 16):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


def stops(certificate, after):
    stream = tls(certificate)
    stream.sendall(after)
    return until_closed(stream, WORLD["patience"])


SETTINGS_ONLY = PREFACE + raw(SETTINGS, 0, 0)
CASES = {
    f"{name}, {'with' if certificate else 'without'} a certificate": (certificate, words)
    for name, words in {"nothing": b"", "a preface": PREFACE, "settings": SETTINGS_ONLY}.items()
    for certificate in (True, False)
}
with ThreadPoolExecutor(len(CASES)) as pool:
    outcomes = dict(zip(CASES, pool.map(lambda case: stops(*case), CASES.values())))
still_open = [name for name, closed in outcomes.items() if not closed]
print(json.dumps({"open": still_open, "closed": sum(outcomes.values())}))
