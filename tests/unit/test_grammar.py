r"""The prompt grammar against the web UI's documentation, a reference reading of brackets, and any string at all.

The fuzz tests take 2,000 strings each; a longer run:
    SDHELPERS_FUZZ=100000 python -m pytest tests/unit/test_grammar.py -k fuzz
"""

import os
import re
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from growth import growth
from sdhelpers.prompts import PromptError, parse, read_prompt, read_schedule, write_reading
from sdhelpers.prompts.grammar import DEEPEST, Switch
from sdhelpers.prompts.pasted import mend

STRINGS = int(os.environ.get("SDHELPERS_FUZZ", "2000"))
fuzz = settings(max_examples=STRINGS, deadline=2000, suppress_health_check=list(HealthCheck))
SIGNS = st.text(alphabet="ab .05-+()[]:|\\\n", max_size=60)
WORDS = st.lists(st.sampled_from(["(", ")", "[", "]", ":", "|", "\\", "BREAK", " ", "cat", "1.5", "3", ".5", ",", "é"]))
ANYTHING = SIGNS | WORDS.map("".join) | st.text(max_size=60)


def flat(prompt: str) -> list[tuple[str, float]]:
    """The pieces of a prompt that never changes and has no BREAK."""
    (pieces,) = read_prompt(prompt)
    return [(text, pytest.approx(weight)) for text, weight in pieces]


# What the documentation describes, case by case: "Attention/emphasis".

DOCUMENTED_WEIGHTS = [
    ("a cat", [("a cat", 1)]),
    ("a (cat)", [("a ", 1), ("cat", 1.1)]),
    ("a ((cat))", [("a ", 1), ("cat", 1.21)]),
    ("a (((cat)))", [("a ", 1), ("cat", 1.331)]),
    ("a [cat]", [("a ", 1), ("cat", 1 / 1.1)]),
    ("a [[cat]]", [("a ", 1), ("cat", 1 / 1.21)]),
    ("a (cat:1.5)", [("a ", 1), ("cat", 1.5)]),
    ("a (cat:0.25)", [("a ", 1), ("cat", 0.25)]),
    ("a (cat:2)", [("a ", 1), ("cat", 2)]),
    ("a (cat:.5)", [("a ", 1), ("cat", 0.5)]),
    ("a (cat: 1.5 )", [("a ", 1), ("cat", 1.5)]),
    (r"a \(cat\)", [("a (cat)", 1)]),
    (r"a \[cat\]", [("a [cat]", 1)]),
    (r"a (cat \(small\):1.3)", [("a ", 1), ("cat (small)", 1.3)]),
    (r"animal_\(cat\) (on a beach)", [("animal_(cat) ", 1), ("on a beach", 1.1)]),
    ("a (((castle))), at night", [("a ", 1), ("castle", 1.331), (", at night", 1)]),
    # weights inside weights multiply
    ("a (red [old] castle:1.5)", [("a ", 1), ("red ", 1.5), ("old", 1.5 / 1.1), (" castle", 1.5)]),
    ("((a):2)", [("a", 2.2)]),
    ("([a])", [("a", 1)]),
    ("(a (b:1.2) c)", [("a ", 1.1), ("b", 1.32), (" c", 1.1)]),
    # a bracket that is never closed reaches to the end, a closing one without its opening one is a sign
    ("a (cat on a beach", [("a ", 1), ("cat on a beach", 1.1)]),
    ("a ((cat on a beach", [("a ", 1), ("cat on a beach", 1.21)]),
    ("a ((cat) on a beach", [("a ", 1), ("cat", 1.21), (" on a beach", 1.1)]),
    ("a [cat on a (beach", [("a ", 1), ("cat on a ", 1 / 1.1), ("beach", 1)]),
    ("a cat) on a beach]", [("a cat) on a beach]", 1)]),
    ("a (cat] b)", [("a ", 1), ("cat] b", 1.1)]),
    ("a [cat) b]", [("a ", 1), ("cat) b", 1 / 1.1)]),
    # signs that mean something only inside of brackets, and numbers that are no weights
    ("clock: 10:30 | sea", [("clock: 10:30 | sea", 1)]),
    ("(ratio 16:9, wide)", [("ratio 16:9, wide", 1.1)]),
    ("(a: cat)", [("a: cat", 1.1)]),
    ("(a|b:1.2)", [("a|b", 1.2)]),
    ("(10:30:1.2)", [("10:30", 1.2)]),
    ("[a: cat]", [("a: cat", 1 / 1.1)]),
    (r"back\slash", [("back\\slash", 1)]),
    (r"(cat\\)", [("cat\\", 1.1)]),
    (r"(at 10\:30)", [("at 10:30", 1.1)]),
    ("", []),
    ("()", []),
]


@pytest.mark.parametrize(("prompt", "pieces"), DOCUMENTED_WEIGHTS)
def test_weights_are_read_as_documented(prompt, pieces):
    assert flat(prompt) == pieces


# "Infinite prompt length".

DOCUMENTED_BREAKS = [
    ("a cat BREAK a dog", [["a cat "], [" a dog"]]),
    ("a cat BREAK", [["a cat "], []]),
    ("BREAK a cat", [[], [" a cat"]]),
    ("a BREAK b BREAK c", [["a "], [" b "], [" c"]]),
    ("a break, BREAKFAST, lunchBREAK, BREAK_2", [["a break, BREAKFAST, lunchBREAK, BREAK_2"]]),
    ("a, BREAK, b", [["a, "], [", b"]]),
]


@pytest.mark.parametrize(("prompt", "texts"), DOCUMENTED_BREAKS)
def test_break_stands_alone_in_capitals(prompt, texts):
    assert [[piece.text for piece in pieces] for pieces in read_prompt(prompt)] == texts


def test_a_weight_reaches_over_a_break():
    assert [[p.weight for p in pieces] for pieces in read_prompt("(a BREAK b:1.5)")] == [[1.5], [1.5]]


# "Prompt editing" and "Alternating words".


def texts(prompt: str, steps: int) -> list[str]:
    return ["".join(piece.text for pieces in reading for piece in pieces) for reading in read_schedule(prompt, steps)]


DOCUMENTED_SCHEDULES = [
    ("a [cat:dog:4]", 10, ["a cat"] * 4 + ["a dog"] * 6),
    ("a [cat:dog:1]", 3, ["a cat"] + ["a dog"] * 2),
    ("a [cat:dog:0.25]", 8, ["a cat"] * 2 + ["a dog"] * 6),
    ("a [cat:dog:0.25]", 10, ["a cat"] * 2 + ["a dog"] * 8),  # 2.5 steps, rounded down
    ("a [cat:dog:0.29]", 100, ["a cat"] * 29 + ["a dog"] * 71),  # exactly, not 28.999...
    ("a [cat:dog:1.0]", 5, ["a cat"] * 5),
    ("a [cat:dog:0]", 2, ["a dog"] * 2),
    ("a [cat:dog:20]", 5, ["a cat"] * 5),
    ("a[ dog:2]", 4, ["a"] * 2 + ["a dog"] * 2),
    ("a[: dog:2]", 4, ["a"] * 2 + ["a dog"] * 2),
    ("a[ dog::2]", 4, ["a dog"] * 2 + ["a"] * 2),
    ("a [cat|dog]", 5, ["a cat", "a dog", "a cat", "a dog", "a cat"]),
    ("[a|a|b|c]", 6, ["a", "a", "b", "c", "a", "a"]),
    ("[a|]b", 3, ["ab", "b", "ab"]),
    # one inside the other
    ("[[a:b:1]:c:3]", 4, ["a", "b", "b", "c"]),
    ("[a:[b:c:3]:1]", 4, ["a", "b", "b", "c"]),
    ("[[a|b]:c:3]", 5, ["a", "b", "a", "c", "c"]),
    ("[[a:b:2]|c]", 4, ["a", "c", "b", "c"]),
    ("(a [cat:dog:1]:1.2)", 2, ["a cat", "a dog"]),
]


@pytest.mark.parametrize(("prompt", "steps", "expected"), DOCUMENTED_SCHEDULES)
def test_schedules_are_read_as_documented(prompt, steps, expected):
    assert texts(prompt, steps) == expected


def test_many_switches_in_one_prompt_go_each_at_its_own_step():
    prompt = "a [hill:lake:0.25] and [a pine:a palm:0.75][ in front::0.6][: behind:0.25], [plain:rich:0.5]"
    said = texts(prompt, 100)
    assert said[0] == said[24] == "a hill and a pine in front, plain"
    assert said[25] == said[49] == "a lake and a pine in front behind, plain"
    assert said[50] == said[59] == "a lake and a pine in front behind, rich"
    assert said[60] == said[74] == "a lake and a pine behind, rich"
    assert said[75] == said[99] == "a lake and a palm behind, rich"


def test_weights_and_schedules_go_into_one_another():
    first, second = read_schedule("([cat:(dog:1.5):1] here:2)", 2)
    assert first == ((("cat here", 2.0),),)
    assert second == ((("dog", 3.0), (" here", 2.0)),)


def test_a_switch_knows_whether_it_was_given_in_steps_or_as_a_share():
    (steps,), (share,) = parse("[a:b:1]"), parse("[a:b:1.0]")
    assert isinstance(steps, Switch) and type(steps.when) is int
    assert isinstance(share, Switch) and share.when == Fraction(1) and type(share.when) is Fraction


# Mistakes.

MISTAKES = [
    ("a (cat [dog) b]", 12, "must not overlap"),
    ("[a (b] c)", 6, "must not overlap"),
    ("(a:1.2.3)", 4, "1.2.3 is not a number"),
    ("(a:" + "9" * 50 + ")", 4, "is not a number"),
    ("(a:9999999)", 4, "too large"),
    ("[a:b:-3]", 6, "cannot come before the first step"),
    ("[a:b:1.5]", 6, "from 0 to 1, not 1.5"),
    ("x [a|b:0.5]", 3, "one inside the other"),
    ("[a:b:c:0.5]", 1, "one inside the other"),
    ("a [cat:dog:0.5 on a beach", 3, r"this \[ is never closed"),
    ("a [cat|dog", 3, r"this \[ is never closed"),
    ("a (cat:1.5 on a beach", 3, r"this \( is never closed"),
    ("x" + "(" * (DEEPEST + 1) + ")" * (DEEPEST + 1), 2, "inside one another"),
    ("a cat :1.2 AND a dog", 12, "write `and` for the word"),
    ("(a cat AND a dog)", 8, "guided one by one"),
    ("a cat <lora:ink:0.8>", 7, "<lora:ink:0.8> names a file"),
    ("<hypernet:old>", 1, "load the file"),
]


@pytest.mark.parametrize(("prompt", "position", "message"), MISTAKES)
def test_a_mistake_has_a_position_and_one_sentence(prompt, position, message):
    with pytest.raises(PromptError, match=message) as caught:
        parse(prompt)
    assert caught.value.position == position
    assert str(caught.value).startswith(f"Character {position}: ")


def test_mistakes_that_no_single_character_makes():
    with pytest.raises(PromptError, match="multiply to 1e\\+12") as caught:
        read_prompt("((a:1000000):1000000)")
    assert caught.value.position is None
    with pytest.raises(PromptError, match="changes from step to step"):
        read_prompt("([a|b]:1.2)")
    with pytest.raises(PromptError, match="at least one step"):
        read_schedule("a", 0)


def test_what_only_looks_like_a_request_is_text():
    for text in ("a cat and a dog", "ANDROID, BRAND, AND_2", "<3, <lora, lora:ink>", "<b:1>"):
        assert flat(text) == [(text, 1)]


# Prompts from elsewhere.

TOLERATED = [
    ("a (cat [dog) b]", "a (cat [dog])[ b]"),
    ("[a (b] c)", "[a (b)]( c)"),
    ("(a [b:1.3) c]", "(a [b]:1.3)[ c]"),
    ("[a (b] c:1.3)", "[a (b:1.3)]( c:1.3)"),
    ("a (cat:1.5 on a beach", "a (cat:1.5 on a beach)"),
    ("a (cat:1.5", "a (cat:1.5)"),
    ("a [cat|dog", "a [cat|dog]"),
    ("a [cat:dog:0.5", "a [cat:dog:0.5]"),
    ("((a [b", "((a [b]))"),
    ("(a\\", r"(a\\)"),
    (r"(a \[b) c]", r"(a \[b) c]"),
    ("a) b] :)", "a) b] :)"),
    ("", ""),
]


@pytest.mark.parametrize(("pasted", "mended"), TOLERATED)
def test_a_pasted_prompt_is_put_right(pasted, mended):
    assert mend(pasted) == mended
    assert read_schedule(pasted, 4, tolerant=True) == read_schedule(mended, 4)


def test_other_mistakes_are_named_in_a_pasted_prompt_too():
    with pytest.raises(PromptError, match=r"^Character 4: 1\.2\.3 is not a number") as caught:
        read_prompt("(a:1.2.3)", tolerant=True)
    assert caught.value.position == 4
    with pytest.raises(PromptError, match=r"^1\.2\.3 is not a number") as caught:  # its place is in the mended text
        read_prompt("(x [y) z] (a:1.2.3)", tolerant=True)
    assert caught.value.position is None
    with pytest.raises(PromptError, match="inside one another"):
        read_prompt("(" * (DEEPEST + 1), tolerant=True)


# Long, deep, and anything at all.

HUGE = {  # of some number of characters
    "opening": lambda n: "(" * (n // 10),
    "squares": lambda n: "[" * (n // 10),
    "mixed": lambda n: "[(" * (n // 2),
    "nested": lambda n: "(" * (n // 2) + "a" + ")" * (n // 2),
    "closing": lambda n: ")]" * (n // 2),
    "escapes": lambda n: r"\(" * (n // 2),
    "backslashes": lambda n: "\\" * n,
    "words": lambda n: "cat " * (n // 4),
    "spaces": lambda n: " " * n,
    "colons": lambda n: "[" + ":" * n + "]",
    "options": lambda n: "[" + "a|" * (n // 2) + "]",
    "breaks": lambda n: "BREAK " * (n // 6),
    "almost breaks": lambda n: "BREA" * (n // 4),
    "capitals": lambda n: "B" * n,
    "digits": lambda n: "(a:" + "1" * n + ")",
    "spaced digits": lambda n: "(a:" + " " * (n // 2) + "1" + " " * (n // 2) + ")",
    "weights": lambda n: "(cat:1.1) " * (n // 10),
    "schedules": lambda n: "[a:b:0.5]" * (n // 9),
    "deep": lambda n: ("(" * DEEPEST + "a" + ")" * DEEPEST) * (n // 201),
    "deep schedules": lambda n: "[" * (n // 440) + "a" + "::0.5]" * (n // 440),
    "everything": lambda n: r"a (cat:1.3) [on a:at \[a\]:0.5] ((beach)), " * (n // 45),
}


def read_or_refuse(prompt: str, tolerant: bool = False) -> None:
    try:
        read_schedule(prompt, 3, tolerant)
    except PromptError as error:
        assert (tolerant or error.position) and "\n" not in str(error) and len(str(error)) < 200


@pytest.mark.parametrize("name", HUGE)
def test_huge_prompts_give_a_result_or_one_sentence_and_work_grows_with_length_alone(name):
    """Ten times the length: some ten times the work; a hundred times if it were quadratic."""
    assert growth(read_or_refuse, HUGE[name](4_000), HUGE[name](40_000), 30) < 30


CROSSED = {
    "crossed": lambda n: "([)]" * (n // 4),
    "crossed deeply": lambda n: ("(" * 40 + "[" * 40 + ")" * 40 + "]" * 40) * (n // 160),
    "crossed and never closed": lambda n: "[" * 90 + "()" * (n // 2),
    "closed across": lambda n: "(" + "[" * 90 + ")(" * (n // 2),
}


@pytest.mark.parametrize("name", CROSSED)
def test_putting_a_prompt_right_takes_work_that_grows_with_its_length_alone(name):
    assert growth(lambda p: read_or_refuse(p, tolerant=True), CROSSED[name](2_000), CROSSED[name](20_000), 30) < 30


@fuzz
@given(ANYTHING, st.integers(1, 7))
def test_fuzz_any_string_gives_readings_or_one_sentence_with_a_position(prompt, steps):
    try:
        readings = read_schedule(prompt, steps)
    except PromptError as error:
        assert error.position is None or 1 <= error.position <= len(prompt)
        assert "\n" not in str(error) and str(error).endswith(".")
        return
    assert len(readings) == steps
    assert all(segments and piece.text for segments in readings for pieces in segments for piece in pieces)


def letters(reading) -> list[tuple[str, float]]:
    """Every character of a reading with its weight; BREAK between segments."""
    found = []
    for pieces in reading:
        found += [(letter, pytest.approx(p.weight)) for p in pieces for letter in p.text] + [("BREAK", 1)]
    return found[:-1]


def reference(prompt: str) -> list[tuple[str, float]] | None:
    """Weights by counting open brackets, for prompts without colons and bars; None where brackets overlap."""
    opened: list[str] = []
    found = []
    for sign in re.findall(r"\\[()\[\]\\]|(?<!\w)BREAK(?!\w)|.", prompt, re.DOTALL):
        partner = {")": "(", "]": "["}.get(sign)
        if sign in ("(", "["):
            opened.append(sign)
        elif partner in opened:
            if opened.pop() != partner:
                return None
        elif sign == "BREAK":
            found.append((sign, 1))
        else:
            found.append((sign[-1], 1.1 ** (opened.count("(") - opened.count("["))))
    return found


@fuzz
@given((SIGNS | WORDS.map("".join)).map(lambda text: re.sub("[:|]", "", text)))
def test_fuzz_brackets_weigh_what_counting_them_says(prompt):
    expected = reference(prompt)
    if expected is None:
        with pytest.raises(PromptError, match="must not overlap"):
            read_prompt(prompt)
    else:
        assert letters(read_prompt(prompt)) == expected


@fuzz
@given(ANYTHING, st.integers(1, 4))
def test_fuzz_the_tolerant_reading_is_the_strict_one_where_that_reads_and_never_stumbles_over_brackets(prompt, steps):
    try:
        strict = read_schedule(prompt, steps)
    except PromptError:
        strict = None
    try:
        tolerant = read_schedule(prompt, steps, tolerant=True)
    except PromptError as error:
        assert strict is None
        assert "overlap" not in str(error) and "never closed" not in str(error)
        return
    assert strict is None or tolerant == strict


@fuzz
@given(ANYTHING)
def test_fuzz_mending_keeps_the_words_and_leaves_nothing_to_mend(prompt):
    mended = mend(prompt)
    assert mend(mended) == mended
    assert re.sub(r"[()\[\]\\]|:[0-9.+\s-]*", "", mended) == re.sub(r"[()\[\]\\]|:[0-9.+\s-]*", "", prompt)


def tolerant_reference(prompt: str) -> list[tuple[str, float]]:
    """Weights of a prompt without colons and bars: each bracket reaches to the next closing one that is its own."""
    signs = re.findall(r"\\[()\[\]\\]|(?<!\w)BREAK(?!\w)|.", prompt, re.DOTALL)
    opened: dict[str, list[int]] = {"(": [], "[": []}
    spans, plain = [], set()
    for i, sign in enumerate(signs):
        partner = {")": "(", "]": "["}.get(sign)
        if sign in opened:
            opened[sign].append(i)
        elif partner and opened[partner]:
            spans.append((opened[partner].pop(), i, partner))
        else:
            plain.add(i)
    spans += [(first, len(signs), sign) for sign, places in opened.items() for first in places]
    found = []
    for i in sorted(plain):
        around = [sign for first, last, sign in spans if first < i < last]
        weight = 1 if signs[i] == "BREAK" else 1.1 ** (around.count("(") - around.count("["))
        found.append((signs[i] if signs[i] == "BREAK" else signs[i][-1], weight))
    return found


@fuzz
@given((SIGNS | WORDS.map("".join)).map(lambda text: re.sub("[:|]", "", text)))
def test_fuzz_overlapping_brackets_weigh_what_their_spans_say(prompt):
    assert letters(read_prompt(prompt, tolerant=True)) == tolerant_reference(prompt)


def escaped(text: str) -> str:
    return re.sub(r"[()\[\]\\:|]", r"\\\g<0>", text)


def weighted(inner, number):
    source, truth = inner
    return f"({source}:{number})", lambda step, steps, weight: truth(step, steps, weight * float(number))


def switched(before, after, when):
    def truth(step, steps, weight):
        last = int(Fraction(when) * steps) if "." in when else int(when)
        return (before if step <= last else after)[1](step, steps, weight)

    return f"[{before[0]}:{after[0]}:{when}]", truth


def alternated(options):
    source = "[" + "|".join(source for source, _ in options) + "]"
    return source, lambda step, steps, weight: options[(step - 1) % len(options)][1](step, steps, weight)


def joined(parts):
    def truth(step, steps, weight):
        return [pair for _, part in parts for pair in part(step, steps, weight)]

    return "".join(source for source, _ in parts), truth


def plain(text):
    return escaped(text), lambda step, steps, weight: [(letter, weight) for letter in text]


def bracketed(inner, signs, factor):
    return signs[0] + inner[0] + signs[1], lambda step, steps, weight: inner[1](step, steps, weight * factor)


NUMBERS = st.sampled_from(["0.5", "1.3", "2", ".25", "-1", "0"])
POINTS = st.sampled_from(["0", "1", "3", "20", "0.0", "0.25", ".5", "0.99", "1.0"])
PROMPTS = st.recursive(
    st.text(alphabet="ab (:|)[]\\", max_size=5).map(plain),
    lambda inner: st.one_of(
        st.builds(weighted, inner, NUMBERS),
        st.builds(switched, inner, inner, POINTS),
        st.builds(alternated, st.lists(inner, min_size=2, max_size=4)),
        st.builds(joined, st.lists(inner, min_size=2, max_size=3)),
        st.builds(bracketed, inner, st.just("()"), st.just(1.1)),
        st.builds(bracketed, inner, st.just("[]"), st.just(1 / 1.1)),
    ),
    max_leaves=12,
)


@fuzz
@given(PROMPTS, st.integers(1, 12))
def test_fuzz_what_was_put_together_is_read_as_it_was_meant(prompt, steps):
    source, truth = prompt
    said = [letters(reading) for reading in read_schedule(source, steps)]
    assert said == [truth(step, steps, 1.0) for step in range(1, steps + 1)]


@fuzz
@given(PROMPTS, st.integers(1, 3))
def test_fuzz_a_reading_written_out_is_read_as_itself(prompt, steps):
    for reading in read_schedule(prompt[0], steps):
        again = read_prompt(write_reading(reading))
        assert "".join(t for t, _ in letters(again)).strip() == "".join(t for t, _ in letters(reading)).strip()
