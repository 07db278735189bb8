"""Write the motion that the arm with six muscles tracks, ``assets/reach_and_return.csv``.

The hand goes from the relaxed pose out to the side, across the body, and back, in straight lines
with the speed of least jerk (Flash and Hogan 1985, "The coordination of arm movements"), and rests
at the end. Joint angles are those of a two-link arm.

    python benchmarks/reach_and_return.py [FILE]
"""

import sys
from pathlib import Path

import numpy as np

FILE = Path(__file__).resolve().parents[1] / "assets" / "reach_and_return.csv"
RATE = 100  # frames per second
UPPER_ARM, FOREARM = 0.31, 0.34  # lengths [m], the forearm's with the hand
RELAXED = 0.7, 1.2  # shoulder and elbow [rad]
MOVES = ((0.6, (0.36, 0.36)), (0.7, (-0.08, 0.42)), (0.6, None))  # seconds, hand [m]; None: back
REST = 0.1  # seconds


def hand(shoulder, elbow):
    """Return the place of the hand."""
    reach = UPPER_ARM * np.exp(1j * shoulder) + FOREARM * np.exp(1j * (shoulder + elbow))
    return np.array([reach.real, reach.imag])


def joints(place):
    """Return shoulder and elbow [F, 2] of hand places [F, 2], the elbow flexed."""
    x, y = place.T
    cosine = (x**2 + y**2 - UPPER_ARM**2 - FOREARM**2) / (2 * UPPER_ARM * FOREARM)
    elbow = np.arccos(cosine)
    inside = np.arctan2(FOREARM * np.sin(elbow), UPPER_ARM + FOREARM * cosine)
    return np.stack([np.arctan2(y, x) - inside, elbow], axis=1)


def joint_speeds(angles, speed):
    """Return joint speeds [F, 2] of hand speeds [F, 2]: J^-1 v."""
    shoulder, whole = angles[:, 0], angles.sum(1)
    by_elbow = FOREARM * np.stack([-np.sin(whole), np.cos(whole)], axis=1)
    by_shoulder = by_elbow + UPPER_ARM * np.stack([-np.sin(shoulder), np.cos(shoulder)], axis=1)
    jacobian = np.stack([by_shoulder, by_elbow], axis=2)
    return np.linalg.solve(jacobian, speed[:, :, None])[:, :, 0]


def motion():
    """Return the frames [F, 5]: time, angles, speeds."""
    home = hand(*RELAXED)
    time = np.arange(round((sum(s for s, _ in MOVES) + REST) * RATE) + 1) / RATE
    place, speed = np.tile(home, (len(time), 1)), np.zeros((len(time), 2))
    begins, start = 0.0, home
    for seconds, goal in MOVES:
        way = (home if goal is None else np.array(goal)) - start
        s = np.clip((time - begins) / seconds, 0, 1)[:, None]
        after = time > begins
        place[after] = (start + way * (10 * s**3 - 15 * s**4 + 6 * s**5))[after]
        speed[after] = (way * 30 * s**2 * (1 - s) ** 2 / seconds)[after]
        begins, start = begins + seconds, start + way
    angles = joints(place)
    return np.column_stack([time, angles, joint_speeds(angles, speed)])


def main():
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else FILE
    rows = [",".join(f"{value:.6f}" for value in frame) for frame in motion() + 0.0]
    header = "time,shoulder,elbow,shoulder_velocity,elbow_velocity"
    file.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
