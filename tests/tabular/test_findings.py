"""What is named before training: what is in a table twice, what follows from what, what may stand for a gap."""

import re

import numpy as np
import pandas as pd
import pytest

from allegory.tabular import Schema, remarks
from allegory.tabular.findings import _digests

R = np.random.default_rng(0)
N = 300
A, B = R.integers(0, 999, N), R.lognormal(3, 1, N).round(2)
WORDS = np.array(["Rom", "Ulm", "Köln"], object)[R.integers(0, 3, N)]
LAND = np.where(WORDS == "Rom", "I", "D").astype(object)
FOUND = {
    "equal columns": ({"a": A, "b": A.astype(float), "c": B}, [], ["columns 'a' and 'b' are equal"]),
    "a sum": ({"a": A, "b": B, "c": A + B}, [], ["columns 'a', 'b', 'c': each follows from the others"]),
    "other units": (
        {"euro": B, "cents": np.rint(B * 100).astype(int), "a": A},
        [],
        ["columns 'euro', 'cents': each follows"],
    ),
    "a function": (
        {"town": WORDS, "land": LAND, "a": A},
        [],
        ["column 'land' follows from 'town': it says nothing"],
    ),
    "the same in other words": (
        {"town": WORDS, "nr": (WORDS == "Rom") + 2 * (WORDS == "Ulm"), "a": A},
        [],
        ["column 'nr' follows from 'town', and the other way round"],
    ),
    "a question mark": (
        {"job": np.where(np.arange(N) % 9, WORDS, "?"), "a": A},
        [],
        [r"column 'job': '\?' in 34 rows may stand for a gap"],
    ),
    "nines": (
        {"age": np.where(np.arange(N) % 9, A % 90, 999), "b": B},
        [],
        ["column 'age': 999 in 34 rows is far from the others, 0 .. 89; .*gaps={'age': .999.}"],
    ),
    "minus one": ({"age": np.where(np.arange(N) % 9, 200 + A, -1), "b": B}, [], ["column 'age': -1 in 34 rows"]),
    "far": ({"b": np.where(np.arange(N) % 9, B, -1e7)}, [], ["column 'b': -10000000 in 34 rows is far"]),
    "numbers as text": (
        {"a": (A % 10).astype(str).astype(object), "b": B},
        [],
        ["column 'a': text, .* numbers, such as '0'"],
    ),
    "zip codes": ({"a": np.char.add("0", (A % 10).astype(str)).astype(object), "b": B}, [], []),
    "shares": (
        {"a": np.char.add((A % 10).astype(str), "%").astype(object), "b": B},
        [],
        ["column 'a': text, .* numbers, such as '0%'; write them without signs"],
    ),
    "days of another country": (
        {"a": np.char.add((1 + A % 12).astype(str), "/3/2021").astype(object), "b": B},
        [],
        ["column 'a': text, .* dates, such as '[0-9]+/3/2021'; .* 2021-01-31"],
    ),
    "spellings": (
        {"town": np.where(np.arange(N) % 9, WORDS, "rom "), "b": B},
        [],
        ["column 'town': 'Rom', 'rom ' differ in case or in spaces"],
    ),
    "an angle": ({"wind direction": R.integers(0, 360, N), "b": B}, [], ["column 'wind direction': if .* sine"]),
    "no value": ({"x": np.full(N, np.nan), "b": B}, [], ["column 'x': every value is missing"]),
    "rows twice": ({"a": np.r_[A[:200], A[:100]], "b": np.r_[B[:200], B[:100]]}, [], ["100 of 300 rows repeat"]),
    "nothing": ({"a": A, "b": B, "town": WORDS, "x": R.normal(size=N)}, [], []),
    "gaps": ({"a": np.where(R.random(N) < 0.2, np.nan, A), "b": np.where(R.random(N) < 0.2, np.nan, B)}, [], []),
    "skewed": ({"a": np.r_[np.zeros(200), R.lognormal(5, 2, 100)], "b": B}, [], []),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_is_to_be_known_is_said_and_nothing_else(name):
    frame, drop, wanted = FOUND[name]
    lines = remarks(frame, Schema.infer(frame, drop=drop))
    assert len(lines) == len(wanted), lines
    for line, said in zip(lines, wanted, strict=True):
        assert "\n" not in line
        assert re.search(said, line), line


def test_frames_and_numbers_say_the_same():
    frame = pd.DataFrame({"a": A, "b": A, "town": WORDS})
    schema = Schema.infer(frame)
    assert remarks(frame, schema) == remarks(schema.encode(frame), schema) != []


def test_what_follows_in_the_first_rows_alone_does_not_follow():
    town = np.array(["Rom", "Ulm"], object)[np.arange(4000) % 2]
    land = town.copy()
    land[3999] = "Rom"
    frame = {"town": town, "land": land, "x": R.normal(size=4000)}
    assert remarks(frame, Schema.infer(frame)) == []


def test_rows_are_told_apart_by_a_single_value():
    x = R.integers(0, 2, (100_000, 40)).astype(float)
    x[:, 0] = np.arange(len(x))
    assert len(np.unique(_digests(x))) == len(x)
    np.testing.assert_array_equal(_digests(np.array([[0.0, np.nan]])), _digests(np.array([[-0.0, -np.nan]])))


def test_a_value_that_may_stand_for_a_gap_is_told_as_it_is_in_the_file():
    for fill in (-99.9, 1e20):  # as data have them, in float32
        frame = {"height": np.where(np.arange(N) % 9, 150 + np.arange(N) % 40 + 0.3, fill)}
        schema = Schema.infer(frame)
        (line,) = [line for line in remarks(schema.encode(frame).float(), schema) if "far from" in line]
        assert f"column 'height': {fill:.10g} in 34 rows is far from the others, 150.3 .. 189.3;" in line
        assert f"gaps={{'height': [{fill:.10g}]}}" in line
