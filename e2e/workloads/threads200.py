"""A process with 200 threads: two burn CPU, the others wake about ten times a second and do a little.

    python3 threads200.py [--seconds N] [--threads N]
"""
import argparse
import json
import os
import sys
import threading
import time

stop = threading.Event()


def burner():
    x = 0
    while not stop.is_set():
        for _ in range(20000):
            x += 1


def ticker():
    while not stop.wait(0.1):
        sum(range(200))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--threads", type=int, default=200)
    options = parser.parse_args()
    threads = [threading.Thread(target=burner, name="burner", daemon=True) for _ in range(2)]
    threads += [threading.Thread(target=ticker, name="ticker", daemon=True) for _ in range(options.threads - 3)]
    for thread in threads:
        thread.start()
    print(json.dumps({"ready": True, "pid": os.getpid()}), flush=True)
    time.sleep(options.seconds)
    stop.set()
    return 0


if __name__ == "__main__":
    sys.exit(main())
