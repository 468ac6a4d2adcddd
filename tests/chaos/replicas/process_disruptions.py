"""Disruptions of replicas and of their connections.

Each is a generator. It yields the seconds to wait before its next step, and after the last `yield` it undoes what it
did. A generator that yields nothing did nothing: no replica was free, for example.
"""

import random
import signal
from collections.abc import Callable, Iterator

from exporter.state.lease_statements import TTL
from tests.chaos.replicas.database_proxy import COMMIT, EXTEND_LEASE, Direction, Flapping, MessageTrigger
from tests.chaos.replicas.fleet import Fleet, Replica

DisruptionSteps = Callable[[Fleet, random.Random], Iterator[float]]
"""Returns the steps of a disruption."""

WAIT_FOR_MESSAGE = 24
"""Quarters of a second in which a replica must send the message of a trigger."""


def kill(fleet: Fleet, rng: random.Random) -> Iterator[float]:
    """Kill a replica at a random time."""
    victim = fleet.choose_victim(rng)
    if victim is None:
        return
    victim.disrupted = True
    fleet.kill(victim)
    yield rng.choice((0.0, 0.0, 3.0))
    victim.start()
    victim.disrupted = False


def kill_and_await_takeover(fleet: Fleet, rng: random.Random) -> Iterator[float]:
    """Kill a replica, and wait until other replicas poll its sources."""
    victim = fleet.choose_victim(rng)
    if victim is None or fleet.requests.waiting():
        return
    victim.disrupted = True
    fleet.kill(victim)
    waited = 0.0
    while fleet.requests.waiting() and waited < 4 * TTL:
        yield 0.25
        waited += 0.25
    if fleet.requests.waiting():
        fleet.findings.append(f"nobody polls for {waited:.0f} s after an owner was killed")
    victim.start()
    victim.disrupted = False
    yield rng.uniform(2.0, 6.0)


def _await_trigger(fleet: Fleet, victim: Replica, trigger: MessageTrigger) -> Iterator[float]:
    """Wait until a trigger fires at a message of a replica, or for some seconds."""
    for proxy in victim.proxies:
        proxy.trigger = trigger
    for _ in range(WAIT_FOR_MESSAGE):
        if trigger.fired:
            break
        yield 0.25
    trigger.cancel()
    if not trigger.fired:
        fleet.disruption_counts["triggers that did not fire"] += 1
    for proxy in victim.proxies:
        proxy.trigger = None


def _kill_at_message(fleet: Fleet, rng: random.Random, number: int, text: bytes = b"", **how: bool) -> Iterator[float]:
    victim = fleet.choose_victim(rng)
    if victim is None:
        return
    victim.disrupted = True

    def kill() -> None:
        fleet.requests.owner_killed(victim.number)
        victim.signal(signal.SIGKILL)
        fleet.kills += 1

    trigger = MessageTrigger(number, kill, text, **how)
    yield from _await_trigger(fleet, victim, trigger)
    if trigger.fired:
        victim.kill()
        victim.start()
    victim.disrupted = False


def kill_at_statement(fleet: Fleet, rng: random.Random) -> Iterator[float]:
    """Kill a replica at the n-th statement of its transactions."""
    yield from _kill_at_message(fleet, rng, rng.randint(1, 25), forward=rng.random() < 0.5)


def kill_in_commit(fleet: Fleet, rng: random.Random) -> Iterator[float]:
    """Kill a replica while a COMMIT or its answer is on the network."""
    how = {"forward": rng.random() < 0.7, "at_answer": rng.random() < 0.5}
    yield from _kill_at_message(fleet, rng, rng.randint(1, 3), COMMIT, **how)


def lose_commit_answer(fleet: Fleet, rng: random.Random) -> Iterator[float]:
    """Lose the answer of a COMMIT, with its connection."""
    victim = fleet.choose_victim(rng)
    if victim is not None:
        victim.disrupted = True
        yield from _await_trigger(
            fleet, victim, MessageTrigger(rng.randint(1, 3), lambda: None, COMMIT, at_answer=True)
        )
        victim.disrupted = False


def _freeze_at_message(fleet: Fleet, rng: random.Random, number: int, text: bytes, seconds: float) -> Iterator[float]:
    victim = fleet.choose_victim(rng)
    if victim is None:
        return
    victim.disrupted = True

    def freeze() -> None:
        victim.signal(signal.SIGSTOP)
        fleet.kills += 1

    trigger = MessageTrigger(number, freeze, text)
    yield from _await_trigger(fleet, victim, trigger)
    if trigger.fired:
        yield seconds
        victim.signal(signal.SIGCONT)
    victim.disrupted = False


def freeze_in_transaction(fleet: Fleet, rng: random.Random) -> Iterator[float]:
    """Stop a replica with SIGSTOP at the n-th statement of its transactions."""
    yield from _freeze_at_message(fleet, rng, rng.randint(1, 25), b"", rng.choice((0.5, 1.0, 3.0)) * TTL)


def freeze_after_lease_statement(fleet: Fleet, rng: random.Random) -> Iterator[float]:
    """Stop a replica with SIGSTOP right after the statement that extends its lease, for longer than the lease lasts."""
    yield from _freeze_at_message(fleet, rng, rng.randint(1, 5), EXTEND_LEASE, 2 * TTL)


def freeze(fleet: Fleet, rng: random.Random) -> Iterator[float]:
    """Stop a replica with SIGSTOP for half the duration of a lease, for one or for three."""
    victim = fleet.choose_victim(rng)
    if victim is None:
        return
    victim.disrupted = True
    victim.signal(signal.SIGSTOP)
    fleet.kills += 1
    yield rng.choice((0.5, 1.0, 3.0)) * TTL
    victim.signal(signal.SIGCONT)
    victim.disrupted = False


def rolling_restart(fleet: Fleet, rng: random.Random) -> Iterator[float]:
    """Stop each replica cleanly and start it again, one after the other."""
    if len(fleet.free()) < len(fleet.replicas) or fleet.two_primaries:
        return
    for victim in fleet.replicas:
        victim.disrupted = True
    for victim in fleet.replicas:
        victim.terminate()
        victim.start()
        yield rng.uniform(1.0, 4.0)
    for victim in fleet.replicas:
        victim.disrupted = False


def kill_all(fleet: Fleet, _rng: random.Random) -> Iterator[float]:
    """Kill all replicas, and start all at once."""
    if len(fleet.free()) < len(fleet.replicas) or fleet.two_primaries:
        return
    for victim in fleet.replicas:
        fleet.kill(victim)
    for victim in fleet.replicas:
        victim.start()
    yield 1.0


def run_older_config(fleet: Fleet, rng: random.Random) -> Iterator[float]:
    """Run a replica with an older config, which has fewer sources, for a while."""
    victim = fleet.choose_victim(rng)
    if victim is None:
        return
    victim.disrupted = True
    victim.terminate()
    victim.start(older=True)
    yield rng.uniform(5.0, 20.0)
    victim.terminate()
    victim.start()
    victim.disrupted = False


def reload_older_config(fleet: Fleet, rng: random.Random) -> Iterator[float]:
    """Let a replica reload an older config, which has fewer sources, and the current one, a few times."""
    victim = fleet.choose_victim(rng)
    if victim is None:
        return
    victim.disrupted = True
    for older in (True, False) * 3:
        victim.reload(older=older)
        yield rng.uniform(0.3, 3.0)
    # A reload within a second of another one is refused. The replica would keep the older config until it is killed.
    while victim.pid and not victim.reload(older=False):
        yield 1.0
    victim.disrupted = False


def run_wrong_clock(fleet: Fleet, rng: random.Random) -> Iterator[float]:
    """Run a replica with a clock that is an hour wrong, for a while."""
    victim = fleet.choose_victim(rng)
    if victim is None:
        return
    victim.disrupted = True
    fleet.kill(victim)
    victim.start(hours=rng.choice((-1, 1)))
    yield rng.uniform(15.0, 40.0)
    fleet.kill(victim)
    victim.start()
    victim.disrupted = False


# --- connections ---


def reset_connections(fleet: Fleet, rng: random.Random) -> Iterator[float]:
    """Reset all connections between a replica and the database."""
    for proxy in rng.choice(fleet.replicas).proxies:
        proxy.cut()
    yield 0.0


def half_open_connections(fleet: Fleet, rng: random.Random) -> Iterator[float]:
    """Close all connections of a replica on the side of the database, so that the replica does not notice."""
    for proxy in rng.choice(fleet.replicas).proxies:
        proxy.half_open()
    yield 0.0


def hold_connections(*directions: Direction) -> DisruptionSteps:
    """Return a disruption that holds the bytes between a replica and the database, in some directions."""

    def steps(fleet: Fleet, rng: random.Random) -> Iterator[float]:
        victim = fleet.choose_victim(rng)
        if victim is None:
            return
        victim.disrupted = True
        for proxy in victim.proxies:
            proxy.hold(*directions)
        yield rng.choice((2.0, 8.0, 15.0, 30.0))
        for proxy in victim.proxies:
            if rng.random() < 0.5:
                proxy.cut()
            proxy.release()
        victim.disrupted = False

    return steps


def refuse_connections(fleet: Fleet, rng: random.Random) -> Iterator[float]:
    """Let the database refuse the connections of a replica."""
    victim = fleet.choose_victim(rng)
    if victim is None:
        return
    victim.disrupted = True
    for proxy in victim.proxies:
        proxy.refuses = True
        proxy.cut()
    yield rng.choice((2.0, 8.0, 20.0))
    for proxy in victim.proxies:
        proxy.refuses = False
    victim.disrupted = False


def flap_connections(fleet: Fleet, rng: random.Random) -> Iterator[float]:
    """Reset and refuse the connections of a replica every few tenths of a second."""
    victim = fleet.choose_victim(rng)
    if victim is None:
        return
    victim.disrupted = True
    flapping = [Flapping(proxy, rng) for proxy in victim.proxies]
    yield rng.uniform(5.0, 20.0)
    for each in flapping:
        each.stop()
    victim.disrupted = False
