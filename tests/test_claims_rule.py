"""The rule: against scipy and by hand, and by simulation how often it errs and how often it finds what is there."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import false_discovery_control, ttest_1samp

from gwapctl.metrics.replicates import resamples
from gwapctl.paper.claims import LEVEL, Evidence, Spread, Verdict, decide, holm, judge_all, weigh

IMAGES, FAMILY = 60, 5
Floats = npt.NDArray[np.float64]


def test_over_seeds_it_is_the_paired_t_test() -> None:
    differences = [1.0, 2.0, 4.0, 2.5]
    spread = weigh(differences, None).over_seeds
    assert spread is not None
    expected = ttest_1samp(differences, 0)
    assert spread.p_value(float(np.mean(differences))) == pytest.approx(expected.pvalue)
    low, high = expected.confidence_interval(0.95)
    assert 2 * spread.reach(0.05) == pytest.approx(high - low)


def test_the_variance_is_that_of_a_bootstrap_that_draws_seeds_and_images() -> None:
    generator = np.random.default_rng(0)
    seeds, draws = 4, 200
    replicates = (
        generator.normal(0, 1, (seeds, 1)) + generator.normal(0, 2, draws) + generator.normal(0, 1, (seeds, draws))
    )
    picked = generator.integers(0, seeds, (40_000, seeds)), generator.integers(0, draws, (40_000, 1))
    drawn = replicates[picked].mean(axis=1)
    spread = weigh([1.0] * seeds, replicates).over_images
    assert spread is not None
    of_images = replicates.mean(axis=0).var()
    few = drawn.var() - of_images  # of the seeds drawn from S, which is (S - 1) / S of their variance
    assert spread.error**2 == pytest.approx(of_images + few * seeds / (seeds - 1), rel=0.05)
    assert seeds - 1 < spread.freedom < draws - 1


def test_holm() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([]) == []
    values = np.random.default_rng(1).random(9)
    adjusted = holm(values.tolist())
    assert all(mine >= one for mine, one in zip(adjusted, values.tolist(), strict=True))
    assert all(mine >= theirs for mine, theirs in zip(adjusted, false_discovery_control(values), strict=True))


@pytest.mark.parametrize(
    ("differences", "images", "verdict", "doubt"),
    [
        ([], None, "cannot be told", "not measured"),
        ([5.0, 5.1], 0.1, "cannot be told", "too few seeds: 2"),
        ([5.0, 5.1, 4.9], None, "cannot be told", "no replicates"),
        ([5.0, 5.1, 4.9], 0.1, "holds", ""),
        ([-5.0, -5.1, -4.9], 0.1, "against the paper", ""),
        ([5.0, 5.1, 4.9], 9.0, "cannot be told", ""),  # the images decide it
        ([5.0, -5.1, 4.9], 0.1, "cannot be told", ""),  # the seeds do
        ([0.0, 0.0, 0.0], 0.0, "cannot be told", ""),
    ],
)
def test_both_tests_must_say_so(differences: list[float], images: float | None, verdict: Verdict, doubt: str) -> None:
    noise = np.random.default_rng(0).normal(0, 1, 200)
    replicates = None if images is None else np.array(differences)[:, None] + images * noise
    evidence = weigh(differences, replicates)
    assert (decide(evidence, evidence.p_value), evidence.doubt) == (verdict, doubt)


def test_a_claim_needs_all_and_falls_with_one() -> None:
    assert judge_all(["holds", "holds"]) == "holds"
    assert judge_all(["holds", "cannot be told"]) == "cannot be told"
    assert judge_all(["cannot be told", "not decidable here"]) == "not decidable here"
    assert judge_all(["holds", "against the paper", "cannot be told"]) == "against the paper"
    assert judge_all([]) == "cannot be told"


def test_the_smallest_detectable_difference_is_found_in_four_of_five_cases() -> None:
    generator = np.random.default_rng(3)
    spread, cases, seeds = Spread(1 / math.sqrt(20), 19), 2000, 20
    found = 0
    for _ in range(cases):
        evidence = weigh((spread.detectable(0.01) + generator.normal(0, 1, seeds)).tolist(), None)
        assert evidence.over_seeds is not None
        found += evidence.over_seeds.p_value(evidence.mean) < 0.01
    assert found / cases == pytest.approx(0.8, abs=0.03)


# --- simulation ------------------------------------------------------------------------------------------------------


def simulate(
    generator: np.random.Generator, seeds: int, difference: float, scales: tuple[float, float, float]
) -> Evidence:
    """Measure two systems whose per-image scores differ by ``difference`` on average.

    ``scales``: of what is peculiar to a seed, to an image, and to an image with a seed, as errors of the mean.
    """
    of_seed, of_image, of_both = scales
    image = of_image * math.sqrt(IMAGES) * generator.normal(0, 1, IMAGES)
    both = of_both * math.sqrt(IMAGES) * generator.normal(0, 1, (seeds, IMAGES))
    scores = difference + of_seed * generator.normal(0, 1, (seeds, 1)) + image + both
    return weigh(scores.mean(axis=1).tolist(), scores @ WEIGHTS.T)


WEIGHTS: Floats = resamples(IMAGES) / IMAGES
SCALES = [(1.0, 0.0, 0.2), (0.0, 1.0, 0.2), (1.0, 1.0, 0.2), (0.3, 0.3, 1.0), (0.6, 1.0, 0.0)]


@pytest.mark.parametrize("seeds", [3, 20])
@pytest.mark.parametrize("scales", SCALES)
def test_false_verdicts_are_at_most_5_percent_of_families(seeds: int, scales: tuple[float, float, float]) -> None:
    """Under no difference anywhere; the bound adds three Monte-Carlo errors of 600 families, 0.0089 each."""
    generator = np.random.default_rng(7)
    families, wrong = 600, 0
    for _ in range(families):
        found = [simulate(generator, seeds, 0.0, scales) for _ in range(FAMILY)]
        adjusted = holm(one.p_value for one in found)
        wrong += any(decide(*pair) != "cannot be told" for pair in zip(found, adjusted, strict=True))
    error = math.sqrt(LEVEL * (1 - LEVEL) / families)
    assert wrong / families <= LEVEL + 3 * error


@pytest.mark.parametrize(("seeds", "difference"), [(3, 12.0), (20, 3.0)])
def test_a_large_difference_is_found(seeds: int, difference: float) -> None:
    """In families of five at the strictest level, with all three sources of chance."""
    generator = np.random.default_rng(8)
    found = [simulate(generator, seeds, difference, (1.0, 0.5, 0.3)) for _ in range(200)]
    told = [decide(one, min(1.0, FAMILY * one.p_value)) for one in found]
    assert "against the paper" not in told
    assert told.count("holds") / len(told) >= 0.8
