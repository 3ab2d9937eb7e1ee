"""Starts children by every usual way, some seconds after it is ready, each burning CPU in a function named after the way.

Prints a line of JSON for each child: how it was started and its process id.

    python3 children.py [--delay SECONDS] [--burn SECONDS]
"""
import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time


def burn(seconds):
    until = time.thread_time() + seconds
    x = 0
    while time.thread_time() < until:
        for _ in range(500):
            x += 1
    return x


def say(**what):
    print(json.dumps(what), flush=True)


def by_fork(seconds):
    burn(seconds)


def by_spawn(seconds):
    burn(seconds)


def by_subprocess(seconds):
    burn(seconds)


def by_os_fork(seconds):
    burn(seconds)


def by_thread(seconds):
    burn(seconds)


def grandchild(seconds):
    child = multiprocessing.get_context("fork").Process(target=by_fork, args=(seconds,))
    child.start()
    say(how="grandchild", function="by_fork", pid=child.pid)
    child.join()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--delay", type=float, default=2)
    parser.add_argument("--burn", type=float, default=1.5)
    parser.add_argument("--as-subprocess", action="store_true")
    options = parser.parse_args()
    if options.as_subprocess:
        by_subprocess(options.burn)
        return

    say(ready=True, pid=os.getpid())
    time.sleep(options.delay)
    thread = threading.Thread(target=by_thread, args=(options.burn,))
    thread.start()
    say(how="thread", function="by_thread", pid=os.getpid(), tid=thread.native_id)

    child = subprocess.Popen([sys.executable, __file__, "--as-subprocess", "--burn", str(options.burn)])
    say(how="subprocess", function="by_subprocess", pid=child.pid)
    child.wait()
    for method, function in (("fork", by_fork), ("spawn", by_spawn)):
        process = multiprocessing.get_context(method).Process(target=function, args=(options.burn,))
        process.start()
        say(how=method, function=function.__name__, pid=process.pid)
        process.join()
    process = multiprocessing.get_context("fork").Process(target=grandchild, args=(options.burn,))
    process.start()
    process.join()
    pid = os.fork()
    if pid == 0:
        by_os_fork(options.burn)
        os._exit(0)
    say(how="os.fork", function="by_os_fork", pid=pid)
    os.waitpid(pid, 0)
    thread.join()
    say(done=True)
    time.sleep(600)


if __name__ == "__main__":
    main()
