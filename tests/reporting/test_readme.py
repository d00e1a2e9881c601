"""The README's table of results is what the committed CSVs say."""

import json
import re

import pandas as pd
import pytest

ROWS = {"Real Data": "Real Data", "GAN": "GAN", "DCGAN": "DCGAN (ours)"}
COLUMNS = {"50 K": "test_error_50k_samples", "10 M": "test_error_10m_samples"}


def printed_rows(root) -> list[list[str]]:
    lines = (root / "README.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return [row for row in cells if row[0] in ROWS and len(row) == 6]


def as_printed(row: pd.Series) -> str:
    if pd.isna(row["measured"]):
        return "not run yet"
    return f"{row['measured']:.2f}" + (f" ± {row['spread']:.2f}" if pd.notna(row["spread"]) else "")


def test_every_result_is_printed(root):
    assert [(row[0], row[1]) for row in printed_rows(root)] == [
        ("Real Data", "50 K"), ("GAN", "50 K"), ("GAN", "10 M"), ("DCGAN", "50 K"), ("DCGAN", "10 M"),
    ]  # fmt: skip


@pytest.mark.parametrize(("profile", "cell"), [("paper", 3), ("laptop", 4), ("embedded", 5)])
def test_numbers_are_those_of_the_tables(root, profile, cell):
    table = pd.read_csv(root / f"reports/{profile}/tables/dcgan_table3.csv").set_index(["row", "column"])
    for printed in printed_rows(root):
        row = table.loc[(ROWS[printed[0]], COLUMNS[printed[1]])]
        assert float(printed[2]) == row["paper"]
        assert re.sub(r" \(.*\)", "", printed[cell]) == as_printed(row)


PROBES = {
    "K-means, one layer": "1 Layer K-means",
    "D trained on ImageNet": "DCGAN (ours) + L2-SVM",
    "D trained on CIFAR-10": "DCGAN trained on CIFAR-10 + L2-SVM",
    "D untrained": "Random D + L2-SVM",
}
LABELS = {"all": "accuracy_full_train", "400 a class": "accuracy_400_per_class"}
WITH_1000_LABELS = {
    "nearest neighbour on pixels": ("KNN", "test_error_1000_labels"),
    "D trained on SVHN": ("DCGAN (ours) + L2-SVM", "test_error_1000_labels"),
    "D trained on ImageNet": ("DCGAN trained on ImageNet + L2-SVM", "test_error_1000_labels"),
    "D untrained": ("Random D + L2-SVM", "test_error_1000_labels"),
    "supervised CNN, validation": ("Supervised CNN with the same architecture", "validation_error_1000_labels"),
    "supervised CNN, test": ("Supervised CNN with the same architecture", "test_error_1000_labels"),
}


def cells_of(root, width: int) -> list[list[str]]:
    lines = (root / "README.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return [row for row in cells if len(row) == width]


def published(row: pd.Series) -> str:
    if pd.isna(row["paper"]):
        return ""
    return f"{row['paper']:g}" + (f" ± {row['paper_spread']:g}" if pd.notna(row["paper_spread"]) else "")


def test_table_1_is_that_of_the_reports(root):
    tables = [pd.read_csv(root / f"reports/{profile}/tables/dcgan_table1.csv") for profile in ("laptop", "embedded")]
    rows = [row for row in cells_of(root, 5) if row[0] in PROBES and row[1] in LABELS]
    assert [(row[0], row[1]) for row in rows] == [(name, labels) for name in PROBES for labels in LABELS]
    for name, labels, printed, *measured in rows:
        for table, cell in zip(tables, measured, strict=True):
            row = table.set_index(["row", "column"]).loc[(PROBES[name], LABELS[labels])]
            assert (printed, cell) == (published(row), as_printed(row))


def test_table_2_is_that_of_the_reports(root):
    table = pd.read_csv(root / "reports/embedded/tables/dcgan_table2.csv").set_index(["row", "column"])
    rows = [row for row in cells_of(root, 3) if row[0] in WITH_1000_LABELS]
    assert [row[0] for row in rows] == list(WITH_1000_LABELS)
    for name, printed, measured in rows:
        row = table.loc[WITH_1000_LABELS[name]]
        assert (printed, measured) == (published(row), as_printed(row))


SETTINGS = {
    "equal codes (the paper's rule)": "exact",
    "scale 1.1, 5 neighbours, smallest faces": "plain",
    "chosen on the other half": "chosen",
    "configured: what the set is made with": "configured",
}
KNOWN = {
    "near-duplicates planted in rendered bedrooms": ("duplicates", "lsun"),
    "altered photographs of packages": ("duplicates", "neardup"),
    "altered real photographs": ("duplicates", "neardup"),
    "faces, rendered heads": ("faces", None),
    "faces, real photographs": ("faces", None),
}


def test_shares_of_the_assembly_are_those_of_the_metrics(root):
    lines = (root / "README.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    rows = [row for row in cells if row[0] in KNOWN]
    assert {row[0] for row in rows} == set(KNOWN)
    for what, profile, setting, n, recall, precision, wrongly in rows:
        figure, part = KNOWN[what]
        metrics = json.loads((root / f"reports/{profile}/metrics/{figure}.json").read_text(encoding="utf-8"))
        found = (metrics[part] if part else metrics)[SETTINGS.get(setting, "best")]
        if setting not in SETTINGS:
            offsets = "nine offsets" if found["offsets"] else "as it is"
            assert setting == f"chosen: radius {found['radius']}, {offsets}"
        low, high = found["recall_low_percent"], found["recall_high_percent"]
        assert recall == f"{found['recall_percent']:.1f} ({low:.1f} to {high:.1f})"
        assert precision == f"{found['precision_percent']:.1f}"
        assert int(n) == found["n_true" if figure == "faces" else "n_altered"]
        assert wrongly == ("" if figure == "faces" else f"{found['wrongly_removed_percent']:.1f}")


def metrics_of(root, figure, profile="embedded"):
    return json.loads((root / f"reports/{profile}/metrics/{figure}.json").read_text(encoding="utf-8"))


def interval(numbers, name):
    low, high = numbers["low_percent"], numbers["high_percent"]
    return f"{numbers[f'{name}_percent']:.1f} % ({low:.1f} to {high:.1f})"


def test_numbers_of_the_figures_are_those_of_the_metrics(root):
    text = (root / "README.md").read_text(encoding="utf-8").split("<!-- internals -->")[1].split("<!-- end -->")[0]
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    responses, forgotten, ours, exemplars, pixels, turn, walk = [row[1:3] for row in cells[2:]]
    guided, windows = metrics_of(root, "dcgan_fig5"), metrics_of(root, "dcgan_fig6")["layer_8x8"]
    energy = {name: guided[name]["energy_in_boxes"] for name in ("trained", "random")}
    assert responses == [
        interval(energy["trained"], "mean").replace(" (", " of the guided gradient's energy in their boxes ("),
        "random D " + interval(energy["random"], "mean"),
    ]

    def falls(name):
        return [f"-{windows[name][f'{part}_fall_percent']:.0f} %" for part in ("windows", "beds")]

    assert forgotten == [
        "images with a window {}, with a bed {}".format(*falls("windows_dropped")),
        "random maps {}, {}".format(*falls("random_dropped")),
    ]
    assert ours == [
        "{}, {}".format(*falls("strongest_dropped")),
        "random maps {}, {}".format(*falls("random_strongest_dropped")),
    ]
    sums = metrics_of(root, "dcgan_fig7")
    three, one = (interval(sums["z"][f"exemplars_{n}"], "share") for n in (3, 1))
    assert exemplars == [three.replace(" (", " of 200 problems ("), f"one: {one}"]
    shares = [f"{sums[space]['exemplars_3']['share_percent']:.1f} %" for space in ("z", "pixels")]
    assert pixels[0] == "z {}, pixels {} (three exemplars)".format(*shares)
    assert pixels[1] == f"random samples {sums['chance']['exemplars_0']['share_percent']:.1f} %"
    yaw = metrics_of(root, "dcgan_fig8")
    rise = f"{yaw['yaw_rise']['mean_deg']:.1f} ± {yaw['yaw_rise']['sd_over_vectors_deg']:.1f} degrees"
    within, over_all = yaw["correlation_within_samples"], yaw["correlation"]
    assert turn[0] == f"yaw rises by {rise}; correlation within a face {within:.2f}, over all {over_all:.2f}"
    assert turn[1] == f"smile changes in {yaw['changed']['smile_percent']:.0f} % of the faces"
    steps = [metrics_of(root, name)["features"] for name in ("dcgan_fig4", "dcgan_fig4_faces")]
    largest, median = ([f"{step[f'{name}_step_percent']:.0f} %" for step in steps] for name in ("largest", "median"))
    assert walk[0] == "largest step {} (rooms), {} (faces) of the distance of two random z".format(*largest)
    assert walk[1] == "median step {}, {}".format(*median)


SEMISUPERVISED = {
    "MNIST": ("improved_table1", (20, 50, 100, 200)),
    "CIFAR-10": ("improved_table2", (1000, 2000, 4000, 8000)),
    "SVHN": ("improved_svhn", (500, 1000, 2000)),
}
OUR_MODEL, ENSEMBLE, ALONE = "Our model", "Ensemble of 10 of our models", "Same network, labels only"
SEMISUPERVISED_CELLS = [  # profile, row
    *(("published", OUR_MODEL), ("published", ENSEMBLE), ("paper", OUR_MODEL), ("laptop", OUR_MODEL)),
    *(("laptop", ENSEMBLE), ("embedded", OUR_MODEL), ("embedded", ENSEMBLE), ("embedded", ALONE)),
]


def semisupervised_cell(root, table, profile, row, column):
    file = root / f"reports/{'embedded' if profile == 'published' else profile}/tables/{table}.csv"
    found = pd.read_csv(file) if file.is_file() else pd.DataFrame(columns=["row", "column"])
    found = found[(found["row"] == row) & (found["column"] == column)]
    if found.empty or pd.isna(found["paper" if profile == "published" else "measured"].iloc[0]):
        return ""
    (printed,) = found.to_dict("records")
    if profile == "published":
        return published(pd.Series(printed))
    digits = 0 if printed["unit"] == "errors_of_10000" else 2
    spread = f" ± {printed['spread']:.{digits}f}" if pd.notna(printed["spread"]) else ""
    return f"{printed['measured']:.{digits}f}{spread}"


def test_the_semi_supervised_errors_are_those_of_the_tables(root):
    text = (root / "README.md").read_text(encoding="utf-8").split("<!-- semisup -->")[1].split("<!-- end -->")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.strip().splitlines()]
    expected = [
        [f"{data}, {n:,}", *(semisupervised_cell(root, table, *which, f"labels_{n}") for which in SEMISUPERVISED_CELLS)]
        for data, (table, counts) in SEMISUPERVISED.items()
        for n in counts
    ]
    assert cells[2:] == expected
    assert any(row[6] for row in expected), "the embedded tables have been made"
