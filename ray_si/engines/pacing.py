"""How fast to ask a remote endpoint: configured limits, and what it answers to them.

Pure: the caller brings the time, in seconds from any fixed start that never goes back.
"""

from __future__ import annotations

from dataclasses import dataclass

_BURST_S = 1.0
"""A rate limit may be used up this far ahead: endpoints measure limits a minute in seconds."""

_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 30.0


class _Rate:
    """At most so much a minute: the generic cell rate algorithm (ITU-T I.371, virtual scheduling).

    ``_full`` is when everything taken so far will have been earned. Once that has passed, all of it
    is earned, and what is given back of it later must not make room a second time.
    """

    def __init__(self, per_minute: float) -> None:
        self._per_second = per_minute / 60
        self._full = self._busy_since = float("-inf")

    def delay(self, now: float) -> float:
        return max(0.0, self._full - _BURST_S - now)

    def take(self, now: float, amount: float) -> None:
        if now >= self._full:
            self._full = self._busy_since = now
        self._full += amount / self._per_second

    def correct(self, taken_at: float, amount: float) -> None:
        """It was so much more (or, negative, less) than taken then."""
        if amount > 0 or taken_at >= self._busy_since:
            self._full += amount / self._per_second


@dataclass(frozen=True)
class Ticket:
    """A request that was let go: when, and with how many tokens it was reckoned."""

    started: float
    tokens: float


class Pacer:
    """Says when the next request may start, and learns from how requests end.

    Three limits hold together: requests in flight, requests a minute, tokens a minute. The first
    adapts between 1 and ``concurrency``: after as many answers as it allows in flight it grows by
    an eighth, at least one, if none of them was a refusal (HTTP 429), else it shrinks in proportion
    to their share, to half if all were (the decrease of DCTCP, Alizadeh et al., SIGCOMM 2010: a few
    refusals mean a limit just reached, and halving for each would leave capacity idle). Requests
    that had started before the last decrease say nothing about what came of it and don't count.

    A refusal also stops all starts for a while: until the time that it names (Retry-After), else
    for a tenth of a second, and twice as long for each in a row, up to half a minute.

    A limit of n requests a minute lets at most n·(t + 1)/60 + 1 start in any t seconds. Tokens
    likewise, where the one more is a request of any size: it is reckoned with an estimate when it
    starts, and with what it really took when it ends.
    """

    def __init__(
        self,
        concurrency: int,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
    ) -> None:
        self._most = concurrency
        self._window = float(concurrency)
        self._requests = _Rate(requests_per_minute) if requests_per_minute else None
        self._tokens = _Rate(tokens_per_minute) if tokens_per_minute else None
        self._paused_until = 0.0
        self._decreased = self._slowed = float("-inf")
        self._answers = self._refusals = self._in_a_row = 0
        self.in_flight = 0

    @property
    def window(self) -> int:
        """Requests that may be in flight now."""
        return int(self._window)

    def delay(self, now: float) -> float | None:
        """Seconds until the next request may start, 0 for at once; None while too many run."""
        if self.in_flight >= self.window:
            return None
        rates = (rate.delay(now) for rate in (self._requests, self._tokens) if rate)
        return max(self._paused_until - now, 0.0, *rates)

    def start(self, now: float, tokens: float) -> Ticket:
        """Let a request go that `delay` allows, reckoned with so many tokens."""
        self.in_flight += 1
        if self._requests:
            self._requests.take(now, 1)
        if self._tokens:
            self._tokens.take(now, tokens)
        return Ticket(now, tokens)

    def answered(self, now: float, ticket: Ticket, tokens: float | None = None) -> None:
        """The request came to an end other than a refusal, having used ``tokens`` if known."""
        self._in_a_row = 0
        self._end(ticket, ticket.tokens if tokens is None else tokens)
        self._count(now, ticket, refused=False)

    def refused(self, now: float, ticket: Ticket, retry_after: float | None = None) -> None:
        """The endpoint refused the request as one too many; it may have said when to come again."""
        self._end(ticket, 0)
        if retry_after is None:
            if ticket.started >= self._slowed:
                self._in_a_row, self._slowed = self._in_a_row + 1, now
            retry_after = min(_LONGEST_PAUSE_S, _SHORTEST_PAUSE_S * 2**self._in_a_row)
        self._paused_until = max(self._paused_until, now + retry_after)
        self._count(now, ticket, refused=True)

    def _end(self, ticket: Ticket, tokens: float) -> None:
        self.in_flight -= 1
        if self._tokens:
            self._tokens.correct(ticket.started, tokens - ticket.tokens)

    def _count(self, now: float, ticket: Ticket, *, refused: bool) -> None:
        if ticket.started < self._decreased:
            return
        self._answers += 1
        self._refusals += refused
        if self._answers < self.window:
            return
        if self._refusals:
            self._window = max(1.0, self._window * (1 - self._refusals / self._answers / 2))
            self._decreased = now
        else:
            self._window = min(float(self._most), self._window + max(1.0, self._window / 8))
        self._answers = self._refusals = 0
