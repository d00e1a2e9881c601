"""How well near-duplicates and faces were found, where the truth is known."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.core.records import read_parquet
from pipeline.reporting.drawing import Drawn, Metrics, canvas, empty

DUPLICATE_SETS = {"lsun": "near-duplicates planted in LSUN", "neardup": "altered photographs"}
REPORT_HALF = "report"  # of the groups; radius and offsets were chosen on the other half
TEST_HALF = "test"  # of the photographs, likewise
SHOWN_COUNTS = [
    "n_queries",
    "n_found",
    "recall",
    "true_pairs",
    "false_pairs",
    "precision",
    "n_removed",
    "n_removed_wrongly",
]


def duplicates(results: Path) -> Drawn:
    """Recall and precision of the hash over the Hamming radius, and recall of each alteration; a row of panels a set.

    Exact equality is radius 0 without offsets: the paper's rule. Mirrored copies are no duplicates.
    """
    tables = {name: _rows(results / f"duplicates_{name}.parquet") for name in DUPLICATE_SETS}
    tables = {name: table[table["half"] == REPORT_HALF] for name, table in tables.items() if len(table)}
    if not tables:
        return empty("no image set with known near-duplicates in this profile")
    figure, axes = canvas(rows=len(tables), columns=2, size=(11.0, 4.6 * len(tables)))
    metrics: Metrics = {}
    for (curve_axis, recall_axis), (name, table) in zip(
        zip(axes[::2], axes[1::2], strict=True), tables.items(), strict=True
    ):
        whole = table[table["alteration"] == "all"].sort_values(["offsets", "radius"])
        exact = whole[(whole["radius"] == 0) & ~whole["offsets"]].iloc[0]
        best = whole[whole["best"]].iloc[0] if whole["best"].any() else None
        metrics[name] = {"exact": _shares(exact)}
        if best is not None:
            setting = {"radius": int(best["radius"]), "offsets": int(best["offsets"])}
            metrics[name]["best"] = setting | _shares(best)
        _draw_curves(curve_axis, whole, DUPLICATE_SETS[name])
        _draw_recall(recall_axis, table, offsets=bool(best["offsets"]) if best is not None else False)
    keys = ["offsets", "radius", "alteration", "duplicate"]
    numbers = pd.concat([table.assign(set=name) for name, table in tables.items()])
    return Drawn(figure=figure, metrics=metrics, numbers=numbers[["set", *keys, *SHOWN_COUNTS, "chosen", "best"]])


def _rows(path: Path) -> pd.DataFrame:
    return read_parquet(path) if path.is_file() else pd.DataFrame()


def _shares(row: pd.Series) -> Metrics:
    shares: Metrics = {"n_altered": int(row["n_queries"])}
    for name in ("recall", "recall_low", "recall_high", "precision"):
        if pd.notna(row[name]):
            shares[f"{name}_percent"] = round(100 * float(row[name]), 2)
    if row["n_removed"]:
        shares["wrongly_removed_percent"] = round(100 * float(row["n_removed_wrongly"] / row["n_removed"]), 2)
    return shares | {"false_pairs": int(row["false_pairs"])}


def _draw_curves(axis: Any, whole: pd.DataFrame, title: str) -> None:
    for offsets, style in ((False, "--"), (True, "-")):
        curve = whole[whole["offsets"] == offsets]
        for name, colour in (("recall", "C0"), ("precision", "C1")):
            label = f"{name}, {'nine offsets' if offsets else 'as it is'}"
            label = label.replace("precision", "precision of pairs")
            axis.plot(curve["radius"], 100 * curve[name], style, color=colour, marker="o", markersize=3, label=label)
            low, high = 100 * curve[f"{name}_low"], 100 * curve[f"{name}_high"]
            axis.fill_between(curve["radius"], low, high, color=colour, alpha=0.12, linewidth=0)
        gone = curve["n_removed"].astype(float)
        wrong = 100 * curve["n_removed_wrongly"].astype(float) / gone.where(gone > 0)
        label = f"removed wrongly, {'nine offsets' if offsets else 'as it is'}"
        axis.plot(curve["radius"], wrong, style, color="C3", marker="x", markersize=3, label=label)
    axis.set_title(title, fontsize=10)
    axis.set_xlabel("Hamming radius, bits of 128")
    axis.set_ylabel("%")
    axis.set_ylim(0, 102)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, fontsize=8)


def _draw_recall(axis: Any, table: pd.DataFrame, *, offsets: bool) -> None:
    shown = table[(table["offsets"] == offsets) & (table["alteration"] != "all")]
    recall = 100 * shown.pivot_table(index="alteration", columns="radius", values="recall", sort=True)
    duplicate = shown.drop_duplicates("alteration").set_index("alteration")["duplicate"]
    recall = recall.loc[recall.mean(axis=1).sort_values(ascending=False, kind="stable").index]
    axis.imshow(recall, aspect="auto", cmap="viridis", vmin=0, vmax=100)
    for row, values in enumerate(recall.to_numpy()):
        for column, value in enumerate(values):
            axis.text(
                column, row, f"{value:.0f}", ha="center", va="center", fontsize=7, color="k" if value > 60 else "w"
            )
    axis.set_xticks(np.arange(recall.shape[1]), recall.columns)
    names = [name if duplicate[name] else f"{name} (no duplicate)" for name in recall.index]
    axis.set_yticks(np.arange(len(recall)), names, fontsize=8)
    axis.set_xlabel("Hamming radius, bits of 128")
    axis.set_title(f"% of altered images found, {'nine offsets' if offsets else 'as they are'}", fontsize=10)


def faces(results: Path) -> Drawn:
    """Recall of the face detector by group, and precision and recall of the settings tried, on the reported half."""
    table = _rows(results / "face_accuracy.parquet")
    if not len(table):
        return empty("no photographs with true boxes in this profile")
    table = table[table["half"] == TEST_HALF]
    figure, (group_axis, setting_axis) = canvas(columns=2, size=(11.0, 5.0))
    configured = table[table["configured"] & (table["n_true"] > 0)]
    place = np.arange(len(configured))
    recall = 100 * configured["recall"].to_numpy()
    spread = np.abs(100 * configured[["recall_low", "recall_high"]].to_numpy().T - recall)
    group_axis.barh(place, recall, xerr=spread, color="C0", alpha=0.7, capsize=2)
    names = [f"{group} ({n:,})" for group, n in zip(configured["group"], configured["n_true"], strict=True)]
    group_axis.set_yticks(place, names, fontsize=8)
    group_axis.invert_yaxis()
    group_axis.set_xlim(0, 102)
    group_axis.set_xlabel("faces found, %")
    group_axis.set_title("Configured detector, by group (true faces)", fontsize=10)
    whole = table[table["group"] == "all"]
    metrics: Metrics = {}
    setting_axis.plot(100 * whole["recall"], 100 * whole["precision"], ".", color="0.6", label="settings tried")
    marked = {"configured": whole[whole["configured"]], "chosen": whole[whole["chosen"]], "plain": _plain(whole)}
    for (name, found), marker, colour in zip(marked.items(), "s*o", ("C0", "C3", "C2"), strict=True):
        if found.empty:
            continue
        row = found.iloc[0]
        names = ("recall", "recall_low", "recall_high", "precision", "f1")
        shares = {share: round(100 * float(row[share]), 2) for share in names}
        metrics[name] = {f"{share}_percent": value for share, value in shares.items()}
        metrics[name] |= {"n_true": int(row["n_true"]), "n_detected": int(row["n_detected"])}
        kept = table[(table["setting"] == row["setting"]) & (table["group"] == f"width >= {row['min_size']} px")]
        if len(kept) and kept["n_true"].iloc[0]:  # of the faces that are as large as those to be kept
            metrics[name]["recall_of_kept_sizes_percent"] = round(100 * float(kept["recall"].iloc[0]), 2)
        label = f"{name}: {row['setting']}"
        setting_axis.plot(shares["recall"], shares["precision"], marker, color=colour, markersize=10, label=label)
    setting_axis.set_xlabel("recall, %")
    setting_axis.set_ylabel("precision, %")
    setting_axis.set_title("Settings, tuned on the other half of the photographs", fontsize=10)
    setting_axis.grid(alpha=0.3)
    setting_axis.legend(frameon=False, fontsize=8)
    return Drawn(figure=figure, metrics=metrics, numbers=table.drop(columns="half"))


def _plain(whole: pd.DataFrame) -> pd.DataFrame:
    """The usual setting among those tried, for faces of any size: scale factor 1.1, five neighbours."""
    usual = whole[(whole["scale_factor"] == 1.1) & (whole["min_neighbours"] == 5) & ~whole["configured"]]
    return usual.sort_values("min_size", kind="stable")
