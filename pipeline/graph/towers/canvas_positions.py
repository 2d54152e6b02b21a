"""Where MiniCPM-V 4.7's tokens stand, worked out in the graph ("canvas M-RoPE", `visual.positions=exact`).

transformers (modeling_minicpmv4_7.py, `get_rope_index`) lays a picture and its slices on one canvas. All of its tokens,
from <image> on to the last </slice> and the line feeds behind it, have the time of its beginning; the whole picture is
stretched over the canvas of its slices, and the words between them stand at the slices' corners. Text after it goes on
behind the canvas's longer side.

The encoder writes five numbers behind each row: −1, row, column, rows and columns of the slice. In the token table
those of the words around pictures are the word's number instead, and 0 for text. A run of the engine that holds a
picture holds all of it, so what its slices tell is summed up by picture, and given back to its tokens. How many
positions were taken so far is counted as in `qwen_positions.py`, over the cache too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from pipeline.graph.decoder import Inputs
from pipeline.graph.towers.qwen_positions import running_mean

MARKERS = 5
IMAGE, IMAGE_END, SLICE, SLICE_END, LINE = (1.0, 2.0, 3.0, 4.0, 5.0)
PICTURES = 64  # that a run can tell apart


def markers(places: torch.Tensor) -> torch.Tensor:
    """float32 [tokens, 5] of one slice. places: int [2, tokens], their rows and columns."""
    row, column = places[0].float(), places[1].float()
    nothing = row * 0
    return torch.stack([nothing - 1, row, column, nothing + row.max() + 1, nothing + column.max() + 1], -1)


def positions(given: Inputs, limit: int) -> torch.Tensor:
    """int64 [3, L]: time, row and column of every token, below `limit`."""
    assert given.markers is not None
    return placed(given.markers, lambda taken: _before(given, taken)).round().clamp(0, limit - 1).to(torch.int64)


def placed(marks: torch.Tensor, before: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """float32 [3, L]: time, row and column of the tokens of a run.

    marks: float32 [L, 5], their numbers. before: from how many positions each token takes, [L], to how many were taken
    before it.
    """
    tokens = _read(marks)
    canvas = _canvas(tokens)
    longer = torch.maximum(canvas.height, canvas.width) + 1
    taken = 1 - canvas.inside + canvas.inside * tokens.opens * longer
    time = before(taken) - canvas.inside * (1 - tokens.opens) * longer
    down, right = (time + canvas.inside * moved for moved in _moved(tokens, canvas))
    return torch.stack([time, down, right])


@dataclass(frozen=True)
class _Tokens:
    """float32 [L] each. picture, opens, closes, cuts, ends, breaks: 1 for a row of a picture, the <image> before one,
    the </image>, <slice> and </slice> next to one, and the line feed between two slices. other: 1 for text. next_height
    and next_width: rows and columns of the slice whose first row is the next token."""

    picture: torch.Tensor
    opens: torch.Tensor
    closes: torch.Tensor
    cuts: torch.Tensor
    ends: torch.Tensor
    breaks: torch.Tensor
    other: torch.Tensor
    row: torch.Tensor
    column: torch.Tensor
    height: torch.Tensor
    width: torch.Tensor
    next_height: torch.Tensor
    next_width: torch.Tensor


@dataclass(frozen=True)
class _Canvas:
    """float32 [L] each, of the picture that a token belongs to. inside: 1 for its tokens. number: of the slice so far,
    0 for the whole. line: of the slice's row. columns: of slices. tall, wide: a slice's size; height, width: the
    canvas's."""

    inside: torch.Tensor
    number: torch.Tensor
    line: torch.Tensor
    columns: torch.Tensor
    tall: torch.Tensor
    wide: torch.Tensor
    height: torch.Tensor
    width: torch.Tensor


def _read(marks: torch.Tensor) -> _Tokens:
    kind, row, column, height, width = (marks[:, index] for index in range(MARKERS))
    picture = _is(kind, -1.0)
    after, before = _next(picture), _previous(picture)
    cuts, ends = _is(kind, SLICE) * after, _is(kind, SLICE_END) * before
    return _Tokens(
        picture=picture,
        opens=_is(kind, IMAGE) * after,
        closes=_is(kind, IMAGE_END) * before,
        cuts=cuts,
        ends=ends,
        breaks=_is(kind, LINE) * _previous(ends) * _next(cuts),
        other=_is(kind, 0.0),
        row=row * picture,
        column=column * picture,
        height=height * picture,
        width=width * picture,
        next_height=_next(height * picture),
        next_width=_next(width * picture),
    )


def _canvas(tokens: _Tokens) -> _Canvas:
    opened = tokens.opens.cumsum(0)
    owners = _is(opened[:, None], torch.arange(1, PICTURES + 1, dtype=torch.float32))  # [L, pictures]
    text, cut, broken = tokens.other.cumsum(0), tokens.cuts.cumsum(0), tokens.breaks.cumsum(0)
    at_start = _by_picture(owners, [tokens.opens * count for count in (text, cut, broken)])
    inside = owners.sum(-1) * _is(text - at_start[0], 0.0)
    number, line = (cut - at_start[1]) * inside, (broken - at_start[2]) * inside
    opens, cuts = tokens.opens * inside, tokens.cuts * inside
    first = cuts * _is(number, 1.0)
    height, width, tall, wide, columns, lines, slices = _by_picture(
        owners,
        [
            opens * tokens.next_height,
            opens * tokens.next_width,
            first * tokens.next_height,
            first * tokens.next_width,
            cuts * _is(line, 0.0),
            first + tokens.breaks * inside,
            first,
        ],
    )
    return _Canvas(
        inside=inside,
        number=number,
        line=line,
        columns=columns,
        tall=tall,
        wide=wide,
        height=lines * tall + (1 - slices) * height,
        width=columns * wide + (1 - slices) * width,
    )


def _by_picture(owners: torch.Tensor, values: list[torch.Tensor]) -> list[torch.Tensor]:
    """Each of `values` [L] summed up by picture, as its tokens see the sum; 0 for tokens before the first picture."""
    sums = torch.matmul(owners, torch.matmul(owners.transpose(0, 1), torch.stack(values, -1)))
    return [sums[:, index] for index in range(len(values))]


def _moved(tokens: _Tokens, canvas: _Canvas) -> tuple[torch.Tensor, torch.Tensor]:
    """How far down and to the right of the canvas's origin each token of a picture stands."""
    sliced = canvas.number.clamp(max=1.0)
    whole = tokens.picture * (1 - sliced)
    top = canvas.line * canvas.tall
    left = (canvas.number - 1 - canvas.line * canvas.columns) * canvas.wide
    corner, within = tokens.cuts + tokens.ends + tokens.picture * sliced, tokens.picture * sliced
    closes = tokens.closes * (1 - sliced)
    down = (
        corner * top + within * tokens.row + tokens.ends * (canvas.tall - 1) + tokens.breaks * (top - 1)
        + closes * canvas.height + whole * _stretched(tokens.row, tokens.height, canvas.height) - tokens.opens
    )  # fmt: skip
    right = (
        corner * left + within * tokens.column + tokens.ends * (canvas.wide - 1)
        + tokens.breaks * canvas.columns * canvas.wide
        + closes * canvas.width + whole * _stretched(tokens.column, tokens.width, canvas.width) - tokens.opens
    )  # fmt: skip
    return down, right


def _stretched(place: torch.Tensor, count: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    """Place number `place` of `count`, spread evenly over 0 … length − 1, rounded half to even.

    With torch.linspace's own roundings, which decide some halves: from the near end, a step at a time.
    """
    last = length - 1
    step = last / (count - 1).clamp(min=1.0)
    near = 1 - (2 * place - count + _odd(count) + 2).clamp(0.0, 1.0)  # 1 where place < count // 2
    far = last - step * (count - 1 - place)
    exact = near * (step * place) + (1 - near) * far * (count - 1).clamp(max=1.0)
    upper = (exact + 0.5).floor()
    return upper - _is(exact + 0.5, upper, sharp=True) * _odd(upper)


def _odd(number: torch.Tensor) -> torch.Tensor:
    return number - 2 * (number * 0.5).floor()


def _before(given: Inputs, taken: torch.Tensor) -> torch.Tensor:
    """float32 [L]: how many positions were `taken` before each token, over the whole cached sequence."""
    first = _is(given.positions[0].float(), 0.0)  # the engine's own, which is 0 for the first token alone
    mean = running_mean(given.tracer, [1 - taken, first], given.layers)
    count = (1.0 / mean[:, 1].clamp(min=1e-6)).round()
    return (count - mean[:, 0] * count).round() - taken


def _is(value: torch.Tensor, number: float | torch.Tensor, sharp: bool = False) -> torch.Tensor:
    """1.0 where whole numbers are equal, or 0.0; `sharp`: any numbers."""
    apart = (value - number).abs()
    return 1 - (apart * 2.0**24 if sharp else apart).clamp(max=1.0)


def _next(value: torch.Tensor) -> torch.Tensor:
    """Each token's successor's, 0 for the last. Padded first: the engine has no tensors without elements."""
    return torch.cat([value, value[:1] * 0])[1:]


def _previous(value: torch.Tensor) -> torch.Tensor:
    """Each token's predecessor's, 0 for the first."""
    return torch.cat([value[:1] * 0, value])[: int(value.shape[0])]
