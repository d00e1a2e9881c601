"""Claims that compare committed results say of them what the committed tables say."""

import pandas as pd
import pytest

ACCURACY = "accuracy_400_per_class"
LABELS = ("labels_20", "labels_50", "labels_100", "labels_200")
SIDES = [  # claim, table, row of the base, row of the ablated side, columns: the claim's number is their mean
    ("dcgan_over_gan", "dcgan_table3", "GAN", "DCGAN (ours)", ["test_error_50k_samples"]),
    ("trained_features_svhn", "dcgan_table2", "Random D + L2-SVM", "DCGAN (ours) + L2-SVM", ["test_error_1000_labels"]),
    ("features_over_kmeans", "dcgan_table1", "1 Layer K-means", "DCGAN (ours) + L2-SVM", [ACCURACY]),
    ("label_smoothing", "improved_table3", "Our methods", "-LS", ["classifier_score"]),
    ("virtual_batch_norm", "improved_table3", "Our methods", "-VBN+BN", ["classifier_score"]),
    ("labels_improve_samples", "improved_table3", "Our methods", "-L", ["classifier_score"]),
    ("historical_averaging_samples", "improved_table3", "-L", "-L+HA", ["classifier_score"]),
    ("minibatch_features_score", "improved_table3", "Our methods", "-MBF", ["classifier_score"]),
    ("samples_help_classification", "improved_table1", "Same network, labels only", "Our model", LABELS),
    ("ensembles", "improved_table1", "Our model", "Ensemble of 10 of our models", LABELS),
]


@pytest.mark.parametrize(("claim", "table", "base", "ablated", "columns"), SIDES)
def test_both_sides_are_those_of_the_table(root, claim, table, base, ablated, columns):
    tables = root / "reports/embedded/tables"
    found = pd.read_csv(tables / "claims.csv").set_index("claim").loc[claim]
    measured = pd.read_csv(tables / f"{table}.csv").set_index(["row", "column"])["measured"]
    for side, row in (("base", base), ("ablated", ablated)):
        expected = sum(measured[row, column] for column in columns) / len(columns)
        if ACCURACY in columns:
            expected = 100 - expected  # the claim is about errors
        assert found[side] == pytest.approx(expected, rel=1e-4), f"{side}: `make ablations` writes the claims anew"
