"""report.md and the provenance of its numbers."""

import json
import re

import made_results as made
import made_scores as scores
import made_semisupervised as semisup
import numpy as np
import pandas as pd
import pytest

from pipeline import papers
from pipeline.core.errors import InputError
from pipeline.core.records import COLUMNS, write_metrics, write_table
from pipeline.reporting import page, readings, tables
from pipeline.reporting.figures import FIGURES
from pipeline.reporting.result_files import NOT_KEPT, NOT_KNOWN
from pipeline.reporting.rows import Report
from pipeline.reporting.semisup_tables import ALL_NETWORKS

DATASETS = {"mnist": "a few digits", "cifar10": "ten photographs", "svhn": "drawn house numbers"}
NOTES = {"dcgan_lsun": "16 filters", "dcgan_faces": "60 epochs", "dcgan_imagenet": ""}
REPORT = Report(comparable="no", notes=NOTES, datasets=DATASETS)
MACHINE = {"device": "cpu", "threads": 2, "precision": "bf16", "instruction_set": "avx512+amx+bf16"}


def model(folder, name: str, **machine):
    (folder / name).mkdir()
    run = {"run": name, "steps": 1320, "params": {"seeds": [0, 1]}} | MACHINE | machine
    (folder / name / "run.json").write_text(json.dumps(run))
    history = {"seed": [0, 0, 1], "d_loss": [9.0, 1.0, 3.0], "g_loss": [9.0, 1.0, 2.0], "d_real": 0.5, "d_fake": 0.25}
    pd.DataFrame(history).to_parquet(folder / name / "history.parquet")
    validation = {"seed": [0, 0, 1], "epoch": [4, 8, 8], "chosen": [True, False, True]}
    pd.DataFrame(validation).to_parquet(folder / name / "validation.parquet")
    health = {"seed": [0, 0, 1], "epoch": [1, 2, 2], "diversity": [0.5, 0.01, 0.5], "collapsed": [False, True, False]}
    pd.DataFrame(health).to_parquet(folder / name / "health.parquet")
    return folder / name


def probe(error, n_draws):
    rows = [("test", 400, 4000, 0.01, draw, error + draw, 10_000, 28_672, 512) for draw in range(n_draws)]
    columns = ["purpose", "labels_per_class", "n_labels", "setting", "draw", "error_percent", "n_images"]
    return pd.DataFrame(rows, columns=[*columns, "n_features", "max_feature_units"])


@pytest.fixture
def reports(tmp_path):
    """Tables of a profile of which little was run."""
    results = tmp_path / "results"
    results.mkdir()
    probe(26.0, 3).to_parquet(results / "cifar10.parquet")
    for name in ("dcgan_table1", "dcgan_table2", "dcgan_table3"):
        write_table(
            tables.TABLES[name][1](results, REPORT),
            "T",
            csv=tmp_path / f"tables/{name}.csv",
            md=tmp_path / "t.md",
            metrics=tmp_path / "m.json",
        )
    return tmp_path


def test_page_shows_tables_figures_and_runs(reports):
    text = page.report_page("embedded", REPORT, reports, [model(reports, "dcgan_mnist")], reports / "metrics")
    assert "They reproduce nothing" in text
    assert "| AlignMNIST | test_error_10m_samples | 1.4 |" in text
    for name in ("dcgan_fig9", "error_over_n", "table1_probes", "table2_probes"):
        assert f"](figures/{name}.png)" in text
    assert "| dcgan_mnist | 0, 1 | 1,320 | 4, 8 | 2.000 | 1.500 | 0.500 | 0.250 |" in text


def test_page_has_every_row_of_the_probes(reports):
    text = page.report_page("embedded", REPORT, reports, [], reports / "metrics")
    for printed in (*papers.DCGAN_TABLE1, *papers.DCGAN_TABLE2):
        assert f"| {printed.row} | {printed.column} |" in text
    assert f"| {papers.DCGAN_SVM} | accuracy_400_per_class | 73.8 ± 0.4 | 73.00 ± 1.00 | draws |" in text
    assert f"| {papers.DCGAN_SVM} | max_feature_units | 512 | 512 |  |" in text
    assert f"| {papers.KMEANS} | max_feature_units | 4,800 |  |  | not run in this profile yet |" in text


def test_page_shows_the_samples_of_the_colour_runs_that_were_trained(reports):
    released = model(reports, "dcgan_imagenet", released="a folder of arrays")
    runs = [model(reports, "dcgan_mnist"), model(reports, "dcgan_svhn"), released, reports / "dcgan_faces"]
    write_metrics(reports / "metrics/samples_dcgan_svhn.json", {"n_images": 25, "scale": 4, "n_colours": 186})
    text = page.report_page("embedded", REPORT, reports, runs, reports / "metrics")
    assert re.findall(r"\(figures/(samples_\w+)\.png\)", text) == ["samples_dcgan_svhn"]
    assert "dcgan_svhn: images enlarged 4 times, in 186 colours." in text
    assert "dcgan_imagenet: no samples were kept: these networks were released" in text
    only = "\n".join(page._samples([released], reports / "metrics"))
    assert "no samples were kept" in only
    assert readings.NOT_RUN not in only


@pytest.mark.parametrize(
    ("scale", "told"), [(1, "at their own size, in 9"), (2, "enlarged 2 times, in 9"), (0.375, "at 37.5 %, in 9")]
)
def test_a_picture_says_how_its_images_were_changed(scale, told):
    assert readings.rendition({"scale": scale, "n_colours": 9}) == f"{told} colours"


def test_every_picture_of_samples_has_a_place():
    assert {f"samples_{run}" for run in page.SAMPLES} == {name for name in FIGURES if name.startswith("samples_")}


def test_page_says_that_a_run_collapsed(reports):
    text = page.report_page("embedded", REPORT, reports, [model(reports, "dcgan_lsun")], reports / "metrics")
    assert "| dcgan_lsun | - | - | 0.255 | 0.010 after epoch 2 | **collapsed after epoch 2** (seed 0) |" in text


def test_page_of_a_profile_with_little_in_it(tmp_path):
    text = page.report_page(
        "paper", REPORT, tmp_path, [model(tmp_path, "gan_mnist"), tmp_path / "dcgan_lsun"], tmp_path / "metrics"
    )
    # four tables and the samples of DCGAN's runs; those of Improved GAN; Table 3 and the Turing test
    assert text.count(readings.NOT_RUN) == 4 + len(page.SEMISUPERVISED) + 2 + len(readings.SECTIONS)
    assert text.count("Not run in this profile: dcgan_lsun.") == 2
    assert "| gan_mnist | 0, 1 |" in text


def drawn(reports, name, writer, *arguments, **options):
    """The metrics of a figure of made-up results, where the page looks for them."""
    results = reports / f"results_{name}"
    results.mkdir(exist_ok=True)
    writer(results, *arguments, **options)
    write_metrics(reports / f"metrics/{name}.json", FIGURES[name](results).metrics)


def shown(reports, section, profile="embedded", notes=NOTES):
    return "\n".join(readings.section(profile, reports / "metrics", section, notes))


def test_every_figure_without_a_place_of_its_own_has_a_section():
    placed = {figure for section in readings.SECTIONS.values() for figure in section.pictures}
    ours = {name for name in FIGURES if name.startswith("dcgan_fig") and name != "dcgan_fig9"}
    ours |= {name for name in FIGURES if name.startswith("improved_")}
    ours |= {"sample_distances", "toy_games", "semisup_errors", "score_over_steps"}
    assert placed == ours


@pytest.mark.parametrize("section", readings.SECTIONS)
def test_a_figure_that_has_not_run_is_no_picture(tmp_path, section):
    for figure in readings.SECTIONS[section].pictures:
        write_metrics(tmp_path / f"metrics/{figure}.json", {"n_results": 0})
    text = shown(tmp_path, section)
    assert text == f"## {readings.SECTIONS[section].heading}\n\n{readings.NOT_RUN}\n"


def test_page_has_the_sections_in_the_papers_order(reports):
    drawn(reports, "dcgan_fig6", made.write_forgetting)
    text = page.report_page("embedded", REPORT, reports, [], reports / "metrics")
    numbers = [int(found) for found in re.findall(r"## DCGAN, Figures? (\d+)", text)]
    assert numbers == [2, 4, 5, 6, 7, 8, 9, 10]
    # all but one figure, the tables of Improved GAN and of the Turing test, and no run was trained
    assert text.count(readings.NOT_RUN) == len(readings.SECTIONS) - 1 + len(page.SEMISUPERVISED) + 2 + 1
    assert "](figures/dcgan_fig6.png)" in text


def test_samples_name_their_epochs(tmp_path):
    for name in ("dcgan_fig2", "dcgan_fig3"):
        drawn(tmp_path, name, made.write_samples)
    text = shown(tmp_path, "samples")
    assert "Here after epochs 1 and 5;" in text
    assert "As in training, batch norm has the statistics of the samples' own batch" in text
    assert "- `dcgan_fig3.png`: images at their own size, in 50 colours" in text
    assert "Run dcgan_lsun: 16 filters." in text
    assert re.findall(r"\(figures/(\w+)\.png\)", text) == ["dcgan_fig2", "dcgan_fig3"]


def test_released_networks_are_not_said_not_to_have_run(tmp_path):
    write_metrics(tmp_path / "metrics/dcgan_fig2.json", {"n_epochs": 0})
    text = shown(tmp_path, "samples")
    assert NOT_KEPT in text
    assert readings.NOT_RUN not in text


def test_a_figure_names_its_runs_and_where_their_notes_stand(tmp_path):
    drawn(tmp_path, "dcgan_fig4", made.write_walk)
    drawn(tmp_path, "dcgan_fig4_faces", made.write_walk, "dcgan_faces")
    text = shown(tmp_path, "walk")
    assert "Networks of run dcgan_lsun (its note stands at Figures 2 and 3)." in text
    assert "Networks of run dcgan_faces (its note stands at Figures 10 and 11)." in text
    assert "its note" not in shown(tmp_path, "walk", notes={})
    drawn(tmp_path, "dcgan_fig10", lambda folder: np.savez(folder / "dcgan_faces.npz", images=made.numbered(196, 8)))
    assert "Run dcgan_faces: 60 epochs." in shown(tmp_path, "grids")


def test_walks_are_told_by_their_steps_and_shown_moving(tmp_path):
    drawn(tmp_path, "dcgan_fig4", made.write_walk)
    text = shown(tmp_path, "walk")
    assert "- dcgan_lsun: the median step is 7.1 % of the median distance of two random z, the largest 21.4 %" in text
    assert "](figures/walk_dcgan_lsun.webp)" in text
    assert "](figures/dcgan_fig4_faces.png)" not in text, "only one of the two has run"
    assert "`dcgan_fig4_faces` (Faces along a walk, and the size of its steps): Not run in this profile yet." in text


def test_guided_backprop_is_told_with_its_control(tmp_path):
    drawn(tmp_path, "dcgan_fig5", made.write_guided)
    text = shown(tmp_path, "guided_backprop")
    assert re.search(r"trained D 57\.5 % \(\d+\.\d to \d+\.\d\), random D 27\.5 % .* difference \+30\.0 points", text)
    assert "chance for the energy, the boxes' share of the area of these images: 25.0 and 25.0 %" in text
    assert "trained D +57.5 points" in text, "an excess is a difference"
    lines = [line for line in text.splitlines() if "difference" in line]
    assert len(lines) == 9
    assert all(line.endswith(": for the paper's claim") for line in lines)
    drawn(tmp_path, "dcgan_fig5", made.write_guided, known=False)
    assert "Where beds and windows are is not known" in shown(tmp_path, "guided_backprop")


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(0.1, 2, "for the paper's claim"), (-2, -0.1, "against it"), (-1, 1, "not told apart")]
)
def test_a_difference_has_a_verdict_from_its_interval(low, high, verdict):
    assert readings._verdict({"mean_points": 0.0, "low_points": low, "high_points": high}) == verdict


def test_sheets_of_faces_outside_git_depend_on_a_stage(tmp_path):
    drawn(tmp_path, "dcgan_fig5", made.write_guided)
    assert "](sheets/guided_dcgan_faces.png)" in shown(tmp_path, "guided_backprop")
    elsewhere = shown(tmp_path, "guided_backprop", profile="laptop")
    assert "not in Git, where `guided_backprop@dcgan_faces` has run: `guided_dcgan_faces.png`" in elsewhere


ASKED = {
    "windows fell by more than half": "windows did not fall by more than half",
    "beds fell by less than a quarter": "beds fell by a quarter or more",
    "random maps took clearly fewer windows": "random maps did not take clearly fewer windows",
}


def test_forgetting_is_told_with_its_control(tmp_path):
    drawn(tmp_path, "dcgan_fig6", made.write_forgetting)
    text = shown(tmp_path, "forget_windows")
    assert "- 8 x 8: with all maps, windows detected in 100 of 120 images, beds in 110\n  - the paper's rule" in text
    assert "7 of 20 maps, 35 % (the paper's 200 of 512: 39 %): windows in 30 (-70 %), beds in 99 (-10 %)" in text
    assert "7 of 12 maps, 58 % (the paper's 200 of 256: 78 %)" in text
    assert "pixels change by 0.040; its regression tells 90 % of held-out places right (guessing: 50 %)" in text
    assert "as many random maps: windows in 88 ± 2.6 (-12 %), beds in 104 ± 0.0 (-5 %), mean ± standard" in text
    assert "deviation of 4 draws" in text
    assert "our rule, 3 of 20 maps, 15 % (the paper's 200 of 512: 39 %): windows in 45 (-55 %)" in text
    assert "its regression tells 60 % of held-out places right (guessing: 75 %)" in text
    assert text.count("as the paper says: windows fell by more than half, beds fell by less than a quarter") == 4
    assert "counts sees, in held-out rendered rooms: windows with precision 90 %, recall 84 %, and one in 6 of" in text
    assert "draws the boxes sees, in held-out rendered rooms: windows with precision 80 %" in text
    drawn(tmp_path, "dcgan_fig6", made.write_forgetting, judged=False)
    assert "Nothing counts windows and beds here" in shown(tmp_path, "forget_windows")


@pytest.mark.parametrize(
    ("windows", "beds", "spread", "failed"),
    [
        (60, 24, 19, []),
        (50, 24, 9, ["windows fell by more than half"]),
        (60, 25, 9, ["beds fell by less than a quarter"]),
        (60, 24, 20, ["random maps took clearly fewer windows"]),  # 40 + 20 is no less than 60
        (40, 80, 10, list(ASKED)),
    ],
)
def test_forgetting_is_judged_by_three_things(windows, beds, spread, failed):
    own = {
        "before": {"windows": 200, "beds": 100},
        "windows_dropped": {"windows_fall_percent": windows, "beds_fall_percent": beds},
        "random_dropped": {"windows_fall_percent": 40.0, "windows_sd": 2.0 * spread},
    }
    (verdict,) = readings._forgetting_verdict(own, "windows_dropped", "random_dropped")
    told = ", ".join(no if yes in failed else yes for yes, no in ASKED.items())
    assert verdict == f"{'not ' if failed else ''}as the paper says: {told}"


def test_without_windows_before_there_is_no_verdict():
    own = {"before": {"windows": 0, "beds": 9}, "windows_dropped": {"beds_fall_percent": 3.0}, "random_dropped": {}}
    assert readings._forgetting_verdict(own, "windows_dropped", "random_dropped") == []


def test_arithmetic_is_told_by_space_and_exemplars(tmp_path):
    drawn(tmp_path, "dcgan_fig7", made.write_arithmetic)
    text = shown(tmp_path, "arithmetic")
    assert "- on z: 40.0 % (33.0 to 47.0) with 1, 60.0 % (53.0 to 67.0) with 3, 80.0 % (73.0 to 87.0) with 9" in text
    assert "- control, random samples: 10.0 % (6.0 to 14.0)\n" in text
    assert "held-out heads: smile 95 % (commoner value 55 %)" in text
    assert "overlap: not told apart with 1, z ahead with 3, z ahead with 9" in text
    assert "- on z, the same problems against 1: 50 gained, 10 lost with 3; 90 gained, 10 lost with 9" in text
    assert "- 200 problems of 18 kinds; 6 more kinds were left out" in text
    assert "they share exemplars, so the intervals are somewhat too narrow" in text
    metrics = readings.read(tmp_path / "metrics/dcgan_fig7.json")
    swapped = readings._compared(metrics["pixels"], metrics["z"])
    assert "pixels ahead with 3, pixels ahead with 9" in swapped[0]
    drawn(tmp_path, "dcgan_fig7", made.write_arithmetic, judged=False)
    assert "Nothing judges the results here" in shown(tmp_path, "arithmetic")


def test_turning_is_told_in_degrees(tmp_path):
    drawn(tmp_path, "dcgan_fig8", made.write_turn)
    text = shown(tmp_path, "turn")
    assert "over 6 samples: 0.97; within a sample 1.00" in text
    assert "-20.0 ± 3.7 at -1, 0.0 ± 3.7 at 0, 20.0 ± 3.7 at 1; higher at 1 than at -1 in 100 %" in text
    assert "changes between -1 and 1: smile in 17 %, glasses in 33 %, light hair in 0 % of the samples" in text
    assert "held-out heads" not in text, "nothing says how well the network sees the yaw"
    drawn(tmp_path, "dcgan_fig7", made.write_arithmetic)
    text = shown(tmp_path, "turn")
    assert "sees the yaw, on held-out heads: correlation 0.93, mean error 4.2 degrees" in text
    assert "dcgan_fig7.png" not in text
    drawn(tmp_path, "dcgan_fig8", made.write_turn, n_draws=3)
    assert "rises by 42.0 ± 2.0 degrees, mean ± standard deviation of 3 turn vectors" in shown(tmp_path, "turn")
    drawn(tmp_path, "dcgan_fig8", made.write_turn, judged=False)
    assert "Nothing measures the yaw here" in shown(tmp_path, "turn")


@pytest.mark.parametrize(("section", "figure"), [("forget_windows", 6), ("arithmetic", 7), ("turn", 8)])
def test_where_nothing_is_annotated_the_page_says_how(tmp_path, section, figure):
    write_metrics(tmp_path / f"metrics/dcgan_fig{figure}.json", {"n_shown": 0})
    text = shown(tmp_path, section)
    assert NOT_KNOWN in text
    assert "](figures/" not in text


def test_distances_say_what_the_paper_thinks_of_neighbours(tmp_path):
    drawn(tmp_path, "sample_distances", made.write_distances)
    text = shown(tmp_path, "distances")
    assert "section 6, makes no such search: neighbours in pixel space are trivially fooled" in text
    assert "Ours are neighbours in D's features" in text
    assert "(Euclidean, pixels from 0 to 1)" in text
    assert "nearest of 10,000 samples: 50 held-out images 8.000, 80 training images 7.000" in text
    assert "held-out images: 0.50 in D's features and 0.40 in pixels; 2 of only 5 samples are nearer than any" in text
    assert "of 9 held-out images in features" in text
    assert "flat images, such as ImageNet's flat textures, are near to anything" in text
    assert "](sheets/nearest_dcgan_lsun.png)" in text
    elsewhere = shown(tmp_path, "distances", profile="laptop")
    assert "](sheets/" not in elsewhere
    assert "In `data/laptop/sheets/`, not in Git: `nearest_dcgan_lsun.png`" in elsewhere


def improved_table(reports, name, *rows, n_labels=None):
    """A table with these rows: row, column, unit, measured; labels as the column has them, or ``n_labels`` of it."""
    table = pd.DataFrame(rows, columns=["row", "column", "unit", "measured"])
    labels = [(n_labels or {}).get(column, int(column.removeprefix("labels_"))) for column in table["column"]]
    table = table.assign(n_labels=labels, n_seeds=3, note="")
    table = table.assign(paper=1.0)
    (reports / "tables").mkdir(exist_ok=True)
    table.reindex(columns=list(COLUMNS)).to_csv(reports / f"tables/{name}.csv", index=False)


def test_page_has_the_semisupervised_tables_after_the_toy_games(reports):
    improved_table(
        reports, "improved_table1",
        (papers.OUR_MODEL, "labels_20", papers.ERRORS_OF_10000, 1500.0),
        (papers.ENSEMBLE, "labels_20", papers.ERRORS_OF_10000, 1600.5),
        (papers.OUR_MODEL, "labels_100", papers.ERRORS_OF_10000, 300.0),
        (papers.ENSEMBLE, "labels_100", papers.ERRORS_OF_10000, 250.0),
        (ALL_NETWORKS, "labels_100", papers.ERRORS_OF_10000, 310.0),
        (papers.OUR_MODEL, "labels_200", papers.ERRORS_OF_10000, 200.0),
        (papers.ENSEMBLE, "labels_200", papers.ERRORS_OF_10000, None),
    )  # fmt: skip
    improved_table(
        reports, "improved_svhn",
        (papers.ENSEMBLE, "labels_1000", papers.PERCENT_ERROR, 8.0),
        (papers.OUR_MODEL, "labels_1000", papers.PERCENT_ERROR, 8.0),
    )  # fmt: skip
    text = page.report_page("embedded", REPORT, reports, [], reports / "metrics")
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    first = headings.index("Improved GAN, section 3.3: toy games with historical averaging")
    assert headings[first + 1 : first + 7] == [
        "Improved GAN: semi-supervised classification", *page.SEMISUPERVISED.values(),
        readings.SECTIONS["semisup_errors"].heading, readings.SECTIONS["improved_samples"].heading,
    ]  # fmt: skip
    assert headings[first + 7 : first + 13] == [
        "Improved GAN, Table 3: scores of CIFAR-10 samples", readings.SECTIONS["improved_table3"].heading,
        readings.SECTIONS["imagenet128"].heading, "Improved GAN: the visual Turing test",
        readings.SECTIONS["turing"].heading, "Training runs",
    ]  # fmt: skip
    assert "no error here reproduces one of the paper" in text
    assert "[Markdown](tables/improved_table1.md)" in text
    of_10000 = "(errors of 10,000 images): the ensemble makes"
    assert f"- 20 labels: ensemble of 3 1,600.5, mean of single networks 1,500 {of_10000} no fewer errors\n" in text
    assert f"- 100 labels: ensemble of 3 250, mean of single networks 310 {of_10000} fewer errors\n" in text
    assert "- 200 labels:" not in text, "there is no ensemble"
    assert (
        "- 1,000 labels: ensemble of 3 8.00, mean of single networks 8.00 (% error): the ensemble makes "
        "no fewer errors\n" in text
    )


def test_ensembles_are_told_by_the_labels_that_they_had(tmp_path):
    places = [(row, f"labels_{n}") for n in (8000, 1000) for row in (papers.OUR_MODEL, papers.ENSEMBLE)]
    rows = [(*place, papers.PERCENT_ERROR, measured) for place, measured in zip(places, (9, 8, 30, 20), strict=True)]
    improved_table(tmp_path, "improved_table2", *rows, n_labels={"labels_8000": 320, "labels_1000": 40})
    told = readings.ensembles(pd.read_csv(tmp_path / "tables/improved_table2.csv").to_dict("records"))
    assert told == [
        "- 40 labels: ensemble of 3 20.00, mean of single networks 30.00 (% error): the ensemble makes fewer errors",
        "- 320 labels: ensemble of 3 8.00, mean of single networks 9.00 (% error): the ensemble makes fewer errors",
    ]


@pytest.mark.parametrize("comparable", ["yes", "reduced", "no"])
def test_every_profile_says_how_its_semisupervised_errors_are_to_be_read(tmp_path, comparable):
    report = Report(comparable=comparable, notes={}, datasets={})
    text = page.report_page("paper", report, tmp_path, [], tmp_path / "metrics")
    told = "\n".join(page.SEMISUPERVISED_READING[comparable])
    assert f"## Improved GAN: semi-supervised classification\n\n{told}\n\n### Table 1" in text
    assert len(set(map(str, page.SEMISUPERVISED_READING.values()))) == 3


def test_errors_are_told_with_and_without_the_unlabelled_images(tmp_path):
    def runs(folder):
        semisup.write_run(folder, "mnist", "mnist-100", n_labels=100)
        semisup.write_run(
            folder, "mnist", "mb_mnist", n_labels=4000, alone=(), wrong=(9,), members=((0, 0),), lowest_loss=0.004
        )
        semisup.write_run(
            folder, "svhn", "svhn-500", n_labels=500, wrong=(60, 50), alone=(40, 56), collapsed=True, lowest_loss=0.01
        )

    drawn(tmp_path, "semisup_errors", runs)
    text = shown(tmp_path, "semisup_errors")
    assert (
        "- MNIST, 100 labels (`mnist-100`): 6.00 % of 200 test images wrong with the unlabelled images, from 5.00 to "
        "7.00 % in 2 networks; 27.50 % with the labelled ones alone: the unlabelled images take 21.50 ± 2.12 points "
        "off; better in 2 of 2\n"
    ) in text
    assert (
        "- MNIST, 4,000 labels, minibatch discrimination (`mb_mnist`): 4.50 % of 200 test images wrong with the "
        "unlabelled images, one network; not trained without the unlabelled images; **D won at some time** in 1 of 1: "
        "an unsupervised loss of 0.0040, next to the least that it can be\n"
    ) in text
    alone = "24.00 % with the labelled ones alone: not told apart (gain -3.50 ± 9.19 points); better in 1 of 2"
    assert f"{alone}; **the samples of 2 of 2 have collapsed**" in text
    assert text.count("**D won") == 1, "0.01 is no alarm"
    assert text.count("leaves out the choice of the labels") == 1
    assert "](figures/semisup_errors.png)" in text


@pytest.mark.parametrize(
    ("wrong", "alone", "told"),
    [
        ((60, 62, 64), (30, 32, 34), "the unlabelled images cost 15.00 ± 0.00 points in 240 steps; better in 0 of 3"),
        ((60, 62, 64), (70, 64, 68), "the unlabelled images take 2.67 ± 2.08 points off; better in 3 of 3"),
        ((60, 62, 64), (70, 60, 66), "not told apart (gain +1.67 ± 3.06 points); better in 2 of 3"),
        ((60,), (30,), "the unlabelled images cost 15.00 points in 240 steps; better in 0 of 1"),
        ((60,), (60,), "no difference; better in 0 of 1"),
    ],
)
def test_the_gain_is_judged_by_its_standard_error(tmp_path, wrong, alone, told):
    """2.67 is more than 2 x 2.08 / sqrt(3) = 2.40, and 1.67 less than 2 x 3.06 / sqrt(3) = 3.53."""
    members = [(0, seed) for seed in range(len(wrong))]

    def run(folder):
        semisup.write_run(folder, "svhn", "svhn-500", n_labels=500, wrong=wrong, alone=alone, members=members)

    drawn(tmp_path, "semisup_errors", run)
    assert f"with the labelled ones alone: {told}\n" in shown(tmp_path, "semisup_errors")


def test_several_labelled_subsets_are_in_the_spread(tmp_path):
    def run(folder):
        semisup.write_run(folder, "svhn", "svhn-500", n_labels=500, members=((0, 0), (1, 0)))

    drawn(tmp_path, "semisup_errors", run)
    text = shown(tmp_path, "semisup_errors")
    assert "twice its standard error" in text
    assert "leaves out the choice of the labels" not in text


def test_samples_of_two_techniques_are_told_beside_each_other(tmp_path):
    def both(folder):
        images = made.numbered(1, 50, 8)[..., :1].copy()
        images[0, :2] = 77
        semisup.write_images(folder, "mnist-100", images=images)
        semisup.write_images(folder, "mb_mnist")

    drawn(tmp_path, "improved_fig3", both)
    drawn(tmp_path, "improved_fig5", lambda folder: semisup.write_images(folder, "svhn-1000", channels=3))
    text = shown(tmp_path, "improved_samples", notes={"mnist-100": "20 epochs", "mb_svhn": "never told"})
    assert re.findall(r"\(figures/(\w+)\.png\)", text) == ["improved_fig3", "improved_fig5"]
    assert "Run mnist-100: 20 epochs. Run mb_mnist. Run svhn-1000." in text
    assert "never told" not in text
    assert "- mnist-100, feature matching, 50 samples: one is 8 grey levels from the nearest other (median, Eu" in text
    assert "8 x 8 pixels), 1.00 times as far as in the other half; 4 % are equal to another\n- mb_mnist, mini" in text
    assert "- mb_mnist, minibatch discrimination, 100 samples: one" in text
    assert "- `improved_fig5.png`: run mb_svhn is left out, not run in this profile yet" in text
    assert "- `improved_fig3.png`: images enlarged 2 times, in" in text
    (alone,) = (line for line in text.splitlines() if line.startswith("- svhn-1000"))
    assert "other half" not in alone, "there is none"
    assert "schedules of both halves are too short" in text
    assert "schedules of both halves" not in shown(tmp_path, "improved_samples", profile="paper")


def test_the_page_and_the_figures_name_the_same_runs(tmp_path):
    for figure, halves in readings.HALVES.items():
        folder = tmp_path / figure
        folder.mkdir()
        for run in halves.values():
            semisup.write_images(folder, run)
        assert FIGURES[figure](folder).numbers.set_index("half")["run"].to_dict() == halves


@pytest.mark.parametrize(
    ("spread", "spread_over", "n_seeds", "told"),
    [(0.5, "seeds", 3, "3 seeds"), (0.5, "draws", 1, "draws"), (None, None, 1, ""), (None, None, None, "")],
)
def test_spread_says_over_what(spread, spread_over, n_seeds, told):
    assert page._over({"spread": spread, "spread_over": spread_over, "n_seeds": n_seeds}) == told


@pytest.mark.parametrize("n_seeds", [1, 3])
def test_digits_generated_by_several_seeds_say_so(tmp_path, n_seeds):
    found = [(seed, "generator", 10, 50_000, 4.0 + seed) for seed in range(n_seeds)]
    found = pd.DataFrame(found, columns=["seed", "network", "epoch", "n_images", "error_percent"])
    found.assign(n_test=10_000, n_labels=50_000).to_parquet(tmp_path / "dcgan_mnist.parquet")
    csv = tmp_path / "table.csv"
    write_table(tables.dcgan_table3(tmp_path, REPORT), "T", csv=csv, md=tmp_path / "t.md", metrics=tmp_path / "m.json")
    lines = [line for line in page._short_table(csv) if f"| {papers.AT_50K} | 2.98 |" in line]
    assert [line.split(" | ")[3:5] for line in lines] == [["5.00 ± 1.00", "3 seeds"] if n_seeds == 3 else ["4.00", ""]]


def test_health_of_networks_with_few_labels_is_told(reports):
    runs, few = [model(reports, "gan_mnist")], [model(reports, "mnist-50"), reports / "mnist-20"]
    text = page.report_page("embedded", REPORT, reports, runs, reports / "metrics", few)
    told = text[text.index("## Health of the training runs") :]
    assert "| mnist-50 |" in told
    assert "Not run in this profile: mnist-20." in told
    assert "mnist-50" not in text[: text.index("## Health of the training runs")]


def test_provenance_is_what_decides_the_bytes(tmp_path):
    models = [model(tmp_path, "a"), model(tmp_path, "b"), tmp_path / "not_trained"]
    assert page.provenance(models) == MACHINE


def test_a_processor_and_a_gpu_are_both_told(tmp_path):
    models = [model(tmp_path, "a"), model(tmp_path, "b", device="cuda", instruction_set="cuda-9.0")]
    both = {"device": "cpu, cuda", "instruction_set": f"{MACHINE['instruction_set']}, cuda-9.0"}
    assert page.provenance(models) == MACHINE | both


def test_nothing_trained_has_no_provenance(tmp_path):
    assert page.provenance([tmp_path / "not_trained"]) == {}


def test_models_of_different_machines_are_refused(tmp_path):
    models = [model(tmp_path, "a"), model(tmp_path, "b", instruction_set="avx2")]
    with pytest.raises(InputError, match="machines of different kinds"):
        page.provenance(models)


def test_toy_games_are_told_by_start(tmp_path):
    starts = {
        "x": 1.0, "y": 1.0, "start_distance": 1.414, "plain_final_distance": 3.844, "plain_late_distance": 3.9,
        "averaged_final_distance": 0.00229,
    }  # fmt: skip
    write_metrics(tmp_path / "metrics/toy_games.json", {"xy": {"start_0": starts}})
    text = shown(tmp_path, "toy_games")
    assert "value xy, from (1, 1), 1.41 from the equilibrium: plain descent ends 3.84 away (up to 3.9 in the" in text
    assert "averaging 0.0023" in text


# ---- Table 3 of Improved GAN, ImageNet 128 x 128, the visual Turing test ---------------------------------------------


def score_table(reports, write=scores.write_table3, report=REPORT, **options):
    write(reports / "scores", **options)
    path = reports / "tables/improved_table3.csv"
    rows = tables.TABLES["improved_table3"][1](reports / "scores", report)
    write_table(rows, "T", csv=path, md=reports / "t.md", metrics=reports / "m.json")


def part_of(text, heading):
    """From a heading to the next of its depth."""
    return text.split(f"## {heading}\n", maxsplit=1)[1].split("\n## ", maxsplit=1)[0]


TABLE3 = "Improved GAN, Table 3: scores of CIFAR-10 samples"


def test_table_3_has_a_line_a_row_and_says_what_is_no_inception_score(reports):
    score_table(reports)
    text = part_of(page.report_page("embedded", REPORT, reports, [], reports / "metrics"), TABLE3)
    assert (
        "| row | paper, inception_score | inception_score | classifier_score | classifier_score_split_spread |" in text
    )
    assert "| Real data | 11.24 ± 0.12 |  | 6.00 ± 0.25 | 0.25 | 12.50 |" in text
    assert "| -L | 4.36 ± 0.04 |  | 3.00 ± 0.10 | 0.25 ± 0.00 | 13.75 ± 1.25 | 4.40 ± 0.40 |" in text
    assert "It is not an Inception score, and no number of the paper is comparable with it." in text
    assert "The classifier is right on 80.50 % of its test images." in text
    assert f"- all rows: `inception_score` {scores.NO_NETWORK}; 10 splits\n- Real data: 50,000 training" in text
    assert text.count("not the Inception network") == 0, "told once above, not in every note"
    assert "- -LS: 50,000 samples of each seed; 3 seeds, 1,200 epochs, 600,000 steps of D of 100 images; target" in text
    assert "of the paper's 5 orderings of neighbouring rows: 5 as in the paper, 0 the other way round" in text
    assert "[CSV](tables/improved_table3.csv)" in text
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert len({line.count("|") for line in lines}) == 1


def test_table_3_of_which_little_was_run(reports):
    score_table(reports, scores.write_scores, name="is_ours", means=(3.0,))
    text = part_of(page.report_page("embedded", REPORT, reports, [], reports / "metrics"), TABLE3)
    assert "| -L | 4.36 ± 0.04 |  |  |" in text
    assert "- -L: not run in this profile yet" in text
    assert "orderings" not in text
    missing = reports / "missing"
    (missing / "tables").mkdir(parents=True)
    score_table(missing, lambda folder: None)
    text = part_of(page.report_page("embedded", REPORT, missing, [], missing / "metrics"), TABLE3)
    assert "`classifier_score`" not in text.replace("`classifier_score_split_spread`", "")
    assert "- all rows: not run in this profile yet" in text


@pytest.mark.parametrize("comparable", ["yes", "reduced", "no"])
def test_every_profile_says_how_its_scores_are_to_be_read(reports, comparable):
    report = Report(comparable=comparable, notes={}, datasets=DATASETS)
    score_table(reports, report=report)
    text = page.report_page("paper", report, reports, [], reports / "metrics")
    assert f"## {TABLE3}\n\n" + "\n".join(page.SCORES_READING[comparable]) in text
    assert len(set(map(str, page.SCORES_READING.values()))) == 3


def test_samples_of_table_3_are_told_beside_real_images(tmp_path):
    rng = np.random.default_rng(0)
    real = rng.integers(0, 256, (1, 30, 8, 8, 3), dtype=np.uint8)

    def samples(folder):
        scores.write_score_samples(folder, "real", real)
        scores.write_score_samples(folder, "is_ours", real // 2)
        scores.write_score_samples(folder, "is_nolabels", np.repeat(real[:, :3], 10, axis=1))

    drawn(tmp_path, "improved_table3_scores", scores.write_table3)
    drawn(tmp_path, "improved_table3_samples", samples)
    text = shown(tmp_path, "improved_table3")
    assert re.findall(r"figures/(\w+)\.png", text) == ["improved_table3_scores", "improved_table3_samples"]
    assert re.search(r"- Our methods, 30 images: one is [\d,]+ grey levels from the nearest other, 0\.50 of that", text)
    assert "of that of real images: **the samples have collapsed**; two are" in text
    assert text.count("**") == 2
    assert re.search(r"- Real data, 30 images: one is [\d,]+ grey levels from the nearest other; two are", text)
    assert "- `improved_table3_samples.png`: images at their own size" in text


def test_scores_are_shown_without_samples_too(tmp_path):
    drawn(tmp_path, "improved_table3_scores", scores.write_table3)
    text = shown(tmp_path, "improved_table3")
    assert "](figures/improved_table3_scores.png)" in text
    assert "improved_table3_samples.png" not in text


def test_imagenet_names_both_runs_their_notes_and_what_is_missing(tmp_path):
    drawn(tmp_path, "improved_fig6", made.write_samples, "imagenet128_dcgan")
    text = shown(tmp_path, "imagenet128", notes={"imagenet128_dcgan": "few filters"})
    assert "Run imagenet128_dcgan: few filters." in text
    assert "Run imagenet128_improved" not in text
    assert "- imagenet128_dcgan, after epoch 5, 60 samples: one is " in text
    assert "- run imagenet128_improved is left out, not run in this profile yet" in text
    assert "](figures/improved_fig6.png)" in text
    assert "far too small" in text
    assert "far too small" not in shown(tmp_path, "imagenet128", profile="paper")


def test_the_screen_is_an_example_that_nobody_answered(tmp_path):
    images = np.arange(40, dtype=np.uint8).reshape(-1, 1, 1, 1).repeat(64, axis=1).reshape(40, 8, 8, 1)
    drawn(tmp_path, "improved_fig2", scores.write_deck, "mnist", images, np.arange(40) % 2 == 0)
    text = shown(tmp_path, "turing")
    assert "no human gave them, and they enter no number" in text
    assert re.search(
        r"- deck mnist, run mb_mnist: [45] of the 9 images are generated, 2 of the drawn answers are", text
    )
    assert "0 answers are a person's" in text


TURING = "Improved GAN: the visual Turing test"


def turing_table(reports, measured):
    row = {"row": "MNIST", "column": "percent_correct", "unit": "percent", "paper": 52.4}
    row |= {"measured": measured, "note": "nobody has voted"}
    pd.DataFrame([row]).reindex(columns=list(COLUMNS)).to_csv(reports / "tables/turing.csv", index=False)


def test_the_turing_test_is_shown_with_its_learning_curve_where_there_are_votes(reports):
    turing_table(reports, 61.5)
    text = part_of(page.report_page("embedded", REPORT, reports, [], reports / "metrics"), TURING)
    assert "| MNIST | percent_correct | 52.4 | 61.50 |" in text
    assert "](figures/turing_learning.png)" in text
    assert "Votes of simulated annotators are not counted." in text
    assert page.NOBODY not in text
    turing_table(reports, None)
    text = part_of(page.report_page("embedded", REPORT, reports, [], reports / "metrics"), TURING)
    assert "| MNIST | percent_correct | 52.4 |  |" in text
    assert "turing_learning.png" not in text
    assert page.NOBODY in text


def test_a_table_that_lacks_a_column_is_named_and_not_shown(reports):
    for name in ("dcgan_table3", "improved_table1", "improved_table3", "turing", "datasets"):
        table = pd.DataFrame(columns=[column for column in COLUMNS if column not in ("measured", "note")])
        table.to_csv(reports / f"tables/{name}.csv", index=False)
    text = page.report_page("embedded", REPORT, reports, [], reports / "metrics")
    for name in ("dcgan_table3", "improved_table1", "improved_table3", "turing"):
        assert f"\n`tables/{name}.csv` is without measured, note: make it anew.\n" in text
        assert f"(tables/{name}.csv)" not in text
    assert "`tables/datasets.csv` is without measured, note" in page.datasets_page("embedded", REPORT, reports)
    (reports / "tables/datasets.csv").unlink()
    assert readings.NOT_RUN in page.datasets_page("embedded", REPORT, reports)
