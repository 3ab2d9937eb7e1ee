"""Burns CPU for a while, then exits with status 7: a target that ends before its capture.

    python3 short.py [SECONDS]
"""
import json
import os
import sys
import time


def short_lived(seconds):
    until = time.monotonic() + seconds
    x = 0
    while time.monotonic() < until:
        for _ in range(500):
            x += 1
    return x


print(json.dumps({"ready": True, "pid": os.getpid()}), flush=True)
short_lived(float(sys.argv[1]) if len(sys.argv) > 1 else 2)
sys.exit(7)
