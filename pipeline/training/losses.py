"""Each loss a pure function of logits, under its equation."""

import torch
import torch.nn.functional as F


def discriminator_loss(real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
    """- mean log D(x) - mean log(1 - D(G(z))), without the factor 1/2 (authors' code)."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def generator_loss(fake_logits: torch.Tensor) -> torch.Tensor:
    """- mean log D(G(z)): the non-saturating loss (Goodfellow et al. 2014; authors' code)."""
    return F.softplus(-fake_logits).mean()
