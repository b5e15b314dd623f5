"""The bundle: a folder with a manifest and graphs; this is its only reader and writer.

Opening checks everything that can be checked without running a stream: format version, digests, labels, the shapes of
every graph. What is wrong is said in one sentence (BundleError).
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from engines.backends.base import Engine, Shape
from engines.errors import BundleError
from engines.second import SAMPLE_RATE_HZ

FORMAT_VERSION = 1
MANIFEST = "manifest.json"

Share = Annotated[float, Field(ge=0, le=1)]
SecondsSpan = Annotated[float, Field(ge=0, le=600)]
Count = Annotated[int, Field(ge=1, le=100_000)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Pictures(_Strict):
    """How a visual stream wants its pictures.

    `aspect` is width over height of the screen that a picture shows, whatever the shape of its pixels; a stream of
    another shape gets bars, as on a television.
    """

    rate: Annotated[int, Field(ge=1, le=60)]
    width: Annotated[int, Field(ge=8, le=4096)]
    height: Annotated[int, Field(ge=8, le=4096)]
    resize_filter: Literal["area", "bilinear", "bicubic"]
    aspect: Annotated[float, Field(gt=0.1, lt=10)] = 16 / 9


class State(_Strict):
    """A state tensor of a graph: input `name`, output `next_name`; zeros at an epoch's start."""

    name: Annotated[str, Field(pattern="^state_")]
    shape: tuple[Count, ...]


class ModalityStream(_Strict):
    """One embedding's way: a front end's graph and what it needs, or the feature files that its rows come from."""

    name: str
    modality: Literal["visual", "audio", "other"]
    file: str | None
    """The front end's graph; None where rows come from feature files alone."""
    features: str | None = None
    """Feature files that hold its rows, in SoccerNet's layout; see `Manifest.features_of`."""
    columns: tuple[int, int] | None = None
    """Which columns of the feature files are this stream's, from and up to; None means all."""
    rate: Literal[1, 2, 4, 5, 10] = 1
    """Rows a second."""
    width: Count
    look_behind_s: SecondsSpan = 0
    look_ahead_s: Literal[0] = 0
    pictures: Pictures | None = None
    states: tuple[State, ...] = ()


class HeadSpec(_Strict):
    """The spotting head's graph: windows of rows in, scores (and displacement) out."""

    file: str
    kind: str
    rows: Count
    """Window length L."""
    look_ahead_s: SecondsSpan
    """Rows of the window after the last one whose scores it makes final, in seconds."""
    early_look_ahead_s: tuple[SecondsSpan, ...] = ()
    """Smaller look-aheads, rising, at which the graph scores rows as well, sooner and with less to go by."""
    outputs: Literal["row", "chunk"] = "row"
    """Whether the graph scores one row of its window, or every row of it (CALF)."""
    window_stride_rows: Count = 1
    """Rows from one window to the next; as many rows become final with each."""
    edges: Literal["zeros", "repeat", "inside"] = "zeros"
    """Beyond the first and the last row: rows of zeros, copies of the nearest row, or windows that stay inside (the
    first and the last one then score up to the end; for rules that wait for the whole half)."""
    row_time_s: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """From a row's start to the time that its scores are for."""
    unscored_rows: Annotated[int, Field(ge=0, le=100)] = 0
    """Rows at the end of a half that are never scored; the originals leave out one or two."""
    max_displacement_s: SecondsSpan = 0
    """0: the graph has no displacement output."""


class Decision(_Strict):
    """How a label's scores become spots."""

    rule: Literal["local-max", "greedy"] = "local-max"
    """`greedy` is the originals' suppression, best first; it may have to wait for the end of the half."""
    threshold: Share
    radius_s: SecondsSpan | None = None
    """Of local-max."""
    window_s: SecondsSpan | None = None
    """Of greedy: length of the window around a spot, as the originals give it."""
    look_ahead_s: SecondsSpan | None = None
    """Which of the head's look-aheads confirms; None: the largest."""
    deadline_s: SecondsSpan | None = None
    """The final word comes at most so long after the action; None: when the rule has settled it."""
    provisional_threshold: Share | None = None
    """Confidence from which it is said before it is settled; None: never."""

    @model_validator(mode="after")
    def _has_its_reach(self) -> Self:
        if (self.radius_s if self.rule == "local-max" else self.window_s) is None:
            raise ValueError(f"rule {self.rule} needs {'radius_s' if self.rule == 'local-max' else 'window_s'}")
        return self


class Manifest(_Strict):
    """Everything the live path must know about a model; see docs/bundle.md."""

    format_version: int
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    labels: tuple[str, ...]
    streams: tuple[ModalityStream, ...]
    head: HeadSpec
    decision: Mapping[str, Decision]
    calibration: Mapping[str, Mapping[str, float]] = {}
    """What the head's graph does to each label's scores so that they mean probabilities; empty: nothing."""
    early_calibration: Mapping[str, tuple[Mapping[str, float], ...]] = {}
    """The same for each early look-ahead; empty: nothing."""
    measured: Mapping[str, object] = {}
    provenance: Mapping[str, object] = {}
    sha256: Mapping[str, str]

    @property
    def rate(self) -> int:
        """Rows a second, the same for all streams."""
        return self.streams[0].rate

    @property
    def rule(self) -> str:
        """The rule that decides, the same for all labels."""
        return self.decision[self.labels[0]].rule

    @property
    def pictures(self) -> Pictures:
        """How pictures are sampled for the visual stream.

        Raises:
            BundleError: the bundle spots on feature files alone.
        """
        found = next((s.pictures for s in self.streams if s.pictures is not None), None)
        if found is None:
            raise BundleError(
                f"{self.name}: this bundle has no front ends, so it cannot watch a video; give it feature files "
                "(touchline spot)."
            )
        return found

    @property
    def front_ends(self) -> dict[str, str]:
        """The SHA-256 of each front end's graph, by file: what decides the rows that it makes."""
        return {stream.file: self.sha256[stream.file] for stream in self.streams if stream.file}

    def features_of(self, stream: ModalityStream) -> str:
        """Return the name of the files `{1,2}_<name>.npy` that hold a stream's rows; `touchline embed` writes such."""
        return stream.features or f"{self.name}_{stream.name}"

    @property
    def look_aheads_s(self) -> tuple[float, ...]:
        """Every look-ahead that rows are scored at, rising."""
        return (*self.head.early_look_ahead_s, self.head.look_ahead_s)

    @property
    def grid_s(self) -> float:
        """From the time that a row's scores are for to the end of its second, at most."""
        return 1.0 - self.head.row_time_s

    def look_ahead_s(self, label: str) -> float:
        """Return the media seconds until a label's row is scored, at most: look-ahead, and the wait for a window."""
        own = self.decision[label].look_ahead_s
        ahead_s = self.head.look_ahead_s if own is None else own
        return ahead_s + (self.head.window_stride_rows - 1) / self.rate

    def hold_s(self, label: str) -> float:
        """Return how long a decision waits for rivals at most, after the look-ahead, media seconds."""
        decision, apart_s = self.decision[label], self.head.max_displacement_s
        settled_s = math.inf if decision.radius_s is None or decision.rule == "greedy" else decision.radius_s + apart_s
        if decision.deadline_s is None:
            return settled_s
        return min(settled_s, decision.deadline_s - self.look_ahead_s(label) - self.grid_s)

    def promised_delay_s(self, label: str) -> float:
        """Return the longest delay of a label's final words: look-ahead, hold, and the grid of whole seconds."""
        return self.look_ahead_s(label) + self.hold_s(label) + self.grid_s

    def smallest_deadline_s(self, label: str) -> float:
        """Return the smallest deadline that a label can have: nothing can be said of a row before it is scored."""
        return self.look_ahead_s(label) + self.head.max_displacement_s + self.grid_s

    def with_decision(self, **changes: object) -> "Manifest":
        """Return the manifest with the same changes to every label's decision."""
        decision = {label: d.model_copy(update=changes) for label, d in self.decision.items()}
        return self.model_copy(update={"decision": decision})


class BundleName(NamedTuple):
    """Which bundle it was: its name, and the SHA-256 of its manifest."""

    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle: checked, its graphs loaded.

    Attributes:
        path: its folder.
        manifest: as written.
        digest: SHA-256 of the manifest, which names every other file's.
        front_ends: modality stream → engine.
        head: the head's engine.
    """

    path: Path
    manifest: Manifest
    digest: str
    front_ends: Mapping[str, Engine]
    head: Engine

    @property
    def name(self) -> BundleName:
        """Which bundle it is, as spots say it."""
        return BundleName(self.manifest.name, self.digest)


def open_bundle(path: Path, load: Callable[[Path], Engine] | None = None) -> Bundle:
    """Return a bundle, or say in one sentence what is wrong with it.

    Args:
        path: the bundle's folder.
        load: makes an engine from a graph's file; ONNX Runtime on the CPU unless given.

    Raises:
        BundleError: anything is missing, changed, of another version, or does not fit together.
    """
    manifest, digest = read_manifest(path)
    _check_files(path, manifest)
    if load is None:
        from engines.backends.ort import OrtEngine  # costs half a second to import

        load = OrtEngine
    front_ends = {stream.name: load(path / stream.file) for stream in manifest.streams if stream.file}
    head = load(path / manifest.head.file)
    for stream in manifest.streams:
        if stream.file:
            _check_front_end(path / stream.file, stream, front_ends[stream.name])
    _check_head(path, manifest, head)
    return Bundle(path, manifest, digest, front_ends, head)


def read_manifest(path: Path) -> tuple[Manifest, str]:
    """Return a bundle's manifest and the SHA-256 of its bytes, without opening the graphs.

    Raises:
        BundleError: there is none, or it is of another version, or does not fit together.
    """
    try:
        raw = (path / MANIFEST).read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: is no bundle: {MANIFEST} cannot be read ({error.strerror}).") from error
    try:
        fields = json.loads(raw)
        version = fields["format_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(f"{path}: {MANIFEST} is damaged: it is no JSON object with a format_version.") from error
    if version != FORMAT_VERSION:
        raise BundleError(
            f"{path}: the bundle has format version {version!r}; this touchline reads version {FORMAT_VERSION}."
        )
    try:
        manifest = Manifest.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "top level"
        raise BundleError(f"{path}: {MANIFEST} is not valid at {where}: {first['msg']}.") from error
    _check_consistency(path, manifest)
    return manifest, hashlib.sha256(raw).hexdigest()


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write a bundle's manifest, with the digests of the graphs that lie beside it."""
    digests = {name: hashlib.sha256((path / name).read_bytes()).hexdigest() for name in _files(manifest)}
    final = manifest.model_copy(update={"sha256": digests})
    part = path / (MANIFEST + ".part")
    part.write_text(json.dumps(final.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")
    part.replace(path / MANIFEST)


def _files(manifest: Manifest) -> list[str]:
    return [*(stream.file for stream in manifest.streams if stream.file), manifest.head.file]


def _check_consistency(path: Path, manifest: Manifest) -> None:
    if not manifest.labels or len(set(manifest.labels)) != len(manifest.labels):
        raise BundleError(f"{path}: the label list is empty or names a label twice.")
    if set(manifest.decision) != set(manifest.labels):
        odd = sorted(set(manifest.decision) ^ set(manifest.labels))
        raise BundleError(f"{path}: the label list and the decision settings disagree about {', '.join(odd)}.")
    if len({d.rule for d in manifest.decision.values()}) > 1:
        raise BundleError(f"{path}: all labels must be decided by one rule.")
    _check_streams(path, manifest)
    _check_window(path, manifest)


def _check_streams(path: Path, manifest: Manifest) -> None:
    if not manifest.streams or len({stream.name for stream in manifest.streams}) != len(manifest.streams):
        raise BundleError(f"{path}: there is no stream, or two of one name.")
    if len({stream.rate for stream in manifest.streams}) > 1:
        raise BundleError(f"{path}: all streams must have the same rate of rows.")
    with_graph = [stream for stream in manifest.streams if stream.file]
    if with_graph and len(with_graph) < len(manifest.streams):
        lacking = next(stream.name for stream in manifest.streams if not stream.file)
        raise BundleError(f"{path}: stream {lacking} has no front end, though others have.")
    for stream in manifest.streams:
        if (stream.file is not None and stream.modality == "visual") != (stream.pictures is not None):
            raise BundleError(f"{path}: stream {stream.name} must have pictures if, and only if, it is visual.")
        if stream.file and (stream.rate != 1 or stream.modality == "other"):
            raise BundleError(
                f"{path}: the front end of stream {stream.name} must see or hear, and give one row a second."
            )
        if not stream.file and not stream.features:
            raise BundleError(f"{path}: stream {stream.name} has neither a front end nor feature files.")
        if stream.columns and stream.columns[1] - stream.columns[0] != stream.width:
            raise BundleError(f"{path}: the columns of stream {stream.name} are not as many as its width.")
    if with_graph and sum(stream.modality == "visual" for stream in with_graph) != 1:
        raise BundleError(f"{path}: exactly one visual stream is supported.")


def _check_window(path: Path, manifest: Manifest) -> None:
    head, ahead_rows = manifest.head, manifest.head.look_ahead_s * manifest.rate
    if ahead_rows % 1:
        raise BundleError(f"{path}: the head looks {head.look_ahead_s} s ahead; only whole rows are supported.")
    if ahead_rows + head.window_stride_rows > head.rows:
        raise BundleError(
            f"{path}: a window of {head.rows} rows cannot look {head.look_ahead_s} s ahead and move by "
            f"{head.window_stride_rows}."
        )
    if head.row_time_s * manifest.rate > 1:
        raise BundleError(f"{path}: the time that a row's scores are for, {head.row_time_s} s, lies beyond the row.")
    if head.outputs == "row" and head.window_stride_rows != 1:
        raise BundleError(f"{path}: a head that scores one row must move by one row.")
    if manifest.rule == "local-max" and (head.edges == "inside" or head.unscored_rows):
        raise BundleError(f"{path}: windows that stay inside, and rows that are not scored, need the rule greedy.")
    early = head.early_look_ahead_s
    if any(a * manifest.rate % 1 for a in early) or list(early) != sorted({*early} - {head.look_ahead_s}):
        raise BundleError(f"{path}: the early look-aheads must be whole rows and rise.")
    if early and (head.edges == "inside" or head.unscored_rows):
        raise BundleError(f"{path}: early look-aheads do not go with rows that are left unscored, or scored twice.")
    if early and (early[-1] > head.look_ahead_s or head.outputs == "chunk"):
        raise BundleError(
            f"{path}: early look-aheads are for heads that score one row, and below {head.look_ahead_s} s."
        )
    check_deadlines(manifest)


def check_deadlines(manifest: Manifest) -> None:
    """Refuse deadlines that the bundle cannot keep, and look-aheads that it does not have.

    Raises:
        BundleError: naming the smallest deadline, or the look-aheads, that it has.
    """
    waits_for_the_end = manifest.head.edges == "inside" or manifest.head.unscored_rows > 0
    for label, decision in manifest.decision.items():
        if decision.deadline_s is not None and waits_for_the_end:
            raise BundleError(
                f"{manifest.name}: cannot keep a deadline: which rows count is known at the end of a half only. "
                "`touchline tune` makes it a bundle that can."
            )
        if decision.look_ahead_s not in (None, *manifest.look_aheads_s):
            have = ", ".join(f"{a:g}" for a in manifest.look_aheads_s)
            raise BundleError(
                f"{manifest.name}: {label} is to be decided {decision.look_ahead_s:g} s ahead; this bundle has {have}."
            )
    short = [
        n
        for n, d in manifest.decision.items()
        if d.deadline_s is not None and d.deadline_s < manifest.smallest_deadline_s(n)
    ]
    if short:
        label = max(short, key=manifest.smallest_deadline_s)
        raise BundleError(
            f"{manifest.name}: a deadline of {manifest.decision[label].deadline_s:g} s cannot be kept; the smallest "
            f"possible for {label} is {manifest.smallest_deadline_s(label):g} s (look-ahead "
            f"{manifest.look_ahead_s(label):g}, displacement {manifest.head.max_displacement_s:g}, grid "
            f"{manifest.grid_s:g})."
        )


def _check_files(path: Path, manifest: Manifest) -> None:
    for name in _files(manifest):
        if Path(name).name != name or "\0" in name:
            raise BundleError(f"{path}: {name!r} is not the name of a file beside the manifest.")
        try:
            digest = hashlib.sha256((path / name).read_bytes()).hexdigest()
        except OSError as error:
            raise BundleError(f"{path}: {name} is missing or cannot be read ({error.strerror}).") from error
        if digest != manifest.sha256.get(name):
            raise BundleError(
                f"{path}: {name} is damaged: its content is not what the manifest says (SHA-256 differs)."
            )


def _check_front_end(file: Path, stream: ModalityStream, engine: Engine) -> None:
    if stream.pictures is not None:
        p = stream.pictures
        inputs: dict[str, Shape] = {"pictures": (1, p.rate, p.height, p.width, 3)}
    else:
        inputs = {"samples": (1, SAMPLE_RATE_HZ)}
    inputs |= {state.name: state.shape for state in stream.states}
    outputs: dict[str, Shape] = {"row": (1, stream.width)}
    outputs |= {f"next_{state.name}": state.shape for state in stream.states}
    _check_shapes(file, "input", inputs, engine.inputs)
    _check_shapes(file, "output", outputs, engine.outputs)


def _check_head(path: Path, manifest: Manifest, engine: Engine) -> None:
    file, labels = path / manifest.head.file, manifest.labels
    inputs: dict[str, Shape] = {s.name: (1, manifest.head.rows, s.width) for s in manifest.streams}
    scored: Shape = (1, len(labels)) if manifest.head.outputs == "row" else (1, manifest.head.rows, len(labels))
    kinds = {"scores", "displacement"} if manifest.head.max_displacement_s else {"scores"}
    outputs: dict[str, Shape] = dict.fromkeys(kinds, scored)
    if count := len(manifest.head.early_look_ahead_s):
        outputs |= {f"early_{kind}": (1, count, len(labels)) for kind in kinds}
    _check_shapes(file, "input", inputs, engine.inputs)
    _check_shapes(file, "output", outputs, engine.outputs)
    if _labels_of(engine) != list(labels):
        raise BundleError(f"{file}: the labels that the graph was trained for are not those of the manifest.")


def _labels_of(engine: Engine) -> object:
    """Return the labels that a head's graph was trained for; None if it does not say."""
    try:
        return json.loads(engine.metadata.get("labels", "null"))
    except (ValueError, RecursionError):
        return None


def _check_shapes(file: Path, kind: str, wanted: Mapping[str, Shape], found: Mapping[str, Shape]) -> None:
    if set(wanted) != set(found):
        raise BundleError(f"{file}: the graph's {kind}s are {sorted(found)}; the manifest needs {sorted(wanted)}.")
    for name, shape in wanted.items():
        have = found[name]
        if len(have) != len(shape) or any(h is not None and h != w for h, w in zip(have, shape, strict=True)):
            raise BundleError(f"{file}: {kind} {name} has shape {list(have)}; the manifest needs {list(shape)}.")
