"""Sounds from files of every kind, at 16 kHz, or one line that says why not."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.use.sound import RATE, read_sound, resampled
from tests.towers.audio_models import chirp, write_wav


def tone(rate: int, frequency: float = 440.0, seconds: float = 0.5) -> np.ndarray:
    found: np.ndarray = (0.5 * np.sin(2 * np.pi * frequency * np.arange(int(rate * seconds)) / rate)).astype(np.float32)
    return found


def write(path: Path, samples: np.ndarray, width: int) -> Path:
    scale = 2 ** (8 * width - 1) - 1
    values = np.round(samples * scale).astype("<i4")
    content = (values + 128).astype(np.uint8).tobytes() if width == 1 else b"".join(
        int(value).to_bytes(width, "little", signed=True) for value in values
    )
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(width)
        file.setframerate(RATE)
        file.writeframes(content)
    return path


@pytest.mark.parametrize(("width", "error"), [(1, 1e-2), (2, 1e-4), (3, 1e-6), (4, 1e-6)])
def test_widths(width: int, error: float, tmp_path: Path) -> None:
    samples = tone(RATE)
    assert np.abs(read_sound(write(tmp_path / "a.wav", samples, width)) - samples).max() < error


def test_channels_are_averaged_and_bytes_read_as_files(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", tone(RATE), channels=2)
    assert np.array_equal(read_sound(path), read_sound(write_wav(tmp_path / "b.wav", tone(RATE))))
    assert np.array_equal(read_sound(path.read_bytes()), read_sound(path))


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_resampling_keeps_a_tone_and_drops_what_16_khz_cannot_hold(rate: int) -> None:
    found, expected = resampled(tone(rate), rate), tone(RATE)
    assert abs(len(found) - len(expected)) <= 1
    middle = slice(800, 7000)  # the filter sees zeros beyond the ends
    assert np.abs(found[middle] - expected[middle]).max() < 1e-3
    if rate > 40000:  # 12 kHz would come out as 4 kHz, as it does from the engine's own reader
        assert np.abs(resampled(tone(rate, 12000), rate)[middle]).max() < 1e-3


def damaged(path: Path, kind: str) -> Path:
    write_wav(path, chirp(0.5))
    content = path.read_bytes()
    path.write_bytes({"cut": content[:2000], "text": b"no sound at all", "empty": b"", "header": content[:30],
                      "float": content[:20] + b"\x03" + content[21:]}[kind])  # fmt: skip
    return path


@pytest.mark.parametrize("kind", ["cut", "text", "empty", "header", "float"])
def test_damaged_files(kind: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.wav") as error:
        read_sound(damaged(tmp_path / "a.wav", kind))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("samples", "reason"),
    [(np.zeros(RATE, np.float32), "silent"), (np.ones(100, np.float32), "short"), (chirp(31), "30 s"),
     (np.zeros(0, np.float32), "short")],
)  # fmt: skip
def test_sounds_that_cannot_be_heard(samples: np.ndarray, reason: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=reason):
        read_sound(write_wav(tmp_path / "a.wav", samples))


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "no.wav", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            read_sound(path)
