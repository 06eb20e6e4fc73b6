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
        self.bounds = []  # what is compared, the pair of (contender, quantity), the least ratio
        self.limits = []  # contender, quantity, the most

    def add(self, contender, quantity, value):
        self.values.setdefault((contender, quantity), []).append(value)

    def median(self, contender, quantity):
        return statistics.median(self.values[contender, quantity])

    def require(self, what, over, under, least):
        """`over` and `under` are (contender, quantity); over/under must be at least `least`."""
        self.bounds.append((what, lambda: (over, under), least))

    def require_more(self, name, peers, quantity, least, what=None):
        """At least `least` times the best of `peers` in this run: the one with the highest median."""
        self.require_best(name, peers, quantity, least, what, max)

    def require_less(self, name, peers, quantity, least, what=None):
        """The best of `peers` in this run, the one with the lowest median, has at least `least` times as much."""
        self.require_best(name, peers, quantity, least, what, min)

    def require_best(self, name, peers, quantity, least, what, better):
        def pair():
            peer = (better(peers, key=lambda p: self.median(p, quantity)), quantity)
            return ((name, quantity), peer) if better is max else (peer, (name, quantity))
        self.bounds.append((what or quantity, pair, least))

    def require_at_most(self, name, quantity, most):
        self.limits.append((name, quantity, most))

    def ratios(self, over, under):
        return [a / max(b, 1e-9) for a, b in zip(self.values[over], self.values[under])]

    def missed(self):
        return ([b for b in self.bounds if statistics.median(self.ratios(*b[1]())) < b[2]] +
                [b for b in self.limits if self.median(*b[:2]) > b[2]])

    def report(self):
        for what, pair, least in self.bounds:
            over, under = pair()
            ratios = self.ratios(over, under)
            median = statistics.median(ratios)
            print("%-68s %5.2f (%.2f to %.2f), required %.2f: %s" %
                  ("%s / %s, %s" % (over[0], under[0], what), median, min(ratios), max(ratios), least,
                   "ok" if median >= least else "MISSED"))
        for name, quantity, most in self.limits:
            values = self.values[name, quantity]
            median = self.median(name, quantity)
            print("%-68s %5.1f (%.1f to %.1f), at most %.1f: %s" %
                  ("%s, %s" % (name, quantity), median, min(values), max(values), most,
                   "ok" if median <= most else "MISSED"))


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
