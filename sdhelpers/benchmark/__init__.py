"""Memory, speed and image difference of every change, each measured in a fresh process. Built in chapter 7."""

from sdhelpers.benchmark.measurement import Row
from sdhelpers.benchmark.report import (
    HEADING,
    KEPT,
    Benchmark,
    as_row,
    command,
    facts,
    fastest,
    line,
    plot,
    recorded,
    rows,
    table,
)
