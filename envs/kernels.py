"""Training steps of one perceptron after the other in compiled code: forward, backward, measures, next update; probes.

What a replica's step works on, parameters, moments, gradient and activations, fits into a core's own cache, and all
that is done to it is done while it is there. Data are (B, D), a row for each example, activations (features, B).
Products go by tiles of four rows, whose sums the compiler keeps in vector registers. Where rows of data are wide, what
the next tile needs is asked for while one is worked on, and columns in which the minibatch has nothing but 0 are left
out: these are the ``wide`` ones, for minibatches small enough to stay in the cache as well. It needs numba, and
``envs.compiled`` calls it.

All of it stands in one file: what numba keeps on disk it takes for the newest as long as that file is the same.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

NONE, TANH, RELU, ELU = 0, 1, 2, 3  # activations
PLAIN, HEAVY_BALL, ADAMW = 0, 1, 2  # optimizers: SGD, SGD with a momentum buffer, AdamW
AT_ONCE = 2048  # parameters whose gradient is worked out before their update is: it stays in the first-level cache
LINE = 16  # numbers of a cache line
WIDE = 256  # numbers of a row of data from which on it is worth asking for what is wanted soon


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


@intrinsic
def _ask(typing: Any, array: Any, at: Any) -> Any:
    """Have the cache line of a number in an array brought to the second-level cache."""

    def work(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = make_array(signature.args[0])(context, builder, value=arguments[0]).data
        where = builder.bitcast(builder.gep(data, [arguments[1]]), cgutils.voidptr_t)
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, number, number, number])
        prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(prefetch, [where, number(0), number(1), number(1)])  # to be read, to be kept a while, data
        return context.get_dummy_value()

    return types.void(array, types.intp), work


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
def _share(numbers, rows):
    """Return how many numbers, whole cache lines, each tile of four rows is to ask for, so that all are asked for."""
    return numbers // max(rows // 4, 1) // LINE * LINE + LINE


@_compiled
def _ask_for(soon, tile):
    """Ask for the share of a tile in what is wanted soon: two arrays, where in them, and how many numbers a tile."""
    first, second, begin, share = soon
    for i in range(begin + tile * share, begin + (tile + 1) * share, LINE):
        _ask(first, i)
        _ask(second, i)


@_compiled
def _dots(a, b, out, soon):
    """Write a[i] · b[j] to out[i, j] for up to four rows of a (M, K), and all of b (N, K); ``soon`` may be None."""
    tiled = b.shape[0] - b.shape[0] % 4
    if a.shape[0] == 4:
        a0, a1, a2, a3 = a[0], a[1], a[2], a[3]
        o0, o1, o2, o3 = out[0], out[1], out[2], out[3]
        for j in range(0, tiled, 4):
            if soon is not None:
                _ask_for(soon, j // 4)
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
    for i in range(a.shape[0]):
        for j in range(tiled, b.shape[0]):
            out[i, j] = _dot(a[i], b[j])


@_compiled
def _sums(factors, b, out, soon):
    """Write Σ_k factors[i, k] b[k] to out[i] for up to four rows of factors (M, K), b (K, N); ``soon`` may be None."""
    count, tiled = b.shape[0], b.shape[0] - b.shape[0] % 4
    if factors.shape[0] == 4:
        o0, o1, o2, o3 = out[0], out[1], out[2], out[3]
        for n in range(o0.size):
            o0[n] = o1[n] = o2[n] = o3[n] = _F(0.0)
        for k in range(0, tiled, 4):
            if soon is not None:
                _ask_for(soon, k // 4)
            b0, b1, b2, b3 = b[k], b[k + 1], b[k + 2], b[k + 3]
            c00, c01, c02, c03 = factors[0, k], factors[0, k + 1], factors[0, k + 2], factors[0, k + 3]
            c10, c11, c12, c13 = factors[1, k], factors[1, k + 1], factors[1, k + 2], factors[1, k + 3]
            c20, c21, c22, c23 = factors[2, k], factors[2, k + 1], factors[2, k + 2], factors[2, k + 3]
            c30, c31, c32, c33 = factors[3, k], factors[3, k + 1], factors[3, k + 2], factors[3, k + 3]
            for n in range(o0.size):
                p0, p1, p2, p3 = b0[n], b1[n], b2[n], b3[n]
                o0[n] += c00 * p0 + c01 * p1 + c02 * p2 + c03 * p3
                o1[n] += c10 * p0 + c11 * p1 + c12 * p2 + c13 * p3
                o2[n] += c20 * p0 + c21 * p1 + c22 * p2 + c23 * p3
                o3[n] += c30 * p0 + c31 * p1 + c32 * p2 + c33 * p3
    else:
        tiled = 0
        for i in range(factors.shape[0]):
            for n in range(b.shape[1]):
                out[i, n] = _F(0.0)
    for k in range(tiled, count):
        row = b[k]
        for i in range(factors.shape[0]):
            into, factor = out[i], factors[i, k]
            for n in range(row.size):
                into[n] += factor * row[n]


@_compiled
def _ask_for_row(inputs, at):
    """Ask for a row of the inputs."""
    row = inputs[at]
    for d in range(0, row.size, LINE):
        _ask(row, d)


@_compiled
def _gather(inputs, index, x):
    """Write the rows of the index to x."""
    for b in range(index.size):
        if inputs.shape[1] >= WIDE and b + 1 < index.size:
            _ask_for_row(inputs, index[b + 1])
        source, into = inputs[index[b]], x[b]
        for d in range(into.size):
            into[d] = source[d]


@_compiled
def _pack(row, blocks, into):
    """Write the numbers of a row (D,) that stand in blocks of four, told by where they begin, one after the other."""
    for k in range(blocks.size):
        begin = blocks[k]
        a, b, c, d = row[begin], row[begin + 1], row[begin + 2], row[begin + 3]
        into[4 * k], into[4 * k + 1], into[4 * k + 2], into[4 * k + 3] = a, b, c, d


@_compiled
def _unpack(packed, blocks, into):
    """Undo what ``_pack`` did, with 0 elsewhere."""
    for d in range(into.size):
        into[d] = _F(0.0)
    for k in range(blocks.size):
        begin = blocks[k]
        a, b, c, d = packed[4 * k], packed[4 * k + 1], packed[4 * k + 2], packed[4 * k + 3]
        into[begin], into[begin + 1], into[begin + 2], into[begin + 3] = a, b, c, d


@_compiled
def _find_blocks(inputs, index, seen, blocks):
    """Write where the blocks of four columns begin that are not 0 in all rows of the index; return how many.

    A few others fill them up to whole cache lines. 0 if all of the columns are to be used. Weights of columns that are
    left out are not looked at, and one that is not finite is noticed only when its column is used.
    """
    width = inputs.shape[1]
    for d in range(width):
        seen[d] = 0
    for b in range(index.size):
        if b + 1 < index.size:
            _ask_for_row(inputs, index[b + 1])
        bits = inputs[index[b]].view(np.uint32)
        for d in range(width):
            seen[d] |= bits[d]
    count = 0
    for begin in range(0, width - 3, 4):
        seen[begin] |= seen[begin + 1] | seen[begin + 2] | seen[begin + 3]
        blocks[count] = begin
        count += 1 if seen[begin] else 0
    missing = -count % (LINE // 4)
    if width % 4 or 4 * (count + missing) > width * 7 // 8:
        return 0
    for begin in range(0, width, 4):
        if missing and not seen[begin]:
            blocks[count] = begin
            count += 1
            missing -= 1
    return count


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
def _try(params, direction, rate, into):
    for i in range(params.size):
        into[i] = params[i] - rate * direction[i]


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
def _forward(plan, moves, rate, p, update, x, batch, scratch, blocks, tile):
    """Write all activations to ``scratch``, layer by layer, (features, B) each, and return how many numbers these are.

    If the parameters p are to move by the update, they do when their turn comes.
    """
    outputs, used = 0, x.shape[1]
    for layer in range(plan.shape[0]):
        weight, bias, wide, features, activation = (
            plan[layer, 0],
            plan[layer, 1],
            plan[layer, 2],
            plan[layer, 3],
            plan[layer, 4],
        )
        below = scratch[outputs - wide * batch : outputs].reshape(wide, batch) if layer else scratch[:0].reshape(0, 0)
        here = scratch[outputs : outputs + features * batch].reshape(features, batch)
        share = _share(4 * wide, batch)
        if moves:
            _move(p[bias : bias + features], update[bias : bias + features], rate)
        for first in range(0, features, 4):
            last = min(first + 4, features)
            low, high = weight + first * wide, weight + last * wide
            if moves:
                _move(p[low:high], update[low:high], rate)
            rows, into = p[low:high].reshape(last - first, wide), here[first:last]
            if layer > 0:
                _sums(rows, below, into, None)
            elif blocks is None:
                _dots(rows, x, into, None)
            else:
                if blocks.size:
                    packed = tile[: (last - first) * used].reshape(last - first, used)
                    for i in range(last - first):
                        _pack(rows[i], blocks, packed[i])
                    rows = packed
                _dots(rows, x, into, (p, update, high, share))
            for i in range(first, last):
                activate(activation, here[i], p[bias + i])
        outputs += features * batch
    return outputs


@_compiled
def _minibatch(inputs, labels, values, index, x, y, target, seen, blocks):
    """Gather a stream's minibatch; return its inputs, and which blocks of columns these are, none if it is all."""
    batch, used, count = index.size, inputs.shape[1], 0
    if blocks is not None:
        count = _find_blocks(inputs, index, seen, blocks)
        used = 4 * count if count else used
        for b in range(batch if count else 0):
            _pack(inputs[index[b]], blocks[:count], x[b * used : (b + 1) * used])
    rows = x[: batch * used].reshape(batch, used)
    if count == 0:
        _gather(inputs, index, rows)
    for b in range(batch):
        if labels.size:
            y[b] = labels[index[b]]
        else:
            target[b] = values[index[b]]
    return rows, None if blocks is None else blocks[:count]


@_compiled
def _loss(scratch, outputs, features, batch, labels, values):
    """Return the loss of the last activations, and its gradient (O, B), which is written behind them."""
    top = features * batch
    spare = scratch[outputs:]
    spare[:top] = scratch[outputs - top : outputs]
    delta, other = spare[:top].reshape(features, batch), spare[spare.size // 2 :]
    if labels.size:
        return _cross_entropy(delta, labels, other[:batch], other[batch : 2 * batch]), delta
    return _squared_error(delta, values), delta


@_compiled
def _train(
    plan,
    moves,
    rate,
    kind,
    begins,
    keeps,
    gathers,
    p,
    g,
    m,
    v,
    update,
    u,
    settings,
    x,
    labels,
    values,
    scratch,
    blocks,
    tile,
    sums,
):
    """Step one replica, and return its loss on the minibatch; see ``train`` for the arguments."""
    batch, layers, used = labels.size + values.shape[0], plan.shape[0], x.shape[1]
    outputs = _forward(plan, moves, rate, p, update, x, batch, scratch, blocks, tile)
    loss, delta = _loss(scratch, outputs, plan[layers - 1, 3], batch, labels, values)
    spare = scratch[outputs:]
    rest = spare.size // 2
    other = spare[rest:]
    for layer in range(layers - 1, -1, -1):
        weight, bias, wide, features = plan[layer, 0], plan[layer, 1], plan[layer, 2], plan[layer, 3]
        outputs -= features * batch
        below = scratch[outputs - wide * batch : outputs].reshape(wide, batch) if layer else scratch[:0].reshape(0, 0)
        share, together = _share(4 * wide, batch), max(4, AT_ONCE // wide // 4 * 4)
        for begin in range(0, features + together, together):
            end = min(begin + together, features)
            low, high = (bias, bias + features) if begin >= features else (weight + begin * wide, weight + end * wide)
            gradient = g[low:high] if gathers else g[: high - low]
            if begin >= features:
                for i in range(features):
                    gradient[i] = _total(delta[i])
            for first in range(begin, end, 4):
                last = min(first + 4, features)
                factors = delta[first:last]
                rows = gradient[(first - begin) * wide : (last - begin) * wide].reshape(last - first, wide)
                if layer > 0:
                    _dots(factors, below, rows, None)
                elif blocks is None:
                    _sums(factors, x, rows, None)
                else:
                    into = tile[: (last - first) * used].reshape(last - first, used) if blocks.size else rows
                    _sums(factors, x, into, (m, v, weight + first * wide, share))
                    if blocks.size:
                        for i in range(last - first):
                            _unpack(into[i], blocks, rows[i])
            _propose(kind, begins, keeps, p[low:high], gradient, m[low:high], v[low:high], u[low:high], settings, sums)
        if layer:
            into = other if (layers - layer) % 2 else spare[:rest]
            upstream = into[: wide * batch].reshape(wide, batch)
            matrix = p[weight : weight + wide * features].reshape(features, wide).T
            for first in range(0, wide, 4):
                last = min(first + 4, wide)
                _sums(matrix[first:last], delta, upstream[first:last], None)
                for i in range(first, last):
                    _deactivate(plan[layer - 1, 4], upstream[i], below[i])
            delta = upstream
    return loss


@_compiled
def train(
    plan,
    moving,
    rates,
    kind,
    begins,
    keeps,
    gathers,
    params,
    gradient,
    memory,
    squares,
    update,
    proposed,
    settings,
    data,
    space,
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
        gathers: whether the gradient is kept; that of SGD without momentum, which is the update, has to be.
        params: (R, P).
        gradient: (R, P), written if it is kept.
        memory: (R, P), written by AdamW.
        squares: (R, P), written by AdamW.
        update: u of the step that is taken, (R, P).
        proposed: where that of the next step is to stand, (R, P).
        settings: see ``_propose``, (R, 8).
        data: which rows of the data are each stream's minibatch, (S, B); inputs, (N, D); labels, (N,), none where the
            loss is a squared error; values, (N, O), none where it is a cross-entropy.
        space: memory to work in. For a minibatch's inputs, (B · D,), labels, (B,), and values, (B, O), of the latter
            two none where there are none in the data; for activations, all of them and twice the widest; for all
            parameters of a replica, or the part of a gradient that is worked out at once; and for ``train_wide``, else
            None, for which columns are used, (D,), for these columns, (D // 4 + 1,), for four rows of weights, (4 D,).
        losses: (R,), written.
        sums: (R, 6), written.
        first: the first replica.
        last: the one after the last.
    """
    index, inputs, labels, values = data
    x, y, target, scratch, part, seen, columns, tile = space
    share, at = params.shape[0] // index.shape[0], -1
    for row in range(first, last):
        if row // share != at:
            at = row // share
            given, blocks = _minibatch(inputs, labels, values, index[at], x, y, target, seen, columns)
        sums[row] = 0.0
        losses[row] = _train(
            plan,
            moving[row],
            rates[row],
            kind,
            begins,
            keeps,
            gathers,
            params[row],
            gradient[row] if gathers else part,
            memory[row],
            squares[row],
            update[row],
            proposed[row],
            settings[row],
            given,
            y,
            target,
            scratch,
            blocks,
            tile,
            sums[row],
        )


@_compiled
def probe(plan, rates, params, direction, data, space, losses, first, last):
    """Work out the losses of the replicas from ``first`` to ``last`` after trial steps, which are not taken.

    Args:
        plan: see ``train``.
        rates: T for each replica, (R, T).
        params: (R, P).
        direction: what the rates multiply, (R, P).
        data: see ``train``.
        space: see ``train``.
        losses: (R, T), written.
        first: the first replica.
        last: the one after the last.
    """
    index, inputs, labels, values = data
    x, y, target, scratch, trial, seen, columns, tile = space
    share, at, batch, top = params.shape[0] // index.shape[0], -1, index.shape[1], plan[plan.shape[0] - 1, 3]
    for row in range(first, last):
        if row // share != at:
            at = row // share
            given, blocks = _minibatch(inputs, labels, values, index[at], x, y, target, seen, columns)
        for number in range(rates.shape[1]):
            _try(params[row], direction[row], rates[row, number], trial)
            outputs = _forward(plan, False, _F(0.0), trial, trial, given, batch, scratch, blocks, tile)
            losses[row, number], _ = _loss(scratch, outputs, top, batch, y, target)


@partial(_compiled, inline=False)
def train_narrow(*given):
    """Do as ``train`` does where rows of data are narrow, or minibatches do not stay in a core's own cache."""
    train(*given)


@partial(_compiled, inline=False)
def train_wide(*given):
    """Do as ``train`` does for the others."""
    train(*given)


@partial(_compiled, inline=False)
def probe_narrow(*given):
    """Do as ``probe`` does for what ``train_narrow`` is for."""
    probe(*given)


@partial(_compiled, inline=False)
def probe_wide(*given):
    """Do as ``probe`` does for what ``train_wide`` is for."""
    probe(*given)
