"""Freed memory is kept within `caching`, and goes back at its end."""

import resource
import sys

import pytest
import torch

from allegory.runtime import memory


def faults(run):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    run()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(memory._glibc() is None or sys.platform != "linux", reason="glibc alone has the switch")
def test_what_is_freed_is_not_mapped_anew():
    def steps():
        for _ in range(20):
            several = [torch.ones(2**18, dtype=torch.float64) for _ in range(8)]  # 2 MB each, 4,096 pages in all
            del several

    with memory.caching():
        with memory.caching():
            steps()
        assert memory.nesting == 1
        assert faults(steps) < 4096  # and 20 times as many where it is mapped anew
    assert memory.nesting == 0


def test_without_the_switch_nothing_happens(monkeypatch):
    monkeypatch.setattr(memory, "_glibc", lambda: None)
    with memory.caching():
        assert memory.nesting == 0
