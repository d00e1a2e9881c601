"""Improved GAN's losses of K class logits, each a pure function under its equation: one value for each seed.

A classifier of K + 1 classes, the last "generated", has one logit too many; the authors fix that of the fakes at 0
(section 5), so that K outputs do. Then D(x) = p(real | x) = Z / (Z + 1) with Z = sum of exp(l_k), that is sigmoid(L)
with L = logsumexp(l). With K = 1, L is the logit of a plain discriminator: every loss here but the labelled one serves
a network without classes too.
"""

import math

import torch
import torch.nn.functional as F

from pipeline.models.improved_layers import at_least_fp32


def real_logit(logits: torch.Tensor) -> torch.Tensor:
    """L = log of the sum of exp(l_k): (S, B, K) -> (S, B), at least fp32; D(x) = sigmoid(L)."""
    return at_least_fp32(logits).logsumexp(dim=-1)


def labelled_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean of - log p(y | x, real) = L - l_y.

    Parameters
    ----------
    logits : (S, B, K)
    labels : int64 (S, B), 0 to K - 1

    Returns
    -------
    (S,), at least 0.
    """
    chosen = logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    return (real_logit(logits) - chosen).mean(dim=1)


def smoothed_real_loss(real_logits: torch.Tensor, *, real_target: float) -> torch.Tensor:
    """Mean of - a log D(x) - (1 - a) log(1 - D(x)) = softplus(L) - a L: one-sided label smoothing (section 3.4).

    Only the target of real images is smoothed: a smoothed target of fakes would pull D towards its own mistakes.

    Parameters
    ----------
    real_logits : (S, B, K)
    real_target : a in (0, 1]; 1 = not smoothed, - log D(x)

    Returns
    -------
    (S,), at least the entropy of a coin that falls with probability a.
    """
    logit = real_logit(real_logits)
    # softplus(L) - L = softplus(-L), which does not lose the digits of a small loss
    return (F.softplus(-logit) + (1 - real_target) * logit).mean(dim=1)


def fake_loss(fake_logits: torch.Tensor) -> torch.Tensor:
    """Mean of - log(1 - D(G(z))) = softplus(L): (S, B, K) -> (S,)."""
    return F.softplus(real_logit(fake_logits)).mean(dim=1)


def unsupervised_loss(real_logits: torch.Tensor, fake_logits: torch.Tensor, *, real_target: float) -> torch.Tensor:
    """Half of the loss on real, unlabelled images and half of that on generated ones.

    The factor 1/2 is of the authors' code; the paper has none. Means are taken of each batch apart.

    Parameters
    ----------
    real_logits, fake_logits : (S, B, K)
    real_target : 1 in the authors' code of MNIST, CIFAR-10 and SVHN; see :func:`smoothed_real_loss`

    Returns
    -------
    (S,); log 2 where D cannot tell; where it stays under 0.01, D has won and G learns nothing more.
    """
    return 0.5 * smoothed_real_loss(real_logits, real_target=real_target) + 0.5 * fake_loss(fake_logits)


def least_unsupervised_loss(real_target: float) -> float:
    """What :func:`unsupervised_loss` is of a D that is right of every image: half the entropy of the real target."""
    return 0.5 * sum(-p * math.log(p) for p in (real_target, 1 - real_target) if p > 0)


def generator_minimax_loss(fake_logits: torch.Tensor) -> torch.Tensor:
    """Mean of log(1 - D(G(z))) = - softplus(L): (S, B, K) -> (S,).

    The saturating loss, which G of the authors' models with minibatch discrimination minimises.
    """
    return -fake_loss(fake_logits)


def generator_loss(fake_logits: torch.Tensor) -> torch.Tensor:
    """Mean of - log D(G(z)) = softplus(-L): (S, B, K) -> (S,), the loss that does not saturate.

    That of DCGAN; Improved GAN's released code of MNIST, CIFAR-10 and SVHN has it nowhere.
    """
    return F.softplus(-real_logit(fake_logits)).mean(dim=1)


def squared_feature_matching(real_features: torch.Tensor, fake_features: torch.Tensor) -> torch.Tensor:
    """Mean over units of the squared difference of batch means (section 3.1; authors' code of MNIST).

    The paper's squared norm is the sum over units, n times as much. No gradient flows to the real features.

    Parameters
    ----------
    real_features, fake_features : (S, B, n), of one layer of D; batches may differ in size

    Returns
    -------
    (S,), at least 0.
    """
    return _difference_of_means(real_features, fake_features).square().mean(dim=1)


def absolute_feature_matching(real_features: torch.Tensor, fake_features: torch.Tensor) -> torch.Tensor:
    """Mean over units of the absolute difference of batch means (authors' code of CIFAR-10 and SVHN).

    Parameters and result as of :func:`squared_feature_matching`.
    """
    return _difference_of_means(real_features, fake_features).abs().mean(dim=1)


def _difference_of_means(real_features: torch.Tensor, fake_features: torch.Tensor) -> torch.Tensor:
    return _mean(real_features.detach()) - _mean(fake_features)


def _mean(features: torch.Tensor) -> torch.Tensor:
    """(S, B, n) -> (S, n), at least fp32."""
    return at_least_fp32(features).mean(dim=1)
