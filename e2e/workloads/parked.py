"""Many threads, each parked at a known place, for comparing stacks line by line.

Every thread waits for about a quarter of a second at a time, always at the same line, so that it is seen at switches;
with --forever it waits without an end. Nothing else runs. The first line printed is JSON: the process id and, for each
thread, its name and its id.

    python3 parked.py [--forever]
"""
import argparse
import asyncio
import functools
import json
import os
import queue
import select
import socket
import subprocess
import sys
import threading
import time

DEPTHS = (1, 2, 3, 5, 8, 13, 21, 50, 100, 200)
NAP = 0.25
forever = False


def repeat(wait):
    """Calls `wait` again and again: from a C function, so that there is a native boundary in the stack."""
    for _ in iter(wait, "never"):
        pass


def park():
    time.sleep(3600 if forever else NAP)


def in_sleep():
    while True:
        park()


def in_queue():
    items = queue.Queue()
    while True:
        try:
            items.get(timeout=3600 if forever else NAP)
        except queue.Empty:
            pass


def in_lock():
    lock = threading.Lock()
    lock.acquire()
    while True:
        lock.acquire(timeout=3600 if forever else NAP)


def in_event():
    event = threading.Event()
    while True:
        event.wait(3600 if forever else NAP)


def in_select():
    left, right = socket.socketpair()
    while True:
        select.select([left], [], [], 3600 if forever else NAP)


def in_epoll():
    left, right = socket.socketpair()
    poll = select.epoll()
    poll.register(left.fileno(), select.EPOLLIN)
    while True:
        poll.poll(3600 if forever else NAP)


def in_recv():
    left, right = socket.socketpair()
    left.settimeout(3600 if forever else NAP)
    while True:
        try:
            left.recv(1)
        except socket.timeout:
            pass


def in_child_wait():
    while True:
        subprocess.Popen(["/bin/sleep", "3600" if forever else "0.25"]).wait()


def in_nested():
    def middle():
        def inner():
            while True:
                park()

        inner()

    middle()


def decorator(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


@decorator
@decorator
def in_decorated():
    while True:
        park()


def naps():
    while True:
        park()
        yield 1


def in_generator():
    for _ in naps():
        pass


def delegated():
    yield from naps()


def in_delegating_generator():
    sum(n for n in delegated())


async def deep_task(depth):
    if depth:
        await deep_task(depth - 1)
    while True:
        park()


async def fan_out():
    await asyncio.gather(deep_task(4))


def in_async_task():
    asyncio.new_event_loop().run_until_complete(fan_out())


async def idle():
    while True:
        await asyncio.sleep(3600 if forever else NAP)


def in_event_loop():
    asyncio.new_event_loop().run_until_complete(idle())


MADE = """

def made_outer():
    made_inner()


def made_inner():
    while True:
        park()
"""


def in_made_code():
    names = {"park": park}
    exec(compile(MADE, "<made-code>", "exec"), names)
    names["made_outer"]()


in_lambda = lambda: [park() for _ in iter(int, 1)]  # noqa: E731


class Waiter:
    class Inner:
        def method(self):
            while True:
                self.static()

        @staticmethod
        def static():
            park()

    @classmethod
    def from_class(cls):
        cls.Inner().method()

    def __call__(self):
        self.from_class()

    @property
    def waiting(self):
        return self.from_class()


def in_method():
    Waiter()()


def in_property():
    return Waiter().waiting


def in_c_callback():
    list(map(lambda _: in_sorted_key(), [1]))


def in_sorted_key():
    sorted([1, 2], key=lambda _: repeat(park))


def in_comprehension():
    return {n: [park() for _ in iter(int, 1)] for n in range(3)}


def in_except():
    try:
        raise ValueError("on purpose")
    except ValueError:
        while True:
            park()


def in_finally():
    try:
        return 1
    finally:
        while True:
            park()


def 名前():
    while True:
        park()


def in_unicode_name():
    名前()


def in_multi_line_call():
    while True:
        functools.partial(
            park,
        )(
        )


def descend(depth):
    if depth <= 1:
        while True:
            park()
    descend(depth - 1)


def at_depth(depth):
    def in_recursion():
        descend(depth)

    in_recursion.__name__ = "depth-%d" % depth
    return in_recursion


def main():
    global forever
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--forever", action="store_true")
    forever = parser.parse_args().forever

    places = [value for name, value in globals().items() if name.startswith("in_")]
    places += [at_depth(depth) for depth in DEPTHS]
    places = [p for p in places if p.__name__ not in ("in_sorted_key",)]
    threads = []
    for place in places:
        name = "in_lambda" if place is in_lambda else place.__name__
        threads.append(threading.Thread(target=place, name=name, daemon=True))
        threads[-1].start()
    time.sleep(0.3)
    print(json.dumps({
        "ready": True, "pid": os.getpid(), "tids": {t.name: t.native_id for t in threads}, "main": threading.get_native_id(),
    }), flush=True)
    # The end of standard input is the sign to leave.
    sys.stdin.buffer.raw.read()
    os._exit(0)


if __name__ == "__main__":
    main()
