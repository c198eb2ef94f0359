"""The four operators of Akyürek et al. 2022 (arXiv 2211.15661, §3 and appendix) as decoder layers: Lemma 1.

    mov   the rows of one column become rows of a later column           attention
    aff   rows become an affine function of rows                         MLP
    mul   rows become the product of two matrices held in rows           MLP
    div   rows become rows divided by |a row|                            attention, LayerNorm, MLP

A column is a token of the `interleaved` layout, a row a channel of the stream. Every operator overwrites its target, in
the target columns (mov) or in all of them. The MLP uses GELU, g(z) = z Φ(z), which has

    g(z) − g(−z) = z                                   exactly, and
    e(z) = g(z) + g(−z) = √(2/π) (z² − z⁴/6 + z⁶/40 − …).

mov. Each column's position is one row that is 1 in that column alone. Head weights read it as

    q_t = (2B at the source of t, −B),    k_s = (1 at s, 1),    so that q_t·k_s = B at the source, −B elsewhere,

against 0 at the null slot. With B = 1000, exp(−B) = 0 in float64, so column t takes over the value of its source to the
last bit and a column without a source takes nothing. A second head reads every target column itself and takes away what
the target rows held.

aff (Lemma 5). g(z) − g(−z) = z passes values through the MLP at once. The paper uses g(z + N) − N with a large N, which
rounds to eps·N. Targets are cleared by a head in which each column attends to itself.

mul (Lemma 4). For one product xy, with operands divided by c,

    published    √(π/2) c² [g((x+y)/c) − g(x/c) − g(y/c)]  =  xy − xy (2x² + 3xy + 2y²)/(6c²) + O(c⁻⁴)
    even         E(c) = √(π/2) c²/4 [e((x+y)/c) − e((x−y)/c)]  =  xy − xy (x² + y²)/(3c²) + xy(…)/c⁴
    richardson   (4 E(2c) − E(c))/3  =  xy − xy (3x⁴ + 10x²y² + 3y⁴)/(160c⁴) + O(c⁻⁶)

with 3, 4 and 8 hidden units. The paper states an error O(x³ + y³); g has no cubic term, and the error is of fourth
order in the operands. Rounding costs c·eps, so that no c is best everywhere: the scale given here balances the two.

LayerNorm (Lemma 6). Two rows, the pads, hold N − s/2 and −N − s/2, where s is the sum of all other rows. Then the mean
is zero and the variance (2N² + s²/2 + Σh²)/L over L rows, so that

    N √(2/L) · LN(h) = h (1 − (s²/2 + Σh²)/(4N²) + …).

Every write to the stream writes −½ of its sum to both pads, so that they stay balanced. As published they are N and
−N − s, whose variance is (2N² + 2Ns + …)/L: the error is then s/(2N), of first order.

div (Lemma 8). With pads of ±Nc the same LayerNorm reads h/|c|. A head that reads its own column puts N(c − 1) onto the
pads, the MLP of the same layer reads rows divided by c and writes them to the target, and the head of the
next layer takes N(c − 1) off again. This needs attention that reads the stream itself, without LayerNorm, as in the
equations of the paper (h' = a + h, then LayerNorm inside the MLP branch alone).

Rows hold values divided by a bound on their size, so that the stream is of order one whatever the units of the prompt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product as pairs
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.errors import refuse, unknown_choices

Unit = tuple[float, float, float]


@dataclass(frozen=True)
class Product:
    """Product of two operands of at most 1 in size, by the MLP; c = `scale`, balanced for the dtype unless given."""

    kind: Literal["published", "even", "richardson"] = "richardson"
    scale: float | None = None

    def __post_init__(self) -> None:
        sound = self.scale is None or self.scale > 0
        refuse("Product", unknown_choices(self) + ([] if sound else [f"scale must be positive, given {self.scale}"]))

    def c(self, eps: float) -> float:
        """Returns the scale in use: where truncation and rounding are about equal, unless it was given."""
        best = {"published": (4.3, 1 / 3), "even": (3.8, 1 / 3), "richardson": (37.0, 1 / 5)}
        times, power = best[self.kind]
        return (times * eps) ** -power if self.scale is None else self.scale

    def units(self, eps: float) -> list[Unit]:
        """Returns the hidden units (a, b, gain), with xy ≈ Σ gain·g(a x + b y)."""
        c, root = self.c(eps), (torch.pi / 2) ** 0.5
        if self.kind == "published":
            return [(1 / c, 1 / c, root * c**2), (1 / c, 0.0, -root * c**2), (0.0, 1 / c, -root * c**2)]
        if self.kind == "even":
            return _even(c, root / 4)
        return _even(2 * c, root / 3) + _even(c, -root / 12)

    def error(self, eps: float) -> float:
        """Returns the largest |xy − product| for |x|, |y| ≤ 1: the leading term above at x = y = 1, doubled for the
        rest of the series (c ≥ 10), and rounding of every unit to a few eps of itself. Infinite where c is too small to
        tell."""
        c = self.c(eps)
        truncated = {"published": 7 / 6 / c**2, "even": 2 / 3 / c**2, "richardson": 0.1 / c**4}
        rounded = {"published": 10.0, "even": 5.0, "richardson": 15.0}
        return 2 * truncated[self.kind] + rounded[self.kind] * c * eps if c >= 10 else float("inf")


def _even(c: float, gain: float) -> list[Unit]:
    signs = [(1, 1, 1), (-1, -1, 1), (1, -1, -1), (-1, 1, -1)]
    return [(a / c, b / c, s * gain * c**2) for a, b, s in signs]


class Value(NamedTuple):
    """Linear forms of the stream, one for each entry, and a bound on the size of every entry."""

    forms: Float[Tensor, "entries width"]
    size: float


class Head(NamedTuple):
    """One attention head: which column reads which, what is read there (forms·h + shift), and where it is written."""

    sources: Mapping[int, int]
    forms: Float[Tensor, "entries width"]
    shift: Float[Tensor, " entries"]
    write: Float[Tensor, "width entries"]


@dataclass(frozen=True)
class Stream:
    """Layout of the rows of the stream: the token (y, x), one row for each position, the registers, and the pads of
    LayerNorm.

    `registers` gives the number of rows of each name and a bound on the size of what they hold.
    """

    d: int
    n: int
    registers: Mapping[str, tuple[int, float]]
    largest_x: float = 1.0
    largest_y: float = 1.0
    norm: bool = False

    @property
    def columns(self) -> int:
        """Returns the number of tokens of the longest prompt."""
        return 2 * self.n - 1

    @property
    def layout(self) -> dict[str, tuple[int, int, float]]:
        """Returns the first row, the number of rows and the size of each name."""
        known = {"y": (1, self.largest_y), "x": (self.d, self.largest_x), "position": (self.columns, 1.0)}
        named, first = {}, 0
        for name, (count, size) in {**known, **self.registers}.items():
            named[name], first = (first, count, size), first + count
        return named

    @property
    def content(self) -> int:
        """Returns the number of rows other than the pads."""
        return sum(count for _, count, _ in self.layout.values())

    @property
    def width(self) -> int:
        """Returns the number of rows."""
        return self.content + 2 * self.norm

    def rows(self, name: str) -> slice:
        """Returns where a register stands."""
        first, count, _ = self.layout[name]
        return slice(first, first + count)

    def value(self, name: str) -> Value:
        """Returns the content of a register, in the units of the prompt."""
        size = self.layout[name][2]
        return Value(size * self._eye()[self.rows(name)], size)

    def form(self, name: str) -> Float[Tensor, "entries width"]:
        """Returns the linear forms of the stream that are the content of a register."""
        return self.value(name).forms

    def write(self, name: str) -> Float[Tensor, "width entries"]:
        """Returns what adds values, in the units of the prompt, to a register."""
        return self._eye()[:, self.rows(name)] / self.layout[name][2]

    def _eye(self) -> Tensor:
        return torch.eye(self.width, dtype=torch.float64)


@dataclass
class Layer:
    """One block in the making. Several operators may share it: attention acts first, then the MLP reads."""

    stream: Stream
    product: Product
    eps: float
    heads: list[Head] = field(default_factory=list)
    hidden: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    bias: Tensor = field(init=False)
    made: Tensor = field(init=False)  # a bound on the error that the MLP makes in each row when it reads exactly
    reading: Tensor = field(init=False)  # and for an error of 1 in each row that it reads
    divisor: Value | None = None
    cleared: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.bias = torch.zeros(self.stream.width, dtype=torch.float64)
        self.made, self.reading = torch.zeros(2, self.stream.width, dtype=torch.float64)

    def read(self, sources: Mapping[int, int], value: Value, write: Tensor, shift: float = 0.0) -> None:
        """Adds to each column t what `value` is, plus `shift`, in column sources[t]."""
        shifts = torch.full((len(value.forms),), shift, dtype=torch.float64)
        self.heads.append(Head(dict(sources), value.forms, shifts, write))

    def mov(self, sources: Mapping[int, int], name: str, to: str) -> "Layer":
        """Moves `name` of column sources[t] into the rows `to` of column t."""
        refuse("mov", [f"{t} cannot read the later {s}" for t, s in sources.items() if s > t])
        self.read(sources, self.stream.value(name), self.stream.write(to))
        self.read({t: t for t in sources}, self.stream.value(to), -self.stream.write(to))
        return self

    def aff(self, to: str, terms: Sequence[Tensor] = (), bias: Tensor | float = 0.0, add: bool = False) -> "Layer":
        """Sets `to` ← Σ terms + bias, the terms being linear forms of the stream; or `to` ← `to` + Σ terms + bias."""
        if not add:
            self._clears(to)
        write = self.stream.write(to)
        shift = bias + torch.zeros(write.shape[1], dtype=torch.float64)
        self.bias += write @ shift
        self.made += 2 * self.eps * (write.abs() @ shift.abs())
        if terms:
            self._pass(torch.stack([*terms]).sum(0), to)
        return self

    def mul(self, a: Value, b: Value, to: str, shape: tuple[int, int, int], gain: float = 1.0) -> "Layer":
        """Sets `to` ← gain·A B, A of shape r × s and B of shape s × t, row by row; added to what this layer writes
        there."""
        r, s, t = shape
        i, j, k = torch.tensor(list(pairs(range(r), range(s), range(t)))).mT
        left, right = a.forms[i * s + j] / a.size, b.forms[j * t + k] / b.size
        write = gain * a.size * b.size * self.stream.write(to)[:, i * t + k]
        self._clears(to)
        self.hidden += [(x * left + y * right, by * write) for x, y, by in self.product.units(self.eps)]
        self.made += write.abs().sum(1) * self.product.error(self.eps)
        self.reading += 2 * write.abs().sum(1)
        return self

    def div(self, value: Value, by: Value, to: str) -> "Layer":
        """Sets `to` ← value / |by|, where |by| ≥ 1; nothing else may be read by the MLP of this layer."""
        problems = [] if self.stream.norm else ["it is LayerNorm that divides, and there is none"]
        refuse("div", problems + (["everything that the MLP of its layer reads is divided"] if self.hidden else []))
        self.divisor = by
        self._clears(to)
        self._pass(value.forms, to)
        return self

    def _pass(self, forms: Float[Tensor, "entries width"], to: str) -> None:
        size = self.stream.layout[to][2]
        write = size * self.stream.write(to)
        self.hidden += [(forms / size, write), (-forms / size, -write)]
        reading = write @ (forms / size).abs().sum(1)
        self.made += 4 * self.eps * reading
        self.reading += reading

    def units(self) -> tuple[Float[Tensor, "units width"], Float[Tensor, "width units"]]:
        """Returns all hidden units: what each reads and what it writes."""
        none = torch.zeros(0, self.stream.width, dtype=torch.float64)
        forms, writes = [each for each, _ in self.hidden], [each for _, each in self.hidden]
        return torch.cat([none, *forms]), torch.cat([none.mT, *writes], dim=1)

    def _clears(self, name: str) -> None:
        if name not in self.cleared:
            self.cleared.append(name)
