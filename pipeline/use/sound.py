"""Sounds as the engine's audio models take them: mono, 16 kHz, float32, no longer than the model hears.

The engine reads WAV files itself, but takes the first channel only, resamples without a filter, drops a file that it
cannot read without a word, and makes features that are no numbers of digital silence. So sounds are read here.
"""

from __future__ import annotations

import io
import wave
from math import gcd
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.errors import UserError

Wave = npt.NDArray[np.float32]
RATE = 16000
LONGEST = 30.0  # seconds that a Whisper encoder has positions for; others say in the product what they take
MOST = 120.0  # seconds that any of them takes
SHORTEST = 400 / RATE  # one window of the features
MOST_BYTES = 100 << 20
_TAPS = 32  # zero crossings of the resampling filter to each side
_CHUNK = 1 << 14


def read_sound(source: Path | bytes, where: str = "", *, longest: float = LONGEST) -> Wave:
    """A WAV file (PCM of 8, 16, 24 or 32 bits) or its bytes; float32 [samples] at 16 kHz. where: its name in errors.

    longest: seconds.
    Raises UserError for a file that is missing or no such WAV, and for a sound that is too long, too short or silent.
    """
    where = where or str(source if isinstance(source, Path) else "the sound")
    samples, rate = _read(source, where)
    seconds = len(samples) / rate
    if seconds > longest:
        raise UserError(f"{where} has {seconds:.1f} s; the model hears {longest:g} s at a time", "cut it into pieces")
    if seconds < SHORTEST:
        raise UserError(f"{where} has {seconds * 1000:.0f} ms, which is too short to hear anything")
    found = resampled(samples, rate)
    if not found.any():
        raise UserError(f"{where} is silent throughout")
    return found


def _read(source: Path | bytes, where: str) -> tuple[Wave, int]:
    try:
        if isinstance(source, Path) and source.stat().st_size > MOST_BYTES:
            raise UserError(f"{where} has {source.stat().st_size / 1e6:.0f} MB", f"at most {MOST_BYTES / 1e6:.0f} MB")
        file = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
        with file, wave.open(file) as sound:
            count, rate, width = sound.getnchannels(), sound.getframerate(), sound.getsampwidth()
            content = sound.readframes(sound.getnframes())
            declared = sound.getnframes()
    except (wave.Error, EOFError) as error:
        reason = str(error) or "it ends too early"
        raise UserError(f"{where} is no WAV file that can be read: {reason}", "convert it to 16-bit PCM") from None
    except OSError as error:
        raise UserError(f"{where} cannot be read: {error.strerror}") from None
    if rate <= 0 or len(content) < declared * count * width:
        raise UserError(f"{where} is damaged: it ends before its samples do")
    return _samples(content, width).reshape(-1, count).mean(1, dtype=np.float32), rate


def _samples(content: bytes, width: int) -> Wave:
    """Little-endian PCM as -1 … 1; 8 bits are unsigned."""
    if width == 1:
        return (np.frombuffer(content, np.uint8).astype(np.float32) - np.float32(128)) / np.float32(128)
    if width == 3:
        bytes_ = np.frombuffer(content, np.uint8).reshape(-1, 3)
        wide = np.zeros((len(bytes_), 4), np.uint8)
        wide[:, 1:] = bytes_
        return wide.view("<i4")[:, 0].astype(np.float32) / np.float32(2**31)
    values = np.frombuffer(content, np.int16 if width == 2 else np.int32)
    return values.astype(np.float32) / np.float32(2 ** (8 * width - 1))


def resampled(samples: Wave, rate: int) -> Wave:
    """At 16 kHz, by a Kaiser-windowed sinc that passes what both rates can hold."""
    if rate == RATE:
        return samples
    divisor = gcd(rate, RATE)
    up, down = RATE // divisor, rate // divisor
    cutoff = min(1.0, up / down)
    reach = int(np.ceil(_TAPS / cutoff))
    padded = np.pad(samples.astype(np.float64), reach)
    total = len(samples) * up // down
    pieces = [
        _filtered(padded, np.arange(start, min(start + _CHUNK, total)) * down / up, reach, cutoff)
        for start in range(0, total, _CHUNK)
    ]
    return np.concatenate(pieces).astype(np.float32) if pieces else samples[:0]


def _filtered(padded: npt.NDArray[np.float64], places: npt.NDArray[np.float64], reach: int, cutoff: float) -> Wave:
    """Values at fractional `places` of the sound that `padded` has `reach` zeros before."""
    first = np.floor(places).astype(np.int64) - reach + 1
    taps = first[:, None] + np.arange(2 * reach)
    distance = places[:, None] - taps
    window = np.i0(9.0 * np.sqrt(np.clip(1 - (distance / reach) ** 2, 0, None))) / np.i0(9.0)
    kernel = np.sinc(distance * cutoff) * window * cutoff
    found: Wave = (padded[taps + reach] * kernel).sum(1).astype(np.float32)
    return found
