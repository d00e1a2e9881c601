"""README's results are those of the committed reports: the block that is written, and the numbers in the text."""

import json
import re
import shutil

import pandas as pd
import pytest

from pipeline.core.errors import InputError
from pipeline.project import readme

PROFILES = {"paper": "paper profile", "laptop": "laptop", "embedded": "embedded"}


@pytest.fixture(scope="module")
def printed(root):
    """README's block of results."""
    text = (root / "README.md").read_text(encoding="utf-8")
    return text.partition(readme.BEGIN)[2].partition(readme.END)[0]


def test_the_block_is_what_would_be_written(root, printed):
    assert printed, f"README.md has the lines {readme.BEGIN} and {readme.END}"
    assert printed == "\n" + readme.block(root), "README.md is behind the tables: run `make readme`"


# ---- the block against the tables, without the code that writes it ---------------------------------------------------


def table_under(text, heading):
    """Titles and lines of the table under a heading that begins so."""
    part = text.split(f"### {heading}", maxsplit=1)[1].split("\n### ")[0]
    titles, _, *lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line.startswith("|")
    ]
    return titles, lines


def committed(root, profile, table):
    path = root / f"reports/{profile}/tables/{table}.csv"
    return pd.read_csv(path).set_index(["row", "column"]) if path.is_file() else pd.DataFrame()


def measured(table, row, column):
    if (row, column) not in table.index or pd.isna(table.loc[(row, column), "measured"]):
        return "not run yet"
    cell = table.loc[(row, column)]
    numbers = [cell[name] for name in ("measured", "spread") if pd.notna(cell[name])]
    digits = 2 if cell["unit"] != "errors_of_10000" else 1 if any(number % 1 for number in numbers) else 0
    return " ± ".join(f"{number:#.2g}" if 0 < number < 0.01 else f"{number:,.{digits}f}" for number in numbers)


def published(row):
    return " ± ".join(f"{row[name]:,.10g}" for name in ("paper", "paper_spread") if pd.notna(row[name]))


def counted(table):
    """How many of the numbers of the paper's authors were measured."""
    ours = table.query("kind == 'ours'")
    return f"{ours['measured'].notna().sum()} of {len(ours)}"


@pytest.mark.parametrize(("profile", "title"), PROFILES.items())
def test_table_3_of_dcgan(root, printed, profile, title):
    titles, lines = table_under(printed, "DCGAN, Table 3")
    table = committed(root, profile, "dcgan_table3")
    rows = {"Real Data": "Real Data", "GAN": "GAN", "DCGAN": "DCGAN (ours)"}
    columns = {"50 K": "test_error_50k_samples", "10 M": "test_error_10m_samples"}
    assert [tuple(line[:2]) for line in lines] == [
        ("Real Data", "50 K"), ("GAN", "50 K"), ("GAN", "10 M"), ("DCGAN", "50 K"), ("DCGAN", "10 M"),
    ]  # fmt: skip
    for line in lines:
        place = rows[line[0]], columns[line[1]]
        assert line[titles.index("published")] == published(table.loc[place])
        assert re.sub(r" \(.*\)", "", line[titles.index(title)]) == measured(table, *place)
        nominal = {"50 K": 50_000, "10 M": 10_000_000}[line[1]]
        assert ("(" in line[titles.index(title)]) == (table.loc[place, "n_images"] != nominal)


def test_table_1_of_dcgan(root, printed):
    titles, lines = table_under(printed, "DCGAN, Table 1")
    rows = {
        "K-means, one layer": "1 Layer K-means",
        "D trained on ImageNet": "DCGAN (ours) + L2-SVM",
        "D trained on CIFAR-10": "DCGAN trained on CIFAR-10 + L2-SVM",
        "D untrained": "Random D + L2-SVM",
    }
    columns = {"all": "accuracy_full_train", "400 a class": "accuracy_400_per_class"}
    assert [tuple(line[:2]) for line in lines] == [(row, labels) for row in rows for labels in columns]
    assert "embedded" in titles
    for title in titles[3:]:
        (profile,) = (name for name, told in PROFILES.items() if told == title)
        table = committed(root, profile, "dcgan_table1")
        for line in lines:
            assert line[titles.index(title)] == measured(table, rows[line[0]], columns[line[1]])


def test_table_2_of_dcgan(root, printed):
    titles, lines = table_under(printed, "DCGAN, Table 2")
    table = committed(root, "embedded", "dcgan_table2")
    at_1000 = {"nearest neighbour on pixels": "KNN", "D trained on SVHN": "DCGAN (ours) + L2-SVM",
               "D trained on ImageNet": "DCGAN trained on ImageNet + L2-SVM", "D untrained": "Random D + L2-SVM",
               "supervised CNN, test": "Supervised CNN with the same architecture"}  # fmt: skip
    found = {line[0]: line for line in lines}
    assert set(found) == {*at_1000, "supervised CNN, validation"}
    for name, row in at_1000.items():
        assert found[name][titles.index("embedded")] == measured(table, row, "test_error_1000_labels")
        assert found[name][1] == published(table.loc[(row, "test_error_1000_labels")])


SEMISUPERVISED = {
    "MNIST": ("improved_table1", (20, 50, 100, 200)),
    "CIFAR-10": ("improved_table2", (1000, 2000, 4000, 8000)),
    "SVHN": ("improved_svhn", (500, 1000, 2000)),
}
NETWORKS = {"": "Our model", ", ensemble": "Ensemble of 10 of our models", ", labels only": "Same network, labels only"}


@pytest.mark.parametrize("data", SEMISUPERVISED)
def test_classification_with_few_labels(root, printed, data):
    titles, lines = table_under(printed, "Improved GAN, Tables 1 and 2 and SVHN")
    name, counts = SEMISUPERVISED[data]
    found = {line[0]: line for line in lines}
    for n_labels in counts:
        line = found[f"{data}, {n_labels:,}"]
        for profile, title in PROFILES.items():
            table = committed(root, profile, name)
            for what, row in NETWORKS.items():
                if title + what not in titles:
                    assert measured(table, row, f"labels_{n_labels}") == "not run yet", title + what
                    continue
                told = line[titles.index(title + what)] or "not run yet"
                assert told == measured(table, row, f"labels_{n_labels}")
    assert any(re.match(r"\d", line[titles.index("embedded")]) for line in lines)


def test_table_3_of_improved_gan(root, printed):
    titles, lines = table_under(printed, "Improved GAN, Table 3")
    assert [line[0] for line in lines] == ["Real data", "Our methods", "-VBN+BN", "-L+HA", "-LS", "-L", "-MBF"]
    columns = {"classifier score": "classifier_score", "Fréchet distance": "classifier_frechet",
               "Inception score": "inception_score"}  # fmt: skip
    for profile, name in PROFILES.items():
        table = committed(root, profile, "improved_table3")
        for told, column in columns.items():
            title = f"{name}, {told}"
            for line in lines:
                number = measured(table, line[0], column)
                assert (line[titles.index(title)] if title in titles else "not run yet") == number


def test_how_much_was_measured_is_counted(root, printed):
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines()
             if line.startswith("| DCGAN, Table 3 |")]  # fmt: skip
    ((_, *counts),) = lines
    for profile, count in zip(PROFILES, counts, strict=True):
        assert count == counted(committed(root, profile, "dcgan_table3"))


# ---- writing it ------------------------------------------------------------------------------------------------------


@pytest.fixture
def project(root, tmp_path):
    """A README around the committed tables."""
    shutil.copytree(root / "reports", tmp_path / "reports", ignore=lambda _, names: {"figures", "sheets"} & {*names})
    text = f"# Title\n\n{readme.BEGIN}\nold\n{readme.END}\n\nBy hand.\n"
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    return tmp_path


def rewritten(project):
    readme.rewrite(project)
    return (project / "README.md").read_text(encoding="utf-8")


def test_only_what_is_between_the_markers_is_written(project, root):
    text = rewritten(project)
    assert text.startswith(f"# Title\n\n{readme.BEGIN}\n\nHow many")
    assert text.endswith(f"\n\n{readme.END}\n\nBy hand.\n")
    assert "\nold\n" not in text
    assert rewritten(project) == text, "twice is once"
    assert readme.block(root) in text


def test_a_new_number_comes_into_the_text(project):
    place = "GAN", "test_error_10m_samples"
    path = project / "reports/paper/tables/dcgan_table3.csv"
    table = pd.read_csv(path)
    here = (table["row"] == place[0]) & (table["column"] == place[1])
    table.loc[here, ["measured", "spread", "n_images"]] = [98.765, None, 10_000_000]
    table.to_csv(path, index=False)
    laptop = committed(project, "laptop", "dcgan_table3")
    number = f"| GAN | 10 M | {published(laptop.loc[place])} | 98.77 | {measured(laptop, *place)}"
    assert number in rewritten(project)


def test_errors_are_whole_and_their_means_are_not(project):
    path = project / "reports/laptop/tables/improved_table1.csv"
    table = pd.read_csv(path)
    for row, number, spread in (("Our model", 1423.5, 10.25), ("Ensemble of 10 of our models", 1424, None)):
        here = (table["row"] == row) & (table["column"] == "labels_20")
        table.loc[here, ["measured", "spread"]] = [number, spread]
    table.to_csv(path, index=False)
    titles, lines = table_under(rewritten(project), "Improved GAN, Tables 1 and 2 and SVHN")
    (line,) = (line for line in lines if line[0] == "MNIST, 20")
    assert line[titles.index("laptop")] == "1,423.5 ± 10.2"
    assert line[titles.index("laptop, ensemble")] == "1,424"


def test_a_small_number_is_not_written_as_zero(project):
    path = project / "reports/laptop/tables/improved_table3.csv"
    table = pd.read_csv(path)
    here = (table["row"] == "-L") & (table["column"] == "classifier_frechet")
    table.loc[here, ["measured", "spread"]] = [0.00123, 0.0]
    table.to_csv(path, index=False)
    titles, lines = table_under(rewritten(project), "Improved GAN, Table 3")
    (line,) = (line for line in lines if line[0] == "-L")
    assert line[titles.index("laptop, Fréchet distance")] == "0.0012 ± 0.00"


def test_what_was_not_run_is_said(project):
    (project / "reports/paper/tables/dcgan_table3.csv").unlink()
    text = rewritten(project)
    titles, _ = table_under(text, "DCGAN, Table 3")
    assert titles == ["row", "digits", "published", "laptop", "embedded"]
    assert "Not run yet: paper profile." in text.split("### DCGAN, Table 3")[1].split("###")[0]
    counts = [counted(committed(project, profile, "dcgan_table3")) for profile in ("laptop", "embedded")]
    assert f"| DCGAN, Table 3 | not run yet | {' | '.join(counts)} |" in text
    for path in (project / "reports").glob("*/tables/turing.csv"):
        path.unlink()
    assert "Not run yet in any profile." in rewritten(project).split("the visual Turing test")[-1]


def test_verdicts_on_the_claims_are_counted(project):
    path = project / "reports/embedded/tables/claims.csv"
    claims = {
        "ablation": ["train.beta1=0.9", "", "", ""],
        "verdict": ["supported", "undecided", "supported", "not tested"],
    }
    pd.DataFrame(claims).to_csv(path, index=False)
    text = " ".join(rewritten(project).split())
    assert (
        "Of 4 claims of the papers, tested by ablations on embedded data: 1; by comparing committed results: 2; "
        "not tested: 1. Verdicts: 2 supported, 1 undecided (" in text
    )
    pd.DataFrame({"ablation": [], "verdict": []}).to_csv(path, index=False)
    assert "claims of the papers" not in rewritten(project)


@pytest.mark.parametrize(
    "text",
    ["", readme.BEGIN, readme.END, f"{readme.END}\n{readme.BEGIN}", f"{readme.BEGIN}\n{readme.END}\n" * 2,
     f"{readme.BEGIN}\n{readme.BEGIN}\n{readme.END}"],
)  # fmt: skip
def test_markers_that_are_missing_or_doubled_are_refused(project, text):
    (project / "README.md").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="once each, in this order"):
        readme.rewrite(project)
    assert (project / "README.md").read_text(encoding="utf-8") == text


def test_no_readme_or_a_broken_table_is_refused(project):
    table = project / "reports/laptop/tables/dcgan_table1.csv"
    table.write_text("row,column\na,b\n")
    with pytest.raises(InputError, match=r"dcgan_table1\.csv: column kind, measured"):
        readme.rewrite(project)
    table.write_text("")
    with pytest.raises(InputError, match=r"dcgan_table1\.csv: not a readable CSV"):
        readme.rewrite(project)
    (project / "README.md").unlink()
    with pytest.raises(InputError, match=r"README\.md: missing"):
        readme.rewrite(project)


# ---- numbers in README's own words -----------------------------------------------------------------------------------


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

    seen = [f"{guided[name]['energy_in_window']['mean_percent']:.1f} %" for name in ("trained", "random")]
    assert cells[2][3].startswith("windows yes ({}, random D {}), beds no;".format(*seen))

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
