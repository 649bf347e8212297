"""Trains the model on a joint mixture of log classification and one-line summaries, for a given time.

usage: train.py --data FOLDER --eval FILE [FILE ...] --tokenizer FILE --minutes N --out CHECKPOINT

A gradient is of three batches of log lines and one of descriptions; two processes compute gradients, one of them steps.
The learning rate falls to zero with the time, so the run ends well whatever the machine's speed; weight decay stops
halfway, as in BitNet b1.58's recipe.
"""

import argparse
import os
import random
import time

import torch
import torch.nn.functional as F

import batches
import warm_start
import words
from auxiliary import WEIGHT, Auxiliary
from model import Model, Shape
from parallel import Helper, step
from tokenizer import carried_over, load as load_tokenizer

CHECKPOINT_SECONDS = 300
WARM_UP_STEPS = 60
BATCHES = (0, 0, 1, 0)  # of one gradient: three of logs, one of descriptions
KIND_WEIGHTS = (1.0, 0.5)  # of the auxiliary loss: subsystem, severity
FIGURES = 3  # tokens, answer loss of logs, answer loss of summaries


def optimizers(model, matrix_rate, other_rate):
    """Muon for the ternary matrices, AdamW for the embedding and the norms, each with its first learning rate."""
    matrices = [p for p in model.blk.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if not any(p is m for m in matrices)]
    muon = torch.optim.Muon(matrices, lr=matrix_rate, weight_decay=0.05, momentum=0.95,
                            adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(others, lr=other_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    return [(muon, matrix_rate), (adamw, other_rate)]


def loss_of(model, batch, prompt_weight):
    """The weighted mean loss and, for the record, the mean loss of the answers' tokens alone."""
    middle, last = model.hidden_behind(batch.head, batch.head_length, batch.ids)
    log_shares = model.logits(last.index_select(0, batch.positions)).log_softmax(-1)
    losses = F.nll_loss(log_shares, batch.targets, reduction="none")
    if len(batch.soft_places):
        terms = -log_shares[batch.soft_places, batch.soft_tokens] * batch.soft_shares
        is_soft = torch.zeros(len(losses), dtype=torch.bool)
        is_soft[batch.soft_places] = True
        losses = losses.masked_fill(is_soft, 0.0).index_add(0, batch.soft_places, terms)
    weights = torch.where(batch.is_answer, 1.0, prompt_weight)
    loss = (losses * weights).sum() / weights.sum()
    if batch.line_shares is not None:
        loss = loss + WEIGHT * model.auxiliary.loss(middle, batch)
    return loss, losses.detach()[batch.is_answer].mean()


class Gradients:
    """Leaves the gradient of one batch of each stream in a model; the prompts count less as `start` recedes."""

    def __init__(self, args, seed, start):
        self.streams = batches.sources(args.data, args.eval, args.tokenizer, random.Random(seed))
        self.start, self.seconds = start, 60 * args.minutes

    def progress(self):
        """The share of the time that is over; time.monotonic is one clock for both processes."""
        return (time.monotonic() - self.start) / self.seconds

    def compute(self, model):
        prompt_weight = 0.05 + 0.3 * (1 - min(1.0, self.progress()))
        figures = torch.zeros(FIGURES)
        for kind in BATCHES:
            batch = self.streams[kind].next_batch()
            loss, answer_loss = loss_of(model, batch, prompt_weight)
            (loss / len(BATCHES)).backward()
            figures[0] += batch.tokens
            figures[1 + kind] += answer_loss / BATCHES.count(kind)
        return figures


def prepare(args, seed, start):
    """A model and what computes its gradients, in a process of one thread."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = load_tokenizer(args.tokenizer)
    model = Model(Shape(layers=args.layers, vocab=tokenizer.get_vocab_size()), matmul=torch.bfloat16)
    if args.start:
        old = load_tokenizer(args.start)
        warm_start.load_into(model, args.start, lambda rows: carried_over(rows, old, tokenizer))
    if args.words:
        words.add_to(model.token_embd, args.words)
    model.auxiliary = Auxiliary(model.shape.hidden, [len(names) for names in batches.KINDS.values()], KIND_WEIGHTS)
    model.compile()
    return model, Gradients(args, seed, start).compute


class Run:
    """What a checkpoint holds beside the weights, so that a run that was killed goes on where it stopped."""

    def __init__(self, args, model):
        self.model, self.path = model, args.out
        self.pairs = optimizers(model, args.matrix_rate, args.other_rate)
        self.step, self.tokens, self.seconds = 0, 0.0, 0.0
        if os.path.exists(self.path):
            saved = torch.load(self.path)
            model.load_state_dict(saved["state"])
            for (optimizer, _), state in zip(self.pairs, saved["optimizers"]):
                optimizer.load_state_dict(state)
            self.step, self.tokens, self.seconds = saved["step"], saved["tokens"], saved["seconds"]

    def save(self):
        """Replaces the checkpoint once the new one is complete."""
        torch.save({"shape": vars(self.model.shape), "state": self.model.state_dict(), "step": self.step,
                    "optimizers": [optimizer.state_dict() for optimizer, _ in self.pairs],
                    "tokens": self.tokens, "seconds": self.seconds}, self.path + ".new")
        os.replace(self.path + ".new", self.path)


def train(args):
    before = torch.load(args.out)["seconds"] if os.path.exists(args.out) else 0.0
    start = saved = time.monotonic() - before
    # Another seed than before, so that a run that goes on does not begin with the same examples once more.
    model, compute = prepare(args, int(before), start)
    run = Run(args, model)
    print(sum(p.numel() for p in model.parameters()), "parameters, from step", run.step, flush=True)
    helper = Helper(list(model.parameters()), FIGURES, prepare, (args, int(before) + 1, start))
    smooth = None
    while (progress := (time.monotonic() - start) / (60 * args.minutes)) < 1:
        share = min(1.0, (run.step + 1) / WARM_UP_STEPS) * (1 - progress)
        for optimizer, rate in run.pairs:
            optimizer.param_groups[0]["lr"] = rate * share
        if progress > 0.5:
            run.pairs[0][0].param_groups[0]["weight_decay"] = 0.0
        figures, others = step(model, compute, helper, run.pairs)
        smooth = figures[1:] if smooth is None else 0.97 * smooth + 0.03 * figures[1:]
        run.tokens += float(figures[0]) + (float(others[0]) if others is not None else 0.0)
        run.step += 1
        run.seconds = time.monotonic() - start
        if run.step % 10 == 0:
            print(f"step {run.step} min {run.seconds / 60:.1f} tokens {run.tokens / 1e6:.2f}M "
                  f"tok/s {run.tokens / run.seconds:.0f} "
                  f"answer loss: logs {smooth[0]:.3f} descriptions {smooth[1]:.3f}", flush=True)
        if time.monotonic() - saved > CHECKPOINT_SECONDS:
            saved = time.monotonic()
            run.save()
    helper.stop()
    run.save()
    print(f"done: {run.step} steps, {run.tokens:.0f} tokens, {run.seconds / 60:.1f} minutes")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder that prep.py wrote")
    parser.add_argument("--eval", required=True, nargs="+", help="evaluation files, whose texts are left out")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--minutes", required=True, type=float)
    parser.add_argument("--out", required=True, help="checkpoint; one that is there is gone on with")
    beginning = parser.add_mutually_exclusive_group()
    beginning.add_argument("--words", help="token vectors of words.py to begin with")
    beginning.add_argument("--start", help="an I2_S GGUF to go on from")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--matrix-rate", type=float, default=2.5e-3)
    parser.add_argument("--other-rate", type=float, default=2e-3)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
