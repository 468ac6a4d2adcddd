"""What goes wrong with replicas and with their connections.

A trouble is a generator that yields the seconds until it goes on; what follows its last `yield` undoes it. One that has
nothing to do yields nothing.
"""

import random
import signal
from collections.abc import Callable, Iterator

from exporter.state.lease_statements import TTL
from tests.chaos.replicas.fleet import Fleet, Replica
from tests.chaos.replicas.wires import COMMIT, LEASE, Flapping, Trap, Way

Trouble = Callable[[Fleet, random.Random], Iterator[float]]


def killed(fleet: Fleet, dice: random.Random) -> Iterator[float]:
    """SIGKILL at a random time."""
    victim = fleet.owner(dice)
    if victim is None:
        return
    victim.busy = "killed"
    fleet.kill(victim)
    yield dice.choice((0.0, 0.0, 3.0))
    victim.start()
    victim.busy = ""


def killed_and_replaced(fleet: Fleet, dice: random.Random) -> Iterator[float]:
    """SIGKILL, and no other trouble until its sources are polled again."""
    victim = fleet.owner(dice)
    if victim is None or fleet.spending.waiting():
        return
    victim.busy = "killed"
    fleet.kill(victim)
    waited = 0.0
    while fleet.spending.waiting() and waited < 4 * TTL:
        yield 0.25
        waited += 0.25
    if fleet.spending.waiting():
        fleet.wrong.append(f"nobody polls for {waited:.0f} s after an owner was killed")
    victim.start()
    victim.busy = ""
    yield dice.uniform(2.0, 6.0)


def _trapped(fleet: Fleet, victim: Replica, trap: Trap) -> Iterator[float]:
    """Set a trap on the wires of a replica. Wait until it is sprung, or for some seconds."""
    for wire in victim.wires:
        wire.trap = trap
    for _ in range(24):
        if trap.acted:
            break
        yield 0.25
    trap.cancel()
    if not trap.acted:
        fleet.tally["traps not sprung"] += 1
    for wire in victim.wires:
        wire.trap = None


def _killed_at(fleet: Fleet, dice: random.Random, left: int, text: bytes = b"", **how: bool) -> Iterator[float]:
    victim = fleet.owner(dice)
    if victim is None:
        return
    victim.busy = "trapped"

    def die() -> None:
        fleet.spending.died(victim.number)
        victim.signal(signal.SIGKILL)
        fleet.kills += 1

    trap = Trap(left, die, text, **how)
    yield from _trapped(fleet, victim, trap)
    if trap.acted:
        victim.kill()
        victim.start()
    victim.busy = ""


def killed_at_statement(fleet: Fleet, dice: random.Random) -> Iterator[float]:
    """SIGKILL at the n-th statement of transactions."""
    yield from _killed_at(fleet, dice, dice.randint(1, 25), forward=dice.random() < 0.5)


def killed_in_commit(fleet: Fleet, dice: random.Random) -> Iterator[float]:
    """SIGKILL while a COMMIT or its answer is on the wire."""
    how = {"forward": dice.random() < 0.7, "at_answer": dice.random() < 0.5}
    yield from _killed_at(fleet, dice, dice.randint(1, 3), COMMIT, **how)


def answer_lost(fleet: Fleet, dice: random.Random) -> Iterator[float]:
    """The answer of a COMMIT gets lost, and its connection with it."""
    victim = fleet.owner(dice)
    if victim is not None:
        victim.busy = "trapped"
        yield from _trapped(fleet, victim, Trap(dice.randint(1, 3), lambda: None, COMMIT, at_answer=True))
        victim.busy = ""


def _frozen_at(fleet: Fleet, dice: random.Random, left: int, text: bytes, seconds: float) -> Iterator[float]:
    victim = fleet.owner(dice)
    if victim is None:
        return
    victim.busy = "trapped"

    def freeze() -> None:
        victim.signal(signal.SIGSTOP)
        fleet.kills += 1

    trap = Trap(left, freeze, text)
    yield from _trapped(fleet, victim, trap)
    if trap.acted:
        yield seconds
        victim.signal(signal.SIGCONT)
    victim.busy = ""


def frozen_in_transaction(fleet: Fleet, dice: random.Random) -> Iterator[float]:
    """SIGSTOP between judging and COMMIT, at any statement."""
    yield from _frozen_at(fleet, dice, dice.randint(1, 25), b"", dice.choice((0.5, 1.0, 3.0)) * TTL)


def frozen_at_lease(fleet: Fleet, dice: random.Random) -> Iterator[float]:
    """SIGSTOP after a transaction has written its lease, for longer than the lease lasts."""
    yield from _frozen_at(fleet, dice, dice.randint(1, 5), LEASE, 2 * TTL)


def frozen(fleet: Fleet, dice: random.Random) -> Iterator[float]:
    """SIGSTOP for half a lease, one, or three."""
    victim = fleet.owner(dice)
    if victim is None:
        return
    victim.busy = "frozen"
    victim.signal(signal.SIGSTOP)
    fleet.kills += 1
    yield dice.choice((0.5, 1.0, 3.0)) * TTL
    victim.signal(signal.SIGCONT)
    victim.busy = ""


def rolling_restart(fleet: Fleet, dice: random.Random) -> Iterator[float]:
    """Stop each replica cleanly and start it again, one after the other."""
    if len(fleet.free()) < len(fleet.replicas) or fleet.split:
        return
    for victim in fleet.replicas:
        victim.busy = "restarted"
    for victim in fleet.replicas:
        victim.terminate()
        victim.start()
        yield dice.uniform(1.0, 4.0)
    for victim in fleet.replicas:
        victim.busy = ""


def all_at_once(fleet: Fleet, _dice: random.Random) -> Iterator[float]:
    """SIGKILL all, and start all at once."""
    if len(fleet.free()) < len(fleet.replicas) or fleet.split:
        return
    for victim in fleet.replicas:
        fleet.kill(victim)
    for victim in fleet.replicas:
        victim.start()
    yield 1.0


def older_configuration(fleet: Fleet, dice: random.Random) -> Iterator[float]:
    """One replica runs for a while with a configuration that has fewer sources."""
    victim = fleet.owner(dice)
    if victim is None:
        return
    victim.busy = "older"
    victim.terminate()
    victim.start(older=True)
    yield dice.uniform(5.0, 20.0)
    victim.terminate()
    victim.start()
    victim.busy = ""


def wrong_clock(fleet: Fleet, dice: random.Random) -> Iterator[float]:
    """One replica's clock is wrong by an hour."""
    victim = fleet.owner(dice)
    if victim is None:
        return
    victim.busy = "wrong clock"
    fleet.kill(victim)
    victim.start(hours=dice.choice((-1, 1)))
    yield dice.uniform(15.0, 40.0)
    fleet.kill(victim)
    victim.start()
    victim.busy = ""


# --- connections ---


def cut(fleet: Fleet, dice: random.Random) -> Iterator[float]:
    """All connections of one replica are reset."""
    for wire in dice.choice(fleet.replicas).wires:
        wire.cut()
    yield 0.0


def half_open(fleet: Fleet, dice: random.Random) -> Iterator[float]:
    """The database's side of all connections of one replica ends, and the replica does not notice."""
    for wire in dice.choice(fleet.replicas).wires:
        wire.half_open()
    yield 0.0


def held(*ways: Way) -> Trouble:
    def trouble(fleet: Fleet, dice: random.Random) -> Iterator[float]:
        victim = fleet.owner(dice)
        if victim is None:
            return
        victim.busy = "held"
        for wire in victim.wires:
            wire.hold(*ways)
        yield dice.choice((2.0, 8.0, 15.0, 30.0))
        for wire in victim.wires:
            if dice.random() < 0.5:
                wire.cut()
            wire.release()
        victim.busy = ""

    return trouble


def refused(fleet: Fleet, dice: random.Random) -> Iterator[float]:
    """One replica cannot reach the database."""
    victim = fleet.owner(dice)
    if victim is None:
        return
    victim.busy = "refused"
    for wire in victim.wires:
        wire.refuses = True
        wire.cut()
    yield dice.choice((2.0, 8.0, 20.0))
    for wire in victim.wires:
        wire.refuses = False
    victim.busy = ""


def flapping(fleet: Fleet, dice: random.Random) -> Iterator[float]:
    """Connections of one replica come and go."""
    victim = fleet.owner(dice)
    if victim is None:
        return
    victim.busy = "flapping"
    flaps = [Flapping(wire, dice) for wire in victim.wires]
    yield dice.uniform(5.0, 20.0)
    for each in flaps:
        each.end()
    victim.busy = ""
