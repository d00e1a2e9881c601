"""One discriminator update, one generator update."""

from dataclasses import dataclass

import torch
from torch import nn

from pipeline.training.losses import discriminator_loss, generator_loss


@dataclass(kw_only=True)
class Networks:
    """What a run trains: both networks, each with an Adam of its own."""

    generator: nn.Module
    discriminator: nn.Module
    generator_adam: torch.optim.Adam
    discriminator_adam: torch.optim.Adam


def update_discriminator(
    networks: Networks, real: torch.Tensor, labels: torch.Tensor, z: torch.Tensor, autocast: torch.autocast
) -> torch.Tensor:
    """Descend D's loss once. Real and fake pass through D as two batches: each has its own batch-norm statistics.

    Parameters
    ----------
    real : float32 (B, C, H, W)
    labels : float32 (B, K), one-hot; the fakes take the labels of the real batch
    z : float32 (B, z_dim) in [-1, 1]

    Returns
    -------
    float32 (3,): loss, mean D(x), mean D(G(z)).
    """
    with autocast:
        with torch.no_grad():
            fake = networks.generator(z, labels)
        real_logits = networks.discriminator(real, labels)
        fake_logits = networks.discriminator(fake, labels)
    loss = discriminator_loss(real_logits, fake_logits)
    networks.discriminator_adam.zero_grad()
    loss.backward()
    networks.discriminator_adam.step()
    return torch.stack([loss, real_logits.sigmoid().mean(), fake_logits.sigmoid().mean()]).detach()


def update_generator(
    networks: Networks, labels: torch.Tensor, z: torch.Tensor, autocast: torch.autocast
) -> torch.Tensor:
    """Descend G's loss once; D's parameters need no gradients here, which saves a third of the work.

    Returns
    -------
    float32 (1,): loss.
    """
    networks.discriminator.requires_grad_(requires_grad=False)
    with autocast:
        fake_logits = networks.discriminator(networks.generator(z, labels), labels)
    loss = generator_loss(fake_logits)
    networks.generator_adam.zero_grad()
    loss.backward()
    networks.generator_adam.step()
    networks.discriminator.requires_grad_(requires_grad=True)
    return loss.detach().reshape(1)
