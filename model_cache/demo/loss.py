"""The training loss: towers meet at anchors, one learned direction per emoji."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_cache.demo.texts import Text


class Anchors(nn.Module):
    """One learned unit vector per emoji, used in training only.

    Both towers classify over all anchors, so that every step tells each picture and text apart from every
    emoji there is, not just from the batch. That teaches such small towers far faster than the contrastive
    loss alone.
    """

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.randn(count, width))

    def forward(
        self, images: Tensor, texts: Tensor, scale: Tensor, indices: Tensor, labels: Sequence[Text]
    ) -> Tensor:
        """The loss (a scalar) of unit embeddings ``images`` and ``texts``, both [batch, width].

        Row i of both belongs to emoji ``indices[i]``; ``labels[i]`` is the text of row i.
        """
        anchors = functional.normalize(self.vectors, dim=-1).T
        picture_loss = functional.cross_entropy(scale * images @ anchors, indices)
        owners = torch.zeros(len(labels), anchors.shape[1])
        for row, label in zip(owners, labels, strict=True):
            row[list(label.owners)] = 1
        text_loss = functional.cross_entropy(
            scale * texts @ anchors, owners / owners.sum(dim=1, keepdim=True)
        )
        return picture_loss + text_loss + _contrastive(scale * images @ texts.T, owners[:, indices].T > 0)


def _contrastive(logits: Tensor, fitting: Tensor) -> Tensor:
    """Symmetric cross entropy of logits [pictures, texts], where row i belongs to column i.

    Other pairs that ``fitting`` (booleans of the same shape) marks as right, because the text is a keyword
    that emoji share, are neither rewarded nor punished.
    """
    shared = fitting & ~torch.eye(len(logits), dtype=torch.bool)
    logits = logits.masked_fill(shared, -torch.inf)
    target = torch.arange(len(logits))
    return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2
