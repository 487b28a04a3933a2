"""1-bit convolutions for any CPU, compiled by numba when they are first used: exclusive or, then a count of bits.

Images are `[N, H, W, C]`. Bits are uint64 words `[N, H + 2 * padding, W + 2 * padding, words]`: bit c of a pixel's
words is 1 where channel c is at or above its threshold; spare bits, and all of the padding, are 0. Weights are
`[blocks, k, k * words, lanes]`, the outputs of a block side by side, so that one vector instruction compares the same
64 inputs with eight outputs. Floating-point convolutions go the same way, with a number in the place of a word.

The inner loops are written in LLVM's vectors of 64 bytes, which LLVM lowers to what the CPU has (AVX-512, AVX2, NEON):
left to itself it keeps the sums in memory.
"""

import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FunctionType

import numpy as np
from llvmlite import ir
from numba import int64, njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from . import layout
from .layout import LANES

_PIXELS = 4  # of a tile; with four vectors its sums fill half of AVX-512's registers
_INDEX, _WORD = ir.IntType(32), ir.IntType(64)
_FLOATS = ir.VectorType(ir.FloatType(), 16)
_MAY_FUSE = ("contract",)  # a product and a sum in one instruction


def _at(builder: ir.IRBuilder, kind: ir.Type, base: ir.Value, *offsets: ir.Value) -> ir.Value:
    """The address `base` + the sum of `offsets` (bytes) as a pointer to `kind`."""
    for offset in offsets:
        base = builder.add(base, offset)
    return builder.inttoptr(base, kind.as_pointer())


def _tile(kind: str, pixels: int, vectors: int):
    """An intrinsic: `pixels` pixels with the outputs of a block of `vectors` vectors.

    kind `bits`: how many bits differ, int32. `floats`: the sum of products, float32.

    Its arguments are addresses and counts: the pixels' inputs (a tuple), the block's weights, rows of the kernel, bytes
    from one row of inputs to the next, inputs in a row of the kernel, where to put the result, bytes between pixels.
    """
    lanes = LANES[kind]
    element, result = (_WORD, ir.IntType(32)) if kind == "bits" else (ir.FloatType(), ir.FloatType())
    vector, stored = ir.VectorType(element, lanes), ir.VectorType(result, lanes)
    first = ir.Constant(ir.VectorType(_INDEX, lanes), [0] * lanes)
    size = 8 if kind == "bits" else 4

    def combine(builder: ir.IRBuilder, value: ir.Value, weight: ir.Value, total: ir.Value) -> ir.Value:
        if kind == "floats":
            return builder.fadd(builder.fmul(value, weight, flags=_MAY_FUSE), total, flags=_MAY_FUSE)
        function = ir.FunctionType(vector, [vector])
        count = cgutils.get_or_insert_function(builder.module, function, f"llvm.ctpop.v{lanes}i64")
        return builder.add(builder.call(count, [builder.xor(value, weight)]), total)

    @intrinsic
    def tile(typingctx, inputs, weights, rows, row_bytes, columns, out, out_bytes):
        signature = types.void(types.UniTuple(int64, pixels), int64, int64, int64, int64, int64, int64)

        def codegen(context, builder, signature, arguments):
            inputs, weights, rows, row_bytes, columns, out, out_bytes = arguments
            starts = cgutils.unpack_tuple(builder, inputs, pixels)
            sums = [[cgutils.alloca_once(builder, vector) for _ in range(vectors)] for _ in range(pixels)]
            for pixel in sums:
                for total in pixel:
                    builder.store(ir.Constant(vector, [0] * lanes), total)
            with cgutils.for_range(builder, rows) as row, cgutils.for_range(builder, columns) as column:
                number = builder.add(builder.mul(row.index, columns), column.index)
                place = builder.mul(number, _WORD(64 * vectors))
                block = [
                    builder.load(_at(builder, vector, weights, place, _WORD(64 * v)), align=size)
                    for v in range(vectors)
                ]
                place = builder.add(builder.mul(row.index, row_bytes), builder.mul(column.index, _WORD(size)))
                for start, pixel in zip(starts, sums, strict=True):
                    value = builder.load(_at(builder, element, start, place), align=size)
                    value = builder.insert_element(ir.Constant(vector, ir.Undefined), value, _INDEX(0))
                    value = builder.shuffle_vector(value, ir.Constant(vector, ir.Undefined), first)
                    for weight, total in zip(block, pixel, strict=True):
                        builder.store(combine(builder, value, weight, builder.load(total)), total)
            for p, pixel in enumerate(sums):
                for v, total in enumerate(pixel):
                    value = builder.load(total)
                    value = builder.trunc(value, stored) if kind == "bits" else value
                    place = builder.mul(out_bytes, _WORD(p))
                    builder.store(value, _at(builder, stored, out, place, _WORD(4 * lanes * v)), align=4)
            return context.get_dummy_value()

        return signature, codegen

    return tile


def _loads(builder: ir.IRBuilder, *addresses: ir.Value) -> list[ir.Value]:
    return [builder.load(_at(builder, _FLOATS, address), align=4) for address in addresses]


@intrinsic
def _bits16(typingctx, values, limits):
    """16 bits, 1 where values[i] >= limits[i]; both are addresses of 16 float32."""

    def codegen(context, builder, signature, arguments):
        return builder.bitcast(builder.fcmp_ordered(">=", *_loads(builder, *arguments)), ir.IntType(16))

    return types.uint16(int64, int64), codegen


@intrinsic
def _activate16(typingctx, counts, most, scale, bias, slope, shortcut, out, limits):
    """Sixteen outputs of a step: prelu(scale * (most - 2 * counts) + bias + shortcut, slope) to `out`; their bits.

    All are addresses: of int32 (counts, most) or float32.
    """

    def codegen(context, builder, signature, arguments):
        integers = ir.VectorType(ir.IntType(32), 16)
        counts, most = (builder.load(_at(builder, integers, address), align=4) for address in arguments[:2])
        scale, bias, slope, shortcut = _loads(builder, *arguments[2:6])
        value = builder.sitofp(builder.sub(most, builder.add(counts, counts)), _FLOATS)
        value = builder.fadd(builder.fmul(value, scale, flags=_MAY_FUSE), builder.fadd(bias, shortcut), flags=_MAY_FUSE)
        zero = ir.Constant(_FLOATS, [0.0] * 16)
        value = builder.select(builder.fcmp_ordered(">=", value, zero), value, builder.fmul(value, slope))
        builder.store(value, _at(builder, _FLOATS, arguments[6]), align=4)
        return builder.bitcast(builder.fcmp_ordered(">=", value, *_loads(builder, arguments[7])), ir.IntType(16))

    return types.uint16(*[int64] * 8), codegen


@intrinsic
def _store16(typingctx, address, bits):
    def codegen(context, builder, signature, arguments):
        builder.store(arguments[1], _at(builder, ir.IntType(16), arguments[0]), align=2)
        return context.get_dummy_value()

    return types.void(int64, types.uint16), codegen


def _tiles(kind: str):
    """A function that fills out `[pixels, blocks * lanes]`; offsets: bytes from `base` to each pixel's inputs."""
    four1, four2, four4 = (_tile(kind, _PIXELS, vectors) for vectors in (1, 2, 4))
    one1, one2, one4 = (_tile(kind, 1, vectors) for vectors in (1, 2, 4))
    lanes = LANES[kind]

    @njit
    def tiles(pixels, offsets, base, weights, row_bytes, out):
        blocks, rows, columns, width = weights.shape
        out_bytes = out.strides[0]
        for block in range(blocks):
            weight = weights.ctypes.data + block * weights.strides[0]
            target = out.ctypes.data + block * width * 4
            for start in range(0, pixels, 4 if pixels >= 4 else 1):
                p = min(start, max(0, pixels - 4)) if pixels >= 4 else start  # the last tile may overlap another
                at = target + p * out_bytes
                if pixels >= 4:
                    four = (base + offsets[p], base + offsets[p + 1], base + offsets[p + 2], base + offsets[p + 3])
                    if width == 4 * lanes:
                        four4(four, weight, rows, row_bytes, columns, at, out_bytes)
                    elif width == 2 * lanes:
                        four2(four, weight, rows, row_bytes, columns, at, out_bytes)
                    else:
                        four1(four, weight, rows, row_bytes, columns, at, out_bytes)
                else:
                    one = (base + offsets[p],)
                    if width == 4 * lanes:
                        one4(one, weight, rows, row_bytes, columns, at, out_bytes)
                    elif width == 2 * lanes:
                        one2(one, weight, rows, row_bytes, columns, at, out_bytes)
                    else:
                        one1(one, weight, rows, row_bytes, columns, at, out_bytes)

    return tiles


_mismatches, _products = _tiles("bits"), _tiles("floats")


@njit
def _places(first, pixels, height, width, stride, strides, places, offsets):
    """(n, y, x) of each output pixel to places, and how many bytes from the start its inputs begin to offsets."""
    n, rest = divmod(first, height * width)
    y, x = divmod(rest, width)
    for p in range(pixels):
        places[p, 0], places[p, 1], places[p, 2] = n, y, x
        offsets[p] = n * strides[0] + y * stride * strides[1] + x * stride * strides[2]
        x += 1
        if x == width:
            x, y = 0, y + 1
            if y == height:
                y, n = 0, n + 1


@njit
def _pack_pixel(values, limits, channels, bits):
    """All but `channels` are addresses: float32 `[C]` twice, and where to put 16 bits at a time."""
    for group in range(channels // 16):
        _store16(bits + 2 * group, _bits16(values + 64 * group, limits + 64 * group))


@njit
def _pack_rest(values, limits, bits):
    """The channels behind the last whole group of 16: float32 `[C]` twice, uint16 `[4 * words]`."""
    whole = values.shape[0] // 16
    rest = 0
    for c in range(16 * whole, values.shape[0]):
        if values[c] >= limits[c]:
            rest |= 1 << (c - 16 * whole)
    bits[whole] = rest


@njit
def _finish_slowly(count, limit, scale, bias, slope, source, target):
    for o in range(target.shape[0]):
        value = np.float32(limit[o] - 2 * count[o]) * scale[o]
        value += bias[o] + source[o if o < source.shape[0] else o - source.shape[0]]
        target[o] = value if value >= 0 else value * slope[o]


@njit
def _mean_of_window(x, n, y, column, out):
    """The 2x2 window at (2y, 2 column), or what of it lies inside, averaged: out `[C]`."""
    bottom, right = min(2 * y + 2, x.shape[1]), min(2 * column + 2, x.shape[2])
    share = np.float32(1 / ((bottom - 2 * y) * (right - 2 * column)))
    out[:] = np.float32(0)
    for row in range(2 * y, bottom):
        for col in range(2 * column, right):
            for c in range(out.shape[0]):
                out[c] += x[n, row, col, c]
    for c in range(out.shape[0]):
        out[c] *= share


def _pack(x, limits, bits, padding):
    """Write the bits of x `[N, H, W, C]` into bits, uint16 `[N, H + 2 padding, W + 2 padding, 4 * words]`."""
    channels = x.shape[3]
    for row in prange(x.shape[0] * x.shape[1]):
        n, y = row // x.shape[1], row % x.shape[1]
        values = x.ctypes.data + n * x.strides[0] + y * x.strides[1]
        target = bits.ctypes.data + n * bits.strides[0] + (y + padding) * bits.strides[1]
        for column in range(x.shape[2]):
            at = target + (column + padding) * bits.strides[2]
            _pack_pixel(values + column * x.strides[2], limits.ctypes.data, channels, at)
            if channels % 16:
                _pack_rest(x[n, y, column], limits, bits[n, y + padding, column + padding])


def _step(
    bits, weights, stride, most, row_class, column_class, scale, bias, slope, shortcut, pool, chunk, out, limits,
    next_bits, next_padding,
):
    """One binary convolution with what surrounds it (`fold.Step`), and the bits for the next one.

    most `[rows, columns, O]`, int32: what the sum would be without a mismatch, by `row_class` `[H']` and `column_class`
    `[W']`; padding never counts. shortcut `[N, H, W, I or O]`: averaged over 2x2 where `pool`; repeated where it has
    half of the outputs. chunk: pixels at a time. limits `[O]`: thresholds of the next step. next_bits: uint16; empty
    behind the last step.
    """
    height, width, outputs = out.shape[1:]
    total = out.shape[0] * height * width
    inputs, packs = shortcut.shape[3], next_bits.size > 0
    grouped = outputs % 16 == 0 and inputs % 16 == 0  # a group of 16 must not end in the middle of the shortcut
    for part in prange((total + chunk - 1) // chunk):
        first = part * chunk
        pixels = min(chunk, total - first)
        offsets, places = np.empty(chunk, np.int64), np.empty((chunk, 3), np.int64)
        counts = np.empty((chunk, weights.shape[0] * weights.shape[3]), np.int32)
        mean = np.empty(shortcut.shape[3], np.float32)
        _places(first, pixels, height, width, stride, bits.strides, places, offsets)
        _mismatches(pixels, offsets, bits.ctypes.data, weights, bits.strides[1], counts)
        for p in range(pixels):  # by addresses: each slice would cost more than the work on a pixel
            n, y, column = places[p, 0], places[p, 1], places[p, 2]
            if pool:
                _mean_of_window(shortcut, n, y, column, mean)
                source = mean.ctypes.data
            else:
                source = shortcut.ctypes.data
                source += n * shortcut.strides[0] + y * shortcut.strides[1] + column * shortcut.strides[2]
            packed = next_bits.ctypes.data
            packed += n * next_bits.strides[0] + (y + next_padding) * next_bits.strides[1]
            packed += (column + next_padding) * next_bits.strides[2]
            if grouped:
                limit = most.ctypes.data + row_class[y] * most.strides[0] + column_class[column] * most.strides[1]
                target = out.ctypes.data + n * out.strides[0] + y * out.strides[1] + column * out.strides[2]
                count = counts.ctypes.data + p * counts.strides[0]
                for o in range(0, outputs, 16):
                    at = 4 * o
                    group = _activate16(
                        count + at, limit + at, scale.ctypes.data + at, bias.ctypes.data + at, slope.ctypes.data + at,
                        source + 4 * (o if o < inputs else o - inputs), target + at, limits.ctypes.data + at,
                    )
                    if packs:
                        _store16(packed + 2 * (o // 16), group)
            else:
                target = out[n, y, column]
                _finish_slowly(
                    counts[p], most[row_class[y], column_class[column]], scale, bias, slope,
                    mean if pool else shortcut[n, y, column], target,
                )
                if packs:
                    _pack_pixel(target.ctypes.data, limits.ctypes.data, outputs, packed)
                    if outputs % 16:
                        _pack_rest(target, limits, next_bits[n, y + next_padding, column + next_padding])


def _convolve(x, weights, bias, stride, chunk, out):
    """A floating-point convolution: x `[N, H, W, C]`, padded; weights `[blocks, k, k * C, lanes]`; out
    `[N, H', W', O]`."""
    height, width, outputs = out.shape[1:]
    total = out.shape[0] * height * width
    for part in prange((total + chunk - 1) // chunk):
        first = part * chunk
        pixels = min(chunk, total - first)
        offsets, places = np.empty(chunk, np.int64), np.empty((chunk, 3), np.int64)
        sums = np.empty((chunk, weights.shape[0] * weights.shape[3]), np.float32)
        _places(first, pixels, height, width, stride, x.strides, places, offsets)
        _products(pixels, offsets, x.ctypes.data, weights, x.strides[1], sums)
        for p in range(pixels):
            n, y, column = places[p, 0], places[p, 1], places[p, 2]
            for o in range(outputs):
                out[n, y, column, o] = sums[p, o] + bias[o]


def _halve(x, out):
    """Average 2x2 windows: x `[N, H, W, C]` to out `[N, ceil(H / 2), ceil(W / 2), C]`."""
    for row in prange(out.shape[0] * out.shape[1]):
        n, y = row // out.shape[1], row % out.shape[1]
        for column in range(out.shape[2]):
            _mean_of_window(x, n, y, column, out[n, y, column])


def compile_all(functions: Sequence[Callable], parallel: bool, version: str = "") -> tuple:
    """The functions compiled by numba, which keeps the result for the next process where it may write to a folder.

    version: of what they call in other files. numba's cache looks at a function's name and its own file only.
    """
    compiled_functions = []
    for function in functions:
        name = f"{function.__name__}{version}{'_parallel' if parallel else ''}"
        named = FunctionType(function.__code__, function.__globals__, name)
        named.__qualname__ = name  # the name of the cache's file
        options = {"parallel": parallel, "boundscheck": False, "error_model": "numpy"}
        try:
            compiled_functions.append(njit(cache=True, **options)(named))
        except RuntimeError:  # no folder to keep it in
            compiled_functions.append(njit(**options)(named))
    return tuple(compiled_functions)


@functools.cache
def compiled(parallel: bool) -> tuple:
    """(pack, step, convolve, halve): on the threads that numba is set to, or on the calling one."""
    version = "_" + hashlib.sha256(Path(layout.__file__).read_bytes()).hexdigest()[:8]
    return compile_all((_pack, _step, _convolve, _halve), parallel, version)
