"""An auxiliary loss in the middle of the model (deep supervision, Lee 2015): what a line says, whatever is asked of it.

Only one token of a row, the answer's first, carries what the row's line is about, and each question asks one thing.
Here every token of the line counts, at half the depth, for all that is known of it: linear evidence, summed over the
row as in a bag of words. The weights are the training's own and are in no exported file.
"""

import torch
from torch import nn

from model import norm

WEIGHT = 0.5  # beside the loss of the answers and prompts
STEP = 0.1  # of the evidence: AdamW moves the weights, which begin at zero, by its rate


class Auxiliary(nn.Module):
    """`sizes` are the numbers of classes of each kind of label, which lie one behind the other in the shares."""

    def __init__(self, hidden, sizes, weights):
        super().__init__()
        self.sizes, self.weights = sizes, weights
        self.evidence = nn.Parameter(torch.zeros(sum(sizes), hidden))

    def loss(self, middle, batch):
        """Of the middle's hidden states [rows * length, hidden]; a row that knows nothing of a kind adds nothing."""
        rows, length = batch.ids.shape
        states = norm(middle, 1.0, 1e-5).view(rows, length, -1)
        counts = batch.answer_starts.unsqueeze(1)
        is_asked = (torch.arange(length) < counts).float().unsqueeze(-1)
        logits = ((states * is_asked).sum(1) / counts.sqrt()) @ self.evidence.T * STEP
        kinds = zip(self.weights, logits.split(self.sizes, -1), batch.line_shares.split(self.sizes, -1))
        return sum(-weight * (shares * of_kind.log_softmax(-1)).sum(-1).mean() for weight, of_kind, shares in kinds)
