"""Waits for the GIL are told apart from those for other locks, on every version."""


def waits(trace, tid):
    """Time by the name of the state."""
    times = {}
    for slice_ in trace.of_thread(tid, "State"):
        times[slice_.name] = times.get(slice_.name, 0) + slice_.end - slice_.start
    return times


def test_waits_for_the_gil_are_named(record, workload, python):
    program = workload(python, "gil.py")
    archive = record("--pid", program.pid, duration="1s")
    window = archive.end - archive.start
    wanting = [waits(archive.trace, tid) for tid in program.ready["wanting"]]
    for times in wanting:
        slept = sum(time for name, time in times.items() if name.startswith("Waiting"))
        # Half of the time the other has it; less where other programs want the CPUs, since a thread without one waits for that.
        assert times["Waiting (GIL)"] >= 0.1 * window, times
        assert times["Waiting (GIL)"] >= 0.95 * slept, times
    locked = waits(archive.trace, program.ready["locked"])
    assert "Waiting (GIL)" not in locked
    assert locked["Waiting (futex)"] >= 0.99 * window
