"""Two CPU-bound threads that count the rounds they do: what a capture costs shows in the count.

Prints `ready`, then a line of JSON about every fifth of a second: the clock (CLOCK_MONOTONIC, ns), the CPU time and the rounds
so far.

    python3 steady.py [--seconds N]
"""
import argparse
import json
import os
import signal
import sys
import threading
import time

rounds = [0, 0]
running = True


def leaf(x):
    for _ in range(100):
        x = (x * 1103515245 + 12345) & 0xFFFFFFFF
    return x


def middle(x):
    return leaf(leaf(x))


def worker(index):
    x = index
    while running:
        for _ in range(20):
            x = middle(x)
        rounds[index] += 1


def stop(*_):
    global running
    running = False


def main():
    global running
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, stop)
    threads = [threading.Thread(target=worker, args=(n,), name="worker-%d" % n) for n in range(2)]
    for thread in threads:
        thread.start()
    print(json.dumps({"ready": True, "pid": os.getpid()}), flush=True)
    deadline = time.monotonic() + options.seconds
    while running and time.monotonic() < deadline:
        time.sleep(0.2)
        print(json.dumps({"ns": time.monotonic_ns(), "cpu_ns": time.process_time_ns(), "rounds": sum(rounds)}), flush=True)
    running = False
    for thread in threads:
        thread.join()
    return 0


if __name__ == "__main__":
    sys.exit(main())
