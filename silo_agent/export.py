"""The global adapter as a standard PEFT folder with a model card: what a federation hands to the world.

`PeftModel.from_pretrained(base, folder)` loads it; for the mean-pooled, normalised head `base` is our
`MeanPooledClassifier`. The card states the purpose, the data, epsilon per silo and unit, the suite and the digests.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from peft import PeftConfig
from safetensors.numpy import save as save_safetensors

from privacy.errors import ConfigError
from privacy.flatten import adapter_digest, unflatten
from privacy.plan import JobPlan
from privacy.tasks import ModelTask
from runtime.model_card import Facts, model_card
from silo_agent.adapters import adapter_config, saved_heads
from silo_agent.models import read_artifact

Float32 = npt.NDArray[np.float32]
WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
CARD_FILE = "README.md"
PLAN_FILE = "cloister_plan.json"


def write_adapter(folder: Path, plan: JobPlan, artifact: bytes, global_vector: Float32, facts: Facts) -> Path:
    """Write adapter_config.json, adapter_model.safetensors, README.md and the plan into an empty or new `folder`.

    Raises ConfigError if the folder holds files or the job trains no model, VerificationError if the artifact is not
    the plan's. Returns the folder.
    """
    if not isinstance(plan.task, ModelTask):
        raise ConfigError(f"job {plan.name!r}", "trains no model", "A rehearsal has nothing to export.")
    state = read_artifact(artifact, plan.task.adapter) | unflatten(global_vector, plan.tensors)
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"export folder {folder}", "is not empty", "Name a new folder.")
    folder.mkdir(parents=True, exist_ok=True)
    config = adapter_config(plan.task.adapter, sorted(saved_heads(state)), plan.task.kind)
    config.base_model_name_or_path = plan.task.model.source
    config.revision = plan.task.model.revision
    config.inference_mode = True
    (folder / CONFIG_FILE).write_text(_config_json(config), encoding="utf-8")
    (folder / WEIGHTS_FILE).write_bytes(save_safetensors(state, metadata={"format": "pt"}))
    (folder / PLAN_FILE).write_bytes(plan.encode())
    card = model_card(plan, plan.task, adapter_digest(global_vector).hex(), facts)
    (folder / CARD_FILE).write_text(card, encoding="utf-8")
    return folder


def _config_json(config: PeftConfig) -> str:
    """Stable JSON: sets sorted, so that two exports of one adapter are the same bytes."""

    def plain(value: Any) -> Any:  # noqa: ANN401 - whatever PEFT put there
        return sorted(value) if isinstance(value, set | frozenset) else value

    as_dict: dict[str, Any] = config.to_dict()
    values = {key: plain(value) for key, value in as_dict.items()}
    return json.dumps(values, indent=2, sort_keys=True) + "\n"
