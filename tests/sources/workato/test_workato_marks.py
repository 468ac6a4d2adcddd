import msgspec
import pytest

from exporter.model import Result, Run
from exporter.sources.workato.api import Recipe
from exporter.sources.workato.marks import (
    MARKS,
    JobPage,
    ReadMark,
    SearchResult,
    SearchTarget,
    count_missing,
    decode_checkpoint,
    encode_checkpoint,
    is_last,
    mark_after,
    needs_read,
)


def recipe(succeeded=5, failed=1, last_run="x") -> Recipe:
    return Recipe(
        recipe_id="1", name="a", running=True, stop_cause="", succeeded=succeeded, failed=failed, last_run=last_run
    )


def rows(*ids, started=1000.0):
    return tuple(Run(run_id=each, job_id="1", result=Result.SUCCESS, start=started, end=started + 1) for each in ids)


MARK = ReadMark(succeeded=5, failed=1, last_run="x")


def target(missing, floor=0.0, **fields) -> SearchTarget:
    return SearchTarget(missing=missing, floor=floor, **fields)


def found(completed, **fields) -> SearchResult:
    return SearchResult(found=completed, **fields)


TARGET = target(2)


def test_a_completed_job_without_an_end_is_read_again_even_if_the_recipe_does_not_change():
    lacking, _ = mark_after(recipe(6), MARK, target(1), found(1, lacks_end=True))
    assert needs_read(lacking, recipe(6))
    complete, _ = mark_after(recipe(6), lacking, target(0), found(0))
    assert not needs_read(complete, recipe(6))


def test_marks_survive_the_state():
    marks = {"1": MARK, "2": ReadMark(), "3": ReadMark(1, None, "y", 2, 3, 1, ("a", "b"))}
    assert decode_checkpoint(encode_checkpoint(marks), MARKS) == marks
    # Earlier versions stored one more value.
    assert decode_checkpoint('{"3": [1, null, "y", 2, 3, 1, ["a", "b"], 2]}', MARKS) == {"3": marks["3"]}
    assert [decode_checkpoint(text, MARKS) for text in ("", "{", '{"1": 5}')] == [{}, {}, {}]


@pytest.mark.parametrize(
    ("mark", "now", "wanted"),
    [
        (None, recipe(), True),
        (MARK, recipe(), False),
        (MARK, recipe(succeeded=6), True),
        (MARK, recipe(succeeded=4), True),
        (MARK, recipe(failed=2), True),
        (MARK, recipe(last_run="y"), True),
        (ReadMark(succeeded=5, failed=1, last_run="x", missing=1), recipe(), True),
        (ReadMark(succeeded=5, failed=1, last_run="x", unread_offsets=("a",)), recipe(), True),
        (ReadMark(), recipe(None, None, ""), True),
    ],
)
def test_jobs_are_read_if_counts_changed_or_jobs_are_missing(mark, now, wanted):
    assert needs_read(mark, now) is wanted


@pytest.mark.parametrize(
    ("mark", "now", "number"),
    [
        (None, recipe(), None),
        (MARK, recipe(7, 2), 3),
        (MARK, recipe(7, 0), None),
        (MARK, recipe(None, 1), None),
        (ReadMark(succeeded=5, failed=1, missing=2), recipe(6), 3),
        (ReadMark(succeeded=5, failed=1, surplus=2), recipe(8), 1),
        (ReadMark(succeeded=5, failed=1, surplus=2), recipe(6), -1),
    ],
)
def test_an_increase_of_counts_is_the_number_of_missing_jobs_and_a_decrease_proves_nothing(mark, now, number):
    assert count_missing(mark, now) == number


@pytest.mark.parametrize(
    ("page", "aim", "number", "last"),
    [
        (JobPage(runs=(), unseen=frozenset()), TARGET, 0, True),
        (JobPage(runs=rows("a"), unseen=frozenset()), TARGET, 0, True),
        (
            JobPage(runs=rows("a"), unseen=frozenset(), repeated=True),
            target(2, deep=True),
            0,
            True,
        ),
        (JobPage(runs=rows("a"), unseen=frozenset("a")), TARGET, 1, False),
        (JobPage(runs=rows("a", "b"), unseen=frozenset("a")), TARGET, 1, False),
        (JobPage(runs=rows("a", "b"), unseen=frozenset("a")), TARGET, 2, True),
        (JobPage(runs=rows("a", "b"), unseen=frozenset("ab")), TARGET, 2, False),
        (JobPage(runs=rows("a"), unseen=frozenset("a")), target(None), 9, False),
        (JobPage(runs=rows("a"), unseen=frozenset("a")), target(9, floor=1000.5), 0, True),
        (JobPage(runs=rows("a"), unseen=frozenset()), target(9, deep=True), 0, False),
        (
            JobPage(runs=rows("a"), unseen=frozenset("a")),
            target(None, baseline=1002.0),
            0,
            True,
        ),
        (
            JobPage(runs=rows("a"), unseen=frozenset("a")),
            target(None, baseline=1000.5),
            0,
            False,
        ),
    ],
)
def test_a_search_stops_at_the_first_of_its_conditions_and_never_for_a_short_page(page, aim, number, last):
    assert is_last(page, aim, number) is last


def test_missing_jobs_are_searched_for_again_until_some_tries_have_failed():
    mark, missed = MARK, False
    for tries in (1, 2, 3):
        mark, missed = mark_after(recipe(6), mark, target(1), found(0))
        assert (mark.missing, mark.tries, missed) == (1, tries, False)
    mark, missed = mark_after(recipe(6), mark, target(1), found(0))
    assert (mark.missing, mark.tries, missed) == (0, 0, True)


def test_a_search_never_ends_while_pages_are_unread():
    mark, missed = mark_after(
        recipe(6),
        MARK,
        target(1),
        found(0, unread_offsets=("a",), beyond=True),
    )
    assert (mark.missing, mark.tries, mark.unread_offsets, missed) == (1, 0, ("a",), False)


def test_a_search_that_leaves_pages_unread_does_not_count_as_a_try():
    tried = msgspec.structs.replace(MARK, missing=1, tries=2)
    mark, missed = mark_after(recipe(6), tried, target(1), found(0, unread_offsets=("a",)))
    assert (mark.tries, missed) == (2, False)


def test_jobs_beyond_the_floor_are_not_searched_for():
    assert mark_after(recipe(6), MARK, target(1), found(0, beyond=True))[1] is True


def test_jobs_not_yet_in_the_counts_are_not_missing_later():
    mark, _ = mark_after(recipe(6), MARK, target(1), found(4, recent=2))
    assert mark.surplus == 2
    assert count_missing(mark, recipe(8)) == 0
    mark, _ = mark_after(recipe(7), mark, target(-1), found(0, recent=2))
    assert (mark.missing, mark.surplus) == (0, 1)
    mark, _ = mark_after(recipe(7), mark, target(-1), found(0, recent=0))
    assert (mark.missing, mark.surplus) == (0, 0)


def test_recent_jobs_may_not_be_in_the_counts_if_nothing_is_known_to_be_missing():
    mark, _ = mark_after(recipe(6), None, target(None), found(0, recent=2))
    assert mark.surplus == 2
