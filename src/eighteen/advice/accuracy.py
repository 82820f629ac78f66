"""What costs accuracy and no time: the doctor's rules about rates, classes and splits. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from eighteen.advice.evidence import Evidence
from eighteen.advice.finding import Finding, fixed

LARGE_LR = 8  # times the batch that the rates are written for: Goyal et al. 2017 (arXiv 1706.02677), section 5.1
MOST_PLAIN_BATCH = 8192  # beyond which the same paper's linear rule fails without LARS
IMBALANCE = 10  # samples of the largest class for each of the smallest


def learning_rate(seen: Evidence) -> Iterator[Finding]:
    """Rates that are written for a batch far from the one that is trained with."""
    written, batch = seen.recipe.get("optim.batch"), seen.recipe.get("phases.0.batch")
    if not written or not batch:
        return
    ratio = batch / written
    plain = seen.recipe.get("optim.name") in ("sgd", "adamw")
    if 1 / LARGE_LR < ratio < LARGE_LR and not (plain and ratio > 1 and batch > MOST_PLAIN_BATCH):
        return
    yield Finding(
        "learning-rate",
        f"the learning rates are written for a batch of {written:,}, and scaled to one of {batch:,}",
        "rates in proportion to the batch hold over a few doublings; beyond them accuracy is lost",
        f"{ratio:.3g} times the batch; {seen.pauses.num_skipped if seen.pauses else 0} steps were skipped",
        f"--batch {written}, or rates of your own: --set optim.lr=... with --set optim.batch={batch}",
    )


def imbalance(seen: Evidence) -> Iterator[Finding]:
    pictures = seen.pictures
    if not pictures or not pictures.counts or seen.recipe.get("data.balance", "none") != "none":
        return
    most, least = max(pictures.counts), min(pictures.counts)
    if most < IMBALANCE * max(1, least):
        return
    names = [pictures.classes[pictures.counts.index(count)] for count in (most, least)]
    fix = {"data.balance": "sampling"}
    yield Finding(
        "imbalance",
        f"{names[0]} has {most / max(1, least):,.0f} times the pictures of {names[1]}",
        "a model learns to name the large classes; top-1 hides that the small ones are never found",
        f"{most:,} train pictures against {least:,}",
        fixed(fix),
        None,
        fix,
    )


def leakage(seen: Evidence) -> Iterator[Finding]:
    pictures = seen.pictures
    if not pictures or not (pictures.copies or pictures.alike):
        return
    share = len(pictures.alike) / max(1, pictures.looked_at)
    yield Finding(
        "leakage",
        f"{len(pictures.alike):,} validation pictures are also in the train split, or nearly",
        "the model has seen them: what it reaches on them says nothing of pictures it has not seen",
        f"{share:.1%} of {pictures.looked_at:,} looked at; {pictures.copies:,} byte for byte",
        "eighteen pack --group, to keep together what belongs together",
        items=[f"{theirs} is {ours}" for theirs, ours in pictures.alike],
    )


def label_errors(seen: Evidence) -> Iterator[Finding]:
    if not seen.doubted:
        return
    yield Finding(
        "label-errors",
        f"{len(seen.doubted):,} of {seen.num_labels:,} validation pictures may have a wrong label",
        "a model that is right is counted wrong; and what is wrong here is wrong as often in the train split",
        "a trained model is as sure of another class as it usually is where it is right",
        "look at them; mend the source and pack it again",
        items=[
            f"{picture}: {label}, likely {likely} ({chance:.0%})" for picture, label, likely, chance in seen.doubted
        ],
    )
