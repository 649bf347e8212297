"""Trains the model on a joint mixture of log classification and one-line summaries, for a given time.

usage: train.py --data FOLDER --eval FILE [FILE ...] --tokenizer FILE --minutes N --out CHECKPOINT

A gradient is of one batch of log lines and one of descriptions; two processes compute gradients, one of them steps.
The learning rate falls to zero with the time, so the run ends well whatever the machine's speed; weight decay stops
halfway, as in BitNet b1.58's recipe.
"""

import argparse
import random
import time

import torch
import torch.nn.functional as F
from torch import nn

import batches
import warm_start
from model import Model, Shape
from parallel import Helper

CHECKPOINT_SECONDS = 240
WARM_UP_STEPS = 60
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
    hidden = model.hidden(batch.ids).index_select(0, batch.positions)
    losses = F.cross_entropy(model.logits(hidden), batch.targets, reduction="none")
    weights = torch.where(batch.is_answer, 1.0, prompt_weight)
    return (losses * weights).sum() / weights.sum(), losses.detach()[batch.is_answer].mean()


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
        for kind, stream in enumerate(self.streams):
            batch = stream.next_batch()
            loss, answer_loss = loss_of(model, batch, prompt_weight)
            (loss / len(self.streams)).backward()
            figures[0] += batch.tokens
            figures[1 + kind] = answer_loss
        return figures


def prepare(args, seed, start):
    """A model and what computes its gradients, in a process of one thread."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Model(Shape(layers=args.layers), matmul=torch.bfloat16)
    if args.start and args.start.endswith(".gguf"):
        warm_start.load_into(model, args.start)
    elif args.start:
        model.load_state_dict(torch.load(args.start)["state"])
    model.compile()
    return model, Gradients(args, seed, start).compute


def train(args):
    start = saved = time.monotonic()
    model, compute = prepare(args, 0, start)
    print(sum(p.numel() for p in model.parameters()), "parameters", flush=True)
    helper = Helper(list(model.parameters()), FIGURES, prepare, (args, 1, start))
    pairs = optimizers(model, args.matrix_rate, args.other_rate)
    step, tokens, smooth = 0, 0.0, None
    while (progress := (time.monotonic() - start) / (60 * args.minutes)) < 1:
        share = min(1.0, (step + 1) / WARM_UP_STEPS) * (1 - progress)
        for optimizer, rate in pairs:
            optimizer.param_groups[0]["lr"] = rate * share
        if progress > 0.5:
            pairs[0][0].param_groups[0]["weight_decay"] = 0.0
        figures = compute(model)
        smooth = figures[1:] if smooth is None else 0.97 * smooth + 0.03 * figures[1:]
        others = helper.add_gradient()
        tokens += float(figures[0]) + (float(others[0]) if others is not None else 0.0)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, _ in pairs:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        helper.publish()
        step += 1
        if step % 10 == 0:
            seconds = time.monotonic() - start
            print(f"step {step} min {seconds / 60:.1f} tokens {tokens / 1e6:.2f}M tok/s {tokens / seconds:.0f} "
                  f"answer loss: logs {smooth[0]:.3f} summaries {smooth[1]:.3f}", flush=True)
        if time.monotonic() - saved > CHECKPOINT_SECONDS:
            saved = time.monotonic()
            save(model, args.out)
    helper.stop()
    save(model, args.out)
    print(f"done: {step} steps, {tokens:.0f} tokens, {(time.monotonic() - start) / 60:.1f} minutes")


def save(model, path):
    torch.save({"shape": vars(model.shape), "state": model.state_dict()}, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder that prep.py wrote")
    parser.add_argument("--eval", required=True, nargs="+", help="evaluation files, whose texts are left out")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--minutes", required=True, type=float)
    parser.add_argument("--out", required=True)
    parser.add_argument("--start", help="a checkpoint or an I2_S GGUF to go on from")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--matrix-rate", type=float, default=2.5e-3)
    parser.add_argument("--other-rate", type=float, default=1e-3)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
