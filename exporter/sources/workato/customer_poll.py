"""One poll of one customer: its recipes, and the jobs of the recipes that have new or active ones."""

from collections.abc import Generator, Iterator, Mapping, MutableMapping, Sequence

from exporter.config.source import DAY
from exporter.counting.records import OpenRun
from exporter.errors import AuthError, ForbiddenError, NotFoundError, ProxyRefusedError, RateLimitedError, SourceError
from exporter.model import Batch, Listing, Window
from exporter.sources.failing import PATIENCE
from exporter.sources.rest import path
from exporter.sources.view import View
from exporter.sources.workato.api import RECIPES, Customer, Recipe, job_id_of, split_job_id, to_job
from exporter.sources.workato.marks import (
    MARKS,
    UNREADABLE,
    ReadMark,
    SearchResult,
    SearchTarget,
    UnreadableRecipe,
    count_missing,
    decode_checkpoint,
    encode_checkpoint,
    mark_after,
    marks_key,
    needs_read,
    unreadable_key,
)
from exporter.sources.workato.search import Search, WorkatoApi

FIRST_DEPTH = DAY
"""Maximum seconds that the first read of a scope goes back."""
# The marks of recipes that are no longer listed are kept, because a list may be wrong; at most this many per customer.
MAX_FORMER_RECIPES = 1000
DENIALS = (AuthError, ForbiddenError)


class CustomerPoll:
    """Reads one customer once.

    Args:
        open_runs: The customer's active runs in the state by job ID, oldest first.
        requested: When the jobs of each recipe were last requested, by job ID. Updated while they are read.

    Attributes:
        complete: Whether all new jobs were read.
    """

    def __init__(
        self,
        api: WorkatoApi,
        view: View,
        customer: Customer,
        open_runs: Mapping[str, Sequence[OpenRun]],
        requested: MutableMapping[str, float],
    ) -> None:
        self._api = api
        self._settings = api.settings
        self._failing = api.failing
        self._view = view
        self._customer = customer
        self._scope = customer.customer_id
        self._open_runs = open_runs
        self._requested = requested
        self._began = view.now
        self._recipes: Mapping[str, Recipe] = {}
        self._marks = decode_checkpoint(view.checkpoints.get(marks_key(self._scope), ""), MARKS)
        self._unreadable = decode_checkpoint(view.checkpoints.get(unreadable_key(self._scope), ""), UNREADABLE)
        self.complete = False

    def read(self, listing: Listing | None) -> Iterator[Batch]:
        """Read the recipes, then the jobs of recipes with new or active jobs. `listing`: the list of customers."""
        self._recipes, invalid = self._api.recipes(self._scope)
        too_many = len(self._marks) > len(self._recipes) + MAX_FORMER_RECIPES
        if too_many:
            self._marks = {key: mark for key, mark in self._marks.items() if key in self._recipes}
        before = self._unreadable
        self._unreadable = {key: recipe for key, recipe in before.items() if key in self._recipes}
        to_read = self._recipes_to_read()
        through = self._began - self._settings.settle
        yield Batch(
            scope=self._scope,
            jobs=[to_job(recipe, self._customer, self._link_to(recipe)) for recipe in self._recipes.values()],
            catalog=True,
            listing=listing,
            invalid=invalid,
            checkpoints=self._checkpoints() if too_many else {},
            through=None if to_read else through,
        )
        self.complete = yield from self._read_recipes(to_read)
        if self._unreadable != before or (self.complete and to_read):
            checkpoints = self._checkpoints() if self._unreadable != before else {}
            yield Batch(scope=self._scope, through=through if self.complete else None, checkpoints=checkpoints)

    def _checkpoints(self) -> dict[str, str]:
        return {
            marks_key(self._scope): encode_checkpoint(self._marks),
            unreadable_key(self._scope): encode_checkpoint(self._unreadable),
        }

    def _link_to(self, recipe: Recipe) -> str:
        return f"{self._settings.base_url}{path(RECIPES + '/{recipe}', recipe=recipe.recipe_id)}"

    def _recipes_to_read(self) -> list[str]:
        """Return the IDs of the recipes to read: recipes that have waited longest first, unreadable recipes last."""
        active = dict.fromkeys(split_job_id(job_id)[1] for job_id in self._open_runs)
        included = {key: each for key, each in self._recipes.items() if self._view.includes(each.name or key)}
        changed = [key for key in included if key not in active and needs_read(self._marks.get(key), included[key])]
        return sorted(
            [*(key for key in active if key in included or key not in self._recipes), *changed],
            key=lambda key: (key in self._unreadable, self._requested.get(job_id_of(self._scope, key), 0.0)),
        )

    def _read_recipes(self, ids: Sequence[str]) -> Generator[Batch, None, bool]:
        """Read the jobs of these recipes. Return whether all were read completely.

        A recipe that was unreadable for longer than PATIENCE is ignored. When it is readable again, its jobs are read
        from the time up to which they were read before.
        """
        complete, any_read, denied = True, False, list[SourceError]()
        for number, key in enumerate(ids):
            if number and self._view.out_of_time():
                return False
            error = yield from self._try_recipe(key)
            if error is None:
                any_read = True
                mark = self._marks.get(key)
                complete = complete and not (mark and mark.is_unfinished)
                continue
            denied += [error] if isinstance(error, DENIALS) else []
            watermark = self._view.watermark(self._scope)
            read = self._view.baseline(self._scope) if watermark is None else watermark
            failed = self._unreadable.setdefault(key, UnreadableRecipe(since=self._view.now, read=read))
            complete = complete and self._view.now - failed.since >= PATIENCE
        if denied and not any_read and (len(denied) > 1 or not self._marks):
            # The token may not read this customer.
            raise denied[0]
        return complete

    def _try_recipe(self, key: str) -> Generator[Batch, None, SourceError | None]:
        """Read the jobs of a recipe. Return the error; None if there was none."""
        job_id, began = job_id_of(self._scope, key), self._view.now
        part = f"recipe {job_id}"
        failure = self._failing.get(part)
        if failure is not None and self._failing.skips(part, began):
            return failure.error
        self._requested[job_id] = began
        try:
            yield self._read_recipe(key)
        except (RateLimitedError, ProxyRefusedError):
            raise
        except SourceError as error:
            self._failing.failed(part, error, began=began, now=self._view.now)
            # The recipe was probably deleted after it was listed. The next list will show that.
            if isinstance(error, NotFoundError) and failure is None:
                del self._failing.errors[part]
            return error
        self._failing.succeeded(part)
        return None

    def _read_recipe(self, key: str) -> Batch:
        """Read the new jobs of a recipe; only its active jobs if it is no longer listed."""
        job_id, recipe, mark = job_id_of(self._scope, key), self._recipes.get(key), self._marks.get(key)
        search = Search(self._api, self._view, job_id, self._open_runs.get(job_id, ()))
        if recipe is None:
            search.read_by_id()
            return Batch(scope=self._scope, runs=search.runs(), steps=search.steps, gone=search.gone)
        unreadable = self._unreadable.get(key)
        watermark = self._view.watermark(self._scope) if unreadable is None else unreadable.read
        target = self._target(recipe, mark, watermark)
        offsets = search.read_pages(target, mark.unread_offsets if mark else ())
        search.read_active(all_since=None if mark else self._view.now - self._settings.max_run_age)
        search.read_by_id()
        runs = search.runs()
        result = SearchResult(
            found=search.found,
            recent=search.ended_since(self._began - self._settings.settle),
            unread_offsets=offsets,
            lacks_end=any(run.result is not None and run.end is None for run in runs),
            beyond=search.beyond,
        )
        self._marks[key], lost = mark_after(recipe, mark, target, result)
        self._unreadable.pop(key, None)
        beyond_lookback = lost and watermark is not None and watermark < target.floor
        return Batch(
            scope=self._scope,
            runs=runs,
            steps=search.steps,
            unchanged=len(search.rows) - len(runs),
            invalid=search.invalid,
            truncated=int(search.capped) + int(lost),
            unobserved=[Window(watermark, target.floor)] if beyond_lookback and watermark is not None else [],
            gone=search.gone,
            checkpoints=self._checkpoints(),
        )

    def _target(self, recipe: Recipe, mark: ReadMark | None, watermark: float | None) -> SearchTarget:
        deep = mark is not None and mark.tries > 0
        floor = self._view.now - (FIRST_DEPTH if watermark is None else self._settings.lookback)
        # A recipe that is new in a known scope has no jobs from before its watermark.
        if watermark is not None and (deep or mark is None):
            floor = max(floor, watermark - self._settings.overlap)
        baseline = self._view.baseline(self._scope) if mark is None or watermark is None else None
        return SearchTarget(missing=count_missing(mark, recipe), floor=floor, baseline=baseline, deep=deep)
