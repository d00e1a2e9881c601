"""What the figures of DCGAN's section 6 and of Improved GAN say, in words and numbers, for the report page."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import papers
from pipeline.core.records import number
from pipeline.reporting import rows
from pipeline.reporting.health import COLLAPSED
from pipeline.reporting.result_files import why_nothing
from pipeline.reporting.score_tables import OURS, REAL
from pipeline.reporting.score_tables import RUNS as SCORED
from pipeline.reporting.semisup_tables import ALL_NETWORKS, DATASETS, MINIBATCH_RUN

NOT_RUN = f"{rows.NOT_RUN.capitalize()}."
ABSENT = {"n_results": 0}  # metrics of a figure that has not run
SHEETS_IN_GIT = "embedded"  # elsewhere they show photographs
RUNS = {  # whose networks a figure shows
    **dict.fromkeys(("dcgan_fig2", "dcgan_fig3", "dcgan_fig4", "dcgan_fig5", "dcgan_fig6"), "dcgan_lsun"),
    **dict.fromkeys(("dcgan_fig4_faces", "dcgan_fig7", "dcgan_fig8", "dcgan_fig10"), "dcgan_faces"),
    "dcgan_fig11": "dcgan_imagenet",
}
HALVES = {  # figure -> half of it -> the run whose networks it shows
    f"improved_fig{number}": {"feature_matching": matched, "minibatch_discrimination": minibatch}
    for number, matched, minibatch in (
        (3, "mnist-100", "mb_mnist"),
        (4, "cifar10-4000", "mb_cifar10"),
        (5, "svhn-1000", "mb_svhn"),
    )
}
FIG6 = {"dcgan": "imagenet128_dcgan", "improved": "imagenet128_improved"}  # half of Figure 6 -> its run
NOTED_AT = {"dcgan_lsun": "Figures 2 and 3", "dcgan_faces": "Figures 10 and 11"}
MEASURES = {  # of Figure 5
    "energy": "energy of the guided gradient",
    "excess": "excess energy (ours)",
    "centre": "centre of the receptive field",
}
BOXES = {"boxes": "bed or window boxes", "bed": "bed boxes", "window": "window boxes"}
RULES = {  # of Figure 6: what is dropped -> the rule, its random maps, its regression
    "windows_dropped": ("the paper's rule", "random_dropped", "classifier_random"),
    "strongest_dropped": ("our rule", "random_strongest_dropped", "classifier_matched"),
}
PAPER_SHARE = {"8x8": "the paper's 200 of 512: 39 %", "16x16": "the paper's 200 of 256: 78 %"}
SPACES = {
    "z": "on z",
    "pixels": "on pixels",
    "start": "control, G of the mean z of C as it is",
    "chance": "control, random samples",
}

UNITS = {papers.ERRORS_OF_10000: "errors of 10,000 images", papers.PERCENT_ERROR: "% error"}

Metrics = dict[str, Any]
Reading = Callable[[dict[str, Metrics]], list[str]]


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading, its figures, what they are, and what their metrics say, if they ran.

    Attributes
    ----------
    pictures : figure -> what its picture shows
    reading : takes the metrics of the figures that ran, and of those in ``also``
    embedded : what is to be said besides of the embedded profile
    more : takes the profile and the metrics of the figures that ran; further pictures
    """

    heading: str
    pictures: dict[str, str]
    text: str
    reading: Reading
    also: tuple[str, ...] = ()
    embedded: str = ""
    more: Callable[[str, dict[str, Metrics]], list[str]] = lambda _profile, _found: []


def section(profile: str, metrics: Path, name: str, notes: dict[str, str]) -> list[str]:
    """Markdown of one of ``SECTIONS``; links are relative to the reports.

    Parameters
    ----------
    metrics : folder of the figures' metrics
    notes : run -> what was reduced in it
    """
    wanted = SECTIONS[name]
    lines = [f"## {wanted.heading}", ""]
    found = _ran(metrics, wanted.pictures)
    if not found:
        return [*lines, NOT_RUN, ""]
    shown = {figure: own for figure, own in found.items() if why_nothing(own) is None}
    if not shown:
        return [*lines, *dict.fromkeys(filter(None, map(why_nothing, found.values()))), ""]
    for figure, what in wanted.pictures.items():
        if figure in shown:
            lines += [f"![{what}](figures/{figure}.png)", ""]
        else:
            lines += [f"`{figure}` ({what}): {why_nothing(found.get(figure, ABSENT)) or NOT_RUN}", ""]
    told = (wanted.text, wanted.embedded if profile == "embedded" else "", _runs(name, shown, notes))
    lines += [" ".join(filter(None, told)), ""]
    lines += [*wanted.reading(shown | _ran(metrics, wanted.also)), ""]
    return lines + wanted.more(profile, shown)


def read(path: Path) -> Metrics:
    """The metrics of a figure, ``ABSENT`` if there are none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else ABSENT


def rendition(metrics: Metrics) -> str:
    """How the images of a picture differ from the arrays: scale, and how many colours its file has room for."""
    scale = metrics["scale"]
    size = "at their own size" if scale == 1 else f"enlarged {scale} times" if scale > 1 else f"at {100 * scale:g} %"
    return f"{size}, in {metrics['n_colours']} colours"


def _ran(metrics: Path, figures: Iterable[str]) -> dict[str, Metrics]:
    return {figure: own for figure in figures if (own := read(metrics / f"{figure}.json")) != ABSENT}


def _runs(name: str, shown: dict[str, Metrics], notes: dict[str, str]) -> str:
    """Whose networks these are; the note of a run stands where its samples are shown, and elsewhere a pointer to it."""
    told = []
    runs = [RUNS[figure] for figure in shown if figure in RUNS]
    halves = {**HALVES, "improved_fig6": FIG6}
    runs += [run for figure in shown for half, run in halves.get(figure, {}).items() if half in shown[figure]]
    for run in dict.fromkeys(runs):
        note = notes.get(run)
        if name in ("samples", "grids", "improved_samples", "imagenet128"):
            told.append(f"Run {run}: {note}." if note else f"Run {run}.")
        else:
            told.append(f"Networks of run {run}" + (f" (its note stands at {NOTED_AT[run]})." if note else "."))
    return " ".join(told)


# ---- readings -------------------------------------------------------------------------------------------------------


def _samples(found: dict[str, Metrics]) -> list[str]:
    after = [str(metrics["epoch"]) for metrics in found.values()]
    epochs = f"epoch{'s' if len(after) > 1 else ''} {' and '.join(after)}"
    return [f"Here after {epochs}; the paper's after epochs 1 and 5, of three million bedrooms.", *_shown_as(found)]


def _shown_as(found: dict[str, Metrics]) -> list[str]:
    """Files in Git are small."""
    return ["", *(f"- `{name}.png`: images {rendition(own)}" for name, own in found.items())]


def _walk(found: dict[str, Metrics]) -> list[str]:
    lines = []
    for figure, metrics in found.items():
        steps = metrics.get("features", {})
        if "largest_step_percent" not in steps:
            continue
        lines.append(
            f"- {RUNS[figure]}: the median step is {steps['median_step_percent']:.1f} % of the median distance of two "
            f"random z, the largest {steps['largest_step_percent']:.1f} % ({steps['median_step']:.3g} and "
            f"{steps['largest_step']:.3g} of {steps['median_random_pair']:.3g})"
        )
    return lines


def _guided_backprop(found: dict[str, Metrics]) -> list[str]:
    metrics = found.get("dcgan_fig5", {})
    if "trained" not in metrics:
        return ["Where beds and windows are is not known for these images."]
    trained, random, more = (metrics[name] for name in ("trained", "random", "trained_minus_random"))
    lines = [
        f"- {what}, in {boxes}: trained D {_interval(trained[measure])}, random D {_interval(random[measure])}, "
        f"difference {_interval(more[measure])}: {_verdict(more[measure])}"
        for kind, what in MEASURES.items()
        for name, boxes in BOXES.items()
        if (measure := f"{kind}_in_{name}") in more
    ]
    area = f"{trained['area_of_boxes_percent']:.1f} and {random['area_of_boxes_percent']:.1f} %"
    return [
        *lines,
        f"- chance for the energy, the boxes' share of the area of these images: {area}",
        f"- intervals: 95 %, bootstrapped over the {metrics['n_features']} features of each network; there is one "
        "trained and one random network, so the intervals cover features, not seeds",
    ]


def _verdict(difference: Metrics) -> str:
    if difference["low_points"] > 0:
        return "for the paper's claim"
    return "against it" if difference["high_points"] < 0 else "not told apart"


def _forget_windows(found: dict[str, Metrics]) -> list[str]:
    metrics = found["dcgan_fig6"]
    judged = {layer: metrics.get(f"layer_{layer}", {}) for layer in PAPER_SHARE}
    lines = [
        f"- {layer.replace('x', ' x ')}: {_forgotten(own, PAPER_SHARE[layer])}"
        for layer, own in judged.items()
        if {"before", "windows_dropped"} <= own.keys()
    ]
    if not lines:
        lines = ["Nothing counts windows and beds here: the detector needs rooms whose boxes are known."]
    use = {"labeller": "the detector that draws the boxes", "counter": "the detector that counts"}
    for name, parts in metrics.get("detector", {}).items():
        told = [
            f"{part}s with precision {own['precision_percent']:.0f} %, recall {own['recall_percent']:.0f} %, and one "
            f"in {own['n_found_without']} of {own['n_without']} rooms without"
            for part, own in parts.items()
            if {"precision_percent", "recall_percent"} <= own.keys()
        ]
        lines += [f"- {use.get(name, name)} sees, in held-out rendered rooms: {'; '.join(told)}"] if told else []
    return lines


def _forgotten(own: Metrics, paper_share: str) -> str:
    n, before = own["n_images"], own["before"]
    told = [f"with all maps, windows detected in {before['windows']} of {n} images, beds in {before['beds']}"]
    for name, (rule, control, classifier) in RULES.items():
        if name not in own:
            continue
        after, regression = own[name], own.get(classifier, {})
        share = f"{after['n_dropped']} of {own['n_maps']} maps, {100 * after['n_dropped'] / own['n_maps']:.0f} %"
        told.append(
            f"{rule}, {share} ({paper_share}): {_detected(after)}; pixels change by "
            f"{number(after['pixel_change'], 'share', digits=3)}"
        )
        if "accuracy_percent" in regression:
            told[-1] += (
                f"; its regression tells {regression['accuracy_percent']:.0f} % of held-out places right (guessing: "
                f"{regression['guessing_percent']:.0f} %)"
            )
        if control in own:
            random = own[control]
            told.append(
                f"as many random maps: {_detected(random)}, mean ± standard deviation of {random['n_draws']} draws; "
                f"pixels change by {number(random['pixel_change'], 'share', digits=3)}"
            )
        told += [f"verdict on {rule}: {verdict}" for verdict in _forgetting_verdict(own, name, control)]
    return "\n  - ".join(told)


def _detected(after: Metrics) -> str:
    return ", ".join(f"{part} in {_fall(after, part)}" for part in ("windows", "beds"))


def _fall(after: Metrics, part: str) -> str:
    spread = f" ± {after[f'{part}_sd']:.1f}" if f"{part}_sd" in after else ""
    change = f" ({-after[f'{part}_fall_percent']:+.0f} %)" if f"{part}_fall_percent" in after else ""
    return f"{after[part]:.4g}{spread}{change}"


def _forgetting_verdict(own: Metrics, name: str, control: str) -> list[str]:
    """The three things that are asked, in words; nothing where there was no window or bed before, or no control."""
    falls = [own[name].get(f"{part}_fall_percent") for part in ("windows", "beds")]
    if None in falls or control not in own:
        return []
    windows, beds = falls
    most = own[control]["windows_fall_percent"] + 100 * own[control].get("windows_sd", 0.0) / own["before"]["windows"]
    asked = (
        (windows > 50, "windows fell by more than half", "windows did not fall by more than half"),
        (beds < 25, "beds fell by less than a quarter", "beds fell by a quarter or more"),
        (most < windows, "random maps took clearly fewer windows", "random maps did not take clearly fewer windows"),
    )
    summary = "as the paper says" if all(holds for holds, *_ in asked) else "not as the paper says"
    return [f"{summary}: {', '.join(yes if holds else no for holds, yes, no in asked)}"]


def _arithmetic(found: dict[str, Metrics]) -> list[str]:
    metrics = found["dcgan_fig7"]
    lines = []
    for space, title in SPACES.items():
        shares = metrics.get(space, {})
        told = [_share(own) + (f" with {_number(key)}" if len(shares) > 1 else "") for key, own in shares.items()]
        lines += [f"- {title}: {', '.join(told)}"] if told else []
    if not lines:
        lines = ["Nothing judges the results here: the classifier needs faces whose attributes are known."]
    else:
        lines += _compared(metrics.get("z", {}), metrics.get("pixels", {}))
        lines += [f"- {line}" for space in ("z", "pixels") for line in _gained(metrics.get(space, {}), SPACES[space])]
        n_problems = next(own["n_problems"] for space in SPACES for own in metrics.get(space, {}).values())
        n_left_out = metrics["n_kinds_left_out"]
        lines.append(f"- {n_problems} problems of {metrics['n_kinds'] - n_left_out} kinds")
        if n_left_out:
            lines[-1] += f"; {n_left_out} more kinds were left out, as too few samples show their concepts"
    told = [
        f"{name.replace('_', ' ')} {own['accuracy_percent']:.0f} % (commoner value {own['majority_percent']:.0f} %)"
        for name, own in metrics.get("attributes", {}).items()
        if {"accuracy_percent", "majority_percent"} <= own.keys()
    ]
    return lines + ([f"- the classifier is right on held-out heads: {', '.join(told)}"] if told else [])


def _number(key: str) -> str:
    """Of exemplars."""
    return key.removeprefix("exemplars_")


def _share(own: Metrics) -> str:
    return f"{own['share_percent']:.1f} % ({own['low_percent']:.1f} to {own['high_percent']:.1f})"


def _compared(z: Metrics, pixels: Metrics) -> list[str]:
    """z against pixels at each number of exemplars, by whether the intervals overlap."""
    told = []
    for key in z:
        if key not in pixels:
            continue
        ahead = "not told apart"
        if z[key]["low_percent"] > pixels[key]["high_percent"]:
            ahead = "z ahead"
        elif pixels[key]["low_percent"] > z[key]["high_percent"]:
            ahead = "pixels ahead"
        told.append(f"{ahead} with {_number(key)}")
    return [f"- z against pixels, by whether the intervals overlap: {', '.join(told)}"] if told else []


def _gained(shares: Metrics, title: str) -> list[str]:
    """The same problems with more exemplars."""
    if len(shares) < 2:
        return []
    fewest, *others = shares
    told = [f"{shares[key]['n_gained']} gained, {shares[key]['n_lost']} lost with {_number(key)}" for key in others]
    return [f"{title}, the same problems against {_number(fewest)}: {'; '.join(told)}"]


def _turn(found: dict[str, Metrics]) -> list[str]:
    metrics = found["dcgan_fig8"]
    if "correlation" not in metrics:
        return ["Nothing measures the yaw here: the network for it needs faces whose yaw is known."]
    at = {coefficient: metrics.get(f"yaw_at_{name}") for name, coefficient in (("minus_1", -1), ("0", 0), ("1", 1))}
    told = ", ".join(
        f"{own['mean_deg']:.1f} ± {own.get('sd_deg', 0):.1f} at {coefficient}" for coefficient, own in at.items() if own
    )
    lines = [
        f"- correlation of predicted yaw and coefficient over {metrics['n_samples']} samples: "
        f"{metrics['correlation']:.2f}; within a sample {metrics['correlation_within_samples']:.2f}",
        f"- mean yaw and standard deviation, degrees: {told}; higher at 1 than at -1 in "
        f"{metrics['yaw_rises_percent']:.0f} % of the samples",
    ]
    rise = metrics["yaw_rise"]
    if "sd_over_vectors_deg" in rise:
        lines.append(
            f"- from -1 to 1 the yaw rises by {rise['mean_deg']:.1f} ± {rise['sd_over_vectors_deg']:.1f} degrees, mean "
            f"± standard deviation of {metrics['n_vectors']} turn vectors, each of exemplars drawn anew"
        )
    changed = ", ".join(
        f"{name.removesuffix('_percent').replace('_', ' ')} in {share:.0f} %"
        for name, share in metrics["changed"].items()
    )
    lines.append(
        f"- what else changes between -1 and 1: {changed} of the samples (a network says yes at one, no at the other)"
    )
    yaw = found.get("dcgan_fig7", {}).get("attributes", {}).get("yaw", {})
    if "mean_absolute_error_deg" in yaw:
        correlation = f"correlation {yaw['correlation']:.2f}, " if "correlation" in yaw else ""
        lines.append(
            f"- the network that sees the yaw, on held-out heads: {correlation}mean error "
            f"{yaw['mean_absolute_error_deg']:.1f} degrees"
        )
    return lines


def _toy_games(found: dict[str, Metrics]) -> list[str]:
    titles = {"xy": "value xy", "kinked": "value (f(x) - 1)(y - 1), f(x) = x below 0 and x^2 above"}
    return [
        f"- {titles[game]}, from ({own['x']:g}, {own['y']:g}), {own['start_distance']:.3g} from the equilibrium: plain "
        f"descent ends {own['plain_final_distance']:.3g} away (up to {own['plain_late_distance']:.3g} in the last "
        f"tenth of the steps), averaging {own['averaged_final_distance']:.2g}"
        for game, starts in found["toy_games"].items()
        for own in starts.values()
    ]


def _semisup_errors(found: dict[str, Metrics]) -> list[str]:
    runs = [(DATASETS[dataset], own) for dataset, runs in found["semisup_errors"].items() for own in runs.values()]
    lines = [f"- {title}, {_classifiers(own)}" for title, own in runs]
    if any("gain_sd_points" in own for _, own in runs):
        lines += [
            "",
            "± is the standard deviation of the differences of the networks, each with the unlabelled images against "
            "itself without; not told apart: their mean is smaller than twice its standard error.",
        ]
        if any(own["n_splits"] == 1 and "gain_sd_points" in own for _, own in runs):
            lines[-1] += " Where a run has one labelled subset, the spread leaves out the choice of the labels."
    return lines


def _classifiers(own: Metrics) -> str:
    """Of one run: its error with the unlabelled images and without, and what went wrong."""
    n, name = own["n_networks"], own["run"]
    kind = ", minibatch discrimination" if name.startswith(MINIBATCH_RUN) else ""
    spread = f", from {own['lowest_percent']:.2f} to {own['highest_percent']:.2f} % in {n} networks" if n > 1 else ""
    told = [
        f"{own['n_labels']:,} labels{kind} (`{name}`): {own['final_error_percent']:.2f} % of {own['n_test_images']:,} "
        f"test images wrong with the unlabelled images{spread}{'' if n > 1 else ', one network'}"
    ]
    if "gain_points" in own:
        told.append(f"{own['labels_only_error_percent']:.2f} % with the labelled ones alone: {_gain(own)}")
    else:
        told.append("not trained without the unlabelled images")
    if own.get("n_collapsed"):
        told.append(f"**the samples of {own['n_collapsed']} of {n} have collapsed**")
    if own.get("n_d_won"):
        told.append(
            f"**D won at some time** in {own['n_d_won']} of {n}: an unsupervised loss of "
            f"{own['lowest_unsupervised_loss']:.4f}, next to the least that it can be"
        )
    return "; ".join(told)


def _gain(own: Metrics) -> str:
    """What the unlabelled images are worth: the mean of the differences network by network, and a verdict."""
    gain, n = own["gain_points"], own["n_networks"]
    deviation = f" ± {own['gain_sd_points']:.2f}" if n > 1 else ""
    better = f"better in {own['n_gained']} of {n}"
    if n > 1 and abs(gain) < 2 * own["gain_sd_points"] / n**0.5:
        return f"not told apart (gain {gain:+.2f}{deviation} points); {better}"
    if gain > 0:
        return f"the unlabelled images take {gain:.2f}{deviation} points off; {better}"
    if gain < 0:
        return f"the unlabelled images cost {-gain:.2f}{deviation} points in {own['n_steps']:,} steps; {better}"
    return f"no difference; {better}"


def ensembles(table: Iterable[dict[Any, Any]]) -> list[str]:
    """Ensembles beside the mean of their networks, where both were measured; fewest labels first.

    Parameters
    ----------
    table : rows of a semi-supervised table as its CSV has them; a number that is not there is NaN
    """
    measured = {(row["row"], row["column"]): row for row in table if row["measured"] == row["measured"]}
    told: dict[int, str] = {}
    for (name, column), row in measured.items():
        mean = measured.get((ALL_NETWORKS, column)) or measured.get((papers.OUR_MODEL, column))
        if name != papers.ENSEMBLE or mean is None:
            continue
        together, alone = float(row["measured"]), float(mean["measured"])
        verdict = "fewer errors" if together < alone else "no fewer errors"  # no uncertainty here: the claims weigh it
        n_labels = int(row["n_labels"])  # a small profile has fewer than the paper's column says
        told[n_labels] = (
            f"- {n_labels:,} labels: ensemble of {int(row['n_seeds'])} {number(together, row['unit'])}, mean of single "
            f"networks {number(alone, row['unit'])} ({UNITS.get(row['unit'], row['unit'])}): the ensemble makes "
            f"{verdict}"
        )
    return [told[n_labels] for n_labels in sorted(told)]


def _improved_samples(found: dict[str, Metrics]) -> list[str]:
    lines = []
    for figure, metrics in found.items():
        nearest = {
            half: own["nearest_other"] for half in HALVES[figure] if "nearest_other" in (own := metrics.get(half, {}))
        }
        for half, run in HALVES[figure].items():
            if half not in metrics:
                lines.append(f"- `{figure}.png`: run {run} is left out, {rows.NOT_RUN}")
            elif half in nearest:
                own = metrics[half]
                others = [distance for other, distance in nearest.items() if other != half and distance]
                beside = (
                    f", {number(nearest[half] / others[0], 'ratio')} times as far as in the other half"
                    if others
                    else ""
                )
                lines.append(
                    f"- {run}, {half.replace('_', ' ')}, {own['n_images']} samples: one is {own['nearest_other']:,.0f} "
                    f"grey levels from the nearest other (median, Euclidean, {own['side_px']} x {own['side_px']} "
                    f"pixels){beside}; {own['duplicates_percent']:g} % are equal to another"
                )
    return [*lines, *_shown_as(found)]


def _improved_table3(found: dict[str, Metrics]) -> list[str]:
    """How varied the samples of each row are, beside real images."""
    metrics = found.get("improved_table3_samples")
    if metrics is None:
        return []
    titles = {name: row for row, name in SCORED.items()} | {f"{OURS}_top": f"{papers.OUR_METHODS}, the best"}
    lines = []
    for name, title in titles.items():
        own = metrics.get(name, {})
        if "nearest_other" not in own:
            continue
        beside = (
            f", {number(own['diversity'], 'share')} of that of real images"
            if "diversity" in own and name != REAL
            else ""
        )
        alarm = ": **the samples have collapsed**" if own.get("diversity", 1.0) < COLLAPSED else ""
        lines.append(
            f"- {title}, {own['n_images']} images: one is {own['nearest_other']:,.0f} grey levels from the nearest "
            f"other{beside}{alarm}; two are {own['mean_distance']:,.0f} apart; {own['duplicates_percent']:g} % are "
            "equal to another"
        )
    lines += (
        ["", "Nearest other: median; two: mean; Euclidean distances. Of the first seed of each row."] if lines else []
    )
    return [*lines, *_shown_as({"improved_table3_samples": metrics})]


def _imagenet128(found: dict[str, Metrics]) -> list[str]:
    lines = []
    for half, run in FIG6.items():
        own = found["improved_fig6"].get(half)
        if own is None:
            lines.append(f"- run {run} is left out, {rows.NOT_RUN}")
        elif "nearest_other" in own:
            lines.append(
                f"- {run}, after epoch {own['epoch']}, {own['n_images']} samples: one is {own['nearest_other']:,.0f} "
                f"grey levels from the nearest other (median, Euclidean, {own['side_px']} x {own['side_px']} pixels); "
                f"{own['duplicates_percent']:g} % are equal to another"
            )
    return [*lines, *_shown_as(found)]


def _turing(found: dict[str, Metrics]) -> list[str]:
    own = found["improved_fig2"]
    return [
        f"- deck {own['deck']}, run {own['model']}: {own['n_generated']} of the {own['n_shown']} images are generated, "
        f"{own['n_mistakes']} of the drawn answers are wrong; {own['n_human_answers']} answers are a person's",
        *_shown_as(found),
    ]


def _grids(found: dict[str, Metrics]) -> list[str]:
    counts = " and ".join(str(metrics["n_images"]) for metrics in found.values())
    told = f"The first {counts} samples of their stream, with fixed batch-norm statistics; nothing is chosen by eye."
    return [told, *_shown_as(found)]


def _distances(found: dict[str, Metrics]) -> list[str]:
    lines = []
    for run, metrics in found["sample_distances"].items():
        told = []
        over_n = metrics.get("mean_distance", {})
        if over_n.get("held_out") and over_n.get("training"):
            n = list(over_n["held_out"])[-1]
            sides = [
                f"{metrics['n_images'][side]} {name} images {list(over_n[side].values())[-1]:.3f}"
                for side, name in (("held_out", "held-out"), ("training", "training"))
            ]
            among = f"{int(n.removeprefix('n_')):,} samples"
            told.append(f"mean distance to the nearest of {among}: {', '.join(sides)}")
        near = metrics.get("nearest_training_image", {})
        ratios = [
            f"{number(near[space]['ratio_of_medians'], 'ratio')} in {name}"
            for space, name in (("features", "D's features"), ("pixels", "pixels"))
            if "ratio_of_medians" in near.get(space, {})
        ]
        if ratios:
            own = near.get("features") or near["pixels"]
            told.append(
                f"nearest training image, median of samples / median of held-out images: {' and '.join(ratios)}; "
                f"{own['n_nearer_than_any_held_out']} of only {own['n_samples']} samples are nearer than any of "
                f"{own['n_held_out']} held-out images{' in features' if 'features' in near else ''}"
            )
        lines += [f"- {run}: {'; '.join(told)}"] if told else []
    return lines


def _interval(own: Metrics) -> str:
    """A mean with its interval, in % or, of a difference, in points."""
    if "mean_points" in own:
        return f"{own['mean_points']:+.1f} points ({own['low_points']:+.1f} to {own['high_points']:+.1f})"
    return f"{own['mean_percent']:.1f} % ({own['low_percent']:.1f} to {own['high_percent']:.1f})"


# ---- further pictures -----------------------------------------------------------------------------------------------


def _animations(_profile: str, found: dict[str, Metrics]) -> list[str]:
    runs = [RUNS[figure] for figure in found]
    return [line for run in runs for line in (f"![The walk of {run}, animated](figures/walk_{run}.webp)", "")]


def _guided_faces(profile: str, _found: dict[str, Metrics]) -> list[str]:
    what = "the same panels for the run on faces, random D left"
    return _sheets(profile, ["guided_dcgan_faces"], what, where="where `guided_backprop@dcgan_faces` has run")


def _nearest(profile: str, found: dict[str, Metrics]) -> list[str]:
    what = "rows of samples, of their nearest training images in D's features, and of those in pixels"
    return _sheets(profile, [f"nearest_{run}" for run in found["sample_distances"]], what)


def _sheets(profile: str, names: list[str], what: str, *, where: str = "") -> list[str]:
    """Sheets that may show photographs: outside the embedded profile they are named, not shown."""
    if profile != SHEETS_IN_GIT:
        files = ", ".join(f"`{name}.png`" for name in names)
        there = ", ".join(filter(None, (f"In `data/{profile}/sheets/`", "not in Git", where)))
        return [f"{there}: {files} ({what}).", ""]
    return [line for name in names for line in (f"![{name}: {what}](sheets/{name}.png)", "")]


SECTIONS = {
    "samples": Section(
        heading="DCGAN, Figures 2 and 3: bedrooms after the first and the last epoch",
        pictures={"dcgan_fig2": "Bedrooms after the first epoch", "dcgan_fig3": "Bedrooms after the last epoch"},
        text="The same z in both, drawn before training; nothing is chosen by eye. As in training, batch norm "
        "has the statistics of the samples' own batch; in Figures 4 to 8, 10 and 11 they are fixed.",
        reading=_samples,
    ),
    "walk": Section(
        heading="DCGAN, Figure 4: a walk through z",
        pictures={
            "dcgan_fig4": "Bedrooms along a walk, and the size of its steps",
            "dcgan_fig4_faces": "Faces along a walk, and the size of its steps",
        },
        text="A row leads in equal steps from one random z towards the next. A generator that had stored images "
        "would stand still and then jump, by as much as two random z differ. Distances are those in the "
        "features of the run's own D, with fixed batch-norm statistics.",
        reading=_walk,
        more=_animations,
    ),
    "guided_backprop": Section(
        heading="DCGAN, Figure 5: what D responds to",
        pictures={
            "dcgan_fig5": "Guided backpropagation of a random and of the trained D, bedrooms",
        },
        text="What the strongest responses of D's last maps come from: left a random D, right the trained one. "
        "Grey is no gradient, and what lies outside the image. The paper looks at six features; here every "
        "feature of the last maps is judged by the true boxes of beds and windows, where they are known. The centre of "
        "a response says little: its field of 61 pixels covers nearly the whole image, and centres lie on a grid of 16 "
        "places, for which the area of the boxes is no baseline. Excess energy is what lies in the boxes beyond what "
        "the same network's other responses at the same place have there; it was settled on after simpler measures had "
        "been tried.",
        reading=_guided_backprop,
        more=_guided_faces,
    ),
    "forget_windows": Section(
        heading="DCGAN, Figure 6: forgetting windows",
        pictures={"dcgan_fig6": "The same bedrooms with all maps, without those of windows, without random ones"},
        text="The two upper rows are the paper's: the same z with all maps, and without those of the second "
        "highest layer that have a positive weight in a logistic regression on window or not. The paper does "
        "not quite say which layer that is: 8 x 8 (512 maps in the paper, of which 200 are 39 %) or 16 x 16 (256 maps, "
        "78 %). Our rule drops those with the largest weights in a second regression, ours: a place in a window "
        "against the same place of a sample without one. The paper drops no random maps for comparison. One detector "
        "draws the boxes, unless a person has, and another counts; their precision and recall below are of rendered "
        "rooms, on samples they are not known. The verdict asks for three things, whose limits are ours: windows fall "
        "by more than half, beds by less than a quarter, and windows clearly less without random maps (mean fall plus "
        "one standard deviation).",
        reading=_forget_windows,
    ),
    "arithmetic": Section(
        heading="DCGAN, Figure 7: arithmetic on z",
        pictures={"dcgan_fig7": "Exemplars, their means, and what A - B + C gives on z and on pixels"},
        text="A - B + C of z that are means over exemplars: G of it in the middle of the nine, with uniform noise "
        "added around it; in the last row of each the same with pixels. The pictured exemplars are drawn by seed, "
        "unless a person named them, and the sum may fail. Right is a result in which the classifier sees both "
        "attributes that it should have; numbers after `with` and `against` are exemplars a concept. Intervals: 95 %, "
        "as if the problems were independent; they share exemplars, so the intervals are somewhat too narrow.",
        reading=_arithmetic,
    ),
    "turn": Section(
        heading="DCGAN, Figure 8: turning heads",
        pictures={"dcgan_fig8": "Five faces along the turn vector, and the predicted yaw"},
        text="In the middle column random samples; beside them the samples moved along the turn vector, half the "
        "difference of the mean z of faces that look right and of faces that look left, times the "
        "coefficient. Unless a person named the exemplars, a network chose them among the deck's most turned faces.",
        reading=_turn,
        also=("dcgan_fig7",),
    ),
    "toy_games": Section(
        heading="Improved GAN, section 3.3: toy games with historical averaging",
        pictures={"toy_games": "Paths of both games with and without averaging, and the final distance over lambda"},
        text="x minimises the value, y maximises it, by simultaneous gradient steps. Historical averaging adds lambda "
        "times the squared distance to the mean of all past points to the cost of either; the paper gives neither "
        "lambda nor step, so these are ours, as are the starts. The same numbers in every profile.",
        reading=_toy_games,
    ),
    "semisup_errors": Section(
        heading="Improved GAN: test error over training",
        pictures={"semisup_errors": "Test error over the epochs, a line a run"},
        text="Mean over the networks of a run (pairs of a labelled subset and a seed) with D's averaged parameters, "
        "the band from the best to the worst of them; a run that was tested once is a point with a bar, beside those "
        "of the same epoch. Dashed, or a diamond: minibatch discrimination. Dotted, the error of the same D trained on "
        "the labelled images alone, from the same initial state, after a schedule of its own (`labels_only_epochs`); "
        "the paper has no such row. Errors fall late: what counts is the end of a whole schedule. An epoch is a pass "
        "over all training images, most of them without their labels.",
        reading=_semisup_errors,
    ),
    "improved_samples": Section(
        heading="Improved GAN, Figures 3 to 5: feature matching and minibatch discrimination",
        pictures={
            "improved_fig3": "MNIST: feature matching left, minibatch discrimination right",
            "improved_fig4": "CIFAR-10: feature matching left, minibatch discrimination right",
            "improved_fig5": "SVHN: feature matching left, minibatch discrimination right",
        },
        text="The first samples of a run's first network at the end of its training, at fixed z; nothing is chosen by "
        "eye. Left the generators of the classifiers in the tables, right those with minibatch "
        "discrimination. How far samples are from each other says whether they repeat, and nothing of their quality, "
        "which nothing here measures; the paper judged the looks of its own samples by eye.",
        embedded="In this profile the schedules of both halves are too short, and the nets too small, for good images: "
        "the pictures do not show which technique makes better ones.",
        reading=_improved_samples,
    ),
    "improved_table3": Section(
        heading="Improved GAN, Table 3: the scores in a picture, and samples of every row",
        pictures={
            "improved_table3_scores": "The paper's Inception scores; scores by our own classifier, a dot a seed",
            "score_over_steps": "Score over the updates, of generators kept on the way",
            "improved_table3_samples": "Samples of every row of Table 3, and the best ones of our methods",
        },
        text="The scores stand in two panels because they are two measures. A dot is a seed, its bar the deviation "
        "over the splits of its images, a line the mean over the seeds. Over the updates a line is the mean over the "
        "seeds, its band goes from the lowest to the highest; those scores are of fewer images, in one part, and so "
        "a little other than the table's. The samples are the first ones of the first seed; nothing is chosen by eye. "
        "The best ones are those whose p(y|x) is furthest from the mean p(y) of all, "
        "by the Inception network where its scores stand in the table, else by our own classifier: the rule that we "
        "read into the paper's top 1 % by Inception score, which it does not explain.",
        reading=_improved_table3,
    ),
    "imagenet128": Section(
        heading="Improved GAN, Figure 6: ImageNet at 128 x 128",
        pictures={"improved_fig6": "ImageNet at 128 x 128: plain DCGAN left, the improved techniques right"},
        text="The first samples of either run after its last epoch, at fixed z; nothing is chosen by eye. The paper "
        "judges the looks: recognisable features of animals without right anatomy. Nothing here measures that.",
        embedded="In this profile nets and schedules are far too small for recognisable objects.",
        reading=_imagenet128,
    ),
    "turing": Section(
        heading="Improved GAN, Figure 2: the screen of the visual Turing test",
        pictures={"improved_fig2": "A screen of nine images, and the same after an answer, its mistakes outlined"},
        text="Left what an annotator sees, right how mistakes are told in feedback mode. An example: its answers were "
        "drawn by seed, two of them wrong; no human gave them, and they enter no number.",
        reading=_turing,
    ),
    "grids": Section(
        heading="DCGAN, Figures 10 and 11: faces and ImageNet",
        pictures={"dcgan_fig10": "Samples of faces", "dcgan_fig11": "Samples of ImageNet"},
        text="",
        reading=_grids,
    ),
    "distances": Section(
        heading="How near the samples are to images",
        pictures={
            "sample_distances": "Mean distance over the number of samples; distance to the nearest training image"
        },
        text="Left the progress metric of the authors' code, which the paper does not print: the mean distance "
        "(Euclidean, pixels from 0 to 1) of images to the nearest of so many samples. Theirs was measured on training "
        "images, so held-out ones stand beside them here. Right a check of ours for stored images. DCGAN, section 6, "
        "makes no such search: neighbours in pixel space are trivially fooled by small changes of an image, and so, it "
        "says, are those in feature space. Ours are neighbours in D's features, set beside those of held-out images: "
        "copies would be much nearer to a training image than held-out images are. Distances like theirs do not rule "
        "out copies that were changed. A ratio below 1 need not mean copies: flat images, such as ImageNet's flat "
        "textures, are near to anything.",
        reading=_distances,
        more=_nearest,
    ),
}
