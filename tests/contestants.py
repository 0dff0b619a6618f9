"""Contestants that say what they are told to, in a module that their processes load in little time."""

import torch


def play(losses, baton):
    baton.begin(torch.nn.Linear(2, 3))
    for loss in losses:
        baton.step_done(torch.tensor(loss))


def run_out_of_memory(baton):
    baton.begin(torch.nn.Linear(2, 3))
    raise torch.OutOfMemoryError("no room for 3 GiB\nmore about it")
