"""The training loss: both towers classify over anchors, one learned direction per emoji."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_cache.demo.texts import TrainingText


class Anchors(nn.Module):
    """One learned unit vector per emoji, used in training only.

    Both towers classify over all anchors, so that each step compares every picture and text with all emoji,
    not only with those of the batch. Such small towers learn far faster this way than with the contrastive
    loss alone.
    """

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.randn(count, width))

    def forward(
        self,
        images: Tensor,
        texts: Tensor,
        scale: Tensor,
        indices: Tensor,
        training_texts: Sequence[TrainingText],
    ) -> Tensor:
        """The loss (a scalar) of L2-normalized embeddings `images` and `texts`, both [batch, width].

        Row i of both belongs to emoji `indices[i]`; `training_texts[i]` is the text of row i.
        """
        anchors = functional.normalize(self.vectors, dim=-1).T
        picture_loss = functional.cross_entropy(scale * images @ anchors, indices)
        owners = torch.zeros(len(training_texts), anchors.shape[1])
        for row, text in zip(owners, training_texts, strict=True):
            row[list(text.owners)] = 1
        text_loss = functional.cross_entropy(
            scale * texts @ anchors, owners / owners.sum(dim=1, keepdim=True)
        )
        return picture_loss + text_loss + _contrastive(scale * images @ texts.T, owners[:, indices].T > 0)


def _contrastive(logits: Tensor, matches: Tensor) -> Tensor:
    """Symmetric cross entropy of logits [pictures, texts], where row i belongs to column i.

    `matches` (booleans of the same shape) marks every pair where the text describes the picture. Those off
    the diagonal, where emoji share a keyword, are left out of the loss.
    """
    shared = matches & ~torch.eye(len(logits), dtype=torch.bool)
    logits = logits.masked_fill(shared, -torch.inf)
    target = torch.arange(len(logits))
    return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2
