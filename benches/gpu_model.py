"""A model of the training step of MicroDiT-XL/2 on one H100. Prints the tables of docs/src/notes/gpu-model.md.

    cargo build --workspace
    python3 benches/gpu_model.py
    python3 benches/gpu_model.py --stage 256-masked --images 128 --micro 128   # a case of benches/gpu.sh
    python3 benches/gpu_model.py --check docs/src/notes/gpu-model.md

The step is traced: the functions below repeat those of crates/microdit/src/{net/dit,nn,ops} operation by operation, forward and
backward, on tensors that have a shape and no numbers. Each operation is a kernel with its FLOPs and the bytes it reads and writes.
Parameters and FLOPs must come out as `microdit plan` has them, or nothing is printed.

NVIDIA H100 Tensor Core GPU, data sheet (SXM): 989 TFLOP/s in bf16 and half of that in TF32, both dense; 67 TFLOP/s in f32 outside of the
tensor cores; 3.35 TB/s; PCIe Gen5, 64 GB/s in one direction. Its architecture's white paper: 132 SMs. H200: the same with 4.8 TB/s.
"""

import argparse
import contextlib
import json
import math
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
BF16_RATE, SMS, PCIE = 989e12, 132, 64e9
TF32_RATE, F32_RATE = BF16_RATE / 2, 67e12
F32, BF16, INT = 4, 2, 4
# A tile of a matrix product's result that an SM computes at a time.
TILE = 128
# Rows and columns of a tile of scores (ops/cube/attention/plan.rs).
SCORES = (64, 32)
# Rows that a thread sums for the gradient of a norm's weight (ops/cube/mod.rs).
ROWS_OF_A_SUM = 64
GPUS_OF_A_MACHINE = 8

# crates/microdit/src/net/dit/config.rs, xl_2. `--network` takes another from a JSON file with the same keys.
XL_2 = {
    "input_size": 32,
    "patch_size": 2,
    "in_channels": 4,
    "dim": 1024,
    "depth": 28,
    "head_dim": 64,
    "multiple_of": 256,
    "caption_channels": 1024,
    "qkv_width": {"Linear": {"from": 0.5, "to": 1.0}},
    "ffn_width": {"Linear": {"from": 0.5, "to": 4.0}},
    "mixer": {"dim": 768, "depth": 6, "qkv_ratio": 1.0, "mlp_ratio": 4.0},
    "moe": {"experts": 8, "capacity": 2.0, "every": 2},
}
WORDS = 77
TIME_CHANNELS = 512
# Side of the latents and share of the tokens dropped, as recipes/phases.ron has them.
STAGES = {"256-masked": (32, 0.75), "256-unmasked": (32, 0.0), "512-masked": (64, 0.75), "512-unmasked": (64, 0.0)}

# Which code runs: the kernels of ops/cube or the composed operations (`own`), those for attention among them (`attention`), as if its
# products ran on tensor cores (`tensor`); whether elementwise operations and the sums over rows among them share a kernel (`fuse`);
# whether attention is one kernel beside these (`flash`); whether the avoidable passes that the page lists are gone (`lean`).
VARIANTS = {
    "`cuda` build, attention composed": {"own"},
    "`cuda` build": {"own", "attention"},
    "`cuda` build, attention on tensor cores": {"own", "attention", "tensor"},
    "`fusion` build at its best": {"fuse"},
    "`fusion` at its best, attention in a kernel": {"fuse", "flash"},
    "the same without avoidable passes": {"fuse", "flash", "lean"},
}
# The two that the tables take apart.
FIRST, BEST = "`cuda` build", "`fusion` at its best, attention in a kernel"

# What a profile calls the kernels of an operation.
KINDS = {
    "each": "elementwise",
    "kernel": "elementwise",
    "row": "reduction",
    "column": "reduction",
    "fill": "copy",
    "gather": "gather, scatter",
    "scatter": "gather, scatter",
    "own": "`ops/cube`",
}


class Tensor:
    """A shape. Views share a buffer; `held` is how many numbers lie in memory, fewer than the shape's where it was expanded."""

    __slots__ = ("shape", "size", "buffer", "held", "tracked", "node")
    count = 0

    def __init__(self, shape, size, buffer=None, held=None, tracked=False):
        Tensor.count += 1
        self.node = Tensor.count
        self.shape, self.size, self.tracked = tuple(shape), size, tracked
        self.buffer = self.node if buffer is None else buffer
        self.held = math.prod(shape) if held is None else held

    @property
    def n(self):
        return math.prod(self.shape)

    @property
    def bytes(self):
        return min(self.n, self.held) * self.size


class Op:
    __slots__ = ("kind", "part", "where", "ins", "outs", "flops", "model", "tiles", "peak", "moved", "turns", "phase")

    def __init__(self, kind, part, where, ins, outs, phase):
        self.kind, self.part, self.where, self.ins, self.outs, self.phase = kind, part, where, ins, outs, phase
        self.flops = self.model = 0
        self.tiles, self.peak, self.moved, self.turns = None, BF16_RATE, None, 0


class Tape:
    """Records operations. The first half are burn's operations on an inner backend; the second half those of ops/mod.rs with what
    ops/autodiff.rs makes of them backward."""

    def __init__(self, ways):
        for way in ("own", "attention", "tensor", "fuse", "flash", "lean"):
            setattr(self, way, way in ways)
        self.ops, self.nodes, self.params = [], [], []
        self.part, self.where, self.phase = "other", "ends", "forward"
        self.rounded = {}

    @contextlib.contextmanager
    def at(self, part=None, where=None):
        before = self.part, self.where
        self.part, self.where = part or self.part, where or self.where
        yield
        self.part, self.where = before

    # Kernels.

    def op(self, kind, ins, outs, part=None, **more):
        made = Op(kind, part or self.part, self.where, ins, outs, self.phase)
        for key, value in more.items():
            setattr(made, key, value)
        self.ops.append(made)
        return outs[0]

    def kernel(self, *ins, size=None, shape=None):
        """A kernel of ops/cube with a result like its first input."""
        return self.op("own", list(ins), [Tensor(shape or ins[0].shape, size or ins[0].size)])

    def each(self, *ins, shape=None, size=None, part=None):
        """An elementwise operation, of the largest shape among its inputs."""
        largest = max(ins, key=lambda x: x.n)
        return self.op("each", list(ins), [Tensor(shape or largest.shape, size or largest.size)], part)

    def times(self, count, x):
        """So many elementwise operations, one after the other."""
        for _ in range(count):
            x = self.each(x)
        return x

    def row(self, x):
        """A sum, mean or maximum over the last dimension."""
        return self.op("row", [x], [Tensor(x.shape[:-1] + (1,), x.size)])

    def column(self, x, dim, part=None):
        """A sum over another dimension."""
        shape = x.shape[:dim] + x.shape[dim + 1 :]
        return self.op("column", [x], [Tensor(shape, x.size)], part)

    def cast(self, x, size, part=None):
        return x if x.size == size else self.each(x, size=size, part=part)

    def copy(self, x, shape=None):
        return self.op("copy", [x], [Tensor(shape or x.shape, x.size)])

    def fill(self, shape, size):
        return self.op("fill", [], [Tensor(shape, size)])

    def cat(self, parts, dim):
        shape = list(parts[0].shape)
        shape[dim] = sum(x.shape[dim] for x in parts)
        whole = Tensor(shape, parts[0].size)
        # A slice is assigned for each part.
        for x in parts:
            self.op("copy", [x], [whole], moved=2 * x.bytes)
        return whole

    def view(self, x, shape, held=None):
        return Tensor(shape, x.size, x.buffer, held)

    def expand(self, x, shape):
        return Tensor(shape, x.size, x.buffer, x.n)

    def matmul(self, a, b, batch, m, n, k, shape, size=None):
        flops = 2 * batch * m * n * k
        side = lambda x: min(TILE, 16 * math.ceil(x / 16))
        tiles = (batch * math.ceil(m / side(m)) * math.ceil(n / side(n)), 2 * side(m) * side(n) * k)
        out = [Tensor(shape, size or a.size)]
        peak = TF32_RATE if a.size == F32 else BF16_RATE
        return self.op("matmul", [a, b], out, flops=flops, model=flops, tiles=tiles, peak=peak)

    def gather(self, x, places, shape):
        out = Tensor(shape, x.size)
        return self.op("gather", [x, places], [out], moved=2 * out.bytes + places.bytes)

    def scatter(self, shape, places, values, dim=1):
        zeros = self.fill(shape, values.size)
        # burn's kernel has a thread for every column, which adds one value after the other where its place says.
        turns = values.n // (zeros.n // zeros.shape[dim])
        return self.op("scatter", [values, places], [zeros], moved=values.bytes + 2 * zeros.bytes + places.bytes, turns=turns)

    def upload(self, shape, size=F32):
        out = Tensor(shape, size)
        return self.op("upload", [], [out], part="from the host", moved=0)

    # Automatic differentiation.

    def param(self, *shape):
        param = Tensor(shape, F32, tracked=True)
        self.params.append(param)
        return param

    def record(self, ins, out, pullback):
        """`pullback` takes the gradient of `out` to those of `ins`."""
        if any(x.tracked for x in ins):
            out.tracked = True
            self.nodes.append((ins, out, pullback, self.part, self.where))
        return out

    def backward(self, last, grad):
        self.phase = "backward"
        grads = {last.node: grad}
        for ins, out, pullback, part, where in reversed(self.nodes):
            if out.node not in grads:
                continue
            with self.at(part, where):
                for x, found in zip(ins, pullback(grads.pop(out.node))):
                    if x.tracked and found is not None:
                        before = grads.get(x.node)
                        if before is not found:
                            grads[x.node] = found if before is None else self.each(before, found)
        self.nodes = []
        return grads

    def reshape(self, x, shape):
        return self.record([x], self.view(x, shape), lambda g: [self.view(g, x.shape)])

    def enter(self, x, size):
        if x.size == size:
            return x
        return self.record([x], self.cast(x, size), lambda g: [self.cast(g, x.size)])

    def split(self, x, parts):
        """Parts of the last dimension. Backward, each writes its gradient into zeros of the whole, and these are added up."""
        width = x.shape[-1] // parts
        shape, whole = x.shape[:-1] + (width,), Tensor(x.shape, x.size)

        def pull(g):
            if self.lean:
                return [self.op("copy", [g], [whole], moved=2 * g.bytes)]
            zeros = self.fill(x.shape, g.size)
            return [self.op("copy", [g], [zeros], moved=2 * g.bytes)]

        return [self.record([x], self.view(x, shape), pull) for _ in range(parts)]

    # ops/mod.rs and ops/composed.

    def weight(self, w, size):
        """A weight as products take it: rounded for every use, or once for all."""
        if w.size == size:
            return w
        part = "weights rounded, their gradients widened"
        if not self.lean:
            return self.cast(w, size, part)
        if w.buffer not in self.rounded:
            # Once in a step, not once in a micro-batch: counted with the optimizer, which has the weight at hand.
            self.rounded[w.buffer] = Tensor(w.shape, size)
        return self.rounded[w.buffer]

    def widen(self, grad):
        """A weight's gradient as the optimizer takes it; without avoidable passes the product writes f32 itself."""
        if grad.size == F32 or self.lean:
            return self.view(grad, grad.shape)
        return self.cast(grad, F32, "weights rounded, their gradients widened")

    def project(self, x, w, bias=None, again=None):
        """`again` computes the input once more for the gradient of the weight, where it is not kept."""
        (rows, width), (out, _) = (x.n // x.shape[-1], x.shape[-1]), w.shape
        shape = x.shape[:-1] + (out,)
        y = self.matmul(x, self.weight(w, x.size), 1, rows, out, width, shape)
        if bias:
            y = self.each(y, self.cast(bias, x.size))

        def pull(g):
            found = []
            if bias:
                flat = self.view(g, (rows, out))
                found = [self.column(self.cast(flat, F32), 0)]
            kept = again() if again else x
            x_grad = self.matmul(g, self.weight(w, x.size), 1, rows, width, out, x.shape)
            w_grad = self.matmul(g, kept, 1, out, width, rows, w.shape, F32 if self.lean else None)
            return [x_grad, self.widen(w_grad), *found]

        return self.record([x, w] + ([bias] if bias else []), y, pull)

    def normed(self, x):
        centred = self.each(x, self.row(x))
        variance = self.row(self.each(centred, centred))
        inverse = self.times(3, variance)
        return self.each(centred, inverse), inverse

    def through_norm(self, normed, inverse, grad):
        along = self.row(self.each(grad, normed))
        less = self.each(grad, self.row(grad))
        return self.each(self.each(less, self.each(normed, along)), inverse)

    def norm(self, x):
        w = self.param(x.shape[-1])
        y = self.kernel(x, w) if self.own else self.each(self.normed(x)[0], w)

        def pull(g):
            if self.own:
                rows, dim = x.n // x.shape[-1], x.shape[-1]
                x_grad, statistics = Tensor(x.shape, F32), Tensor((rows, 2), F32)
                self.op("own", [x, w, g], [x_grad, statistics])
                sums = [Tensor((math.ceil(rows / ROWS_OF_A_SUM), dim), F32) for _ in range(2)]
                self.op("own", [x, statistics, g], sums, turns=ROWS_OF_A_SUM / 4)
                return [x_grad, self.column(sums[1], 0)]
            normed, inverse = self.normed(x)
            flat = self.view(self.each(g, normed), (g.n // g.shape[-1], g.shape[-1]))
            w_grad = self.column(flat, 0)
            return [self.through_norm(normed, inverse, self.each(g, w)), w_grad]

        return self.record([x, w], y, pull)

    def flat(self, x):
        """A slice of the modulation in memory of its own, for the kernels of ops/cube."""
        return self.copy(x)

    def modulated_norm(self, x, w, shift, scale):
        vector = shift.shape
        if self.own:
            ins = [x, w, self.flat(shift), self.flat(scale)]
            y = self.op("own", ins, [Tensor(x.shape, F32)])
        else:
            gain = self.each(self.each(scale), w)
            y = self.each(self.each(self.normed(x)[0], gain), shift)

        def pull(g):
            if self.own:
                statistics = Tensor(x.shape[:-1] + (2,), F32)
                x_grad = Tensor(x.shape, F32)
                self.op("own", [x, w, self.flat(scale), g], [x_grad, statistics])
                sums = [Tensor(vector, F32) for _ in range(2)]
                # A thread for every column; its reads do not wait for each other, say four at a time.
                self.op("own", [x, statistics, g], sums, turns=x.shape[1] / 4)
                w_grad = self.column(self.each(sums[1], self.each(scale)), 0)
                return [x_grad, w_grad, sums[0], self.each(sums[1], w)]
            normed, inverse = self.normed(x)
            lifted = self.each(scale)
            gain = self.each(lifted, w)
            along = self.column(self.each(g, normed), 1)
            x_grad = self.through_norm(normed, inverse, self.each(g, gain))
            w_grad = self.column(self.each(along, lifted), 0)
            return [x_grad, w_grad, self.column(g, 1), self.each(along, w)]

        return self.record([x, w, shift, scale], y, pull)

    def residual(self, x, update):
        y = self.each(x, self.cast(update, x.size))
        return self.record([x, update], y, lambda g: [g, self.cast(g, update.size)])

    def gated_residual(self, x, update, gate):
        if self.own:
            y = self.op("own", [x, update, self.flat(gate)], [Tensor(x.shape, F32)])
        else:
            y = self.each(x, self.each(self.cast(update, F32), gate))

        def pull(g):
            if self.own:
                made = [Tensor(x.shape, update.size), Tensor(gate.shape, F32)]
                # A thread for every column, which writes between its reads.
                self.op("own", [update, self.flat(gate), g], made, turns=x.shape[1])
                return [g, *made]
            wide = self.cast(update, F32)
            update_grad = self.cast(self.each(g, gate), update.size)
            return [g, update_grad, self.column(self.each(g, wide), 1)]

        return self.record([x, update, gate], y, pull)

    def tanh_gelu(self, x):
        if self.own:
            y = self.op("own", [x], [Tensor(x.shape, x.size)])
        else:
            y = self.each(x, self.times(7, x))

        def pull(g):
            if self.own:
                return [self.op("own", [x, g], [Tensor(x.shape, x.size)])]
            square = self.each(self.each(x, x))
            s = self.times(7, self.each(self.each(x, self.each(square))))
            slope = self.each(self.each(x, s), self.times(2, s))
            slope = self.each(self.each(slope, self.times(2, square)))
            return [self.each(g, self.each(s, slope))]

        return self.record([x], y, pull)

    def sigmoid(self, x):
        # burn's: to f32, minus, exp, plus 1, log, minus, exp, and back.
        return self.cast(self.times(6, self.cast(x, F32)), x.size)

    def gated(self, gate, x):
        """`silu(gate) * x`."""
        if self.own:
            return self.op("own", [gate, x], [Tensor(x.shape, x.size)])
        return self.each(self.each(gate, self.sigmoid(gate)), x)

    def swiglu(self, gate, x):
        y = self.gated(gate, x)

        def pull(g):
            if self.own:
                made = [Tensor(x.shape, x.size) for _ in range(2)]
                self.op("own", [gate, x, g], made)
                return made
            s = self.sigmoid(gate)
            value = self.each(gate, s)
            slope = self.each(s, self.each(value, self.times(2, s)))
            return [self.each(self.each(g, x), slope), self.each(g, value)]

        return self.record([gate, x], y, pull)

    def softmax(self, x):
        shifted = self.each(self.each(x, self.row(x)))
        return self.each(shifted, self.row(shifted))

    def heads(self, x, heads):
        batch, tokens, width = x.shape
        return self.view(x, (batch, heads, tokens, width // heads))

    def join(self, x):
        batch, heads, tokens, width = x.shape
        return self.copy(x, (batch, tokens, heads * width))

    def scores(self, q, k):
        batch, heads, tokens, width = q.shape
        # Heads side by side in a row: a product copies such an operand first.
        logits = self.matmul(self.copy(q), self.copy(k), batch * heads, tokens, k.shape[2], width, (batch, heads, tokens, k.shape[2]))
        return logits

    def attend(self, q, k, v, heads, parts):
        """Attention and its gradient, `parts` being the tensors that q, k and v were cut from."""
        batch, tokens, width = q.shape
        words = k.shape[1]
        product = 2 * batch * tokens * words * width
        around = "norms of queries and keys"
        if self.attention:
            return self.attend_in_kernels(q, k, v, heads, parts, around)

        def prepared(x):
            with self.at(around):
                normed, inverse = self.normed(self.cast(x, F32))
                return self.cast(normed, x.size), normed, inverse

        q_narrow, k_narrow = prepared(q)[0], prepared(k)[0]
        if self.flash:
            statistics = Tensor((batch, heads, tokens), F32)
            y = Tensor(q.shape, q.size)
            self.op("attention", [q_narrow, k_narrow, v], [y, statistics], flops=2 * product, model=2 * product)
        else:
            q_heads = self.each(self.heads(q_narrow, heads))
            logits = self.scores(q_heads, self.heads(k_narrow, heads))
            weights = self.cast(self.softmax(self.cast(logits, F32)), q.size)
            mixed = self.matmul(weights, self.copy(self.heads(v, heads)), batch * heads, tokens, width // heads, words, q_heads.shape)
            y = self.join(mixed)

        def pull(g):
            (q_narrow, q_normed, q_inverse), (k_narrow, k_normed, k_inverse) = prepared(q), prepared(k)
            if self.flash:
                made = [Tensor(x.shape, x.size) for x in (q, k, v)]
                ins = [q_narrow, k_narrow, v, y, statistics, g]
                self.op("attention", ins, made, flops=5 * product, model=4 * product)
            else:
                made = self.attention_backward(q_narrow, k_narrow, v, heads, g)
            with self.at(around):
                for i, (x, normed, inverse) in enumerate([(q, q_normed, q_inverse), (k, k_normed, k_inverse)]):
                    made[i] = self.cast(self.through_norm(normed, inverse, self.cast(made[i], F32)), x.size)
                if len(parts) == 1:
                    return [self.cat(made, 2)]
                return [made[0], self.cat(made[1:], 2)]

        return self.record(parts, y, pull)

    def attend_in_kernels(self, q, k, v, heads, parts, around):
        """ops/cube/attention: rows are normalized as they are loaded, gradients written where they are packed."""
        batch, tokens, width = q.shape
        words = k.shape[1]
        product = 2 * batch * tokens * words * width
        # Of one buffer, but not the same numbers.
        q, k, v = (Tensor(x.shape, x.size) for x in (q, k, v))

        def kernel(ins, outs, side, others, products, model):
            # Cubes of threads, and what one computes; tiles are full, however few rows are left.
            own, other = SCORES
            cube = 2 * own * math.ceil(others / other) * other * (width // heads) * products
            tiles = (batch * heads * math.ceil(side / own), cube)
            peak = BF16_RATE if self.tensor else F32_RATE
            self.op("attention", ins, outs, flops=products * product, model=model * product, tiles=tiles, peak=peak)

        def statistics():
            with self.at(around):
                return [self.op("own", [x], [Tensor(x.shape[:-1] + (2,), F32)]) for x in (q, k)]

        y = Tensor(q.shape, q.size)
        kernel([q, k, v, *statistics()], [y], tokens, words, 2, 2)

        def pull(g):
            known = statistics()
            made = [Tensor(x.shape, x.size) for x in (q, k, v)]
            # The sum of a query's exponentials, and of its gradient times its result.
            kept = Tensor((batch, heads, tokens, 2), F32)
            kernel([q, k, v, g, *known], [made[0], kept], tokens, words, 5, 2)
            kernel([q, k, v, g, kept, *known], made[1:], words, tokens, 4, 2)
            with self.at(around):
                for i, (x, statistic) in enumerate(zip((q, k), known)):
                    made[i] = self.kernel(made[i], x, statistic)
            packed = made[:1] if len(parts) == 1 else made[:2]
            return [self.view(grad, part.shape) for grad, part in zip(packed, parts)]

        return self.record(parts, y, pull)

    def attention_backward(self, q, k, v, heads, g):
        batch, tokens, width = q.shape
        words, one = k.shape[1], width // heads
        q, k, v, g = (self.heads(x, heads) for x in (q, k, v, g))
        square, of_words = (batch, heads, tokens, words), (batch, heads, words, one)
        logits = self.each(self.scores(q, k))
        # Computed again: no part of the model's FLOPs.
        self.ops[-2].model = 0
        weights = self.cast(self.softmax(self.cast(logits, F32)), q.size)
        product = lambda a, b, m, n, k, shape: self.matmul(a, b, batch * heads, m, n, k, shape)
        v_grad = product(weights, self.copy(g), words, one, tokens, of_words)
        weights_grad = product(self.copy(g), self.copy(v), tokens, words, one, square)
        along = self.row(self.each(weights_grad, weights))
        logits_grad = self.each(self.each(weights, self.each(weights_grad, along)))
        q_grad = product(logits_grad, self.copy(k), tokens, one, words, q.shape)
        k_grad = product(logits_grad, self.copy(q), words, one, tokens, of_words)
        return [self.join(x) for x in (q_grad, k_grad, v_grad)]

    def top_k(self, scores, taken):
        batch, experts, tokens = scores.shape
        chosen = Tensor((batch, experts, taken), INT)
        if self.own:
            return self.op("own", [self.copy(scores)], [chosen])
        scores = self.each(self.each(scores), scores)
        pairs = self.expand(scores, (batch, experts, tokens, tokens))
        before = self.each(self.each(pairs, pairs, size=1), self.each(self.each(pairs, pairs, size=1)))
        rank = self.op("row", [self.each(before, size=INT)], [Tensor(scores.shape, INT)])
        return self.view(self.scatter(scores.shape, rank, scores, 2), chosen.shape)

    def experts(self, x, weights, chosen, w1, w2, again):
        batch, tokens, dim = x.shape
        experts, _, hidden = w1.shape
        taken = chosen.shape[2]
        rows = batch * taken
        products, moves, pointwise = self.part, "experts: gather and scatter", "experts: GELU and weights"
        by_sample, by_expert = (batch, experts * taken, dim), (experts, rows, dim)
        product = lambda a, b, m, n, k, size=None: self.matmul(a, b, experts, m, n, k, (experts, m, n), size)
        places = self.expand(chosen, by_sample)

        def taken_from(x):
            with self.at(moves):
                return self.copy(self.gather(x, places, by_sample), by_expert)

        def gelu(x):
            return self.kernel(x) if self.own else self.each(self.each(x, self.times(3, x)))

        def gelu_slope(x):
            bell = self.times(3, self.each(x, x))
            return self.each(self.times(4, x), self.each(x, bell))

        with self.at(pointwise):
            counts = self.cast(weights, x.size)
        narrow1 = self.weight(w1, x.size)
        narrow2 = self.weight(w2, x.size)
        inner = product(taken_from(x), narrow1, rows, hidden, dim)
        with self.at(pointwise):
            active = gelu(inner)
        made = product(active, narrow2, rows, dim, hidden)
        with self.at(moves):
            back = self.copy(made, by_sample)
        with self.at(pointwise):
            weighed = self.each(back, self.view(counts, (batch, experts * taken, 1)))
        with self.at(moves):
            y = self.scatter(x.shape, places, weighed)

        def pull(g):
            with self.at(pointwise):
                counts = self.cast(weights, x.size)
            narrow1, narrow2 = self.weight(w1, x.size), self.weight(w2, x.size)
            with self.at(pointwise):
                counts = self.copy(self.view(counts, by_sample[:2] + (1,)), by_expert[:2] + (1,))
            grad = taken_from(g)
            if not self.own:
                with self.at(pointwise):
                    active = gelu(inner)
            back = product(grad, narrow2, rows, hidden, dim)
            with self.at(pointwise):
                if self.own:
                    made = [Tensor(inner.shape, inner.size), Tensor(inner.shape, inner.size), Tensor(by_expert[:2] + (1,), x.size)]
                    self.op("own", [inner, back, counts], made)
                    active, inner_grad, counts_grad = made
                else:
                    counts_grad = self.row(self.each(back, active))
                    inner_grad = self.each(self.each(back, counts), gelu_slope(inner))
                weighed = self.each(grad, counts)
            size = F32 if self.lean else None
            w2_grad = product(active, weighed, hidden, dim, rows, size)
            w1_grad = product(taken_from(again()), inner_grad, dim, hidden, rows, size)
            x_grad = product(inner_grad, narrow1, rows, dim, hidden)
            with self.at(moves):
                x_grad = self.scatter(x.shape, places, self.copy(x_grad, by_sample))
            with self.at(pointwise):
                counts_grad = self.cast(self.copy(counts_grad, weights.shape), F32)
            return [x_grad, counts_grad, self.widen(w1_grad), self.widen(w2_grad)]

        return self.record([x, weights, w1, w2], y, pull)


# nn/ and net/dit/.


def round_up(value, multiple):
    return math.ceil(value / multiple) * multiple


def multipliers(scale, depth):
    ((kind, value),) = scale.items()
    if kind == "Constant":
        return [value] * depth
    if kind == "Linear":
        step = (value["to"] - value["from"]) / max(depth - 1, 1)
        return [value["from"] + i * step for i in range(depth - 1)] + [value["to"] if depth > 1 else value["from"]]
    if kind == "Steps":
        run = max(depth // len(value), 1)
        return [value[min(i // run, len(value) - 1)] for i in range(depth)]
    return value


class Block:
    def __init__(self, config, dim, qkv, ffn, moe):
        self.dim, self.condition, self.moe = dim, config["dim"], moe
        self.width = dim if qkv == 1.0 else round_up(int(dim * qkv), 2 * config["head_dim"])
        self.heads, self.cross_heads = self.width // config["head_dim"], dim // config["head_dim"]
        hidden = int(dim * ffn) if moe else int(2 * int(dim * ffn) / 3)
        self.hidden = round_up(hidden, config["multiple_of"])


def blocks_of(config):
    depth, moe, mixer = config["depth"], config["moe"], config["mixer"]
    widths = zip(multipliers(config["qkv_width"], depth), multipliers(config["ffn_width"], depth))
    backbone = [
        Block(config, config["dim"], qkv, ffn, moe if (i + 1) % moe["every"] == 0 and i + 1 != depth else None)
        for i, (qkv, ffn) in enumerate(widths)
    ]
    mixed = [
        Block(config, mixer["dim"], mixer["qkv_ratio"], mixer["mlp_ratio"], moe if (i + 1) % moe["every"] == 0 and i else None)
        for i in range(mixer["depth"])
    ]
    return mixed, backbone


def linear(t, x, out, bias=False, size=BF16, again=None):
    """`Linear::compute`."""
    w = t.param(out, x.shape[-1])
    return t.project(t.enter(x, size), w, t.param(out) if bias else None, again)


def forward(t, x, out, bias=False, size=BF16):
    """`Linear::forward`."""
    return t.enter(linear(t, x, out, bias, size), F32)


def self_attention(t, x, block):
    with t.at("self-attention: projections"):
        qkv = linear(t, x, 3 * block.width)
    with t.at("self-attention: scores and values"):
        q, k, v = (t.view(qkv, qkv.shape[:2] + (block.width,)) for _ in range(3))
        y = t.attend(q, k, v, block.heads, [qkv])
    with t.at("self-attention: projections"):
        return linear(t, y, block.dim)


def cross_attention(t, x, captions, block):
    with t.at("cross-attention: projections"):
        # `Linear::compute_shared`.
        q, kv = linear(t, x, block.dim), linear(t, captions, 2 * block.dim, again=lambda: t.cast(captions, BF16))
    with t.at("cross-attention: scores and values"):
        k, v = (t.view(kv, kv.shape[:2] + (block.dim,)) for _ in range(2))
        y = t.attend(q, k, v, block.cross_heads, [q, kv])
    with t.at("cross-attention: projections"):
        return linear(t, y, block.dim)


def swiglu(t, x, block):
    with t.at("feed-forward: products"):
        x = t.enter(x, BF16)
        gate, value = linear(t, x, block.hidden), linear(t, x, block.hidden)
    with t.at("feed-forward: SwiGLU"):
        y = t.swiglu(gate, value)

    def again():
        with t.at("feed-forward: SwiGLU"):
            return t.gated(gate, value)

    with t.at("feed-forward: products"):
        return linear(t, y, block.dim, again=again)


def expert_choice(t, x, block):
    batch, tokens, dim = x.shape
    experts = block.moe["experts"]
    taken = int(block.moe["capacity"] * tokens / experts)
    w1, w2 = t.param(experts, dim, block.hidden), t.param(experts, block.hidden, dim)
    with t.at("experts: routing"):
        scores = forward(t, x, experts, size=F32)
        shape = scores.shape
        most = t.row(scores)
        raised = t.each(t.each(scores, most))
        total = t.row(raised)
        chances = t.each(raised, total)

        def pull(g):
            # Of the division, the sum and the exponential, one node each.
            of_raised = t.each(g, t.each(total))
            of_total = t.row(t.each(t.each(raised), t.each(g, t.times(2, total))))
            return [t.each(t.each(of_raised, of_total), raised)]

        t.record([scores], chances, pull)
        swapped = t.reshape(chances, (batch, experts, tokens))
        chosen = t.top_k(swapped, taken)
        weights = t.gather(swapped, chosen, chosen.shape)
        t.record([swapped], weights, lambda g: [t.scatter(swapped.shape, chosen, g, 2)])
    with t.at("experts: products"):
        return t.experts(t.enter(x, BF16), weights, chosen, w1, w2, lambda: t.cast(x, BF16))


ADAPTIVE = "norms, gates, residuals"


def dit_block(t, x, captions, vector, block):
    batch = vector.shape[0]
    with t.at("modulation"):
        # Biased, in f32.
        all_six = forward(t, t.tanh_gelu(vector), 6 * block.dim, bias=True, size=F32)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = t.split(all_six, 6)
    with t.at(ADAPTIVE):
        normed = t.modulated_norm(x, t.param(block.dim), shift, scale)
        entered = t.enter(normed, BF16)
    attended = self_attention(t, entered, block)
    with t.at(ADAPTIVE):
        x = t.gated_residual(x, attended, gate)
        normed = t.enter(t.norm(x), BF16)
    updated = cross_attention(t, normed, captions, block)
    with t.at(ADAPTIVE):
        x = t.residual(x, updated)
        modulated = t.modulated_norm(x, t.param(block.dim), mlp_shift, mlp_scale)
    with t.at(ADAPTIVE):
        fed = expert_choice(t, modulated, block) if block.moe else swiglu(t, modulated, block)
        return t.gated_residual(x, fed, mlp_gate)


def caption_block(t, x, block):
    with t.at("captions and time"):
        x = t.residual(x, self_attention(t, t.enter(t.norm(x), BF16), block))
        return t.residual(x, swiglu(t, t.enter(t.norm(x), BF16), block))


def mlp(t, x, dim):
    hidden = t.tanh_gelu(forward(t, x, dim, bias=True))
    return forward(t, t.norm(hidden), dim, bias=True)


def mapped(t, x, dim):
    """`Projection::forward`."""
    return forward(t, t.norm(x), dim)


def drop_tokens(t, x, places, kept):
    if places is None:
        return x
    shape = (x.shape[0], kept, x.shape[2])
    at = t.expand(places, shape)
    y = t.gather(x, at, shape)
    return t.record([x], y, lambda g: [t.scatter(x.shape, at, g)])


def micro_batch(t, config, batch, side, ratio):
    """Forward and backward: task/denoise.rs, net/dit/segments.rs. Returns the gradients' bytes, which the optimizer reads."""
    dim, mixer = config["dim"], config["mixer"]["dim"]
    grid = side // config["patch_size"]
    tokens = grid * grid
    kept = int(tokens * (1 - ratio))
    patch = config["patch_size"] ** 2 * config["in_channels"]
    image = (batch, config["in_channels"], side, side)
    mixer_blocks, blocks = blocks_of(config)
    with t.at("patches, mask, loss", "ends"):
        clean, noise = t.upload(image), t.upload(image)
        captions = t.upload((batch, WORDS, config["caption_channels"]))
        captions = t.each(captions, t.upload((batch, 1, 1)))
        # 64-bit indices on the host, 32-bit on the device.
        places = t.upload((batch, kept, 1), INT) if kept < tokens else None
        columns = [t.upload((batch, 1, 1, 1)) for _ in range(4)]
        noisy = t.each(t.each(t.each(clean, columns[0]), t.each(noise, columns[1])), columns[2])
        time = t.upload((batch, 1))
    with t.at("captions and time", "captions"):
        words = caption_block(t, mlp(t, captions, dim), Block(config, dim, 1.0, 4.0, None))
        mean = t.column(words, 1)
        t.record([words], mean, lambda g: [t.each(t.view(g, words.shape, g.n))])
        angles = t.each(time, t.upload((1, TIME_CHANNELS // 2)), shape=(batch, TIME_CHANNELS // 2))
        sinusoids = t.cat([t.each(angles), t.each(angles)], 1)
        moment = forward(t, t.tanh_gelu(forward(t, sinusoids, dim, bias=True)), dim, bias=True)
        pooled = mlp(t, mean, dim)
        vector = t.record([pooled, moment], t.each(pooled, moment), lambda g: [g, g])
    with t.at("patches, mask, loss", "ends"):
        flat = t.copy(noisy, (batch, tokens, patch))
        # A weight of four dimensions that is seen as a matrix; the product is in f32.
        embedded = t.project(flat, t.param(dim, patch), t.param(dim))
        positions = t.cat([Tensor((1, tokens, dim // 2), F32) for _ in range(2)], 2)
        x = t.record([embedded], t.each(embedded, positions), lambda g: [g])
    with t.at("maps between widths", "mixer"):
        x, mixer_words = mapped(t, x, mixer), mapped(t, words, mixer)
    for block in mixer_blocks:
        with t.at(where="mixer"):
            x = dit_block(t, x, mixer_words, vector, block)
    with t.at("patches, mask, loss", "ends"):
        x = drop_tokens(t, x, places, kept)
    with t.at("maps between widths", "mixer"):
        x = mapped(t, x, dim)
    for block in blocks:
        with t.at(where="backbone"):
            x = dit_block(t, x, words, vector, block)
    with t.at("patches, mask, loss", "ends"):
        shift, scale = t.split(forward(t, t.tanh_gelu(vector), 2 * dim, bias=True, size=F32), 2)
        y = forward(t, t.modulated_norm(x, t.param(dim), shift, scale), patch, bias=True)
        target = t.each(t.each(clean, columns[0]), t.each(noise, columns[1]))
        target = t.copy(target, (batch, tokens, patch))
        if places is not None:
            target = t.gather(target, t.expand(places, y.shape), y.shape)
        error = t.each(y, target)
        mean = t.column(t.row(t.each(error, error)), 1)
        loss = t.record([y], t.each(mean, columns[3]), lambda g: [t.times(3, t.each(error, g))])
        t.column(loss, 0)
        grads = t.backward(loss, t.each(loss))
        return [grads[param.node] for param in t.params]


def optimizer(t, grads, parts, ema):
    """trainer/steps.rs and optim/mod.rs, once a step of `parts` micro-batches, of which all but one are added to the sum."""
    t.phase = "optimizer"
    params = [t.view(param, param.shape) for param in t.params]
    grads = [Tensor(grad.shape, F32, grad.buffer) for grad in grads]
    with t.at("gradients added up over micro-batches", "optimizer"):
        for _ in range(parts - 1):
            grads = [t.op("kernel", [grad, Tensor(grad.shape, F32)], [Tensor(grad.shape, F32)]) for grad in grads]
    with t.at("norm of the gradients", "optimizer"):
        if t.fuse:
            squares = [t.op("row", [grad], [Tensor((1,), F32)]) for grad in grads]
        else:
            squared = [t.op("kernel", [grad], [Tensor(grad.shape, F32)]) for grad in grads]
            squares = [t.op("row", [square], [Tensor((1,), F32)]) for square in squared]
        # Added up for the norm that is logged, and for that of what is clipped by it.
        for square in (1 if t.lean else 2) * squares[1:]:
            t.op("kernel", [square, squares[0]], [Tensor((1,), F32)])
        for _ in range(8):
            t.op("kernel", [squares[0]], [Tensor((1,), F32)])
    with t.at("AdamW", "optimizer"):
        # In place by the kernel of ops/cube; of 18 composed operations, fusion at its best makes the same one.
        for param, grad in zip(params, grads):
            first, second, new = (Tensor(param.shape, F32) for _ in range(3))
            state = [param, grad, first, second]
            # With the copy that products take, where it is written here and not rounded at every use.
            more = [Tensor(param.shape, BF16)] if t.lean else []
            t.op("own" if t.own else "kernel", state, [new, Tensor(param.shape, F32), Tensor(param.shape, F32), *more])
    if ema:
        with t.at("EMA", "optimizer"):
            for param in params:
                average = Tensor(param.shape, F32)
                if t.fuse:
                    t.op("kernel", [average, param], [Tensor(param.shape, F32)])
                else:
                    scaled = [t.op("kernel", [x], [Tensor(x.shape, F32)]) for x in (average, param)]
                    t.op("kernel", scaled, [Tensor(param.shape, F32)])


# From operations to kernels.


class Kernel:
    __slots__ = ("part", "where", "phase", "kind", "flops", "model", "bytes", "ideal", "assumed")


class Group:
    """Elementwise operations over as many elements, and the sums over rows among them, in one kernel."""

    def __init__(self, n):
        self.n, self.ops, self.made, self.small, self.summed = n, [], set(), set(), set()


def groups_of(ops):
    """The best that fusion can do: every run of elementwise operations between two other kernels is one kernel for each size."""
    done, open_groups = [], {}

    def close(group):
        done.append(group)
        del open_groups[group.n]

    for op in ops:
        if op.kind == "upload":
            done.append(op)
            continue
        if op.kind not in ("each", "row", "column"):
            for group in list(open_groups.values()):
                close(group)
            done.append(op)
            continue
        n = max(x.n for x in op.ins + op.outs)
        # What follows from a row's sums stays with the row.
        home = next((g for g in open_groups.values() if any(x.buffer in g.small for x in op.ins) and n < g.n), None)
        home = home or open_groups.get(n)
        for group in list(open_groups.values()):
            foreign = group is not home and any(x.buffer in group.made for x in op.ins)
            if foreign or any(x.buffer in group.summed for x in op.ins):
                close(group)
                home = None if group is home else home
        if home is None:
            home = open_groups.get(n)
            if home is None:
                home = open_groups[n] = Group(n)
        home.ops.append(op)
        for out in op.outs:
            home.made.add(out.buffer)
            if op.kind == "column":
                home.summed.add(out.buffer)
            elif out.n < home.n:
                home.small.add(out.buffer)
    for group in list(open_groups.values()):
        close(group)
    return done


def kernels(ops, fuse, rates):
    """Every kernel with its bytes and times."""
    used = {}
    for i, op in enumerate(ops):
        for x in op.ins:
            used.setdefault(x.buffer, []).append(i)
    index = {id(op): i for i, op in enumerate(ops)}
    for item in groups_of(ops) if fuse else ops:
        kernel = Kernel()
        first = item.ops[0] if isinstance(item, Group) else item
        kernel.part, kernel.where, kernel.phase = first.part, first.where, first.phase
        kernel.flops = kernel.model = 0
        if isinstance(item, Group):
            # The widest operation says what the kernel is for.
            first = max(item.ops, key=lambda op: sum(x.bytes for x in op.ins + op.outs))
            kernel.part, kernel.where, kernel.kind = first.part, first.where, "elementwise"
            own = {index[id(op)] for op in item.ops}
            read = {x.buffer: x for op in item.ops for x in op.ins if x.buffer not in item.made}
            for op in item.ops:
                for x in op.ins:
                    if x.buffer in read and x.bytes > read[x.buffer].bytes:
                        read[x.buffer] = x
            written = [x for op in item.ops for x in op.outs if any(i not in own for i in used.get(x.buffer, [-1]))]
            kernel.bytes = sum(x.bytes for x in read.values()) + sum(x.bytes for x in written)
        else:
            kernel.kind = KINDS.get(item.kind, item.kind)
            kernel.flops, kernel.model = item.flops, item.model
            if item.moved is not None:
                kernel.bytes = item.moved
            else:
                kernel.bytes = sum({x.buffer: x.bytes for x in item.ins}.values()) + sum(x.bytes for x in item.outs)
        peak = BF16_RATE if isinstance(item, Group) else item.peak
        if kernel.kind == "upload":
            kernel.ideal = kernel.assumed = item.outs[0].bytes / PCIE
            yield kernel
            continue
        memory = 1e12 * rates.bandwidth
        kernel.ideal = max(kernel.flops / peak, kernel.bytes / memory)
        busy = kernel.flops
        if not isinstance(item, Group) and item.tiles:
            # The last wave of tiles leaves SMs idle, and the sum over `k` is not divided among SMs.
            tiles, flops = item.tiles
            busy = math.ceil(tiles / SMS) * SMS * flops
        least = rates.kernel + (0 if isinstance(item, Group) else item.turns * rates.latency)
        share = rates.scalar if peak == F32_RATE else rates.matmul
        kernel.assumed = max(busy / (peak * share), kernel.bytes / (memory * rates.memory), least * 1e-6)
        yield kernel


def step(case, variant, rates):
    """Kernels of all micro-batches of a step, as (kernel, how often), and the trace's parameters and FLOPs."""
    tape = Tape(VARIANTS[variant])
    grads = micro_batch(tape, case["config"], case["micro"], case["side"], case["ratio"])
    cut = len(tape.ops)
    optimizer(tape, grads, case["parts"], case["ema"])
    found = []
    for kernel in kernels(tape.ops[:cut], tape.fuse, rates):
        found.append((kernel, case["parts"]))
    found += [(kernel, 1) for kernel in kernels(tape.ops[cut:], False, rates)]
    parameters = sum(param.n for param in tape.params)
    return found, parameters


class Sum:
    def __init__(self, found=()):
        self.launches = self.flops = self.model = self.bytes = self.ideal = self.assumed = 0
        for kernel, times in found:
            self.launches += times * (kernel.kind != "upload")
            self.flops += times * kernel.flops
            self.model += times * kernel.model
            self.bytes += times * kernel.bytes
            self.ideal += times * kernel.ideal
            self.assumed += times * kernel.assumed


def plan(arguments):
    if arguments.plan:
        return json.loads(arguments.plan.read_text())
    command = [arguments.binary, "plan", "microdit-xl2", "--json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, cwd=ROOT).stdout)


def cases(arguments):
    config = json.loads(arguments.network.read_text()) if arguments.network else XL_2
    found = {}
    for stage in plan(arguments)["stages"]:
        name = stage["name"]
        if name not in STAGES or arguments.stage not in (None, name):
            continue
        side, ratio = STAGES[name]
        micro = arguments.micro or stage["memory"]["micro_batch"]
        images = arguments.images or stage["batch"] // GPUS_OF_A_MACHINE
        parts = math.ceil(images / micro)
        case = dict(config=config, side=side, ratio=ratio, micro=micro, parts=parts, images=micro * parts)
        case["ema"] = stage["memory"]["averages"] > 0
        case["flop"], case["parameters"] = stage["flop_per_image"], stage["parameters"]
        found[name] = case
    return found


def check(name, case, found, parameters):
    """The trace is of the network that `microdit plan` describes."""
    model = Sum(found).model / case["images"]
    errors = []
    if parameters != case["parameters"]:
        errors.append(f"{parameters:,} parameters in the trace, {case['parameters']:,} in the plan")
    if abs(model / case["flop"] - 1) > 0.01:
        errors.append(f"{model / 1e9:.2f} GFLOP for an image in the trace, {case['flop'] / 1e9:.2f} in the plan")
    if errors:
        sys.exit(f"{name}: " + "; ".join(errors))
    return model


def tables(arguments):
    """Titles and tables."""
    found = {}
    for name, case in cases(arguments).items():
        for variant in VARIANTS:
            found[name, variant], parameters = step(case, variant, arguments)
            case["traced"] = check(name, case, found[name, variant], parameters)
        found[name, "case"] = case
    names = [name for name in STAGES if (name, "case") in found]
    yield "Cases", cases_table(found, names)
    yield "MFU, bound / assumed", bounds_table(found, names)
    yield "Launches, and the time the device takes for one", launches_table(found, names)
    for name in names:
        yield f"Parts, {name}", parts_table(found, name)
    yield f"Kernels, {names[0]}", kinds_table(found, names[0])
    yield "Share of the FLOPs, and time at the bound, `cuda` build", where_table(found, names)


def cases_table(found, names):
    head = "stage | micro-batches × images | GFLOP an image, plan | traced | a step's at the peak, ms"
    lines = [f"| {head} |", "|---|" + "---:|" * 4]
    for name in names:
        case = found[name, "case"]
        ideal = 1e3 * case["flop"] * case["images"] / BF16_RATE
        gflop = f"{case['flop'] / 1e9:.2f} | {case['traced'] / 1e9:.2f}"
        lines.append(f"| {name} | {case['parts']} × {case['micro']} | {gflop} | {ideal:.1f} |")
    return lines


def bounds_table(found, names):
    lines = ["| what runs | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    for variant in VARIANTS:
        cells = []
        for name in names:
            case, total = found[name, "case"], Sum(found[name, variant])
            work = case["flop"] * case["images"] / BF16_RATE
            cells.append(f"{100 * work / total.ideal:.1f} / {100 * work / total.assumed:.1f} %")
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    return lines


def launches_table(found, names):
    lines = ["| what runs | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    for variant in VARIANTS:
        sums = [Sum(found[name, variant]) for name in names]
        cells = (f"{sum.launches:,}, {1e6 * sum.assumed / sum.launches:.0f} µs" for sum in sums)
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    return lines


def grouped(found, key):
    sums = {}
    for kernel, times in found:
        sums.setdefault(getattr(kernel, key), []).append((kernel, times))
    return {name: Sum(parts) for name, parts in sums.items()}


def parts_table(found, name):
    """Each kind of operation, as the first build has it and as the best has it."""
    first, best = (grouped(found[name, variant], "part") for variant in (FIRST, BEST))
    ways = [FIRST, BEST]
    head = " | ".join(f"{way}: launches | GB | ms, bound | ms, assumed" for way in (FIRST, "best"))
    lines = [f"| operation | TFLOP | {head} |", "|---|---:|" + "---:|" * 4 * len(ways)]
    cell = lambda sum: f"{sum.launches:,} | {sum.bytes / 1e9:.1f} | {1e3 * sum.ideal:.2f} | {1e3 * sum.assumed:.2f}"
    for part in sorted(first.keys() | best.keys(), key=lambda part: -first.get(part, Sum()).ideal):
        one, two = (sums.get(part, Sum()) for sums in (first, best))
        lines.append(f"| {part} | {one.flops / 1e12:.2f} | {cell(one)} | {cell(two)} |")
    one, two = (Sum(found[name, way]) for way in ways)
    lines.append(f"| **sum** | {one.flops / 1e12:.2f} | {cell(one)} | {cell(two)} |")
    return lines


def kinds_table(found, name):
    """By what a profiler calls the kernels."""
    first, best = (grouped(found[name, variant], "kind") for variant in (FIRST, BEST))
    head = " | ".join(f"{way}: launches | GB | ms, bound | ms, assumed" for way in (FIRST, "best"))
    lines = [f"| kernels | {head} |", "|---|" + "---:|" * 8]
    for kind in sorted(first.keys() | best.keys(), key=lambda kind: -first.get(kind, Sum()).ideal):
        cells = []
        for sums in (first, best):
            sum = sums.get(kind, Sum())
            cells.append(f"{sum.launches:,} | {sum.bytes / 1e9:.1f} | {1e3 * sum.ideal:.2f} | {1e3 * sum.assumed:.2f}")
        lines.append(f"| {kind} | {cells[0]} | {cells[1]} |")
    return lines


def where_table(found, names):
    lines = ["| part of the network | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    sums = {name: grouped(found[name, FIRST], "where") for name in names}
    for where in ("mixer", "backbone", "captions", "ends", "optimizer"):
        cells = []
        for name in names:
            total, sum = Sum(found[name, FIRST]), sums[name].get(where, Sum())
            cells.append(f"{100 * sum.model / total.model:.0f} % / {1e3 * sum.ideal:.1f} ms")
        lines.append(f"| {where} | " + " | ".join(cells) + " |")
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/debug/microdit")
    parser.add_argument("--plan", type=pathlib.Path, help="output of `microdit plan microdit-xl2 --json`, in place of running it")
    parser.add_argument("--network", type=pathlib.Path, help="sizes as JSON, in place of XL/2's")
    parser.add_argument("--stage", choices=STAGES, help="one of the four alone")
    parser.add_argument("--micro", type=int, help="images computed at once, in place of the recipe's")
    parser.add_argument("--images", type=int, help="images of a step on one GPU, in place of an eighth of the recipe's batch")
    parser.add_argument("--bandwidth", type=float, default=3.35, help="TB/s of the memory; an H200 has 4.8")
    parser.add_argument("--matmul", type=float, default=0.6, help="share of the peak a full product is assumed to reach")
    parser.add_argument("--scalar", type=float, default=0.5, help="share of the peak in f32 that attention is assumed to reach")
    parser.add_argument("--memory", type=float, default=0.8, help="share of the bandwidth other kernels are assumed to reach")
    parser.add_argument("--kernel", type=float, default=3.0, help="microseconds a kernel is assumed to take at least")
    parser.add_argument("--latency", type=float, default=0.6, help="microseconds assumed for a turn of a thread that waits for memory")
    parser.add_argument("--check", type=pathlib.Path, help="fail unless this page has every table as it is printed")
    arguments = parser.parse_args()
    page = arguments.check and arguments.check.read_text()
    for title, lines in tables(arguments):
        text = "\n".join(lines)
        if page is None:
            print(f"{title}:\n\n{text}\n")
        elif text not in page:
            sys.exit(f"{arguments.check}: the table {title!r} is not what the script prints")


if __name__ == "__main__":
    main()
