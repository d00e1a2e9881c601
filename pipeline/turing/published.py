"""What people did with the paper's images (Improved GAN, sections 6.1 and 6.2), by the deck that asks the same here."""

from pipeline.papers import Published

CORRECT, ERROR, PERCENT = "percent_correct", "percent_error", "percent"


def _printed(row: str, value: float, section: str, *, column: str = CORRECT) -> Published:
    source = f"Improved GAN, section {section}"
    return Published(row=row, column=column, value=value, spread=None, unit=PERCENT, kind="ours", source=source)


MNIST = _printed("MNIST, minibatch discrimination", 52.4, "6.1")  # of 2,000 votes
BEST = _printed("CIFAR-10, best model", 78.7, "6.2")
BEST_ERROR = _printed("CIFAR-10, best model", 21.3, "6.2", column=ERROR)
TOP = _printed("CIFAR-10, top 1 % of samples by Inception score", 71.4, "6.2")
AUTHORS = Published(
    row="CIFAR-10, best model, judged by the authors",
    column=CORRECT,
    value=95.0,
    spread=None,
    unit=PERCENT,
    kind="published",
    source="Improved GAN, section 6.2: above 95 %",
)
PUBLISHED = {"mnist": (MNIST,), "cifar10": (BEST, BEST_ERROR), "cifar10_top": (TOP,)}
SENTENCES = {
    "mnist": f"In the paper people told samples of minibatch discrimination from real digits in {MNIST.value} % of "
    "2,000 votes; 50 % is chance.",
    "cifar10": f"In the paper people were right on {BEST.value} % of CIFAR-10 images, half of them samples of its best "
    f"model, and its authors on more than {AUTHORS.value:.0f} %.",
    "cifar10_top": f"In the paper people were right on {TOP.value} % of CIFAR-10 images when only the best 1 % of the "
    "samples by Inception score were shown.",
}
