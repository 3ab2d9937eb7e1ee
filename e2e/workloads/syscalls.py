"""Makes known numbers of system calls in a thread, once for each line of its input; tells their names, numbers and errors."""
import errno
import json
import os
import sys
import threading
import time

COUNTS = {"getppid": 20000, "close": 500, "unlink": 300, "write": 5000, "read": 5000, "clock_nanosleep": 20}
ERRNOS = {"close": {"EBADF": 500}, "unlink": {"ENOENT": 300}}
SLEEP = 0.01


def fails(expected, call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        assert error.errno == expected, error
    else:
        raise AssertionError("it did not fail")


def slow_nap():
    time.sleep(SLEEP)


def calls(reader, writer):
    for _ in range(COUNTS["getppid"]):
        os.getppid()
    for _ in range(COUNTS["close"]):
        fails(errno.EBADF, os.close, -1)
    for _ in range(COUNTS["unlink"]):
        fails(errno.ENOENT, os.unlink, "/nonexistent/file")
    for _ in range(COUNTS["write"]):
        os.write(writer, b"x")
        os.read(reader, 1)
    for _ in range(COUNTS["clock_nanosleep"]):
        slow_nap()


def main():
    reader, writer = os.pipe()
    say = lambda **line: print(json.dumps(line), flush=True)  # noqa: E731
    say(ready=True, pid=os.getpid())
    for _ in sys.stdin:
        began = time.monotonic_ns()
        thread = threading.Thread(target=calls, args=(reader, writer))
        thread.start()
        tid = thread.native_id
        thread.join()
        say(done=True, tid=tid, took_ns=time.monotonic_ns() - began, counts=COUNTS, errnos=ERRNOS, sleep_ns=int(SLEEP * 1e9))


main()
