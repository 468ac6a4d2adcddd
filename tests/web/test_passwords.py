"""bcrypt runs as rarely as possible, and no client can lock out others."""

import asyncio
import threading

import pytest

from exporter.web.auth import MAX_CACHED, MAX_CHECKS_PER_CLIENT, Credentials, Passwords, TooManyChecksError

USERS = {b"anna": b"hash of a", b"bert": b"hash of b"}
RIGHT = {(b"a", b"hash of a"), (b"b", b"hash of b")}


class Bcrypt:
    """Replaces bcrypt: records what it compares, and waits on demand."""

    def __init__(self):
        self.compared = []
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self, password, against):
        self.compared.append((password, against))
        self.go_on.wait(10)
        return (password, against) in RIGHT


@pytest.fixture
def bcrypt():
    return Bcrypt()


@pytest.fixture
def passwords(bcrypt):
    return Passwords(bcrypt)


def requested(passwords, *claims, users=USERS):
    async def ask():
        return [await passwords.accepts(Credentials(*claim), users, "client") for claim in claims]

    return asyncio.run(ask())


def test_a_right_password_is_compared_once(passwords, bcrypt):
    assert requested(passwords, (b"anna", b"a"), (b"anna", b"a")) == [True, True]
    assert bcrypt.compared == [(b"a", b"hash of a")]


def test_a_wrong_password_is_compared_once(passwords, bcrypt):
    assert requested(passwords, (b"anna", b"x"), (b"anna", b"x")) == [False, False]
    assert bcrypt.compared == [(b"x", b"hash of a")]


def test_an_unknown_user_takes_as_long_as_a_known_one_and_is_refused(passwords, bcrypt):
    answers = requested(passwords, (b"carl", b"a"), (b"carl", b"b"), (b"carl", b"a"), (b"carl", b"b"))

    assert answers == [False] * 4
    assert [password for password, _ in bcrypt.compared] == [b"a", b"b"]
    assert len({against for _, against in bcrypt.compared}) == 1


def test_a_changed_hash_is_compared_again(passwords):
    assert requested(passwords, (b"anna", b"a")) == [True]
    assert requested(passwords, (b"anna", b"a"), users={b"anna": b"another"}) == [False]


def test_user_and_password_are_not_confused(passwords):
    assert requested(passwords, (b"anna", b"a"), (b"ann", b"aa"), (b"anna" + b"a", b"")) == [True, False, False]


def test_guesses_do_not_push_out_passwords_in_use(passwords, bcrypt):
    guesses = [(b"anna", b"guess %d" % number) for number in range(3 * MAX_CACHED)]

    requested(passwords, (b"anna", b"a"), *guesses, (b"anna", b"a"))
    assert bcrypt.compared.count((b"a", b"hash of a")) == 1
    assert len(bcrypt.compared) == 1 + 3 * MAX_CACHED


def test_memory_is_bounded_and_has_no_password(passwords):
    requested(passwords, *((b"anna", b"guess %d" % number) for number in range(2 * MAX_CACHED)))

    assert len(passwords._invalid) == MAX_CACHED
    assert all(len(key) == 32 and b"guess" not in key for key in passwords._invalid)


def test_the_same_password_sent_by_many_at_once_is_compared_once(passwords, bcrypt):
    async def ask():
        claims = [passwords.accepts(Credentials(b"anna", b"a"), USERS, f"client {number}") for number in range(100)]
        return await asyncio.gather(*claims)

    assert asyncio.run(ask()) == [True] * 100
    assert len(bcrypt.compared) == 1


async def settled():
    """Lets every task run up to where it waits."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_one_client_cannot_fill_the_queue_and_known_passwords_skip_it(passwords, bcrypt):
    async def ask():
        assert await passwords.accepts(Credentials(b"anna", b"a"), USERS, "scraper")
        bcrypt.go_on.clear()
        guesses = [
            asyncio.create_task(passwords.accepts(Credentials(b"anna", b"%d" % number), USERS, "guesser"))
            for number in range(MAX_CHECKS_PER_CLIENT)
        ]
        await settled()
        with pytest.raises(TooManyChecksError):
            await passwords.accepts(Credentials(b"anna", b"more"), USERS, "guesser")
        assert await passwords.accepts(Credentials(b"anna", b"a"), USERS, "guesser")
        other = asyncio.create_task(passwords.accepts(Credentials(b"bert", b"b"), USERS, "person"))
        await settled()
        bcrypt.go_on.set()
        return await asyncio.gather(other, *guesses)

    assert asyncio.run(ask()) == [True] + [False] * MAX_CHECKS_PER_CLIENT


def test_many_clients_together_are_bounded_too(passwords, bcrypt):
    async def ask():
        bcrypt.go_on.clear()
        claims = [passwords.accepts(Credentials(b"anna", b"%d" % n), USERS, f"client {n}") for n in range(40)]
        together = asyncio.gather(*claims, return_exceptions=True)
        await settled()
        bcrypt.go_on.set()
        return await together

    answers = asyncio.run(ask())
    assert answers[:32] == [False] * 32
    assert all(isinstance(answer, TooManyChecksError) for answer in answers[32:])


def test_a_canceled_request_does_not_cancel_the_check_for_others(passwords, bcrypt):
    async def ask():
        bcrypt.go_on.clear()
        claim = Credentials(b"anna", b"a")
        first, second = (asyncio.create_task(passwords.accepts(claim, USERS, "client")) for _ in range(2))
        await settled()
        first.cancel()
        await settled()
        bcrypt.go_on.set()
        return await second

    assert asyncio.run(ask()) is True
