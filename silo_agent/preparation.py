"""What a silo needs for a job's rounds: the starting adapter, data and model behind an UpdateSource, the charge."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from privacy.errors import ConfigError, ProtocolError, Refused, Unavailable, VerificationError
from privacy.plan import JobPlan
from privacy.tasks import ModelTask
from silo_agent import approval, entries
from silo_agent.apply import AdapterShelf
from silo_agent.client import AggregatorPort
from silo_agent.home import Home
from silo_agent.jobs import JobRecord
from silo_agent.register import require_dataset
from silo_agent.source import SelfTest, UpdateSource
from silo_agent.sums import Rejected

if TYPE_CHECKING:
    from silo_agent.train import Training

Sources = Callable[[JobPlan, str, Callable[[], "Training"]], UpdateSource]


class Preparation:
    """One job's. `sources` makes what runs the mechanism, once, when it is first asked for."""

    def __init__(self, home: Home, port: AggregatorPort, sources: Sources) -> None:
        self._home = home
        self._port = port
        self._sources = sources
        self._source: UpdateSource | None = None

    def check(self, record: JobRecord) -> SelfTest | None:
        """Fetch the starting adapter and run the self-test; None where there is none.

        Raises Refused, VerificationError or Rejected for what the job itself is, for good; and, to be tried again,
        ConfigError for a fault of this machine and what the aggregator answers.
        """
        shelf = self._shelf(record)
        if record.plan.dp is not None and not shelf.artifact_path.exists():
            self._fetch_artifact(record, shelf)
        try:
            return self.source(record).prepare()
        except ProtocolError as error:
            raise Rejected.of(error) from error

    def source(self, record: JobRecord) -> UpdateSource:
        """What runs the mechanism."""
        if self._source is None:
            self._source = self._sources(record.plan, self._home.name, lambda: self._training(record))
        return self._source

    def charged(self, record: JobRecord) -> entries.Charged | None:
        """What its rounds charge; None for a rehearsal, and before a dataset was approved."""
        if record.dataset is None:
            return None
        with self._home.store.reading() as connection:
            return approval.charged_of(record.plan, require_dataset(connection, record.dataset))

    def _fetch_artifact(self, record: JobRecord, shelf: AdapterShelf) -> None:
        try:
            shelf.keep_artifact(self._port.fetch_artifact(record.job))
        except (Refused, VerificationError) as error:  # the aggregator's answer, and no verdict of ours
            raise Unavailable(error.what, error.why, error.next_step) from error

    def _training(self, record: JobRecord) -> "Training":
        from silo_agent.activation_store import ActivationStore
        from silo_agent.hardware import hardware_of
        from silo_agent.train import Training

        task = record.plan.task
        if record.dataset is None or not isinstance(task, ModelTask):
            raise ConfigError(f"job {record.name}", "was approved without a dataset", "Approve it with --dataset.")
        with self._home.store.reading() as connection:
            registered = require_dataset(connection, record.dataset)
        artifact = self._shelf(record).artifact_path.read_bytes()
        folder = approval.model_folder(self._home, task)
        settings = self._home.settings
        hardware = hardware_of(settings.training)
        store = ActivationStore(self._home.activations, settings.activations.disk_gib << 30)
        return Training(record.plan, artifact, approval.loaded(self._home, registered), folder, store, hardware)

    def _shelf(self, record: JobRecord) -> AdapterShelf:
        return AdapterShelf(self._home.artifacts(record.job), record.plan)
