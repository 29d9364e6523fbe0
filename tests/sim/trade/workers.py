"""The kinds of workers of simulated markets. All are nodes with a real core, whose operators may lie about runs."""

from __future__ import annotations

from random import Random

from crabnet.core.commands import FinishRun
from crabnet.core.effects import RunOrder
from crabnet.core.replica.replica import Replica
from crabnet.domain.model import TaskResult
from tests.sim.trade.tasks import Output, duration_ms, failure_of, result_of, truth

_LIES = 0.7
"""The part of its runs about which a liar lies, so that it has a past that is not all bad."""


class Worker:
    """An honest worker: it does what it was asked, and says what came out."""

    def __init__(self, rng: Random, replica: Replica) -> None:
        self.rng = rng
        self.replica = replica

    def begins(self) -> bool:
        """Whether it begins a task that it has won."""
        return True

    def lasts_ms(self, order: RunOrder, exec_deadline_ms: int) -> int:
        """From the start of a run to its result."""
        del exec_deadline_ms
        return duration_ms(order.command, self.rng.random(), order.timeout_ms)

    def result(self, order: RunOrder, ran_ms: int) -> FinishRun | None:
        """What it says of a run. None: nothing, ever."""
        return result_of(order.seed_id, truth(order.command), ran_ms)


class Liar(Worker):
    """Says something else than what came out, mostly."""

    def result(self, order: RunOrder, ran_ms: int) -> FinishRun | None:
        return self.lie(order, ran_ms) if self.rng.random() < _LIES else super().result(order, ran_ms)

    def lie(self, order: RunOrder, ran_ms: int) -> FinishRun | None:
        """The lie."""
        raise NotImplementedError


class Falsifier(Liar):
    """Makes the output up."""

    def lie(self, order: RunOrder, ran_ms: int) -> FinishRun | None:
        true = truth(order.command)
        return result_of(order.seed_id, Output(true.exit_code, "all is well\n", ""), ran_ms)


class Whitewasher(Liar):
    """Says that it exited with another exit code."""

    def lie(self, order: RunOrder, ran_ms: int) -> FinishRun | None:
        true = truth(order.command)
        return result_of(order.seed_id, Output(int(true.exit_code == 0), true.stdout, true.stderr), ran_ms)


class Empty(Liar):
    """Says that it went well and wrote nothing, without running anything."""

    def lie(self, order: RunOrder, ran_ms: int) -> FinishRun | None:
        del ran_ms
        return result_of(order.seed_id, Output(0, ""), 0)


class Copier(Liar):
    """Says what another worker has said about another task, or about this one in an earlier try."""

    def lie(self, order: RunOrder, ran_ms: int) -> FinishRun | None:
        results = [record.result for record in self.replica.state.records.values() if record.result is not None]
        others = [fact.body for fact in results if isinstance(fact.body, TaskResult) and not fact.body.worker_failed]
        if not others:
            return result_of(order.seed_id, Output(0, ""), ran_ms)
        other = self.rng.choice(others)
        return result_of(order.seed_id, Output(other.exit_code, other.stdout, other.stderr), ran_ms)


class Contradictor(Liar):
    """Gives the hash of the right output with another output."""

    def lie(self, order: RunOrder, ran_ms: int) -> FinishRun | None:
        true = truth(order.command)
        return result_of(order.seed_id, true._replace(stdout="trust me\n"), ran_ms, output_hash=true.output_hash)


class Cutter(Liar):
    """Takes the hash that the seed demands, and says that the output was too long to be sent."""

    def lie(self, order: RunOrder, ran_ms: int) -> FinishRun | None:
        record = self.replica.state.records.get(order.seed_id)
        seed = None if record is None else record.definition
        wanted = None if seed is None or seed.acceptance is None else seed.acceptance.stdout_sha256
        long = Output(0, "x" * 200)
        return result_of(order.seed_id, long, ran_ms, output_hash=wanted or long.output_hash)


class Latecomer(Liar):
    """Tells the truth, after the deadline."""

    def lasts_ms(self, order: RunOrder, exec_deadline_ms: int) -> int:
        if self.rng.random() < _LIES:
            return exec_deadline_ms + self.rng.randint(0, 30_000)
        return super().lasts_ms(order, exec_deadline_ms)

    def lie(self, order: RunOrder, ran_ms: int) -> FinishRun | None:
        return Worker.result(self, order, ran_ms)


class Idler(Liar):
    """Wins tasks, and does not begin them."""

    def begins(self) -> bool:
        return self.rng.random() > _LIES

    def lie(self, order: RunOrder, ran_ms: int) -> FinishRun | None:
        return Worker.result(self, order, ran_ms)


class Mute(Liar):
    """Begins, and is never heard of again."""

    def lie(self, order: RunOrder, ran_ms: int) -> FinishRun | None:
        return None


class Quitter(Liar):
    """Begins, and says that it cannot do it."""

    def lie(self, order: RunOrder, ran_ms: int) -> FinishRun | None:
        return failure_of(order.seed_id)


HONEST = "honest"
WORKERS: dict[str, type[Worker]] = {
    HONEST: Worker,
    "falsifier": Falsifier,
    "whitewasher": Whitewasher,
    "empty": Empty,
    "copier": Copier,
    "contradictor": Contradictor,
    "cutter": Cutter,
    "latecomer": Latecomer,
    "idler": Idler,
    "mute": Mute,
    "quitter": Quitter,
}
