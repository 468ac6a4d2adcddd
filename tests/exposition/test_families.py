"""The table of families: what it promises to dashboards, rules and docs."""

import re
from pathlib import Path

import pytest

from exporter.metrics.docs import document
from exporter.metrics.families import FAMILIES, REQUEST_FAMILIES
from exporter.metrics.family import Family, Kind, Level
from tests.exposition.test_text import full_view
from tests.exposition.view_builders import full_exporter, full_source

FORBIDDEN = {"job", "instance", "env", "environment", "service", "stage", "type", "le", "quantile"}
VIEWS = {
    Level.JOB: full_view(),
    Level.SOURCE: full_source(),
    Level.EXPORTER: full_exporter(),
    Level.PROCESS: full_exporter(),
}
DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_the_document_is_what_the_table_says():
    assert DOCUMENT.read_text() == document(), "run: python -m exporter.metrics.docs > docs/metrics.md"


def test_a_family_is_documented_in_the_section_of_its_level_with_its_stability():
    _, sources, exporter, process = re.split("## (?:Sources|The exporter|The process)", document())
    assert "| `jobrun_source_polls_total` | counter | `source`, `outcome` | stable |" in sources
    assert "| `jobrun_exporter_series_limit` | gauge |  | stable |" in exporter
    assert "| `jobrun_source_api_request_duration_seconds` | histogram | `source`, `endpoint` | stable |" in process


def test_no_family_name_occurs_twice():
    names = [family.name for family in (*FAMILIES, *REQUEST_FAMILIES)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_names_have_the_suffix_of_their_type_and_no_label_of_prometheus(family: Family):
    assert re.fullmatch(r"jobrun_[a-z_]+", family.name)
    assert family.name.endswith("_total") is (family.kind is Kind.COUNTER)
    assert not FORBIDDEN.intersection(family.all_labels)
    assert (family.samples is None) <= (family.kind is not Kind.GAUGE)
    assert family.help.endswith(".")


@pytest.mark.parametrize("family", [each for each in FAMILIES if each.samples], ids=lambda family: family.name)
def test_every_sample_of_a_gauge_has_a_value_for_each_label(family: Family):
    view = VIEWS[family.level]
    assert family.samples is not None
    rows = list(family.samples(view))
    assert rows
    assert {len(values) for values, _ in rows} == {len(family.labels_of(view))}
    assert len({values for values, _ in rows}) == len(rows)


def test_run_ids_and_addresses_are_labels_of_info_families_only():
    for family in FAMILIES:
        if {"run_id", "run_url", "url", "job_id"}.intersection(family.labels):
            assert family.name.endswith("_info")
