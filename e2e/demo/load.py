"""Keeps a few connections busy with the server beside it until SIGTERM, then prints what it saw.

    python3 load.py HOST:PORT [--clients N]
"""
import argparse
import http.client
import random
import signal
import threading
import time

stop = threading.Event()
times = []


def client(address, seed):
    chance = random.Random(seed)
    connection = http.client.HTTPConnection(address, timeout=10)
    while not stop.is_set():
        path = chance.choices(("/orders?customer=%d" % chance.randrange(50), "/digest?size=8000", "/slow"), (8, 3, 2))[0]
        start = time.perf_counter()
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            response.read()
            ok = response.status == 200
        except (OSError, http.client.HTTPException):
            connection.close()
            ok = False
        times.append((time.perf_counter() - start, ok))
        stop.wait(chance.uniform(0, 0.02))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("--clients", type=int, default=4)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    started = time.perf_counter()
    threads = [threading.Thread(target=client, args=(options.address, n)) for n in range(options.clients)]
    for thread in threads:
        thread.start()
    stop.wait()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - started
    good = sorted(t for t, ok in times if ok)
    print("load:     %d requests in %.1f s, %d failed, median %.1f ms, 99th percentile %.1f ms" % (
        len(times), took, len(times) - len(good), 1e3 * good[len(good) // 2], 1e3 * good[len(good) * 99 // 100]), flush=True)


if __name__ == "__main__":
    main()
