"""``ablations.yaml``: the papers' testable sentences, what each is tested with, and the rules of the verdicts.

Everything that decides a verdict stands in that file before anything is run: the metric, the claimed direction, the
least effect that counts, and the rule with its numbers.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Interval, MinLen
from pydantic import Field

from pipeline.claims.measures import MEASURES, refusal
from pipeline.core import params
from pipeline.core.errors import InputError
from pipeline.core.params import section

BOOK = Path("ablations.yaml")
COMMITTED = "committed"  # the arm that nobody declares: the embedded results as dvc.lock has them
SLUG = re.compile(r"[a-z][a-z0-9_]*")
OVERRIDE = re.compile(r"([A-Za-z_][\w.@-]*)=(.+)")

Parameters = dict[str, str | int | float | bool]
Text = Annotated[str, MinLen(1)]


@section
class IntervalRule:
    """Each side is one number with its interval, from the results themselves: they must not overlap."""

    name: Literal["intervals"]


@section
class MeanRule:
    """The mean effect must be larger than what chance gives: Student's t.

    Attributes
    ----------
    confidence : one-sided, as the direction is stated beforehand; 0.95 is 2.92 standard errors with three pairs
    least_pairs : pairs (seeds, draws, splits), or values of each side, below which nothing is concluded
    """

    name: Literal["mean"]
    confidence: Annotated[float, Interval(gt=0.5, lt=1)]
    least_pairs: Annotated[int, Ge(2)]


Rule = Annotated[IntervalRule | MeanRule, Field(discriminator="name")]


@section
class Arm:
    """``arms.NAME``: one DVC experiment.

    Attributes
    ----------
    like : an arm whose overrides and targets come first; None = it stands for itself
    overrides : what ``dvc exp run -S`` is given, such as ``train.beta1=0.9``
    targets : stages that are run, with what they need; none = those of ``like``
    """

    like: str | None
    overrides: list[str]
    targets: list[str]


@section
class Side:
    """One side of a comparison: an arm, and the parameters of the metric that are this side's own."""

    arm: str
    of: Parameters


@section
class Claim:
    """``claims.NAME``: a sentence of a paper, and how it is tested.

    Attributes
    ----------
    metric, of : a function of ``measures.py`` and its parameters, on both sides
    base, ablated : what is compared; the effect is ablated - base
    claimed : what the sentence says of the ablated side
    least : the least effect that counts, in ``unit``
    note : what a reader must know to read the verdict; may be empty
    """

    paper: Literal["dcgan", "improved"]
    section: Text
    sentence: Text
    metric: str
    of: Parameters
    unit: Text
    base: Side
    ablated: Side
    claimed: Literal["higher", "lower"]
    rule: str
    least: Annotated[float, Ge(0)]
    note: str


@section
class NotTested:
    """``not_tested.NAME``: a sentence that nothing here tests, and why."""

    paper: Literal["dcgan", "improved"]
    section: Text
    sentence: Text
    reason: Text


@section
class Sections:
    """The file, section by section."""

    rules: dict[str, Rule]
    arms: dict[str, Arm]
    claims: dict[str, Claim]
    not_tested: dict[str, NotTested]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """An arm as it is run: its overrides in order, those of the arms that it is like first, and its targets."""

    arm: str
    overrides: tuple[str, ...]
    targets: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Book:
    """The file, checked as a whole; ``experiments`` by arm, without the committed one."""

    rules: Mapping[str, IntervalRule | MeanRule]
    experiments: Mapping[str, Experiment]
    claims: Mapping[str, Claim]
    not_tested: Mapping[str, NotTested]

    def arms_of(self, claims: list[str]) -> list[str]:
        """The arms that these claims need, each once, in the order of the file; the committed one left out."""
        needed = {side.arm for name in claims for side in (self.claims[name].base, self.claims[name].ablated)}
        return [arm for arm in self.experiments if arm in needed]

    def ablation(self, claim: Claim) -> tuple[str, ...]:
        """The overrides that the ablated side has beyond those of the base; ``base: ...``, those that only that has."""
        base, ablated = self._overrides(claim.base.arm), self._overrides(claim.ablated.arm)
        changed = {override.partition("=")[0] for override in ablated if override not in base}
        return (
            *(override for override in ablated if override not in base),
            *(f"base: {o}" for o in base if o not in ablated and o.partition("=")[0] not in changed),
        )

    def targets(self, claim: Claim) -> tuple[str, ...]:
        """The stages that the arms of the claim run; none for committed results."""
        arms = (claim.base.arm, claim.ablated.arm)
        return tuple(dict.fromkeys(t for arm in arms if arm in self.experiments for t in self.experiments[arm].targets))

    def _overrides(self, arm: str) -> tuple[str, ...]:
        return () if arm == COMMITTED else self.experiments[arm].overrides


def load(path: Path = BOOK) -> Book:
    """Read and check the file.

    Raises
    ------
    InputError
        Naming file and key of what is missing, unknown, ill-typed or does not fit the rest: an arm, rule, metric or
        parameter that is not there, an arm that nothing uses, two arms that are the same experiment.
    """
    found = params.load(path, Sections, own="ablations")
    book = Book(
        rules=found.rules, experiments=_experiments(found, path), claims=found.claims, not_tested=found.not_tested
    )
    problems = [*_bad_names(found), *_same_arms(book), *_bad_claims(book), *_idle_arms(book)]
    if problems:
        raise InputError("\n".join(f"{path}, ablations.{problem}" for problem in problems))
    return book


def _experiments(found: Sections, path: Path) -> dict[str, Experiment]:
    experiments = {}
    for name in found.arms:
        chain = _chain(found, name, path)
        overrides = _merged([override for arm in chain for override in found.arms[arm].overrides], name, path)
        targets = tuple(dict.fromkeys(target for arm in chain for target in found.arms[arm].targets))
        if not overrides or not targets:
            lacks = "targets" if overrides else "overrides"
            message = f"{path}, ablations.arms.{name}.{lacks}: found none; an arm needs overrides and targets, its own "
            message += f"or those of the arm that it is like; without overrides it is the arm '{COMMITTED}'"
            raise InputError(message)
        experiments[name] = Experiment(arm=name, overrides=overrides, targets=targets)
    return experiments


def _chain(found: Sections, name: str, path: Path) -> list[str]:
    """The arm and those that it is like, the outermost first."""
    chain: list[str] = []
    arm: str | None = name
    while arm is not None:
        if arm not in found.arms:
            message = f"{path}, ablations.arms.{chain[0]}.like: no arm '{arm}'; expected {', '.join(found.arms)}"
            raise InputError(message)
        if arm in chain:
            message = (
                f"{path}, ablations.arms.{arm}.like: the arms {', '.join(chain[::-1])} are like each other in a ring"
            )
            raise InputError(message)
        chain.insert(0, arm)
        arm = found.arms[arm].like
    return chain


def _merged(overrides: list[str], arm: str, path: Path) -> tuple[str, ...]:
    """Of two overrides of one key the later one holds, as for DVC; but it takes the place of the earlier one."""
    merged: dict[str, str] = {}
    for override in overrides:
        if not (parts := OVERRIDE.fullmatch(override)):
            message = (
                f"{path}, ablations.arms.{arm}.overrides: found '{override}'; expected key=value, as `dvc exp run -S`"
            )
            raise InputError(message)
        merged[parts[1]] = parts[2]
    return tuple(f"{key}={value}" for key, value in merged.items())


def _bad_names(found: Sections) -> list[str]:
    names = {"arms": found.arms, "claims": found.claims, "not_tested": found.not_tested, "rules": found.rules}
    bad = [
        f"{section}: found the name '{name}'; expected small letters, digits and underscores"
        for section, entries in names.items()
        for name in entries
        if not SLUG.fullmatch(name)
    ]
    if COMMITTED in found.arms:
        bad.append(
            f"arms: '{COMMITTED}' is the arm without overrides, which is always there; give this one another name"
        )
    return bad + [f"not_tested.{name}: a claim has this name, too" for name in found.not_tested if name in found.claims]


def _same_arms(book: Book) -> list[str]:
    seen: dict[tuple[frozenset[str], tuple[str, ...]], str] = {}
    problems = []
    for name, experiment in book.experiments.items():
        first = seen.setdefault((frozenset(experiment.overrides), tuple(sorted(experiment.targets))), name)
        if first != name:
            problems.append(
                f"arms.{name}: the same overrides and targets as arm '{first}'; use that one in both claims"
            )
    return problems


def _bad_claims(book: Book) -> list[str]:
    problems = []
    for name, claim in book.claims.items():
        if claim.rule not in book.rules:
            problems.append(f"claims.{name}.rule: no rule '{claim.rule}'; expected {', '.join(book.rules)}")
        for key in ("base", "ablated"):
            side: Side = getattr(claim, key)
            if side.arm != COMMITTED and side.arm not in book.experiments:
                expected = ", ".join([COMMITTED, *book.experiments])
                problems.append(f"claims.{name}.{key}.arm: no arm '{side.arm}'; expected {expected}")
            if twice := claim.of.keys() & side.of.keys():
                problems.append(f"claims.{name}.{key}.of: {', '.join(sorted(twice))} is in the claim's own of, too")
            elif claim.metric not in MEASURES:
                problems.append(f"claims.{name}.metric: no metric '{claim.metric}'; expected {', '.join(MEASURES)}")
                break
            elif said := refusal(claim.metric, claim.of | side.of):
                problems.append(f"claims.{name}.{key}: {said}")
        if claim.base == claim.ablated:
            problems.append(f"claims.{name}: base and ablated are the same; nothing is compared")
    return problems


def _idle_arms(book: Book) -> list[str]:
    used = set(book.arms_of(list(book.claims)))
    return [f"arms.{name}: no claim uses it" for name in book.experiments if name not in used]
