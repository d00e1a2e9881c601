"""Adam as Improved GAN's authors wrote it: epsilon inside the square root."""

from collections.abc import Callable, Iterable

import torch


class RootAdam(torch.optim.Adam):
    """Adam with the step m / sqrt(v + eps), both moments corrected for their bias (authors' code).

    PyTorch's is m / (sqrt(v) + eps). At 1e-8 the one matters on gradients of about 1e-4, the other on 1e-8.

    v + eps is a running mean too, that of g^2 + eps: corrected for its bias it is the corrected v, plus eps. So this is
    PyTorch's own, fused Adam without epsilon, whose second moment is raised before each step by as much as the step's
    decay turns into (1 - beta2) eps. The state is that of PyTorch's Adam; ``exp_avg_sq`` holds the mean of g^2 + eps.

    Parameters
    ----------
    parameters : on the device that they will stay on
    beta2 : above 0
    """

    def __init__(
        self, parameters: Iterable[torch.Tensor], *, learning_rate: float, beta1: float, beta2: float, epsilon: float
    ) -> None:
        super().__init__(parameters, lr=learning_rate, betas=(beta1, beta2), eps=0.0, fused=True)
        self._added = (1 - beta2) / beta2 * epsilon
        for parameter in self._all():
            self.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Descend once; parameters without a gradient stay as they are."""
        for parameter in self._all():
            if parameter.grad is not None:
                self.state[parameter]["exp_avg_sq"].add_(self._added)
        loss = super().step(closure)
        # the fused step raises no version of what it changes, by which layers know that what they keep is old
        torch.autograd.graph.increment_version(self._all())
        return loss

    def _all(self) -> list[torch.Tensor]:
        return [parameter for group in self.param_groups for parameter in group["params"]]
