"""Runs Python code in several threads as fast as it can, until stdin closes."""

import sys
import threading


def leaf(depth):
    return depth + sum(value for value in range(3))


def recurse(depth):
    if depth == 0:
        return leaf(depth)
    return recurse(depth - 1) + leaf(depth)


def spin():
    while True:
        recurse(12)


for _ in range(3):
    threading.Thread(target=spin, daemon=True).start()
print("END", flush=True)
sys.stdin.read()
