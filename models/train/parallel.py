"""A second process that computes gradients, without making the first one wait for long.

Two threads of one matrix product wait for each other: beside other work on the machine the slower one sets the
pace. Two processes of one thread each do not. The second reads the weights as they are (at most a step old, perhaps
half written: harmless at a learning rate this small) and leaves a gradient, which the first takes when it is there.
"""

import time

import torch
from torch import multiprocessing, nn

PATIENCE = 0.25  # for the other process's gradient, in times of one's own


def flatten_into(flat, tensors):
    start = 0
    for tensor in tensors:
        flat[start : start + tensor.numel()].copy_(tensor.reshape(-1))
        start += tensor.numel()


def flat_parts(flat, like):
    start = 0
    for tensor in like:
        yield flat[start : start + tensor.numel()].view_as(tensor)
        start += tensor.numel()


class Helper:
    """`compute(model)` leaves gradients in the model and returns figures of the batches as a tensor.

    `make` runs in the second process and returns (model, compute).
    """

    def __init__(self, parameters, figures, make, arguments):
        self.parameters = parameters
        size = sum(parameter.numel() for parameter in parameters)
        self.weights = torch.zeros(size).share_memory_()
        self.gradient = torch.zeros(size).share_memory_()
        self.figures = torch.zeros(figures).share_memory_()
        context = multiprocessing.get_context("spawn")
        self.is_ready = context.Event()
        self.is_taken = context.Event()
        self.publish()
        shared = (self.weights, self.gradient, self.figures, self.is_ready, self.is_taken)
        self.process = context.Process(target=work, args=(shared, make, arguments), daemon=True)
        self.process.start()

    def publish(self):
        """Shows the second process the current weights."""
        with torch.no_grad():
            flatten_into(self.weights, self.parameters)

    def add_gradient(self, patience):
        """Averages a waiting gradient into the parameters' own; returns its figures, or None where none waits, nor comes
        within `patience` seconds. Without patience a gradient that is a moment late would idle for a whole step."""
        if not self.is_ready.wait(patience):
            return None
        for parameter, part in zip(self.parameters, flat_parts(self.gradient, self.parameters)):
            parameter.grad.add_(part).mul_(0.5)
        figures = self.figures.clone()
        self.is_ready.clear()
        self.is_taken.set()
        return figures

    def stop(self):
        self.process.terminate()
        self.process.join()


def step(model, compute, helper, pairs):
    """A step on this process's gradient and on the other's, where one waits; returns the figures of each, or None.

    `pairs` are optimizers, each with its first learning rate.
    """
    began = time.monotonic()
    figures = compute(model)
    others = helper.add_gradient(PATIENCE * (time.monotonic() - began))
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer, _ in pairs:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    helper.publish()
    return figures, others


def work(shared, make, arguments):
    """The second process: a gradient, wait until it is taken, the next one."""
    weights, gradient, figures, is_ready, is_taken = shared
    model, compute = make(*arguments)
    parameters = list(model.parameters())
    while True:
        with torch.no_grad():
            for parameter, part in zip(parameters, flat_parts(weights, parameters)):
                parameter.copy_(part)
        model.zero_grad(set_to_none=True)
        figures.copy_(compute(model))
        flatten_into(gradient, [parameter.grad for parameter in parameters])
        is_taken.clear()
        is_ready.set()
        while not is_taken.wait(timeout=10):
            if not multiprocessing.parent_process().is_alive():
                return
