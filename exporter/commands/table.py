"""Tables that commands print."""

from collections.abc import Iterable, Sequence


def table(rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table. Each column is as wide as its widest cell."""
    rows = list(rows)
    return aligned(rows, [max(map(len, column)) for column in zip(*rows, strict=True)])


def aligned(rows: Iterable[Sequence[str]], widths: Sequence[int]) -> list[str]:
    """Return the lines of a table whose columns have these widths. Longer cells are truncated."""
    return [
        "  ".join(_cut(cell, width).ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip()
        for row in rows
    ]


def _cut(cell: str, width: int) -> str:
    return cell if len(cell) <= width else f"{cell[: width - 1]}…"
