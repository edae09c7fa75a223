"""How a request's critiques are written, for the checkpoint that is served."""

from __future__ import annotations

from criticrm_client.schemas import CritiqueOptions, Settled
from criticrm_model import Manifest

from .errors import InvalidField, NotCalibrated
from .schemas import ScoreMany, ScoreOne


def critique_options(request: ScoreOne | ScoreMany, manifest: Manifest) -> CritiqueOptions | None:
    """None where no critique is written.

    Raises:
        InvalidField: a model that writes none is to write or to read some, or options contradict each other.
        NotCalibrated: critiques where they matter, of a checkpoint whose two scores have no common scale.
    """
    asked, writes = request.critique, manifest.writes_critiques
    _check_supplied(request, writes)
    for name in ("criteria", "reference"):
        if not writes and any(getattr(item, name) is not None for item in request.items):
            raise InvalidField(
                name,
                "this model is an imported scalar reward model and reads no instruction: put it into the prompt, "
                "in the form that the model was trained with",
            )
    if asked and not writes:
        raise InvalidField(
            "critique",
            "this model is an imported scalar reward model and writes no critiques until it is trained to "
            "(criticrm train): leave it out, or send false",
        )
    if asked == "auto":
        if manifest.selection is None:
            raise InvalidField(
                "critique",
                "this checkpoint has no setting for 'auto' (criticrm evaluate --recommend writes one): send "
                '{"when": "close", "margin": 1} or true',
            )
        own = manifest.selection
        stop = None if own.settled is None else Settled(settled=own.settled, tokens=own.tokens)
        asked = CritiqueOptions(when="close", n=own.n, stop=stop)
    if not isinstance(asked, CritiqueOptions):
        return CritiqueOptions() if asked or (asked is None and writes) else None
    if asked.trace and request.normalize:
        raise InvalidField("critique.trace", "rewards within a critique can't be normalised")
    if asked.when == "close":
        if request.normalize:
            raise InvalidField(
                "normalize", "results with and without a critique are compared by calibrated_score: leave it out"
            )
        if manifest.calibration is None or manifest.calibration.scales is None:
            raise NotCalibrated(
                "this checkpoint has no common scale for scores before and after critiques, so critique.when can only "
                "be 'always' (`criticrm evaluate --calibrate` on labelled pairs measures one)"
            )
        return _complete(asked, manifest)
    return asked


def _check_supplied(request: ScoreOne | ScoreMany, writes: bool) -> None:
    asked = request.critique
    if all(item.critiques is None for item in request.items):
        return
    if not writes:
        raise InvalidField("critiques", "this model is an imported scalar reward model: it can't read critiques")
    if asked in (False, "auto") or (isinstance(asked, CritiqueOptions) and asked.model_fields_set - {"include"}):
        raise InvalidField("critique", "beside `critiques`, which are there already, it may only say `include`")


def _complete(asked: CritiqueOptions, manifest: Manifest) -> CritiqueOptions:
    """With the checkpoint's own margin and rank where the request has none."""
    own = manifest.selection
    margin = asked.margin or (own.margin if own else None)
    if margin is None:
        raise InvalidField("critique.margin", "is needed: this checkpoint has none of its own")
    return asked.model_copy(update={"margin": margin, "rank": asked.rank or (own.rank if own else "best")})
