"""A program whose CPU shares are known: 60/30/10 between three functions of the main thread.

The main thread always runs the function that is furthest behind its share, for some 100 ms of its own CPU time, so the
shares hold over any longer window. Beside it: a thread that sleeps, one that burns CPU in C without the GIL, one that
waits on a queue and one on a lock.

On SIGTERM or after --seconds it prints one line of JSON: every slice with the clock (CLOCK_MONOTONIC, ns) and thread
CPU time (ns) at its start, from which the true shares of any window can be computed.

    python3 shares.py [--seconds N] [--no-hasher]
"""
import argparse
import hashlib
import json
import os
import queue
import random
import signal
import sys
import threading
import time

WEIGHTS = {"sixty": 60, "thirty": 30, "ten": 10}
stop = threading.Event()


def sixty(until_ns):
    x = 1
    while time.thread_time_ns() < until_ns:
        for _ in range(500):
            x = (x * 1103515245 + 12345) & 0xFFFFFFFF
    return x


def thirty(until_ns):
    x = 1
    while time.thread_time_ns() < until_ns:
        for _ in range(500):
            x = (x * 1103515245 + 12345) & 0xFFFFFFFF
    return x


def ten(until_ns):
    x = 1
    while time.thread_time_ns() < until_ns:
        for _ in range(500):
            x = (x * 1103515245 + 12345) & 0xFFFFFFFF
    return x


def sleeper():
    while not stop.is_set():
        time.sleep(0.05)


def hasher():
    block = b"x" * (1 << 20)
    while not stop.is_set():
        hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 200000)
        hashlib.sha256(block).digest()


def queue_waiter(items):
    while items.get() is not None:
        pass


def lock_waiter(lock):
    with lock:
        pass


def calibrated(seconds):
    functions = {"sixty": sixty, "thirty": thirty, "ten": ten}
    spent = dict.fromkeys(functions, 0)
    slices = []
    chance = random.Random(7)
    deadline = time.monotonic() + seconds
    while not stop.is_set() and time.monotonic() < deadline:
        total = sum(spent.values()) or 1
        name = min(functions, key=lambda n: spent[n] / total / WEIGHTS[n])
        start = time.thread_time_ns()
        slices.append((name, time.monotonic_ns(), start))
        functions[name](start + int(chance.uniform(60e6, 140e6) * (0.3 if name == "ten" else 1)))
        spent[name] += time.thread_time_ns() - start
    slices.append(("end", time.monotonic_ns(), time.thread_time_ns()))
    return slices


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--no-hasher", action="store_true")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())

    lock = threading.Lock()
    lock.acquire()
    items = queue.Queue()
    threads = [
        threading.Thread(target=sleeper, name="sleeper"),
        threading.Thread(target=queue_waiter, args=(items,), name="queue_waiter"),
        threading.Thread(target=lock_waiter, args=(lock,), name="lock_waiter"),
    ]
    if not options.no_hasher:
        threads.append(threading.Thread(target=hasher, name="hasher"))
    for thread in threads:
        thread.start()
    tids = {t.name: getattr(t, "native_id", None) for t in threads}
    print(json.dumps({"ready": True, "pid": os.getpid(), "tids": tids}), flush=True)

    slices = calibrated(options.seconds)
    stop.set()
    items.put(None)
    lock.release()
    for thread in threads:
        thread.join()
    print(json.dumps({"slices": slices}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
