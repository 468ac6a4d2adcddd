"""Output and error texts are fetched from the API on request and never stored."""

import msgspec
import pytest

from exporter.errors import NotFoundError, RateLimitedError
from exporter.simulators.world import MARK
from tests.contract.harness import NOW


def failed(bench):
    """Return the stored row of a failed run, as a process that has just started reads it."""
    bench.poll()
    bench.world.run("job-0", start=NOW + 10, duration=20, steps=["load", "model"], result="failure")
    bench.settle()
    bench.restart()
    job = next(job for job in bench.ledger.jobs_of("one") if job.last_failure)
    return next(iter(bench.ledger.rows("one", [job.last_failure.run_id]).values())).run


@pytest.mark.able("steps")
def test_output_of_a_failed_run_is_fetched_by_a_process_that_never_read_the_run(make):
    bench = make(steps="all")
    run = failed(bench)
    source = bench.assembly.sources["one"]
    said = source.log(run, bench.step("model", 1))
    assert MARK in said.stderr


@pytest.mark.able("steps")
def test_the_error_text_of_a_run_is_fetched_and_appears_nowhere_else(make):
    bench = make(steps="all")
    run = failed(bench)
    assert MARK in bench.assembly.sources["one"].log(run, "").stderr
    assert MARK not in bench.page() + bench.logs.getvalue()
    assert MARK.encode() not in b"".join(path.read_bytes() for path in bench.state.parent.iterdir())


@pytest.mark.able("steps")
@pytest.mark.parametrize("step", ["model", ""])
def test_a_run_that_the_api_does_not_have_has_no_output(make, step):
    bench = make(steps="all")
    run = msgspec.structs.replace(failed(bench), run_id="00000000-0000-4000-8000-00000000dead")
    with pytest.raises(NotFoundError):
        bench.assembly.sources["one"].log(run, bench.step(step, 1) if step else "")


@pytest.mark.able("silent")
def test_a_vendor_without_output_needs_no_request(make):
    bench = make()
    run = failed(bench)
    requested = len(bench.simulator.log.lines())
    with pytest.raises(NotFoundError):
        bench.assembly.sources["one"].log(run, "")
    assert len(bench.simulator.log.lines()) == requested


@pytest.mark.able("steps")
@pytest.mark.parametrize("ask", ["steps", "log"])
def test_a_user_waits_only_briefly_for_the_budget(make, ask):
    bench = make(steps="all")
    run = failed(bench)
    source = bench.assembly.sources["one"]
    source.steps(run)
    for budget in [account.budget for account in bench.assembly._accounts.values()]:
        budget.block(600)
    before = bench.clock()
    with pytest.raises(RateLimitedError):
        source.steps(run, patience=5.0) if ask == "steps" else source.log(run, bench.step("model", 1), patience=5.0)
    assert bench.clock() - before <= 5.0
