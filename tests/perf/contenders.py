"""Guests that are measured against each other: all are booted, then take turns, so that a machine whose speed
drifts does so for each of them. A guest runs `tests/lab/guest-init` and does what its console is told."""
import os
import statistics
import subprocess

EXITS = "/sys/kernel/debug/kvm/exits"  # KVM's own count, over all machines


def exits():
    with open(EXITS) as file:
        return int(file.read())


class Bounds:
    """Collects what each contender reached, round by round, and judges medians over the rounds. A ratio is taken
    within each round, where the two stood side by side, and the median of the ratios is judged."""

    def __init__(self):
        self.values = {}  # (contender, quantity) -> one value a round
        self.bounds = []

    def add(self, contender, quantity, value):
        self.values.setdefault((contender, quantity), []).append(value)

    def median(self, contender, quantity):
        return statistics.median(self.values[contender, quantity])

    def require(self, what, over, under, least):
        """`over` and `under` are (contender, quantity); over/under must be at least `least`."""
        self.bounds.append((what, over, under, least))

    def ratios(self, over, under):
        return [a / max(b, 1e-9) for a, b in zip(self.values[over], self.values[under])]

    def missed(self):
        return [b for b in self.bounds if statistics.median(self.ratios(b[1], b[2])) < b[3]]

    def report(self):
        for what, over, under, least in self.bounds:
            ratios = self.ratios(over, under)
            median = statistics.median(ratios)
            print("%-54s %5.2f (%.2f to %.2f), required %.2f: %s" %
                  (what, median, min(ratios), max(ratios), least, "ok" if median >= least else "MISSED"))


def play(rounds, most, bounds, one_round):
    """Plays `rounds` rounds. While a bound is missed it plays on, up to `most`: the median of few rounds on a
    machine that others use as well says little about two contenders that are close to each other."""
    played = 0
    while played < rounds or (bounds.missed() and played < most):
        played += 1
        one_round(played)
    return played


def mount_debugfs():
    if not os.path.exists(EXITS):
        subprocess.run(["mount", "-t", "debugfs", "debugfs", "/sys/kernel/debug"], check=True)
