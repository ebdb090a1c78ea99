"""`cloister bench audit`: what an attack on the published adapters shows, beside what is claimed."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from federation.audit.bound import lower_bound
from federation.audit.game import Game
from federation.audit.plants import SUBJECTS, Subject
from federation.heart.hospitals import job_file, load_hospital, model_folder
from privacy.accounting import dp_sgd_event, noise_multiplier_for, pld_epsilon, rdp_epsilon, rdp_vector
from privacy.mechanism import DpSgd
from runtime.config import load_config
from silo_agent.job_file import JobFile
from silo_agent.modeling import MeanPooledClassifier
from silo_agent.models import Tokenizer, load_base
from silo_agent.normaliser import feature_moments

HOSPITAL, RECORDS = "cleveland", 40
EPSILON, DELTA, RATE = 2.0, 1e-3, 0.1
ROUNDS, STEPS = 5, 2


def bench_audit(runs: int, confidence: float, on_progress: Callable[[str], None]) -> dict[str, Any]:
    """For each subject a lower bound on epsilon at DELTA, from `runs` trainings with the canary and as many without.

    The claim is that of the plan, which a planted bug breaks. Only a lower bound above the claim says anything for
    sure, and with the given confidence for each subject by itself.
    """
    torch.set_num_threads(1)
    game = make_game()
    found = []
    for subject in SUBJECTS:
        bound = audit(subject, game, runs, confidence)
        claim = claim_of(game if subject.planted else subject.change(game))
        on_progress(f"{subject.name}: at least {bound:.2f}, claimed {claim['claimed']:.2f}")
        found.append(
            {"subject": subject.name, "means": subject.means, "planted": subject.planted, "bound": bound, **claim}
        )
    return {
        "runs": runs,
        "confidence": confidence,
        "delta": DELTA,
        "noise_multiplier": game.mechanism.noise_multiplier,
        "subjects": found,
    }


def claim_of(game: Game) -> dict[str, float | None]:
    """Epsilon at DELTA of what is promised, by RDP and by PLD."""
    event = dp_sgd_event(game.mechanism, game.rounds * game.mechanism.steps_per_round)
    return {"claimed": rdp_epsilon(rdp_vector(event), DELTA), "claimed_pld": pld_epsilon(event, DELTA)}


def audit(subject: Subject, game: Game, runs: int, confidence: float) -> float:
    """The lower bound that one subject's runs show."""
    played = subject.change(game)
    absent, present = (
        played.scores(runs, present=there, bug=None if subject.bug is None else subject.bug())
        for there in (False, True)
    )
    return lower_bound(absent, present, DELTA, confidence)


def make_game() -> Game:
    """MiniLM's normalised features of a hospital's first training records, under a mechanism of epsilon EPSILON."""
    job = load_config(JobFile, job_file(), "", {})
    with tempfile.TemporaryDirectory() as scratch:
        part = load_hospital(HOSPITAL, Path(scratch)).training
    model = load_base(model_folder(), job.task.labels, "mean-pooled-normalised")
    tokenize = Tokenizer(model_folder(), job.task.max_tokens)
    if not isinstance(model, MeanPooledClassifier) or job.normaliser is None:
        raise TypeError("the demo's job has the mean-pooled head")
    center, deviation = feature_moments(model, tokenize, job.normaliser.made_up(job_file().parent))
    model.normaliser.center.copy_(torch.from_numpy(center))
    model.normaliser.deviation.copy_(torch.from_numpy(deviation))
    with torch.no_grad():
        features = model.normaliser(model.pooled(**tokenize(part.texts[:RECORDS])))
    mechanism = DpSgd(
        clip_l2=0.5,
        noise_multiplier=noise_multiplier_for(EPSILON, DELTA, RATE, ROUNDS * STEPS),
        sampling_rate=RATE,
        steps_per_round=STEPS,
        expected_batch_size=RATE * RECORDS,
        unit="record",
        delta=DELTA,
    )
    return Game(mechanism, ROUNDS, features.clone(), torch.from_numpy(part.labels[:RECORDS]))
