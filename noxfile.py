"""Sessions that `./test` does not have: every supported Python, and coverage.

pip install nox
nox                      all of them
nox -s tests-3.12        the tests under one Python
"""

import nox

nox.options.error_on_missing_interpreters = True
nox.options.reuse_existing_virtualenvs = True

PYTHONS = ("3.11", "3.12", "3.13")
"""The versions that pyproject.toml names in its classifiers."""

COVERED = 96
"""Least percentage of lines that the tests without processes reach. Raise it when it has grown."""

ALL_CORES = ("--numprocesses=auto", "--dist=worksteal")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests that start no processes; arguments go to pytest."""
    session.install("--editable", ".[test]")
    session.run("python", "-m", "pytest", "-m", "not e2e", *ALL_CORES, *session.posargs)


@nox.session(python="3.12")
def coverage(session: nox.Session) -> None:
    """Measure the coverage of the tests that start no processes, and fail below the floor."""
    session.install("--editable", ".[test]", "pytest-cov>=6")
    # The monitoring core of Python 3.12 costs little where the tracing one doubles the time.
    session.env["COVERAGE_CORE"] = "sysmon"
    session.run(
        *("python", "-m", "pytest", "-m", "not e2e", *ALL_CORES),
        *("--cov=exporter", "--cov-report=term:skip-covered", f"--cov-fail-under={COVERED}"),
        *session.posargs,
    )
