"""A training step of one perceptron after the other in compiled code: forward, backward, measures, next update.

What a replica's step works on, parameters, moments, gradient and activations, fits into a core's own cache, and all
that is done to it is done while it is there. Data are (B, D), a row for each example, activations (features, B).
Products go by tiles of four rows, whose sums the compiler keeps in vector registers. It needs numba, and
``envs.compiled`` calls it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numba import njit

NONE, TANH, RELU, ELU = 0, 1, 2, 3  # activations
PLAIN, HEAVY_BALL, ADAMW = 0, 1, 2  # optimizers: SGD, SGD with a momentum buffer, AdamW


def _compiled(function: Any, sums: str = "reassoc", inline: bool = True) -> Any:
    """Compile a function when it is first called; kept on disk, where numba finds a folder that it may write to.

    Sums in any order, as vectors need, but numbers that are not finite stay what they are. What is called is put where
    it is called: as a function of its own it would stand there twice, and which of the two, not optimized alike, is
    taken depends on whether code was compiled or came from disk.
    """
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {sums, "contract", "nsz"}}
    try:
        return njit(cache=True, forceinline=inline, **options)(function)
    except RuntimeError:
        return njit(forceinline=inline, **options)(function)


_F = np.float32
_LN2, _LARGEST = np.log(2.0), np.finfo(np.float64).max
_ONE, _TWO, _HALF = _F(1.0), _F(2.0), _F(0.5)
_PER_LN2 = _F(1.0 / np.log(2.0))
# ln 2 in two parts (Cody and Waite 1980), the first with so few digits that n times it is exact.
_LN2_HIGH = _F(0.693359375)
_LN2_LOW = _F(np.log(2.0) - 0.693359375)
_C2, _C3, _C4, _C5, _C6, _C7 = (_F(1.0 / factorial) for factorial in (2, 6, 24, 120, 720, 5040))


@partial(_compiled, sums="nsz")  # in the order that is written, which rounding needs
def _power(t):
    """Return 2^n and e^r − 1 for t = n ln 2 + r with |r| ≤ ln 2 / 2, by Taylor's series to r^7."""
    n = np.floor(t * _PER_LN2 + _HALF)
    r = (t - n * _LN2_HIGH) - n * _LN2_LOW
    series = r * (_ONE + r * (_C2 + r * (_C3 + r * (_C4 + r * (_C5 + r * (_C6 + r * _C7))))))
    return np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32), series


@partial(_compiled, sums="nsz")
def logarithm(x):
    """Return ln x of a float64, at least 1, by the series of atanh; what is no finite number comes back.

    Not the C library's, so that it is the same on every machine.
    """
    bits = np.float64(x).view(np.int64)
    exponent = (bits >> 52) - 1023
    mantissa = np.int64((bits & 0xFFFFFFFFFFFFF) | 0x3FF0000000000000).view(np.float64)
    if mantissa > 1.4142135623730951:
        mantissa *= 0.5
        exponent += 1
    s = (mantissa - 1.0) / (mantissa + 1.0)
    square, series = s * s, 0.0
    for k in range(21, 0, -2):
        series = series * square + 1.0 / k
    return x if x != x or x > _LARGEST else np.float64(exponent) * _LN2 + 2.0 * s * series


@_compiled
def exponentiate(z):
    """Write e^z over z (N,), z from −87 to 88 and what lies outside as if at the end; NaN stays."""
    for i in range(z.size):
        power, series = _power(min(max(z[i], _F(-87.0)), _F(88.0)))
        z[i] = z[i] if z[i] != z[i] else power * series + power


@_compiled
def activate(kind, z, bias):
    """Write the activation of z + bias over z (N,)."""
    if kind == TANH:  # (e^2x − 1) / (e^2x + 1), of which the first is exact near 0, too
        for i in range(z.size):
            x = z[i] + bias
            power, series = _power(min(max(_TWO * x, _F(-40.0)), _F(40.0)))
            less_one = power * series + (power - _ONE)
            z[i] = x if x != x else less_one / (less_one + _TWO)
    elif kind == RELU:
        for i in range(z.size):
            x = z[i] + bias
            z[i] = _F(0.0) if x < _F(0.0) else x
    elif kind == ELU:
        for i in range(z.size):
            x = z[i] + bias
            power, series = _power(max(min(x, _F(0.0)), _F(-87.0)))
            z[i] = power * series + (power - _ONE) if x < _F(0.0) else x
    else:
        for i in range(z.size):
            z[i] += bias


@_compiled
def _deactivate(kind, delta, output):
    """Multiply delta (N,) by the activation's slope, which its output (N,) tells."""
    if kind == TANH:
        for i in range(delta.size):
            delta[i] *= _ONE - output[i] * output[i]
    elif kind == RELU:
        for i in range(delta.size):
            delta[i] = delta[i] if output[i] > _F(0.0) else _F(0.0)
    elif kind == ELU:
        for i in range(delta.size):
            delta[i] *= output[i] + _ONE if output[i] < _F(0.0) else _ONE


@_compiled
def _dot(a, b):
    total = _F(0.0)
    for k in range(a.size):
        total += a[k] * b[k]
    return total


@_compiled
def _dots(a, first, last, b, out):
    """Write a[i] · b[j] to out[i, j] for rows i of a (M, K) from ``first`` to ``last``, and all of b (N, K)."""
    tiled = b.shape[0] - b.shape[0] % 4
    if last - first == 4:
        a0, a1, a2, a3 = a[first], a[first + 1], a[first + 2], a[first + 3]
        o0, o1, o2, o3 = out[first], out[first + 1], out[first + 2], out[first + 3]
        for j in range(0, tiled, 4):
            b0, b1, b2, b3 = b[j], b[j + 1], b[j + 2], b[j + 3]
            s00 = s01 = s02 = s03 = s10 = s11 = s12 = s13 = _F(0.0)
            s20 = s21 = s22 = s23 = s30 = s31 = s32 = s33 = _F(0.0)
            for k in range(a0.size):
                p0, p1, p2, p3 = a0[k], a1[k], a2[k], a3[k]
                q0, q1, q2, q3 = b0[k], b1[k], b2[k], b3[k]
                s00 += p0 * q0
                s01 += p0 * q1
                s02 += p0 * q2
                s03 += p0 * q3
                s10 += p1 * q0
                s11 += p1 * q1
                s12 += p1 * q2
                s13 += p1 * q3
                s20 += p2 * q0
                s21 += p2 * q1
                s22 += p2 * q2
                s23 += p2 * q3
                s30 += p3 * q0
                s31 += p3 * q1
                s32 += p3 * q2
                s33 += p3 * q3
            o0[j], o0[j + 1], o0[j + 2], o0[j + 3] = s00, s01, s02, s03
            o1[j], o1[j + 1], o1[j + 2], o1[j + 3] = s10, s11, s12, s13
            o2[j], o2[j + 1], o2[j + 2], o2[j + 3] = s20, s21, s22, s23
            o3[j], o3[j + 1], o3[j + 2], o3[j + 3] = s30, s31, s32, s33
    else:
        tiled = 0
    for i in range(first, last):
        for j in range(tiled, b.shape[0]):
            out[i, j] = _dot(a[i], b[j])


@_compiled
def _sums(factors, first, last, b, out):
    """Write Σ_k factors[i, k] b[k] to out[i] for rows i from ``first`` to ``last``; b is (K, N)."""
    count, tiled = b.shape[0], b.shape[0] - b.shape[0] % 4
    if last - first == 4:
        o0, o1, o2, o3 = out[first], out[first + 1], out[first + 2], out[first + 3]
        for n in range(o0.size):
            o0[n] = o1[n] = o2[n] = o3[n] = _F(0.0)
        for k in range(0, tiled, 4):
            b0, b1, b2, b3 = b[k], b[k + 1], b[k + 2], b[k + 3]
            c00, c01, c02, c03 = factors[first, k], factors[first, k + 1], factors[first, k + 2], factors[first, k + 3]
            c10, c11 = factors[first + 1, k], factors[first + 1, k + 1]
            c12, c13 = factors[first + 1, k + 2], factors[first + 1, k + 3]
            c20, c21 = factors[first + 2, k], factors[first + 2, k + 1]
            c22, c23 = factors[first + 2, k + 2], factors[first + 2, k + 3]
            c30, c31 = factors[first + 3, k], factors[first + 3, k + 1]
            c32, c33 = factors[first + 3, k + 2], factors[first + 3, k + 3]
            for n in range(o0.size):
                p0, p1, p2, p3 = b0[n], b1[n], b2[n], b3[n]
                o0[n] += c00 * p0 + c01 * p1 + c02 * p2 + c03 * p3
                o1[n] += c10 * p0 + c11 * p1 + c12 * p2 + c13 * p3
                o2[n] += c20 * p0 + c21 * p1 + c22 * p2 + c23 * p3
                o3[n] += c30 * p0 + c31 * p1 + c32 * p2 + c33 * p3
    else:
        tiled = 0
        for i in range(first, last):
            for n in range(b.shape[1]):
                out[i, n] = _F(0.0)
    for k in range(tiled, count):
        row = b[k]
        for i in range(first, last):
            into, factor = out[i], factors[i, k]
            for n in range(row.size):
                into[n] += factor * row[n]


@_compiled
def _total(a):
    total = _F(0.0)
    for i in range(a.size):
        total += a[i]
    return total


@_compiled
def _move(params, update, rate):
    for i in range(params.size):
        params[i] -= rate * update[i]


@_compiled
def _propose(kind, begins, keeps, p, g, m, v, u, settings, sums):
    """Work out the update u (N,) of some parameters p from gradient g, memory m and squares v, and add to the six sums.

    These are Σ g², m², p², u², g m and g u, in the order of ``MEASURES``, with m as it was before. ``kind`` is the
    optimizer; ``begins`` says that no step was taken before, ``keeps`` that m is to become the new average; the
    settings are β1, 1 − β1, β2, 1 − β2, 1 / (1 − β1^t), 1 / √(1 − β2^t), ε and weight decay.
    """
    beta1, of_new, beta2, of_square = settings[0], settings[1], settings[2], settings[3]
    unbiased, root, epsilon, decay = settings[4], settings[5], settings[6], settings[7]
    gg = mm = pp = uu = gm = gu = _F(0.0)
    if kind == PLAIN:
        for i in range(p.size):
            gg += g[i] * g[i]
            mm += m[i] * m[i]
            pp += p[i] * p[i]
            gm += g[i] * m[i]
        uu = gu = gg
    elif kind == HEAVY_BALL:
        for i in range(p.size):
            grad, before = g[i], m[i]
            new = grad if begins else beta1 * before + of_new * grad
            u[i] = new
            gg += grad * grad
            mm += before * before
            pp += p[i] * p[i]
            uu += new * new
            gm += grad * before
            gu += grad * new
    else:
        for i in range(p.size):
            grad, before = g[i], m[i]
            mean = beta1 * before + of_new * grad
            square = beta2 * v[i] + of_square * grad * grad
            v[i] = square
            new = unbiased * mean / (np.sqrt(square) * root + epsilon) + decay * p[i]
            u[i] = new
            m[i] = mean if keeps else before
            gg += grad * grad
            mm += before * before
            pp += p[i] * p[i]
            uu += new * new
            gm += grad * before
            gu += grad * new
    sums[0] += gg
    sums[1] += mm
    sums[2] += pp
    sums[3] += uu
    sums[4] += gm
    sums[5] += gu


@partial(_compiled, sums="nsz")
def _cross_entropy(z, labels, high, total):
    """Return the mean loss of logits z (O, B), and write its gradient over them."""
    batch = z.shape[1]
    for b in range(batch):
        high[b] = z[0, b]
        total[b] = _F(0.0)
    for row in range(1, z.shape[0]):
        line = z[row]
        for b in range(batch):
            high[b] = max(high[b], line[b])
    loss = 0.0
    for b in range(batch):
        loss -= np.float64(z[labels[b], b] - high[b])
    for row in range(z.shape[0]):
        line = z[row]
        for b in range(batch):
            line[b] -= high[b]
        exponentiate(line)
        for b in range(batch):
            total[b] += line[b]
    for b in range(batch):
        loss += logarithm(np.float64(total[b]))
        total[b] = _ONE / (_F(batch) * total[b])
    for row in range(z.shape[0]):
        line = z[row]
        for b in range(batch):
            line[b] *= total[b]
    for b in range(batch):
        z[labels[b], b] -= _ONE / _F(batch)
    return loss / batch


@partial(_compiled, sums="nsz")
def _squared_error(z, values):
    """Return the mean squared error of z (O, B) against values (B, O), and write its gradient over them."""
    total, count = 0.0, z.shape[0] * z.shape[1]
    for o in range(z.shape[0]):
        for b in range(z.shape[1]):
            residual = z[o, b] - values[b, o]
            total += np.float64(residual) * np.float64(residual)
            z[o, b] = residual * (_TWO / _F(count))
    return total / count


@_compiled
def _train(plan, moves, rate, kind, begins, keeps, p, g, m, v, update, u, settings, x, labels, values, scratch, sums):
    """Step one replica, and return its loss on the minibatch; see ``train`` for the arguments."""
    batch, layers = x.shape[0], plan.shape[0]
    outputs = 0
    for layer in range(layers):
        weight, bias, wide, features, activation = (
            plan[layer, 0],
            plan[layer, 1],
            plan[layer, 2],
            plan[layer, 3],
            plan[layer, 4],
        )
        matrix = p[weight : weight + wide * features].reshape(features, wide)
        below = scratch[outputs - wide * batch : outputs].reshape(wide, batch) if layer else scratch[:0].reshape(0, 0)
        here = scratch[outputs : outputs + features * batch].reshape(features, batch)
        if moves:
            _move(p[bias : bias + features], update[bias : bias + features], rate)
        for first in range(0, features, 4):
            last = min(first + 4, features)
            if moves:
                low, high = weight + first * wide, weight + last * wide
                _move(p[low:high], update[low:high], rate)
            if layer == 0:
                _dots(matrix, first, last, x, here)
            else:
                _sums(matrix, first, last, below, here)
            for i in range(first, last):
                activate(activation, here[i], p[bias + i])
        outputs += features * batch
    top = plan[layers - 1, 3] * batch
    spare = scratch[outputs:]
    spare[:top] = scratch[outputs - top : outputs]
    delta = spare[:top].reshape(plan[layers - 1, 3], batch)
    rest = spare.size // 2
    other = spare[rest:]
    if labels.size:
        loss = _cross_entropy(delta, labels, other[:batch], other[batch : 2 * batch])
    else:
        loss = _squared_error(delta, values)
    for layer in range(layers - 1, -1, -1):
        weight, bias, wide, features = plan[layer, 0], plan[layer, 1], plan[layer, 2], plan[layer, 3]
        outputs -= features * batch
        gradient = g[weight : weight + wide * features].reshape(features, wide)
        below = scratch[outputs - wide * batch : outputs].reshape(wide, batch) if layer else scratch[:0].reshape(0, 0)
        for first in range(0, features, 4):
            last = min(first + 4, features)
            if layer == 0:
                _sums(delta, first, last, x, gradient)
            else:
                _dots(delta, first, last, below, gradient)
        for i in range(features):
            g[bias + i] = _total(delta[i])
        if layer:
            into = other if (layers - layer) % 2 else spare[:rest]
            upstream = into[: wide * batch].reshape(wide, batch)
            matrix = p[weight : weight + wide * features].reshape(features, wide).T
            for first in range(0, wide, 4):
                last = min(first + 4, wide)
                _sums(matrix, first, last, delta, upstream)
                for i in range(first, last):
                    _deactivate(plan[layer - 1, 4], upstream[i], below[i])
            delta = upstream
        for low in (weight, bias):
            high = low + (wide * features if low == weight else features)
            _propose(
                kind, begins, keeps, p[low:high], g[low:high], m[low:high], v[low:high], u[low:high], settings, sums
            )
    return loss


@partial(_compiled, inline=False)
def train(
    plan,
    moving,
    rates,
    kind,
    begins,
    keeps,
    params,
    gradient,
    memory,
    squares,
    update,
    proposed,
    settings,
    index,
    inputs,
    labels,
    values,
    x,
    y,
    target,
    scratch,
    losses,
    sums,
    first,
    last,
):
    """Step the replicas from ``first`` to ``last`` of R, whose parameters are rows of P numbers or more.

    Args:
        plan: for each layer, where weights and biases begin, width below, features and activation, (L, 5).
        moving: which replicas move, (R,).
        rates: learning rates, (R,).
        kind: the optimizer.
        begins: see ``_propose``.
        keeps: see ``_propose``.
        params: (R, P).
        gradient: (R, P), written.
        memory: (R, P), written by AdamW.
        squares: (R, P), written by AdamW.
        update: u of the step that is taken, (R, P).
        proposed: where that of the next step is to stand, (R, P).
        settings: see ``_propose``, (R, 8).
        index: which rows of the data are each stream's minibatch, (S, B).
        inputs: (N, D).
        labels: (N,), none where the loss is a squared error.
        values: (N, O), none where it is a cross-entropy.
        x: memory for a minibatch's inputs, (B, D).
        y: for its labels, (B,), none where the loss is a squared error.
        target: for its values, (B, O).
        scratch: for activations: all of them, and twice the widest.
        losses: (R,), written.
        sums: (R, 6), written.
        first: the first replica.
        last: the one after the last.
    """
    share, at = params.shape[0] // index.shape[0], -1
    for row in range(first, last):
        stream = row // share
        if stream != at:
            at = stream
            for b in range(x.shape[0]):
                source, into = inputs[index[stream, b]], x[b]
                for d in range(into.size):
                    into[d] = source[d]
                if labels.size:
                    y[b] = labels[index[stream, b]]
                else:
                    target[b] = values[index[stream, b]]
        sums[row] = 0.0
        losses[row] = _train(
            plan,
            moving[row],
            rates[row],
            kind,
            begins,
            keeps,
            params[row],
            gradient[row],
            memory[row],
            squares[row],
            update[row],
            proposed[row],
            settings[row],
            x,
            y,
            target,
            scratch,
            sums[row],
        )
