"""Several regular expressions in one, and taken apart again."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.module_patterns import alternatives, compiled, either

PATTERNS = st.sampled_from(
    [
        r"a",
        r"a|b",
        r"(a|b)c",
        r"[|(]a",
        r"[]|)]",
        r"[^]|]b",
        r"\(|\|",
        r"(?:a|(b|c))",
        r"a\[|b",
        r"",
        r"[\]|]c",
    ]
)
NAMES = st.text("abc|()[]", max_size=4)


@given(patterns=st.lists(PATTERNS, min_size=1, max_size=4), name=NAMES)
def test_one_matches_what_any_of_them_does(patterns: list[str], name: str) -> None:
    joined = either(patterns)
    assert bool(re.fullmatch(joined, name)) == any(re.fullmatch(pattern, name) for pattern in patterns)
    assert alternatives(joined) == [f"(?:{pattern})" for pattern in patterns]


@given(pattern=PATTERNS, name=NAMES)
def test_an_expression_matches_what_one_of_its_parts_does(pattern: str, name: str) -> None:
    parts = alternatives(pattern)
    assert "|".join(parts) == pattern
    assert bool(re.fullmatch(pattern, name)) == any(compiled(part).fullmatch(name) for part in parts)


@pytest.mark.parametrize("wrong", [[], ["a("], ["a(", ")b"]])
def test_what_is_no_expression_by_itself_is_none_in_a_list(wrong: list[str]) -> None:
    with pytest.raises(ValueError, match=r"no module|no regular expression"):
        either(wrong)
