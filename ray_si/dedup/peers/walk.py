"""One by one in order, over the few pairs that are near: the decisions on a batch."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from ray_si.dedup.peers.join import Near
from ray_si.dedup.segment import Best

BY_ROUGE, BY_COSINE = 1, 2
"""Why a text is refused; 0 where it is accepted."""


class Close(NamedTuple):
    """Pairs with a cosine above the threshold, integers and float64, shape (n,)."""

    left: np.ndarray
    right: np.ndarray
    cosines: np.ndarray


class Links(NamedTuple):
    """Pairs by either of their members: those of i are ``order[starts[i]:starts[i + 1]]``.

    An entry is the place of a pair, and the number of pairs is added to it where i is the right.
    """

    starts: np.ndarray
    order: np.ndarray


def linked(left: np.ndarray, right: np.ndarray, size: int) -> Links:
    """The links of ``size`` members."""
    starts, order = _linked(left, right, size)
    return Links(starts, order)


@njit(cache=True, nogil=True)
def _linked(left: Any, right: Any, size: Any) -> Any:
    starts = np.zeros(size + 2, np.int64)
    for i in left:
        starts[i + 2] += 1
    for i in right:
        starts[i + 2] += 1
    for i in range(2, len(starts)):
        starts[i] += starts[i - 1]
    order = np.empty(2 * len(left), np.int64)
    for pair in range(len(left)):
        order[starts[left[pair] + 1]] = pair
        starts[left[pair] + 1] += 1
    for pair in range(len(right)):
        order[starts[right[pair] + 1]] = len(left) + pair
        starts[right[pair] + 1] += 1
    return starts[:-1].copy(), order


@njit(cache=True, nogil=True)
def _tell_rouge(i: Any, id_: Any, lcs: Any, total: Any, best: Any) -> None:
    """Tell member i of an accepted text with this id; the nearest stays, the earliest of equals."""
    mine, others = best.lcs[i] * total, lcs * best.totals[i]
    if others > mine or (others == mine and id_ < best.ids[i]):
        best.ids[i], best.lcs[i], best.totals[i] = id_, lcs, total


@njit(cache=True, nogil=True)
def _tell_cosine(i: Any, id_: Any, cosine: Any, ids: Any, cosines: Any) -> None:
    if cosine > cosines[i] or (cosine == cosines[i] and (id_ < ids[i] or ids[i] < 0)):
        ids[i], cosines[i] = id_, cosine


@njit(cache=True, nogil=True)
def tell_all_by_rouge(near: Near, ids: Any, best: Any) -> None:
    """Tell the left ones of the right ones that have an id of ``ids``, not -1."""
    for i in range(len(near.left)):
        id_ = ids[near.right[i]]
        if id_ >= 0:
            lcs, total = np.int64(near.lcs[i]), np.int64(near.totals[i])
            _tell_rouge(near.left[i], id_, lcs, total, best)


@njit(cache=True, nogil=True)
def tell_all_by_cosine(close: Close, own: Any, ids: Any, best_ids: Any, cosines: Any) -> None:
    """The same by cosine; ``own`` are the places of the left ones in what is told, or -1."""
    for i in range(len(close.left)):
        id_, place = ids[close.right[i]], own[close.left[i]]
        if id_ >= 0 and place >= 0:
            _tell_cosine(place, id_, close.cosines[i], best_ids, cosines)


@njit(cache=True, nogil=True)
def walk(
    groups: Any, by_pool: Best, of_groups: Best, twice: Any, near: Near, near_links: Links,
    best_ids: Any, cosines: Any, close: Close, close_links: Links, first_id: Any,
) -> Any:  # fmt: skip
    """Decide on texts in order: reasons, int8, and ids of the accepted (-1 otherwise), int64.

    ``groups`` are the texts' places in ``of_groups``, what is known of these, and in ``near``;
    ``best_ids`` and ``cosines`` the nearest texts by cosine, those of ``close`` are the texts'
    places. Accepted ones get ids from ``first_id`` on, and those that they are near are told.
    ``by_pool``, ``best_ids`` and ``cosines`` become what each text was decided by.
    """
    reasons, ids = np.zeros(len(groups), np.int8), np.full(len(groups), -1, np.int64)
    for i in range(len(groups)):
        g = groups[i]
        if of_groups.ids[g] >= 0:
            _tell_rouge(i, of_groups.ids[g], of_groups.lcs[g], of_groups.totals[g], by_pool)
        if by_pool.ids[i] >= 0:
            reasons[i] = BY_ROUGE
        elif best_ids[i] >= 0:
            reasons[i] = BY_COSINE
        else:
            ids[i] = first_id
            if twice[g]:
                _tell_rouge(g, first_id, twice[g] // 2, twice[g], of_groups)
            for k in near_links.order[near_links.starts[g] : near_links.starts[g + 1]]:
                is_right = k >= len(near.left)
                pair = k - len(near.left) if is_right else k
                other = near.left[pair] if is_right else near.right[pair]
                lcs, total = np.int64(near.lcs[pair]), np.int64(near.totals[pair])
                _tell_rouge(other, first_id, lcs, total, of_groups)
            for k in close_links.order[close_links.starts[i] : close_links.starts[i + 1]]:
                is_right = k >= len(close.left)
                pair = k - len(close.left) if is_right else k
                other = close.left[pair] if is_right else close.right[pair]
                if other > i:
                    _tell_cosine(other, first_id, close.cosines[pair], best_ids, cosines)
            first_id += 1
    return reasons, ids
