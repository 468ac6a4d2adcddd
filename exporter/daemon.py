"""The daemon: starts, reloads and stops everything."""

import platform
import sqlite3
import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector

from exporter import __version__, assets, logs
from exporter.assembly import Assembly, Clocks, rules_of
from exporter.config import Config, ConfigError, ConfigProblem, secrets
from exporter.errors import StateError
from exporter.exposition.exposition import Exposition
from exporter.exposition.publisher import Publisher
from exporter.ledger.housekeeping import expire_jobs, prune
from exporter.ledger.ledger import Ledger
from exporter.metrics.requests import RequestMetrics
from exporter.metrics.zero_first import ZeroFirst
from exporter.pages.site import Site
from exporter.polling.schedule import PollSchedule, ScheduledSource
from exporter.queries.reader import Reader
from exporter.queries.reporter import Reporter
from exporter.queries.vendor import VendorQueries
from exporter.snapshot.snapshot import Build
from exporter.state.location import problem_of_url
from exporter.state.lock import RefusedStateError
from exporter.state.opening import OpenedState, open_state
from exporter.state.store import Connect
from exporter.supervision import Heartbeat, Manager, Supervision
from exporter.web import api, openapi
from exporter.web.address import Address
from exporter.web.application import CheckResult, WebHandlers, application
from exporter.web.request_pool import RequestPool
from exporter.web.server import WebServer

if TYPE_CHECKING:
    from exporter.sharing import Shared
    from exporter.web.file import WebFile

FIRST_HOUSEKEEPING, HOUSEKEEPING_INTERVAL = 300.0, 3600.0
"""Seconds from the start to the first housekeeping, and between two of them."""

GRACE_PERIOD = 1.5
"""Seconds that polls and responses in progress get to end."""


def shared_state(config: Config, boottime: Callable[[], float]) -> "Shared | None":
    """Return the state that replicas share; None if the state is a file."""
    url = config.state.database()
    if url is None:
        return None
    if reason := problem_of_url(url):
        raise ConfigError([ConfigProblem("state.url", reason)])
    from exporter.sharing import Shared  # noqa: PLC0415  # the driver is an optional dependency

    return Shared(url, boottime, config.state.database)


class Daemon:
    """One running exporter.

    Args:
        read_config: Returns the current config. Raises ConfigError.
        listen: Address of the web server.
        clocks: Clocks, sleep and network.
        connect: Opens a SQLite database.
        web_file: TLS, headers and users of the pages; None for plain HTTP without users.
        manager: Sends notifications to the service manager.
    """

    def __init__(  # noqa: PLR0913  # dependencies are arguments, so that tests can replace them
        self,
        read_config: Callable[[], Config],
        listen: Address,
        *,
        clocks: Clocks,
        connect: Connect = sqlite3.connect,
        web_file: "WebFile | None" = None,
        manager: Manager | None = None,
    ) -> None:
        self._read_config = read_config
        self._clocks = clocks
        self._connect = connect
        self._web_file = web_file
        self._supervision = Supervision(manager or Manager({}, 0), clocks.monotonic)
        self._log = structlog.get_logger()
        config = read_config()
        logs.mask(secrets(config))
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._metrics = RequestMetrics(registry)
        build = Build(version=__version__, python_version=platform.python_version())
        self._pending_series = ZeroFirst(config.metrics.zero_first, clocks.monotonic)
        self._shared = shared_state(config, clocks.boottime)
        self._exposition = Exposition(
            registry, self._pending_series, shared=self._shared is not None, monotonic=clocks.monotonic
        )
        self._ledger = Ledger(self._open)
        self._publisher = Publisher(
            self._ledger, self._exposition, self._pending_series, monotonic=clocks.monotonic, build=build
        )
        self._reloading = threading.Lock()
        self._housekeeping_due = clocks.monotonic() + FIRST_HOUSEKEEPING
        self._assembly = self._assemble(config)
        self._schedule = PollSchedule(clocks.clock, clocks.monotonic)
        self._heartbeat = Heartbeat(
            (
                *(self._schedule.tick, self._publisher.tick, logs.report_suppressed),
                *(self._check_polls, self._supervise),
            ),
            clocks.monotonic,
        )
        # A thread of its own, because pruning many runs may take minutes.
        self._housekeeper = Heartbeat((self._do_housekeeping,), clocks.monotonic, "housekeeping")
        self._pool = RequestPool(monotonic=clocks.monotonic)
        self._vendors = VendorQueries(clocks.monotonic, waiting=self._pool.waiting)
        if self._shared is not None:
            self._join_replicas(self._shared)
        app, tls = application(self._handlers()), None
        if web_file is not None:
            from exporter.web.auth import SecuredApplication  # noqa: PLC0415  # with bcrypt, which most daemons do not need

            app, tls = SecuredApplication(app, web_file.current), web_file.tls
        self._web = WebServer(app, listen.host, listen.port, tls)

    def _handlers(self) -> WebHandlers:
        reporter = Reporter(
            snapshot=lambda: self._publisher.snapshot,
            reader=self._shared.reader if self._shared else Reader(Path(self._config.state.path)),
            vendors=self._vendors,
            config=lambda: self._config,
            polled_sources=lambda: self._assembly.sources,
            clock=self._clocks.clock,
        )
        return WebHandlers(
            page=lambda: self._exposition.page,
            stale=self._shared.replica.stale if self._shared else str,
            process_page=lambda: self._exposition.process_page,
            scraped=self._scraped,
            healthy=self.healthy,
            ready=self.ready,
            reload=self.reload,
            external_url=lambda: self._config.web.external_url,
            routes=[
                api.route(reporter, self._pool, lambda: openapi.document(__version__, self._config.web.external_url)),
                *Site(reporter, self._pool, lambda: assets.read("docs/runbooks.md"), version=__version__).routes,
            ],
        )

    def _assemble(self, config: Config, before: Assembly | None = None) -> Assembly:
        return Assembly(
            config,
            self._ledger,
            self._metrics,
            self._publisher,
            self._clocks,
            before=before,
            replicas=lambda: self._shared.replica.replicas if self._shared else 1,
        )

    @property
    def _config(self) -> Config:
        return self._assembly.config

    @property
    def address(self) -> Address:
        """Return the address of the web server, once it is started."""
        return Address(self._web.host, self._web.port)

    def start(self) -> None:
        """Open the state, serve it, and start to poll.

        Raises:
            RefusedStateError: Another process uses the state, or a newer version or another program has written it.
            IdentityError: In the state, the name of a source belongs to another API.
            ListenError: The address cannot be used.
        """
        try:
            self._ledger.load()
        except RefusedStateError:
            raise
        except StateError as error:
            self._log.error("state cannot be written; nothing is counted", error=str(error))
        try:
            self._activate(self._assembly)
            self._publisher.reloaded(self._clocks.clock())
            self._web.start()
        except BaseException:
            self._ledger.close()  # releases the state's lock
            raise
        self._publisher.publish()
        self._heartbeat.start()
        self._housekeeper.start()
        self._schedule.add(self._pollable(self._assembly))
        self._schedule.start()
        if self._shared is not None:
            self._shared.start(self._heartbeat.run_task)
        self._log.info("listening", address=str(self.address), version=__version__)

    def _join_replicas(self, shared: "Shared") -> None:
        from exporter.replica import Handlers  # noqa: PLC0415  # as above

        handlers = Handlers(
            groups=lambda: self._assembly.groups(),  # noqa: PLW0108  # a reload replaces the assembly
            identities=lambda: {name: each.rules.identity for name, each in self._assembly.configured.items()},
            request_ages=self._request_ages,
            start_polls=self._start_polls,
            end_polls=self._end_polls,
            is_idle=lambda name: not any(each.name == name and each.idle.locked() for each in self._assembly.scheduled),
            publish=self._publisher.publish,
            generation=lambda: -1 if self._exposition.page is None else self._exposition.page.generation,
        )
        self._publisher.ownership = shared.join(self._ledger, self._pending_series, handlers).ownership

    def _request_ages(self, source: str) -> Sequence[float]:
        client = self._assembly.clients.get(source)
        return () if client is None else client.request_ages()

    def _start_polls(self, names: Collection[str], request_ages: Sequence[float]) -> None:
        with self._reloading:  # a reload takes over sources and connections of the assembly that it replaces
            known = [name for name in names if name in self._assembly.configured]
            taken = self._assembly.replace_sources(known, request_ages)
            self._schedule.keep(self._assembly.scheduled, 0.0)  # a reload may already poll the sources replaced now
            self._schedule.add(taken)

    def _end_polls(self, names: Collection[str]) -> None:
        with self._reloading:
            self._assembly.interrupt_sources(names)
            self._schedule.keep([each for each in self._assembly.scheduled if each.name not in names], 0.0)

    def _pollable(self, assembly: Assembly) -> list[ScheduledSource]:
        """Return the sources that this process polls. A replica polls only those whose lease it has."""
        owned = None if self._shared is None else self._shared.replica.owned
        return [each for each in assembly.scheduled if owned is None or each.name in owned]

    def _scraped(self, generation: int) -> None:
        self._pending_series.scraped(generation)
        if self._shared is not None:
            self._shared.replica.pages.scraped(generation)

    def _open(self) -> OpenedState:
        """Open the state under its lock. If it cannot be locked, only read it."""
        if self._shared is not None:
            return self._shared.open()
        opened = open_state(Path(self._config.state.path), self._clocks.clock, self._connect, exclusive=True)
        if opened.kept is not None:
            self._log.error(
                "state could not be used and was set aside", kept=str(opened.kept), reason=opened.cold_start
            )
        return opened

    def _activate(self, assembly: Assembly) -> None:
        assembly.configure()
        self._pending_series.zero_first = assembly.config.metrics.zero_first
        self._publisher.configure(assembly.config, assembly.configured)

    def reload(self) -> CheckResult:
        """Load the config again. If it has a problem, the old one stays active."""
        with self._reloading, self._supervision.reloading():
            try:
                self._reload()
            except Exception as error:  # noqa: BLE001  # a reload must never stop the daemon
                is_expected = isinstance(error, ConfigError | StateError)
                message = str(error) if is_expected else f"unexpected {type(error).__name__}; see the log"
                self._publisher.refused(message)
                self._heartbeat.run_task(self._publisher.publish)
                traceback = {} if is_expected else {"exc_info": error}
                self._log.error("reload refused; old configuration stays active", error=message, **traceback)
                return False, message
            self._publisher.reloaded(self._clocks.clock())
            self._log.info("configuration reloaded", sources=len(self._config.sources))
            return True, "reloaded"

    def _reload(self) -> None:
        config = self._read_config()
        for key in ("path", "url"):
            if getattr(config.state, key) != getattr(self._config.state, key):
                raise ConfigError([ConfigProblem(f"state.{key}", "cannot change by a reload; restart the exporter")])
        if self._shared is not None and not self._shared.is_at(config.state.database() or ""):
            raise ConfigError([ConfigProblem("state.url_file", "names another database; restart the exporter")])
        self._ledger.check({each.name: rules_of(each, config) for each in config.sources})
        logs.mask(secrets(config))
        before = self._assembly
        try:
            assembly = self._assemble(config, before)
            if self._web_file is not None:
                self._web_file.reload()
            self._switch(assembly)
            before.close(assembly)
        finally:
            for name in before.configured.keys() ^ {each.name for each in config.sources}:
                if name not in self._assembly.configured:
                    self._metrics.remove(name)
        self._heartbeat.run_task(self._publisher.publish)

    def _switch(self, assembly: Assembly) -> None:
        """Replace the assembly. If that raises, keep the old one."""
        before = self._assembly
        try:
            before.interrupt(assembly)
            self._schedule.keep(assembly.scheduled, GRACE_PERIOD)
            self._activate(assembly)
            self._assembly = assembly
            self._schedule.add(self._pollable(assembly))
        except BaseException:
            self._assembly = before
            assembly.interrupt(before)
            self._schedule.keep(before.scheduled, GRACE_PERIOD)
            before.resume()
            self._activate(before)
            assembly.close(before)
            self._schedule.add(self._pollable(before))
            raise

    def stop(self) -> bool:
        """Stop everything. Return False if a poll still waits for its API: its uncommitted batches are lost."""
        self._heartbeat.stop()
        self._housekeeper.stop()
        self._supervision.stopping()
        if self._shared is not None:
            self._shared.stop(GRACE_PERIOD)
        self._assembly.interrupt()
        ended = self._schedule.stop(GRACE_PERIOD)
        self._assembly.close()
        self._web.stop(GRACE_PERIOD)
        ended = ended or self._schedule.stop(GRACE_PERIOD)
        if self._shared is not None and ended:  # from then on another replica may use the budget
            self._shared.replica.leave()
        ended = all([ended, self._vendors.close(), self._pool.close()])
        self._ledger.close()
        self._log.info("stopped")
        return ended

    def _supervise(self) -> None:
        self._supervision.beat(healthy=self.healthy()[0], ready=self.ready()[0], status=self._status())

    def _check_polls(self) -> None:
        for each in self._assembly.scheduled:
            each.poller.report_long_first_poll()
            each.poller.report_skipped_polls()

    def _status(self) -> str:
        ready, waiting = self.ready()
        if not ready:
            return waiting
        failing = [name for name, source in self._publisher.snapshot.sources.items() if source.status.failures]
        polling = f"polling {', '.join(each.name for each in self._assembly.scheduled)}"
        return f"{polling}; failing: {', '.join(failing)}" if failing else polling

    def _do_housekeeping(self) -> None:
        if self._clocks.monotonic() < self._housekeeping_due:
            return
        self._housekeeping_due, now = self._clocks.monotonic() + HOUSEKEEPING_INTERVAL, self._clocks.clock()
        try:
            with self._shared.replica.holding_removed_sources() if self._shared else nullcontext():
                expire_jobs(self._ledger, now, self._config.metrics.job_expiry)
                prune(self._ledger, now, self._config.state.retention)
        except StateError as error:
            self._log.warning("state could not be pruned", error=str(error))

    def healthy(self) -> CheckResult:
        """Return whether heartbeat and scheduler are alive, independent of the APIs."""
        if not self._heartbeat.is_alive():
            return False, f"no heartbeat for {self._heartbeat.age():.0f} s"
        return self._schedule.alive, "ok" if self._schedule.alive else "the scheduler has stopped"

    def ready(self) -> CheckResult:
        """Return whether each source was polled once. A replica returns whether its page is current."""
        if self._exposition.page is None:  # the web server starts before the first page
            return False, "the state is loading"
        if self._shared is not None:
            stale = self._shared.replica.stale()
            return not stale, stale or "ok"
        waiting = self._publisher.snapshot.waiting()
        return not waiting, f"not polled yet: {', '.join(waiting)}" if waiting else "ok"
