"""Batch normalisation that survives a last batch of one sample."""

from __future__ import annotations

from torch import Tensor, nn


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation of maps (B, C, H, W) and of features (B, C).

    A single value per channel has no variance, and torch refuses it in training: the running statistics are used
    then, so that a run does not die on a last batch of one sample.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() not in (2, 4):
            raise ValueError(f"(B, C) or (B, C, H, W) is needed, but the shape is {tuple(input.shape)}.")

    def forward(self, input: Tensor) -> Tensor:
        """Normalised input, same shape."""
        if self.training and input.numel() == input.shape[1]:
            return nn.functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        return super().forward(input)
