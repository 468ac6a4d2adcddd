"""The client library's parsers and Prometheus accept both formats."""

import gzip
import shutil
import subprocess
import zlib

import httpx
import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporter.counting.labels import clean
from exporter.counting.series import Exemplar
from exporter.exposition.gzipped import deflated, member
from exporter.exposition.textformat import _exemplar
from exporter.metrics.requests import RequestMetrics
from exporter.metrics.zero_first import ZeroFirst
from exporter.snapshot.job import JobView
from tests.exposition.test_text import full_view
from tests.exposition.view_builders import Pages, count, distribution, full_exporter, full_source, job, view

values = st.floats(allow_nan=False, min_value=0)
hostile = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
unquoted = st.text(st.characters(exclude_categories=["Cs"], exclude_characters='"'), max_size=30)
"""The client library's parser does not know escaped quotes in exemplars; test_text.py compares those."""


def read(page):
    """Each format's samples: name and labels → value."""
    for families in (parse_text(bytes(page.text).decode()), parse_openmetrics(bytes(page.openmetrics).decode())):
        yield {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
        }


def publish(*views: JobView):
    exposition = Pages(prometheus_client.CollectorRegistry(), ZeroFirst(0, float))
    exposition.update(jobs=views)
    return exposition.publish()


def test_both_formats_have_the_same_samples():
    text, openmetrics = read(publish(full_view()))
    assert text == openmetrics
    assert sum("job_name" in dict(labels) for _, *labels in text) == 32


@given(name=hostile, error=hostile, amount=values)
def test_any_label_and_value_is_parsed_back(name, error, amount):
    state = job(name=name)
    count(state, "jobrun_run_errors_total", error, amount=amount)
    labels = {"source": "s", "project": "p", "job_name": name, "error_type": error}
    for samples in read(publish(view(state))):
        assert samples["jobrun_run_errors_total", *sorted(labels.items())] == amount


@given(run_id=unquoted, observed=st.lists(st.floats(0, 1e6), max_size=8))
def test_a_histogram_is_parsed_back_with_its_exemplars(run_id, observed):
    state = job()
    durations = distribution(state, "jobrun_run_duration_seconds", "success", bounds=(0.5, 60, 1e5))
    for value in observed:
        durations.observe(value, Exemplar(run_id, value, 900.0))
    families = parse_openmetrics(bytes(publish(view(state)).openmetrics).decode())
    samples = next(family for family in families if family.name == "jobrun_run_duration_seconds").samples
    by_bound = {sample.labels["le"]: sample for sample in samples if "le" in sample.labels}
    expected = {"0.5": 0.5, "60.0": 60, "100000.0": 1e5, "+Inf": float("inf")}
    assert {bound: sample.value for bound, sample in by_bound.items()} == {
        bound: sum(value <= limit for value in observed) for bound, limit in expected.items()
    }
    seen = {sample.exemplar.labels["run_id"] for sample in by_bound.values() if sample.exemplar}
    assert seen == ({clean(run_id)} if observed else set())


def test_a_lone_surrogate_does_not_break_the_page():
    state = job(name="a\ud800b")
    assert b'job_name="a?b"' in bytes(publish(view(state)).text)


def test_names_that_were_cleaned_stay_on_one_line():
    state = job(name=clean("a\r\nb\x85c\u2028d"))
    text = bytes(publish(view(state)).text).decode()
    assert len(text.splitlines()) == text.count("\n")


def test_a_compressed_page_is_the_same_text_in_one_gzip_member():
    page = publish(full_view())
    for whole, compressed in ((page.text, page.text_gzip), (page.openmetrics, page.openmetrics_gzip)):
        assert gzip.decompress(bytes(compressed)) == bytes(whole)
        machine = zlib.decompressobj(zlib.MAX_WBITS | 16)
        assert machine.decompress(bytes(compressed)) == bytes(whole)
        assert machine.eof
        assert machine.unused_data == b""
        assert httpx.Response(200, headers={"content-encoding": "gzip"}, content=bytes(compressed)).content == bytes(
            whole
        )
        assert whole.length == len(bytes(whole))


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_any_parts_make_a_valid_gzip_member(parts):
    assert gzip.decompress(member(parts, map(deflated, parts))) == b"".join(parts)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_reports_no_problem():
    registry = prometheus_client.CollectorRegistry()
    RequestMetrics(registry).source("s", ["/runs"]).count_request("/runs", "200", 0.2)
    exposition = Pages(registry, ZeroFirst(0, float))
    exposition.update(jobs=[full_view()], sources=[full_source().state], exporter=full_exporter().state)
    text = bytes(exposition.publish().text)
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)  # noqa: S607 found on PATH by the mark above
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_control_characters_of_a_run_id_reach_no_line_of_the_exposition():
    exemplar = Exemplar("a\r\nSet-Cookie: \u202ex", 1.0, 900.0)
    assert _exemplar(exemplar) == ' # {run_id="a  Set-Cookie:  x"} 1.0 900.0'
