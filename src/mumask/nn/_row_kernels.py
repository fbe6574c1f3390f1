"""Losses of sparse counts on a CPU, compiled by numba: one cell at a time.

A cell's means fit into the first cache. Worked through there, the dense part of a loss and of its
gradient reads and writes memory once, where whole-matrix operations do it a dozen times, and the
few positive counts need no operations of their own. Single precision; logarithms and exponentials
are the polynomials of the Cephes library, which vectorise.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

# Below this, a count's part of the loss is looked up in a table of counts by features.
SMALL = 8
LINE = 16  # numbers in 64 bytes

_f, _i = np.float32, np.int32
ZERO, HALF, ONE = _f(0.0), _f(0.5), _f(1.0)
LOG2_E, LN2_HIGH, LN2_LOW = _f(1.44269504), _f(0.693359375), _f(-2.12194440e-4)
LEAST_EXPONENT = _f(-87.0)  # e to this is the smallest normal number
LEAST_MEAN = float(np.finfo(_f).tiny)
SQRT_HALF_BITS, MANTISSA_BITS, BIAS = _i(0x3F3504F3), _i(23), _i(127)
SIGN_BIT, ALL_BUT_SIGN = _i(31), _i(0x7FFFFFFF)


@intrinsic
def _as_float(context, bits):
    return types.float32(types.int32), lambda _c, b, _s, a: b.bitcast(a[0], ir.FloatType())


@intrinsic
def as_bits(context, value):
    return types.int32(types.float32), lambda _c, b, _s, a: b.bitcast(a[0], ir.IntType(32))


# Sums may be reordered, so that they vectorise; what log1p corrects for must not be. Loops are kept
# short: one with more than a few arrays in it is not vectorised.
_exact = njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
kernel = njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})


@_exact
def _exp(x):
    n = np.floor(x * LOG2_E + HALF)
    y = x - n * LN2_HIGH - n * LN2_LOW
    p = _f(1.9875691500e-4) * y + _f(1.3981999507e-3)
    p = (p * y + _f(8.3334519073e-3)) * y + _f(4.1665795894e-2)
    p = (p * y + _f(1.6666665459e-1)) * y + _f(5.0000001201e-1)
    scale = _as_float((_i(n) + BIAS) << MANTISSA_BITS)
    return ZERO if x < LEAST_EXPONENT else (p * y * y + y + ONE) * scale


@_exact
def log1p(x):
    one_more = ONE + x
    exponent = (as_bits(one_more) - SQRT_HALF_BITS) >> MANTISSA_BITS
    y = _as_float(as_bits(one_more) - (exponent << MANTISSA_BITS)) - ONE
    p = _f(7.0376836292e-2) * y + _f(-1.1514610310e-1)
    p = (p * y + _f(1.1676998740e-1)) * y + _f(-1.2420140846e-1)
    p = (p * y + _f(1.4249322787e-1)) * y + _f(-1.6668057665e-1)
    p = (p * y + _f(2.0000714765e-1)) * y + _f(-2.4999993993e-1)
    p = (p * y + _f(3.3333331174e-1)) * y * y * y
    k = _f(exponent)
    rounded_off = (x - (one_more - ONE)) / one_more
    return (p + k * LN2_LOW - HALF * y * y) + y + k * LN2_HIGH + rounded_off


@_exact
def _by_size(bits):
    """Bits of a number as an integer that is in order with others, and back: its own inverse."""
    return bits ^ ((bits >> SIGN_BIT) & ALL_BUT_SIGN)


@_exact
def _add_and_find_highest(row, bias):
    """Largest of a row after its bias was added. Integers, as the maximum of floats is no vector's."""
    for j in range(len(row)):
        row[j] += bias[j]
    highest = _by_size(as_bits(row[0]))
    for j in range(len(row)):
        highest = max(highest, _by_size(as_bits(row[j])))
    return _as_float(_by_size(_i(highest)))


@kernel
def _tables(inverse_theta, gammas, slopes):
    """For counts 0 to SMALL, see :func:`negative_binomial`; sums over ``i`` below the count."""
    gammas[0], slopes[0] = ZERO, ZERO
    for i in range(SMALL):
        gamma, next_gamma, slope, next_slope = gammas[i], gammas[i + 1], slopes[i], slopes[i + 1]
        log = _f(math.log(1.0 + i))
        for j in range(len(inverse_theta)):
            next_gamma[j] = gamma[j] + log - log1p(_f(i) * inverse_theta[j])
        for j in range(len(inverse_theta)):
            next_slope[j] = slope[j] - ONE / (ONE + _f(i) * inverse_theta[j])


@njit(nogil=True, cache=True, error_model="numpy")
def _log_gamma_ratio(a, b):
    """``log Gamma(a) / Gamma(b)`` and ``psi(a) - psi(b)`` of numbers from SMALL on (Stirling)."""
    p, q = 1.0 / a, 1.0 / b
    log_a, log_b = math.log(a), math.log(b)
    ratio = (a - 0.5) * log_a - (b - 0.5) * log_b - (a - b) + (p - q) / 12 - (p**3 - q**3) / 360
    return ratio, log_a - log_b - (p - q) / 2 - (p * p - q * q) / 12 + (p**4 - q**4) / 120


@kernel
def _negative_binomial(
    first, last, raw, bias, total, theta, inverse_theta, gammas, slopes,
    starts, columns, counts, at, cost, of_theta,
):  # fmt: skip
    n_features = len(bias)
    odds, r, shrunk = np.empty((3, n_features), np.float32)
    for i in range(first, last):
        row, excess = raw[i, :n_features], of_theta[i]
        slope = row  # overwritten by its own derivative
        highest, norm = _add_and_find_highest(row, bias), ZERO
        for k in range(starts[i], starts[i + 1]):
            at[k] = row[columns[k]]
        for j in range(n_features):
            odds[j] = _exp(row[j] - highest)
            norm += odds[j]
        scale, all_cost, all_slope = total[i] / norm, ZERO, ZERO
        for j in range(n_features):
            r[j] = odds[j] * scale * inverse_theta[j]
        for j in range(n_features):
            excess[j] = log1p(r[j])
        for j in range(n_features):
            shrunk[j] = ONE / (ONE + r[j])
        for j in range(n_features):
            all_cost += theta[j] * excess[j]
            share = r[j] * shrunk[j]
            slope[j] = theta[j] * share
            all_slope += theta[j] * share
            excess[j] -= share
        # From `raw`, since the share of an unlikely feature underflows; its log must not.
        offset = highest + _f(math.log(norm)) - _f(math.log(total[i]))
        for k in range(starts[i], starts[i + 1]):
            j, x = columns[k], counts[k]
            small = min(int(x), SMALL)
            gamma, of_gamma = gammas[small, j], slopes[small, j]
            if x > SMALL:
                t = float(theta[j])
                ratio, difference = _log_gamma_ratio(x + t, SMALL + t)
                factorials, _ = _log_gamma_ratio(x + 1.0, SMALL + 1.0)
                gamma += _f(factorials - ratio + (x - SMALL) * math.log(t))
                of_gamma -= _f(t * difference)
            log1p_r = excess[j] + (ONE - shrunk[j])
            all_cost += x * (log1p_r - (at[k] - offset)) + gamma
            slope[j] -= x * shrunk[j]
            all_slope -= x * shrunk[j]
            excess[j] += (x * shrunk[j] + of_gamma) * inverse_theta[j]
        cost[i] = all_cost
        for j in range(n_features):
            slope[j] -= odds[j] * (all_slope / norm)


@kernel
def _detection(first, last, raw, bias, log_total, starts, columns, at, cost, of_ones):
    n_features = len(bias)
    for i in range(first, last):
        row = raw[i, :n_features]
        slope = row  # overwritten by its own derivative
        highest, norm = _add_and_find_highest(row, bias), ZERO
        for k in range(starts[i], starts[i + 1]):
            at[k] = row[columns[k]]
        for j in range(n_features):
            slope[j] = _exp(row[j] - highest)
            norm += slope[j]
        offset = highest + math.log(norm) - log_total[i]
        all_cost, all_slope = math.exp(log_total[i]), 0.0
        for k in range(starts[i], starts[i + 1]):
            log_mu = at[k] - offset
            mu = max(math.exp(log_mu), LEAST_MEAN)
            steep = -mu / math.expm1(-mu)  # 1 at the unlikely
            all_cost += math.log(steep) - mu - log_mu
            all_slope += steep
            at[k] = steep
        scale = _f(all_slope) / norm
        for j in range(n_features):
            slope[j] *= scale
        for k in range(starts[i], starts[i + 1]):
            slope[columns[k]] -= at[k]
        cost[i], of_ones[i] = all_cost, all_slope


def whole_lines(n_rows: int, n_columns: int) -> torch.Tensor:
    """Room for a matrix of which every row starts a cache line: products with it are faster."""
    return torch.empty(n_rows, -(-n_columns // LINE) * LINE)[:, :n_columns]


def _with_gaps(matrix: torch.Tensor) -> np.ndarray:
    """A matrix and what lies between its rows, for loops that need to know it without strides."""
    width = matrix.stride(0)
    return matrix.as_strided((len(matrix), width), (width, 1)).numpy()


@lru_cache(maxsize=1)
def _threads(process: int, count: int) -> ThreadPoolExecutor:
    """Threads of this process: a fork has none of its parent's."""
    return ThreadPoolExecutor(count)


def by_rows(n_rows: int, work: Callable[[int, int], None]) -> None:
    """``work(first, last)`` on as many blocks of rows as torch uses threads."""
    count = max(1, min(torch.get_num_threads(), n_rows))
    edges = [n_rows * block // count for block in range(count + 1)]
    if count == 1:
        return work(0, n_rows)
    blocks = zip(edges[1:-1], edges[2:], strict=True)
    waiting = [_threads(os.getpid(), count - 1).submit(work, *block) for block in blocks]
    work(0, edges[1])
    for future in waiting:
        future.result()


def negative_binomial(
    raw: torch.Tensor,
    bias: torch.Tensor,
    total: torch.Tensor,
    theta: torch.Tensor,
    starts: torch.Tensor,
    columns: torch.Tensor,
    counts: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cost of every cell and its derivatives, as whole-matrix operations would give them.

    See :class:`~mumask.nn._fused_losses.NegativeBinomialLoss` for the formulas, the arguments and
    the results. `raw` lacks the bias; it is overwritten by the derivative to it.
    """
    cost, of_theta = raw.new_empty(len(raw)), torch.empty_like(raw)
    inverse = theta.reciprocal()
    tables = raw.new_empty(2, SMALL + 1, len(theta)).numpy()
    _tables(inverse.numpy(), *tables)
    inputs = [_with_gaps(raw), *(x.numpy() for x in (bias, total.squeeze(1), theta, inverse))]
    sparse = (starts.numpy(), columns.numpy(), counts.numpy(), np.empty(len(columns), np.float32))
    outputs = cost.numpy(), of_theta.numpy()
    by_rows(
        len(raw), lambda *block: _negative_binomial(*block, *inputs, *tables, *sparse, *outputs)
    )
    return cost, raw, of_theta


def detection(
    raw: torch.Tensor,
    bias: torch.Tensor,
    log_total: torch.Tensor,
    starts: torch.Tensor,
    columns: torch.Tensor,
) -> tuple[torch.Tensor, ...]:
    """Loss by cell and all derivatives of :class:`DetectionLoss`.

    Returns the cost ``(n,)``, its derivative to `raw`, which overwrites it, and what the ones of a
    cell add to that to `log_total`, ``(n,)``.
    """
    cost, of_ones = raw.new_empty(len(raw)), raw.new_empty(len(raw))
    inputs = [_with_gaps(raw), bias.numpy(), log_total.squeeze(1).numpy()]
    sparse = (starts.numpy(), columns.numpy(), np.empty(len(columns), np.float32))
    outputs = cost.numpy(), of_ones.numpy()
    by_rows(len(raw), lambda *block: _detection(*block, *inputs, *sparse, *outputs))
    return cost, raw, of_ones
