"""Does a model use the images? Its four views as arms, and how much recall is lost where one of the modalities is missing or wrong.

A model that was fine-tuned end to end may neglect the image (arXiv:2405.16789 §3): its vectors then rank as well with another
note's image as with the right one. What is lost is told as a share of the recall with both, 1 - view / both, by paired bootstrap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from noterec.embedding.modalities import RECORD_FILE, VIEWS, View, Views
from noterec.errors import ArtefactError, InputError
from noterec.evaluation.protocol import PathLike
from noterec.evaluation.resampling import Resampled
from noterec.evaluation.slices import HALVES, IMAGES

Use = Literal["used", "barely used", "neglected", "harmful", "can't tell"]

SLICES = (*HALVES, *IMAGES)
MISSING: tuple[View, ...] = ("text", "image", "shuffled")
NEGLIGIBLE = 0.05  # of recall: a loss that surely is smaller than this share is called little, or none

# What is done to the notes in a view, and what follows from its loss.
SENTENCES: dict[View, tuple[str, dict[Use, str]]] = {
    "shuffled": (
        "Shuffling the images",
        {
            "used": "the images are used",
            "barely used": "the images are used, but barely",
            "neglected": "the images are neglected",
            "harmful": "the images do harm",
        },
    ),
    "text": (
        "Leaving the images out",
        {
            "used": "they add to the text",
            "barely used": "they add little to the text",
            "neglected": "the text alone does as well",
            "harmful": "the text alone does better",
        },
    ),
    "image": (
        "Leaving the text out",
        {
            "used": "the text is used",
            "barely used": "the text is used, but barely",
            "neglected": "the text is neglected",
            "harmful": "the images alone do better",
        },
    ),
}


def arm_name(name: str, view: View) -> str:
    """The arm of one view: NAME itself for both, else NAME:view."""
    return name if view == "both" else f"{name}:{view}"


def with_views(arms: Mapping[str, PathLike], compared: Mapping[str, Views]) -> dict[str, PathLike]:
    """The arms that were given and those of all views, name -> embeddings table.

    Raises:
        InputError: two of them have one name.
    """
    tables = dict(arms)
    for name, views in compared.items():
        for view in VIEWS:
            arm = arm_name(name, view)
            if arm in tables:
                raise InputError(
                    f"the views of {name!r} need the arm {arm!r}, and there is one of that name already; give --arm or "
                    "--modalities another name"
                )
            tables[arm] = views.table(view)
    return tables


def check_one_model(compared: Mapping[str, Views], described: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse views whose tables another model wrote than their record says.

    Raises:
        ArtefactError: with the first such table.
    """
    for name, views in compared.items():
        for view in VIEWS:
            found = described[arm_name(name, view)]["model_version"]
            if found != views.versions[view]:
                raise ArtefactError(
                    f"{views.table(view)}: vectors of model version {found}, {RECORD_FILE} says {views.versions[view]}; views of "
                    "several models can't be compared: run `noterec modalities` into a new folder"
                )


def compared_views(
    resampled: Resampled, column: Mapping[tuple[str, str], int], name: str, metrics: Sequence[str]
) -> dict[str, Any]:
    """What one model reaches in each view, and what it loses, on some queries.

    Args:
        resampled: means over the queries, of all arms and metrics.
        column: the column of each (arm, metric) in it.
        name: of the model.
        metrics: its recalls, such as "recall@10"; by the first of them it is judged.

    Returns:
        "views": view -> metric -> mean with interval. "lost": view -> metric -> the difference both - view with its interval and
        verdict on both; and "share", 1 - view / both with its interval, None where both reach nothing in some resample.
        "images" and "says": whether the images are used, by what is lost when they are shuffled, and a sentence per view.
    """
    views = {
        view: {metric: resampled.interval(column[arm_name(name, view), metric]) for metric in metrics} for view in VIEWS
    }
    lost: dict[View, dict[str, Any]] = {view: {} for view in MISSING}
    for view in MISSING:
        for metric in metrics:
            both, without = column[name, metric], column[arm_name(name, view), metric]
            gain = resampled.relative(without, both)
            share = gain and {"mean": -gain["mean"], "low": -gain["high"], "high": -gain["low"]}
            lost[view][metric] = {**resampled.difference(both, without), "share": share}
    first = metrics[0]
    return {
        "queries": resampled.n,
        "views": views,
        "lost": lost,
        "images": use_of(lost["shuffled"][first]),
        "says": [sentence(view, lost[view][first], first) for view in ("shuffled", "text", "image")],
    }


def use_of(lost: Mapping[str, Any]) -> Use:
    """What a loss with its interval and share says about what was taken away; see NEGLIGIBLE."""
    share = lost["share"]
    little = share is not None and max(-share["low"], share["high"]) < NEGLIGIBLE
    if lost["verdict"] == "better":
        return "barely used" if little else "used"
    if lost["verdict"] == "worse":
        return "harmful"
    return "neglected" if little and lost["n"] > 1 else "can't tell"


def sentence(view: View, lost: Mapping[str, Any], metric: str) -> str:
    """What a view's loss means: "Shuffling the images costs 38 % [33, 42] of recall@10: the images are used."."""
    what, meanings = SENTENCES[view]
    use = use_of(lost)
    if lost["share"] is None:
        return f"{what}: no share can be told, as {metric} with both is zero, or nearly so."
    if use == "harmful":
        low, mean, high = (-lost["share"][key] for key in ("high", "mean", "low"))
        return f"{what} gains {percent(mean, low, high)} of {metric}: {meanings[use]}."
    cost = f"{what} costs {percent(*(lost['share'][key] for key in ('mean', 'low', 'high')))} of {metric}"
    if use == "neglected":
        return f"{cost}, which can't be told from none: {meanings[use]}."
    if use == "can't tell":
        queries = "1 query is" if lost["n"] == 1 else f"{lost['n']:,} queries are"
        return f"{cost}, which can't be told from none: {meanings['neglected']}, or {queries} too few to tell."
    return f"{cost}: {meanings[use]}."


def percent(mean: float, low: float, high: float) -> str:
    """A share with its interval, "38 % [33, 42]"; small ones with a decimal."""
    digits = 0 if max(abs(mean), abs(low), abs(high)) >= 0.1 else 1
    shown = [f"{100 * value:.{digits}f}" for value in (mean, low, high)]
    shown = [text.removeprefix("-") if not float(text) else text for text in shown]  # no -0
    return f"{shown[0]} % [{shown[1]}, {shown[2]}]"
