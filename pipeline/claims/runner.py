"""``gan-tables ablations``: run the arms that are missing, then write what all claims have come to."""

import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.claims import book as books
from pipeline.claims import experiments, outputs, table
from pipeline.claims.book import COMMITTED, Book, Claim, Side
from pipeline.claims.measures import Measured, Outputs, measure
from pipeline.claims.table import Row
from pipeline.claims.verdicts import effect, judge
from pipeline.core.errors import InputError
from pipeline.core.files import write_text
from pipeline.core.scratch import locked
from pipeline.project.dvc_child import forget_all_dead, stopped_by_signals

REPORTS = Path("reports")
EMPTY_PROFILES = ("laptop", "paper")  # their claims.csv has a header only: arms run on the embedded data

SECONDS_OF_STASH = 20.0

State = Literal["done", "missing", "killed", "failed"]


def run(only: list[str], jobs: int, listing: bool) -> None:
    """Run the arms of all claims, or of those in ``only``, and rewrite the embedded table of claims.

    An arm whose experiment is there for the same code, params and overrides is not run again. The table is always of
    all claims: those whose arms are missing are ``not tested``.

    Parameters
    ----------
    only : claims whose arms are run; empty = all
    jobs : arms at once; each trains with the threads that params.yaml names
    listing : only say which claims and arms there are, the verdicts of the last table, and which arms are missing;
        needs neither data nor DVC's cache

    Raises
    ------
    InputError
        If the file of claims, a name or the checkout is not in order, the data that arms start from are missing, or an
        arm failed; the others are then done.
    """
    root, book = Path(), books.load()
    claims = _chosen(book, only)
    if jobs < 1:
        message = f"-j: found {jobs}; expected 1 or more"
        raise InputError(message)
    arms = book.arms_of(claims)
    names = experiments.names(root, book.experiments.values())
    if listing:
        _list(book, claims, states(root, names), verdicts(root))
        return
    failed: dict[str, str] = {}
    with stopped_by_signals(), locked(root / experiments.LOGS / "lock", "gan-tables ablations"):
        for remark in experiments.check_tree(root):
            print(remark, flush=True)
        experiments.check_cache(root, book.experiments.values())  # of all arms: the table is of all claims
        forget_all_dead(root)
        if arms:
            failed = _run_arms(root, book, {arm: names[arm] for arm in arms}, jobs)
        rows = write_table(root, book, names)
    _summary(rows, claims)
    if failed:
        message = f"{len(failed)} of {len(arms)} arms failed; the others are done, and the table is written; the same "
        message += "command runs these again\n" + "\n".join(f"arm {arm}: {said}" for arm, said in failed.items())
        raise InputError(message)


def _chosen(book: Book, only: list[str]) -> list[str]:
    unknown = [name for name in only if name not in book.claims]
    if unknown:
        told = [f"{name} is not tested: {book.not_tested[name].reason}" for name in unknown if name in book.not_tested]
        message = "; ".join(told) or f"--only: no claim '{unknown[0]}'; expected {', '.join(book.claims)}"
        raise InputError(message)
    return only or list(book.claims)


# ---- arms ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be run, and why."""

    missing: list[str]  # arms
    remarks: list[str]


def plan(names: Mapping[str, str], found: Mapping[str, State]) -> Plan:
    """Which of these arms have to be run."""
    missing = [arm for arm in names if found[arm] != "done"]
    remarks = [f"arm {arm}: was {found[arm]}, runs again" for arm in missing if found[arm] in ("killed", "failed")]
    return Plan(missing=missing, remarks=remarks)


def states(root: Path, names: Mapping[str, str]) -> dict[str, State]:
    """arm -> whether its experiment is there, and if not, what became of the last try."""
    ended = experiments.done(root)
    return {arm: "done" if name in ended else _last_try(root, name) for arm, name in names.items()}


def _last_try(root: Path, name: str) -> State:
    try:
        found = json.loads(_record(root, name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "missing"
    return "failed" if isinstance(found, dict) and found.get("state") == "failed" else "killed"


def _record(root: Path, name: str) -> Path:
    """What became of an arm that has no experiment; untracked."""
    return root / experiments.LOGS / f"{name}.json"


def run_arms(
    names: Mapping[str, str],
    arms: list[str],
    execute: Callable[[str], None],
    *,
    jobs: int,
    stop: Callable[[], None],
    say: Callable[[str], None] = print,
) -> dict[str, str]:
    """Run arms, ``jobs`` at once, a line each; arm -> what it said, of those that failed.

    ``execute`` takes an arm; its InputError fails that arm alone. ``stop`` ends all that are running, on an interrupt.
    """
    failed: dict[str, str] = {}
    started = time.monotonic()
    waiting, running, ended = list(arms), {}, 0
    with ThreadPoolExecutor(jobs) as pool, _or_else(stop):
        while waiting or running:
            while waiting and len(running) < jobs:
                arm = waiting.pop(0)
                running[pool.submit(execute, arm)] = (arm, time.monotonic())
            complete, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in complete:
                arm, began = running.pop(future)
                ended += 1
                verb = "done"
                if error := future.exception():
                    if not isinstance(error, InputError):
                        raise error
                    failed[arm], verb = str(error), f"FAILED: {error}"
                left = (time.monotonic() - started) / ended * (len(arms) - ended) / 60
                took = f"{time.monotonic() - began:.0f} s"
                say(f"[{ended}/{len(arms)}] {arm}: {verb} ({names[arm]}, {took}, about {left:.0f} min left)")
    return failed


@contextmanager
def _or_else(stop: Callable[[], None]) -> Iterator[None]:
    """Leaving a pool waits for its threads, so what they wait for themselves has to be stopped before."""
    try:
        yield
    except BaseException:
        stop()
        raise


def _run_arms(root: Path, book: Book, names: dict[str, str], jobs: int) -> dict[str, str]:
    found = plan(names, states(root, names))
    for remark in found.remarks:
        print(remark, flush=True)
    print(f"{len(names) - len(found.missing)} of {len(names)} arms are there, {len(found.missing)} to run", flush=True)
    dvc, state = experiments.Runs(root), experiments.source_state(root)

    def execute(arm: str) -> None:
        record = _record(root, names[arm])
        _same_sources(root, book, arm, names[arm], state)
        write_text(record, json.dumps({"state": "running"}) + "\n")
        try:
            dvc.run(book.experiments[arm], names[arm])
            try:
                _same_sources(root, book, arm, names[arm], state)
            except InputError:
                experiments.remove(root, names[arm])
                raise
        except InputError:
            write_text(record, json.dumps({"state": "failed"}) + "\n")
            raise
        record.unlink(missing_ok=True)

    return run_arms(names, found.missing, execute, jobs=jobs, stop=dvc.stop, say=lambda line: print(line, flush=True))


def _same_sources(root: Path, book: Book, arm: str, name: str, state: str) -> None:
    """Refuse to file a result under a name that stands for other code."""
    deadline = time.monotonic() + SECONDS_OF_STASH
    while experiments.source_state(root) != state:
        if time.monotonic() > deadline:
            break
        time.sleep(0.5)  # a dvc that starts beside this one puts edited files away for a moment
    else:
        return
    now = experiments.names(root, [book.experiments[arm]])[arm]
    if now != name:
        message = "code or params that it rests on were edited while the arms ran; run the command again"
        raise InputError(message)


# ---- claims --------------------------------------------------------------------------------------------------------


def write_table(root: Path, book: Book, names: Mapping[str, str]) -> list[Row]:
    """Judge every claim by the arms that are there, and write claims.csv and claims.md."""
    cache_path, ended = experiments.cache_path(root), experiments.done(root)
    not_made = experiments.not_made(root, [book.experiments[arm] for arm in names])
    found: dict[str, Outputs] = {
        arm: outputs.of_experiment(root, arm, ended[name], cache_path, not_made[arm])
        for arm, name in names.items()
        if name in ended
    }
    found[COMMITTED] = outputs.committed(root, cache_path, experiments.stale_outputs(root))
    failed = {arm for arm, state in states(root, names).items() if state == "failed"}
    rows = [row(book, name, found, failed) for name in book.claims]
    rows += [_untested(book, name) for name in book.not_tested]
    table.write(rows, root / REPORTS / "embedded")
    for profile in EMPTY_PROFILES:
        table.write_header(root / REPORTS / profile)
    return rows


def row(book: Book, name: str, arms: Mapping[str, Outputs], failed: Collection[str] = ()) -> Row:
    """One claim judged; ``not tested`` where an arm (``failed``: it ran) or what the metric reads is not there."""
    claim = book.claims[name]
    if missing := [arm for arm in dict.fromkeys((claim.base.arm, claim.ablated.arm)) if arm not in arms]:
        said = "; ".join(f"{'failed' if arm in failed else 'not run'}: {arm}" for arm in missing)
        return _row(book, name, note=said)
    try:
        base, ablated = _measured(claim, claim.base, arms), _measured(claim, claim.ablated, arms)
        compared = effect(base, ablated)
    except InputError as error:
        return _row(book, name, note=f"could not be measured: {error}")
    verdict, why = judge(
        book.rules[claim.rule],
        compared,
        claimed=claim.claimed,
        least=claim.least,
        intervals=(base.interval, ablated.interval),
    )
    return _row(
        book,
        name,
        note="; ".join(filter(None, [why, "" if compared.paired else "not in pairs", claim.note])),
        verdict=verdict,
        base=float(base.values.mean()),
        base_spread=_spread(base),
        ablated=float(ablated.values.mean()),
        ablated_spread=_spread(ablated),
        effect=compared.mean,
        effect_spread=compared.spread,
        n_seeds=compared.n,
    )


def _measured(claim: Claim, side: Side, arms: Mapping[str, Outputs]) -> Measured:
    return measure(claim.metric, arms[side.arm], claim.of | side.of)


def _spread(found: Measured) -> float | None:
    return float(found.values.std(ddof=1)) if len(found.values) > 1 else None


def _row(
    book: Book,
    name: str,
    *,
    note: str,
    verdict: table.Verdict = "not tested",
    base: float | None = None,
    base_spread: float | None = None,
    ablated: float | None = None,
    ablated_spread: float | None = None,
    effect: float | None = None,
    effect_spread: float | None = None,
    n_seeds: int | None = None,
) -> Row:
    claim = book.claims[name]
    return Row(
        claim=name,
        paper=claim.paper,
        section=claim.section,
        sentence=claim.sentence,
        ablation="; ".join(book.ablation(claim)),
        targets="; ".join(book.targets(claim)),
        metric=_metric(claim),
        unit=claim.unit,
        base=base,
        base_spread=base_spread,
        ablated=ablated,
        ablated_spread=ablated_spread,
        effect=effect,
        effect_spread=effect_spread,
        n_seeds=n_seeds,
        rule=table.rule_text(book.rules[claim.rule], claim.claimed, claim.least, claim.unit),
        verdict=verdict,
        note=note,
    )


def _metric(claim: Claim) -> str:
    """``sample_score(quantity=..., run=is_ours -> is_bn)``: what differs between the sides has an arrow."""
    base, ablated = claim.of | claim.base.of, claim.of | claim.ablated.of
    said = [
        f"{key}={base[key]}" if base[key] == ablated[key] else f"{key}={base[key]} -> {ablated[key]}" for key in base
    ]
    return f"{claim.metric}({', '.join(said)})"


def _untested(book: Book, name: str) -> Row:
    entry = book.not_tested[name]
    return Row(
        claim=name,
        paper=entry.paper,
        section=entry.section,
        sentence=entry.sentence,
        ablation="",
        targets="",
        metric="",
        unit="",
        base=None,
        base_spread=None,
        ablated=None,
        ablated_spread=None,
        effect=None,
        effect_spread=None,
        n_seeds=None,
        rule="",
        verdict="not tested",
        note=entry.reason,
    )


# ---- words ---------------------------------------------------------------------------------------------------------


def _summary(rows: list[Row], claims: list[str]) -> None:
    for found in rows:
        if found.claim in claims:
            said = "" if found.effect is None else f": {found.effect:+.4g} {found.unit}"
            why = f" ({found.note})" if found.verdict == "not tested" else ""
            print(f"{found.claim}: {found.verdict}{said}{why}")
    counts = {verdict: sum(found.verdict == verdict for found in rows) for verdict in table.VERDICTS}
    print(f"all {len(rows)} claims: " + ", ".join(f"{n} {verdict}" for verdict, n in counts.items()))
    print(f"written: {REPORTS / 'embedded' / table.CSV} and .md")


def verdicts(root: Path) -> dict[str, str]:
    """claim -> its verdict in the embedded claims.csv; empty where that is not written yet."""
    path = root / REPORTS / "embedded" / table.CSV
    if not path.is_file():
        return {}
    written = table.read(path)
    return dict(zip(written["claim"], written["verdict"], strict=True))


def _list(book: Book, claims: list[str], found: Mapping[str, State], written: Mapping[str, str]) -> None:
    for name in claims:
        claim = book.claims[name]
        arms = dict.fromkeys((claim.base.arm, claim.ablated.arm))
        print(f"{name}: {claim.sentence} [{written.get(name, 'not in claims.csv')}]")
        print("    " + ", ".join(f"{arm} ({found.get(arm, 'dvc.lock')})" for arm in arms))
    for arm in book.arms_of(claims):
        experiment = book.experiments[arm]
        print(f"arm {arm} ({found[arm]}): {' '.join(experiment.targets)}")
        print("    " + " ".join(f"-S {override}" for override in experiment.overrides))
    if len(claims) == len(book.claims):
        for name, entry in book.not_tested.items():
            print(f"{name}: not tested: {entry.reason}")
