"""The K + 1 losses against softmaxes of K + 1 logits by their definition, in Python floats."""

import math

import pytest
import torch

from pipeline.core.seeding import torch_stream
from pipeline.training import losses
from pipeline.training.semisupervised_losses import (
    absolute_feature_matching,
    fake_loss,
    generator_loss,
    generator_minimax_loss,
    labelled_loss,
    least_unsupervised_loss,
    real_logit,
    smoothed_real_loss,
    squared_feature_matching,
    unsupervised_loss,
)

S, B, K = 3, 7, 4


def made_logits(name: str, n_seeds: int = S, spread: float = 2.0) -> torch.Tensor:
    return spread * torch.randn(n_seeds, B, K, generator=torch_stream(3, name), dtype=torch.float64)


def probabilities(logits: list[float]) -> list[float]:
    """Softmax over K + 1 classes, the last "generated" with the logit 0."""
    exponentials = [math.exp(l) for l in [*logits, 0.0]]  # noqa: E741
    return [e / math.fsum(exponentials) for e in exponentials]


def mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


@pytest.mark.parametrize("alpha", [1.0, 0.9, 0.75])
def test_losses_are_those_of_a_softmax_of_k_plus_1_classes(alpha: float):
    real, fake = made_logits("real"), made_logits("fake")
    labels = torch.randint(0, K, (S, B), generator=torch_stream(3, "labels"))
    got = {
        "labelled": labelled_loss(real, labels),
        "real": smoothed_real_loss(real, real_target=alpha),
        "fake": fake_loss(fake),
        "unsupervised": unsupervised_loss(real, fake, real_target=alpha),
        "minimax": generator_minimax_loss(fake),
        "generator": generator_loss(fake),
    }
    for seed in range(S):
        p = [probabilities(row) for row in real[seed].tolist()]
        q = [probabilities(row) for row in fake[seed].tolist()]
        on_real = mean([-alpha * math.log(1 - r[-1]) - (1 - alpha) * math.log(r[-1]) for r in p])
        on_fake = mean([-math.log(r[-1]) for r in q])
        expected = {
            # p(y | x, real): the class given that the image is not generated
            "labelled": mean([-math.log(r[y] / (1 - r[-1])) for r, y in zip(p, labels[seed].tolist(), strict=True)]),
            "real": on_real,
            "fake": on_fake,
            "unsupervised": 0.5 * on_real + 0.5 * on_fake,
            "minimax": -on_fake,
            "generator": mean([-math.log(1 - r[-1]) for r in q]),
        }
        for name, value in expected.items():
            assert got[name].shape == (S,)
            assert got[name][seed].item() == pytest.approx(value, rel=1e-10), name


def test_the_unsupervised_loss_is_that_of_the_authors_code():
    """1/2 mean(-L + softplus(L)) + 1/2 mean(softplus(L)), written as there."""
    real, fake = made_logits("real"), made_logits("fake")
    l, m = real.exp().sum(-1).log(), fake.exp().sum(-1).log()  # noqa: E741
    expected = 0.5 * (-l + l.exp().log1p()).mean(1) + 0.5 * m.exp().log1p().mean(1)
    torch.testing.assert_close(unsupervised_loss(real, fake, real_target=1.0), expected)


def test_real_logit_is_the_log_of_the_odds():
    logits = made_logits("real")
    p_fake = torch.tensor([[probabilities(row)[-1] for row in seed] for seed in logits.tolist()], dtype=torch.float64)
    torch.testing.assert_close(real_logit(logits).sigmoid(), 1 - p_fake)


def test_one_logit_gives_the_losses_of_a_plain_discriminator():
    real, fake = made_logits("real", n_seeds=1)[..., :1], made_logits("fake", n_seeds=1)[..., :1]
    both = 2 * unsupervised_loss(real, fake, real_target=1.0)
    torch.testing.assert_close(both[0], losses.discriminator_loss(real, fake))
    torch.testing.assert_close(generator_loss(fake)[0], losses.generator_loss(fake))


def test_the_smoothed_loss_is_least_where_d_says_alpha():
    """Not at certainty: beyond log(a / (1 - a)) the gradient turns round."""
    for alpha in (0.9, 0.75):
        best = math.log(alpha / (1 - alpha))
        for logit, sign in ((best - 0.1, -1), (best + 0.1, 1)):
            x = torch.full((1, 1, 1), logit, dtype=torch.float64, requires_grad=True)
            loss = smoothed_real_loss(x, real_target=alpha)
            (gradient,) = torch.autograd.grad(loss.sum(), x)
            assert gradient.sign().item() == sign
        entropy = -alpha * math.log(alpha) - (1 - alpha) * math.log(1 - alpha)
        at_best = smoothed_real_loss(torch.full((1, 1, 1), best, dtype=torch.float64), real_target=alpha)
        assert at_best.item() == pytest.approx(entropy, rel=1e-9)


def test_the_gradient_of_one_seed_does_not_reach_the_others():
    real, fake = made_logits("real").requires_grad_(), made_logits("fake").requires_grad_()
    unsupervised_loss(real, fake, real_target=0.9)[1].backward()
    for logits in (real, fake):
        reached = logits.grad.abs().sum((1, 2)) > 0
        assert reached.tolist() == [False, True, False]


@pytest.mark.parametrize("size", [1e3, 1e4])
def test_extreme_logits_stay_finite(size: float):
    logits = torch.tensor([[[-size, -size], [size, -size], [size, size]]], requires_grad=True)
    labels = torch.tensor([[0, 1, 0]])
    expected = {
        "labelled": (labelled_loss(logits, labels), (math.log(2) + 2 * size + math.log(2)) / 3),
        "real": (smoothed_real_loss(logits, real_target=1.0), size / 3),
        "smoothed": (smoothed_real_loss(logits, real_target=0.9), (0.9 * size + 2 * 0.1 * size) / 3),
        "fake": (fake_loss(logits), 2 * size / 3),
    }
    for name, (loss, value) in expected.items():
        assert loss.item() == pytest.approx(value, rel=2e-3), name
        (gradient,) = torch.autograd.grad(loss.sum(), logits, retain_graph=True)
        assert gradient.isfinite().all(), name


def test_a_small_loss_keeps_its_digits_in_fp32():
    """softplus(L) - L of L = 30 would be 0 or noise; the alarm at 0.01 reads such values."""
    logits = torch.full((1, 2, 1), 30.0)
    assert smoothed_real_loss(logits, real_target=1.0).item() == pytest.approx(math.exp(-30), rel=1e-5)


def test_reduced_precision_is_averaged_in_fp32():
    real, fake = made_logits("real").bfloat16(), made_logits("fake").bfloat16()
    got = unsupervised_loss(real, fake, real_target=1.0)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, unsupervised_loss(real.double(), fake.double(), real_target=1.0).float())
    labels = torch.zeros(S, B, dtype=torch.int64)
    torch.testing.assert_close(labelled_loss(real, labels), labelled_loss(real.double(), labels).float())


def test_the_minimax_loss_saturates_and_the_other_does_not():
    """Where D is sure of a fake (L = -30) G's gradients are about e^-30 and -1."""
    for loss, expected in ((generator_minimax_loss, -math.exp(-30)), (generator_loss, -1.0)):
        fake = torch.full((1, 1, 1), -30.0, requires_grad=True)
        loss(fake).sum().backward()
        assert fake.grad.item() == pytest.approx(expected, rel=1e-5)


# ---- feature matching -----------------------------------------------------------------------------------------------


def made_features() -> tuple[torch.Tensor, torch.Tensor]:
    stream = torch_stream(3, "features")
    real = torch.randn(S, 5, 6, generator=stream, dtype=torch.float64)
    fake = torch.randn(S, 8, 6, generator=stream, dtype=torch.float64)
    return real, fake


def test_feature_matching_equals_a_slow_loop():
    real, fake = made_features()
    squared, absolute = squared_feature_matching(real, fake), absolute_feature_matching(real, fake)
    for seed in range(S):
        differences = [mean(real[seed, :, u].tolist()) - mean(fake[seed, :, u].tolist()) for u in range(6)]
        assert squared[seed].item() == pytest.approx(mean([d * d for d in differences]), rel=1e-10)
        assert absolute[seed].item() == pytest.approx(mean([abs(d) for d in differences]), rel=1e-10)
        # the paper's squared norm is the sum
        norm = (real[seed].mean(0) - fake[seed].mean(0)).norm().item()
        assert 6 * squared[seed].item() == pytest.approx(norm**2, rel=1e-10)


@pytest.mark.parametrize("loss", [squared_feature_matching, absolute_feature_matching])
def test_feature_matching_sees_means_only(loss):
    real, fake = made_features()
    assert loss(real, fake).min() > 0.001
    moved = fake + (real.mean(1) - fake.mean(1)).unsqueeze(1)
    torch.testing.assert_close(loss(real, moved), torch.zeros(S, dtype=torch.float64), rtol=0, atol=1e-15)
    torch.testing.assert_close(loss(real, moved + 0.5), torch.full((S,), 0.5, dtype=torch.float64) ** power(loss))


def power(loss) -> int:
    return 2 if loss is squared_feature_matching else 1


@pytest.mark.parametrize("loss", [squared_feature_matching, absolute_feature_matching])
def test_feature_matching_sends_its_gradient_to_the_fakes_only(loss):
    real, fake = (features.requires_grad_() for features in made_features())
    loss(real, fake)[2].backward()
    assert real.grad is None
    assert (fake.grad.abs().sum((1, 2)) > 0).tolist() == [False, False, True]
    assert torch.autograd.gradcheck(lambda x: loss(real.detach(), x), (fake,))


def test_the_least_unsupervised_loss_is_that_of_a_d_that_is_right_of_every_image():
    def loss_at(real_target):
        best = math.log(real_target / (1 - real_target)) if real_target < 1 else 40.0
        real, fake = (torch.full((1, 3, 1), value, dtype=torch.float64) for value in (best, -40.0))
        return float(unsupervised_loss(real, fake, real_target=real_target))

    for real_target in (0.5, 0.75, 0.9, 1.0):
        assert least_unsupervised_loss(real_target) == pytest.approx(loss_at(real_target), abs=1e-12)
    assert least_unsupervised_loss(0.5) == pytest.approx(0.5 * math.log(2))
