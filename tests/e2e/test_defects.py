"""The tests' own test: each defect planted in a build with -DPG_PLANT_DEFECTS=ON and chosen by PG_DEFECT must
make one named check fail, which passes without it."""
import os

import pytest

import cli
from test_parchgrad import BOUND, NEAR, Case

pytestmark = pytest.mark.skipif(not os.path.exists(cli.binary_defects()),
                                reason="no build with planted defects (cmake --preset defects)")


class Wrong(AssertionError):
    """A check found a wrong map; anything else a check raises is a broken test."""


def compare(name, bn, tmp_path, env, select="class", conserve="approx", layers=.9, samples=32):
    """One ParchGrad map against the reference. Layers whose choice is a near-tie do not count."""
    case = Case(name, bn, tmp_path, samples=samples, program=cli.binary_defects(), env=env)
    choices = case.choices(select, layers)
    near = [i for i, c in choices.items() if c.margin() < NEAR]
    options = case.options(select, conserve=conserve, layers=layers)
    if near:  # name the layers instead, without those
        choices = {i: c for i, c in choices.items() if i not in near}
        options["parchgrad.layers"] = [case.names[i] for i in choices]
    assert len(choices) > 1
    error = cli.rel(case.explain(options).attribution, case.reference(choices, "inf", conserve))
    if error > BOUND:
        raise Wrong(f"relative L2 {error:.2g}")


def check_classes_of_two_samples(tmp_path, env):
    """Divisor n instead of n - 1 matters where n is 2."""
    compare("tiny_resnet", "keep", tmp_path, env, samples=9)


def check_class_ranking(tmp_path, env):
    """Groups of unequal variance and size: Welch and Student rank differently."""
    compare("tiny_resnet", "keep", tmp_path, env, samples=24)


def check_every_layer_has_its_own_statistics(tmp_path, env):
    compare("tiny_resnet", "keep", tmp_path, env, select="instance")


def check_group_sums_before_batch_norm(tmp_path, env):
    """The list keeps the same channels whatever the statistics say: only the sums differ."""
    compare("tiny_resnet", "keep", tmp_path, env, select="list")


def check_beta(tmp_path, env):
    compare("tiny_resnet", "fold", tmp_path, env, select="list")


def check_second_consumer(tmp_path, env):
    """An addition's other branch and an output's other consumer keep the plain gradient."""
    compare("leaknet", "fold", tmp_path, env, select="list", layers=1.0)


def check_gradient_in_rows(tmp_path, env):
    """A block's first convolution hands its gradient to the block before it a few rows at a time."""
    compare("mobilenet_v2", "fold", tmp_path, env, select="list", layers=1.0, samples=8)


CHECKS = {
    "population-variance": check_classes_of_two_samples,
    "pooled-student": check_class_ranking,
    "last-layer-stats": check_every_layer_has_its_own_statistics,
    "no-bn-scale": check_group_sums_before_batch_norm,
    "no-sqrt": check_beta,
    "leak": check_second_consumer,
    "lost-rows": check_gradient_in_rows,
}


@pytest.mark.parametrize("defect", CHECKS)
def test_defect_is_detected(defect, tmp_path, say):
    check = CHECKS[defect]
    (tmp_path / "sound").mkdir()
    (tmp_path / "defect").mkdir()
    check(tmp_path / "sound", {"PG_DEFECT": ""})
    with pytest.raises(Wrong) as found:
        check(tmp_path / "defect", {"PG_DEFECT": defect})
    say(f"  planted {defect}: {check.__name__} fails, {found.value}")
