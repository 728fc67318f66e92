"""ONNX's own tests of its operators, through importer and engine, forward and backward.

Every test whose operators are all in OPERATORS runs, with each choice of which inputs come at run time (all
float ones, then each alone; the others are initialisers). A test passes if its first input may be at run time
and every accepted choice gives the right outputs and the right gradient. It may be refused only for
a reason in REFUSED, and differ only as DIFFERENT says.

FORWARD: the expected outputs are float32 themselves and sums are ordered differently; ONNX's own bound (1e-3 of
each element) would hide a wrong epsilon or a wrong padding count, so it is 1e-4 of the greatest.
"""
import collections
import concurrent.futures
import dataclasses
import os
import pathlib
import re
import subprocess
import tempfile

import numpy as np
import onnx
import pytest

import cli
import node_cases
import node_slopes

FORWARD = 1e-4              # of the greatest expected value
GRADIENT = 1e-4             # of the greatest slope along any tested direction
SMALLEST = 1e-6             # absolute, both
# Where onnx has no reference in float64, gradients are compared with differences of the engine's own float32
# outputs: relative rounding 1e-7, some of it added up, over this step.
OWN_STEP, OWN_GRADIENT = 1e-2, 2e-2

# Every value is a float32 here. Where the model says half or bfloat16, the expected ones are rounded more.
ROUNDED = {onnx.TensorProto.FLOAT16: 1e-3, onnx.TensorProto.BFLOAT16: 8e-3}

OPERATORS = set("""
    Abs Add And AveragePool BatchNormalization Cast Ceil Celu Clip Concat Constant ConstantOfShape Conv
    ConvTranspose DepthToSpace DequantizeLinear Div Dropout Elu Equal Erf Exp Expand Flatten Floor Gather
    Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GroupNormalization HardSigmoid HardSwish
    Identity InstanceNormalization LRN LayerNormalization LeakyRelu Less Log LogSoftmax LpPool MatMul Max
    MaxPool Mean MeanVarianceNormalization Min Mish Mul Neg Not Or PRelu Pad Pow QuantizeLinear Range
    Reciprocal ReduceL1 ReduceL2 ReduceMax ReduceMean ReduceMin ReduceSum ReduceSumSquare Relu Reshape
    Resize Selu Shape Sigmoid Sign Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub
    Sum Tanh ThresholdedRelu Tile Transpose Unsqueeze Upsample Where
""".split())

# Their outputs are known at load, whatever their inputs are.
KNOWN_AT_LOAD = {"Constant", "ConstantOfShape", "Range", "Shape", "Size"}

# With the tests of another release, rows may be left over.
TABLES_ARE_EXACT = onnx.__version__.startswith("1.16.")

TOOL = os.environ.get("PG_RUN_MODEL", str(pathlib.Path(cli.binary()).parent / "tests/run_model"))
# The float inputs (of the operator) that have to be constant in one test or more.
CONSTANT = {
    "BatchNormalization": [1, 2, 3, 4], "Clip": [1, 2], "Conv": [1], "ConvTranspose": [1],
    "DequantizeLinear": [1], "Dropout": [1], "GroupNormalization": [1, 2],
    "InstanceNormalization": [1, 2], "LayerNormalization": [1, 2], "Pad": [2], "Range": [0, 1, 2],
    "Resize": [1, 2], "Upsample": [1],
}

# What may be refused: the tests, a part of the sentence, and why.
REFUSED = [
    (r"cast(like)?_.*FLOAT8.*|(de)?quantizelinear_e[45]m[23].*", "element type", "8-bit floats"),
    (r"cast_.*_to_U?INT4|quantizelinear_u?int4", "element type", "rounding to 4 bits"),
    (r"reduce_.*_empty_set.*", "", "reducing nothing"),
    (r"constantofshape_int_shape_zero.*|reshape_allowzero_reordered.*|split_zero_size_splits.*|"
     r"slice_start_out_of_bounds", "", "an empty result"),
    (r"training_dropout.*|batchnorm_.*_training_mode", "training mode", "training"),
    (r"(de)?quantizelinear_blocked.*", "number or list", "a scale per block"),
    (r"maxpool_2d_uint8", "integers", "pooling integers"),
    (r"convtranspose_3d", "3-D", "transposed convolution of volumes"),
]

# What knowingly differs from ONNX's data or reference, in the same form.
DIFFERENT = [
    (r"averagepool_3d_.*_count_include_pad_is_1_ceil_mode_is_True", "output y",
     "an average over the overhang of the last window: as torch and ONNX Runtime, not as ONNX 1.16"),
    (r"resize_downsample_scales_(linear|cubic)_align_corners.*", "output Y",
     "align_corners by the whole length of the result: as torch and ONNX Runtime"),
    (r"quantizelinear.*", "gradient by input 0", "the gradient goes straight through rounding"),
    (r"pow_types_(float|int\d+_float32)", "gradient by input 1",
     "an integer base would round the power; every value is a float here"),
]

MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None  # thousands of small files


# ---- one run of the engine ----


class Refused(Exception):
    pass


class Wrong(Exception):
    pass


def run(wrapped, values, seed):
    """Outputs and gradient of each input at run time {number: flat array}."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        at = [f"{folder}/{name}" for name in ("model.onnx", "x.npy", "seed.npy", "y.npy", "d_x.npy")]
        onnx.save(wrapped.model, at[0])
        np.save(at[1], wrapped.image(values))
        np.save(at[2], np.append(seed, np.float32(0)))
        result = subprocess.run([TOOL, *at], capture_output=True, text=True, timeout=60,
                                env={**os.environ, "OMP_NUM_THREADS": "1"})
        if result.returncode == 3:
            raise Refused(result.stderr.strip().removeprefix(at[0] + ": "))
        if result.returncode:
            raise Wrong(f"exit status {result.returncode}: {result.stderr.strip()[-300:]}")
        d_image = np.load(at[4]).astype(np.float64).ravel()
        return (np.load(at[3]).astype(np.float64).ravel()[:-1],
                {i: d_image[piece] for i, piece in wrapped.pieces.items()})


# ---- comparing ----


def error(got, expected):
    """Greatest difference, relative to the greatest finite expected value. Infinities and NaN have to be
    the same."""
    with np.errstate(invalid="ignore"):
        off = np.abs(got - expected)
    off[(got == expected) | (np.isnan(got) & np.isnan(expected))] = 0
    off[np.isnan(off)] = np.inf
    scale = np.max(np.abs(expected), initial=0, where=np.isfinite(expected))
    return np.max(np.maximum(off - SMALLEST, 0), initial=0) / (scale or 1)


def rounding(case):
    return max(ROUNDED.get(t, 0) for t in case.types())


def check_outputs(case, got):
    at = 0
    for info, y in zip(case.model.graph.output, case.outputs):
        off = error(got[at:at + y.size], np.ravel(y).astype(np.float64))
        if not off <= FORWARD + rounding(case):
            raise Wrong(f"output {info.name} is off by {off:.1e}")
        at += y.size


def gradient_error(slopes, gradient):
    """Greatest difference along the smooth directions, relative to the greatest slope."""
    got = slopes.directions @ gradient
    off = np.abs(got - slopes.values)[slopes.smooth]
    scale = np.max(np.abs(slopes.values), initial=0, where=slopes.smooth)
    return np.max(np.maximum(off - SMALLEST, 0), initial=0) / (scale or 1)


# ---- one case ----


@dataclasses.dataclass
class Result:
    case: node_cases.Case
    status: str = "refused"  # passed, refused, different
    reason: str = ""
    constant: tuple = ()     # float inputs that had to be initialisers
    own: str = ""            # why the engine's own outputs had to judge its gradient
    first_only: bool = False  # only its first output was looked at
    judged: int = 0          # directions of the gradient that were compared
    skipped: int = 0         # directions with a kink


class Examination:
    """Runs one case with every choice of inputs at run time."""

    def __init__(self, case):
        self.case, self.result, self.slopes = case, Result(case), {}
        try:
            self.reference = node_slopes.reference(case)
            off = error(self.reference(case.inputs), node_cases.logits_of(case.outputs))
            if not off <= FORWARD + rounding(case):
                raise node_slopes.NoReference(f"its outputs are off by {off:.1e}")
        except node_slopes.NoReference as why:
            self.reference, self.result.own = None, str(why)

    def choices(self):
        """All that can be at run time, all floats, each float alone, nothing."""
        floats, bools = self.case.floats(), self.case.bools()
        found = [floats + bools, floats, *([i] for i in floats), []]
        return [c for k, c in enumerate(found) if c not in found[:k]]

    def counts(self, choice):
        """True if being accepted with this choice means that the operator runs."""
        known = 0 not in self.case.floats() or set(self.case.operators) <= KNOWN_AT_LOAD
        return known or 0 in choice

    def check(self, choice):
        wrapped = node_cases.wrap(self.case, choice)
        if self.reference:
            here = node_slopes.Differences(self.case, self.reference)
        else:
            here = node_slopes.Differences(self.case, self.own_outputs(wrapped), OWN_STEP, OWN_GRADIENT)
        got, gradients = run(wrapped, here.inputs, here.seed)
        check_outputs(self.case, got)
        for i in choice:
            if i in self.case.bools():
                if np.any(gradients[i]):
                    raise Wrong(f"it has a gradient by boolean input {i}")
            elif not self.check_gradient(("here", i), here, gradients[i]):
                self.check_nearby(wrapped, here.moved(i, .01), i)

    def check_either_way(self, choice):
        try:
            self.check(choice)
        except node_slopes.NoReference as why:
            self.reference, self.slopes, self.result.own = None, {}, str(why)
            self.check(choice)

    def own_outputs(self, wrapped):
        seed = np.zeros(wrapped.classes - 1, np.float32)
        return lambda inputs: run(wrapped, inputs, seed)[0]

    def check_gradient(self, point, truth, gradient):
        """False if most directions meet a kink here; then nothing has been compared."""
        i = point[1]
        if point not in self.slopes:
            self.slopes[point] = truth.slopes(i)
            self.result.judged += int(self.slopes[point].smooth.sum())
            self.result.skipped += int((~self.slopes[point].smooth).sum())
        slopes = self.slopes[point]
        if slopes.smooth.mean() <= .5:
            return False
        off = gradient_error(slopes, gradient)
        if not off <= (GRADIENT if self.reference else OWN_GRADIENT):
            raise Wrong(f"the gradient by input {i} is off by {off:.1e}")
        return True

    def check_nearby(self, wrapped, truth, i):
        _, gradients = run(wrapped, truth.inputs, truth.seed)
        if self.check_gradient(("nearby", i), truth, gradients[i]):
            return
        if self.reference:
            raise node_slopes.NoReference("it has jumps everywhere")
        raise Wrong(f"the gradient by input {i} cannot be judged")

    def run(self):
        reasons, accepted, result = {}, [], self.result
        for choice in self.choices():
            try:
                self.check_either_way(choice)
                accepted.append(choice)
            except Refused as why:
                reasons[tuple(choice)] = str(why)
            except Wrong as why:
                result.status, result.reason = "different", f"{why} (at run time: {choice})"
                return result
        if any(map(self.counts, accepted)):
            result.status = "passed"
            result.constant = tuple(i for i in self.case.floats() if not any(i in c for c in accepted))
        else:
            result.reason = reasons[tuple([c for c in self.choices() if self.counts(c)][-1])]
        return result


def examine(case):
    """The result of the case; where the engine refuses several outputs, of the first."""
    result = Examination(case).run()
    if result.status == "refused" and len(case.outputs) > 1:
        result = dataclasses.replace(Examination(node_cases.first_output(case)).run(), first_only=True)
    return result


# ---- all cases ----


def foreseen(rows, result):
    """The row that foresees this result, or None."""
    name = result.case.name.removeprefix("test_")
    return next((row for row in rows if re.fullmatch(row[0], name) and row[1] in result.reason), None)


def names(results):
    return " ".join(sorted({r.case.name.removeprefix("test_") for r in results}))


def constants(results):
    """{operator: its float inputs that were not taken at run time}, of the cases with a single node."""
    found = collections.defaultdict(set)
    for r in results:
        graph = r.case.model.graph
        if r.status == "passed" and len(graph.node) == 1:
            given = list(graph.node[0].input)
            found[graph.node[0].op_type].update(given.index(graph.input[i].name) for i in r.constant)
    return {operator: sorted(inputs) for operator, inputs in found.items() if inputs}


def report(say, results, others):
    passed = [r for r in results if r.status == "passed"]
    say(f"\n{len(passed)} of {len(results)} ONNX node tests pass, forward and backward ({others} others are of "
        f"operators not on the list). Gradients were compared along {sum(r.judged for r in results)} "
        f"directions; {sum(r.skipped for r in results)} more meet a kink.")
    groups = collections.defaultdict(list)
    for r in results:
        if r.status != "passed":
            row = foreseen(REFUSED if r.status == "refused" else DIFFERENT, r)
            groups[f"{r.status}: {row[2]}" if row else f"{r.status}, NOT FORESEEN: {r.reason}"].append(r)
    groups["pass, first output only"] = [r for r in passed if r.first_only]
    groups["pass, gradient by differences of the engine's own outputs"] = [r for r in passed if r.own]
    for title, some in groups.items():
        say(f"{len(some):4d} {title}\n       {names(some)}")


def test_onnx_node_tests(say):
    cases, others = node_cases.load_all(OPERATORS)
    if not cases:
        pytest.skip("libonnx-testdata is not installed")
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(examine, cases))
    report(say, results, others)
    for status, rows in (("refused", REFUSED), ("different", DIFFERENT)):
        some = [r for r in results if r.status == status]
        assert not [(r.case.name, r.reason) for r in some if not foreseen(rows, r)]
        used = [foreseen(rows, r) for r in some]
        if TABLES_ARE_EXACT:
            assert not [row for row in rows if row not in used], "rows that nothing needs any more"
    if TABLES_ARE_EXACT:
        assert constants(results) == CONSTANT
