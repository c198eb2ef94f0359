"""Training steps in a row that the host does not wait for: on a GPU one step is captured as a CUDA graph and replayed.

    before a row   numbers[s, k, r], which the update of slot s needs of replica r: rates, and what depends on the count
    a step         prompts, loss_r, ∇, bound on its norm, update by numbers[s], but of no replica that has diverged
                   losses[s, r] ← loss_r,   step_r ← step_r + 1,   wild_r,   gone_r;   s ← s + 1
    after a row    losses, step, wild and gone, read together

Small models leave a GPU idle while the host launches kernels and reads losses. In a row nothing is read, so that a
graph can hold the whole step, and one launch replays it.

Law (replay): a row has the losses, the weights, the last steps and the states of the generators of as many steps taken
one by one.

Three steps are taken before the capture, and what they changed is put back; then replays must repeat the last two.
Where a step waits for the device, where the capture fails, or where the replays differ, the log says so, and steps are
taken one by one. Prompts whose drawing waits are drawn outside, and the rest of the step is captured.
"""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

MOST = 20  # steps in a row: a stop is heeded, and a divergence is seen, after so many
PATIENCE = 10  # losses out of bounds in a row that are put up with
TRIED = 2  # steps before a capture that its replays must repeat
SWITCH = "ICLAB_CUDA_GRAPHS"  # "on" in the environment; without it steps are taken one by one

Due = Callable[[int], bool]  # whether the curve has a point at a step


def ahead(step: int, last: int, due: Due) -> int:
    """Returns how many steps to take in a row: to the next that is due or the last, and at most `MOST`."""
    return next(k for k in range(1, MOST + 1) if k == MOST or step + k == last or due(step + k))


@dataclass(frozen=True)
class Row:
    """What a row of steps made of a replica. `fatal` is the loss with which it diverged."""

    step: int
    wild: int
    losses: list[float]
    fatal: float | None


class Ledger:
    """What a row of steps needs and leaves, on the device."""

    def __init__(self, replicas: int, kinds: int, device: torch.device) -> None:
        self.numbers = torch.zeros(MOST, kinds, replicas, dtype=torch.float64, device=device)
        self.losses = torch.zeros(MOST, replicas, dtype=torch.float64, device=device)
        self.counts = torch.zeros(3, replicas, dtype=torch.int64, device=device)  # step, wild, gone
        self.slot = torch.zeros(1, dtype=torch.int64, device=device)

    @property
    def tensors(self) -> list[Tensor]:
        """Returns what a step changes."""
        return [self.losses, self.counts, self.slot]

    def open(self, numbers: Sequence[Sequence[Sequence[float]]], counts: Sequence[Sequence[int]]) -> None:
        """Begins a row with the numbers of its slots, and with step, wild and gone of each replica."""
        self.numbers[: len(numbers)] = torch.tensor(numbers, dtype=torch.float64)
        self.counts.copy_(torch.tensor(counts))
        self.slot.zero_()

    @torch.no_grad()
    def record(
        self, losses: Float[Tensor, " R"], usual: Float[Tensor, "*R"] | float
    ) -> tuple[Float[Tensor, "kinds R"], Bool[Tensor, " R"]]:
        """Takes the losses of a step, and about what those of untrained models are; returns the numbers of the step,
        and which replicas take no part in it: those that diverge, as `GradientTraining.check` has it, or have."""
        step, wild, gone = self.counts.unbind()
        values = losses.detach().double()
        bound = 100 * (usual.double() if isinstance(usual, Tensor) else usual) + 1
        wild.copy_(torch.where(gone > 0, wild, (wild + 1) * (values > bound)))
        gone.logical_or_((wild > PATIENCE * (step > 0)) | ~values.isfinite())
        step.add_(gone == 0)
        numbers = self.numbers.index_select(0, self.slot)[0]
        self.losses.index_copy_(0, self.slot, values.unsqueeze(0))
        self.slot.add_(1)
        return numbers, gone > 0

    def close(self, begun: Sequence[int]) -> list[Row]:
        """Waits for the row and reads it. `begun` are the steps at which it began."""
        counts, losses = self.counts.tolist(), self.losses.T.tolist()
        rows = []
        for step, wild, gone, first, each in zip(*counts, begun, losses, strict=True):
            taken = step - first
            rows.append(Row(step, wild, each[:taken], each[taken] if gone else None))
        return rows


@runtime_checkable
class Graphs(Protocol):
    """What a device can do with a step."""

    def aside(self) -> AbstractContextManager[Any]:
        """Lets calls before a capture run where they leave no trace in it."""
        ...

    def unwaiting(self) -> AbstractContextManager[Any]:
        """Lets calls raise ``RuntimeError`` that wait for the device."""
        ...

    def capture(self, call: Callable[[], object], generators: Sequence[torch.Generator]) -> Callable[[], object]:
        """Captures a call, without what it does, and returns what repeats it, with fresh draws of the generators."""
        ...


def graphs_of(device: torch.device) -> "CudaGraphs | None":
    """Returns the graphs that a device has; nothing where steps are taken one by one."""
    wanted = device.type == "cuda" and os.environ.get(SWITCH) == "on"
    return CudaGraphs(device) if wanted else None


class CudaGraphs:
    """CUDA graphs of a device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Runs on a stream of its own, as libraries set up what must not be set up in a capture."""
        with torch.cuda.device(self.device):
            stream, current = torch.cuda.Stream(), torch.cuda.current_stream()
            stream.wait_stream(current)
            try:
                with torch.cuda.stream(stream):
                    yield
            finally:
                current.wait_stream(stream)

    @contextmanager
    def unwaiting(self) -> Iterator[None]:
        before = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is called a prototype
            torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)

    def capture(self, call: Callable[[], object], generators: Sequence[torch.Generator]) -> Callable[[], object]:
        # A capture that fails can leave a generator unusable, so that it gets another state with the same numbers.
        spare = [each.clone_state() for each in generators]
        with torch.cuda.device(self.device):
            graph: Any = torch.cuda.CUDAGraph()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # versions after 2.13 do this by themselves
                for each in generators:
                    graph.register_generator_state(each)
            try:  # after a capture that fails, too, this is the stream
                with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph):
                    call()
            except Exception:
                for each, state in zip(generators, spare, strict=True):
                    each.graphsafe_set_state(state)
                raise
        return graph.replay


class Outer(TorchDispatchMode):
    """Holds the tensors that calls read and have not made, such as those of a cache: a graph goes on to read them where
    they are, whoever else forgets them."""

    def __init__(self) -> None:
        super().__init__()
        self.read: dict[int, Tensor] = {}  # by storage
        self._made: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        for each in tree_leaves((given, named)):
            if isinstance(each, Tensor) and (place := _storage(each)) not in self._made:
                self.read.setdefault(place, each.detach())
        made = function(*given, **(named or {}))
        self._made |= {_storage(each) for each in tree_leaves(made) if isinstance(each, Tensor)} - self.read.keys()
        return made


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


class Replay:
    """A step that is taken in rows: captured once, and replayed.

    Args:
        draw: Returns what the step needs of fresh prompts.
        learn: Takes what was drawn and the ledger, and updates what learns without waiting for the device.
        changing: Returns the tensors that `learn` changes beside the ledger.
        generators: Those that `draw` draws from.
        log: Receives the reason where there is no capture.
        shape: The number of replicas, and how many numbers an update needs of each.
        graphs: What the device can do; without it every step is called.
    """

    def __init__(
        self,
        draw: Callable[[], Sequence[Tensor]],
        learn: Callable[[Sequence[Tensor], Ledger], None],
        changing: Callable[[], Sequence[Tensor]],
        generators: Sequence[torch.Generator],
        log: Callable[[str], None],
        shape: tuple[int, int],
        graphs: Graphs | None = None,
    ) -> None:
        self.draw, self.learn, self.changing, self.generators = draw, learn, changing, tuple(generators)
        self.log, self.graphs = log, graphs
        self.ledger = Ledger(*shape, self.generators[0].device)
        self.begun: Sequence[int] = []
        self.kind: object = None  # of the step that was captured
        self.replay: Callable[[], object] | None = None
        self.places: list[Tensor] | None = None  # where the graph finds what was drawn outside
        self.outer: Outer | None = None  # what else it reads

    def open(
        self,
        numbers: Sequence[Sequence[Sequence[float]]],
        steps: Sequence[int],
        wild: Sequence[int],
        gone: Sequence[int],
    ) -> None:
        """Begins a row, with the numbers of its slots; replicas that are `gone` stand still in it."""
        self.begun = list(steps)
        self.ledger.open(numbers, [steps, wild, gone])

    def ready(self, kind: object = ()) -> bool:
        """Captures the step in a row that was begun, unless it was captured; returns whether steps can be taken so.
        `kind` stands for all of it that a graph cannot change, such as the shapes of prompts."""
        if self.graphs is not None and kind != self.kind:
            self.kind = kind
            self._capture(self.graphs)
        return self.graphs is None or self.replay is not None

    def step(self) -> None:
        """Takes a step."""
        (self._call if self.replay is None else self._again)()

    def close(self) -> list[Row]:
        """Waits for the row, and returns what it made of each replica."""
        return self.ledger.close(self.begun)

    def _call(self) -> None:
        self.learn(self.draw(), self.ledger)

    def _again(self) -> None:
        assert self.replay is not None
        if self.places is not None:
            drawn = self.draw()
            if any(place.shape != each.shape for place, each in zip(self.places, drawn, strict=True)):
                return self.learn(drawn, self.ledger)
            for place, each in zip(self.places, drawn, strict=True):
                place.copy_(each)
        self.replay()

    # ---- capture ---------------------------------------------------------------------------------------------------

    def _capture(self, graphs: Graphs) -> None:
        """Captures the step if that can be, and leaves all that it changes as it was."""
        self.ledger.slot.tolist()  # waits, for a graph that is dropped must not be under way
        self.replay = self.places = self.outer = None  # whose memory the next one may need
        put_back = self._keep()
        try:
            self._try(graphs, put_back)
        except Exception as error:  # whatever comes of a step that cannot be captured
            self.replay = self.places = self.outer = None
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            self.log(f"trains without a CUDA graph: {reason}")
        put_back()

    def _try(self, graphs: Graphs, put_back: Callable[[], None]) -> None:
        with graphs.aside():
            self._call()  # libraries set up what they need
            outside = self._waits(graphs)
            put_back()
            wanted = self._seen(lambda: self._watched(graphs, outside))
            put_back()
        if outside:
            self.places = [each.clone() for each in self.draw()]
        self.outer = Outer()
        self.replay = graphs.capture(partial(self._captured, self.outer), () if outside else self.generators)
        put_back()
        if not _alike(wanted, self._seen(self._again)):
            raise RuntimeError("replays of the captured step differ from the step")

    def _captured(self, outer: Outer) -> None:
        with outer:
            self.learn(self.draw() if self.places is None else self.places, self.ledger)

    def _keep(self) -> Callable[[], None]:
        """Returns a function that puts back what is now."""
        pairs = [(each, each.clone()) for each in (*self.changing(), *self.ledger.tensors)]
        states = [(each, each.get_state()) for each in self.generators]

        def put_back() -> None:
            with torch.no_grad():
                for each, before in pairs:
                    each.copy_(before)
            for each, before in states:
                each.set_state(before)

        return put_back

    def _waits(self, graphs: Graphs) -> bool:
        """Whether drawing prompts waits for the device."""
        try:
            with graphs.unwaiting():
                self.draw()
        except RuntimeError:
            return True
        return False

    def _watched(self, graphs: Graphs, outside: bool) -> None:
        """Calls the step, and raises where what is to be captured waits."""
        drawn = self.draw() if outside else None
        with graphs.unwaiting():
            self.learn(self.draw() if drawn is None else drawn, self.ledger)

    def _seen(self, step: Callable[[], None]) -> tuple[Tensor, Tensor, list[Tensor]]:
        """What some steps by the numbers of the first slot leave."""
        losses = []
        for _ in range(TRIED):
            self.ledger.slot.zero_()
            step()
            losses.append(self.ledger.losses[0].clone())
        return torch.stack(losses), self.ledger.counts.clone(), [each.get_state() for each in self.generators]


def _alike(one: tuple[Tensor, Tensor, list[Tensor]], other: tuple[Tensor, Tensor, list[Tensor]]) -> bool:
    """Whether steps left the same: to rounding the same losses, and the same counts and states of generators."""
    states = all(torch.equal(a, b) for a, b in zip(one[2], other[2], strict=True))
    return states and torch.equal(one[1], other[1]) and torch.allclose(one[0], other[0], rtol=1e-3, equal_nan=True)
