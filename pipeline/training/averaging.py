"""Two averages of parameters over training, which users of the released code take for one another.

:class:`HistoricalAverage` is a term of the cost (Improved GAN, section 3.3): it changes how a network trains. It was
never released. :class:`ParameterAverage` leaves training alone: the authors test with it instead of the parameters.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from pipeline.core.errors import InputError


class HistoricalAverage:
    """||theta - mean of past theta||^2, to be added to a player's cost, times a weight (Improved GAN, section 3.3).

    Not the average that networks are tested with, :class:`ParameterAverage`. The mean counts every theta so far alike,
    from the one that this is made with to that of the last ``update``; it is a constant of the gradient.

    Parameters
    ----------
    parameters : of one player, as they are before the first step

    Attributes
    ----------
    means : of the same shapes
    count : int64 (), how many theta the means are of
    """

    def __init__(self, parameters: Iterable[torch.Tensor]) -> None:
        self._parameters = list(parameters)
        self.means = [p.detach().clone() for p in self._parameters]
        self.count = torch.ones((), dtype=torch.int64)

    def penalty(self) -> torch.Tensor:
        """Sum over all parameters, so that of batched seeds it is the sum of each seed's own; shape ().

        0 with a zero gradient before the first step.
        """
        pairs = zip(self._parameters, self.means, strict=True)
        return torch.stack([(p - mean).square().sum() for p, mean in pairs]).sum()

    @torch.no_grad()
    def update(self) -> None:
        """Take the present parameters into the mean; to be called once after each step of the player."""
        self.count += 1
        for mean, parameter in zip(self.means, self._parameters, strict=True):
            mean.lerp_(parameter, 1 / int(self.count))

    def tensors(self, prefix: str) -> dict[str, torch.Tensor]:
        """Means and their count under ``prefix/``, on the CPU: what a checkpoint keeps."""
        named = {f"{prefix}/{number}": mean.cpu() for number, mean in enumerate(self.means)}
        return named | {f"{prefix}/count": self.count.clone()}

    def restore(self, tensors: dict[str, torch.Tensor], prefix: str) -> None:
        """Bring back what :meth:`tensors` gave."""
        _copy_into(self.means, tensors, prefix)
        self.count.copy_(tensors[f"{prefix}/count"])


class ParameterAverage:
    """a <- a + rate (p - a) after each step: the parameters that a network is tested with (authors' code).

    Not historical averaging, which is part of the cost (:class:`HistoricalAverage`); training never sees this average.
    It starts from the initialised parameters. The released code starts from 0: at its rate of 0.0001 the average is
    then too small by half after 6,900 steps, and no use for tens of thousands. Batch norm's running statistics do not
    exist in these networks, and frozen scales are no parameters, so the parameters are all there is to average.

    Parameters
    ----------
    network : initialised, the data-dependent initialisation included
    rate : of forgetting, in (0, 1]; an average over about 1 / rate steps
    """

    def __init__(self, network: nn.Module, rate: float) -> None:
        if not 0 < rate <= 1:
            message = f"the rate of the parameter average must be above 0 and at most 1, found {rate}"
            raise InputError(message)
        self.rate = rate
        self._parameters = [p for p in network.parameters() if p.requires_grad]
        self.averages = [p.detach().clone() for p in self._parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Move the averages towards the present parameters; to be called once after each step of the network."""
        for average, parameter in zip(self.averages, self._parameters, strict=True):
            average.lerp_(parameter, self.rate)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The network holds the averages inside, and its own parameters, to the bit, again afterwards."""
        kept = [p.detach().clone() for p in self._parameters]
        self._put(self.averages)
        try:
            yield
        finally:
            self._put(kept)

    @torch.no_grad()
    def _put(self, values: list[torch.Tensor]) -> None:
        for parameter, value in zip(self._parameters, values, strict=True):
            parameter.copy_(value)

    def tensors(self, prefix: str) -> dict[str, torch.Tensor]:
        """The averages under ``prefix/``, on the CPU: what a checkpoint keeps."""
        return {f"{prefix}/{number}": average.cpu() for number, average in enumerate(self.averages)}

    def restore(self, tensors: dict[str, torch.Tensor], prefix: str) -> None:
        """Bring back what :meth:`tensors` gave."""
        _copy_into(self.averages, tensors, prefix)


def _copy_into(values: list[torch.Tensor], tensors: dict[str, torch.Tensor], prefix: str) -> None:
    for number, value in enumerate(values):
        value.copy_(tensors[f"{prefix}/{number}"])
