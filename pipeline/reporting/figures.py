"""Arrays in, one figure out, with the numbers behind it; no model is loaded here."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.core.errors import InputError
from pipeline.core.images import grid
from pipeline.reporting import (
    dataset_figures,
    improved_figures,
    inside_figures,
    latent_figures,
    probe_figures,
    sample_figures,
    sample_grids,
    score_figures,
    score_over_steps,
    toy_figures,
    turing_figures,
)
from pipeline.reporting.drawing import Drawn, Metrics, canvas
from pipeline.reporting.result_files import arrays
from pipeline.reporting.rows import read_results

ROWS, COLUMNS = 10, 7  # of Figure 9
PANELS = {"real": "MNIST", "gan_mnist": "GAN", "dcgan_mnist": "DCGAN"}
MODELS = {"gan_mnist": "GAN", "dcgan_mnist": "DCGAN"}


def dcgan_fig9(results: Path) -> Drawn:
    """DCGAN, Figure 9: real digits, GAN, DCGAN; ten rows of digits, seven of each, the first of their stream.

    Beside each panel: the share of its digits whose nearest real training digit has the asked label.
    """
    figure, axes = canvas(columns=len(PANELS), size=(9.0, 4.6))
    metrics: Metrics = {}
    counts = []
    for axis, (name, title) in zip(axes, PANELS.items(), strict=True):
        sheet = read_sheet(results / f"{name}.npz")
        recognised = sheet["labels"] == sheet["nearest_labels"]
        share = 100 * float(recognised.mean())
        metrics[name] = {"n_images": len(recognised), "recognised_percent": round(share, 2)}
        counts += [
            {"panel": name, "digit": digit, "n_images": int(here.sum()), "recognised": int(recognised[here].sum())}
            for digit in range(ROWS)
            if (here := sheet["labels"] == digit).any()
        ]
        axis.imshow(grid(sheet["images"], rows=ROWS, columns=COLUMNS, gap_px=1), cmap="gray", vmin=0, vmax=255)
        axis.set_axis_off()
        axis.set_title(f"{title}\n{share:.0f} % recognised", fontsize=9)
    return Drawn(figure=figure, metrics=metrics, numbers=pd.DataFrame(counts))


def error_over_n(results: Path) -> Drawn:
    """Error of the nearest-neighbour classifier over the number of generated digits (between Table 3's two columns)."""
    figure, (axis,) = canvas(columns=1, size=(6.4, 4.0))
    metrics: Metrics = {}
    curves = []
    for name, title in MODELS.items():
        curve = curve_of(read_results(results / f"{name}.parquet"))
        axis.errorbar(
            curve["n_images"], curve["error_percent"], yerr=curve["spread"], marker="o", capsize=3, label=title
        )
        metrics[name] = dict(
            zip((f"n_{n}" for n in curve["n_images"]), curve["error_percent"].round(4).tolist(), strict=True)
        )
        curves.append(curve.set_index("n_images")["error_percent"].rename(title.lower()))
    real = read_results(results / "real.parquet")
    n_real, error_real = int(real["n_images"].iloc[0]), float(real["error_percent"].iloc[0])
    metrics["real"] = {f"n_{n_real}": round(error_real, 4)}
    axis.axhline(error_real, color="0.5", linestyle="--", label=f"{n_real:,} real digits")
    axis.set_xscale("log")
    axis.set_xlabel("generated digits")
    axis.set_ylabel("test error, %")
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False)
    axis.grid(alpha=0.3)
    numbers = pd.concat(curves, axis=1).reset_index()
    numbers.insert(0, "log10_n_images", np.log10(numbers["n_images"]))  # DVC's plain template has no log axis
    return Drawn(figure=figure, metrics=metrics, numbers=numbers)


FIGURES: dict[str, Callable[[Path], Drawn]] = {
    "dcgan_fig2": partial(sample_grids.after_epoch, run="dcgan_lsun", last=False),
    "dcgan_fig3": partial(sample_grids.after_epoch, run="dcgan_lsun", last=True),
    "dcgan_fig4": partial(latent_figures.walk, run="dcgan_lsun"),
    "dcgan_fig4_faces": partial(latent_figures.walk, run="dcgan_faces"),
    "dcgan_fig5": partial(inside_figures.guided_backprop, run="dcgan_lsun"),
    "dcgan_fig6": inside_figures.forget_windows,
    "dcgan_fig7": latent_figures.arithmetic,
    "dcgan_fig8": latent_figures.turn,
    "toy_games": toy_figures.toy_games,
    "improved_fig3": partial(
        improved_figures.samples, feature_matching="mnist-100", minibatch_discrimination="mb_mnist"
    ),
    "improved_fig4": partial(
        improved_figures.samples, feature_matching="cifar10-4000", minibatch_discrimination="mb_cifar10"
    ),
    "improved_fig5": partial(
        improved_figures.samples, feature_matching="svhn-1000", minibatch_discrimination="mb_svhn"
    ),
    "semisup_errors": improved_figures.semisup_errors,
    "improved_table3_samples": score_figures.improved_table3_samples,
    "improved_table3_scores": score_figures.improved_table3_scores,
    "score_over_steps": score_over_steps.score_over_steps,
    "improved_fig6": score_figures.improved_fig6,
    "improved_fig2": turing_figures.improved_fig2,
    "dcgan_fig9": dcgan_fig9,
    "dcgan_fig10": partial(sample_grids.of_trained, run="dcgan_faces", columns=14),
    "dcgan_fig11": partial(sample_grids.of_trained, run="dcgan_imagenet", columns=20),
    "sample_distances": sample_grids.sample_distances,
    "error_over_n": error_over_n,
    "duplicates": dataset_figures.duplicates,
    "faces": dataset_figures.faces,
    "table1_probes": probe_figures.table1_probes,
    "table2_probes": probe_figures.table2_probes,
    **{f"samples_{run}": partial(sample_figures.samples, run=run) for run in sample_figures.RUNS},
}


def curve_of(results: pd.DataFrame) -> pd.DataFrame:
    """n_images, error_percent, spread: mean and sample standard deviation over seeds; one seed has no deviation."""
    chosen = results[results["network"] == "generator"].groupby("n_images", sort=True)["error_percent"]
    return pd.DataFrame({"error_percent": chosen.mean(), "spread": chosen.std(ddof=1)}).reset_index()


def read_sheet(path: Path) -> dict[str, np.ndarray]:
    """images uint8 (70, 28, 28, 1), labels and nearest_labels int64 (70,)."""
    sheet = arrays(path, images=4, labels=1, nearest_labels=1)
    if sheet is None:
        message = f"{path}: missing; run dvc repro neighbours@{path.stem}"
        raise InputError(message)
    return sheet
