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
    # what an update calls: the network itself, or one that averages its gradients over the processes
    parallel_generator: nn.Module
    parallel_discriminator: nn.Module


def update_discriminator(
    networks: Networks, real: torch.Tensor, z: torch.Tensor, *condition: torch.Tensor, autocast: torch.autocast
) -> torch.Tensor:
    """Descend D's loss once. Real and fake pass through D as two batches: each has its own batch-norm statistics.

    Parameters
    ----------
    real : float32 (B, C, H, W), in the range of G's output
    z : float32 (B, z_dim)
    condition : one-hot labels, float32 (B, K), of a conditional pair, else nothing; the fakes take those of the reals

    Returns
    -------
    float32 (3,): loss, mean D(x), mean D(G(z)).
    """
    with autocast:
        with torch.no_grad():
            fake = networks.generator(z, *condition)
        real_logits = networks.parallel_discriminator(real, *condition)
        fake_logits = networks.parallel_discriminator(fake, *condition)
    loss = discriminator_loss(real_logits, fake_logits)
    networks.discriminator_adam.zero_grad()
    loss.backward()
    networks.discriminator_adam.step()
    return torch.stack([loss, real_logits.sigmoid().mean(), fake_logits.sigmoid().mean()]).detach()


def update_generator(
    networks: Networks, z: torch.Tensor, *condition: torch.Tensor, autocast: torch.autocast
) -> torch.Tensor:
    """Descend G's loss once; D's parameters need no gradients here, which saves a third of the work.

    Returns
    -------
    float32 (1,): loss.
    """
    networks.discriminator.requires_grad_(requires_grad=False)
    with autocast:
        fake_logits = networks.discriminator(networks.parallel_generator(z, *condition), *condition)
    loss = generator_loss(fake_logits)
    networks.generator_adam.zero_grad()
    loss.backward()
    networks.generator_adam.step()
    networks.discriminator.requires_grad_(requires_grad=True)
    return loss.detach().reshape(1)


def gradient_norm(network: nn.Module) -> torch.Tensor:
    """float32 (1,): Euclidean norm of the gradient of the last update, without the l2 term."""
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    return torch.nn.utils.get_total_norm(gradients).reshape(1)
