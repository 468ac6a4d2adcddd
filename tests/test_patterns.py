import copy
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.patterns import Pattern, PatternError


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        ("daily-.*", "daily-load", True),
        ("daily", "daily-load", False),
        ("load", "daily-load", False),
        ("a|daily.*", "daily-load", True),
        (r"\w+", "größe_2", True),
        (r"[\w-]+", "größe-2", True),
        (r"\W+", "ö", False),
        (r"\d+", "٣", True),
        (r"a\sb", "a\u00a0b", True),
        (r"[^\d]+", "٣", False),
        (r"[]\w]+", "]ä", True),
        (r"[[:alpha:]\d]+", "a٣", True),
        (r"\\w", r"\w", True),
        (r"[\[\]\w]+", "[ä]", True),
        ("(?i)ÄRGER", "ärger", True),
        (r"(?P<kind>daily|hourly)-x\Z", "hourly-x", True),
        ("a.b", "a\nb", False),
        ("(?s)a.b", "a\nb", True),
        (".*", "\ud800", True),
        (".*", "a\nb", True),
        ("", "", True),
    ],
)
def test_a_pattern_matches_the_whole_text_including_non_ascii(pattern, text, matches):
    assert Pattern(pattern).fullmatch(text) is matches


@pytest.mark.parametrize(
    ("pattern", "instead"),
    [
        ("daily-(.*", "missing )"),
        ("*-daily", "write .* for any text"),
        ("(?!test).*", "list unwanted names in exclude"),
        ("(?<=a)b", "list unwanted names in exclude"),
        (r"(a)\1", "write the text out"),
        ("a++", "write a+ for a++"),
        ("(?>a)", "write (?:…) for (?>…)"),
        ("(?x) a", "only the flags i, m and s"),
        (r"\u00e4", "write the character itself"),
        ("a{1001}", "invalid repetition size"),
        ("((a{1000}){1000}){1000}", "is not a regular expression"),
    ],
)
def test_unsupported_syntax_is_refused_with_an_alternative(pattern, instead):
    with pytest.raises(PatternError) as raised:
        Pattern(pattern)
    assert instead in str(raised.value)


@pytest.mark.parametrize("pattern", [r"(\w+-?)+daily", "(a|aa)+", "(a*)*b", r"(.*)*(.*)*x", r"([a-z]+)+\d"])
def test_matching_takes_linear_time(pattern):
    # Python's own engine would need years for each of these.
    assert not Pattern(pattern).fullmatch("customer-orders-incremental-load-eu-west-weekly" * 4 + "!")
    assert not Pattern(pattern).fullmatch("a" * 200 + "!")


def test_patterns_with_equal_text_are_equal():
    assert Pattern("a.*") == Pattern("a.*") != Pattern("a.+")
    assert copy.deepcopy(Pattern("a.*")).fullmatch("abc")


@given(st.text(alphabet="abäÄ1_ -.*+?|()[]\\wds^", max_size=12), st.text(alphabet="abäÄ1_ -", max_size=8))
def test_patterns_agree_with_pythons_re(pattern, text):
    if re.search(r"\[[^]]*\\[WDS]|\[\[|--|&&|\|\||~~|\\[^wdsWDS]", pattern):
        return  # Python's `re` reads some of these differently, or warns
    try:
        ours, theirs = Pattern(pattern), re.compile(pattern)
    except (PatternError, re.error):
        return
    assert ours.fullmatch(text) == (theirs.fullmatch(text) is not None)
