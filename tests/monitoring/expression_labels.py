"""Finds the labels of an expression's result from the tables of families. Unknown names in it are errors."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import promql_parser as promql
import yaml

from exporter.metrics.families import FAMILIES, REQUEST_FAMILIES

TARGET = frozenset({"job", "instance"})
"""Labels that Prometheus adds to each scraped series."""

HISTOGRAM_PARTS = {"_bucket": frozenset({"le"}), "_sum": frozenset(), "_count": frozenset(), "": frozenset()}
"""A native histogram is one series, without a suffix."""

Labels = frozenset[str]


def series_labels() -> dict[str, Labels]:
    """Return the labels of each series that the exporter can show, by name."""
    families = [(each.name, str(each.kind), each.all_labels) for each in (*FAMILIES, *REQUEST_FAMILIES)]
    found = {}
    for name, kind, labels in families:
        parts = HISTOGRAM_PARTS if kind == "histogram" else {"": frozenset()}
        found |= {name + ending: TARGET | frozenset(labels) | more for ending, more in parts.items()}
    return found


class UnknownNameError(ValueError):
    """An expression names a metric or a label that does not exist."""


class Inference:
    """Finds the labels of expressions.

    Args:
        series: Name of a series → its labels; rules that record may be added.
    """

    def __init__(self, series: Mapping[str, Labels]) -> None:
        self._series = series

    def labels(self, expression: str) -> Labels:
        """Return the labels that the result may have. Raise UnknownNameError, or ValueError if it does not parse."""
        return self._of(promql.parse(expression)) or frozenset()

    def _of(self, node: promql.Expr) -> Labels | None:
        """Return the labels of a vector; None for a scalar."""
        match node:
            case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
                return self._of(node.expr)
            case promql.MatrixSelector():
                return self._of_selector(node.vector_selector)
        known: dict[type, Callable[[Any], Labels | None]] = {
            promql.VectorSelector: self._of_selector,
            promql.AggregateExpr: self._of_aggregate,
            promql.BinaryExpr: self._of_binary,
            promql.Call: self._of_call,
        }
        kind = type(node)
        return known[kind](node) if kind in known else None

    def _of_selector(self, node: promql.VectorSelector) -> Labels:
        names = names_of(node)
        if not names <= set(self._series):
            raise UnknownNameError(f"no metric {', '.join(sorted(names - set(self._series)))}")
        labels = frozenset.intersection(*(self._series[name] for name in names))
        must_be_in(labels, {matcher.name for matcher in node.matchers.matchers} - {"__name__"}, node)
        return labels

    def _of_aggregate(self, node: promql.AggregateExpr) -> Labels:
        inner = self._of(node.expr) or frozenset()
        by = frozenset(node.modifier.labels) if node.modifier else frozenset()
        must_be_in(inner, by, node)
        if str(node.op) in ("topk", "bottomk"):
            return inner
        excluded = node.modifier is not None and node.modifier.type == promql.AggModifierType.Without
        return inner - by if excluded else by

    def _of_binary(self, node: promql.BinaryExpr) -> Labels | None:
        left, right = self._of(node.lhs), self._of(node.rhs)
        if left is None or right is None:
            return left if right is None else right
        return self._of_match(node, left, right)

    def _of_match(self, node: promql.BinaryExpr, left: Labels, right: Labels) -> Labels:
        """Return the labels of an operation on two vectors. Both must have the labels on which they are matched."""
        modifier = node.modifier
        on = self._matched(node, left, right)
        group = frozenset(modifier.group_labels or ()) if modifier else frozenset()
        operator, cardinality = str(node.op), modifier.card if modifier else None
        if operator in ("and", "unless", "or"):
            return left | right if operator == "or" else left
        if cardinality == promql.VectorMatchCardinality.ManyToOne:
            must_be_in(right, group, node)
            return left | group
        if cardinality == promql.VectorMatchCardinality.OneToMany:
            must_be_in(left, group, node)
            return right | group
        return on

    def _matched(self, node: promql.BinaryExpr, left: Labels, right: Labels) -> Labels:
        matching = node.modifier.matching if node.modifier else None
        if matching is None:
            if left != right and str(node.op) != "or":
                raise UnknownNameError(f"sides with labels {sorted(left)} and {sorted(right)} never match: {node}")
            return left
        named = frozenset(matching.labels)
        if matching.type == promql.LabelModifierType.Exclude:
            return left - named
        must_be_in(left & right, named, node)
        return named

    def _is_native(self, node: promql.Expr) -> bool:
        """Return whether the expression is about native histograms, which are one series each."""
        words = set(re.findall(r"\w+", str(node)))
        return any(f"{word}_bucket" in self._series for word in words)

    def _of_call(self, node: promql.Call) -> Labels | None:
        of_arguments = [labels for labels in map(self._of, node.args) if labels is not None]
        labels = frozenset().union(*of_arguments) if of_arguments else None
        match node.func.name:
            case "histogram_quantile":
                if not self._is_native(node):
                    must_be_in(labels or frozenset(), {"le"}, node)
                return (labels or frozenset()) - {"le"}
            case "label_replace" | "label_join":
                return (labels or frozenset()) | {node.args[1].val}
            case "absent":
                return frozenset()
            case _:
                return labels


def names_of(node: promql.VectorSelector) -> set[str]:
    """Return the metrics of a selector: one, or all that match a pattern."""
    if node.name:
        return {node.name}
    (pattern,) = [each.value for each in node.matchers.matchers if each.name == "__name__"]
    before, alternatives, after = re.findall(r"^([\w:]*)\(([\w|]+)\)([\w:]*)$", pattern)[0]
    return {before + word + after for word in alternatives.split("|")}


def recorded_labels(rules: str) -> dict[str, Labels]:
    """Return the labels of each recorded series, by name."""
    found: dict[str, Labels] = {}
    for group in yaml.safe_load(rules)["groups"]:
        for rule in group["rules"]:
            if "record" not in rule:
                continue
            grouped = re.search(r"\bby \(([\w, ]+)\)", rule["expr"])
            parts = [name for name in found if name in rule["expr"]]
            labels = frozenset(re.findall(r"\w+", grouped[1])) if grouped else frozenset()
            found[rule["record"]] = labels or (found[parts[0]] if parts else frozenset())
    return found


def must_be_in(known: Labels, named: set[str] | Labels, where: object) -> None:
    """Raise UnknownNameError if a named label does not exist."""
    if named - known:
        raise UnknownNameError(f"no label {', '.join(sorted(named - known))} in {where}")
