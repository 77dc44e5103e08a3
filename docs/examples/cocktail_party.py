"""A cocktail party: five sounds that are made here, mixed into five microphones, and separated again.

python docs/examples/cocktail_party.py FOLDER [--quick]

FOLDER gets WAV files of the sounds, the microphones and what was separated: listen to them. Nothing is known of the room; each
microphone hears a sum of all sounds without delay, which is what independent component analysis undoes.
"""

import sys
from pathlib import Path

import numpy as np
from scipy.io import wavfile
from scipy.signal import lfilter

from pyrolvm_models import ica

RATE = 8000
VOWELS = {
    "a": (730, 1090, 2440),
    "e": (530, 1840, 2480),
    "i": (270, 2290, 3010),
    "o": (570, 840, 2410),
    "u": (300, 870, 2240),
}
"""Formants of spoken vowels, Hz (Peterson and Barney 1952)."""


def voice(seconds, pitch, words, rng):
    """Vowels: pulses of a gliding pitch, through a resonance for each formant, with pauses between syllables."""
    parts = []
    while sum(map(len, parts)) < seconds * RATE:
        length = int(RATE * rng.uniform(0.15, 0.35))
        glide = pitch * np.linspace(rng.uniform(0.9, 1.2), rng.uniform(0.8, 1.0), length)
        phase = np.cumsum(glide / RATE)
        sound = np.diff(np.floor(phase), prepend=0.0) + 0.01 * rng.normal(size=length)
        for formant in VOWELS[words[len(parts) // 2 % len(words)]]:
            radius, angle = np.exp(-np.pi * 90 / RATE), 2 * np.pi * formant / RATE
            sound = lfilter([1 - radius], [1, -2 * radius * np.cos(angle), radius**2], sound)
        parts += [sound * np.hanning(length) ** 0.5, np.zeros(int(RATE * rng.uniform(0.02, 0.25)))]
    return np.concatenate(parts)[: int(seconds * RATE)]


def bird(seconds, rng):
    """Short whistles that glide up or down."""
    sound = np.zeros(int(seconds * RATE))
    start = 0
    while start < len(sound):
        length = int(RATE * rng.uniform(0.06, 0.2))
        glide = np.linspace(*rng.uniform(1800, 3600, 2), length) + 60 * np.sin(
            2 * np.pi * 25 * np.arange(length) / RATE
        )
        note = np.hanning(length) * np.sin(2 * np.pi * np.cumsum(glide) / RATE)
        sound[start : start + length] += note[: len(sound) - start]
        start += length + int(RATE * rng.uniform(0.03, 0.3))
    return sound


def strings(seconds, rng):
    """Plucked strings (Karplus and Strong 1983): noise that goes round a loop and is smoothed each time."""
    sound = np.zeros(int(seconds * RATE))
    for start in range(0, len(sound), RATE // 3):
        period = round(RATE / (110 * 2 ** (rng.choice([0, 3, 5, 7, 10, 12]) / 12)))
        loop = np.zeros(period + 2)
        loop[0], loop[-2:] = 1.0, -0.498
        pluck = np.zeros(len(sound) - start)
        pluck[:period] = rng.uniform(-1, 1, min(period, len(pluck)))
        sound[start:] += lfilter([1.0], loop, pluck)
    return sound


def drum(seconds, rng):
    """Bursts of noise that die away, on most beats."""
    sound = np.zeros(int(seconds * RATE))
    for start in range(0, len(sound), RATE // 4):
        if rng.uniform() < 0.8:
            length = min(RATE // 4, len(sound) - start)
            sound[start : start + length] += rng.normal(size=length) * np.exp(-np.arange(length) / (0.03 * RATE))
    return sound


def decibel(power):
    """A ratio of powers in dB."""
    return 10 * np.log10(power)


def shares(unmixing, mixing, power):
    """Power of every source, by column, in every output, by row."""
    return (unmixing @ mixing) ** 2 * power


def purity(heard):
    """For each source the best ratio of its power to that of all others in one output (SIR), in dB."""
    return decibel((heard / (heard.sum(1, keepdims=True) - heard)).max(0))


def write(path, sound):
    """A WAV file of 16 bits, as loud as goes."""
    wavfile.write(path, RATE, np.round(32000 * sound / np.abs(sound).max()).astype(np.int16))


def main(folder, quick=False):
    """Makes the sounds, mixes and separates them, and says how well."""
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    seconds = 1.5 if quick else 6
    sounds = {
        "low voice": voice(seconds, 110, "aoeiu", rng),
        "high voice": voice(seconds, 210, "ieaou", rng),
        "bird": bird(seconds, rng),
        "strings": strings(seconds, rng),
        "drum": drum(seconds, rng),
    }
    z = np.column_stack([sound / sound.std() for sound in sounds.values()])
    mixing = rng.uniform(0.2, 1.0, (5, 5)) * rng.choice([-1, 1], (5, 5))
    x = z @ mixing.T

    found = ica.maximum_likelihood(x, prior="adaptive")
    separated = found.sources(x).numpy()
    unmixing = found.matrix.numpy()
    before, after = (shares(matrix, mixing, z.var(0)) for matrix in (np.eye(5), unmixing))

    print(f"{len(x)} samples, {len(found.log_likelihoods)} steps, converged: {found.converged}")
    print(f"Amari distance {ica.amari_distance(unmixing, mixing):.4f} (0: separated)")
    print(f"MCC {ica.mcc(x, z):.3f} in the microphones, {ica.mcc(separated, z):.4f} separated")
    for k, (name, heard, got) in enumerate(zip(sounds, purity(before), purity(after), strict=True)):
        row = int((after / after.sum(1, keepdims=True))[:, k].argmax())
        print(
            f"{name:>10}: SIR {heard:5.1f} dB in the best microphone, {got:5.1f} dB separated ({found.densities[row]})"
        )
        write(out / f"source {name}.wav", z[:, k])
        write(out / f"microphone {k + 1}.wav", x[:, k])
        write(out / f"separated {name}.wav", separated[:, row])


if __name__ == "__main__":
    main(sys.argv[1], "--quick" in sys.argv)
