"""The table of families: what it promises to dashboards, rules and docs."""

import re
from pathlib import Path

import pytest

from exporter.metrics.docs import document
from exporter.metrics.families import FAMILIES, Family, Kind
from exporter.metrics.jobview import JobView
from tests.exposition.test_text import full_view

FORBIDDEN = {"job", "instance", "env", "environment", "service", "stage", "type", "le", "quantile"}
DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_the_document_is_what_the_table_says():
    assert DOCUMENT.read_text() == document(), "run: python -m exporter.metrics.docs > docs/metrics.md"


def test_families_that_the_client_library_keeps_are_documented_in_their_section():
    sources, exporter = document().split("## The exporter")
    assert "| `jobrun_source_polls_total` | counter | `source`, `outcome` |" in sources
    assert "| `jobrun_source_api_request_duration_seconds` | histogram | `source`, `endpoint` |" in sources
    assert "| `jobrun_exporter_series_limit` | gauge |  |" in exporter


def test_no_name_is_there_twice():
    names = [family.name for family in FAMILIES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_name_says_its_type_and_no_label_is_one_that_prometheus_sets(family: Family):
    assert re.fullmatch(r"jobrun_[a-z_]+", family.name)
    assert family.name.endswith("_total") is (family.kind is Kind.COUNTER)
    assert not FORBIDDEN.intersection(family.all_labels)
    assert (family.rows is not None) is (family.kind is Kind.GAUGE)
    assert family.help.endswith(".")


@pytest.mark.parametrize("family", [each for each in FAMILIES if each.rows], ids=lambda family: family.name)
def test_a_row_of_a_gauge_has_a_value_for_each_label(family: Family):
    view: JobView = full_view()
    rows = list(family.rows(view))
    assert rows
    assert {len(values) for values, _ in rows} == {len(family.labels_of(view))}
    assert len({values for values, _ in rows}) == len(rows)


def test_run_ids_and_addresses_are_labels_of_info_families_only():
    for family in FAMILIES:
        if {"run_id", "run_url", "url", "job_id"}.intersection(family.labels):
            assert family.name.endswith("_info")
