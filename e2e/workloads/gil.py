"""Two threads that want the GIL all the time, and one that waits for a lock that nobody gives back."""
import json
import os
import threading


def want_gil():
    total = 0
    while True:
        total += 1


def want_lock(lock):
    lock.acquire()


taken = threading.Lock()
taken.acquire()
threads = [threading.Thread(target=target, args=arguments, daemon=True)
           for target, arguments in [(want_gil, ()), (want_gil, ()), (want_lock, (taken,))]]
for thread in threads:
    thread.start()
print(json.dumps({"ready": True, "pid": os.getpid(), "wanting": [t.native_id for t in threads[:2]],
                  "locked": threads[2].native_id}), flush=True)
threads[0].join()
