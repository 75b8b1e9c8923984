"""Work measured without a clock on the wall: the same function on a small and a large input, in one run.

What a test wants to know is not how many seconds something takes here and today, but that ten times the input does
not take a hundred times the work. Only this thread's processor time counts, so other programs do not matter.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

LEAST = 0.05  # seconds of the smaller measurement: well above the clock's steps, which are 1/64 second on Windows


def growth(function: Callable[[Any], Any], small: Any, large: Any, enough: float) -> float:
    """How many times longer `function(large)` takes than `function(small)`, from the best of each.

    Measured until it is below `enough`, at most seven times: a busy machine slows one of them down now and then, and
    work that does grow too fast is too slow each time.
    """
    repeats = 1
    while _seconds(function, small, repeats) < LEAST:
        repeats *= 2
    least_small = least_large = ratio = float("inf")
    for _ in range(7):
        least_small = min(least_small, _seconds(function, small, repeats) / repeats)
        least_large = min(least_large, _seconds(function, large, 1))
        ratio = least_large / least_small
        if ratio < enough:
            break
    return ratio


def _seconds(function: Callable[[Any], Any], argument: Any, repeats: int) -> float:
    started = time.thread_time()
    for _ in range(repeats):
        function(argument)
    return time.thread_time() - started


def calls(function: Callable[[Any], Any], argument: Any, refusal: type[Exception]) -> int:
    """How many functions, Python's and built-in ones, are called until `function` returns or refuses its argument.

    The same on every computer; what happens inside one built-in function is not seen.
    """
    counted, before = 0, sys.getprofile()

    def count(frame, event: str, called) -> None:
        nonlocal counted
        counted += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        function(argument)
    except refusal:
        pass
    finally:
        sys.setprofile(before)
    return counted
