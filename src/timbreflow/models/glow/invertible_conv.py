"""Invertible 1x1 convolution: a learned mixing of the channels."""

import torch
from torch import Tensor, nn

from timbreflow.models.glow.context import FlowContext, count_frames


class InvertibleConv(nn.Module):
    """z = W x in every frame, W = P L (U + diag(sign exp(log_diagonal))); log_det = frames x sum(log_diagonal).

    P is a fixed permutation, L unit lower and U strictly upper triangular (one matrix holds both), so the determinant
    is a sum and the inverse two triangular solutions. Runs in float32 or better: autocast is off inside.
    Starts as a random rotation. Kingma and Dhariwal 2018, section 3.2.
    """

    permutation: Tensor
    sign: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        # The decomposition needs numbers, also when the model is built on the meta device to count parameters.
        with torch.device("cpu"):
            rotation = torch.linalg.qr(torch.randn(channels, channels, dtype=torch.float64))[0]
            p, lower, upper = torch.linalg.lu(rotation)
            diagonal = upper.diagonal()
            triangles = (lower.tril(-1) + upper.triu(1)).float()
            log_diagonal, sign = diagonal.abs().log().float(), diagonal.sign().float()
            permutation = p.argmax(1)
        device = torch.empty(0).device
        self.triangles = nn.Parameter(triangles.to(device))
        self.log_diagonal = nn.Parameter(log_diagonal.to(device))
        self.register_buffer("sign", sign.to(device))
        self.register_buffer("permutation", permutation.to(device))

    def _factors(self) -> tuple[Tensor, Tensor]:
        lower = self.triangles.tril(-1) + torch.eye(len(self.triangles), dtype=self.sign.dtype, device=self.sign.device)
        upper = self.triangles.triu(1) + torch.diag(self.sign * self.log_diagonal.exp())
        return lower, upper

    def forward(self, x: Tensor, context: FlowContext) -> tuple[Tensor, Tensor]:
        """[B, C, t] -> z [B, C, t], log_det [B]."""
        with torch.autocast(x.device.type, enabled=False):
            lower, upper = self._factors()
            z = (lower @ upper)[self.permutation] @ x
        return z, self.log_diagonal.sum() * count_frames(x, context)

    def inverse(self, z: Tensor, context: FlowContext) -> Tensor:
        """[B, C, t] -> x."""
        del context
        batch, channels, frames = z.shape
        with torch.autocast(z.device.type, enabled=False):
            lower, upper = self._factors()
            flat = z.transpose(0, 1).reshape(channels, -1)[self.permutation.argsort()]
            flat = torch.linalg.solve_triangular(lower, flat, upper=False, unitriangular=True)
            flat = torch.linalg.solve_triangular(upper, flat, upper=True)
        return flat.view(channels, batch, frames).transpose(0, 1)
