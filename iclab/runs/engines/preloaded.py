"""What a run needs, loaded once for all workers, which are forks of the server that imports this. Nothing here may
touch a GPU: a fork could not use it then."""

import torch

import iclab.runs.environment
import iclab.runs.packing
import iclab.runs.perform
import iclab.runs.trainings  # noqa: F401

torch.set_num_threads(1)  # threads do not survive a fork
torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])  # the first optimizer of a process loads more
