"""Jobs for the tests of what is shown of them."""

from exporter.counting.records import JobState
from exporter.metrics.jobview import JobView
from exporter.model import Job, Result

RESULTS = frozenset({Result.SUCCESS, Result.FAILURE})


def job(key=1, source="s", project="p", name="nightly", **fields):
    described = Job(job_id=f"id-{key}", name=name, project=project)
    return JobState(
        **{
            "key": key,
            "source": source,
            "project": project,
            "name": name,
            "job": described,
            "discovered": 500.0,
            "baseline": 500.0,
            **fields,
        }
    )


def view(state, **fields):
    return JobView(**{"state": state, "results": RESULTS, **fields})


def lines_of(page, family, *, openmetrics=False):
    text = bytes(page.openmetrics if openmetrics else page.text).decode()
    return [line for line in text.splitlines() if line.startswith((f"{family}{{", f"{family}_", f"{family} "))]
