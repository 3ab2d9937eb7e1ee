"""Parks threads in all kinds of Python frames and prints their stacks, so that a reader from outside can be compared.

For each thread: "T<TAB>ident<TAB>native id<TAB>name", then "F<TAB>function<TAB>line<TAB>file" leaf first; at the end "END".
Then everything stays parked until stdin closes. Runs on CPython 3.8 and later.
"""

import asyncio
import functools
import queue
import sys
import threading
import time

QUEUE = queue.Queue()
LOCK = threading.Lock()
LOCK.acquire()
STOP = threading.Event()


def sleeps():
    def nested():
        def deeper():
            time.sleep(3600)

        deeper()

    nested()


def waits_for_queue():
    QUEUE.get()


def waits_for_lock():
    with LOCK:
        pass


def recursion(depth):
    if depth == 0:
        time.sleep(3600)
    return (
        recursion(
            depth - 1,
        )
        + 1
    )


def generator():
    yield 1
    time.sleep(3600)
    yield 2


def drains_generator():
    for _ in generator():
        pass


def delegates():
    def outer():
        yield from generator()

    list(outer())


async def leaf_coroutine():
    await asyncio.sleep(0)
    time.sleep(3600)


async def task_body():
    await leaf_coroutine()


async def async_generator():
    await asyncio.sleep(0)
    yield 1
    await leaf_coroutine()
    yield 2


async def main_coroutine():
    task = asyncio.ensure_future(task_body())
    await task


async def drains_async_generator():
    async for _ in async_generator():
        pass


def runs_loop(coroutine):
    loop = asyncio.new_event_loop()
    loop.run_until_complete(coroutine())


def decorator(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


@decorator
@decorator
def decorated():
    time.sleep(3600)


def executes():
    source = "def made():\n\n    for _ in [1]:\n        sleep(3600)\n\nmade()\n"
    exec(compile(source, "<made at run time: \u03bb>", "exec"), {"sleep": time.sleep})


def executes_far_down():
    exec(compile("\n" * 70000 + "time.sleep(\n3600)\n", "<far \U0001f40d down>", "exec"), {"time": time})


class Base:
    def method(self):
        return self.helper(1)

    @classmethod
    def build(cls):
        return cls().method()

    @staticmethod
    def helper(_):
        time.sleep(3600)


class Derived(Base):
    def method(self):
        return super().method()

    @property
    def attribute(self):
        return [value for value in map(lambda _: self.build(), [1])]

    def __len__(self):
        self.attribute
        return 1


def uses_class():
    len(Derived())


def calls_back():
    sorted([2, 1], key=lambda value: called_back(value))


def called_back(value):
    time.sleep(3600)


def fünf():
    try:
        raise ValueError
    except ValueError:
        try:
            pass
        finally:
            with_statement()


def with_statement():
    class Context:
        def __enter__(self):
            pass

        def __exit__(self, *_):
            time.sleep(3600)

    with Context():
        pass


def without_lock():
    import hashlib

    data = bytes(1 << 30)
    while True:
        hashlib.sha256(data)


BODIES = {
    "sleeps": sleeps,
    "queue": waits_for_queue,
    "lock": waits_for_lock,
    "recursion10": lambda: recursion(10),
    "recursion100": functools.partial(recursion, 100),
    "recursion300": functools.partial(recursion, 300),
    "generator": drains_generator,
    "delegates": delegates,
    "task": functools.partial(runs_loop, main_coroutine),
    "async generator": functools.partial(runs_loop, drains_async_generator),
    "decorated": decorated,
    "exec": executes,
    "far down": executes_far_down,
    "class": uses_class,
    "callback": calls_back,
    "unicode": fünf,
    "hash": without_lock,
}


def report():
    names = {thread.ident: thread for thread in threading.enumerate()}
    lines = []
    for ident, frame in sys._current_frames().items():
        thread = names[ident]
        if thread is threading.current_thread():
            continue
        lines.append("T\t%d\t%d\t%s" % (ident, thread.native_id, thread.name))
        while frame is not None:
            code = frame.f_code
            name = getattr(code, "co_qualname", code.co_name)
            lines.append("F\t%s\t%d\t%s" % (name, frame.f_lineno or 0, code.co_filename))
            frame = frame.f_back
    return "\n".join(lines)


def reporter():
    time.sleep(0.5)
    before = report()
    while True:
        time.sleep(0.3)
        now = report()
        if now == before:
            break
        before = now
    sys.stdout.buffer.write((now + "\nEND\n").encode("utf-8", "replace"))
    sys.stdout.buffer.flush()
    time.sleep(3600)


def main():
    for name, body in BODIES.items():
        threading.Thread(target=body, name=name, daemon=True).start()
    threading.Thread(target=reporter, name="reporter", daemon=True).start()
    sys.stdin.read()


main()
