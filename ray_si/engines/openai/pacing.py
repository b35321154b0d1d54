"""How fast to ask a remote endpoint: configured limits, and what it answers to them.

Pure: the caller brings the time, in seconds from any fixed start that never goes back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_BURST_S = 1.0
"""A rate limit may be used up this far ahead: endpoints measure limits a minute in seconds."""

_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 30.0

_FEWEST = 4
"""Answers that the window is changed after: fewer say too little of the share that is refused."""


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


class _Elasticity:
    """Whether more in flight are more answers, from the shares that were refused at each window.

    With w in flight of which a share p is refused, answers go as w·(1 - p); their elasticity is
    d ln(w·(1 - p)) / d ln w = 1 - (dp / d ln w) / (1 - p): 0 at a limit, above which all that is
    added is refused, and 1 where the same share is, whatever the window. The slope is that of a
    least-squares line through recent shares, which counts requests and forgets them exponentially;
    it is taken to be a limit's until enough are seen at different windows.
    """

    _MEMORY, _PRIOR = 1000.0, 1.0
    """Requests; and requests times the squared distance of their ln w that weigh as much as the
    assumption of a limit."""

    def __init__(self) -> None:
        self._weight = self._x = self._y = self._xx = self._xy = 0.0

    def see(self, window: float, share: float, requests: int) -> None:
        """So many requests ended, a share of them refused, with so many in flight."""
        kept, x = max(0.0, 1 - requests / self._MEMORY), math.log(window)
        self._weight = kept * self._weight + requests
        self._x = kept * self._x + requests * x
        self._y = kept * self._y + requests * share
        self._xx = kept * self._xx + requests * x * x
        self._xy = kept * self._xy + requests * x * share

    def estimate(self) -> float:
        """From 0 to 1."""
        if self._weight <= self._y:
            return 0.0
        mean, answered = self._x / self._weight, 1 - self._y / self._weight
        variation = self._xx - mean * self._x
        together = self._xy - mean * self._y
        slope = (together + self._PRIOR * answered) / (variation + self._PRIOR)
        return min(1.0, max(0.0, 1 - slope / answered))


@dataclass(frozen=True)
class Ticket:
    """A request that was let go: when, and with how many tokens it was reckoned."""

    started: float
    tokens: float


class Pacer:
    """Says when the next request may start, and learns from how requests end.

    Three limits hold together: requests in flight, requests a minute, tokens a minute. The first
    adapts between 1 and ``concurrency``: after as many answers as it allows in flight (at least
    `_FEWEST`) it grows by an eighth, at least one, if none of them was a refusal (HTTP 429), else
    it shrinks in proportion to their share, to half if all were (the decrease of DCTCP, Alizadeh et
    al., SIGCOMM 2010: a few refusals mean a limit just reached, and halving for each would leave
    capacity idle). That is the rule at a limit. An endpoint that others keep busy refuses a share
    of whatever is asked, and fewer in flight are only fewer answers; so growing and shrinking are
    weighed by what smaller windows were seen to do (`_Elasticity`). Requests that had started
    before the last decrease say nothing about what came of it and don't count.

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
        self._answers = self._refusals = 0
        self._pause_s = _SHORTEST_PAUSE_S  # twice that is the next one's
        self._elasticity = _Elasticity()
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
        self._pause_s = _SHORTEST_PAUSE_S
        self._end(ticket, ticket.tokens if tokens is None else tokens)
        self._count(now, ticket, refused=False)

    def refused(self, now: float, ticket: Ticket, retry_after: float | None = None) -> None:
        """The endpoint refused the request as one too many; it may have said when to come again."""
        self._end(ticket, 0)
        if retry_after is None:
            if ticket.started >= self._slowed:
                self._pause_s, self._slowed = min(_LONGEST_PAUSE_S, 2 * self._pause_s), now
            retry_after = self._pause_s
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
        if self._answers < max(self.window, _FEWEST):
            return
        share = self._refusals / self._answers
        if share < 1:  # else there were no answers to be had at any window
            self._elasticity.see(self._window, share, self._answers)
        self._answers = self._refusals = 0
        gain = 1.0 if share == 0 else self._elasticity.estimate() if share < 1 else 0.0
        change = gain / 8 - (1 - gain) * share / 2
        if change < 0:
            self._window = max(1.0, self._window * (1 + change))
            self._decreased = now
        else:
            self._window = min(float(self._most), self._window + max(gain, self._window * change))
