"""Whether a round of a benchmark had the machine to itself."""
import os
import resource


class Quiet:
    """How much of the machine others used between two points: other processes, and time stolen by its host."""

    LIMIT = 0.08

    def __init__(self):
        self.start = self.now()

    @staticmethod
    def now():
        with open("/proc/stat") as f:
            fields = [int(x) for x in f.readline().split()[1:9]]
        tick = os.sysconf("SC_CLK_TCK")
        busy = (sum(fields) - fields[3] - fields[4]) / tick
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        own = resource.getrusage(resource.RUSAGE_SELF)
        ours = usage.ru_utime + usage.ru_stime + own.ru_utime + own.ru_stime
        return busy - ours, sum(fields) / tick

    def others(self):
        busy, total = self.now()
        return (busy - self.start[0]) / max(total - self.start[1], 0.01)


def quiet_rounds(play, rounds):
    """What `play` returned in so many rounds. Those during which others used the machine are left out and made again,
    up to four times as many."""
    kept, disturbed = [], 0
    while len(kept) < rounds:
        quiet = Quiet()
        result = play()
        if quiet.others() > Quiet.LIMIT and disturbed < 4 * rounds:
            disturbed += 1
        else:
            kept.append(result)
    if disturbed:
        print(f"{disturbed} rounds left out: something else was using the machine")
    return kept
