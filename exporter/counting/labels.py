"""Turns texts from vendors and users into label values."""

from exporter.model import Job

MAX_LABEL = 200
"""Maximum length of a label value from a vendor."""

MAX_URL = 1000
"""Maximum length of an address in a label."""

OTHER = "__other__"
"""Label of jobs, steps and error types that exceed a limit. They are counted together."""


def clean(name: str) -> str:
    """Return text from a vendor as a label value: without control characters, at most MAX_LABEL characters."""
    text = name if name.isprintable() else "".join(char if char.isprintable() else " " for char in name)
    return text.strip()[:MAX_LABEL].strip()


def clean_url(url: str) -> str:
    """Return an address as a label value, or "" if it is too long: a truncated link would not work."""
    return url if url.isprintable() and len(url) <= MAX_URL else ""


def label_of(job: Job) -> str:
    """Return a job's name as a label value. Another job may have the same."""
    return clean(job.name) or "unknown"


def distinct_label(name: str, job_id: str, number: int) -> str:
    """Return the label of a job whose name is taken: its name and ` #ID`, at most MAX_LABEL characters.

    A `number` above 1 is appended to make equal labels different.
    """
    ending = f" #{clean(job_id)[:100]}" + (f" ({number})" if number > 1 else "")
    return name[: MAX_LABEL - len(ending)].rstrip() + ending
