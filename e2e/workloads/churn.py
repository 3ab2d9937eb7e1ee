"""Makes and drops functions all the time, so that code objects' addresses are used again and again.

Function `f_17` is compiled from the file `<gen-17>` and its first line is line 17 modulo 1000, plus 1: a frame that mixes
the name, file or line of two of them shows that a stale name was used.

    python3 churn.py [--seconds N]
"""
import argparse
import json
import os
import signal
import sys
import time

running = True


def stop(*_):
    global running
    running = False


def make(number):
    first = number % 1000 + 1
    source = "\n" * (first - 1) + (
        "def f_{0}(until):\n"
        "    x = 0\n"
        "    while clock() < until:\n"
        "        for _ in range(100):\n"
        "            x += 1\n"
        "    return x\n"
    ).format(number)
    names = {"clock": time.perf_counter}
    exec(compile(source, "<gen-%d>" % number, "exec"), names)
    return names["f_%d" % number]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, stop)
    print(json.dumps({"ready": True, "pid": os.getpid()}), flush=True)
    number = 0
    deadline = time.monotonic() + options.seconds
    while running and time.monotonic() < deadline:
        make(number)(time.perf_counter() + 0.002)
        number += 1
    print(json.dumps({"made": number}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
