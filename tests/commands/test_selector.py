"""Selectors mean the same as in Prometheus; invalid ones are refused with the position of the error."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.commands.explain.selector import Matcher, SelectorError, parse


@pytest.mark.parametrize(
    ("text", "name", "matchers"),
    [
        ("up", "up", ()),
        (" up { } ", "up", ()),
        ('up{a="b"}', "up", (("a", "=", "b"),)),
        ('up{ a != "b" , c=~"d|e" ,}', "up", (("a", "!=", "b"), ("c", "=~", "d|e"))),
        ("up{a!~'x\"y'}", "up", (("a", "!~", 'x"y'),)),
        ('up{a="}",b=","}', "up", (("a", "=", "}"), ("b", "=", ","))),
        (r'up{a="q\"b\\n\n\t\x41\u00e9\101"}', "up", (("a", "=", 'q"b\\n\n\tAéA'),)),
        (r"up{a=`raw\n`}", "up", (("a", "=", r"raw\n"),)),
        ('jobrun:x{a=""}', "jobrun:x", (("a", "=", ""),)),
    ],
)
def test_selectors_of_prometheus_are_accepted(text, name, matchers):
    selector = parse(text)
    assert selector.name == name
    assert selector.matchers == tuple(Matcher(*each) for each in matchers)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "begin with a metric's name"),
        ("{}", "begin with a metric's name"),
        ("1up", "begin with a metric's name"),
        ("up{", "at its end"),
        ("up{a}", "at character 4"),
        ("up{a=b}", "at character 4"),
        ('up{a="b"', "at its end"),
        ('up{a="b" c="d"}', "at character 10"),
        ('up{a=="b"}', "at character 4"),
        ('up{,a="b"}', "at character 4"),
        ('up{a="b"}[5m]', "nothing can follow"),
        ('sum(up{a="b"})', "only {labels} can follow"),
        ("up offset 5m", "only {labels} can follow"),
        ('up{a=~"("}', "not a regular expression"),
        (r'up{a="\q"}', "is not an escape"),
        ('up{a="b\nc"}', "at character 4"),
    ],
)
def test_an_invalid_selector_is_refused_with_the_position_of_the_error(text, says):
    with pytest.raises(SelectorError, match=says.replace("{", r"\{")):
        parse(text)


@pytest.mark.parametrize(
    ("operator", "value", "matching", "other"),
    [
        ("=", "a", "a", "ab"),
        ("!=", "a", "b", "a"),
        ("=~", "a|b.*", "bcd", "ca"),
        ("=~", ".*", "two\nlines", None),
        ("!~", "a.*", "ba", "ab"),
        ("=", "", None, "x"),
    ],
)
def test_operators_mean_the_same_as_in_prometheus(operator, value, matching, other):
    matcher = Matcher("l", operator, value)
    assert matcher.matches({} if matching is None else {"l": matching})
    assert other is None or not matcher.matches({"l": other})


@given(st.text(max_size=30))
def test_any_value_can_be_quoted_and_parsed_back(value):
    quoted = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    assert parse(f'up{{a="{quoted}"}}').matchers == (Matcher("a", "=", value),)


@given(st.text(max_size=40))
def test_any_text_is_parsed_or_refused(text):
    for attempt in (text, "up{" + text, 'up{a="' + text):
        with contextlib.suppress(SelectorError):
            assert parse(attempt).name
