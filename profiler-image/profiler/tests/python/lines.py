"""Prints the line tables of standard library modules with CPython's own reading of them.

For each code object: first line, the table in hexadecimal, the length of the bytecode in bytes, and "start:line,..." for
each range of it, line 0 for none; all separated by spaces.
"""

import dis
import glob
import os
import sys
import types


def walk(code):
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from walk(constant)


def ranges(code):
    if hasattr(code, "co_lines"):
        return [(start, line or 0) for start, _, line in code.co_lines()]
    # Up to 3.9; instructions before the first start are on the first line.
    return [(0, code.co_firstlineno)] + list(dis.findlinestarts(code))


folder = os.path.dirname(os.__file__)
files = sorted(glob.glob(folder + "/*.py") + glob.glob(folder + "/asyncio/*.py") + glob.glob(folder + "/email/*.py"))
for path in files:
    try:
        with open(path, "rb") as file:
            module = compile(file.read(), path, "exec")
    except (OSError, SyntaxError, ValueError):
        continue
    for code in walk(module):
        table = code.co_linetable if sys.version_info >= (3, 10) else code.co_lnotab
        parts = ",".join("%d:%d" % part for part in ranges(code))
        print(code.co_firstlineno, table.hex() or "-", len(code.co_code), parts)
