"""What a training step needs of binary convolutions: signs and weights to bits and back, and sums of +-1.

Layouts are those of `kernels.py`; `[N, H, W, C]` arrays of bfloat16 are passed as int16, of float32 as int32. Channel
counts are multiples of 16. Nothing here rounds but the last product with the scale: the sums are whole numbers.
"""

import functools
import hashlib
from pathlib import Path

import numpy as np
from llvmlite import ir
from numba import float32, int64, njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from . import kernels, layout
from .kernels import _at, _bits16, _mismatches, _places, _store16, compile_all

_FLOATS, _INTEGERS = ir.VectorType(ir.FloatType(), 16), ir.VectorType(ir.IntType(32), 16)
_SHORTS, _BITS = ir.VectorType(ir.IntType(16), 16), ir.VectorType(ir.IntType(1), 16)


def _splat(builder: ir.IRBuilder, value: ir.Value, vector: ir.Type) -> ir.Value:
    nothing = ir.Constant(vector, ir.Undefined)
    one = builder.insert_element(nothing, value, ir.IntType(32)(0))
    return builder.shuffle_vector(one, nothing, ir.Constant(_INTEGERS, [0] * 16))


def _of_width(vector: ir.Type, bits: int):
    """(signs, spread, finish) for numbers of `bits` bits."""

    @intrinsic
    def signs(typingctx, address):
        """16 bits, 1 where the number's own sign bit is 0."""

        def codegen(context, builder, signature, arguments):
            values = builder.load(_at(builder, vector, arguments[0]), align=bits // 8)
            positive = builder.icmp_signed(">=", values, ir.Constant(vector, [0] * 16))
            return builder.bitcast(positive, ir.IntType(16))

        return types.uint16(int64), codegen

    @intrinsic
    def spread(typingctx, flags, plus, minus, out):
        """Sixteen numbers to `out`: plus where the bit is 1, else minus (both are the numbers' bits)."""

        def codegen(context, builder, signature, arguments):
            flags, plus, minus, out = arguments
            chosen = builder.bitcast(flags, _BITS)
            plus, minus = (_splat(builder, builder.trunc(v, vector.element), vector) for v in (plus, minus))
            builder.store(builder.select(chosen, plus, minus), _at(builder, vector, out), align=bits // 8)
            return context.get_dummy_value()

        return types.void(types.uint16, int64, int64, int64), codegen

    @intrinsic
    def finish(typingctx, counts, most, scale, out):
        """scale * (most - 2 * counts), all addresses, to `out`: bfloat16 (rounded to nearest even) or float32."""

        def codegen(context, builder, signature, arguments):
            counts, most, scale, out = arguments
            counts, most = (builder.load(_at(builder, _INTEGERS, a), align=4) for a in (counts, most))
            value = builder.sitofp(builder.sub(most, builder.add(counts, counts)), _FLOATS)
            value = builder.fmul(value, builder.load(_at(builder, _FLOATS, scale), align=4))
            value = builder.bitcast(value, _INTEGERS)
            if bits == 16:
                def constant(number):
                    return ir.Constant(_INTEGERS, [number] * 16)

                odd = builder.and_(builder.lshr(value, constant(16)), constant(1))
                value = builder.add(value, builder.add(odd, constant(0x7FFF)))
                value = builder.trunc(builder.lshr(value, constant(16)), vector)
            builder.store(value, _at(builder, vector, out), align=bits // 8)
            return context.get_dummy_value()

        return types.void(int64, int64, int64, int64), codegen

    @intrinsic
    def pass_through(typingctx, grad, weight, out):
        """Sixteen gradients as float32 to `out`, 0 where the weight is beyond +-1; all addresses."""

        def codegen(context, builder, signature, arguments):
            grad, weight, out = arguments
            value = builder.load(_at(builder, vector, grad), align=bits // 8)
            if bits == 16:
                value = builder.shl(builder.zext(value, _INTEGERS), ir.Constant(_INTEGERS, [16] * 16))
            weight = builder.load(_at(builder, _FLOATS, weight), align=4)
            one, minus_one, zero = (ir.Constant(_FLOATS, [number] * 16) for number in (1.0, -1.0, 0.0))
            inside = builder.and_(
                builder.fcmp_ordered("<=", weight, one), builder.fcmp_ordered(">=", weight, minus_one),
            )
            value = builder.select(inside, builder.bitcast(value, _FLOATS), zero)
            builder.store(value, _at(builder, _FLOATS, out), align=4)
            return context.get_dummy_value()

        return types.void(int64, int64, int64), codegen

    return signs, spread, finish, pass_through


_signs_short, _spread_short, _finish_short, _pass_short = _of_width(_SHORTS, 16)
_signs_int, _spread_int, _finish_int, _pass_int = _of_width(_INTEGERS, 32)


@intrinsic
def _load16(typingctx, address):
    def codegen(context, builder, signature, arguments):
        return builder.load(_at(builder, ir.IntType(16), arguments[0]), align=2)

    return types.uint16(int64), codegen


@intrinsic
def _ones(typingctx, bits):
    def codegen(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.IntType(16), [ir.IntType(16)])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.ctpop.i16")
        return builder.zext(builder.call(function, arguments), ir.IntType(64))

    return types.int64(types.uint16), codegen


@njit(fastmath={"reassoc", "contract"})
def _mean_size(row):
    """Mean of |w|, exact where all are equal, as `packing.weight_scale` has it."""
    total, low, high = float32(0), float32(np.inf), float32(0)
    for value in row:
        size = abs(value)
        total += size
        low, high = min(low, size), max(high, size)
    return high if low == high else total / float32(row.size)


def _pack_signs(x, bits, padding):
    """x int16 or int32 `[N, H, W, C]`; bits uint16 `[N, H + 2 padding, W + 2 padding, 4 * words]`."""
    for row in prange(x.shape[0] * x.shape[1]):
        n, y = row // x.shape[1], row % x.shape[1]
        for column in range(x.shape[2]):
            source = x.ctypes.data + n * x.strides[0] + y * x.strides[1] + column * x.strides[2]
            target = bits.ctypes.data + n * bits.strides[0] + (y + padding) * bits.strides[1]
            target += (column + padding) * bits.strides[2]
            for group in range(x.shape[3] // 16):
                if x.itemsize == 2:
                    _store16(target + 2 * group, _signs_short(source + 32 * group))
                else:
                    _store16(target + 2 * group, _signs_int(source + 64 * group))


def _unpack_signs(bits, padding, plus, minus, out):
    """The reverse: out int16 or int32 `[N, H, W, C]`."""
    for row in prange(out.shape[0] * out.shape[1]):
        n, y = row // out.shape[1], row % out.shape[1]
        for column in range(out.shape[2]):
            target = out.ctypes.data + n * out.strides[0] + y * out.strides[1] + column * out.strides[2]
            source = bits.ctypes.data + n * bits.strides[0] + (y + padding) * bits.strides[1]
            source += (column + padding) * bits.strides[2]
            for group in range(out.shape[3] // 16):
                if out.itemsize == 2:
                    _spread_short(_load16(source + 2 * group), plus, minus, target + 32 * group)
                else:
                    _spread_int(_load16(source + 2 * group), plus, minus, target + 64 * group)


def _pack_weights(weight, limits, packed, scale, ones):
    """weight float32 `[O, k, k, I]` to packed uint64 `[blocks, k, k * words, lanes]`, scale `[O]`, ones `[O, k, k]`.

    limits: sixteen zeros. ones: how many weights of a tap are positive.
    """
    outputs, size, _, inputs = weight.shape
    lanes, words = packed.shape[3], packed.shape[2] // size
    for o in prange(outputs):
        scale[o] = _mean_size(weight[o].reshape(-1))
        target = packed.ctypes.data + o // lanes * packed.strides[0] + o % lanes * 8
        for i in range(size):
            for j in range(size):
                source = weight.ctypes.data + o * weight.strides[0] + i * weight.strides[1] + j * weight.strides[2]
                count = 0
                for group in range(inputs // 16):
                    bits = _bits16(source + 64 * group, limits.ctypes.data)
                    at = i * packed.strides[1] + (j * words + group // 4) * packed.strides[2] + group % 4 * 2
                    _store16(target + at, bits)
                    count += _ones(bits)
                ones[o, i, j] = count


def _unpack_weights(packed, plus, minus, out):
    """The reverse: out int16 or int32 `[O, k, k, I]`; plus, minus `[O]`: bits of each output's two weights."""
    outputs, size, _, inputs = out.shape
    lanes, words = packed.shape[3], packed.shape[2] // size
    for o in prange(outputs):
        source = packed.ctypes.data + o // lanes * packed.strides[0] + o % lanes * 8
        for i in range(size):
            for j in range(size):
                target = out.ctypes.data + o * out.strides[0] + i * out.strides[1] + j * out.strides[2]
                for group in range(inputs // 16):
                    at = i * packed.strides[1] + (j * words + group // 4) * packed.strides[2] + group % 4 * 2
                    bits = _load16(source + at)
                    if out.itemsize == 2:
                        _spread_short(bits, plus[o], minus[o], target + 32 * group)
                    else:
                        _spread_int(bits, plus[o], minus[o], target + 64 * group)


def _convolve(bits, weights, stride, most, row_class, column_class, scale, chunk, out):
    """out int16 or int32 `[N, H', W', O]`, as bfloat16 or float32: scale * the sum of +-1; see `kernels._step`."""
    height, width, outputs = out.shape[1:]
    total = out.shape[0] * height * width
    for part in prange((total + chunk - 1) // chunk):
        first = part * chunk
        pixels = min(chunk, total - first)
        offsets, places = np.empty(chunk, np.int64), np.empty((chunk, 3), np.int64)
        counts = np.empty((chunk, weights.shape[0] * weights.shape[3]), np.int32)
        _places(first, pixels, height, width, stride, bits.strides, places, offsets)
        _mismatches(pixels, offsets, bits.ctypes.data, weights, bits.strides[1], counts)
        for p in range(pixels):
            n, y, column = places[p, 0], places[p, 1], places[p, 2]
            limit = most.ctypes.data + row_class[y] * most.strides[0] + column_class[column] * most.strides[1]
            target = out.ctypes.data + n * out.strides[0] + y * out.strides[1] + column * out.strides[2]
            count = counts.ctypes.data + p * counts.strides[0]
            for o in range(0, outputs, 16):
                at = 4 * o
                if out.itemsize == 2:
                    _finish_short(count + at, limit + at, scale.ctypes.data + at, target + 2 * o)
                else:
                    _finish_int(count + at, limit + at, scale.ctypes.data + at, target + at)


def _pass_through(grad, weight, out):
    """The straight-through estimator: grad int16 or int32, weight and out float32, all `[O, k, k, I]`."""
    each = grad.shape[1] * grad.shape[2] * grad.shape[3]
    for o in prange(grad.shape[0]):
        for at in range(o * each, (o + 1) * each, 16):
            source, target = weight.ctypes.data + 4 * at, out.ctypes.data + 4 * at
            if grad.itemsize == 2:
                _pass_short(grad.ctypes.data + 2 * at, source, target)
            else:
                _pass_int(grad.ctypes.data + 4 * at, source, target)


@functools.cache
def compiled(parallel: bool) -> tuple:
    """(pack_signs, unpack_signs, pack_weights, unpack_weights, convolve, pass_through): on numba's threads, or one."""
    functions = (_pack_signs, _unpack_signs, _pack_weights, _unpack_weights, _convolve, _pass_through)
    others = b"".join(Path(module.__file__).read_bytes() for module in (kernels, layout))
    return compile_all(functions, parallel, "_" + hashlib.sha256(others).hexdigest()[:8])
